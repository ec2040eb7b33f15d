"""What is true of SqsWriteBuffer and of no other pattern."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_lambda_powertools.utilities.validation import SchemaValidationError, validate

import app
from tests.synthesis import Synthesized, only, synthesize, synthesized


@pytest.fixture
def pattern() -> Synthesized:
    return synthesized("sqs_write_buffer")


def with_options(**options: Any) -> Synthesized:
    return synthesize(app.stack_class("SqsWriteBuffer"), "SqsWriteBuffer", **options)


def granted(pattern: Synthesized, role: str) -> dict[str, str]:
    """Action to resource, as JSON, of one role's policy; X-Ray aside."""
    policy = only(pattern, "AWS::IAM::Policy", role)
    return {
        action: json.dumps(statement["Resource"])
        for statement in policy["PolicyDocument"]["Statement"]
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
        if not action.startswith("xray:")
    }


# ---- what gets into the queue


def test_no_function_stands_between_the_api_and_the_queue(pattern: Synthesized) -> None:
    integration = only(pattern, "AWS::ApiGateway::Method")["Integration"]
    assert integration["Type"] == "AWS"
    assert ":sqs:path/" in json.dumps(integration["Uri"])
    assert integration["RequestTemplates"] == {
        "application/json": "Action=SendMessage&MessageBody=$util.urlEncode($input.body)"
    }


def test_a_post_is_signed_and_of_the_model_and_of_no_other_type(pattern: Synthesized) -> None:
    method = only(pattern, "AWS::ApiGateway::Method")
    validator = only(pattern, "AWS::ApiGateway::RequestValidator")
    assert method["AuthorizationType"] == "AWS_IAM"
    assert method["RequestModels"].keys() == {"application/json"}
    assert "RequestValidatorId" in method and validator["ValidateRequestBody"] is True
    # A body of a type without a model is not validated, so it must not pass.
    assert method["Integration"]["PassthroughBehavior"] == "NEVER"


def test_only_what_sqs_has_stored_is_a_202(pattern: Synthesized) -> None:
    responses = only(pattern, "AWS::ApiGateway::Method")["Integration"]["IntegrationResponses"]
    patterns = {one["StatusCode"]: one.get("SelectionPattern") for one in responses}
    assert patterns == {"202": r"2\d{2}", "500": None}


def test_the_api_may_send_to_the_queue_and_do_nothing_else(pattern: Synthesized) -> None:
    grants = granted(pattern, "ApiRole")
    assert grants.keys() == {"sqs:SendMessage"}
    assert "Orders" in grants["sqs:SendMessage"]


def test_buying_may_call_the_one_method_of_the_one_stage(pattern: Synthesized) -> None:
    grants = granted(pattern, "Buying")
    assert grants.keys() == {"execute-api:Invoke"}
    arn = json.loads(grants["execute-api:Invoke"])["Fn::Join"][1]
    assert arn[-3:] == ["/", {"Ref": "ApiDeploymentStageprod3EB9684E"}, "/POST/orders"]


def test_the_stage_throttles_and_logs_without_bodies(pattern: Synthesized) -> None:
    stage = only(pattern, "AWS::ApiGateway::Stage")
    (settings,) = stage["MethodSettings"]
    assert (settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]) == (1000, 1000)
    assert stage["TracingEnabled"] is settings["MetricsEnabled"] is True
    assert settings["LoggingLevel"] == "ERROR" and settings["DataTraceEnabled"] is False
    logged = json.loads(stage["AccessLogSetting"]["Format"])
    assert logged["caller"] == "$context.identity.userArn"
    assert not [value for value in logged.values() if "body" in value or "sourceIp" in value]


def test_the_group_that_api_gateway_would_make_is_the_stacks_own(pattern: Synthesized) -> None:
    group = only(pattern, "AWS::Logs::LogGroup", "ApiErrors")
    assert group["LogGroupName"] == {
        "Fn::Join": ["", ["API-Gateway-Execution-Logs_", {"Ref": "ApiF70053CD"}, "/prod"]]
    }
    stage = pattern.template["Resources"]["ApiDeploymentStageprod3EB9684E"]
    assert "ApiErrors8A265993" in stage["DependsOn"]


def test_the_accounts_log_role_is_left_alone_unless_asked_for(pattern: Synthesized) -> None:
    assert not pattern.resources("AWS::ApiGateway::Account")
    asked = with_options(account_log_role=True)
    assert asked.findings == set()
    kept = {
        resource["Type"]
        for resource in asked.template["Resources"].values()
        if resource.get("DeletionPolicy") == "Retain"
    }
    assert kept == {"AWS::ApiGateway::Account", "AWS::IAM::Role"}


LINE = {"sku": "s" * 32, "quantity": 1000}
LARGEST = {"order_id": "o" * 64, "customer": "c" * 64, "items": [LINE] * 20}
SMALLEST = {"order_id": "1", "customer": "a", "items": [{"sku": "-", "quantity": 1}]}


def let_through(pattern: Synthesized, order: Any) -> bool:
    """Whether the API's model takes a body, as JSON Schema says."""
    schema = only(pattern, "AWS::ApiGateway::Model")["Schema"]
    try:
        validate(event=order, schema=schema)
    except SchemaValidationError:
        return False
    return True


def test_the_api_lets_the_smallest_and_the_largest_order_through(pattern: Synthesized) -> None:
    assert let_through(pattern, SMALLEST)
    assert let_through(pattern, LARGEST)


@pytest.mark.parametrize(
    "order",
    [
        [LARGEST],
        LARGEST | {"note": "x"},
        {name: LARGEST[name] for name in ("customer", "items")},
        {name: LARGEST[name] for name in ("order_id", "items")},
        {name: LARGEST[name] for name in ("order_id", "customer")},
        *(LARGEST | {name: text} for name in ("order_id", "customer") for text in ("", "o" * 65)),
        *(LARGEST | {name: odd} for name in ("order_id", "customer") for odd in (7, "a b", None)),
        *(LARGEST | {"items": items} for items in ([], [LINE] * 21, {}, "x", ["x"], [7])),
        *(LARGEST | {"items": [LINE | {"sku": sku}]} for sku in ("", "s" * 33, 7, "a b")),
        *(LARGEST | {"items": [LINE | {"quantity": many}]} for many in (0, 1001, "3", 1.5)),
        LARGEST | {"items": [LINE | {"note": "x"}]},
        LARGEST | {"items": [{"sku": "s"}]},
        LARGEST | {"items": [{"quantity": 1}]},
    ],
)
def test_the_api_refuses_what_is_one_step_beyond(pattern: Synthesized, order: Any) -> None:
    assert not let_through(pattern, order)


def test_the_method_may_answer_with_each_of_its_statuses(pattern: Synthesized) -> None:
    """API Gateway answers 500 instead of a status that the method does not declare."""
    responses = only(pattern, "AWS::ApiGateway::Method")["MethodResponses"]
    assert {one["StatusCode"] for one in responses} == {"202", "400", "403", "500"}


def test_a_caller_learns_the_message_id_that_sqs_gave(pattern: Synthesized) -> None:
    responses = only(pattern, "AWS::ApiGateway::Method")["Integration"]["IntegrationResponses"]
    (stored,) = (one for one in responses if one["StatusCode"] == "202")
    assert json.loads(stored["ResponseTemplates"]["application/json"]) == {
        "message_id": "$input.path('$.SendMessageResponse.SendMessageResult.MessageId')"
    }


# ---- how fast it gets out


def test_writers_share_the_tables_rate_and_take_a_seconds_worth_at_once() -> None:
    pattern = with_options(writes_per_second=1000, max_concurrency=4)
    assert only(pattern, "AWS::DynamoDB::Table")["OnDemandThroughput"] == {
        "MaxWriteRequestUnits": 1000
    }
    variables = only(pattern, "AWS::Lambda::Function")["Environment"]["Variables"]
    assert float(variables["WRITES_PER_SECOND"]) == 250
    mapping = only(pattern, "AWS::Lambda::EventSourceMapping")
    assert mapping["BatchSize"] == 250
    assert mapping["MaximumBatchingWindowInSeconds"] == 1
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": 4}


def test_what_the_docstring_says_when_nobody_says_otherwise(pattern: Synthesized) -> None:
    (settings,) = only(pattern, "AWS::ApiGateway::Stage")["MethodSettings"]
    assert settings["ThrottlingRateLimit"] == 1000
    rows = only(pattern, "AWS::DynamoDB::Table")
    assert rows["OnDemandThroughput"] == {"MaxWriteRequestUnits": 100}
    orders = only(pattern, "AWS::SQS::Queue", "Orders")
    assert orders["RedrivePolicy"]["maxReceiveCount"] == 5
    assert only(pattern, "AWS::Lambda::Function")["Timeout"] == 20


def test_the_visibility_timeout_covers_the_batching_window_too(pattern: Synthesized) -> None:
    assert only(pattern, "AWS::SQS::Queue", "Orders")["VisibilityTimeout"] == 6 * 20 + 1


def test_the_writer_may_write_and_read_nothing(pattern: Synthesized) -> None:
    on_table = [action for action in granted(pattern, "WriteOrders") if "dynamodb" in action]
    assert on_table == ["dynamodb:BatchWriteItem"]


def test_rows_can_be_restored(pattern: Synthesized) -> None:
    rows = only(pattern, "AWS::DynamoDB::Table")
    assert rows["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_failed_posts_and_late_orders_have_alarms() -> None:
    pattern = with_options(max_receive_count=7, timeout_seconds=30)
    posts = only(pattern, "AWS::CloudWatch::Alarm", "PostsFailed")
    assert (posts["Namespace"], posts["MetricName"]) == ("AWS/ApiGateway", "5XXError")
    dimensions = {one["Name"]: one["Value"] for one in posts["Dimensions"]}
    assert dimensions["ApiName"] == {"Ref": "AWS::StackName"}
    assert only(pattern, "AWS::ApiGateway::RestApi")["Name"] == dimensions["ApiName"]
    assert only(pattern, "AWS::CloudWatch::Alarm", "OrdersLate")["Threshold"] == 181 * (7 + 1)


# ---- options


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_concurrency": 1}, "max_concurrency is 2 to 1000, not 1"),
        ({"writes_per_second": 1}, "writes_per_second is 2 to 2000, not 1"),
        (
            {"writes_per_second": 9, "max_concurrency": 10},
            "writes_per_second is 10 to 2000, not 9",
        ),
        ({"posts_per_second": 0}, "posts_per_second is 1 to 10000, not 0"),
        ({"max_receive_count": 4}, "max_receive_count is 5 to 1000, not 4"),
        (
            {"timeout_seconds": 900, "max_receive_count": 63},
            "max_receive_count [+] 1 visibility timeouts, in seconds, is 1 to 345600",
        ),
        ({"timeout_seconds": 9}, "timeout_seconds is 10 to 900, not 9"),
        ({"removal_policy": "keep"}, 'removal_policy is "destroy" or "retain", not "keep"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        with_options(**options)


def test_retain_keeps_rows_and_logs_but_not_queues() -> None:
    resources = with_options(removal_policy="retain").template["Resources"]
    kept = {name for name, one in resources.items() if one.get("DeletionPolicy") == "Retain"}
    assert {resources[name]["Type"] for name in kept} == {
        "AWS::DynamoDB::Table",
        "AWS::Logs::LogGroup",
    }
