"""What a function in Node.js gets in the place of AWS's SDK for JavaScript."""

from __future__ import annotations

import pytest
from botocore.exceptions import UnknownServiceError

from sandbox import sdk_bridge


@pytest.mark.parametrize(
    ("package", "name", "operation"),
    [
        ("s3", "S3", "ListObjectVersions"),
        ("ec2", "EC2", "RevokeSecurityGroupEgress"),
        ("sfn", "SFN", "StartExecution"),
        ("cloudwatch-logs", "CloudWatchLogs", "PutRetentionPolicy"),
        ("cognito-identity-provider", "CognitoIdentityProvider", "AdminCreateUser"),
        ("elastic-load-balancing", "ElasticLoadBalancing", "DescribeTags"),
        ("elastic-load-balancing-v2", "ElasticLoadBalancingV2", "DescribeTags"),
        ("eventbridge", "EventBridge", "PutEvents"),
        ("route-53", "Route53", "ChangeResourceRecordSets"),
        ("auto-scaling", "AutoScaling", "SetDesiredCapacity"),
        ("secrets-manager", "SecretsManager", "GetSecretValue"),
        ("api-gateway", "APIGateway", "UpdateAccount"),
    ],
)
def test_a_package_has_its_own_names(package: str, name: str, operation: str) -> None:
    described = sdk_bridge.described(package)
    assert described["name"] == name
    assert operation in described["operations"]


def test_a_package_that_aws_does_not_have_is_unknown() -> None:
    with pytest.raises(UnknownServiceError):
        sdk_bridge.described("shop")


@pytest.mark.parametrize("parameters", [{}, {"Bucket": 1}, {"Bucket": "shop", "Size": 1}])
def test_what_boto3_refuses_is_an_error_of_the_call(parameters: dict[str, object]) -> None:
    error = sdk_bridge.answer("s3", "GetBucketTagging", parameters)["error"]
    assert error["name"].endswith("Error") and error["message"]
