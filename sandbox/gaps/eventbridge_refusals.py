"""EventBridge refuses what it refuses on AWS, by API and by CloudFormation.

Entries of PutEvents that lack something, are no JSON objects or pretend to be AWS's fail one by
one; a request over 1 MiB fails as a whole; the Time of an entry is kept. Rules: names, patterns,
schedules and buses. Targets: more than five, identifiers, inputs, templates, roles that EventBridge
may not assume, dead-letter queues. A rule with targets is not deleted.

Seen in MiniStack 1.5.33: PutEvents takes all but sources of AWS's, and gives each event the present
time; rates of 0 and fields of cron() out of range are taken; targets are hardly checked and
CloudFormation's rules not at all; rules that are not there are enabled in silence.

A target that nothing is delivered to here is refused as well, in one line.
"""

import json
from collections.abc import Callable
from typing import Any

import event_rules
import ranges
import roles
import schedules
from gaps import eventbridge_delivery
from ministack.core.responses import get_account_id, get_region, json_response, new_uuid
from ministack.services import eventbridge
from ministack.services.cloudformation import provisioners
from refusals import Refused, before, before_made

PATCHES = (
    *roles.NEEDS,
    "services.eventbridge._put_events",
    "services.eventbridge._events_log_list",
    "services.eventbridge._pattern_event_view",
    "services.eventbridge._dispatch_event",
    "services.eventbridge._archive_event",
    "services.eventbridge._put_rule",
    "services.eventbridge._put_targets",
    "services.eventbridge._delete_rule",
    "services.eventbridge._describe_rule",
    "services.eventbridge._enable_rule",
    "services.eventbridge._disable_rule",
    "services.eventbridge._remove_targets",
    "services.eventbridge._list_targets_by_rule",
    "services.eventbridge._list_rules",
    "services.eventbridge._rules",
    "services.eventbridge._targets",
    "services.eventbridge._event_buses",
    "services.eventbridge._event_bus_policies",
    "services.eventbridge._create_event_bus",
    "services.eventbridge._describe_event_bus",
    "services.eventbridge._delete_event_bus",
    "services.eventbridge._remove_permission",
    "services.eventbridge._ensure_default_bus",
    "services.eventbridge._rule_key",
    "services.eventbridge._rule_arn",
    "services.eventbridge._now_ts",
    "services.eventbridge._event_pattern_error",
    "services.eventbridge._validate_target_arn",
    "services.eventbridge._event_bus_name_from_ref",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudformation.provisioners._physical_name",
    "services.cloudformation.provisioners._eb_rule_create",
)

MOST_TARGETS = 5  # of a rule
INVALID = "ValidationException"


def close() -> None:
    """Check before anything is made, changed or sent."""
    publish = eventbridge._put_events

    def put_events(data: dict[str, Any], allow_aws_source: bool = False) -> Any:
        return publish(data, allow_aws_source) if allow_aws_source else put(data)

    eventbridge._put_events = before(put_events, in_range)
    eventbridge._put_rule = before(eventbridge._put_rule, rule_by_api)
    eventbridge._put_targets = before(eventbridge._put_targets, targets_by_api)
    eventbridge._delete_rule = before(eventbridge._delete_rule, without_targets)
    _check("_list_rules", bus_of)
    _check("_create_event_bus", new_bus)
    _check("_describe_event_bus", described_bus)
    _check("_delete_event_bus", deleted_bus)
    _check("_remove_permission", statement_of)
    for call in ("describe_rule", "enable_rule", "disable_rule"):
        _check(f"_{call}", lambda data: there(data, data.get("Name", "")))
    for call in ("remove_targets", "list_targets_by_rule"):
        _check(f"_{call}", lambda data: there(data, data.get("Rule", "")))
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Events::Rule"]
    handlers["create"] = before_made(handlers["create"], by_template)
    handlers["update"] = before_made(handlers["update"], changed_by_template)


def _check(call: str, check: Callable[[dict[str, Any]], Any]) -> None:
    setattr(eventbridge, call, before(getattr(eventbridge, call), check))


def in_range(data: dict[str, Any], allow_aws_source: bool = False) -> None:
    """What fails a whole request of PutEvents."""
    if allow_aws_source:
        return
    if problem := ranges.problem("events", "PutEvents", data):
        raise Refused(problem, INVALID)
    if sum(map(event_rules.size, data["Entries"])) > event_rules.MOST_BYTES:
        raise Refused("Total size of the entries in the request is over the limit.", INVALID)


def put(data: dict[str, Any]) -> Any:
    """PutEvents: publish the entries that are right, and say what is wrong with the others."""
    results: list[dict[str, str]] = []
    for entry in data["Entries"]:
        bus, unknown = eventbridge._event_bus_name_from_ref(entry.get("EventBusName", "default"))
        if problem := event_rules.entry_problem(entry) or unknown:
            code, text = problem
            results.append({"ErrorCode": code, "ErrorMessage": text})
            continue
        results.append({"EventId": publish_one(entry, bus)})
    failed = sum("ErrorCode" in result for result in results)
    return json_response({"FailedEntryCount": failed, "Entries": results})


def publish_one(entry: dict[str, Any], bus: str) -> str:
    """The new event's id."""
    event = {
        "EventId": new_uuid(),
        "Source": entry["Source"],
        "DetailType": entry["DetailType"],
        "Detail": entry["Detail"],
        "EventBusName": bus,
        "Time": int(entry.get("Time") or eventbridge._now_ts()),
        "Resources": entry.get("Resources") or [],
        "Account": get_account_id(),
        "Region": get_region(),
    }
    eventbridge._events_log_list().append(event)
    view = eventbridge._pattern_event_view(event)
    eventbridge._dispatch_event(event, view)
    eventbridge._archive_event(event, view)
    return event["EventId"]


def bus_of(data: dict[str, Any]) -> str:
    """The name of the bus that a request means, by name or ARN; it must be there."""
    given = data.get("EventBusName") or "default"
    name, problem = eventbridge._event_bus_name_from_ref(given)
    if problem:
        raise Refused(problem[1], problem[0])
    if name not in eventbridge._event_buses:
        raise Refused(f"Event bus {name} does not exist.", "ResourceNotFoundException")
    data["EventBusName"] = name
    return name


def new_bus(data: dict[str, Any]) -> None:
    """CreateEventBus."""
    if problem := ranges.problem("events", "CreateEventBus", data):
        raise Refused(problem, INVALID)
    if data["Name"] in eventbridge._event_buses:
        text = f"Event bus {data['Name']} already exists."
        raise Refused(text, "ResourceAlreadyExistsException")


def described_bus(data: dict[str, Any]) -> None:
    """DescribeEventBus, by name or ARN."""
    data["Name"] = bus_of({"EventBusName": data.get("Name")})


def deleted_bus(data: dict[str, Any]) -> None:
    """DeleteEventBus: one that is gone is no error."""
    if data.get("Name") == "default":
        raise Refused("Cannot delete event bus default.", INVALID)


def statement_of(data: dict[str, Any]) -> None:
    """RemovePermission: of a statement that must be there."""
    policy = eventbridge._event_bus_policies.get(bus_of(data)) or {}
    names = {statement.get("Sid") for statement in policy.get("Statement", [])}
    if not data.get("RemoveAllPermissions") and data.get("StatementId") not in names:
        text = "Statement with the provided id does not exist."
        raise Refused(text, "ResourceNotFoundException")


def there(data: dict[str, Any], rule: str) -> list[dict[str, Any]]:
    """The targets of a rule that must be there."""
    bus = bus_of(data)
    key = eventbridge._rule_key(rule, bus)
    if key not in eventbridge._rules:
        text = f"Rule {rule} does not exist on EventBus {bus}."
        raise Refused(text, "ResourceNotFoundException")
    return eventbridge._targets.get(key) or []


def without_targets(data: dict[str, Any]) -> None:
    """DeleteRule: a rule that is gone is no error, one with targets is."""
    key = eventbridge._rule_key(data.get("Name", ""), bus_of(data))
    if eventbridge._targets.get(key):
        raise Refused("Rule can't be deleted since it has targets.", INVALID)


def rule_by_api(data: dict[str, Any]) -> None:
    """PutRule."""
    if problem := ranges.problem("events", "PutRule", data):
        raise Refused(problem, INVALID)
    bus, schedule = bus_of(data), data.get("ScheduleExpression")
    if not (schedule or data.get("EventPattern")):
        text = "Parameter(s) EventPattern or ScheduleExpression must be specified."
        raise Refused(text, INVALID)
    if schedule and bus != "default":
        text = "ScheduleExpression is supported only on the default event bus."
        raise Refused(text, INVALID)
    if schedule and not schedules.of_rule(schedule):
        raise Refused("Parameter ScheduleExpression is not valid.", INVALID)
    if reason := eventbridge._event_pattern_error(data.get("EventPattern")):
        text = f"Event pattern is not valid. Reason: {reason}"
        raise Refused(text, "InvalidEventPatternException")


def targets_by_api(data: dict[str, Any]) -> None:
    """PutTargets."""
    if problem := ranges.problem("events", "PutTargets", data):
        raise Refused(problem, INVALID)
    present = {target["Id"] for target in there(data, data["Rule"])}
    check_targets(data["Targets"], present, eventbridge._rule_arn(data["Rule"], bus_of(data)))


def check_targets(targets: list[dict[str, Any]], present: set[str], rule: str) -> None:
    """What holds for targets of a rule, by its ARN, that has some already."""
    sent = {"aws_SourceArn": rule, "aws_SourceAccount": rule.split(":")[4]}
    if len(present | {target["Id"] for target in targets}) > MOST_TARGETS:
        text = "The requested resource exceeds the maximum number allowed."
        raise Refused(text, "LimitExceededException")
    for target in targets:
        if refused := eventbridge._validate_target_arn(target):
            raise Refused(json.loads(refused[2])["message"], INVALID)
        for problem in event_rules.target_problems(target):
            raise Refused(problem, INVALID)
        role = target.get("RoleArn")
        if role and not roles.trusts(role, eventbridge_delivery.SERVICE, **sent):
            text = f"Provided role '{role}' cannot be assumed by principal 'events.amazonaws.com'."
            raise Refused(text, INVALID)
        service = target["Arn"].split(":")[2]
        if service not in eventbridge_delivery.KINDS:
            raise Refused(f"The sandbox delivers no events to targets of {service}", INVALID)


def by_template(logical_id: str, properties: dict[str, Any], stack: str) -> None:
    """A rule that CloudFormation makes, with its targets."""
    eventbridge._ensure_default_bus()
    generated = provisioners._physical_name(stack, logical_id, max_len=64)
    name, pattern = properties.get("Name") or generated, properties.get("EventPattern")
    rule = {
        key: value
        for key, value in properties.items()
        if key in {"Description", "EventBusName", "ScheduleExpression", "State", "RoleArn"}
    }
    text = json.dumps(pattern) if isinstance(pattern, dict) else pattern
    rule_by_api({**rule, "Name": name, "EventPattern": text})
    if targets := properties.get("Targets"):
        if problem := ranges.problem("events", "PutTargets", {"Rule": name, "Targets": targets}):
            raise Refused(problem, INVALID)
        check_targets(targets, set(), eventbridge._rule_arn(name, bus_of(dict(rule))))


def changed_by_template(
    _: str, __: dict[str, Any], new: dict[str, Any], stack: str, logical_id: str | None = None
) -> None:
    """A rule that CloudFormation changes."""
    by_template(logical_id or "", new, stack)
