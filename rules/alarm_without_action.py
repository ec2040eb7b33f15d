"""An alarm that nobody hears."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, missing, truth


class AlarmWithoutAction(Rule):
    """An alarm without an action is a red dot on a page that nobody has open."""

    id = "E9601"
    shortdesc = "Give the alarm an action: nobody hears it otherwise."
    description = (
        "An alarm with no AlarmActions, or with ActionsEnabled false, changes its colour and tells"
        " nobody. One that another resource of the template names (a composite alarm, a deployment"
        " that rolls back) needs none."
    )
    source_url = (
        "https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-actions.html"
    )
    tags = ["cloudwatch"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each alarm that no other resource names."""
        for alarm in world.of("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"):
            if alarm.id in world.named_by_others:
                continue
            if missing(alarm["AlarmActions"]):
                yield (
                    alarm.path("AlarmActions"),
                    f"Give {alarm.id} an AlarmAction, a topic for one: nobody hears it.",
                )
            elif truth(alarm["ActionsEnabled"]) is False:
                yield (
                    alarm.path("ActionsEnabled"),
                    f"Enable the actions of {alarm.id}: nobody hears it.",
                )
