"""Attributes of a topic made by CloudFormation: FIFO, deduplication, encryption, signature.

Seen in MiniStack 1.5.33: CreateTopic keeps them, but a template's topic gets a name, a policy and
nothing else. A FIFO topic so made asks for no message group and delivers duplicates.
"""

from typing import Any

import resources
from ministack.services import sns

PATCHES = (*resources.NEEDS, "services.sns._topics")

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
    resources.finish("AWS::SNS::Topic", _set)


def _set(arn: str, properties: dict[str, Any]) -> None:
    topic = sns._topics[arn]
    for name in ATTRIBUTES:
        topic["attributes"].pop(name, None)
        if name in properties:
            topic["attributes"][name] = _text(properties[name])
    if topic["attributes"].get("FifoTopic") == "true":
        topic["attributes"].setdefault("ContentBasedDeduplication", "false")
        topic.setdefault("dedup_cache", {})
        topic.setdefault("fifo_seq", 0)


def _text(value: Any) -> str:
    """An attribute as SNS keeps it: a flag of a template may be true, "true" or "True"."""
    text = str(value)
    return text.lower() if text.lower() in ("true", "false") else text
