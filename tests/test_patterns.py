"""Laws that hold for every pattern. A new file in stacks/ is held to them without a line here."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Stack
from cfnlint.config import ConfigMixIn
from cfnlint.decode import decode_str
from cfnlint.runner import Runner
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

import app
from rules import _definitions as definitions
from rules._messaging import World
from tests.synthesis import (
    FLAGS,
    PATTERNS,
    PROJECT,
    Synthesized,
    acknowledgements,
    copied,
    masked,
    synthesize,
    synthesized,
)

STATEFUL = json.loads((PROJECT / "tests" / "stateful_ids.json").read_text())
STATEFUL_TYPES = (
    "AWS::AmazonMQ::Broker",
    "AWS::ApiGateway::RestApi",  # its id is in the URL that callers know
    "AWS::DynamoDB::GlobalTable",
    "AWS::DynamoDB::Table",
    "AWS::KMS::Key",
    "AWS::Kinesis::Stream",
    "AWS::KinesisFirehose::DeliveryStream",
    "AWS::Logs::LogGroup",
    "AWS::S3::Bucket",
    "AWS::SNS::Topic",
    "AWS::SQS::Queue",
    "AWS::SecretsManager::Secret",
    "AWS::StepFunctions::StateMachine",
)
# Their names are their own within a role or an API.
NAMED_WITHIN = ("AWS::IAM::Policy", "AWS::ApiGateway::Stage")
# The longest name that each service takes, in characters, from its API reference.
LONGEST_NAMES = {
    "AWS::AmazonMQ::Broker": 50,
    "AWS::ApiGateway::RestApi": 1024,
    "AWS::AutoScaling::AutoScalingGroup": 255,
    "AWS::Logs::LogGroup": 512,
    "AWS::S3::Bucket": 63,
    "AWS::SNS::Topic": 256,
    "AWS::SQS::Queue": 80,
}


@pytest.fixture
def pattern(stem: str) -> Synthesized:
    return synthesized(stem)


def dead_letter_queues(pattern: Synthesized) -> dict[str, str]:
    """Logical id of each SQS dead-letter queue to that of its source queue."""
    return {
        properties["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]: logical_id
        for logical_id, properties in pattern.resources("AWS::SQS::Queue").items()
        if "RedrivePolicy" in properties
    }


def watched(pattern: Synthesized, namespace: str, metric: str, dimension: str) -> set[str]:
    """Logical ids of what alarms of the pattern watch by this metric."""
    return {
        next(iter(one["Value"].values()))
        if "Ref" in one["Value"]
        else one["Value"]["Fn::GetAtt"][0]
        for alarm in pattern.resources("AWS::CloudWatch::Alarm").values()
        if (alarm.get("Namespace"), alarm.get("MetricName")) == (namespace, metric)
        for one in alarm["Dimensions"]
        if one["Name"] == dimension
    }


def policies(pattern: Synthesized, kind: str, target: str) -> dict[str, list[dict[str, Any]]]:
    """Logical id of each queue or topic to the statements of its resource policies."""
    found: dict[str, list[dict[str, Any]]] = {}
    for policy in pattern.resources(kind).values():
        for one in policy[target]:
            statements = policy["PolicyDocument"]["Statement"]
            found.setdefault(one["Ref"], []).extend(statements)
    return found


def names(template: dict[str, Any], stack: str) -> set[str]:
    """The physical names and exports in a template when it is deployed as `stack`."""

    def resolved(value: Any) -> str:
        if isinstance(value, dict) and "Fn::Join" in value:
            return value["Fn::Join"][0].join(map(resolved, value["Fn::Join"][1]))
        if isinstance(value, dict) and value.get("Ref") in template["Resources"]:
            return f"{stack}'s {value['Ref']}"  # a name that AWS made for this copy
        if isinstance(value, dict) and "Fn::Select" in value:
            return "01234567"  # of the stack's id
        known = {"StackName": stack, "AccountId": "0" * 12, "Region": "ap-southeast-1"}
        return known[value["Ref"].removeprefix("AWS::")] if isinstance(value, dict) else str(value)

    found = set()
    for resource in template["Resources"].values():
        short = resource["Type"].rpartition("::")[2]
        if resource["Type"] in NAMED_WITHIN:
            continue
        for name in ("Name", f"{short}Name", f"{short}NamePrefix", f"{short}Identifier"):
            if name in resource.get("Properties", {}):
                found.add(f"{resource['Type']} {resolved(resource['Properties'][name])}")
    for output in template.get("Outputs", {}).values():
        if "Export" in output:
            found.add(f"export {resolved(output['Export']['Name'])}")
    return found


@cache
def kept_and_told(stem: str) -> Synthesized:
    """A pattern that retains on destroy and tells a person: two options in one synthesis."""
    stack = app.stack_class(PATTERNS[stem])
    wanted = {"alert_email": "shop@example.com", "removal_policy": "retain"}
    known = app.options(stack)
    return synthesize(stack, PATTERNS[stem], **{k: v for k, v in wanted.items() if k in known})


# ---- the template as a whole


def test_snapshot(pattern: Synthesized, snapshot: SnapshotAssertion) -> None:
    """A change of a template is seen before it is deployed; make snapshots accepts it."""
    assert masked(pattern.template) == snapshot(extension_class=JSONSnapshotExtension)


def test_stateful_logical_ids_are_locked(stem: str, pattern: Synthesized) -> None:
    """A changed logical id replaces the resource, and what it held is gone.

    When that is meant, edit tests/stateful_ids.json by hand: no command does it for you.
    """
    found = {
        logical_id: resource["Type"]
        for logical_id, resource in pattern.template["Resources"].items()
        if resource["Type"] in STATEFUL_TYPES
    }
    assert STATEFUL.get(stem) == found


def test_nothing_is_open_in_cdk_nag(pattern: Synthesized) -> None:
    """What cdk-nag finds is mended, or acknowledged with a fact about this stack."""
    assert pattern.findings == set()


def test_no_acknowledgement_is_stale(stem: str) -> None:
    """An acknowledgement of what is no longer found would hide the next finding."""
    acknowledged, findings = acknowledgements(stem)
    stale = {
        (path, rule)
        for path, rule in acknowledged
        if not any(
            rule == found and (where == path or where.startswith(f"{path}/"))
            for where, found in findings
        )
    }
    assert stale == set()


def test_synthesis_warns_of_nothing(pattern: Synthesized) -> None:
    """A warning that is always there is not read when it matters."""
    assert pattern.warnings == []


@cache
def linter() -> Runner:
    """cfn-lint with the laws in rules/, loaded once as for many files of one command.

    W3005 aside: the CDK writes dependencies that GetAtt makes too.
    """
    return Runner(
        ConfigMixIn(
            append_rules=[str(PROJECT / "rules")],
            ignore_checks=["W3005"],
            regions=["us-east-1"],
        )
    )


def test_cfn_lint_is_clean(pattern: Synthesized) -> None:
    """CloudFormation, or a law of messaging in rules/, would say no."""
    template, unread = decode_str(json.dumps(pattern.template))
    assert template and not unread
    found = linter().validate_template(template)
    assert [f"{one.rule.id} {one.message}" for one in found] == []


def test_stands_alone_when_copied(stem: str, pattern: Synthesized, tmp_path: Path) -> None:
    """A stack is one file that another project can have."""
    (tmp_path / "stacks").mkdir()
    shutil.copy(PROJECT / "stacks" / f"{stem}.py", tmp_path / "stacks")
    for part in ("lambdas", "workers"):
        if (PROJECT / part / stem).exists():
            shutil.copytree(PROJECT / part / stem, tmp_path / part / stem)
    copy = synthesize(copied(stem, tmp_path), PATTERNS[stem])
    assert masked(copy.template) == masked(pattern.template)


def test_imports_nothing_of_ours(stem: str) -> None:
    """A stack is one file that another project can have."""
    tree = ast.parse((PROJECT / "stacks" / f"{stem}.py").read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names | {"aws_cdk", "constructs"}


def test_two_copies_have_no_name_in_common(stem: str) -> None:
    """A second copy is how one tries a change beside what runs."""
    stack, both = app.stack_class(PATTERNS[stem]), App(context=FLAGS)
    first, second = stack(both, "First"), stack(both, "Second")
    assembly = both.synth()
    templates = [assembly.get_stack_by_name(one.stack_name).template for one in (first, second)]
    assert names(templates[0], "First") & names(templates[1], "Second") == set()


def test_names_fit_whatever_the_stack_is_called(stem: str) -> None:
    """A stack's name has up to 128 characters: either all is well, or it says how many it may."""
    most = 128
    try:
        template = called(stem, "S" * most)
    except ValueError as error:
        said = re.fullmatch(r"the length of the stack's name is 1 to (\d+), not 128", str(error))
        assert said, error
        most = int(said[1])
        template = called(stem, "S" * most)
    left = {
        name: LONGEST_NAMES[kind] - len(name)
        for kind, _, name in (one.partition(" ") for one in names(template, "S" * most))
    }
    assert min(left.values(), default=0) >= 0, left
    if most < 128 and "BucketNamePrefix" not in str(template):  # AWS lengthens a bucket's
        assert min(left.values()) == 0, "a longer name would fit, too"


def called(stem: str, name: str) -> dict[str, Any]:
    """A pattern's template when the stack has this name."""
    alone = App(context=FLAGS)
    app.stack_class(PATTERNS[stem])(alone, name)
    return alone.synth().get_stack_by_name(name).template


def test_looks_nothing_up_and_exports_nothing(stem: str, pattern: Synthesized) -> None:
    """A template that is the same for everybody; no stack that others cannot let go."""
    assert not any("Export" in output for output in pattern.template.get("Outputs", {}).values())
    assert "from_lookup" not in (PROJECT / "stacks" / f"{stem}.py").read_text()


def test_destroy_leaves_nothing_unless_told_to_retain(stem: str, pattern: Synthesized) -> None:
    """A trial costs nothing once it is over; what is kept is kept on purpose."""
    kept = {
        logical_id
        for logical_id, resource in pattern.template["Resources"].items()
        if resource.get("DeletionPolicy", "Delete") != "Delete"
    }
    assert kept == set()
    stack = app.stack_class(PATTERNS[stem])
    if "removal_policy" in app.options(stack):
        retaining = kept_and_told(stem).template
        assert any(one.get("DeletionPolicy") == "Retain" for one in retaining["Resources"].values())


def test_app_gives_the_stack_its_defaults(stem: str) -> None:
    """What is deployed when the command says nothing; the sandbox says "destroy"."""
    built = App(context=FLAGS)
    app.build(built, [PATTERNS[stem]])
    (stack,) = (child for child in built.node.children if isinstance(child, Stack))
    assert stack.termination_protection == app.DEFAULTS["termination_protection"]
    template = built.synth().get_stack_by_name(stack.stack_name).template
    retained = any(one.get("DeletionPolicy") == "Retain" for one in template["Resources"].values())
    assert retained == (app.DEFAULTS["removal_policy"] == "retain")


def test_all_its_columns_are_there(stem: str) -> None:
    """A pattern is done when these are: the files by its name, its row, its entry in the ledger."""
    assert (PROJECT / "tests" / "stacks" / f"test_{stem}.py").exists()
    assert (PROJECT / "scenarios" / f"{stem}.py").exists()
    tree = ast.parse((PROJECT / "stacks" / f"{stem}.py").read_text())
    problem = (ast.get_docstring(tree) or "").partition("\n")[0]
    assert f"| `{PATTERNS[stem]}` | {problem} |" in (PROJECT / "README.md").read_text()
    assert f"## {PATTERNS[stem]}" in (PROJECT / "GAPS.md").read_text()
    if (PROJECT / "lambdas" / stem).exists():
        assert (PROJECT / "tests" / "lambdas" / f"test_{stem}.py").exists()


def test_options_are_plain_and_documented(stem: str) -> None:
    """The command line hands on texts, numbers and truth values only."""
    stack = app.stack_class(PATTERNS[stem])
    for option, (kind, _) in app.options(stack).items():
        assert kind in (int, str, bool, int | None, str | None), option
        assert f"{option}:" in (stack.__doc__ or ""), f"{option} is not in the class docstring"


def test_outputs_name_their_resource(pattern: Synthesized) -> None:
    """Scenarios and people find what they need by its name."""
    assert pattern.template["Outputs"]
    for output in pattern.template["Outputs"]:
        assert re.fullmatch(r"[A-Z]\w+(Url|Arn|Name|Id)", output)


# ---- functions


def test_functions_keep_the_baseline(pattern: Synthesized) -> None:
    """Bounded, traced, logged for a while, with Powertools and without secrets."""
    for logical_id, function in pattern.resources("AWS::Lambda::Function").items():
        assert function["Architectures"] == ["arm64"], logical_id
        assert "Timeout" in function and "MemorySize" in function, logical_id
        assert function["TracingConfig"] == {"Mode": "Active"}, logical_id
        group = function["LoggingConfig"]["LogGroup"]["Ref"]
        retention = pattern.template["Resources"][group]["Properties"]["RetentionInDays"]
        assert retention <= 365, logical_id
        assert function["Layers"], logical_id
        environment = function["Environment"]["Variables"]
        assert "POWERTOOLS_SERVICE_NAME" in environment, logical_id
        secrets = [name for name in environment if re.search("SECRET|PASSWORD|TOKEN", name)]
        assert not [name for name in secrets if not name.endswith(("_ARN", "_NAME"))], logical_id


def test_a_log_is_kept_for_a_while_and_written_by_its_own_role_only(pattern: Synthesized) -> None:
    """A function that may not write its log runs on and says nothing."""
    groups = pattern.resources("AWS::Logs::LogGroup")
    for logical_id, group in groups.items():
        assert group["RetentionInDays"] <= 365, logical_id
    writes: dict[str, list[str]] = {}  # role to the log groups that it may write
    for logical_id, policy in pattern.resources("AWS::IAM::Policy").items():
        for statement in policy["PolicyDocument"]["Statement"]:
            if "logs:PutLogEvents" in statement["Action"]:
                group, attribute = statement["Resource"]["Fn::GetAtt"]
                assert group in groups and attribute == "Arn", logical_id
                for role in policy["Roles"]:
                    writes.setdefault(role["Ref"], []).append(group)
    for logical_id, function in pattern.resources("AWS::Lambda::Function").items():
        role, group = (
            function["Role"]["Fn::GetAtt"][0],
            function["LoggingConfig"]["LogGroup"]["Ref"],
        )
        assert writes.get(role) == [group], logical_id


def test_powertools_comes_from_the_pinned_public_layer(pattern: Synthesized) -> None:
    """Functions get what the tests ran with, for the Python that they run on."""
    if pattern.resources("AWS::Lambda::Function"):
        pinned = re.search(r"^aws-lambda-powertools==(\S+)", _lock("sandbox/layer.lock"), re.M)
        assert pinned and f"aws-lambda-powertools=={pinned[1]} " in _lock("requirements.lock")
        parameters = {
            parameter["Default"]
            for parameter in pattern.template["Parameters"].values()
            if "powertools" in str(parameter.get("Default"))
        }
        (runtime,) = {one["Runtime"] for one in pattern.resources("AWS::Lambda::Function").values()}
        assert parameters == {f"/aws/service/powertools/python/arm64/{runtime}/{pinned[1]}"}


def test_all_stacks_name_one_python_once() -> None:
    """The runtime and its layer change in one line, and everywhere alike."""
    texts = [path.read_text() for path in (PROJECT / "stacks").glob("[!_]*.py")]
    named = [re.findall(r"lambda_\.Runtime\.\w+", text) for text in texts]
    assert len({name for names in named for name in names}) <= 1
    assert all(len(names) <= 1 for names in named)


def _lock(name: str) -> str:
    return (PROJECT / name).read_text()


def test_roles_are_the_functions_own(pattern: Synthesized) -> None:
    """A role that two have in common may do what both need."""
    roles = [
        function["Role"]["Fn::GetAtt"][0]
        for function in pattern.resources("AWS::Lambda::Function").values()
    ]
    assert len(roles) == len(set(roles))
    for logical_id, role in pattern.resources("AWS::IAM::Role").items():
        assert "ManagedPolicyArns" not in role, f"{logical_id}: AWS's policies name no resource"


def test_no_action_is_a_wildcard(pattern: Synthesized) -> None:
    """A grant says what is done; a wildcard grants what comes to be."""
    for logical_id, policy in pattern.resources("AWS::IAM::Policy").items():
        for statement in policy["PolicyDocument"]["Statement"]:
            actions = statement["Action"]
            for action in [actions] if isinstance(actions, str) else actions:
                assert not action.endswith(":*") and action != "*", logical_id


def test_mappings_bound_their_concurrency(pattern: Synthesized) -> None:
    """Of FIFO queues, too: a batch that Lambda throttles comes back with its receives counted."""
    queues = pattern.resources("AWS::SQS::Queue")
    for logical_id, mapping in pattern.resources("AWS::Lambda::EventSourceMapping").items():
        if mapping["EventSourceArn"].get("Fn::GetAtt", [""])[0] in queues:
            assert mapping["ScalingConfig"]["MaximumConcurrency"] >= 2, logical_id


# ---- queues and topics


def test_queues_are_encrypted_polled_long_and_tls_only(pattern: Synthesized) -> None:
    """The safe and the cheap way, which is not the default."""
    statements = policies(pattern, "AWS::SQS::QueuePolicy", "Queues")
    for logical_id, queue in pattern.resources("AWS::SQS::Queue").items():
        assert queue.get("SqsManagedSseEnabled") or "KmsMasterKeyId" in queue, logical_id
        assert queue.get("ReceiveMessageWaitTimeSeconds") == 20, logical_id
        assert _denies_plain_text(statements[logical_id]), logical_id


def test_queues_say_how_large_a_message_may_be(pattern: Synthesized) -> None:
    """CloudFormation makes a queue without it for 1 MiB, and an update cuts that to 256 KiB."""
    queues = pattern.resources("AWS::SQS::Queue")
    for logical_id, queue in queues.items():
        assert queue["MaximumMessageSize"] <= 1_048_576, logical_id
    for dead, source in dead_letter_queues(pattern).items():
        assert queues[dead]["MaximumMessageSize"] >= queues[source]["MaximumMessageSize"], dead


def test_topics_are_tls_only_and_sign_with_version_2(pattern: Synthesized) -> None:
    """The safe way, which is not the default."""
    statements = policies(pattern, "AWS::SNS::TopicPolicy", "Topics")
    for logical_id, topic in pattern.resources("AWS::SNS::Topic").items():
        assert str(topic["SignatureVersion"]) == "2", logical_id
        assert _denies_plain_text(statements[logical_id]), logical_id


def test_eventbridge_publishes_without_a_condition(pattern: Synthesized) -> None:
    """Its guide supports none in the policy of a topic: the event could be refused."""
    for logical_id, statements in policies(pattern, "AWS::SNS::TopicPolicy", "Topics").items():
        for statement in statements:
            if statement["Principal"] == {"Service": "events.amazonaws.com"}:
                assert "Condition" not in statement, logical_id


def test_keys_of_aws_are_named_by_their_alias(pattern: Synthesized) -> None:
    """For an ARN no service makes the key in an account that has none yet (aws-cdk#22605)."""
    assert ":alias/aws/" not in json.dumps(pattern.template)


def _denies_plain_text(statements: list[dict[str, Any]]) -> bool:
    return any(
        statement["Effect"] == "Deny"
        and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        for statement in statements
    )


def test_dead_letter_queues_say_who_may_redrive_to_them(pattern: Synthesized) -> None:
    """A queue without a redrive policy is a dead-letter queue, here: its source's, or nobody's."""
    dead = dead_letter_queues(pattern)
    for logical_id, queue in pattern.resources("AWS::SQS::Queue").items():
        if "RedrivePolicy" not in queue:
            allowed = queue["RedriveAllowPolicy"]
            kind = "byQueue" if logical_id in dead else "denyAll"
            assert allowed["redrivePermission"] == kind, logical_id
            assert len(allowed.get("sourceQueueArns", [])) == (logical_id in dead), logical_id


def test_a_redrive_allow_policy_names_the_source_queue(pattern: Synthesized) -> None:
    """Or any queue of the account may park its messages there."""
    queues = pattern.resources("AWS::SQS::Queue")
    for dead, source in dead_letter_queues(pattern).items():
        (arn,) = queues[dead]["RedriveAllowPolicy"]["sourceQueueArns"]
        name = queues[source]["QueueName"]["Fn::Join"][1]
        own = [":sqs:", {"Ref": "AWS::Region"}, ":", {"Ref": "AWS::AccountId"}, ":", *name]
        assert arn["Fn::Join"][1] == ["arn:", {"Ref": "AWS::Partition"}, *own], dead


# ---- state machines


def test_state_machines_log_where_the_regions_policy_does_not_grow(pattern: Synthesized) -> None:
    """Each log group without the prefix adds to one policy of 5,120 characters a Region.

    Its end is the first part of the stack's UUID: the log that an earlier stack of this name
    retained is not in the way.
    """
    uuid = {"Fn::Select": [2, {"Fn::Split": ["/", {"Ref": "AWS::StackId"}]}]}
    own = {"Fn::Select": [0, {"Fn::Split": ["-", uuid]}]}
    groups = pattern.resources("AWS::Logs::LogGroup")
    for logical_id, machine in pattern.resources("AWS::StepFunctions::StateMachine").items():
        for to in machine["LoggingConfiguration"]["Destinations"]:
            (group,) = to["CloudWatchLogsLogGroup"]["LogGroupArn"]["Fn::GetAtt"][:1]
            prefix, *_, end = groups[group]["LogGroupName"]["Fn::Join"][1]
            assert (prefix, end) == ("/aws/vendedlogs/states/", own), logical_id


# ---- alarms


def test_waiting_orders_have_alarms(pattern: Synthesized) -> None:
    """An order that waits, or is parked, is somebody's: somebody is told."""
    age = watched(pattern, "AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName")
    assert set(dead_letter_queues(pattern).values()) <= age


def test_alarms_on_age_say_what_they_do_not_see(pattern: Synthesized) -> None:
    """On standard queues the metric leaves out messages that were received three times or more."""
    queues = pattern.resources("AWS::SQS::Queue")
    for logical_id, alarm in pattern.resources("AWS::CloudWatch::Alarm").items():
        if alarm.get("MetricName") == "ApproximateAgeOfOldestMessage":
            (dimension,) = alarm["Dimensions"]
            if not queues[dimension["Value"]["Fn::GetAtt"][0]].get("FifoQueue"):
                assert "received less than three times" in alarm["AlarmDescription"], logical_id


def test_failed_executions_have_alarms(pattern: Synthesized) -> None:
    """An execution that failed is somebody's: somebody is told."""
    machines = set(pattern.resources("AWS::StepFunctions::StateMachine"))
    assert machines <= watched(pattern, "AWS/States", "ExecutionsFailed", "StateMachineArn")


def test_state_machines_can_be_made_and_can_work(pattern: Synthesized) -> None:
    """As Step Functions reads a definition: see rules/_definitions.py."""
    for machine, definition in World(pattern.template, {}).state_machines:
        express = machine["StateMachineType"] == "EXPRESS"
        found = definitions.problems(definition, express, models=True)
        assert [str(one) for one in found] == [], machine.id


def test_state_machines_fit_cfn_lints_schema(pattern: Synthesized) -> None:
    """Which cfn-lint itself asks only of definitions without references."""
    arn = "arn:aws:lambda:us-east-1:111122223333:function:some"
    for machine, definition in World(pattern.template, {}).state_machines:
        alone = {"Type": machine.type, "Properties": {"Definition": definition}}
        text = json.dumps({"Resources": {"Machine": alone}})
        text = text.replace("${AWS::Partition}", "aws").replace("${AWS::Region}", "us-east-1")
        text = text.replace("${AWS::AccountId}", "111122223333")
        template, _ = decode_str(re.sub(r"\$\{[^}]*\}", arn, text))
        found = [
            f"{one.message} at {'/'.join(map(str, path))}"
            for one in linter().validate_template(template or {})
            if one.rule.id == "E3601"
            if not _is_cfn_lints_mistake(definition, path := list(getattr(one, "path", ()))[4:])
        ]
        assert found == [], machine.id


def _is_cfn_lints_mistake(definition: dict[str, Any], path: list[Any]) -> bool:
    """A Parallel has Parameters, and a Task that speaks JSONata may compute its TimeoutSeconds."""
    state: Any = definition
    for step in path[:-1]:
        state = state[step]
    return (state.get("Type"), path[-1]) == ("Parallel", "Parameters") or (
        path[-1] == "TimeoutSeconds" and str(state["TimeoutSeconds"]).startswith("{%")
    )


def test_every_alarm_tells_alerts(pattern: Synthesized) -> None:
    """An alarm that tells nobody is none."""
    for logical_id, alarm in pattern.resources("AWS::CloudWatch::Alarm").items():
        (action,) = alarm["AlarmActions"]
        assert action["Ref"].startswith("Alerts"), logical_id
        assert alarm["AlarmDescription"], logical_id


def test_only_this_stacks_alarms_may_use_alerts_and_its_key(pattern: Synthesized) -> None:
    """CloudWatch works for every account: its word counts only for an alarm of this very stack."""
    alarms = [":cloudwatch:", {"Ref": "AWS::Region"}, ":", {"Ref": "AWS::AccountId"}, ":alarm:",
              {"Ref": "AWS::StackName"}, "-*"]  # fmt: skip
    expected = {
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
        "ArnLike": {
            "aws:SourceArn": {"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, *alarms]]}
        },
    }
    topics = pattern.resources("AWS::SNS::TopicPolicy")
    documents = [one["PolicyDocument"] for name, one in topics.items() if name.startswith("Alerts")]
    documents += [key["KeyPolicy"] for key in pattern.resources("AWS::KMS::Key").values()]
    conditions = [
        statement.get("Condition")
        for document in documents
        for statement in document["Statement"]
        if "cloudwatch.amazonaws.com" in str(statement["Principal"])
    ]
    assert conditions == [expected] * 2


def test_alert_email_subscribes_a_person(stem: str) -> None:
    """The option does what it says."""
    stack = app.stack_class(PATTERNS[stem])
    assert "alert_email" in app.options(stack)
    told = kept_and_told(stem)
    assert "shop@example.com" in [
        one["Endpoint"] for one in told.resources("AWS::SNS::Subscription").values()
    ]


# ---- what a slip of the hand would change and nobody would see before the day it counts


def test_functions_start_and_find_the_settings_that_they_read(
    stem: str, pattern: Synthesized
) -> None:
    """A handler that is not there, or a setting by another name, fails at the first message."""
    for logical_id, function in pattern.resources("AWS::Lambda::Function").items():
        module, _, handler = function["Handler"].partition(".")
        source = (PROJECT / "lambdas" / stem / f"{module}.py").read_text()
        assert f"\ndef {handler}(" in source, logical_id
        settings = set(function["Environment"]["Variables"]) - {"POWERTOOLS_SERVICE_NAME"}
        assert settings == set(re.findall(r'environ\["(\w+)"\]', source)), logical_id
        service = function["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
        assert service == module.replace("_", "-"), logical_id


def test_services_that_take_roles_are_the_ones_that_use_them(pattern: Synthesized) -> None:
    """A role that its service may not take makes a deployment fail, or a worker stand still."""
    takes = {
        logical_id: {
            statement["Principal"].get("Service")
            for statement in role["AssumeRolePolicyDocument"]["Statement"]
        }
        for logical_id, role in pattern.resources("AWS::IAM::Role").items()
    }
    for function in pattern.resources("AWS::Lambda::Function").values():
        assert takes.pop(function["Role"]["Fn::GetAtt"][0]) == {"lambda.amazonaws.com"}
    known = {"apigateway", "ec2", "firehose", "sns", "states", "vpc-flow-logs"}
    services = {service for role in takes.values() for service in role if service}
    assert services <= {f"{service}.amazonaws.com" for service in known}
    for logical_id, role in pattern.resources("AWS::IAM::Role").items():
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            for condition in statement.get("Condition", {}).values():
                ((name, value),) = condition.items()
                assert name in ("aws:SourceAccount", "sts:ExternalId"), logical_id
                assert value == {"Ref": "AWS::AccountId"}, logical_id


def test_functions_may_take_and_delete_from_the_queues_mapped_to_them(
    pattern: Synthesized,
) -> None:
    """Lambda asks for these three when it makes a mapping (its guide, "Using Lambda with SQS")."""
    needed = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
    functions = pattern.resources("AWS::Lambda::Function")
    for logical_id, mapping in pattern.resources("AWS::Lambda::EventSourceMapping").items():
        arn = mapping["EventSourceArn"]
        if arn.get("Fn::GetAtt", [""])[0] in pattern.resources("AWS::SQS::Queue"):
            role = functions[mapping["FunctionName"]["Ref"]]["Role"]["Fn::GetAtt"][0]
            allowed = {
                action
                for policy in pattern.resources("AWS::IAM::Policy").values()
                for statement in policy["PolicyDocument"]["Statement"]
                if {"Ref": role} in policy["Roles"] and statement["Resource"] == arn
                for action in statement["Action"]
            }
            assert needed <= allowed, logical_id


def test_dead_letters_are_kept_as_long_as_sqs_can_and_days_longer_than_orders(
    pattern: Synthesized,
) -> None:
    """A standard queue's dead letter keeps the age that it had: the difference is time to look."""
    days = 86400
    for logical_id, queue in pattern.resources("AWS::SQS::Queue").items():
        source = "RedrivePolicy" in queue
        kept = queue["MessageRetentionPeriod"]
        assert kept in ({1 * days, 4 * days} if source else {14 * days}), logical_id


def test_tables_cost_nothing_at_rest_and_keys_are_gone_in_a_week(pattern: Synthesized) -> None:
    """What a copy costs that nobody uses, or that is destroyed: 7 days is the least of KMS."""
    for logical_id, table in pattern.resources("AWS::DynamoDB::Table").items():
        assert table["BillingMode"] == "PAY_PER_REQUEST", logical_id
    for logical_id, key in pattern.resources("AWS::KMS::Key").items():
        assert (key["EnableKeyRotation"], key["PendingWindowInDays"]) == (True, 7), logical_id


def test_alarms_of_one_kind_speak_at_the_same_moment(pattern: Synthesized) -> None:
    """One dead letter, crash or lost message in a minute; an age that all retries do not explain.

    A queue's messages are late after one visibility timeout more than they have receives, five
    minutes long.
    """
    queues = pattern.resources("AWS::SQS::Queue")
    for logical_id, alarm in pattern.resources("AWS::CloudWatch::Alarm").items():
        namespace, metric = alarm.get("Namespace"), alarm.get("MetricName", "")
        if metric == "ApproximateAgeOfOldestMessage":
            queue = queues[alarm["Dimensions"][0]["Value"]["Fn::GetAtt"][0]]
            receives = queue["RedrivePolicy"]["maxReceiveCount"]
            expected = ("Maximum", queue["VisibilityTimeout"] * (receives + 1), 5)
        elif metric == "ApproximateNumberOfMessagesVisible":
            expected = ("Maximum", 1, 1)
        elif namespace in ("AWS/Lambda", "AWS/States", "AWS/SNS", "AWS/ApiGateway"):
            expected = ("Sum", 1, 1)
        else:
            continue  # of one pattern: see its own tests
        assert (alarm["Statistic"], alarm["Threshold"], alarm["EvaluationPeriods"]) == expected, (
            logical_id
        )
        assert alarm["Period"] == 60, logical_id
        assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold", logical_id


def test_a_person_is_told_where_messages_wait(pattern: Synthesized) -> None:
    """Alerts to subscribe to, and the URL of each queue to look into or to redrive."""
    outputs = pattern.template["Outputs"]
    (alerts,) = outputs["AlertsArn"]["Value"].values()
    assert alerts in pattern.resources("AWS::SNS::Topic")
    told = {output["Value"].get("Ref") for output in outputs.values()}
    assert set(pattern.resources("AWS::SQS::Queue")) <= told


def test_no_options_let_sqs_delete_what_is_to_be_parked(stem: str) -> None:
    """As many and as long attempts as the options allow take longer than a queue keeps a message.

    The stack refuses them in its own words, or its queues keep messages long enough.
    """
    stack, options = app.stack_class(PATTERNS[stem]), app.options(app.stack_class(PATTERNS[stem]))
    if "max_receive_count" not in options:
        return
    most = {"max_receive_count": 1000, "timeout_seconds": 900, "visibility_timeout_seconds": 43200}
    try:
        greedy = synthesize(stack, "Greedy", **{k: v for k, v in most.items() if k in options})
    except Exception as refusal:
        assert "max_receive_count + 1 visibility timeouts" in str(refusal), refusal
        return
    for logical_id, queue in greedy.resources("AWS::SQS::Queue").items():
        if redrive := queue.get("RedrivePolicy"):
            takes = queue["VisibilityTimeout"] * (redrive["maxReceiveCount"] + 1)
            assert takes <= queue["MessageRetentionPeriod"], logical_id
