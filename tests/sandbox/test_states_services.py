"""How services are spelled: names by botocore's models, with what was recorded on AWS."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from sandbox.states import services


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("dynamodb", "DynamoDb"),
        ("sfn", "Sfn"),
        ("sqs", "Sqs"),
        ("s3", "S3"),
        ("eventbridge", "EventBridge"),
        ("secretsmanager", "SecretsManager"),
        ("apigateway", "ApiGateway"),
        ("ec2", "Ec2"),
        ("cloudwatchlogs", "CloudWatchLogs"),
        ("sesv2", "SesV2"),
    ],
)
def test_services_are_called_as_in_sdk_2(service: str, name: str) -> None:
    assert services.sdk_2(service) == name


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("MD5OfMessageBody", "Md5OfMessageBody"),
        ("ETag", "ETag"),
        ("SSEKMSKeyId", "SsekmsKeyId"),
        ("executionArn", "ExecutionArn"),
        ("ARN", "Arn"),
        ("MessageId", "MessageId"),
    ],
)
def test_members_are_spelled_as_in_sdk_2(name: str, spelled: str) -> None:
    assert services.pascal(name) == spelled


@pytest.mark.parametrize(
    ("service", "optimized", "code", "error"),
    [
        ("sns", True, "NotFound", "SNS.NotFoundException"),
        ("sns", True, "InvalidParameter", "SNS.InvalidParameterException"),
        ("sns", True, "AuthorizationError", "SNS.AuthorizationErrorException"),
        ("sqs", True, "MissingParameter", "SQS.AmazonSQSException"),
        ("sqs", True, "QueueDoesNotExist", "SQS.AmazonSQSException"),
        ("dynamodb", True, "ValidationException", "DynamoDB.AmazonDynamoDBException"),
        (
            "dynamodb",
            True,
            "ConditionalCheckFailedException",
            "DynamoDB.ConditionalCheckFailedException",
        ),
        ("dynamodb", False, "ValidationException", "DynamoDb.DynamoDbException"),
        ("lambda", True, "AccessDeniedException", "Lambda.AWSLambdaException"),
        ("lambda", True, "TooManyRequestsException", "Lambda.TooManyRequestsException"),
        (
            "states",
            True,
            "StateMachineDoesNotExist",
            "StepFunctions.StateMachineDoesNotExistException",
        ),
        ("sfn", False, "StateMachineDoesNotExist", "Sfn.StateMachineDoesNotExistException"),
        ("sfn", False, "TaskTimedOut", "Sfn.TaskTimedOutException"),
        ("s3", False, "NoSuchKey", "S3.NoSuchKeyException"),
        ("s3", False, "InvalidRange", "S3.S3Exception"),
        ("sqs", False, "QueueDoesNotExist", "Sqs.QueueDoesNotExistException"),
        ("sqs", False, "AccessDenied", "Sqs.SqsException"),
    ],
)
def test_an_error_has_the_name_that_its_sdk_gives_it(
    service: str, optimized: bool, code: str, error: str
) -> None:
    said = ClientError(
        {
            "Error": {"Code": code, "Message": "no"},
            "ResponseMetadata": {"HTTPStatusCode": 400, "RequestId": "r"},
        },
        "Call",
    )
    found = services.failed(service, optimized, said)
    assert found.error == error
    assert found.cause and found.cause.startswith("no (Service: ")


def test_parameters_are_spelled_and_typed_by_the_model() -> None:
    shape = services.operation("sfn", "startExecution").input_shape
    told = services.told(shape, {"StateMachineArn": "a", "Input": {"n": 1}, "Other": 2})
    assert told == {"stateMachineArn": "a", "input": '{"n":1}'}
    shape = services.operation("s3", "putObject").input_shape
    assert services.told(shape, {"Bucket": "b", "Key": "k", "Body": {"n": 1}})["Body"] == b'{"n":1}'


def test_there_is_no_action_that_no_model_has() -> None:
    assert services.operation("sqs", "sendMessages") is None
    assert services.operation("nowhere", "send") is None
