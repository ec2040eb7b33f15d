"""How an integration's URI and parameters become a call of a service."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox import api_calls, http_api_calls
from sandbox.api_calls import Mapped, Request

REQUEST = Request(
    "POST",
    {"path_value": "by path"},
    {"one": ["a"], "two": ["b", "c"]},
    {"header-value": "by header"},
    json.dumps({"petstore": {"pets": [{"name": "Rex", "age": 3}]}}),
)
CONTEXT = {"apiId": "abc", "identity": {"apiKey": "key"}}


def header(source: str, body: str | None = None) -> str | None:
    """What a header of the integration's request is mapped to."""
    request = REQUEST if body is None else Request("POST", {}, {}, {}, body)
    found = api_calls.mapped(
        {"integration.request.header.X": source}, request, CONTEXT, {"table": "orders"}
    )
    return found.header.get("X")


@pytest.mark.parametrize(
    ("source", "value"),
    {
        "'as it is'": "as it is",
        "method.request.path.path_value": "by path",
        "method.request.header.Header-Value": "by header",
        "method.request.querystring.two": "c",  # the last, as was seen on AWS
        "method.request.multivaluequerystring.two": "b,c",
        "method.request.multivaluequerystring.one": "a",
        "method.request.querystring.One": None,
        "method.request.body": REQUEST.body,
        "method.request.body.petstore.pets[0].name": "Rex",
        "method.request.body.petstore.pets[0]": '{"name":"Rex","age":3}',
        "method.request.body.petstore.pets[1].name": None,
        "context.apiId": "abc",
        "context.identity.apiKey": "key",
        "stageVariables.table": "orders",
        "stageVariables.no": None,
    }.items(),
)
def test_a_parameter_is_mapped(source: str, value: str | None) -> None:
    assert header(source) == value


def test_an_empty_body_is_an_object_and_only_broken_json_is_refused() -> None:
    assert header("method.request.body", "") == "{}"
    assert header("method.request.body", "<xml/>") == "<xml/>"
    with pytest.raises(api_calls.InvalidBody):
        header("method.request.body", "\n{wrongjson")


def uri(rest: str) -> api_calls.Target:
    found = api_calls.target(f"arn:aws:apigateway:us-east-1:{rest}")
    assert found
    return found


def test_an_action_is_said_as_its_service_needs_it() -> None:
    states = api_calls.call(uri("states:action/StartExecution"), "POST", Mapped(), "{}")
    assert states.headers["x-amz-target"] == "AWSStepFunctions.StartExecution"
    assert (states.path, states.query) == ({"": "/"}, {})
    sns = api_calls.call(uri("sns:action/Publish"), "POST", Mapped(querystring={"a": "b"}), "")
    assert sns.query == {"a": ["b"], "Action": ["Publish"]}


def test_a_path_is_filled_in() -> None:
    parameters = Mapped(path={"bucket": "b", "key": "k"})
    sent = api_calls.call(uri("s3:path/{bucket}/{key}"), "PUT", parameters, "")
    assert (sent.path, sent.query) == ({"": "/b/k"}, {})


def answered(service: str, body: str, **headers: str) -> Any:
    sent = api_calls.call(uri(f"{service}:path/1/q"), "POST", Mapped(header=headers), "")
    return api_calls.in_json(uri(f"{service}:path/1/q"), sent, body)


SENT = (
    '<SendMessageResponse xmlns="x"><SendMessageResult><MessageId>1</MessageId>'
    "</SendMessageResult><ResponseMetadata><RequestId>2</RequestId></ResponseMetadata>"
    "</SendMessageResponse>"
)


def test_a_query_protocol_answers_in_json() -> None:
    answer = json.loads(answered("sqs", SENT))["SendMessageResponse"]
    assert answer["SendMessageResult"]["MessageId"] == "1"
    assert answer["SendMessageResult"]["SequenceNumber"] is None
    assert answer["ResponseMetadata"] == {"RequestId": "2"}
    assert answered("sqs", SENT, Accept="application/xml") == SENT
    error = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
    assert json.loads(answered("sqs", error)) == {"Error": {"Code": "AccessDenied"}}


ROLE = "arn:aws:iam::1:role/r"
AT = "arn:aws:apigateway:us-east-1"


@pytest.mark.parametrize(
    ("kind", "uri", "role", "words"),
    [
        ("AWS", "orders", ROLE, "must contain path or action"),
        ("AWS", f"{AT}:sqs:path/1/q", "", "Role ARN must be specified"),
        ("AWS", f"{AT}:polly:action/SynthesizeSpeech", ROLE, "The sandbox cannot run"),
        ("AWS", f"{AT}:s3:action/GetObject", ROLE, "The sandbox cannot run"),
        ("AWS", f"{AT}:sqs:path/1/q", "arn:aws:iam::*:user/*", "The sandbox cannot run"),
        ("AWS_PROXY", f"{AT}:sqs:path/1/q", ROLE, "currently only supports Lambda function"),
        ("AWS_PROXY", f"{AT}:lambda:path/2015-03-31/functions/f/invocations", "", ""),
        ("AWS", f"{AT}:sqs:path/1/q", ROLE, ""),
        ("MOCK", "", "", ""),
    ],
)
def test_an_integration_is_refused_when_it_is_made(
    kind: str, uri: str, role: str, words: str
) -> None:
    problem = api_calls.problem(kind, uri, role)
    assert words in problem and bool(words) == bool(problem)


def test_the_default_response_takes_what_no_pattern_does() -> None:
    default, broken = {"statusCode": "200"}, {"statusCode": "400", "selectionPattern": r"4\d{2}"}
    both = {"200": default, "400": broken}
    assert api_calls.selected(both, "403") == broken
    assert api_calls.selected(both, "500") == default
    assert api_calls.selected({"400": broken}, "200") is None


def test_a_parameter_of_an_http_api_is_mapped() -> None:
    request = Request(
        "POST",
        {"": "/orders/7", "id": "7"},
        {"q": ["1", "2"]},
        {"x-one": "by header"},
        '{"a": {"b": [{"c": 5}, "text"]}}',
    )
    sources = {
        "static": "as it is",
        "body": "$request.body",
        "field": "$request.body.a.b[1]",
        "object": "$request.body.a.b[0]",
        "header": "$request.header.X-One",
        "query": "$request.querystring.q",
        "path": "$request.path",
        "id": "$request.path.id",
        "context": "$context.identity.apiKey",
        "stage": "$stageVariables.table",
        "mixed": "${request.path.id} in ${stageVariables.table}",
        "nothing": "$request.body.a.x",
    }
    assert http_api_calls.mapped(sources, request, CONTEXT, {"table": "orders"}) == {
        "static": "as it is",
        "body": request.body,
        "field": "text",
        "object": '{"c": 5}',
        "header": "by header",
        "query": "1,2",
        "path": "/orders/7",
        "id": "7",
        "context": "key",
        "stage": "orders",
        "mixed": "7 in orders",
    }


def test_a_subtype_is_called_by_its_services_protocol() -> None:
    events = http_api_calls.SUBTYPES["EventBridge-PutEvents"]
    values = {"Source": "s", "DetailType": "d", "Detail": "{}", "Resources": '["r"]', "Region": "x"}
    headers, body = http_api_calls.call(events, values)
    assert headers["x-amz-target"] == "AWSEvents.PutEvents"
    entry = {"Source": "s", "DetailType": "d", "Detail": "{}", "Resources": ["r"]}
    assert json.loads(body) == {"Entries": [entry]}
    start = http_api_calls.SUBTYPES["StepFunctions-StartExecution"]
    assert json.loads(http_api_calls.call(start, {"StateMachineArn": "m"})[1]) == {
        "stateMachineArn": "m"
    }
    send = http_api_calls.SUBTYPES["SQS-SendMessage"]
    attributes = '{"a": {"DataType": "String", "StringValue": "v"}}'
    _, body = http_api_calls.call(send, {"MessageBody": "a b", "MessageAttributes": attributes})
    assert body == (
        "Action=SendMessage&Version=2012-11-05&MessageBody=a+b&MessageAttribute.1.Name=a"
        "&MessageAttribute.1.Value.DataType=String&MessageAttribute.1.Value.StringValue=v"
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"integrationSubtype": None}, ""),
        ({"integrationSubtype": "AppConfig-GetConfiguration"}, "The sandbox cannot run"),
        ({"integrationType": "MOCK"}, "The sandbox cannot run"),
        ({"connectionType": "VPC_LINK"}, "The sandbox cannot run"),
        ({"requestParameters": {"QueueUrl": "q"}}, "MessageBody is required"),
        ({"requestParameters": {"QueueUrl": "q", "MessageBody": "b", "X": ""}}, "X is not"),
        ({"credentialsArn": ""}, "credentials ARN"),
    ],
)
def test_an_http_apis_integration_is_refused_when_it_is_made(
    changed: dict[str, Any], words: str
) -> None:
    integration = {
        "integrationType": "AWS_PROXY",
        "integrationSubtype": "SQS-SendMessage",
        "credentialsArn": ROLE,
        "requestParameters": {"QueueUrl": "q", "MessageBody": "b"},
    }
    problem = http_api_calls.problem(integration | changed)
    assert words in problem and bool(words) == bool(problem)
