"""Gaps of API Gateway."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
import uuid
from typing import Any

from tests.sandbox.cloud import Clients, allow, deploy, role


def post(client: Clients, path: str, body: str = "{}", host: str = "") -> int:
    """The status of a POST to the server, under a host of its own or another."""
    request = urllib.request.Request(
        client.url + path,
        body.encode(),
        {"Content-Type": "application/json"} | ({"Host": host} if host else {}),
    )
    try:
        trusted = ssl.create_default_context(cafile=client.authority)
        with urllib.request.urlopen(request, context=trusted, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


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


def apigateway_sqs_role(client: Clients) -> bool:
    """An integration sends to a queue if its role may, and if API Gateway may assume it."""
    sqs, region = client("sqs"), "us-east-1"
    name = f"gap-{uuid.uuid4().hex[:8]}"
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = f"arn:aws:sqs:{region}:000000000000:{name}"
    may, foreign = role(client, "apigateway.amazonaws.com"), role(client, "lambda.amazonaws.com")
    allow(client, foreign, "sqs:SendMessage", arn)

    def sends_as(sender: str) -> str:
        integration = {
            "Type": "AWS",
            "IntegrationHttpMethod": "POST",
            "Uri": f"arn:aws:apigateway:{region}:sqs:path/000000000000/{name}",
            "Credentials": f"arn:aws:iam::000000000000:role/{sender}",
            "RequestTemplates": {"application/json": "Action=SendMessage&MessageBody=hello"},
            "IntegrationResponses": [
                {"StatusCode": "200", "SelectionPattern": "200"},
                {"StatusCode": "500"},
            ],
        }
        made = deploy(client, answers(Integration=integration))
        return f"/_aws/execute-api/{made['Api']}/prod/"

    as_may, as_foreign = sends_as(may), sends_as(foreign)
    denied = [post(client, as_may), post(client, as_foreign)]
    allow(client, may, "sqs:SendMessage", arn)
    allowed = post(client, as_may)
    attributes = sqs.get_queue_attributes(
        QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
    )["Attributes"]
    queued = json.loads(attributes["ApproximateNumberOfMessages"])
    return (denied, allowed, queued) == ([500, 500], 200, 1)
