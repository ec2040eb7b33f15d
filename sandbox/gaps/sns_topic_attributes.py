"""Attributes of a topic made by CloudFormation: FIFO, deduplication, encryption, signature.

Seen in MiniStack 1.5.33: CreateTopic keeps them, but a template's topic gets a name, a policy and
nothing else. A FIFO topic so made asks for no message group and delivers duplicates.
"""

from typing import Any

from ministack.services import sns
from ministack.services.cloudformation import provisioners

PATCHES = ("services.sns._topics", "services.cloudformation.provisioners._RESOURCE_HANDLERS")

ATTRIBUTES = (
    "ContentBasedDeduplication",
    "FifoThroughputScope",
    "FifoTopic",
    "KmsMasterKeyId",
    "SignatureVersion",
    "TracingConfig",
)


def close() -> None:
    """Set the attributes after a topic is created or updated."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::SNS::Topic"]
    handlers["create"] = _then_set(handlers["create"], 1)
    handlers["update"] = _then_set(handlers["update"], 2)


def _then_set(handler: Any, properties_at: int) -> Any:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = handler(*arguments, **named)
        properties, topic = arguments[properties_at], sns._topics[result[0]]
        for name in ATTRIBUTES:
            topic["attributes"].pop(name, None)
            if name in properties:
                topic["attributes"][name] = _text(properties[name])
        if topic["attributes"].get("FifoTopic") == "true":
            topic["attributes"].setdefault("ContentBasedDeduplication", "false")
            topic.setdefault("dedup_cache", {})
            topic.setdefault("fifo_seq", 0)
        return result

    return wrapped


def _text(value: Any) -> str:
    """An attribute as SNS keeps it: a flag of a template may be true, "true" or "True"."""
    text = str(value)
    return text.lower() if text.lower() in ("true", "false") else text
