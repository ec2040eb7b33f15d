"""Alarms that look at their own metric, by themselves.

Seen in MiniStack 1.5.33: alarms are evaluated only when a client calls PutMetricData, so metrics
that services publish (AWS/Lambda, AWS/SQS) move none; an alarm sees the points of every queue or
function, since its dimensions are ignored; missing data is never treated. Here every alarm is
evaluated every second over its own dimensions, one value a period. Periods pass SANDBOX_CLOCK
times faster, like the time of the queues that most alarms watch, but none in less than 3 s:
metrics come once a second.
"""

import ast
import logging
import operator
import os
import threading
import time
from collections.abc import Callable

from ministack.core.responses import request_scope
from ministack.services import cloudwatch

PATCHES = (
    "services.cloudwatch._alarms",
    "services.cloudwatch._metrics",
    "services.cloudwatch._evaluate_alarm",
    "services.cloudwatch._calc_stats",
    "services.cloudwatch._stat_value",
    "services.cloudwatch._dims_key",
    "services.cloudwatch._record_history",
    "services.cloudwatch._dispatch_alarm_actions",
    "services.cloudwatch._evaluate_parent_alarms",
)

logger = logging.getLogger("gaps.cloudwatch_alarms")
ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
BREACHES = {
    "GreaterThanOrEqualToThreshold": lambda value, threshold: value >= threshold,
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
    "LessThanOrEqualToThreshold": lambda value, threshold: value <= threshold,
}


def close() -> None:
    """Evaluate by the alarm's own rules, and keep evaluating."""
    cloudwatch._evaluate_alarm = evaluate
    threading.Thread(target=_watch, daemon=True, name="gap-alarms").start()


def _watch() -> None:
    while True:
        time.sleep(1)
        for account, region in {key[:2] for key in list(cloudwatch._alarms._data)}:
            with request_scope(account, region):
                for alarm in cloudwatch._alarms.values():
                    try:
                        evaluate(alarm)
                    except Exception:
                        logger.exception("alarm %s cannot be evaluated", alarm.get("AlarmName"))


def evaluate(alarm: dict) -> None:
    """Move one alarm of the current account and Region to the state that its metric calls for."""
    if not (alarm.get("Metrics") or (alarm.get("Namespace") and alarm.get("MetricName"))):
        return
    period = max(3, alarm.get("Period", 60) / float(os.environ["SANDBOX_CLOCK"]))
    periods = alarm.get("EvaluationPeriods", 1)
    breaches = BREACHES[alarm["ComparisonOperator"]]
    missing = {"breaching": True, "notBreaching": False}.get(alarm.get("TreatMissingData", ""))
    now, verdicts = time.time(), []
    for index in range(periods):
        end = now - index * period
        if alarm.get("Metrics"):
            value = _expression(alarm["Metrics"], end - period, end)
        else:
            statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average"
            value = _value(alarm, statistic, end - period, end)
        verdicts.append(missing if value is None else breaches(value, alarm["Threshold"]))
    if all(verdict is None for verdict in verdicts):
        return
    breaching = verdicts.count(True)
    state = "ALARM" if breaching >= (alarm.get("DatapointsToAlarm") or periods) else "OK"
    _move(alarm, state, f"{breaching} of {periods} periods breach {alarm['Threshold']}")


def _value(metric: dict, statistic: str, start: float, end: float) -> float | None:
    """One statistic of a metric in a period; None without data."""
    dimensions = {one["Name"]: one["Value"] for one in metric.get("Dimensions") or []}
    key = (metric["Namespace"], metric["MetricName"], cloudwatch._dims_key(dimensions))
    points = cloudwatch._metrics.get(key) or []
    within = [point for point in points if start < point["Timestamp"] <= end]
    if not within:
        return None
    return cloudwatch._stat_value(cloudwatch._calc_stats(within), statistic, within)


def _expression(queries: list[dict], start: float, end: float) -> float | None:
    """The value of the one query that is returned: arithmetic over the others."""
    known = {
        one["Id"]: _value(one["MetricStat"]["Metric"], one["MetricStat"]["Stat"], start, end)
        for one in queries
        if "MetricStat" in one
    }
    (asked,) = (one for one in queries if str(one.get("ReturnData", True)).lower() == "true")
    if "MetricStat" in asked:
        return known[asked["Id"]]
    values = {name: value for name, value in known.items() if value is not None}
    if len(values) < len(known):
        return None

    def compute(node: ast.expr) -> float:
        match node:
            case ast.Name(id=name):
                return values[name]
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.BinOp(left=left, op=op, right=right):
                return ARITHMETIC[type(op)](compute(left), compute(right))
        raise ValueError(f"only arithmetic is evaluated, not {asked['Expression']}")

    return compute(ast.parse(asked["Expression"], mode="eval").body)


def _move(alarm: dict, state: str, reason: str) -> None:
    before = alarm["StateValue"]
    if before == state:
        return
    alarm.update(StateValue=state, StateReason=reason, StateUpdatedTimestamp=int(time.time()))
    cloudwatch._record_history(alarm["AlarmName"], before, state, reason)
    cloudwatch._dispatch_alarm_actions(alarm, before, state, reason)
    cloudwatch._evaluate_parent_alarms(alarm)
