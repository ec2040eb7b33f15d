"""When the schedules of EventBridge rules and of EventBridge Scheduler are due, and which are none.

A rule takes rate(1 minute) and rate(5 minutes), and cron() of six fields. Scheduler takes rate()
without regard to the plural, cron() without the year too, and at() with a local time.
"""

import re
from datetime import datetime
from zoneinfo import ZoneInfo

# The least and the most of each field of cron(): minute, hour, day, month, weekday, year.
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (1, 7), (1970, 2199))
DAY, MONTH, WEEKDAY = 2, 3, 4
NAMES = {
    MONTH: ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    WEEKDAY: ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
}


def of_rule(expression: str) -> bool:
    """Whether EventBridge takes it as the schedule of a rule."""
    if rate := re.fullmatch(r"rate\((\d+) (minute|hour|day)(s?)\)", expression):
        return int(rate[1]) > 0 and (int(rate[1]) == 1) == (not rate[3])
    return _cron(expression, (6,))


def of_scheduler(expression: str) -> bool:
    """Whether EventBridge Scheduler takes it."""
    lower = expression.lower()
    if rate := re.fullmatch(r"rate\((\d+) *(minute|hour|day)s?\)", lower):
        return int(rate[1]) > 0
    return at(expression) is not None or _cron(expression, (5, 6))


def is_zone(name: str) -> bool:
    """Whether Scheduler knows a time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def at(expression: str) -> datetime | None:
    """The moment of such an expression of Scheduler's, without a zone; None if it is none."""
    moment = re.fullmatch(
        r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?)\)", expression, flags=re.IGNORECASE
    )
    try:
        return datetime.fromisoformat(moment[1]) if moment else None
    except ValueError:
        return None


def with_year(expression: str) -> str:
    """A cron() expression of Scheduler's with all six fields; others as they are."""
    fields = expression.removesuffix(")").split()
    return (
        f"{expression[:-1]} *)"
        if expression.startswith("cron(") and len(fields) == 5
        else expression
    )


def _cron(expression: str, counts: tuple[int, ...]) -> bool:
    """Whether it is a cron() of so many fields, with a "?" in one of day and weekday."""
    body = re.fullmatch(r"cron\((.*)\)", expression, flags=re.IGNORECASE)
    fields = body[1].split() if body else []
    return (
        len(fields) in counts
        and (fields[DAY] == "?") != (fields[WEEKDAY] == "?")
        and all(_part(part, n) for n, field in enumerate(fields) for part in field.split(","))
    )


def _part(text: str, field: int) -> bool:
    text = text.upper()
    if text in {"?", "L", "LW"}:
        return field == DAY or (field == WEEKDAY and text != "LW")
    if field == DAY and text.endswith("W"):
        return _value(text[:-1], field)
    if field == WEEKDAY and "#" in text:
        day, _, occurrence = text.partition("#")
        return _value(day, field) and occurrence in {"1", "2", "3", "4", "5"}
    if field == WEEKDAY and text.endswith("L"):
        return _value(text[:-1], field)
    base, slash, step = text.partition("/")
    if slash and not (step.isdigit() and int(step)):
        return False
    return base == "*" or all(_value(edge, field) for edge in base.split("-", 1))


def _value(text: str, field: int) -> bool:
    if text in NAMES.get(field, ()):
        return True
    least, most = RANGES[field]
    return text.isdigit() and least <= int(text) <= most
