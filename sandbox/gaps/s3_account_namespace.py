"""Buckets in the account's own namespace, made by CloudFormation.

Seen in MiniStack 1.5.33: BucketNamespace and BucketNamePrefix are ignored and the bucket gets a
generated name. A policy that names the bucket before it exists then names another one. Here the
name is the one that S3 gives: the prefix, the account, the Region and "an".
"""

from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services.cloudformation import provisioners

PATCHES = ("services.cloudformation.provisioners._RESOURCE_HANDLERS",)


def close() -> None:
    """Name the bucket before it is created, and again before it is compared in an update."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::S3::Bucket"]
    create, update = handlers["create"], handlers["update"]
    handlers["create"] = lambda logical_id, properties, stack: create(
        logical_id, named(properties), stack
    )
    handlers["update"] = lambda bucket, before, after, stack: update(
        bucket, named(before), named(after), stack
    )


def named(properties: dict[str, Any]) -> dict[str, Any]:
    """The properties, with the bucket's name if it is in the account's namespace."""
    if properties.get("BucketNamespace") != "account-regional":
        return properties
    name = f"{properties['BucketNamePrefix']}-{get_account_id()}-{get_region()}-an"
    return {**properties, "BucketName": name}
