"""SNS delivers to Firehose, with the subscription's role and dead-letter queue.

Seen in MiniStack 1.5.33: a subscription with the protocol "firehose" is accepted and what is
published to it is dropped in silence. Here the message (as it is with RawMessageDelivery, else
SNS's envelope) is put on the stream if the subscription's role trusts SNS and may. What cannot be
put is in the subscription's dead-letter queue at once: AWS tries a client's error no second time.
"""

import base64
import json
import logging
from typing import Any

import roles
from ministack.core.responses import request_scope
from ministack.services import firehose, sns

PATCHES = (
    *roles.NEEDS,
    "services.sns._fanout",
    "services.sns._topic_by_arn_any_scope",
    "services.sns._resolve_message_for_protocol",
    "services.sns._matches_filter_policy",
    "services.sns._build_envelope",
    "services.sns._deliver_to_sqs",
    "services.firehose._put_record",
)

logger = logging.getLogger("gaps.sns_to_firehose")


def close() -> None:
    """Serve the firehose subscriptions after all others."""
    others = sns._fanout

    def fanout(  # noqa: PLR0917  (the parameters are MiniStack's)
        topic_arn: str,
        msg_id: str,
        message: str,
        subject: str,
        message_structure: str = "",
        message_attributes: dict[str, Any] | None = None,
        *fifo: str,
        **more: str,
    ) -> None:
        attributes = message_attributes or {}
        others(topic_arn, msg_id, message, subject, message_structure, attributes, *fifo, **more)
        topic = sns._topic_by_arn_any_scope(topic_arn)
        content = sns._resolve_message_for_protocol(message, message_structure, "firehose")
        for subscription in topic["subscriptions"] if topic else ():
            if subscription.get("protocol") != "firehose":
                continue
            if sns._matches_filter_policy(subscription, attributes, content):
                raw = subscription["attributes"].get("RawMessageDelivery") == "true"
                deliver(
                    subscription,
                    sns._build_envelope(topic_arn, msg_id, content, subject, attributes, raw),
                )

    sns._fanout = fanout


def deliver(subscription: dict[str, Any], content: str) -> None:
    """Put one message on the subscription's stream, or into its dead-letter queue."""
    attributes, stream = subscription["attributes"], subscription["endpoint"]
    topic = subscription["topic_arn"]
    problem = put(attributes.get("SubscriptionRoleArn", ""), topic, stream, content)
    if not problem:
        return
    logger.warning("%s was not delivered to %s: %s", topic, stream, problem)
    if policy := attributes.get("RedrivePolicy"):
        target = json.loads(policy)["deadLetterTargetArn"]
        sns._deliver_to_sqs(target, content, True, content, topic_arn=topic)


def put(role: str, topic: str, stream: str, content: str) -> str:
    """Why the message could not be put on the stream; nothing if it was."""
    region, account = stream.split(":")[3:5]
    with request_scope(account, region):
        if not role or not roles.allows(
            role,
            "sns.amazonaws.com",
            "firehose:PutRecord",
            stream,
            aws_SourceArn=topic,
            aws_SourceAccount=topic.split(":")[4],
        ):
            return f"the role {role or '(none)'} may not"
        status, _, body = firehose._put_record(
            {
                "DeliveryStreamName": stream.rpartition("/")[2],
                "Record": {"Data": base64.b64encode(content.encode()).decode()},
            }
        )
        return str(body) if status >= 400 else ""
