"""Alarms on an expression over several metrics, in templates.

Seen in MiniStack 1.5.33: CloudFormation refuses an alarm with Metrics. Here it is kept with them,
and gaps/cloudwatch_alarms.py evaluates it, if its expression is arithmetic.
"""

from ministack.services.cloudformation import provisioners

PATCHES = ("services.cloudformation.provisioners._cw_metric_alarm_record",)


def close() -> None:
    """Make the record of such an alarm from that of a plain one."""
    plain = provisioners._cw_metric_alarm_record

    def record(name: str, properties: dict) -> dict:
        queries = properties.get("Metrics")
        if not queries:
            return plain(name, properties)
        rest = {key: value for key, value in properties.items() if key != "Metrics"}
        alarm = plain(name, {**rest, "MetricName": "-", "Namespace": "-"})
        periods = [one["MetricStat"]["Period"] for one in queries if "MetricStat" in one]
        return alarm | {
            "MetricName": None,
            "Namespace": None,
            "Statistic": None,
            "Metrics": queries,
            "Period": int(periods[0]),
        }

    provisioners._cw_metric_alarm_record = record
