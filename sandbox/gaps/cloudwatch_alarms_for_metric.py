"""DescribeAlarmsForMetric answers with the alarms on that metric of that queue or function.

Seen in MiniStack 1.5.33: the dimensions are ignored, so the answer has the alarms of every queue.
"""

from typing import Any

from ministack.services import cloudwatch

PATCHES = (
    "services.cloudwatch._alarms",
    "services.cloudwatch._cbor_alarm",
    "services.cloudwatch._cbor_ok",
    "services.cloudwatch._describe_alarms_for_metric",
    "services.cloudwatch._json_ok",
)


def close() -> None:
    """Look at the dimensions too, in the two protocols that today's clients speak."""
    describe = cloudwatch._describe_alarms_for_metric

    def described(params: Any, asked: dict, is_cbor: bool, is_json: bool = False) -> Any:
        if not (is_cbor or is_json):
            return describe(params, asked, is_cbor, is_json)
        found = [alarm for alarm in cloudwatch._alarms.values() if _metric(alarm) == _metric(asked)]
        if is_cbor:
            answer = [cloudwatch._cbor_alarm(alarm) for alarm in found]
            return cloudwatch._cbor_ok({"MetricAlarms": answer})
        return cloudwatch._json_ok({"MetricAlarms": found})

    cloudwatch._describe_alarms_for_metric = described


def _metric(one: dict) -> tuple[Any, Any, frozenset]:
    """What tells one metric from another."""
    dimensions = frozenset(
        (each["Name"], each["Value"]) for each in one.get("Dimensions") or [] if "Value" in each
    )
    return one.get("Namespace"), one.get("MetricName"), dimensions
