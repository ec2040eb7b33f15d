"""Gaps of API Gateway."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
import uuid
from typing import Any

from tests.sandbox.cloud import Clients, allow, deploy, function, role, soon


def ask(
    client: Clients,
    path: str,
    body: str = "{}",
    host: str = "",
    content_type: str = "application/json",
) -> tuple[int, dict[str, str], str]:
    """(status, headers, body) that a POST gets, under a host of its own or another."""
    request = urllib.request.Request(
        client.url + path,
        body.encode(),
        {"Content-Type": content_type} | ({"Host": host} if host else {}),
    )
    try:
        trusted = ssl.create_default_context(cafile=client.authority)
        with urllib.request.urlopen(request, context=trusted, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def post(client: Clients, path: str, body: str = "{}", host: str = "") -> int:
    """The status of a POST to the server."""
    return ask(client, path, body, host)[0]


def answers(**more: Any) -> dict[str, Any]:
    """An API with one method at its root, which anybody may call and which answers 200."""
    api = {"RestApiId": {"Ref": "Api"}}
    return {
        "Api": {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Name": "gap"}},
        "Method": {
            "Type": "AWS::ApiGateway::Method",
            "Properties": {
                **api,
                "ResourceId": {"Fn::GetAtt": ["Api", "RootResourceId"]},
                "HttpMethod": "POST",
                "AuthorizationType": "NONE",
                "Integration": {
                    "Type": "MOCK",
                    "RequestTemplates": {"application/json": '{"statusCode": 200}'},
                    "IntegrationResponses": [{"StatusCode": "200"}],
                },
                "MethodResponses": [{"StatusCode": "200"}],
                **more,
            },
        },
        "Deployment": {
            "Type": "AWS::ApiGateway::Deployment",
            "Properties": api,
            "DependsOn": ["Method"],
        },
        "Stage": {
            "Type": "AWS::ApiGateway::Stage",
            "Properties": {**api, "StageName": "prod", "DeploymentId": {"Ref": "Deployment"}},
        },
    }


def apigateway_host(client: Clients) -> bool:
    """An API answers under AWS's name of its host, and no other API does."""
    api = deploy(client, answers())["Api"]
    assert post(client, f"/_aws/execute-api/{api}/prod/") == 200
    hosts = [f"{name}.execute-api.us-east-1.amazonaws.com" for name in (api, "0" * len(api))]
    mine, nobodys = (post(client, "/prod/", host=host) for host in hosts)
    return mine == 200 and nobodys in (403, 404)


def apigateway_request_validator(client: Clients) -> bool:
    """What a template's model does not describe is answered with 400."""
    api = {"RestApiId": {"Ref": "Api"}}
    schema = {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}
    resources = answers(
        RequestModels={"application/json": {"Ref": "Model"}},
        RequestValidatorId={"Ref": "Validator"},
    ) | {
        "Model": {
            "Type": "AWS::ApiGateway::Model",
            "Properties": {**api, "ContentType": "application/json", "Schema": schema},
        },
        "Validator": {
            "Type": "AWS::ApiGateway::RequestValidator",
            "Properties": {**api, "ValidateRequestBody": True},
        },
    }
    path = f"/_aws/execute-api/{deploy(client, resources)['Api']}/prod/"
    assert post(client, path, '{"id": "a"}') == 200
    return [post(client, path, body) for body in ("{}", '{"id": 1}', "no JSON")] == [400] * 3


def integrated(client: Clients, sender: str, target: str, **more: Any) -> str:
    """The path of a new API that calls a service as this role; `target` ends the URI."""
    integration = {
        "Type": "AWS",
        "IntegrationHttpMethod": "POST",
        "Uri": f"arn:aws:apigateway:us-east-1:{target}",
        "Credentials": f"arn:aws:iam::000000000000:role/{sender}",
        "IntegrationResponses": [{"StatusCode": "200"}],
        **more,
    }
    made = deploy(client, answers(Integration=integration))
    return f"/_aws/execute-api/{made['Api']}/prod/"


def queue(client: Clients) -> tuple[str, str, str]:
    """(URL, ARN, part of a URI) of a new queue."""
    name = f"gap-{uuid.uuid4().hex[:8]}"
    url = client("sqs").create_queue(QueueName=name)["QueueUrl"]
    return url, f"arn:aws:sqs:us-east-1:000000000000:{name}", f"sqs:path/000000000000/{name}"


def apigateway_services(client: Clients) -> bool:
    """An integration sends to a queue as its role, and an empty body is {}.

    What SQS answers goes through the integration's responses; a role that API Gateway may not
    assume is a 500 of its own.
    """
    url, arn, path = queue(client)
    may, foreign = role(client, "apigateway.amazonaws.com"), role(client, "lambda.amazonaws.com")
    allow(client, foreign, "sqs:SendMessage", arn)
    form = {
        "RequestParameters": {
            "integration.request.header.Content-Type": "'application/x-www-form-urlencoded'"
        },
        "RequestTemplates": {"application/json": "Action=SendMessage&MessageBody=$input.body"},
        "IntegrationResponses": [
            {"StatusCode": "202", "SelectionPattern": r"2\d{2}"},
            {"StatusCode": "418", "SelectionPattern": "403"},
        ],
    }
    as_may, as_foreign = (integrated(client, one, path, **form) for one in (may, foreign))
    denied = [post(client, as_may), post(client, as_foreign)]
    allow(client, may, "sqs:SendMessage", arn)
    status, _, answer = ask(client, as_may, "")
    messages = client("sqs").receive_message(QueueUrl=url).get("Messages", [])
    sent = json.loads(answer)["SendMessageResponse"]["SendMessageResult"] if status == 202 else {}
    return (denied, [(one["MessageId"], one["Body"]) for one in messages]) == (
        [418, 500],
        [(sent.get("MessageId"), "{}")],
    )


def apigateway_services__json(client: Clients) -> bool:
    """The JSON protocol, as CDK users write it: attributes and parameters reach the queue."""
    url, arn, _ = queue(client)
    sender = role(client, "apigateway.amazonaws.com")
    allow(client, sender, "sqs:SendMessage", arn)
    path = integrated(
        client,
        sender,
        "sqs:path/",
        RequestParameters={
            "integration.request.header.Content-Type": "'application/x-amz-json-1.0'",
            "integration.request.header.X-Amz-Target": "'AmazonSQS.SendMessage'",
        },
        RequestTemplates={
            "application/json": """
                #set($order = $input.path('$.order'))
                {"QueueUrl": "QUEUE", "MessageBody": "$util.escapeJavaScript($input.json('$'))",
                 "MessageAttributes": {
                    "method": {"DataType": "String", "StringValue": "$context.httpMethod"},
                    "kinds": {"DataType": "Number", "StringValue": "$order.items.size()"}
                 }}""".replace("QUEUE", url)
        },
        IntegrationResponses=[
            {
                "StatusCode": "200",
                "ResponseParameters": {
                    "method.response.header.X-Md5": "integration.response.body.MD5OfMessageBody"
                },
                "ResponseTemplates": {
                    "application/json": "#set($context.responseOverride.status = 201)"
                    "$input.path('$.MessageId')"
                },
            }
        ],
    )
    body = '{"order":{"items":[1,2]}}'
    status, headers, answer = ask(client, path, body)
    (message,) = client("sqs").receive_message(
        QueueUrl=url, MessageAttributeNames=["All"], WaitTimeSeconds=1
    ).get("Messages") or [{"MessageId": "", "Body": "", "MD5OfBody": ""}]
    return (
        (status, answer, headers.get("X-Md5"), message["Body"])
        == (201, message["MessageId"], message["MD5OfBody"], body)
        and message["MessageAttributes"]["method"]["StringValue"] == "POST"
        and message["MessageAttributes"]["kinds"]["StringValue"] == "2"
    )


def machine(client: Clients, **state: Any) -> str:
    """The ARN of a new Express machine of one state."""
    made = client("stepfunctions").create_state_machine(
        name=f"gap-{uuid.uuid4().hex[:8]}",
        type="EXPRESS",
        roleArn=f"arn:aws:iam::000000000000:role/{role(client, 'states.amazonaws.com')}",
        definition=json.dumps({"StartAt": "Only", "States": {"Only": state}, "TimeoutSeconds": 1}),
    )
    return made["stateMachineArn"]


# What the CDK's StepFunctionsIntegration sends and answers with, in short.
START = r"""#set($inputString = "")
#set($inputString = "$inputString,@@body@@: $input.body}")
#set($inputString = $inputString.replaceAll("@@",'"'))
#set($len = $inputString.length() - 1)
#set($escaped = $util.escapeJavaScript($inputString.substring(1,$len)))
{"stateMachineArn": "MACHINE", "input": "{$escaped.replaceAll("\\'","'")}"}"""
WORKFLOW = """#set($inputRoot = $input.path('$'))
#if($input.path('$.status').toString().equals("FAILED"))
#set($context.responseOverride.status = 500)
{"error": "$input.path('$.error')", "cause": "$input.path('$.cause')"}
#else
$input.path('$.output')
#end"""


def apigateway_services__workflow(client: Clients) -> bool:
    """StartSyncExecution: an output, a failure as a 500, and a timeout as an empty 200."""
    starter = role(client, "apigateway.amazonaws.com")
    allow(client, starter, "states:StartSyncExecution", "*")

    def answer(**state: Any) -> tuple[int, str]:
        template = START.replace("MACHINE", machine(client, **state))
        path = integrated(
            client,
            starter,
            "states:action/StartSyncExecution",
            PassthroughBehavior="NEVER",
            RequestTemplates={"application/json": template},
            IntegrationResponses=[
                {"StatusCode": "200", "ResponseTemplates": {"application/json": WORKFLOW}},
                {"StatusCode": "400", "SelectionPattern": r"4\d{2}"},
                {"StatusCode": "500", "SelectionPattern": r"5\d{2}"},
            ],
        )
        status, _, text = ask(client, path, '{"is": "it\'s"}')
        return status, text

    passed, failed, late = (
        answer(Type="Pass", End=True),
        answer(Type="Fail", Error="Out", Cause="of stock"),
        answer(Type="Wait", Seconds=60, End=True),
    )
    return (
        passed[0] == 200
        and json.loads(passed[1]) == {"body": {"is": "it's"}}
        and failed[0] == 500
        and json.loads(failed[1]) == {"error": "Out", "cause": "of stock"}
        and late == (200, "")
    )


def apigateway_services__events(client: Clients) -> bool:
    """PutEvents, and the request's parameters in headers and URI; DynamoDB by its action alone."""
    sender, table = role(client, "apigateway.amazonaws.com"), f"gap-{uuid.uuid4().hex[:8]}"
    allow(client, sender, "*", "*")
    events = integrated(
        client,
        sender,
        "events:action/PutEvents",
        RequestParameters={
            "integration.request.header.X-Amz-Target": "'AWSEvents.PutEvents'",
            "integration.request.header.Content-Type": "'application/x-amz-json-1.1'",
        },
        RequestTemplates={
            "application/json": """{"Entries": [{"Source": "gap", "DetailType": "made",
                "Detail": "$util.escapeJavaScript($input.json('$'))"}]}"""
        },
    )
    client("dynamodb").create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    put = integrated(
        client,
        sender,
        "dynamodb:action/PutItem",
        RequestTemplates={
            "application/json": json.dumps(
                {"TableName": table, "Item": {"id": {"S": "$input.params('id')"}}}
            )
        },
    )
    status, _, answer = ask(client, events)
    if (status, post(client, f"{put}?id=a")) != (200, 200):
        return False
    rows = client("dynamodb").scan(TableName=table)["Items"]
    return json.loads(answer)["FailedEntryCount"] == 0 and rows == [{"id": {"S": "a"}}]


def apigateway_services__unmapped(client: Clients) -> bool:
    """What no template takes is a 415 or passes, and what no response takes is a 500."""
    _, arn, path = queue(client)
    sender = role(client, "apigateway.amazonaws.com")
    allow(client, sender, "sqs:SendMessage", arn)

    def status(templates: dict[str, str], behavior: str, pattern: str = "") -> int:
        responses = [{"StatusCode": "200", "SelectionPattern": pattern}]
        made = integrated(
            client,
            sender,
            path,
            PassthroughBehavior=behavior,
            RequestTemplates=templates,
            IntegrationResponses=responses,
            RequestParameters={
                "integration.request.header.Content-Type": "method.request.header.Content-Type"
            },
        )
        form = "Action=SendMessage&MessageBody=as+it+came"
        return ask(client, made, form, content_type="application/x-www-form-urlencoded")[0]

    other = {"application/json": "{}"}
    found = [
        status({}, "NEVER"),
        status(other, "WHEN_NO_TEMPLATES"),
        status({}, "WHEN_NO_TEMPLATES"),
        status(other, "WHEN_NO_MATCH"),
        status({}, "WHEN_NO_MATCH", "5.."),
    ]
    return found == [415, 415, 200, 200, 500]


FUNCTION = """
def handler(event, context):
    if event["id"] == "bad":
        raise ValueError("no such id")
    return {"statusCode": 500, "got": event}
"""


def apigateway_services__function(client: Clients) -> bool:
    """A function gets what the template makes, and its error's message selects the response."""
    arn = function(client, FUNCTION)
    integration = {
        "Type": "AWS",
        "IntegrationHttpMethod": "POST",
        "Uri": f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{arn}/invocations",
        "RequestTemplates": {"application/json": "{\"id\": $input.json('$.order')}"},
        "IntegrationResponses": [
            {
                "StatusCode": "200",
                "ResponseTemplates": {"application/json": "$input.json('$.got')"},
            },
            {
                "StatusCode": "404",
                "SelectionPattern": "no such.*",
                "ResponseTemplates": {"application/json": "$input.path('$.errorType')"},
            },
        ],
    }
    api = deploy(client, answers(Integration=integration))["Api"]
    path = f"/_aws/execute-api/{api}/prod/"
    good, bad = (ask(client, path, json.dumps({"order": one})) for one in ("good", "bad"))
    return (good[0], good[2], bad[0], bad[2]) == (200, '{"id":"good"}', 404, "ValueError")


def apigateway_services__mock(client: Clients) -> bool:
    """MOCK and HTTP are mapped too; an OpenAPI document says all that a template does."""
    mock = {
        "Type": "MOCK",
        "RequestTemplates": {
            "application/json": "{statusCode: #if($input.params('q') == 'a')200#{else}404#end}"
        },
        "IntegrationResponses": [
            {
                "StatusCode": "200",
                "SelectionPattern": "200",
                "ResponseTemplates": {"application/json": '{"q": "$input.params(\'q\')"}'},
            },
            {"StatusCode": "404"},
        ],
    }
    made = deploy(client, answers(Integration=mock))
    mocked = f"/_aws/execute-api/{made['Api']}/prod/"
    _, arn, path = queue(client)
    sender = role(client, "apigateway.amazonaws.com")
    allow(client, sender, "sqs:SendMessage", arn)
    operation = {
        "responses": {"202": {"description": "queued"}},
        "x-amazon-apigateway-integration": {
            "type": "aws",
            "httpMethod": "POST",
            "uri": f"arn:aws:apigateway:us-east-1:{path}",
            "credentials": f"arn:aws:iam::000000000000:role/{sender}",
            "passthroughBehavior": "never",
            "requestParameters": {
                "integration.request.header.Content-Type": "'application/x-www-form-urlencoded'"
            },
            "requestTemplates": {"application/json": "Action=SendMessage&MessageBody=m"},
            "responses": {"2..": {"statusCode": "202"}, "default": {"statusCode": "500"}},
        },
    }
    document = {"openapi": "3.0.1", "info": {"title": "gap"}, "paths": {"/": {"post": operation}}}
    resources = answers()
    del resources["Method"], resources["Deployment"]["DependsOn"]
    resources["Api"]["Properties"]["Body"] = document
    imported = f"/_aws/execute-api/{deploy(client, resources)['Api']}/prod/"
    status, _, answer = ask(client, f"{mocked}?q=a")
    return (status, answer, post(client, f"{mocked}?q=b"), post(client, imported)) == (
        200,
        '{"q": "a"}',
        404,
        202,
    )


def refused(client: Clients, resources: dict[str, Any]) -> str:
    """Why a stack of these resources is not made; "" if it is."""
    cloudformation, name = client("cloudformation"), f"gap-{uuid.uuid4().hex[:8]}"
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps({"Resources": resources}))
    soon(lambda: "_IN_PROGRESS" not in status(client, name))
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    reasons = [
        event.get("ResourceStatusReason", "")
        for event in events
        if event["ResourceStatus"] == "CREATE_FAILED"
    ]
    return reasons[-1] if reasons else ""


def status(client: Clients, name: str) -> str:
    """The status of a stack."""
    described = client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    return described[0]["StackStatus"]


def apigateway_services__refused(client: Clients) -> bool:
    """What the sandbox cannot run is refused at deployment, and what AWS refuses too."""

    def why(kind: str, target: str, **more: Any) -> str:
        integration = {
            "Type": kind,
            "IntegrationHttpMethod": "POST",
            "Uri": f"arn:aws:apigateway:us-east-1:{target}",
            **more,
        }
        return refused(client, answers(Integration=integration))

    sender = f"arn:aws:iam::000000000000:role/{role(client, 'apigateway.amazonaws.com')}"
    return (
        "The sandbox cannot run" in why("AWS", "comprehend:action/DetectText", Credentials=sender)
        and "Role ARN must be specified for AWS integrations" in why("AWS", "sqs:path/1/orders")
        and "only supports Lambda" in why("AWS_PROXY", "sqs:path/1/orders", Credentials=sender)
        and "must contain path or action" in why("AWS", "orders", Credentials=sender)
    )


def http_api(client: Clients, subtype: str, sender: str, **parameters: str) -> dict[str, Any]:
    """The resources of an HTTP API whose one route is such an integration."""
    api = {"ApiId": {"Ref": "Api"}}
    return {
        "Api": {
            "Type": "AWS::ApiGatewayV2::Api",
            "Properties": {"Name": "gap", "ProtocolType": "HTTP"},
        },
        "Integration": {
            "Type": "AWS::ApiGatewayV2::Integration",
            "Properties": {
                **api,
                "IntegrationType": "AWS_PROXY",
                "IntegrationSubtype": subtype,
                "PayloadFormatVersion": "1.0",
                "CredentialsArn": f"arn:aws:iam::000000000000:role/{sender}",
                "RequestParameters": parameters,
            },
        },
        "Route": {
            "Type": "AWS::ApiGatewayV2::Route",
            "Properties": {
                **api,
                "RouteKey": "POST /orders/{id}",
                "Target": {"Fn::Join": ["/", ["integrations", {"Ref": "Integration"}]]},
            },
        },
        "Stage": {
            "Type": "AWS::ApiGatewayV2::Stage",
            "Properties": {**api, "StageName": "$default", "AutoDeploy": True},
        },
    }


def apigateway_http_services(client: Clients) -> bool:
    """An HTTP API sends to a queue as its role, with attributes from the request's body."""
    url, arn, _ = queue(client)
    sender = role(client, "apigateway.amazonaws.com")
    resources = http_api(
        client,
        "SQS-SendMessage",
        sender,
        QueueUrl=url,
        MessageBody="$request.body",
        MessageAttributes="$request.body.attributes",
    )
    api = deploy(client, resources)["Api"]
    path = f"/_aws/execute-api/{api}/orders/7"
    body = json.dumps({"attributes": {"kind": {"DataType": "String", "StringValue": "new"}}})
    denied = post(client, path, body)
    allow(client, sender, "sqs:SendMessage", arn)
    status, _, answer = ask(client, path, body)
    messages = client("sqs").receive_message(QueueUrl=url, MessageAttributeNames=["All"])
    (message,) = messages.get("Messages") or [{}]
    return (
        (denied, status, message.get("Body")) == (403, 200, body)
        and message["MessageId"] in answer
        and message["MessageAttributes"]["kind"]["StringValue"] == "new"
    )


def apigateway_http_services__workflow(client: Clients) -> bool:
    """StartSyncExecution with its input from parts of the request; PutEvents beside it."""
    sender = role(client, "apigateway.amazonaws.com")
    allow(client, sender, "*", "*")
    started = http_api(
        client,
        "StepFunctions-StartSyncExecution",
        sender,
        StateMachineArn=machine(client, Type="Pass", End=True),
        Input='{"id": "${request.path.id}", "by": "${context.stage}", "n": ${request.body.n[1]}}',
    )
    events = http_api(
        client,
        "EventBridge-PutEvents",
        sender,
        Source="gap",
        DetailType="$request.querystring.kind",
        Detail="$request.body",
    )
    start, put = (deploy(client, one)["Api"] for one in (started, events))
    _, _, answer = ask(client, f"/_aws/execute-api/{start}/orders/7", '{"n": [1, 2]}')
    status, _, told = ask(client, f"/_aws/execute-api/{put}/orders/7?kind=made")
    return (
        status == 200
        and json.loads(told)["FailedEntryCount"] == 0
        and json.loads(json.loads(answer)["output"]) == {"id": "7", "by": "$default", "n": 2}
    )


def apigateway_http_services__refused(client: Clients) -> bool:
    """Unknown subtypes and missing parameters are refused at deployment and by the API."""
    sender = role(client, "apigateway.amazonaws.com")
    apis, api = client("apigatewayv2"), ""
    api = apis.create_api(Name="gap", ProtocolType="HTTP")["ApiId"]
    try:
        apis.create_integration(
            ApiId=api,
            IntegrationType="AWS_PROXY",
            IntegrationSubtype="SQS-SendMessage",
            CredentialsArn=f"arn:aws:iam::000000000000:role/{sender}",
            PayloadFormatVersion="1.0",
            RequestParameters={"QueueUrl": "u", "MessageBody": "b", "MessageAttributes": "{}"},
        )
    except apis.exceptions.BadRequestException as error:
        words = str(error)
    else:
        return False
    return (
        "Invalid source: {} specified for destination: MessageAttributes" in words
        and "The sandbox cannot run"
        in refused(client, http_api(client, "AppConfig-GetConfiguration", sender))
        and "from its Body"
        in refused(
            client,
            {
                "Api": {
                    "Type": "AWS::ApiGatewayV2::Api",
                    "Properties": {"ProtocolType": "HTTP", "Body": {"openapi": "3.0.1"}},
                }
            },
        )
        and "MessageBody is required"
        in refused(client, http_api(client, "SQS-SendMessage", sender, QueueUrl="u"))
    )


def apigateway_host__http(client: Clients) -> bool:
    """An HTTP API's endpoint is AWS's own, and the API answers under its host."""
    url, _, _ = queue(client)
    sender = role(client, "apigateway.amazonaws.com")
    allow(client, sender, "sqs:SendMessage", "*")
    resources = http_api(client, "SQS-SendMessage", sender, QueueUrl=url, MessageBody="hello")
    resources["Told"] = {
        "Type": "AWS::SSM::Parameter",
        "Properties": {"Type": "String", "Value": {"Fn::GetAtt": ["Api", "ApiEndpoint"]}},
    }
    made = deploy(client, resources)
    told = client("ssm").get_parameter(Name=made["Told"])["Parameter"]["Value"]
    host = f"{made['Api']}.execute-api.us-east-1.amazonaws.com"
    endpoint = client("apigatewayv2").get_api(ApiId=made["Api"])["ApiEndpoint"]
    return {told, endpoint} == {f"https://{host}"} and post(client, "/orders/7", host=host) == 200
