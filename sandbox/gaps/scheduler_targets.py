"""EventBridge Scheduler takes the schedules that it takes on AWS, and invokes with their role.

Checked are expressions, zones, windows, names, groups, ranges, inputs and dead-letter queues, by
API and by CloudFormation, and that Scheduler may assume the role. When a schedule is due, its call
is made with the role, and whatever the service answers counts: an error is sent to the dead-letter
queue, with the role as well, with the attributes that Scheduler's guide shows. Universal targets
are calls like the others.

Seen in MiniStack 1.5.33: any expression, role and target are taken, CloudFormation drops time zone,
dates and errors, at() and cron() are always in UTC, nobody asks the role, universal targets and
dead-letter queues do nothing, and schedules are looked at every 10 s only.

Nothing is retried here: what comes back is an answer about permission or request, which does not
change. Flexible windows begin at once. Time is not scaled: rate(1 minute) is a minute.
"""

import contextvars
import json
import logging
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import ranges
import roles
import schedule_targets
import schedules
from botocore.exceptions import BotoCoreError, ClientError
from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import eventbridge, scheduler
from ministack.services.cloudformation import provisioners
from refusals import Refused, before

PATCHES = (
    *roles.NEEDS,
    "core.responses.request_scope",
    "services.scheduler._create_schedule",
    "services.scheduler._update_schedule",
    "services.scheduler._create_schedule_group",
    "services.scheduler._tick_schedules",
    "services.scheduler._SCHEDULE_TICK_INTERVAL",
    "services.scheduler._schedules",
    "services.scheduler._schedule_groups",
    "services.scheduler._schedule_last_fired",
    "services.scheduler._to_epoch",
    "services.scheduler._group_arn",
    "services.eventbridge._parse_rate_seconds",
    "services.eventbridge._parse_cron_fields",
    "services.eventbridge._cron_next_fire",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudformation.provisioners._scheduler_schedule_delete",
    "services.cloudformation.provisioners._physical_name",
)

SERVICE = "scheduler.amazonaws.com"
OWN = "This operation cannot be performed on schedule group default."
logger = logging.getLogger("gaps.scheduler_targets")


def close() -> None:
    """Check schedules, and look every second at those that are due."""
    scheduler._create_schedule = before(scheduler._create_schedule, check)
    scheduler._update_schedule = before(scheduler._update_schedule, check)
    scheduler._create_schedule_group = before(scheduler._create_schedule_group, check_group)
    scheduler._tick_schedules = tick
    scheduler._SCHEDULE_TICK_INTERVAL = 1
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Scheduler::Schedule"]
    handlers["create"], handlers["update"] = create, update


def check(name: str, sent: dict[str, Any]) -> None:
    """CreateSchedule and UpdateSchedule."""
    if problem := ranges.problem("scheduler", "CreateSchedule", {**sent, "Name": name}):
        raise Refused(problem, "ValidationException")
    expression, zone = sent["ScheduleExpression"], sent.get("ScheduleExpressionTimezone")
    if not schedules.of_scheduler(expression):
        raise Refused(f"Invalid Schedule Expression {expression}.", "ValidationException")
    if zone and not schedules.is_zone(zone):
        raise Refused(f"Invalid ScheduleExpressionTimezone {zone}.", "ValidationException")
    for problem in schedule_targets.problems(sent, get_region()):
        raise Refused(problem, "ValidationException")
    start, end = (scheduler._to_epoch(sent.get(one)) for one in ("StartDate", "EndDate"))
    if start and end and start >= end:
        text = "The StartDate you specify must come before the EndDate."
        raise Refused(text, "ValidationException")
    group = sent.get("GroupName") or "default"
    if group != "default" and group not in scheduler._schedule_groups:
        text = f"Schedule group {group} does not exist."
        raise Refused(text, "ResourceNotFoundException", 404)
    if not roles.trusts(sent["Target"]["RoleArn"], SERVICE, **about(group)):
        text = "The execution role you provide must allow AWS EventBridge Scheduler to assume the"
        raise Refused(f"{text} role.", "ValidationException")


def check_group(name: str, _: dict[str, Any]) -> None:
    """CreateScheduleGroup."""
    if problem := ranges.problem("scheduler", "CreateScheduleGroup", {"Name": name}):
        raise Refused(problem, "ValidationException")
    if name == "default":
        raise Refused(OWN, "ValidationException")


def about(group: str) -> dict[str, str]:
    """What Scheduler says of itself when it assumes a role: the schedule's group, not its name."""
    return {"aws_SourceArn": scheduler._group_arn(group), "aws_SourceAccount": get_account_id()}


def create(logical_id: str, properties: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
    """A schedule of CloudFormation's, made as the API makes it."""
    name = properties.get("Name") or provisioners._physical_name(stack, logical_id, max_len=64)
    return _put(scheduler._create_schedule, name, properties)


def update(
    name: str, old: dict[str, Any], new: dict[str, Any], _: str
) -> tuple[str, dict[str, Any]]:
    """A changed schedule; one of another name or group is a new one."""
    places = [(one.get("GroupName") or "default", one.get("Name") or name) for one in (old, new)]
    if places[0] == places[1]:
        return _put(scheduler._update_schedule, name, new)
    made = _put(scheduler._create_schedule, places[1][1], new)
    provisioners._scheduler_schedule_delete(name, old)
    return made


def _put(call: Any, name: str, properties: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    for date in ("StartDate", "EndDate"):
        if re.fullmatch(r"[\d-]+T[\d:]+Z?", properties.get(date) or ""):
            text = f"{date} needs to follow the format yyyy-MM-ddTHH:mm:ss.SSSZ"
            raise ValueError(f"Invalid request provided: {text}")
    status, _, body = call(name, {key: one for key, one in properties.items() if key != "Name"})
    answer = json.loads(body)
    if status >= 400:
        raise ValueError(answer.get("message") or answer.get("Message"))
    return name, {"Arn": answer["ScheduleArn"]}


def tick() -> None:
    """Invoke the targets of all schedules that are due, each in a thread of its own."""
    for (account, region, key), schedule in list(scheduler._schedules._data.items()):
        with request_scope(account, region):
            try:
                _look(schedule, (account, region, key))
            except Exception:
                logger.exception("schedule %s cannot be looked at", schedule["Arn"])


def _look(schedule: dict[str, Any], key: tuple[str, str, str]) -> None:
    now = datetime.now(UTC)
    moment, last = due(schedule, scheduler._schedule_last_fired.get(key), now)
    if moment:
        scheduler._schedule_last_fired[key] = now.timestamp()
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(fire, schedule, moment), daemon=True).start()
    if last and schedule.get("ActionAfterCompletion") == "DELETE":
        scheduler._schedules._data.pop(key, None)


def due(
    schedule: dict[str, Any], fired: float | None, now: datetime
) -> tuple[datetime | None, bool]:
    """The moment for which a schedule is due now, if it is, and whether it is done for ever.

    fired: when it was due before, in epoch seconds. What was before the last change is forgotten.
    """
    start, end = (scheduler._to_epoch(schedule.get(one)) for one in ("StartDate", "EndDate"))
    if schedule.get("State") == "DISABLED" or (start and now.timestamp() < start):
        return None, False
    if end and now.timestamp() > end:
        return None, True
    changed = float(schedule["LastModificationDate"])
    if fired is not None and fired < changed:
        fired = None
    expression = schedule["ScheduleExpression"]
    zone = ZoneInfo(schedule.get("ScheduleExpressionTimezone") or "UTC")
    if local := schedules.at(expression):
        moment = local.replace(tzinfo=zone)
        return (moment, True) if fired is None and moment <= now else (None, fired is not None)
    if expression.lower().startswith("rate("):
        if fired is None:  # the first is at once
            return now, False
        rate = re.sub(r"rate\((\d+) *", r"rate(\1 ", expression.lower())
        moment = _at(fired) + timedelta(seconds=eventbridge._parse_rate_seconds(rate) or 0)
    else:
        fields = eventbridge._parse_cron_fields(schedules.with_year(expression))
        since = _at(changed if fired is None else fired).astimezone(zone)
        moment = eventbridge._cron_next_fire(fields, since)
    return (moment, False) if moment and moment <= now else (None, False)


def _at(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


def fire(schedule: dict[str, Any], moment: datetime) -> None:
    """Make a schedule's call, or send what failed to its dead-letter queue."""
    target = schedule["Target"]
    stamp = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    context = {
        "schedule-arn": schedule["Arn"],
        "scheduled-time": stamp,
        "execution-id": str(uuid4()),
        "attempt-number": "1",
    }
    given = target.get("Input") or json.dumps(_event(schedule, stamp))
    payload = schedule_targets.filled(given, context)
    try:
        service, operation, parameters = schedule_targets.call(target, payload)
        answer = getattr(_client(service, schedule), operation)(**parameters)
        if answer.get("FailedEntryCount"):
            problem = next(one for one in answer["Entries"] if "ErrorCode" in one)
            _bury(schedule, payload, context, problem["ErrorCode"], problem["ErrorMessage"])
    except ClientError as error:
        said = error.response["Error"]
        _bury(schedule, payload, context, said["Code"], said["Message"])
    except (roles.Denied, BotoCoreError) as error:
        _bury(schedule, payload, context, "AccessDeniedException", str(error))


def _event(schedule: dict[str, Any], stamp: str) -> dict[str, Any]:
    """What a target without an input gets."""
    return {
        "version": "0",
        "id": str(uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": get_account_id(),
        "time": stamp,
        "region": get_region(),
        "resources": [schedule["Arn"]],
        "detail": "{}",
    }


def _client(service: str, schedule: dict[str, Any]) -> Any:
    role, group = schedule["Target"]["RoleArn"], schedule["GroupName"]
    return roles.client(service, role, SERVICE, "scheduler", **about(group))


def _bury(
    schedule: dict[str, Any], payload: str, context: dict[str, str], code: str, text: str
) -> None:
    target = schedule["Target"]
    queue = (target.get("DeadLetterConfig") or {}).get("Arn")
    attributes = {
        "ERROR_CODE": code,
        "ERROR_MESSAGE": text,
        "EXECUTION_ID": context["execution-id"],
        "IS_PAYLOAD_TRUNCATED": "false",
        "RETRY_ATTEMPTS": "0",
        "SCHEDULED_TIME": context["scheduled-time"],
        "SCHEDULE_ARN": schedule["Arn"],
        "TARGET_ARN": target["Arn"],
    }
    if queue:
        _, _, parameters = schedule_targets.call({"Arn": queue}, payload)
        try:
            _client("sqs", schedule).send_message(
                **parameters,
                MessageAttributes={
                    name: {"DataType": "String", "StringValue": value}
                    for name, value in attributes.items()
                    if value
                },
            )
        except (roles.Denied, ClientError, BotoCoreError) as error:
            text = f"{text}; its dead-letter queue: {error}"
        else:
            return
    logger.warning("schedule %s: %s: %s", schedule["Arn"], code, text)
