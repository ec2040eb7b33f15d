"""The dead-letter queue of a queue's subscription.

Seen in MiniStack 1.5.33: a subscription keeps its RedrivePolicy, but a message that cannot be
delivered, because the queue is gone or its policy refuses SNS, is lost, and a raw one with more
than ten attributes, which SNS discards as the subscriber's error, arrives. Here it goes to the
dead-letter queue, if that queue's policy lets the topic write there. At once: AWS does not try
again after an error that is the subscriber's.
"""

import json
from typing import Any

from ministack.core.arn import parse_arn
from ministack.services import sns, sqs

PATCHES = (
    "services.sns._deliver_to_sqs",
    "services.sns._topic_by_arn_any_scope",
    "services.sqs._queue_by_arn",
    "services.sqs.queue_policy_allows",
)

MOST_ATTRIBUTES = 10  # of a raw message to a queue (developer guide)


def close() -> None:
    """Look before each delivery, and take the other way if the first is closed."""
    deliver = sns._deliver_to_sqs

    def deliver_or_park(
        endpoint: str, envelope: str, raw: bool, *more: Any, topic_arn: str = "", **named: Any
    ) -> None:
        too_many = raw and len(named.get("message_attributes") or {}) > MOST_ATTRIBUTES
        if topic_arn and (too_many or not _admits(endpoint, topic_arn)):
            dead = _dead_letter_queue(topic_arn, endpoint)
            if too_many and not dead:
                return
            endpoint = dead or endpoint
        if too_many:  # no queue can have them all; which ones AWS parks is not documented
            named["message_attributes"] = {}
        deliver(endpoint, envelope, raw, *more, topic_arn=topic_arn, **named)

    sns._deliver_to_sqs = deliver_or_park


def _admits(queue: str, topic: str) -> bool:
    """Whether a queue is there and lets a topic write to it."""
    account = parse_arn(topic).account_id
    return bool(sqs._queue_by_arn(queue)) and sqs.queue_policy_allows(
        queue, "sns.amazonaws.com", topic, account
    )


def _dead_letter_queue(topic: str, queue: str) -> str | None:
    """The ARN that the topic's subscription of a queue names in its RedrivePolicy."""
    for subscription in (sns._topic_by_arn_any_scope(topic) or {}).get("subscriptions", []):
        policy = subscription.get("attributes", {}).get("RedrivePolicy")
        if (subscription["protocol"], subscription["endpoint"]) == ("sqs", queue) and policy:
            return json.loads(policy)["deadLetterTargetArn"]
    return None
