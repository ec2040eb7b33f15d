"""A rule may publish to a topic only if the topic's policy says so; else its dead-letter queue.

Seen in MiniStack 1.5.33 with AUTH=true: EventBridge publishes to any topic, whatever its policy
says, and an event for a topic that is gone is lost, because DeadLetterConfig is kept but not used.
Here both topic and dead-letter queue must admit the rule, and an event that the topic does not take
goes to the queue at once: AWS does not retry without permission or target either.
"""

import contextvars
import json
import logging

from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id
from ministack.services import eventbridge, sns, sqs

PATCHES = (
    "services.eventbridge._invoke_target",
    "services.eventbridge._dispatch_to_sns",
    "services.eventbridge._pattern_event_view",
    "services.sns.topic_policy_allows",
    "services.sns.topic_policy_for_arn",
    "services.sqs.queue_policy_allows",
    "services.sqs._act_send_message",
    "services.sqs._queue_url",
)

SERVICE = "events.amazonaws.com"
logger = logging.getLogger("gaps.eventbridge_dead_letters")
_delivery: contextvars.ContextVar[tuple] = contextvars.ContextVar("gap_eventbridge_delivery")


def close() -> None:
    """Remember which rule delivers to which target, and ask the topic's policy."""
    invoke, publish = eventbridge._invoke_target, eventbridge._dispatch_to_sns

    def invoke_as_rule(target: dict, event: dict, rule: dict, view=None) -> None:
        context = contextvars.copy_context()
        context.run(_delivery.set, (target, event, rule))
        # AWS's services speak TLS among themselves, whoever caused the event.
        context.run(iam_evaluator.pin_request_origin, "127.0.0.1", True)
        context.run(invoke, target, event, rule, view)

    def publish_if_allowed(arn: str, payload: str) -> None:
        _, _, rule = _delivery.get()
        if sns.topic_policy_for_arn(arn) is None:
            dead_letter("NO_RESOURCE")
        elif not sns.topic_policy_allows(arn, SERVICE, rule["Arn"], get_account_id()):
            dead_letter("NO_PERMISSIONS")
        else:
            publish(arn, payload)

    eventbridge._invoke_target = invoke_as_rule
    eventbridge._dispatch_to_sns = publish_if_allowed


def dead_letter(code: str) -> None:
    """Send the event of the present delivery to its target's dead-letter queue."""
    target, event, rule = _delivery.get()
    queue = (target.get("DeadLetterConfig") or {}).get("Arn", "")
    if not sqs.queue_policy_allows(queue, SERVICE, rule["Arn"], get_account_id()):
        logger.warning("%s: an event of rule %s is lost", code, rule["Arn"])
        return
    attributes = {"RULE_ARN": rule["Arn"], "TARGET_ARN": target["Arn"], "ERROR_CODE": code}
    sqs._act_send_message(
        {
            "MessageBody": json.dumps(eventbridge._pattern_event_view(event).event_with_detail()),
            "MessageAttributes": {
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
            },
        },
        sqs._queue_url(queue.rpartition(":")[2]),
    )
