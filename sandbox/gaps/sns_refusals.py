"""Topics and subscriptions that SNS refuses, by its API and by a template.

Names, attributes, protocols and endpoints, what a FIFO topic and a FIFO queue may have to do with
each other, filter and redrive policies, a delivery stream without a role, the same subscription
with other attributes. Seen in MiniStack 1.5.33: nearly all of it is taken, errors have the name of
their class and not AWS's code, and a template's FIFO topic gets a name without .fifo. The words are
AWS's where they are recorded; that a delivery stream needs a role is told in ours.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import filter_policies
from ministack.core.responses import get_region
from ministack.services import sns
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.sns._create_topic",
    "services.sns._set_topic_attributes",
    "services.sns._subscribe",
    "services.sns._set_subscription_attributes",
    "services.sns._error",
    "services.sns._p",
    "services.sns._topic_by_arn_any_scope",
    "services.sns._find_subscription",
    "services.sns._sub_arn_to_topic",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudformation.provisioners._physical_name",
    "services.cloudformation.provisioners._sns_sub_attributes",
)

PROTOCOLS = {
    *("http", "https", "email", "email-json", "sms", "sqs", "application", "lambda", "firehose")
}
RAW = {"http", "https", "sqs", "firehose"}  # that take raw delivery
MOST_POLICIES = 200  # filter policies of a topic (developer guide)
NAME = re.compile(r"[A-Za-z0-9_-]{1,256}")
FIFO_NAME = re.compile(r"(?=.{1,256}\Z)[A-Za-z0-9_-]+\.fifo")
ENDPOINTS = {
    "http": (r"http://.+", "Endpoint must match the specified protocol"),
    "https": (r"https://.+", "Endpoint must match the specified protocol"),
    "email": (r"[^@\s]+@[^@\s]+", "Email address"),
    "email-json": (r"[^@\s]+@[^@\s]+", "Email address"),
    "sqs": (r"arn:[^:]+:sqs:[^:]+:\d{12}:[^:/]+", "SQS endpoint ARN"),
    "lambda": (r"arn:[^:]+:lambda:[^:]+:\d{12}:function:.+", "Lambda endpoint ARN"),
    "firehose": (r"arn:[^:]+:firehose:[^:]+:\d{12}:deliverystream/.+", "Firehose endpoint ARN"),
}
SUBSCRIPTION = {
    *("DeliveryPolicy", "FilterPolicy", "FilterPolicyScope", "RawMessageDelivery"),
    *("RedrivePolicy", "ReplayPolicy", "SubscriptionRoleArn"),
}


class Refused(ValueError):
    """AWS refuses: its words and its code."""

    def __init__(self, text: str, code: str = "InvalidParameter", status: int = 400) -> None:
        super().__init__(f"Invalid parameter: {text}" if code == "InvalidParameter" else text)
        self.code, self.status = code, status


def close() -> None:
    """Look at each request, and at each resource of a template, before MiniStack does."""
    error = sns._error

    def error_by_its_code(code: str, message: str, status: int) -> Any:
        return error(code.replace("InvalidParameterException", "InvalidParameter"), message, status)

    sns._error = error_by_its_code
    for action, check in (
        ("_create_topic", _create_topic),
        ("_set_topic_attributes", _set_topic_attributes),
        ("_subscribe", _subscribe),
        ("_set_subscription_attributes", _set_subscription_attributes),
    ):
        setattr(sns, action, _checked(getattr(sns, action), check))
    topics = provisioners._RESOURCE_HANDLERS["AWS::SNS::Topic"]
    topics["create"], topics["update"] = _made(topics["create"]), _changed(topics["update"])
    subscriptions = provisioners._RESOURCE_HANDLERS["AWS::SNS::Subscription"]
    for verb, at in (("create", 1), ("update", 2)):
        subscriptions[verb] = _possible(subscriptions[verb], at)


def _checked(act: Callable[..., Any], check: Callable[[dict], None]) -> Callable[..., Any]:
    def acted(params: dict[str, Any]) -> Any:
        try:
            check(params)
        except Refused as refused:
            return sns._error(refused.code, str(refused), refused.status)
        return act(params)

    return acted


def _entries(params: dict[str, Any]) -> dict[str, str]:
    """The attributes of a request."""
    found, number = {}, 1
    while key := sns._p(params, f"Attributes.entry.{number}.key"):
        found[key] = sns._p(params, f"Attributes.entry.{number}.value")
        number += 1
    return found


# ---- topics


def _create_topic(params: dict[str, Any]) -> None:
    attributes = _entries(params)
    _topic_name(sns._p(params, "Name"), attributes.get("FifoTopic", "").lower() == "true")
    for name, value in attributes.items():
        _topic_attribute(name, value, "Attributes Reason: ")


def _topic_name(name: str, fifo: bool) -> None:
    if fifo and not FIFO_NAME.fullmatch(name):
        raise Refused(
            "Fifo Topic names must end with .fifo and must be made up of only uppercase and"
            " lowercase ASCII letters, numbers, underscores, and hyphens, and must be between 1 and"
            " 256 characters long."
        )
    if not fifo and not NAME.fullmatch(name):
        raise Refused("Topic Name")


def _set_topic_attributes(params: dict[str, Any]) -> None:
    _topic_attribute(sns._p(params, "AttributeName"), sns._p(params, "AttributeValue"), "")


def _topic_attribute(name: str, value: str, where: str) -> None:
    if name == "SignatureVersion" and value not in ("1", "2"):
        raise Refused(f"{where}SignatureVersion: Invalid value [{value}]. Must be 1 or 2")
    if name in ("ContentBasedDeduplication", "FifoTopic") and value.lower() not in (
        "true",
        "false",
    ):
        raise Refused(f"{where}{name}: Invalid value [{value}]. Must be true or false.")
    if name == "DeliveryPolicy" and value:
        _delivery_policy(value, where)


def _delivery_policy(text: str, where: str) -> None:
    try:
        policy = json.loads(text)
    except ValueError:
        raise Refused(f"{where}DeliveryPolicy: failed to parse JSON") from None
    http = policy.get("http", policy) if isinstance(policy, dict) else {}
    retries = http.get("healthyRetryPolicy") or http.get("defaultHealthyRetryPolicy") or {}
    for name, least, most in (
        ("numRetries", 0, 100),
        ("minDelayTarget", 1, 3600),
        ("maxDelayTarget", 1, 3600),
    ):
        value = retries.get(name, least)
        if not isinstance(value, int) or not least <= value <= most:
            raise Refused(f"{where}DeliveryPolicy: {name} must be from {least} to {most}")
    if retries.get("minDelayTarget", 1) > retries.get("maxDelayTarget", 3600):
        raise Refused(f"{where}DeliveryPolicy: maxDelayTarget must not be below minDelayTarget")


def _made(create: Callable[..., Any]) -> Callable[..., Any]:
    """A template's topic with a name that AWS would take or give."""

    def made(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        if _fifo(properties) and not properties.get("TopicName"):
            name = provisioners._physical_name(stack, logical_id, max_len=251)
            properties = {**properties, "TopicName": f"{name}.fifo"}
        _template_topic(properties)
        return create(logical_id, properties, stack)

    return made


def _changed(update: Callable[..., Any]) -> Callable[..., Any]:
    def changed(
        arn: str, old: dict[str, Any], new: dict[str, Any], *more: Any, **named: Any
    ) -> Any:
        if _fifo(new) and not new.get("TopicName"):  # it keeps the name that it was given
            given = {"TopicName": arn.rpartition(":")[2]}
            old, new = {**old, **given}, {**new, **given}
        _template_topic(new)
        return update(arn, old, new, *more, **named)

    return changed


def _fifo(properties: dict[str, Any]) -> bool:
    return str(properties.get("FifoTopic", "")).lower() == "true"


def _template_topic(properties: dict[str, Any]) -> None:
    if name := properties.get("TopicName"):
        _topic_name(name, _fifo(properties))
    if "SignatureVersion" in properties:
        _topic_attribute("SignatureVersion", str(properties["SignatureVersion"]), "")


# ---- subscriptions


def _subscribe(params: dict[str, Any]) -> None:
    arn, protocol = sns._p(params, "TopicArn"), sns._p(params, "Protocol")
    parts = arn.split(":")
    if len(parts) < 6:
        raise Refused(f"TopicArn Reason: An ARN must have at least 6 elements, not {len(parts)}")
    if parts[3] != get_region():
        raise Refused("TopicArn")
    topic = sns._topic_by_arn_any_scope(arn)
    if topic is None:
        return  # MiniStack says so
    attributes, endpoint = _entries(params), sns._p(params, "Endpoint")
    _subscription(topic, protocol, endpoint, attributes, "Attributes Reason: ")
    for one in topic["subscriptions"]:
        same = (one["protocol"], one["endpoint"]) == (protocol, endpoint)
        if same and any(one["attributes"].get(key) != value for key, value in attributes.items()):
            raise Refused(
                "Attributes Reason: Subscription already exists with different attributes"
            )


def _set_subscription_attributes(params: dict[str, Any]) -> None:
    arn = sns._p(params, "SubscriptionArn")
    if len(parts := arn.split(":")) < 6:
        raise Refused(
            f"SubscriptionArn Reason: An ARN must have at least 6 elements, not {len(parts)}"
        )
    topic = sns._topic_by_arn_any_scope(sns._sub_arn_to_topic.get(arn) or "")
    subscription = topic and sns._find_subscription(topic["arn"], arn)
    if not subscription:
        return
    name, value = sns._p(params, "AttributeName"), sns._p(params, "AttributeValue")
    if name not in SUBSCRIPTION:
        raise Refused("AttributeName")
    attributes = {**subscription["attributes"], name: value}
    _attributes(topic, subscription["protocol"], attributes, changed={name}, where="")


def _possible(make: Callable[..., Any], at: int) -> Callable[..., Any]:
    """A template's subscription, if it may be."""

    def done(*arguments: Any, **more: Any) -> Any:
        properties = arguments[at]
        topic = sns._topic_by_arn_any_scope(properties.get("TopicArn", ""))
        if topic is None:
            raise Refused("Topic does not exist", "NotFound", 404)
        attributes = {k: v for k, v in provisioners._sns_sub_attributes(properties).items() if v}
        _subscription(topic, properties["Protocol"], properties.get("Endpoint", ""), attributes, "")
        return make(*arguments, **more)

    return done


def _subscription(
    topic: dict, protocol: str, endpoint: str, attributes: Mapping[str, str], where: str
) -> None:
    if protocol not in PROTOCOLS:
        raise Refused(f"Amazon SNS does not support this protocol string: {protocol}")
    pattern, said = ENDPOINTS.get(protocol, (r".+", "Endpoint"))
    if not re.fullmatch(pattern, endpoint):
        raise Refused(said)
    fifo = _is_fifo(topic)
    if fifo and protocol != "sqs":
        raise Refused(f"Invalid protocol type: {protocol}")
    if not fifo and protocol == "sqs" and endpoint.endswith(".fifo"):
        raise Refused(
            "Invalid parameter: Endpoint Reason: FIFO SQS Queues can not be subscribed to standard"
            " SNS topics"
        )
    for name in attributes:
        if name not in SUBSCRIPTION:
            raise Refused(f"{where}Unknown attribute {name}")
    if protocol == "firehose" and not attributes.get("SubscriptionRoleArn"):
        raise Refused(f"{where}SubscriptionRoleArn is required for the protocol firehose")
    changed = set(attributes)
    _attributes(topic, protocol, attributes, changed=changed, where=where, endpoint=endpoint)


def _attributes(
    topic: dict,
    protocol: str,
    attributes: Mapping[str, str],
    *,
    changed: set[str],
    where: str,
    endpoint: str = "",
) -> None:
    if "RawMessageDelivery" in changed:
        raw = attributes["RawMessageDelivery"]
        if raw.lower() not in ("true", "false"):
            raise Refused(
                f"{where}RawMessageDelivery: Invalid value [{raw}]. Must be true or false."
            )
        if raw.lower() == "true" and protocol not in RAW:
            raise Refused(
                f"{where}Delivery protocol [{protocol}] does not support raw message delivery."
            )
    scope = attributes.get("FilterPolicyScope") or "MessageAttributes"
    if scope not in filter_policies.SCOPES:
        raise Refused(
            f"{where}FilterPolicyScope: Invalid value [{scope}]. Please use either MessageBody or"
            " MessageAttributes"
        )
    if changed & {"FilterPolicy", "FilterPolicyScope"}:
        if said := filter_policies.problem(attributes.get("FilterPolicy", ""), scope):
            raise Refused(f"{where}{said}")
        others = [
            one
            for one in topic["subscriptions"]
            if one["attributes"].get("FilterPolicy") and one["endpoint"] != endpoint
        ]
        if endpoint and attributes.get("FilterPolicy") and len(others) >= MOST_POLICIES:
            raise Refused(
                f"Filter policies of a topic: {MOST_POLICIES} at most",
                "FilterPolicyLimitExceeded",
                403,
            )
    if "DeliveryPolicy" in changed and attributes["DeliveryPolicy"]:
        _delivery_policy(attributes["DeliveryPolicy"], where)
    if "RedrivePolicy" in changed and attributes["RedrivePolicy"]:
        _redrive_policy(attributes["RedrivePolicy"], _is_fifo(topic), where)


def _redrive_policy(text: str, fifo: bool, where: str) -> None:
    try:
        target = json.loads(text)["deadLetterTargetArn"]
    except ValueError:
        raise Refused(f"{where}RedrivePolicy: failed to parse JSON") from None
    except (KeyError, TypeError):
        target = ""
    if not re.fullmatch(ENDPOINTS["sqs"][0], str(target)):
        raise Refused(f"{where}RedrivePolicy: deadLetterTargetArn is an invalid arn")
    if fifo and not target.endswith(".fifo"):
        raise Refused(
            f"{where}RedrivePolicy: must use a FIFO queue as DLQ for a FIFO Subscription to a FIFO"
            " Topic."
        )


def _is_fifo(topic: dict) -> bool:
    return topic["attributes"].get("FifoTopic") == "true"
