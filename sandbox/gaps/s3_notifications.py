"""S3 tells those who let it, of all that it tells on AWS, and takes only such configurations.

A destination must be there and admit the bucket when the configuration is put: the policy of a
function is asked like a queue's or topic's, and again at each delivery. Two configurations may not
share an event and a key, destinations are no FIFO ones, and events are those that AWS knows.

Seen in MiniStack 1.5.33 with AUTH=true: a function's policy is never asked, all of those
configurations are taken, a refusal's text names the destination, changed tags and ACLs are no
events, keys that DeleteObjects does not find are none, and a deleted object has a size and an ETag.
"""

from itertools import combinations
from typing import Any

import roles
from ministack.services import lambda_svc, s3

PATCHES = (
    *roles.NEEDS,
    "services.lambda_svc._get_func_record_for_ref",
    "services.s3._validate_notification_configs",
    "services.s3._validate_notification_target_arn",
    "services.s3._notification_destination_exists",
    "services.s3._notification_destination_allows",
    "services.s3._deliver_event_to_sqs",
    "services.s3._deliver_event_to_sns",
    "services.s3._deliver_event_to_lambda",
    "services.s3._bucket_owner_account",
    "services.s3._buckets",
    "services.s3._bucket_versioning",
    "services.s3._put_object_tagging",
    "services.s3._delete_object_tagging",
    "services.s3._put_object_acl",
    "services.s3._get_object_acl",
    "services.s3._delete_objects",
    "services.s3._fire_s3_event_async",
    "services.s3._S3_EVENTBRIDGE_EVENT_DETAIL_TYPE",
    "services.s3._error",
    "services.s3.S3_NS",
    "services.s3.fromstring",
)

UNREACHABLE = "Unable to validate the following destination configurations"
WORDS = {"sqs": "queue", "sns": "topic", "lambda": "Lambda"}
FAMILIES = {  # the events that may be asked for, each family also with :*
    "ObjectCreated": ("Put", "Post", "Copy", "CompleteMultipartUpload"),
    "ObjectRemoved": ("Delete", "DeleteMarkerCreated"),
    "ObjectRestore": ("Post", "Completed", "Delete"),
    "ObjectTagging": ("Put", "Delete"),
    "ObjectAcl": ("Put",),
    "Replication": (
        "OperationFailedReplication",
        "OperationMissedThreshold",
        "OperationReplicatedAfterThreshold",
        "OperationNotTracked",
    ),
    "LifecycleExpiration": ("Delete", "DeleteMarkerCreated"),
}
EVENTS = {
    *(f"s3:{family}:{kind}" for family, kinds in FAMILIES.items() for kind in (*kinds, "*")),
    "s3:ReducedRedundancyLostObject",
    "s3:LifecycleTransition",
    "s3:IntelligentTiering",
}
OBJECT = ("size", "eTag")  # what a record says of an object that is still there


def close() -> None:
    """Check configurations, ask functions, and tell of what is left out."""
    s3._validate_notification_configs = check
    s3._deliver_event_to_lambda = _asking(s3._deliver_event_to_lambda)
    for name in ("sqs", "sns", "lambda"):
        setattr(s3, f"_deliver_event_to_{name}", _exact(getattr(s3, f"_deliver_event_to_{name}")))
    s3._put_object_tagging = _telling(s3._put_object_tagging, "s3:ObjectTagging:Put")
    s3._delete_object_tagging = _telling(s3._delete_object_tagging, "s3:ObjectTagging:Delete")
    s3._put_object_acl = _telling_of_changes(s3._put_object_acl)
    s3._delete_objects = _telling_of_absent_keys(s3._delete_objects)
    s3._S3_EVENTBRIDGE_EVENT_DETAIL_TYPE |= {
        "ObjectTagging:Put": "Object Tags Added",
        "ObjectTagging:Delete": "Object Tags Deleted",
        "ObjectAcl:Put": "Object ACL Updated",
    }


def check(
    configs: list[dict], region: str, bucket: str = "", skip_destination_validation: bool = False
) -> tuple | None:
    """S3's refusal of a notification configuration, if there is one."""
    for one in configs:
        for event in one["events"]:
            if event not in EVENTS:
                return _refused(f"The event '{event}' is not supported for notifications", event)
        if error := s3._validate_notification_target_arn(one["type"], one["arn"], region):
            return error
    for first, second in combinations(configs, 2):
        if text := _overlap(first, second):
            return _refused(text)
    if skip_destination_validation:
        return None
    for one in configs:
        if problem := _unreachable(one, region, bucket):
            return _refused(UNREACHABLE, one["arn"], problem)
    return None


def _refused(text: str, name: str = "", value: str = "") -> tuple:
    extra = {"ArgumentName": name, "ArgumentValue": value} if name else None
    return s3._error("InvalidArgument", text, 400, extra=extra)


def _overlap(first: dict, second: dict) -> str:
    """What AWS says where both would tell of one event of one key; "" where they cannot."""
    if not any(_one_covers(a, b) for a in first["events"] for b in second["events"]):
        return ""
    edges = [(one["filter_prefix"] or "", one["filter_suffix"] or "") for one in (first, second)]
    if not any(edge for pair in edges for edge in pair):
        return (
            "Configurations overlap. Configurations on the same bucket cannot share a common event"
            " type."
        )
    (prefix, suffix), (other_prefix, other_suffix) = edges
    prefixes = prefix.startswith(other_prefix) or other_prefix.startswith(prefix)
    suffixes = suffix.endswith(other_suffix) or other_suffix.endswith(suffix)
    if not (prefixes and suffixes):
        return ""
    return (
        "Configuration is ambiguously defined. Cannot have overlapping suffixes in two rules if the"
        " prefixes are overlapping for the same event type."
    )


def _one_covers(first: str, second: str) -> bool:
    return (
        first == second
        or (first.endswith(":*") and second.startswith(first[:-1]))
        or (second.endswith(":*") and first.startswith(second[:-1]))
    )


def _unreachable(one: dict, region: str, bucket: str) -> str:
    """Why S3 cannot reach a destination; "" if it can."""
    kind, arn = one["type"], one["arn"]
    if kind != "lambda" and arn.endswith(".fifo"):
        return f"FIFO {kind.upper()} {WORDS[kind]}s are not supported."
    if kind == "lambda":
        there = lambda_svc._get_func_record_for_ref(arn)[1]
        admitted = there and _function_admits(arn, bucket)
    else:
        there = s3._notification_destination_exists(kind, arn, region)
        owner = s3._bucket_owner_account(bucket) or ""
        admitted = there and s3._notification_destination_allows(kind, arn, bucket, owner)
    if not there:
        return f"The destination {WORDS[kind]} does not exist"
    if admitted:
        return ""
    if kind == "lambda":
        return f"Not authorized to invoke function [{arn}]"
    return (
        f"Permissions on the destination {WORDS[kind]} do not allow S3 to publish notifications"
        " from this bucket"
    )


def _function_admits(arn: str, bucket: str) -> bool:
    return roles.admits(
        "s3.amazonaws.com",
        "lambda:InvokeFunction",
        arn,
        aws_SourceArn=f"arn:aws:s3:::{bucket}",
        aws_SourceAccount=s3._bucket_owner_account(bucket) or "",
    )


def _asking(deliver: Any) -> Any:
    def deliver_if_admitted(arn: str, payload: dict, region: str) -> None:
        if _function_admits(arn, payload["Records"][0]["s3"]["bucket"]["name"]):
            deliver(arn, payload, region)

    return deliver_if_admitted


def _exact(deliver: Any) -> Any:
    """Leave out of a record what S3 says of objects that are there only."""

    def deliver_exact(arn: str, payload: dict, *more: Any, **named: Any) -> None:
        for record in payload.get("Records", []):
            left_out: tuple[str, ...] = ()
            if record["eventName"].startswith("ObjectRemoved:"):
                left_out = OBJECT
            elif record["eventName"].startswith(("ObjectTagging:", "ObjectAcl:")):
                left_out = ("size",)
            told = record["s3"]["object"]
            record["s3"]["object"] = {
                name: value for name, value in told.items() if name not in left_out
            }
        deliver(arn, payload, *more, **named)

    return deliver_exact


def _telling(change: Any, event: str) -> Any:
    def change_and_tell(bucket: str, key: str, *more: Any, **named: Any) -> Any:
        answer = change(bucket, key, *more, **named)
        if answer[0] < 300:
            _tell(bucket, key, event, answer[1].get("x-amz-version-id"))
        return answer

    return change_and_tell


def _telling_of_changes(put_acl: Any) -> Any:
    def put_and_tell(bucket: str, key: str, *more: Any, **named: Any) -> Any:
        before = s3._get_object_acl(bucket, key)[2]
        answer = put_acl(bucket, key, *more, **named)
        if answer[0] < 300 and s3._get_object_acl(bucket, key)[2] != before:
            _tell(bucket, key, "s3:ObjectAcl:Put", None)
        return answer

    return put_and_tell


def _tell(bucket: str, key: str, event: str, version: str | None) -> None:
    tag = s3._buckets[bucket]["objects"][key]["etag"]
    s3._fire_s3_event_async(bucket, key, event, etag=tag, version_id=version)


def _telling_of_absent_keys(delete: Any) -> Any:
    """A key that is not there is deleted as well, where there are no versions."""

    def delete_and_tell(bucket: str, body: bytes, *more: Any, **named: Any) -> Any:
        absent = list(_absent(bucket, body)) if bucket in s3._buckets else []
        answer = delete(bucket, body, *more, **named)
        if answer[0] < 300:
            for key in absent:
                s3._fire_s3_event_async(bucket, key, "s3:ObjectRemoved:Delete")
        return answer

    return delete_and_tell


def _absent(bucket: str, body: bytes) -> Any:
    if s3._bucket_versioning.get(bucket):
        return
    try:
        asked = s3.fromstring(body)
    except (SyntaxError, ValueError):  # what is no XML is refused later
        return
    for one in asked.iter(f"{{{s3.S3_NS}}}Object"):
        named = {child.tag.rpartition("}")[2]: child.text or "" for child in one}
        if named.keys() == {"Key"} and named["Key"] not in s3._buckets[bucket]["objects"]:
            yield named["Key"]
