"""What SQS refuses, by its API and by a template.

Ranges and letters of every parameter that a message, a receive or a queue has; dead-letter queues
that are not there, of another type or closed to the source; a queue of a name that is taken or was
deleted less than 60 s ago; a second purge within 60 s. Seen in MiniStack 1.5.33: most of it is
taken, and what is taken does harm later, or on AWS. The words are AWS's where they are recorded in
public; a dead-letter queue that is closed to the source is refused in ours.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import sqs
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.sqs._HANDLERS",
    "services.sqs._Err",
    "services.sqs._act_send_message",
    "services.sqs._queues",
    "services.sqs._queue_by_arn",
    "services.sqs._get_q",
    "services.sqs._validate_redrive_policy",
    "services.sqs._validate_numeric_attrs",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudformation.provisioners._sqs_queue_name",
)

QUIET = 60  # seconds after a deletion or a purge, of SQS time (API reference)
FIFO_ONLY = ("ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit")
SETTABLE = {
    "DelaySeconds",
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "Policy",
    "ReceiveMessageWaitTimeSeconds",
    "RedriveAllowPolicy",
    "RedrivePolicy",
    "SqsManagedSseEnabled",
    "VisibilityTimeout",
    *FIFO_ONLY,
}
NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
FIFO_NAME = re.compile(r"(?=.{1,80}\Z)[A-Za-z0-9_-]+\.fifo")
# Alphanumeric characters and punctuation (API reference of SendMessage).
GROUP = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
CHARACTERS = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")

_deleted: dict[tuple[str, str, str], float] = {}  # (account, Region, name) to SQS time
_purged: dict[str, float] = {}  # queue ARN to SQS time


def close() -> None:
    """Look at each request before MiniStack does."""
    for action, check in (
        ("CreateQueue", _create),
        ("SetQueueAttributes", _set),
        ("ReceiveMessage", _receive),
        ("ChangeMessageVisibility", _visibility),
        ("PurgeQueue", _purge),
    ):
        sqs._HANDLERS[action] = _checked(sqs._HANDLERS[action], check)
    # A batch's messages are sent one by one by this.
    sqs._act_send_message = _checked(sqs._act_send_message, _message)
    sqs._HANDLERS["SendMessage"] = _checked(sqs._HANDLERS["SendMessage"], _message)
    sqs._HANDLERS["DeleteQueue"] = _remembered(sqs._HANDLERS["DeleteQueue"])
    sqs._validate_redrive_policy = _redrive_policy
    sqs._validate_numeric_attrs = _numbers
    handlers = provisioners._RESOURCE_HANDLERS["AWS::SQS::Queue"]
    handlers["create"] = _made(handlers["create"])
    handlers["delete"] = _gone(handlers["delete"])


def _checked(act: Callable[..., Any], check: Callable[[dict, str], None]) -> Callable[..., Any]:
    def acted(data: dict[str, Any], url: str) -> Any:
        check(data, data.get("QueueUrl", url))
        return act(data, url)

    return acted


# ---- queues


def _create(data: dict, _url: str) -> None:
    name, attributes = data.get("QueueName") or "", data.get("Attributes") or {}
    _lower(attributes)
    if not name:
        return  # MiniStack says that it is missing
    fifo = attributes.get("FifoQueue") == "true"
    _named(name, fifo)
    _known(attributes, fifo, {"FifoQueue"})
    if sqs._queue_url(name) not in sqs._queues:
        _may_be_made(name)
    _target(attributes, fifo, _arn(name))


def _made(create: Callable[..., Any]) -> Callable[..., Any]:
    def made(logical_id: str, properties: dict, stack: str) -> Any:
        name, fifo = provisioners._sqs_queue_name(properties, stack, logical_id)
        _named(name, fifo)
        for only in FIFO_ONLY:
            if only in properties and not fifo:
                raise _only_fifo(only)
        if sqs._queue_url(name) in sqs._queues:
            raise ValueError(
                f"Resource of type 'AWS::SQS::Queue' with identifier '{name}' already exists."
            )
        _may_be_made(name)
        _target(properties, fifo, _arn(name))
        return create(logical_id, properties, stack)

    return made


def _named(name: str, fifo: bool) -> None:
    if fifo and not FIFO_NAME.fullmatch(name):
        raise sqs._Err(
            "InvalidParameterValue",
            "The name of a FIFO queue can only include alphanumeric characters, hyphens, or"
            " underscores, must end with .fifo suffix and be 1 to 80 in length",
        )
    if not fifo and not NAME.fullmatch(name):
        raise sqs._Err(
            "InvalidParameterValue",
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length",
        )


def _may_be_made(name: str) -> None:
    deleted = _deleted.get((get_account_id(), get_region(), name))
    if deleted is not None and sqs.time.time() < deleted + QUIET:
        raise sqs._Err(
            "QueueDeletedRecently",
            f"You must wait {QUIET} seconds after deleting a queue before you can create another"
            " with the same name.",
        )


def _remembered(delete: Callable[..., Any]) -> Callable[..., Any]:
    def deleted(data: dict[str, Any], url: str) -> Any:
        queue = sqs._get_q(data.get("QueueUrl", url))
        result = delete(data, url)
        _remember(queue["name"])
        return result

    return deleted


def _gone(delete: Callable[..., Any]) -> Callable[..., Any]:
    def gone(url: str, properties: dict) -> Any:
        queue = sqs._queues.get(url)
        result = delete(url, properties)
        if queue:
            _remember(queue["name"])
        return result

    return gone


def _remember(name: str) -> None:
    _deleted[get_account_id(), get_region(), name] = sqs.time.time()


def _set(data: dict, url: str) -> None:
    queue, attributes = sqs._get_q(url), data.get("Attributes") or {}
    _lower(attributes)
    _known(attributes, queue["is_fifo"], set())
    _target(attributes, queue["is_fifo"], queue["attributes"]["QueueArn"])


def _lower(attributes: dict) -> None:
    """Booleans are taken in any case."""
    for name, value in attributes.items():
        if str(value).lower() in ("true", "false"):
            attributes[name] = str(value).lower()


def _known(attributes: dict, fifo: bool, more: set[str]) -> None:
    for name in attributes:
        if name not in SETTABLE | more:
            raise sqs._Err("InvalidAttributeName", f"Unknown Attribute {name}.")
        if name in FIFO_ONLY and not fifo:
            raise _only_fifo(name)


def _only_fifo(name: str) -> Exception:
    return sqs._Err(
        "InvalidAttributeName", f"You can specify the {name} only when FifoQueue is set to true."
    )


def _numbers(attributes: dict) -> None:
    for name, (least, most) in sqs._NUMERIC_ATTR_RANGES.items():
        value = str(attributes.get(name, least))
        if not re.fullmatch(r"\d+", value) or not least <= int(value) <= most:
            raise sqs._Err("InvalidAttributeValue", f"Invalid value for the parameter {name}.")


def _redrive_policy(value: str) -> None:
    def refused(reason: str) -> Exception:
        return sqs._Err(
            "InvalidParameterValue",
            f"Value {value} for parameter RedrivePolicy is invalid. Reason: {reason}",
        )

    try:
        policy = json.loads(value)
    except ValueError:
        policy = None
    if not isinstance(policy, dict):
        raise refused("Redrive policy is not a valid JSON map.")
    for name in ("deadLetterTargetArn", "maxReceiveCount"):
        if name not in policy:
            raise refused(f"Redrive policy does not contain mandatory attribute: {name}.")
    count = str(policy["maxReceiveCount"])
    if not re.fullmatch(r"\d+", count) or not 1 <= int(count) <= 1000:
        raise refused(
            f"Invalid value for maxReceiveCount: {count}, valid values are from 1 to 1000 both"
            " inclusive."
        )
    if sqs._queue_by_arn(str(policy["deadLetterTargetArn"])) is None:
        raise refused("Dead letter target does not exist.")


def _target(attributes: dict, fifo: bool, source: str) -> None:
    """Whether the dead-letter queue of a redrive policy takes this source."""
    value = attributes.get("RedrivePolicy")
    if not value:
        return
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    _redrive_policy(text)
    target = sqs._queue_by_arn(json.loads(text)["deadLetterTargetArn"])
    allowed = json.loads(target["attributes"].get("RedriveAllowPolicy") or "{}")
    permission = allowed.get("redrivePermission", "allowAll")
    if target["is_fifo"] != fifo:
        reason = "Dead-letter queue must be same type of queue as the source."
    elif permission == "denyAll" or (
        permission == "byQueue" and source not in allowed.get("sourceQueueArns", [])
    ):
        reason = "The dead-letter queue's redrive allow policy does not allow this queue."
    else:
        return
    raise sqs._Err(
        "InvalidParameterValue",
        f"Value {text} for parameter RedrivePolicy is invalid. Reason: {reason}",
    )


def _arn(name: str) -> str:
    return f"arn:aws:sqs:{get_region()}:{get_account_id()}:{name}"


def _purge(_data: dict, url: str) -> None:
    queue = sqs._get_q(url, "sqs:PurgeQueue")
    arn, now = queue["attributes"]["QueueArn"], sqs.time.time()
    if now < _purged.get(arn, float("-inf")) + QUIET:
        raise sqs._Err(
            "PurgeQueueInProgress",
            f"Only one PurgeQueue operation on {queue['name']} is allowed every {QUIET} seconds.",
            403,
        )
    _purged[arn] = now
    queue["dedup_cache"].clear()


# ---- messages


def _message(data: dict, url: str) -> None:
    queue = sqs._get_q(url)
    delay = data.get("DelaySeconds")
    if delay is not None and not 0 <= int(delay) <= 900:
        raise _value(delay, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")
    for name in ("MessageGroupId", "MessageDeduplicationId"):
        if (value := data.get(name)) is None:
            continue
        if name == "MessageDeduplicationId" and not queue["is_fifo"]:
            raise _value(
                value,
                name,
                "The request includes a parameter that is not valid for this queue type.",
            )
        if not GROUP.fullmatch(value):
            raise _value(
                value,
                name,
                f"{name} can only include alphanumeric and punctuation characters. 1 to 128 in"
                " length.",
            )
    attributes = data.get("MessageAttributes") or {}
    if len(attributes) > 10:
        raise _parameter(
            f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum [10]."
        )
    for name, attribute in attributes.items():
        _attribute(name, attribute)


def _attribute(name: str, attribute: dict) -> None:
    kind = attribute.get("DataType") or ""
    base = kind.partition(".")[0]
    if base not in ("String", "Number", "Binary"):
        raise _parameter(
            f"The type of message (user) attribute '{name}' is invalid. You must use only the"
            " following supported type prefixes: Binary, Number, String."
        )
    value = attribute.get("BinaryValue" if base == "Binary" else "StringValue")
    if not value:
        raise _parameter(
            f"Message (user) attribute '{name}' must contain a non-empty value of type '{base}'."
        )
    if base != "Binary" and (found := CHARACTERS.search(value)):
        raise _parameter(
            f"Invalid binary character '#x{ord(found[0]):X}' was found in the message attribute"
            f" '{name}' value, the set of allowed characters is #x9 | #xA | #xD | [#x20 to #xD7FF]"
            " | [#xE000 to #xFFFD] | [#x10000 to #x10FFFF]"
        )
    if base == "Number" and not NUMBER.fullmatch(value):
        raise _parameter(f"Can't cast the value of message (user) attribute '{name}' to a number.")


def _receive(data: dict, _url: str) -> None:
    wait = data.get("WaitTimeSeconds")
    if wait is not None and not 0 <= int(wait) <= 20:
        raise _value(wait, "WaitTimeSeconds", "Must be >= 0 and <= 20, if provided.")
    _visibility(data, "")


def _visibility(data: dict, _url: str) -> None:
    seconds = data.get("VisibilityTimeout")
    if seconds is not None and not 0 <= int(seconds) <= 43200:
        raise _value(seconds, "VisibilityTimeout", "Must be between 0 and 43200, if provided.")


def _value(value: Any, parameter: str, reason: str) -> Exception:
    return _parameter(f"Value {value} for parameter {parameter} is invalid. Reason: {reason}")


def _parameter(text: str) -> Exception:
    return sqs._Err("InvalidParameterValue", text)
