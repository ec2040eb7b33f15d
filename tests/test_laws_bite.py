"""A law that cannot fail is no law: each is broken once on purpose and must say so."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any

import pytest

from tests import test_patterns as laws
from tests.law import resource_at, sentence
from tests.synthesis import synthesized

Change = Callable[[dict[str, Any]], None]


def first(template: dict[str, Any], kind: str, begins: str = "") -> dict[str, Any]:
    """The properties of the first resource of a type whose logical id begins so."""
    return next(
        resource["Properties"]
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] == kind and logical_id.startswith(begins)
    )


def put(kind: str, begins: str = "", **properties: Any) -> Change:
    """Give properties other values; None takes one away."""

    def change(template: dict[str, Any]) -> None:
        found = first(template, kind, begins)
        for name, value in properties.items():
            if value is None:
                del found[name]
            else:
                found[name] = value

    return change


def drop(kind: str, begins: str = "") -> Change:
    """Take one resource away."""

    def change(template: dict[str, Any]) -> None:
        logical_id = next(
            logical_id
            for logical_id, resource in template["Resources"].items()
            if resource["Type"] == kind and logical_id.startswith(begins)
        )
        del template["Resources"][logical_id]

    return change


def add(logical_id: str, kind: str, **properties: Any) -> Change:
    """Add one resource."""

    def change(template: dict[str, Any]) -> None:
        template["Resources"][logical_id] = {"Type": kind, "Properties": properties}

    return change


def rename_failed_orders(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    logical_id = next(name for name in resources if name.startswith("FailedOrders"))
    resources["Renamed"] = resources.pop(logical_id)


def retain_a_queue(template: dict[str, Any]) -> None:
    next(iter(template["Resources"].values()))["DeletionPolicy"] = "Retain"


def export_something(template: dict[str, Any]) -> None:
    next(iter(template["Outputs"].values()))["Export"] = {"Name": "orders"}


def another_output(template: dict[str, Any]) -> None:
    template["Outputs"]["OrdersQueue"] = {"Value": "x"}


def another_powertools(template: dict[str, Any]) -> None:
    for parameter in template["Parameters"].values():
        parameter["Default"] = parameter["Default"].replace("/3.", "/2.")


def widen_an_action(template: dict[str, Any]) -> None:
    first(template, "AWS::IAM::Policy")["PolicyDocument"]["Statement"][0]["Action"] = "sqs:*"


def allow_plain_text(kind: str) -> Change:
    def change(template: dict[str, Any]) -> None:
        first(template, kind)["PolicyDocument"]["Statement"][0]["Effect"] = "Allow"

    return change


def name_another_source(template: dict[str, Any]) -> None:
    allowed = first(template, "AWS::SQS::Queue", "FailedOrders")["RedriveAllowPolicy"]
    allowed["sourceQueueArns"][0]["Fn::Join"][1][-1] = "-Others"


def admit_eventbridge_by_its_rule(template: dict[str, Any]) -> None:
    statements = first(template, "AWS::SNS::TopicPolicy")["PolicyDocument"]["Statement"]
    statements.append(
        {"Principal": {"Service": "events.amazonaws.com"}, "Condition": {"ArnEquals": {}}}
    )


def log_anywhere(template: dict[str, Any]) -> None:
    group = {
        "Type": "AWS::Logs::LogGroup",
        "Properties": {"LogGroupName": {"Fn::Join": ["", ["/x"]]}},
    }
    to = {"CloudWatchLogsLogGroup": {"LogGroupArn": {"Fn::GetAtt": ["Log", "Arn"]}}}
    machine = {"LoggingConfiguration": {"Destinations": [to]}}
    template["Resources"] |= {
        "Log": group,
        "Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": machine},
    }


def end_a_log_with_the_whole_stack_id(template: dict[str, Any]) -> None:
    log_anywhere(template)
    name = template["Resources"]["Log"]["Properties"]["LogGroupName"]
    name["Fn::Join"][1] = ["/aws/vendedlogs/states/", {"Ref": "AWS::StackId"}]


def take_the_role_from_any_account(template: dict[str, Any]) -> None:
    role = first(template, "AWS::IAM::Role", "FulfilOrderRole")
    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    statement["Condition"] = {"StringEquals": {"aws:SourceAccountx": {"Ref": "AWS::AccountId"}}}


def of_one_state(**state: Any) -> dict[str, Any]:
    return {"StartAt": "Only", "States": {"Only": state}}


def one_role_for_two_functions(template: dict[str, Any]) -> None:
    template["Resources"]["Second"] = copy.deepcopy(
        next(
            one for one in template["Resources"].values() if one["Type"] == "AWS::Lambda::Function"
        )
    )


def statements_on_alerts(change: Callable[[dict[str, Any]], None]) -> Change:
    def changed(template: dict[str, Any]) -> None:
        for statement in first(template, "AWS::SNS::TopicPolicy", "Alerts")["PolicyDocument"][
            "Statement"
        ]:
            if "cloudwatch" in str(statement["Principal"]):
                change(statement)

    return changed


def any_account(statement: dict[str, Any]) -> None:
    del statement["Condition"]["StringEquals"]


def any_alarm(statement: dict[str, Any]) -> None:
    statement["Condition"]["ArnLike"]["aws:SourceArn"]["Fn::Join"][1][-2:] = ["x-*"]


def write_any_log(template: dict[str, Any]) -> None:
    for statement in first(template, "AWS::IAM::Policy")["PolicyDocument"]["Statement"]:
        if "logs:PutLogEvents" in statement["Action"]:
            statement["Resource"] = {"Fn::GetAtt": ["Others", "Arn"]}


def write_no_log(template: dict[str, Any]) -> None:
    document = first(template, "AWS::IAM::Policy")["PolicyDocument"]
    document["Statement"] = [
        one for one in document["Statement"] if "logs:PutLogEvents" not in one["Action"]
    ]


def name_another_service(template: dict[str, Any]) -> None:
    allowed = first(template, "AWS::SQS::Queue", "FailedOrders")["RedriveAllowPolicy"]
    allowed["sourceQueueArns"][0]["Fn::Join"][1][2] = ":sqsx:"


def read_another_setting(template: dict[str, Any]) -> None:
    variables = first(template, "AWS::Lambda::Function")["Environment"]["Variables"]
    variables["ORDERS"] = variables.pop("FULFILLED_ORDERS")


def call_it_otherwise(template: dict[str, Any]) -> None:
    variables = first(template, "AWS::Lambda::Function")["Environment"]["Variables"]
    variables["POWERTOOLS_SERVICE_NAME"] = "orders"


def another_service_takes_the_role(template: dict[str, Any]) -> None:
    role = first(template, "AWS::IAM::Role", "FulfilOrderRole")
    role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"] = "ec2.amazonaws.com"


def receive_nothing(template: dict[str, Any]) -> None:
    for statement in first(template, "AWS::IAM::Policy")["PolicyDocument"]["Statement"]:
        if "sqs:ReceiveMessage" in statement["Action"]:
            statement["Action"].remove("sqs:ReceiveMessage")


def tell_no(output: str) -> Change:
    def change(template: dict[str, Any]) -> None:
        del template["Outputs"][output]

    return change


FUNCTION, QUEUE, MAPPING = (
    "AWS::Lambda::Function",
    "AWS::SQS::Queue",
    "AWS::Lambda::EventSourceMapping",
)
ALARM, TOPIC = "AWS::CloudWatch::Alarm", "AWS::SNS::Topic"
MACHINE = "AWS::StepFunctions::StateMachine"
WAITS = {
    "Type": "Task",
    "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
    "Parameters": {"QueueUrl": "x", "MessageBody.$": "$$.Task.Token"},
    "End": True,
}

BREAKS: list[tuple[FunctionType, Change]] = [
    (laws.test_stateful_logical_ids_are_locked, rename_failed_orders),
    (laws.test_cfn_lint_is_clean, put(QUEUE, "Orders", VisibilityTimeout="soon")),
    (laws.test_looks_nothing_up_and_exports_nothing, export_something),
    (laws.test_destroy_leaves_nothing_unless_told_to_retain, retain_a_queue),
    (laws.test_outputs_name_their_resource, another_output),
    (laws.test_powertools_comes_from_the_pinned_public_layer, put(FUNCTION, Runtime="python3.12")),
    (laws.test_functions_keep_the_baseline, put(FUNCTION, Architectures=["x86_64"])),
    (laws.test_functions_keep_the_baseline, put(FUNCTION, Timeout=None)),
    (laws.test_functions_keep_the_baseline, put(FUNCTION, TracingConfig={"Mode": "PassThrough"})),
    (laws.test_functions_keep_the_baseline, put("AWS::Logs::LogGroup", RetentionInDays=3653)),
    (
        laws.test_functions_keep_the_baseline,
        put(
            FUNCTION,
            Environment={"Variables": {"POWERTOOLS_SERVICE_NAME": "x", "API_TOKEN": "x"}},
        ),
    ),
    (laws.test_powertools_comes_from_the_pinned_public_layer, another_powertools),
    (laws.test_roles_are_the_functions_own, one_role_for_two_functions),
    (laws.test_roles_are_the_functions_own, put("AWS::IAM::Role", ManagedPolicyArns=["x"])),
    (laws.test_no_action_is_a_wildcard, widen_an_action),
    (laws.test_cfn_lint_is_clean, put(MAPPING, FunctionResponseTypes=[])),
    (
        laws.test_mappings_bound_their_concurrency,
        put(MAPPING, ScalingConfig={"MaximumConcurrency": 1}),
    ),
    (
        laws.test_queues_are_encrypted_polled_long_and_tls_only,
        put(QUEUE, SqsManagedSseEnabled=False),
    ),
    (
        laws.test_queues_are_encrypted_polled_long_and_tls_only,
        put(QUEUE, ReceiveMessageWaitTimeSeconds=0),
    ),
    (
        laws.test_queues_are_encrypted_polled_long_and_tls_only,
        allow_plain_text("AWS::SQS::QueuePolicy"),
    ),
    (
        laws.test_queues_say_how_large_a_message_may_be,
        put(QUEUE, "Orders", MaximumMessageSize=None),
    ),
    (
        laws.test_queues_say_how_large_a_message_may_be,
        put(QUEUE, "FailedOrders", MaximumMessageSize=262144),
    ),
    (laws.test_eventbridge_publishes_without_a_condition, admit_eventbridge_by_its_rule),
    (
        laws.test_keys_of_aws_are_named_by_their_alias,
        put(TOPIC, KmsMasterKeyId={"Fn::Join": ["", ["arn:", {"Ref": "P"}, ":alias/aws/sns"]]}),
    ),
    (laws.test_topics_are_tls_only_and_sign_with_version_2, put(TOPIC, SignatureVersion="1")),
    (
        laws.test_topics_are_tls_only_and_sign_with_version_2,
        allow_plain_text("AWS::SNS::TopicPolicy"),
    ),
    (
        laws.test_dead_letter_queues_say_who_may_redrive_to_them,
        put(QUEUE, "FailedOrders", RedriveAllowPolicy={"redrivePermission": "allowAll"}),
    ),
    (laws.test_a_redrive_allow_policy_names_the_source_queue, name_another_source),
    (laws.test_cfn_lint_is_clean, drop(ALARM, "OrdersParked")),
    (laws.test_waiting_orders_have_alarms, drop(ALARM, "OrdersLate")),
    (
        laws.test_alarms_on_age_say_what_they_do_not_see,
        put(ALARM, "OrdersLate", AlarmDescription="An order has waited."),
    ),
    (laws.test_state_machines_log_where_the_regions_policy_does_not_grow, log_anywhere),
    (
        laws.test_state_machines_log_where_the_regions_policy_does_not_grow,
        end_a_log_with_the_whole_stack_id,
    ),
    (
        laws.test_services_that_take_roles_are_the_ones_that_use_them,
        take_the_role_from_any_account,
    ),
    (laws.test_failed_executions_have_alarms, add("Unwatched", MACHINE)),
    (
        laws.test_state_machines_can_be_made_and_can_work,
        add("Lost", MACHINE, Definition=of_one_state(Type="Pass", Next="Nowhere")),
    ),
    (
        laws.test_state_machines_can_be_made_and_can_work,
        add("Waits", MACHINE, StateMachineType="EXPRESS", Definition=of_one_state(**WAITS)),
    ),
    (
        laws.test_state_machines_fit_cfn_lints_schema,
        add("Refused", MACHINE, Definition=of_one_state(Type="Pass", TimeoutSeconds=5, End=True)),
    ),
    (laws.test_every_alarm_tells_alerts, put(ALARM, AlarmActions=[{"Ref": "Others"}])),
    (
        laws.test_only_this_stacks_alarms_may_use_alerts_and_its_key,
        statements_on_alerts(any_account),
    ),
    (
        laws.test_only_this_stacks_alarms_may_use_alerts_and_its_key,
        statements_on_alerts(any_alarm),
    ),
    (laws.test_a_log_is_kept_for_a_while_and_written_by_its_own_role_only, write_any_log),
    (laws.test_a_log_is_kept_for_a_while_and_written_by_its_own_role_only, write_no_log),
    (
        laws.test_a_log_is_kept_for_a_while_and_written_by_its_own_role_only,
        add("Endless", "AWS::Logs::LogGroup", RetentionInDays=3653),
    ),
    (laws.test_a_redrive_allow_policy_names_the_source_queue, name_another_service),
    (
        laws.test_functions_start_and_find_the_settings_that_they_read,
        put(FUNCTION, Handler="fulfil_order.handle"),
    ),
    (laws.test_functions_start_and_find_the_settings_that_they_read, read_another_setting),
    (laws.test_functions_start_and_find_the_settings_that_they_read, call_it_otherwise),
    (
        laws.test_services_that_take_roles_are_the_ones_that_use_them,
        another_service_takes_the_role,
    ),
    (laws.test_functions_may_take_and_delete_from_the_queues_mapped_to_them, receive_nothing),
    (
        laws.test_dead_letters_are_kept_as_long_as_sqs_can_and_days_longer_than_orders,
        put(QUEUE, "Orders", MessageRetentionPeriod=5 * 86400),
    ),
    (
        laws.test_dead_letters_are_kept_as_long_as_sqs_can_and_days_longer_than_orders,
        put(QUEUE, "FailedOrders", MessageRetentionPeriod=4 * 86400),
    ),
    (
        laws.test_tables_cost_nothing_at_rest_and_keys_are_gone_in_a_week,
        put("AWS::DynamoDB::Table", BillingMode=None),
    ),
    (
        laws.test_tables_cost_nothing_at_rest_and_keys_are_gone_in_a_week,
        put("AWS::KMS::Key", PendingWindowInDays=8),
    ),
    (
        laws.test_alarms_of_one_kind_speak_at_the_same_moment,
        put(ALARM, "OrdersParked", Threshold=2),
    ),
    (laws.test_alarms_of_one_kind_speak_at_the_same_moment, put(ALARM, "OrdersLate", Threshold=12)),
    (
        laws.test_alarms_of_one_kind_speak_at_the_same_moment,
        put(ALARM, "FulfilOrderErrors", Statistic="Average"),
    ),
    (laws.test_a_person_is_told_where_messages_wait, tell_no("AlertsArn")),
    (laws.test_a_person_is_told_where_messages_wait, tell_no("FailedOrdersUrl")),
]


@pytest.mark.parametrize(
    ("law", "change"), BREAKS, ids=[f"{law.__name__}-{n}" for n, (law, _) in enumerate(BREAKS)]
)
def test_a_broken_template_breaks_the_law(
    law: FunctionType, change: Change, request: pytest.FixtureRequest
) -> None:
    whole = synthesized("sqs_lambda_dlq")
    template = copy.deepcopy(whole.template)
    change(template)
    broken = replace(whole, template=template)
    wants = law.__code__.co_varnames[: law.__code__.co_argcount]
    given = {"stem": "sqs_lambda_dlq", "pattern": broken}
    law_given = {
        name: given[name] if name in given else request.getfixturevalue(name) for name in wants
    }
    with pytest.raises((AssertionError, KeyError, ValueError)) as broke:
        law(**law_given)
    said = sentence(law, broke.value, "sqs_lambda_dlq")
    assert re.match(r".*\bsqs_lambda_dlq breaks the law “[a-z]", said)
    assert "\nWhy: " in said and f"delete {law.__name__} in tests/test_patterns.py" in said


def test_a_finding_a_stale_acknowledgement_a_warning_and_a_foreign_import_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = synthesized("sqs_lambda_dlq")
    finding = ("SqsLambdaDlq/Orders", "AwsSolutions-SQS3")
    with pytest.raises(AssertionError):
        laws.test_nothing_is_open_in_cdk_nag(replace(whole, findings={finding}))
    with pytest.raises(AssertionError):
        laws.test_synthesis_warns_of_nothing(replace(whole, warnings=["beware"]))
    made, found = laws.acknowledgements("sqs_lambda_dlq")
    monkeypatch.setattr(laws, "acknowledgements", lambda stem: (made | {finding}, found))
    with pytest.raises(AssertionError):
        laws.test_no_acknowledgement_is_stale("sqs_lambda_dlq")


def test_what_cfn_lint_mistakes_is_passed_over_and_no_more() -> None:
    """Parameters of a Parallel; seconds that JSONata computes."""
    branch = of_one_state(Type="Pass", End=True)
    parallel = {"Type": "Parallel", "Branches": [branch], "Parameters": {"a": 1}, "End": True}
    task = WAITS | {"TimeoutSeconds": "{% $states.input.patience %}"}
    task = task | {"Arguments": task["Parameters"]}
    del task["Parameters"]
    whole = synthesized("sqs_lambda_dlq")
    for definition in (
        of_one_state(**parallel),
        {"QueryLanguage": "JSONata"} | of_one_state(**task),
    ):
        template = copy.deepcopy(whole.template)
        add("Machine", MACHINE, Definition=definition)(template)
        laws.test_state_machines_fit_cfn_lints_schema(replace(whole, template=template))
        definition["States"]["Only"]["Seconds"] = 5
        add("Machine", MACHINE, Definition=definition)(template)
        with pytest.raises(AssertionError):
            laws.test_state_machines_fit_cfn_lints_schema(replace(whole, template=template))


def test_a_name_of_its_own_is_common_to_two_copies() -> None:
    def named(value: Any) -> dict[str, Any]:
        queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": value}}
        return {"Resources": {"Orders": queue}}

    fixed, by_stack = named("orders"), named({"Fn::Join": ["", [{"Ref": "AWS::StackName"}, "-o"]]})
    assert laws.names(fixed, "First") & laws.names(fixed, "Second")
    assert not laws.names(by_stack, "First") & laws.names(by_stack, "Second")


def test_a_name_that_is_too_long_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    laws.test_names_fit_whatever_the_stack_is_called("sqs_lambda_dlq")
    monkeypatch.setitem(laws.LONGEST_NAMES, "AWS::SQS::Queue", 79)
    with pytest.raises(AssertionError):
        laws.test_names_fit_whatever_the_stack_is_called("sqs_lambda_dlq")


def test_what_is_said_is_a_sentence_about_a_resource() -> None:
    whole = synthesized("sqs_lambda_dlq")
    template = copy.deepcopy(whole.template)
    put("AWS::Lambda::EventSourceMapping", ScalingConfig=None)(template)
    (mapping,) = whole.resources("AWS::Lambda::EventSourceMapping")
    law = laws.test_mappings_bound_their_concurrency
    with pytest.raises(KeyError) as broke:
        law(replace(whole, template=template))
    first, why, leave = sentence(law, broke.value, "sqs_lambda_dlq").splitlines()
    assert first == (
        f"{mapping} in sqs_lambda_dlq breaks the law “mappings bound their concurrency”:"
        " it has no ScalingConfig."
    )
    assert why.startswith("Why: ") and leave == (
        "If it is not your law, delete test_mappings_bound_their_concurrency in"
        " tests/test_patterns.py."
    )


SLOW = {laws.test_cfn_lint_is_clean, laws.test_state_machines_fit_cfn_lints_schema}


def of_a_template() -> list[FunctionType]:
    """The laws that look at a template only, and the quick ones."""
    return [
        law
        for name, law in vars(laws).items()
        if name.startswith("test_") and law not in SLOW
        if law.__code__.co_varnames[: law.__code__.co_argcount] == ("pattern",)
    ]


def test_whatever_is_missing_or_of_another_form_a_law_names_the_resource(stem: str) -> None:
    """Not a bare KeyError: each property is taken away, and given another form."""
    whole = synthesized(stem)
    for logical_id, resource in whole.template["Resources"].items():
        for name in resource.get("Properties", {}):
            for instead in (None, {"Fn::Sub": "x"}, ["x"], "x"):
                changed = {**resource["Properties"], name: instead}
                if instead is None:
                    del changed[name]
                template = {
                    **whole.template,
                    "Resources": {
                        **whole.template["Resources"],
                        logical_id: {**resource, "Properties": changed},
                    },
                }
                for law in of_a_template():
                    try:
                        law(replace(whole, template=template))
                    except AssertionError:
                        continue
                    except Exception as error:
                        assert resource_at(error.__traceback__), (law, logical_id, name, instead)


def test_every_law_is_broken_here() -> None:
    """A new law without an entry above is not yet shown to bite."""
    elsewhere = {
        "test_snapshot",  # syrupy's own
        "test_nothing_is_open_in_cdk_nag",
        "test_no_acknowledgement_is_stale",
        "test_synthesis_warns_of_nothing",
        "test_two_copies_have_no_name_in_common",
        "test_names_fit_whatever_the_stack_is_called",
        # about files and options, not templates: broken by hand, see CONTRIBUTING
        "test_stands_alone_when_copied",
        "test_app_gives_the_stack_its_defaults",
        "test_imports_nothing_of_ours",
        "test_all_its_columns_are_there",
        "test_options_are_plain_and_documented",
        "test_alert_email_subscribes_a_person",
        "test_all_stacks_name_one_python_once",
        "test_no_options_let_sqs_delete_what_is_to_be_parked",
    }
    there_are = {name for name in vars(laws) if name.startswith("test_")}
    assert there_are == {law.__name__ for law, _ in BREAKS} | elsewhere
