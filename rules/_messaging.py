"""A CloudFormation template as it would be deployed, for rules that ask how its parts connect.

cfn-lint loads each rule file by its path; this one, whose name begins with "_", it leaves alone.

A template with conditions is several templates. `worlds()` gives each of them: intrinsic
functions resolved as far as the template says, parameters by their defaults, resources whose
condition is false left out. What cannot be known before deployment is UNKNOWN, and a rule says
nothing about it.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

from cfnlint.rules import CloudFormationLintRule, RuleMatch
from cfnlint.template import Template

WORLDS = 16  # enough to see every condition of most templates; each costs one run of the rules
RETENTION = 345600  # seconds that a queue keeps a message where nothing is said, as SQS does
Path = list[str | int]
Finding = tuple[Path, str]  # where in the template, what to do


class _Unknown:
    """The value of what is known only when the stack is deployed; never equal to anything."""

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __bool__(self) -> bool:
        return False


UNKNOWN = _Unknown()
ABSENT = object()  # AWS::NoValue: the property is not there


class Reference(NamedTuple):
    """A Ref ("Ref") or Fn::GetAtt (its attribute) to a resource of the template."""

    logical_id: str
    attribute: str


class Resource(NamedTuple):
    """A resource of one world: its properties resolved."""

    id: str
    type: str
    properties: dict[str, Any]

    def __getitem__(self, name: Any) -> Any:
        """A property: None where absent, UNKNOWN where not resolved."""
        return self.properties.get(name)

    def path(self, *steps: str | int) -> Path:
        """Where a property of it stands in the template."""
        return ["Resources", self.id, "Properties", *steps]


class Rule(CloudFormationLintRule):
    """Base of the pack's rules: `check` sees one world and yields (path, what to do)."""

    options: ClassVar[dict[str, dict[str, Any]]] = {}  # as cfn-lint's config_definition

    def __init__(self) -> None:
        super().__init__()
        self.config_definition = self.options
        self.configure()

    def check(self, world: World) -> Iterator[Finding]:
        """Findings of this rule in one world of the template."""
        raise NotImplementedError

    def match(self, cfn: Template) -> list[RuleMatch]:
        """All findings, each once however many worlds have it."""
        if not self.id:
            return []
        found = dict.fromkeys(
            (tuple(path), message) for world in worlds(cfn) for path, message in self.check(world)
        )
        return [RuleMatch(list(path), message) for path, message in found]


_known: WeakKeyDictionary[Template, list[World]] = WeakKeyDictionary()


def worlds(cfn: Template) -> list[World]:
    """The templates that this one can become, at most 16; kept for the next rule."""
    if (known := _known.get(cfn)) is None:
        names = _conditions(cfn.template)
        scenarios = cfn.conditions.build_scenarios({name: {True, False} for name in sorted(names)})
        known = [World(cfn.template, one) for one in (islice(scenarios, WORLDS) if names else [{}])]
        _known[cfn] = known
    return known


def _conditions(template: dict[str, Any]) -> set[str]:
    """Names of the conditions that its resources depend on."""
    names: set[str] = set()
    resources = template.get("Resources")
    waiting = [
        one
        for one in (resources.values() if isinstance(resources, dict) else [])
        if isinstance(one, dict) and one.get("Type") != "AWS::CDK::Metadata"
    ]
    names.update(one["Condition"] for one in waiting if isinstance(one.get("Condition"), str))
    stack: list[Any] = [one.get("Properties") for one in waiting]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            chosen = value.get("Fn::If")
            if isinstance(chosen, list) and chosen and isinstance(chosen[0], str):
                names.add(chosen[0])
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return names


class World:
    """One template that can be deployed: every condition decided."""

    def __init__(self, template: dict[str, Any], scenario: dict[str, bool]) -> None:
        self._template, self._scenario = template, scenario

    @cached_property
    def resources(self) -> dict[str, Resource]:
        """All resources of this world by logical id."""
        found = {}
        for logical_id, one in _dict(self._template.get("Resources")).items():
            if not isinstance(one, dict) or not isinstance(one.get("Type"), str):
                continue
            if self._scenario.get(str(one.get("Condition")), True):
                properties = self._resolve(one.get("Properties"))
                found[str(logical_id)] = Resource(str(logical_id), one["Type"], _dict(properties))
        return found

    def of(self, *types: str) -> list[Resource]:
        """The resources of these types."""
        return [one for one in self.resources.values() if one.type in types]

    def find(self, value: Any, *types: str) -> Resource | None:
        """The resource that a value names: by reference, by ARN or by physical name."""
        if isinstance(value, Reference):
            found = self.resources.get(value.logical_id)
            return found if found and found.type in types else None
        if isinstance(value, str) and value:
            for name, one in self._by_name:
                if one.type in types and re.search(rf"(^|[:/]){re.escape(name)}$", value):
                    return one
        return None

    @cached_property
    def _by_name(self) -> list[tuple[str, Resource]]:
        """(physical name, resource) of those that have one."""
        return [
            (name, one)
            for one in self.resources.values()
            for name in [one[one.type.rpartition("::")[2] + "Name"]]
            if isinstance(name, str) and name
        ]

    # ---- how its parts connect

    @cached_property
    def event_sources(self) -> list[tuple[Resource, Resource, Resource | None]]:
        """(mapping, queue, function) for event source mappings of queues of this template."""
        return [
            (mapping, queue, self.function(mapping["FunctionName"]))
            for mapping in self.of("AWS::Lambda::EventSourceMapping")
            if (queue := self.find(mapping["EventSourceArn"], "AWS::SQS::Queue"))
        ]

    def function(self, value: Any) -> Resource | None:
        """The function that a value names, also through a version or an alias."""
        for _ in range(3):  # alias, version, function
            one = self.find(
                value, "AWS::Lambda::Function", "AWS::Lambda::Version", "AWS::Lambda::Alias"
            )
            if one is None or one.type == "AWS::Lambda::Function":
                return one
            value = one["FunctionName"]
        return None

    @cached_property
    def redrives(self) -> list[tuple[Resource, Resource]]:
        """(queue, its dead-letter queue) where both are of this template."""
        return [
            (queue, dead)
            for queue in self.of("AWS::SQS::Queue")
            if (
                dead := self.find(
                    at(queue["RedrivePolicy"], "deadLetterTargetArn"), "AWS::SQS::Queue"
                )
            )
        ]

    @cached_property
    def dead_letter_queues(self) -> dict[str, list[Resource]]:
        """Logical id of each queue that takes dead letters to the resources they come from."""
        found: dict[str, list[Resource]] = {}
        for one in self.resources.values():
            for value in _dead_letter_targets(one.properties):
                if queue := self.find(value, "AWS::SQS::Queue"):
                    found.setdefault(queue.id, []).append(one)
        return found

    @cached_property
    def subscriptions(self) -> list[tuple[Resource, Path, dict[str, Any], Any]]:
        """(resource, path, settings, topic) of each subscription, also those inside a topic."""
        found: list[tuple[Resource, Path, dict[str, Any], Any]] = [
            (one, one.path(), one.properties, one["TopicArn"])
            for one in self.of("AWS::SNS::Subscription")
        ]
        for topic in self.of("AWS::SNS::Topic"):
            for index, one in enumerate(_list(topic["Subscription"])):
                if isinstance(one, dict):
                    where = topic.path("Subscription", index)
                    found.append((topic, where, one, Reference(topic.id, "Ref")))
        return found

    @cached_property
    def notifications(self) -> list[tuple[Resource, Path, Notification]]:
        """(resource, path, notification) of the buckets' own and of the CDK's custom resource."""
        found = []
        for one in self.of("AWS::S3::Bucket", "Custom::S3BucketNotifications"):
            settings = _dict(one["NotificationConfiguration"])
            for kind, value in settings.items():
                for index, each in enumerate(_dicts(value)):
                    where = one.path("NotificationConfiguration", kind, index)
                    found.append((one, where, Notification(each)))
        return found

    @cached_property
    def event_targets(self) -> list[tuple[Resource, Path, dict[str, Any]]]:
        """(resource, path, target) of each EventBridge rule and schedule."""
        found = [
            (rule, rule.path("Targets", index), target)
            for rule in self.of("AWS::Events::Rule")
            for index, target in enumerate(_list(rule["Targets"]))
            if isinstance(target, dict)
        ]
        for schedule in self.of("AWS::Scheduler::Schedule"):
            if isinstance(target := schedule["Target"], dict):
                found.append((schedule, schedule.path("Target"), target))
        return found

    @cached_property
    def watched_queues(self) -> set[Any]:
        """Logical ids of the queues whose depth or age alarms watch; UNKNOWN if not resolved."""
        found: set[Any] = set()
        for alarm in self.of("AWS::CloudWatch::Alarm"):
            metrics = [alarm.properties]
            for query in _dicts(alarm["Metrics"]):
                metrics.append(_dict(at(query, "MetricStat", "Metric")))
            for metric in metrics:
                if metric.get("MetricName") not in (
                    "ApproximateNumberOfMessagesVisible",
                    "ApproximateAgeOfOldestMessage",
                ):
                    continue
                for dimension in _dicts(metric.get("Dimensions")):
                    value = dimension.get("Value")
                    queue = self.find(value, "AWS::SQS::Queue")
                    elsewhere = isinstance(value, str) and "${" not in value
                    found.add(queue.id if queue else None if elsewhere else UNKNOWN)
        return found

    @cached_property
    def named_by_others(self) -> set[str]:
        """Logical ids that a resource names outside of its own properties; text counts too."""
        found: set[str] = set()
        for one in self.resources.values():
            waiting: list[Any] = [one.properties]
            while waiting:
                value = waiting.pop()
                if isinstance(value, Reference):
                    found.add(value.logical_id)
                elif isinstance(value, str):
                    found.update(re.findall(r"\$\{(\w+)[.}]", value))
                elif isinstance(value, (dict, list)):
                    waiting.extend(value.values() if isinstance(value, dict) else value)
        return found

    def key(self, value: Any) -> Resource | None:
        """The KMS key that a value names, also by an alias."""
        one = self.find(value, "AWS::KMS::Key", "AWS::KMS::Alias")
        return (
            self.find(one["TargetKeyId"], "AWS::KMS::Key") if one and "Alias" in one.type else one
        )

    def reads_a_queue(self, mapping: Resource) -> bool:
        """Whether an event source mapping is of a queue, of this template or another."""
        arn = mapping["EventSourceArn"]
        return bool(self.find(arn, "AWS::SQS::Queue")) or (
            isinstance(arn, str) and bool(re.match(r"arn:[^:]*(::[^:]*)?:sqs:", arn))
        )

    def senders(self, target: Resource) -> set[str]:
        """The AWS services that send to this queue or topic as themselves, not by a role."""
        return self._senders.get(target.id, set())

    @cached_property
    def _senders(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}

        def add(service: str, *values: Any) -> None:
            for value in values:
                if target := self.find(value, "AWS::SQS::Queue", "AWS::SNS::Topic"):
                    found.setdefault(target.id, set()).add(f"{service}.amazonaws.com")

        for _, _, settings, _ in self.subscriptions:
            add("sns", *_dead_letter_targets(settings))
            if settings.get("Protocol") == "sqs":
                add("sns", settings.get("Endpoint"))
        for _, _, notification in self.notifications:
            add("s3", notification.target)
        for rule in self.of("AWS::Events::Rule"):
            for target in _dicts(rule["Targets"]):
                add("events", target.get("Arn"), *_dead_letter_targets(target))
        for alarm in self.of("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"):
            for actions in ("AlarmActions", "OKActions", "InsufficientDataActions"):
                add("cloudwatch", *_list(alarm[actions]))
        return found

    def statements(self, target: Resource) -> list[tuple[Resource, dict[str, Any]]]:
        """(policy, statement) of the resource policies of a queue or a topic."""
        kinds = {
            "AWS::SQS::QueuePolicy": "Queues",
            "AWS::SQS::QueueInlinePolicy": "Queue",
            "AWS::SNS::TopicPolicy": "Topics",
            "AWS::SNS::TopicInlinePolicy": "TopicArn",
        }
        return [
            (policy, statement)
            for policy in self.of(*kinds)
            if any(
                self.find(one, target.type) == target for one in _list(policy[kinds[policy.type]])
            )
            for statement in statements(policy["PolicyDocument"])
        ]

    @cached_property
    def state_machines(self) -> list[tuple[Resource, dict[str, Any]]]:
        """(resource, definition) of each state machine whose definition can be read."""
        found = []
        for one in self.of("AWS::StepFunctions::StateMachine"):
            given = _dict(one["DefinitionSubstitutions"])
            definition = one["Definition"] or one["DefinitionString"]
            text = definition if isinstance(definition, str) else _dumped(definition)
            for name, value in given.items():
                text = text.replace(f"${{{name}}}", _text(value))
            if isinstance(parsed := _json(text), dict):
                found.append((one, parsed))
        return found

    # ---- intrinsic functions

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            return [one for one in map(self._resolve, value) if one is not ABSENT]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, argument),) = value.items()
            if function == "Ref" or str(function).startswith("Fn::"):
                resolve = self._FUNCTIONS.get(function)
                return resolve(self, argument) if resolve else UNKNOWN
        resolved = ((key, self._resolve(one)) for key, one in value.items())
        return {str(key): one for key, one in resolved if one is not ABSENT}

    def _ref(self, name: Any) -> Any:
        if name == "AWS::NoValue":
            return ABSENT
        if not isinstance(name, str):
            return UNKNOWN
        if name.startswith("AWS::"):
            return f"${{{name}}}"
        parameter = _dict(self._template.get("Parameters")).get(name)
        if isinstance(parameter, dict):
            default, kind = parameter.get("Default", UNKNOWN), str(parameter.get("Type"))
            if kind.startswith("AWS::SSM::"):
                return UNKNOWN
            return str(default).split(",") if "List" in kind and default is not UNKNOWN else default
        return Reference(name, "Ref")

    def _get_att(self, argument: Any) -> Any:
        parts = argument.split(".", 1) if isinstance(argument, str) else argument
        if isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, str) for p in parts):
            return Reference(*parts)
        return UNKNOWN

    def _if(self, argument: Any) -> Any:
        if not (isinstance(argument, list) and len(argument) == 3):
            return UNKNOWN
        decided = self._scenario.get(argument[0]) if isinstance(argument[0], str) else None
        return UNKNOWN if decided is None else self._resolve(argument[1 if decided else 2])

    def _join(self, argument: Any) -> Any:
        if not (isinstance(argument, list) and len(argument) == 2):
            return UNKNOWN
        parts = self._resolve(argument[1])
        if not isinstance(argument[0], str) or not isinstance(parts, list):
            return UNKNOWN
        return _whole(argument[0].join(map(_text, parts)))

    def _sub(self, argument: Any) -> Any:
        template, given = argument, {}
        if isinstance(argument, list) and len(argument) == 2:
            template, given = argument[0], _dict(self._resolve(argument[1]))
        if not isinstance(template, str):
            return UNKNOWN

        def replaced(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return f"${{{name[1:]}}}"
            value = given.get(name)
            if value is None:
                value = self._get_att(name) if "." in name else self._ref(name)
            return _text(value)

        return _whole(re.sub(r"\$\{([^}]*)\}", replaced, template))

    def _find_in_map(self, argument: Any) -> Any:
        keys = self._resolve(argument)
        found: Any = self._template.get("Mappings")
        for key in keys[:3] if isinstance(keys, list) else [None]:
            found = found.get(key) if isinstance(found, dict) and isinstance(key, str) else None
        return UNKNOWN if found is None else found

    def _select(self, argument: Any) -> Any:
        if not (isinstance(argument, list) and len(argument) == 2):
            return UNKNOWN
        index, among = number(self._resolve(argument[0])), self._resolve(argument[1])
        if isinstance(among, list) and index is not None and 0 <= index < len(among):
            return among[int(index)]
        return UNKNOWN

    def _split(self, argument: Any) -> Any:
        resolved = self._resolve(argument)
        if isinstance(resolved, list) and len(resolved) == 2:
            by, text = resolved
            if isinstance(by, str) and by and isinstance(text, str) and "${" not in text:
                return text.split(by)
        return UNKNOWN

    def _to_json(self, argument: Any) -> Any:
        return _dumped(self._resolve(argument))

    _FUNCTIONS = {
        "Ref": _ref,
        "Fn::GetAtt": _get_att,
        "Fn::If": _if,
        "Fn::Join": _join,
        "Fn::Sub": _sub,
        "Fn::FindInMap": _find_in_map,
        "Fn::Select": _select,
        "Fn::Split": _split,
        "Fn::ToJsonString": _to_json,
    }


class Notification:
    """One S3 event notification in either spelling: CloudFormation's or the S3 API's."""

    def __init__(self, settings: dict[str, Any]) -> None:
        targets = ("Queue", "Topic", "Function", "QueueArn", "TopicArn", "LambdaFunctionArn")
        self.target: Any = next((settings[name] for name in targets if name in settings), None)
        self.events = [*_list(settings.get("Event")), *_list(settings.get("Events"))]
        filters = _dict(settings.get("Filter"))
        key = _dict(filters.get("S3Key") or filters.get("Key"))
        rules = _dicts(key.get("Rules") or key.get("FilterRules"))
        values: dict[str, Any] = {str(one.get("Name")).lower(): one.get("Value") for one in rules}
        self.prefix: Any = values.get("prefix", "")
        self.suffix: Any = values.get("suffix", "")

    def overlaps(self, other: Notification) -> bool:
        """Whether one event on one key can match both."""
        return (
            any(_covers(a, b) or _covers(b, a) for a in self.events for b in other.events)
            and (self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix))
            and (self.suffix.endswith(other.suffix) or other.suffix.endswith(self.suffix))
        )

    @property
    def known(self) -> bool:
        """Whether its events and its filter are resolved."""
        return all(
            isinstance(one, str) and "${" not in one
            for one in (*self.events, self.prefix, self.suffix)
        )


def _covers(pattern: str, event: str) -> bool:
    """Whether an event type is, or is one of, another ("s3:ObjectCreated:*")."""
    return pattern == event or (pattern.endswith("*") and event.startswith(pattern[:-1]))


# ---- values


def number(value: Any, default: float | None = None) -> float | None:
    """A number, also one written as text, or where nothing is said `default`; else None."""
    if value is None:
        return default
    if isinstance(value, bool):
        return None
    try:
        return float(value) if isinstance(value, (int, float, str)) else None
    except ValueError:
        return None


def truth(value: Any) -> bool | None:
    """A Boolean, also one written as text; None for everything else."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def missing(value: Any) -> bool:
    """Whether a property is not there or empty; what is UNKNOWN is not missing."""
    return value is not UNKNOWN and value in (None, "", [], {})


def at(value: Any, *steps: str) -> Any:
    """What lies under these keys, also in JSON written as text: None where there is nothing."""
    for step in steps:
        value = _json(value) if isinstance(value, str) else value
        if value is UNKNOWN or not isinstance(value, dict):
            return UNKNOWN if value is UNKNOWN else None
        value = value.get(step)
    return _whole(value) if isinstance(value, str) else value


def statements(document: Any) -> list[dict[str, Any]]:
    """The statements of a policy document, which may be JSON written as text."""
    return _dicts(at(document, "Statement"))


def principals(statement: dict[str, Any], kind: str) -> list[Any]:
    """Whom a statement is about, of one kind ("Service", "AWS"); ["*"] for everybody."""
    principal = at(statement, "Principal")
    named = at(principal, kind)
    return ["*"] if principal == "*" else [UNKNOWN] if named is UNKNOWN else _list(named)


def admits(statement: dict[str, Any], service: str) -> bool:
    """Whether a statement is about this service, or about everybody, or about whom is not known."""
    named = [*principals(statement, "Service"), *principals(statement, "AWS")]
    return any(one in named for one in (service, "*", UNKNOWN))


def allows(statement: dict[str, Any], action: str, *, unknown: bool) -> bool:
    """Whether a statement allows an action; its conditions are not asked.

    unknown: the answer where its actions are not resolved.
    """
    actions = _list(at(statement, "Action"))
    if statement.get("Action") is UNKNOWN or UNKNOWN in actions:
        return unknown
    return statement.get("Effect") == "Allow" and any(
        fnmatch.fnmatchcase(action.lower(), one.lower()) for one in actions if isinstance(one, str)
    )


def states(definition: dict[str, Any], handled: bool = False) -> Iterator[State]:
    """Every state of a definition, also inside Parallel and Map."""
    for name, settings in _dict(definition.get("States")).items():
        if not isinstance(settings, dict):
            continue
        yield State(name, settings, handled)
        inner = handled or "Retry" in settings or "Catch" in settings
        branches = _dicts(settings.get("Branches"))
        for key in ("ItemProcessor", "Iterator"):
            branches += _dicts(settings.get(key))
        for branch in branches:
            yield from states(branch, inner)


class State(NamedTuple):
    """One state; handled: a Parallel or Map around it retries or catches."""

    name: str
    settings: dict[str, Any]
    handled: bool

    @property
    def resource(self) -> str:
        """What a Task calls; empty where that is not text."""
        resource = self.settings.get("Resource")
        return resource if isinstance(resource, str) else ""

    @property
    def is_task(self) -> bool:
        """Whether it calls something."""
        return self.settings.get("Type") == "Task"

    @property
    def waits(self) -> bool:
        """Whether it waits for somebody outside: a callback or an activity."""
        return self.is_task and (
            self.resource.endswith(".waitForTaskToken") or ":activity:" in self.resource
        )

    def has(self, *names: str) -> bool:
        """Whether one of these fields is there, as a value or as a path (`TimeoutSecondsPath`)."""
        return any(name in self.settings or f"{name}Path" in self.settings for name in names)


def _dead_letter_targets(properties: Any) -> Iterator[Any]:
    """What stands where properties name a dead-letter queue or a destination for failures."""
    waiting = [properties]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, one in value.items():
                if key in ("RedrivePolicy", "DeadLetterConfig", "OnFailure", "DeadLetterQueue"):
                    for name in ("deadLetterTargetArn", "Arn", "TargetArn", "Destination"):
                        if found := at(one, name):
                            yield found
                else:
                    waiting.append(one)
        elif isinstance(value, list):
            waiting.extend(value)


def _text(value: Any) -> str:
    """A value inside a text: what is not known stays a placeholder."""
    if isinstance(value, Reference):
        dot = "" if value.attribute == "Ref" else f".{value.attribute}"
        return f"${{{value.logical_id}{dot}}}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (str, int, float)) else "${?}"


def _whole(text: str) -> Any:
    """A text that is nothing but one placeholder is the reference itself."""
    match = re.fullmatch(r"\$\{([A-Za-z0-9]+)(?:\.([A-Za-z0-9.]+))?\}", text)
    return Reference(match[1], match[2] or "Ref") if match else text


def _dumped(value: Any) -> str:
    def plain(one: Any) -> Any:
        if isinstance(one, Reference) or one is UNKNOWN:
            return _text(one)
        if isinstance(one, dict):
            return {key: plain(each) for key, each in one.items()}
        return [plain(each) for each in one] if isinstance(one, list) else one

    return json.dumps(plain(value), default=str)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return UNKNOWN


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None or value is UNKNOWN else [value]


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in _list(value) if isinstance(one, dict)]
