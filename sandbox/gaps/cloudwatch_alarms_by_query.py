"""DescribeAlarms says all of an alarm to clients that speak the query protocol.

Seen in MiniStack 1.5.33: these get ten of its members, without dimensions, statistic, period and
actions, where clients that speak CBOR or JSON get all. So Terraform's provider for AWS (5.100)
finds every alarm changed, at each plan.
"""

import json
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

from ministack.services import cloudwatch

PATCHES = (
    "services.cloudwatch._describe_alarms",
    "services.cloudwatch._p",
    "services.cloudwatch._xml",
)
ONE = ("AlarmNamePrefix", "MaxRecords", "NextToken", "StateValue")
SEVERAL = {"AlarmNames": 100, "AlarmTypes": 2}  # at most, says the API


def close() -> None:
    """Ask as a client that speaks JSON, and write the answer as XML."""
    describe = cloudwatch._describe_alarms

    def described(params: Any, asked: dict, is_cbor: bool, is_json: bool = False) -> Any:
        if is_cbor or is_json:
            return describe(params, asked, is_cbor, is_json)
        same = {name: value for name in ONE if (value := cloudwatch._p(params, name))}
        for name, most in SEVERAL.items():
            values = [cloudwatch._p(params, f"{name}.member.{i + 1}") for i in range(most)]
            same[name] = [value for value in values if value]
        status, _, body = describe({}, same, False, True)
        if status != 200:
            return describe(params, asked, False)
        answer = xml("DescribeAlarmsResult", json.loads(body))
        return cloudwatch._xml(200, "DescribeAlarmsResponse", answer)

    cloudwatch._describe_alarms = described


def xml(name: str, value: Any) -> str:
    """A member as the query protocol writes it; nothing for one that is not there."""
    if value is None:
        return ""
    if isinstance(value, dict):
        text = "".join(xml(member, one) for member, one in value.items())
    elif isinstance(value, list):
        text = "".join(xml("member", one) for one in value)
    elif isinstance(value, bool):
        text = str(value).lower()
    elif name.endswith("Timestamp") and isinstance(value, int | float):
        text = datetime.fromtimestamp(value, UTC).isoformat()
    else:
        text = escape(str(value))
    return f"<{name}>{text}</{name}>"
