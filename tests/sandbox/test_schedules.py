"""Schedules of rules and of EventBridge Scheduler, by what AWS was seen to take and refuse."""

from __future__ import annotations

from datetime import datetime

import pytest

from sandbox import schedules

BAD_CRONS = (
    "cron(0 1 * * * *)",
    "cron(0 dummy ? * MON-FRI *)",
    "cron(7 20 * * NOT *)",
    "cron(71 8 1 * ? *)",
    "cron(INVALID)",
    "cron()",
    "cron(0 8 ? * ? *)",
    "cron(0 8 1 * MON *)",
    "cron(0 8 ? * MON#6 *)",
    "cron(0/0 8 ? * MON *)",
)
BAD_RATES = (
    "rate(10 seconds)",
    "rate(10 years)",
    "rate()",
    "rate(10)",
    "rate(10 minutess)",
    "rate(foo minutes)",
    "rate(0 minutes)",
    "rate(-10 minutes)",
    "rate( 10 minutes )",
    " rate(10 minutes)",
)
GOOD_CRONS = (
    "cron(0 10 * * ? *)",
    "cron(0/5 8-17 ? * MON-FRI *)",
    "cron(0 8 L * ? 2026-2030)",
    "cron(0 8 15W JAN,JUL ? *)",
    "cron(0 9 ? * 2#1 *)",
    "cron(0 9 ? * 6L *)",
)


@pytest.mark.parametrize("expression", ["rate(1 minute)", "rate(10 days)", *GOOD_CRONS])
def test_a_rule_takes(expression: str) -> None:
    assert schedules.of_rule(expression)


@pytest.mark.parametrize(
    "expression",
    [*BAD_RATES, *BAD_CRONS, "rate(1 minutes)", "rate(10 hour)", "at(2030-01-01T00:00:00)"],
)
def test_a_rule_refuses(expression: str) -> None:
    assert not schedules.of_rule(expression)


@pytest.mark.parametrize(
    "expression",
    [
        *GOOD_CRONS,
        "cron(0 8 ? * MON)",
        "rate(1 minutes)",
        "rate(10 hour)",
        "at(2030-01-01T00:00:00)",
        "at(2030-01-01T00:00)",
        "AT(2030-01-01T00:00:00)",
    ],
)
def test_scheduler_takes(expression: str) -> None:
    assert schedules.of_scheduler(expression)


@pytest.mark.parametrize(
    "expression",
    [
        *BAD_RATES,
        *BAD_CRONS,
        "at(2021-12-31T23:59:59Z)",
        "at(2021-12-31)",
        "at(2021-02-30T00:00:00)",
        "at(2021-12-31 23:59:59)",
    ],
)
def test_scheduler_refuses(expression: str) -> None:
    assert not schedules.of_scheduler(expression)


def test_a_year_is_every_year_where_none_is_named() -> None:
    assert schedules.with_year("cron(0 8 ? * MON)") == "cron(0 8 ? * MON *)"
    assert schedules.with_year("cron(0 8 ? * MON 2030)") == "cron(0 8 ? * MON 2030)"
    assert schedules.at("at(2030-01-01T08:30)") == datetime(2030, 1, 1, 8, 30)


def test_zones_have_names() -> None:
    assert schedules.is_zone("Europe/Berlin") and not schedules.is_zone("Europe/Nowhere")
