"""CloudWatch publishes an alarm to a topic only if the topic's policy admits it.

Seen in MiniStack 1.5.33 with AUTH=true: alarms reach every topic, whatever its policy says. Here
the policy must admit cloudwatch.amazonaws.com for this alarm; the policy that a topic has by itself
does. What is not admitted is lost, as on AWS, which tells it in the alarm's history only.
"""

import logging
from typing import Any

import roles
from ministack.core.responses import get_account_id
from ministack.services import cloudwatch

PATCHES = (*roles.NEEDS, "services.cloudwatch._dispatch_alarm_actions")

ACTIONS = ("AlarmActions", "OKActions", "InsufficientDataActions")
logger = logging.getLogger("gaps.cloudwatch_alarm_topics")


def close() -> None:
    """Ask the topics before an alarm acts."""
    act = cloudwatch._dispatch_alarm_actions

    def act_if_admitted(alarm: dict[str, Any], *states: str) -> None:
        admitted = {
            name: [action for action in alarm.get(name) or [] if _admits(action, alarm)]
            for name in ACTIONS
        }
        act({**alarm, **admitted}, *states)

    cloudwatch._dispatch_alarm_actions = act_if_admitted


def _admits(action: str, alarm: dict[str, Any]) -> bool:
    account = get_account_id()
    if ":sns:" not in action or roles.admits(
        "cloudwatch.amazonaws.com",
        "sns:Publish",
        action,
        aws_SourceArn=alarm["AlarmArn"],
        aws_SourceAccount=account,
        aws_SourceOwner=account,
    ):
        return True
    logger.warning("alarm %s may not publish to %s", alarm["AlarmArn"], action)
    return False
