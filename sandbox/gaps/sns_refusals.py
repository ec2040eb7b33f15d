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
from ministack.core.responses import get_account_id, get_region
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
FIFO_ONLY = {"ArchivePolicy", "ContentBasedDeduplication", "FifoThroughputScope"}
TOPIC = {  # what may be set; FifoTopic only when a topic is made
    *("DeliveryPolicy", "DisplayName", "KmsMasterKeyId", "MaximumMessageSize", "Policy"),
    *("SignatureVersion", "TracingConfig"),
    *(
        f"{protocol}{outcome}"
        for protocol in ("Application", "Firehose", "HTTP", "Lambda", "SQS")
        for outcome in (
            "FailureFeedbackRoleArn",
            "SuccessFeedbackRoleArn",
            "SuccessFeedbackSampleRate",
        )
    ),
}
UNSET = {  # what an attribute that was never set stands for
    "ContentBasedDeduplication": "false",
    "FifoTopic": "false",
    "FilterPolicyScope": "MessageAttributes",
    "RawMessageDelivery": "false",
    "SignatureVersion": "1",
    "TracingConfig": "PassThrough",
}
# Of a delivery policy, with its least, its most and its default; delays are seconds.
RETRIES = {
    "numRetries": (0, 100, 3),
    "minDelayTarget": (1, 3600, 20),
    "maxDelayTarget": (1, 3600, 20),
    "numNoDelayRetries": (0, 100, 0),
    "numMinDelayRetries": (0, 100, 0),
    "numMaxDelayRetries": (0, 100, 0),
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
    subscriptions["create"] = _possible(subscriptions["create"])
    subscriptions["update"] = _still_possible(subscriptions["update"])


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


def an_arn(name: str, text: str) -> list[str]:
    """The parts of a parameter's ARN."""
    if len(parts := text.split(":")) < 6:
        raise Refused(f"{name} Reason: An ARN must have at least 6 elements, not {len(parts)}")
    return parts


def _differ(kept: Mapping[str, str], given: Mapping[str, str]) -> bool:
    return any(kept.get(name, UNSET.get(name, "")) != value for name, value in given.items())


# ---- topics


def _create_topic(params: dict[str, Any]) -> None:
    attributes, name = _entries(params), sns._p(params, "Name")
    fifo = attributes.get("FifoTopic", "").lower() == "true"
    _topic_name(name, fifo)
    for key, value in attributes.items():
        if key not in TOPIC | {"FifoTopic"} | (FIFO_ONLY if fifo else set()):
            raise Refused(f"Attributes Reason: Unknown attribute {key}")
        _topic_attribute(key, value, "Attributes Reason: ")
    there = sns._topic_by_arn_any_scope(f"arn:aws:sns:{get_region()}:{get_account_id()}:{name}")
    if there and _differ(there["attributes"], attributes):
        raise Refused("Attributes Reason: Topic already exists with different attributes")


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
    an_arn("TopicArn", arn := sns._p(params, "TopicArn"))
    topic, name = sns._topic_by_arn_any_scope(arn), sns._p(params, "AttributeName")
    if topic is None:
        return  # MiniStack says so
    if name not in TOPIC | (FIFO_ONLY if _is_fifo(topic) else set()):
        raise Refused("AttributeName")
    _topic_attribute(name, sns._p(params, "AttributeValue"), "")


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
    # A topic's is {"http": {"defaultHealthyRetryPolicy": ...}}, a subscription's has no "http".
    for names in (("http",), ("healthyRetryPolicy", "defaultHealthyRetryPolicy")):
        if isinstance(policy, dict):
            missing = policy if names == ("http",) else {}
            policy = next((policy[name] for name in names if name in policy), missing)
    if not isinstance(policy, dict):
        raise Refused(f"{where}DeliveryPolicy: must be an object, and of objects")
    for name, (least, most, _) in RETRIES.items():
        value = policy.get(name, least)
        if type(value) is not int or not least <= value <= most:
            raise Refused(f"{where}DeliveryPolicy: {name} must be from {least} to {most}")
    retries, shortest, longest, at_once, early, late = (
        policy.get(name, default) for name, (_, _, default) in RETRIES.items()
    )
    if shortest > longest:
        raise Refused(f"{where}DeliveryPolicy: maxDelayTarget must not be below minDelayTarget")
    if at_once + early + late > retries:
        raise Refused(f"{where}DeliveryPolicy: numRetries must not be below its phases' retries")
    if (retries - at_once - late) * shortest + late * longest > 3600:
        raise Refused(f"{where}DeliveryPolicy: the retries must not take longer than 3600 seconds")


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
    for name in FIFO_ONLY & set(properties):
        if not _fifo(properties) and str(properties[name]).lower() != "false":
            raise Refused(f"Attributes Reason: Unknown attribute {name}")
    if "SignatureVersion" in properties:
        _topic_attribute("SignatureVersion", str(properties["SignatureVersion"]), "")
    topic = {
        "attributes": {"FifoTopic": str(_fifo(properties)).lower()},
        "subscriptions": [],
    }
    for one in properties.get("Subscription") or []:
        _subscription(topic, one["Protocol"], one["Endpoint"], {}, "")


# ---- subscriptions


def _subscribe(params: dict[str, Any]) -> None:
    arn, protocol = sns._p(params, "TopicArn"), sns._p(params, "Protocol")
    if an_arn("TopicArn", arn)[3] != get_region():
        raise Refused("TopicArn")
    topic = sns._topic_by_arn_any_scope(arn)
    if topic is None:
        return  # MiniStack says so
    attributes, endpoint = _entries(params), sns._p(params, "Endpoint")
    _subscription(topic, protocol, endpoint, attributes, "Attributes Reason: ")
    _as_before(topic, protocol, endpoint, attributes)


def _as_before(topic: dict, protocol: str, endpoint: str, attributes: Mapping[str, str]) -> None:
    for one in topic["subscriptions"]:
        same = (one["protocol"], one["endpoint"]) == (protocol, endpoint)
        if same and _differ(one["attributes"], attributes):
            raise Refused(
                "Attributes Reason: Subscription already exists with different attributes"
            )


def _set_subscription_attributes(params: dict[str, Any]) -> None:
    arn = sns._p(params, "SubscriptionArn")
    an_arn("SubscriptionArn", arn)
    if not (found := _found(arn)):
        return  # MiniStack says so
    topic, subscription = found
    name, value = sns._p(params, "AttributeName"), sns._p(params, "AttributeValue")
    if name not in SUBSCRIPTION:
        raise Refused("AttributeName")
    protocol, endpoint = subscription["protocol"], subscription["endpoint"]
    attributes = {**subscription["attributes"], name: value}
    _attributes(topic, protocol, endpoint, attributes, changed={name}, where="")


def _found(arn: str) -> tuple[dict, dict] | None:
    """A subscription's topic and itself."""
    topic = sns._topic_by_arn_any_scope(sns._sub_arn_to_topic.get(arn) or "")
    subscription = topic and sns._find_subscription(topic["arn"], arn)
    return (topic, subscription) if topic and subscription else None


def _possible(create: Callable[..., Any]) -> Callable[..., Any]:
    """A template's subscription, if it may be and is not there with other attributes."""

    def created(logical_id: str, properties: dict[str, Any], stack: str) -> Any:
        _as_before(*_template_subscription(properties))
        return create(logical_id, properties, stack)

    return created


def _still_possible(update: Callable[..., Any]) -> Callable[..., Any]:
    """An update of it, judged as a whole: MiniStack sets a policy before the scope it is for."""

    def updated(
        arn: str, old: dict[str, Any], new: dict[str, Any], *more: Any, **named: Any
    ) -> Any:
        *_, attributes = _template_subscription(new)
        if found := _found(arn):
            scope = attributes.get("FilterPolicyScope", UNSET["FilterPolicyScope"])
            found[1]["attributes"] |= {"FilterPolicy": "", "FilterPolicyScope": scope}
        return update(arn, old, new, *more, **named)

    return updated


def _template_subscription(properties: dict[str, Any]) -> tuple[dict, str, str, dict[str, str]]:
    """The topic, protocol, endpoint and attributes that a template says, if they may be."""
    topic = sns._topic_by_arn_any_scope(properties.get("TopicArn", ""))
    if topic is None:
        raise Refused("Topic does not exist", "NotFound", 404)
    attributes = {k: v for k, v in provisioners._sns_sub_attributes(properties).items() if v}
    protocol, endpoint = properties["Protocol"], properties.get("Endpoint", "")
    _subscription(topic, protocol, endpoint, attributes, "")
    return topic, protocol, endpoint, attributes


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
    _attributes(topic, protocol, endpoint, attributes, changed=set(attributes), where=where)


def _attributes(
    topic: dict,
    protocol: str,
    endpoint: str,
    attributes: Mapping[str, str],
    *,
    changed: set[str],
    where: str,
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
        if attributes.get("FilterPolicy") and len(others) >= MOST_POLICIES:
            raise Refused(
                f"Filter policies of a topic: {MOST_POLICIES} at most",
                "FilterPolicyLimitExceeded",
                403,
            )
    if "DeliveryPolicy" in changed and attributes["DeliveryPolicy"]:
        _delivery_policy(attributes["DeliveryPolicy"], where)
    if "RedrivePolicy" in changed and attributes["RedrivePolicy"]:
        ordered = endpoint.endswith(".fifo")
        _redrive_policy(attributes["RedrivePolicy"], _is_fifo(topic), ordered, where)


def _redrive_policy(text: str, fifo: bool, ordered: bool, where: str) -> None:
    """fifo: whether the topic is. ordered: whether the queue that subscribes is."""
    try:
        target = json.loads(text)["deadLetterTargetArn"]
    except ValueError:
        raise Refused(f"{where}RedrivePolicy: failed to parse JSON") from None
    except (KeyError, TypeError):
        target = ""
    if not re.fullmatch(ENDPOINTS["sqs"][0], str(target)):
        raise Refused(f"{where}RedrivePolicy: deadLetterTargetArn is an invalid arn")
    if not fifo and target.endswith(".fifo"):  # by the developer guide, in our words
        raise Refused(
            f"{where}RedrivePolicy: must use a standard queue as DLQ for a standard Topic."
        )
    if ordered and not target.endswith(".fifo"):
        raise Refused(
            f"{where}RedrivePolicy: must use a FIFO queue as DLQ for a FIFO Subscription to a FIFO"
            " Topic."
        )


def _is_fifo(topic: dict) -> bool:
    return topic["attributes"].get("FifoTopic") == "true"
