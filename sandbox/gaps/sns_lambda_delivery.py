"""SNS hands messages to a function as Lambda takes them: asynchronously and with permission.

Seen in MiniStack 1.5.33: a subscribed function is called once, without its policy being asked; if
it fails, or is gone, the message is lost without a word. Here SNS asks the function's policy and
hands the message to Lambda's own queue, which tries three times and then goes to the function's
destination. What cannot be handed over is in the dead-letter queue of the subscription at once: AWS
does not try again where the function or its permission is gone.
"""

import json
import logging
from typing import Any

import roles
from ministack.services import lambda_svc, sns

PATCHES = (
    "services.sns._deliver_to_lambda",
    "services.sns._deliver_to_sqs",
    "services.sns._find_subscription",
    "services.lambda_svc._get_func_record_for_ref",
    "services.lambda_svc._execution_record_for_config",
    "services.lambda_svc.invoke_async_with_retry",
    *roles.NEEDS,
)

logger = logging.getLogger("gaps.sns_lambda_delivery")


def close() -> None:
    """Deliver by Lambda's rules."""
    sns._deliver_to_lambda = deliver


def deliver(  # noqa: PLR0917  (as it is called)
    endpoint: str,
    envelope: str,
    topic_arn: str,
    sub_arn: str,
    msg_id: str,
    raw_message: str,
    message_attributes: dict[str, Any],
) -> None:
    """Queue one message for a function, or put it in the subscription's dead-letter queue."""
    function, config, name = lambda_svc._get_func_record_for_ref(endpoint)
    if (
        function
        and config
        and roles.admits(
            "sns.amazonaws.com",
            "lambda:InvokeFunction",
            endpoint,
            aws_SourceArn=topic_arn,
            aws_SourceAccount=topic_arn.split(":")[4],
        )
    ):
        record = {
            "EventVersion": "1.0",
            "EventSubscriptionArn": sub_arn,
            "EventSource": "aws:sns",
            "Sns": json.loads(envelope),
        }
        lambda_svc.invoke_async_with_retry(
            lambda_svc._execution_record_for_config(function, config), {"Records": [record]}
        )
        return
    logger.warning("SNS cannot hand message %s to the function %s", msg_id, name)
    subscription = sns._find_subscription(topic_arn, sub_arn) or {}
    redrive = json.loads(subscription.get("attributes", {}).get("RedrivePolicy") or "{}")
    if "deadLetterTargetArn" in redrive:
        sns._deliver_to_sqs(
            redrive["deadLetterTargetArn"],
            envelope,
            False,
            raw_message,
            message_attributes=message_attributes,
            topic_arn=topic_arn,
        )
