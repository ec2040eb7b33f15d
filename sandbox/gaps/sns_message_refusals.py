"""Messages that SNS refuses, one by one and in a batch.

Empty ones, subjects, JSON without a default, attributes, groups and deduplication ids, and a batch
as a whole if one of its messages is wrong. Seen in MiniStack 1.5.33: most of it is published, and a
parameter that is empty is not told from one that is missing. AWS's words where they are recorded.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from gaps.sns_refusals import Refused, an_arn
from ministack.core.responses import get_region
from ministack.services import sns

PATCHES = (
    "services.sns.parse_qs",
    "services.sns._publish",
    "services.sns._publish_batch",
    "services.sns._topic_by_arn_any_scope",
    "services.sns._normalize_arn",
    "services.sns._message_payload_size",
    "services.sns._p",
)

LARGEST = 262_144  # bytes of a message with its attributes, and of a batch's messages together
ENTRY = re.compile(r"[A-Za-z0-9_-]{1,80}")
GROUP = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
TYPES = ("String", "Number", "Binary")


def close() -> None:
    """Keep what is empty, and look at each message before it is published."""
    sns.parse_qs = partial(sns.parse_qs, keep_blank_values=True)
    sns._publish = _checked(sns._publish, _one)
    sns._publish_batch = _checked(sns._publish_batch, _batch)


def _checked(act: Callable[..., Any], check: Callable[[dict], None]) -> Callable[..., Any]:
    def acted(params: dict[str, Any]) -> Any:
        try:
            check(params)
        except Refused as refused:
            return sns._error(refused.code, str(refused), refused.status)
        return act(params)

    return acted


def _one(params: dict[str, Any]) -> None:
    named = "TopicArn" if sns._p(params, "TopicArn") else "TargetArn"
    _message(params, "", _topic(params, named) if sns._p(params, named) else None)


def _topic(params: dict[str, Any], named: str) -> dict[str, Any] | None:
    """The topic that a parameter names; None if there is none, or it names something else."""
    arn = sns._normalize_arn(sns._p(params, named))
    if an_arn(named, arn)[3] != get_region():
        raise Refused(named)
    return sns._topic_by_arn_any_scope(arn)


def _batch(params: dict[str, Any]) -> None:
    topic = _topic(params, "TopicArn")
    if topic is None:
        return  # MiniStack says so
    entries, number = [], 1
    while (at := f"PublishBatchRequestEntries.member.{number}.") and f"{at}Id" in params:
        entries.append(at)
        number += 1
    ids = [sns._p(params, f"{at}Id") for at in entries]
    if not entries:
        raise Refused("The batch request doesn't contain any entries.", "EmptyBatchRequest")
    if len(entries) > 10:
        raise Refused(
            "The batch request contains more entries than permissible.",
            "TooManyEntriesInBatchRequest",
        )
    if not all(map(ENTRY.fullmatch, ids)):
        raise Refused(
            "The Id of a batch entry in a batch request doesn't abide by the specification.",
            "InvalidBatchEntryId",
        )
    if len(set(ids)) < len(ids):
        raise Refused(
            "Two or more batch entries in the request have the same Id.", "BatchEntryIdsNotDistinct"
        )
    sizes = [
        sns._message_payload_size(sns._p(params, f"{at}Message"), _attributes(params, at))
        for at in entries
    ]
    if sum(sizes) > _most(topic):
        raise Refused(
            "The length of all the messages put together is more than the limit.",
            "BatchRequestTooLong",
        )
    for at in entries:
        _message(params, at, topic)


def _most(topic: dict[str, Any] | None) -> int:
    """The size of a message that a topic takes, in bytes."""
    return int((topic or {"attributes": {}})["attributes"].get("MaximumMessageSize") or LARGEST)


def _message(params: dict[str, Any], at: str, topic: dict[str, Any] | None) -> None:
    text = sns._p(params, f"{at}Message")
    if not text:
        raise Refused("Empty message")
    if f"{at}Subject" in params:
        subject = sns._p(params, f"{at}Subject")
        if not 0 < len(subject) <= 100 or not re.fullmatch(r"[\x20-\x7e]+", subject):
            raise Refused("Subject")
    if sns._p(params, f"{at}MessageStructure"):
        _structure(sns._p(params, f"{at}MessageStructure"), text)
    attributes = _attributes(params, at)
    for name, attribute in attributes.items():
        _attribute(name, attribute)
    if sns._message_payload_size(text, attributes) > _most(topic):
        raise Refused("Message too long")
    fifo = bool(topic) and topic["attributes"].get("FifoTopic") == "true"
    _ids(params, at, fifo, topic)


def _structure(kind: str, text: str) -> None:
    if kind != "json":
        raise Refused("MessageStructure")
    try:
        parts = json.loads(text)
    except ValueError:
        raise Refused("Message Structure - JSON message body failed to parse") from None
    if not isinstance(parts, dict) or not isinstance(parts.get("default"), str):
        raise Refused("Message Structure - No default entry in JSON message body")


def _ids(params: dict[str, Any], at: str, fifo: bool, topic: dict[str, Any] | None) -> None:
    for name in ("MessageGroupId", "MessageDeduplicationId"):
        given = f"{at}{name}" in params
        value = sns._p(params, f"{at}{name}")
        if given and not fifo and name == "MessageDeduplicationId":
            raise Refused(
                "MessageDeduplicationId Reason: The request includes MessageDeduplicationId"
                " parameter that is not valid for this topic type"
            )
        if fifo and not given and name == "MessageGroupId":
            raise Refused("The MessageGroupId parameter is required for FIFO topics")
        hashed = topic and topic["attributes"].get("ContentBasedDeduplication") == "true"
        if fifo and not given and not hashed:
            raise Refused(
                "The topic should either have ContentBasedDeduplication enabled or"
                " MessageDeduplicationId provided explicitly"
            )
        if given and not GROUP.fullmatch(value):
            raise Refused(
                f"{name} Reason: {name} can only include alphanumeric and punctuation characters."
                " 1 to 128 in length"
            )


def _attributes(params: dict[str, Any], at: str) -> dict[str, dict[str, str]]:
    found, number = {}, 1
    while (here := f"{at}MessageAttributes.entry.{number}.") and f"{here}Name" in params:
        found[sns._p(params, f"{here}Name")] = {
            key: sns._p(params, f"{here}Value.{key}")
            for key in ("DataType", "StringValue", "BinaryValue")
            if f"{here}Value.{key}" in params
        }
        number += 1
    return found


def _name(name: str) -> str:
    """What SNS says against the name of an attribute."""
    if len(name) > 256:
        return "Length of message attribute name must be less than 256 bytes."
    for place, at in (("starting", 0), ("ending", -1)):
        if name[at:][:1] == ".":
            return f"Invalid message attribute name {place} with character '.' was found."
    if found := re.search(r"[^A-Za-z0-9_.-]", name):
        return (
            f"Invalid non-alphanumeric character '#x{ord(found[0]):X}' was found in the message"
            " attribute name. Can only include alphanumeric characters, hyphens, underscores, or"
            " dots."
        )
    return "Message attribute name can not have successive '.' character." if ".." in name else ""


def _attribute(name: str, attribute: dict[str, str]) -> None:
    if wrong := _name(name):
        raise Refused(wrong, "ParameterValueInvalid")
    kind = attribute.get("DataType", "").partition(".")[0]
    if kind not in TYPES:
        raise Refused(
            f"The message attribute '{name}' has an invalid message attribute type, the set of"
            " supported type prefixes is Binary, Number, and String.",
            "ParameterValueInvalid",
        )
    field = "BinaryValue" if kind == "Binary" else "StringValue"
    if field not in attribute and len(attribute) > 1:
        raise Refused(
            f"The message attribute '{name}' with type '{attribute['DataType']}' must use field"
            f" '{kind if kind == 'Binary' else 'String'}'.",
            "ParameterValueInvalid",
        )
    if not attribute.get(field):
        raise Refused(
            f"The message attribute '{name}' must contain non-empty message attribute value for"
            f" message attribute type '{attribute['DataType']}'.",
            "ParameterValueInvalid",
        )
    if kind == "Number" and not NUMBER.fullmatch(attribute[field]):
        raise Refused(
            f"Could not cast message attribute '{name}' value to number.", "ParameterValueInvalid"
        )
