"""A state machine's definition, read as Step Functions reads it when the machine is made.

Each problem has AWS's code, words and place where they are known: from answers recorded on AWS, or
measured with ValidateStateMachineDefinition. What AWS takes and what then never works is a problem,
too, but not `refused`. Where AWS's answer is not known, nothing is refused.

A text with "${" in it stands for a value that is known only when it is deployed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parent))  # whoever imports this file may know it as rules._...
import _calls
import _jsonata

SCHEMA, TARGET = "SCHEMA_VALIDATION_FAILED", "MISSING_TRANSITION_TARGET"
UNSUPPORTED = "UNSUPPORTED_JSONATA_EXPRESSION"

_GOES_ON = "Next End Assign"
_DATA = "Type Comment QueryLanguage InputPath OutputPath Output"
_HANDLES = "ResultSelector ResultPath Retry Catch Parameters Arguments"
# The fields that each type of state has, in either language.
_FIELDS = {
    "Task": f"{_DATA} {_GOES_ON} {_HANDLES} Resource Credentials TimeoutSeconds TimeoutSecondsPath"
    " HeartbeatSeconds HeartbeatSecondsPath",
    "Wait": f"{_DATA} {_GOES_ON} Seconds SecondsPath Timestamp TimestampPath",
    "Pass": f"{_DATA} {_GOES_ON} Result ResultPath Parameters",
    "Succeed": _DATA,
    "Fail": f"{_DATA} Error ErrorPath Cause CausePath",
    "Choice": f"{_DATA} {_GOES_ON} Choices Default",
    "Parallel": f"{_DATA} {_GOES_ON} {_HANDLES} Branches",
    "Map": f"{_DATA} {_GOES_ON} {_HANDLES} ItemProcessor Iterator ItemsPath Items ItemSelector"
    " ItemReader ItemBatcher ResultWriter Label MaxConcurrency MaxConcurrencyPath"
    " ToleratedFailureCount ToleratedFailureCountPath ToleratedFailurePercentage"
    " ToleratedFailurePercentagePath",
}
FIELDS = {kind: fields.split() for kind, fields in _FIELDS.items()}
_JSONPATH_ONLY = (
    "InputPath OutputPath ResultPath ResultSelector Parameters ItemsPath TimeoutSecondsPath"
    " HeartbeatSecondsPath SecondsPath TimestampPath MaxConcurrencyPath ToleratedFailureCountPath"
    " ToleratedFailurePercentagePath ErrorPath CausePath"
)
JSONPATH_ONLY, JSONATA_ONLY = _JSONPATH_ONLY.split(), ["Output", "Arguments", "Items"]
REQUIRED = {"Task": ["Resource"], "Choice": ["Choices"], "Parallel": ["Branches"]}
MACHINE = ("Comment", "QueryLanguage", "StartAt", "States", "TimeoutSeconds", "Version")
INNER = ("Comment", "ProcessorConfig", "StartAt", "States", "TimeoutSeconds", "Version")
RETRIER = {
    *("ErrorEquals", "IntervalSeconds", "MaxAttempts", "BackoffRate", "MaxDelaySeconds"),
    *("JitterStrategy", "Comment"),
}
# Least and greatest value: the developer guide's and the language's.
RANGES: dict[str, tuple[float, float | None]] = {
    "TimeoutSeconds": (1, 99999999),
    "HeartbeatSeconds": (1, 99999999),
    "Seconds": (0, 99999999),
    "MaxConcurrency": (0, None),
    "ToleratedFailureCount": (0, None),
    "ToleratedFailurePercentage": (0, 100),
    "IntervalSeconds": (0, 99999999),  # documented as 1 and more; that 0 is refused is not
    "MaxAttempts": (0, 99999999),
    "BackoffRate": (1, None),
    "MaxDelaySeconds": (1, 31622400),
    "MaxItemsPerBatch": (1, None),
    "MaxInputBytesPerBatch": (1, 262144),
}
FRACTIONS = ("BackoffRate", "ToleratedFailurePercentage")
# Fields in which Step Functions looks for expressions, in a state that speaks JSONata.
EXPRESSIONS = (
    *("Arguments", "Output", "Assign", "Items", "ItemSelector", "ItemBatcher", "Credentials"),
    *("Seconds", "Timestamp", "TimeoutSeconds", "HeartbeatSeconds", "Error", "Cause"),
    *("MaxConcurrency", "ToleratedFailureCount", "ToleratedFailurePercentage"),
)
TEMPLATES = ("Parameters", "ResultSelector", "ItemSelector", "Assign", "Credentials")
_INTRINSICS = (
    "Array ArrayContains ArrayGetItem ArrayLength ArrayPartition ArrayRange ArrayUnique"
    " Base64Decode Base64Encode Format Hash JsonMerge JsonToString MathAdd MathRandom StringSplit"
    " StringToJson UUID"
)
COMPARISONS = {
    f"{kind}{how}{path}": kind
    for kind in ("String", "Numeric", "Timestamp", "Boolean")
    for how in ("Equals", "LessThan", "GreaterThan", "LessThanEquals", "GreaterThanEquals")
    for path in ("", "Path")
    if kind != "Boolean" or how == "Equals"
} | {"StringMatches": "String"}
TESTS = ("IsNull", "IsPresent", "IsNumeric", "IsString", "IsBoolean", "IsTimestamp")
_ERRORS = (
    "ALL BranchFailed DataLimitExceeded ExceedToleratedFailureThreshold HeartbeatTimeout Http"
    " IntrinsicFailure ItemReaderFailed NoChoiceMatched ParameterPathFailure Permissions"
    " QueryEvaluationError ResultPathMatchFailure ResultWriterFailed Runtime TaskFailed Timeout"
)
ERRORS = {f"States.{name}" for name in _ERRORS.split()}


class Problem(NamedTuple):
    """What is wrong, where: a path such as "/States/Charge/Next", or nothing where AWS says none.

    refused: Step Functions does not make such a machine.
    """

    code: str
    message: str
    location: str
    refused: bool = True

    def __str__(self) -> str:
        """As Step Functions says it."""
        return f"{self.code}: {self.message} at {self.location or 'null'}"


class Scope(NamedTuple):
    """What the states of a machine, a branch or an item's processor have around them.

    language: the machine's. express: whether an Express workflow runs them. variables: those that
    some state may have assigned. models: whether botocore is asked what services can do.
    """

    language: str
    express: bool
    variables: frozenset[str]
    models: bool


def read(text: str, express: bool = False, models: bool = False) -> list[Problem]:
    """The problems of a definition in JSON, as CreateStateMachine is given it."""
    twice: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in found]
        twice.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return dict(found)

    if not text.strip():
        return [Problem(SCHEMA, "Definition must be a valid JSON object", "")]
    try:
        definition = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        return [Problem("INVALID_JSON_DESCRIPTION", str(error), "")]
    return problems(definition, express, models) + [
        Problem(SCHEMA, f"The key '{key}' is there twice: the last one counts", "", False)
        for key in twice
    ]


def problems(definition: Any, express: bool = False, models: bool = False) -> list[Problem]:
    """The problems of a definition. `express`: of an Express workflow. `models`: see Scope."""
    if not isinstance(definition, dict):
        return [Problem(SCHEMA, "Definition must be a valid JSON object", "")]
    language = definition.get("QueryLanguage", "JSONPath")
    if not _hidden(language):
        language = "JSONPath" if language == "JSONPath" else "JSONata"
    scope = Scope(language, express, frozenset(), models)
    found = [
        *_query_language(definition, ""),
        *_supported(definition, MACHINE, "/"),
        *_numbers(definition, "", ("TimeoutSeconds",), False),
        *_container(definition, "", scope),
        *_twice(definition),
        *_unknown_errors(definition),
    ]
    return list(dict.fromkeys(found))


def states_in(definition: Any, location: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(location, name, state) of each state, also inside Parallel and Map."""
    for name, state in _dict(_dict(definition).get("States")).items():
        if isinstance(state, dict):
            where = f"{location}/States/{name}"
            yield where, name, state
            for inside, inner in _inner(state, where):
                yield from states_in(inner, inside)


# ---- the graph


def _container(one: dict[str, Any], location: str, scope: Scope) -> Iterator[Problem]:
    """The problems of a machine, a branch or an item's processor."""
    missing = [name for name in ("States", "StartAt") if name not in one]
    if missing:
        yield Problem(SCHEMA, _required(missing), location or "/")
    states = one.get("States")
    if not isinstance(states, dict):
        if "States" in one:
            yield _typed("OBJECT", f"{location}/States")
        return
    known = {name: state for name, state in states.items() if isinstance(state, dict)}
    assigned = frozenset(name for state in known.values() for name in _assigned(state))
    scope = scope._replace(variables=scope.variables | assigned)
    for name, state in states.items():
        where = f"{location}/States/{name}"
        if len(name) > 80:
            yield Problem("INVALID_STATE_NAME", "A state's name has at most 80 characters", where)
        if isinstance(state, dict):
            yield from _state(state, where, scope)
        else:
            yield _typed("OBJECT", where)
    yield from _graph(one, known, location)


def _graph(one: dict[str, Any], states: dict[str, Any], location: str) -> Iterator[Problem]:
    """Transitions that lead nowhere, and states to which none leads."""
    ways = {name: list(_ways(state)) for name, state in states.items()}
    start = one.get("StartAt")
    steps = [(start, f"{location}/StartAt")] if isinstance(start, str) else []
    steps += [
        (target, f"{location}/States/{name}{place}")
        for name, found in ways.items()
        for target, place in found
    ]
    if any("${" in target for target, _ in steps):
        return
    for target, place in steps:
        if target not in one["States"]:
            yield Problem(TARGET, f"Missing 'Next' target: {target}", place)
    if not location and not any(
        (state.get("End") is True and state.get("Type") != "Choice")
        or state.get("Type") in ("Succeed", "Fail")
        for state in states.values()
    ):
        yield Problem("MISSING_END_STATE", "Workflow has no terminal state", "")
        return
    reached, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if isinstance(name, str) and name not in reached:
            reached.add(name)
            waiting += [target for target, _ in ways.get(name, ())]
    for name in states:
        if name not in reached and isinstance(start, str):
            place = f"{location}/States/{name}"
            yield Problem(TARGET, f'State "{name}" is not reachable.', place)


def _ways(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name of a state that may follow, where in this state it says so)."""
    for field in ("Default",) if state.get("Type") == "Choice" else ("Next",):
        if isinstance(target := state.get(field), str):
            yield target, f"/{field}"
    for field in ("Choices", "Catch"):
        for index, one in enumerate(_list(state.get(field))):
            if isinstance(target := _dict(one).get("Next"), str):
                yield target, f"/{field}[{index}]/Next"


def _inner(state: dict[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(location, branch or item's processor) of a Parallel or a Map."""
    if state.get("Type") == "Parallel":
        for index, one in enumerate(_list(state.get("Branches"))):
            if isinstance(one, dict):
                yield f"{where}/Branches[{index}]", one
    if state.get("Type") == "Map":
        for field in ("ItemProcessor", "Iterator"):
            if isinstance(one := state.get(field), dict):
                yield f"{where}/{field}", one


def _twice(definition: dict[str, Any]) -> Iterator[Problem]:
    """State names that the machine has more than once, at any depth."""
    seen: set[str] = set()
    for where, name, _ in states_in(definition):
        if name in seen:
            yield Problem("DUPLICATE_STATE_NAME", f"Duplicate State name: {name}", where)
        seen.add(name)


# ---- a state


def _state(state: dict[str, Any], where: str, scope: Scope) -> Iterator[Problem]:
    kind = state.get("Type")
    if not isinstance(kind, str) or kind not in FIELDS:
        if "Type" not in state:
            yield Problem(SCHEMA, _required(["Type"]), where)
        elif "${" not in str(kind):
            names = "Task, Wait, Pass, Succeed, Fail, Choice, Parallel, Map"
            message = f"The field 'Type' should have one of these values: [{names}]"
            yield Problem(SCHEMA, message, f"{where}/Type")
        return
    own = state.get("QueryLanguage", scope.language)
    if _hidden(own):
        return
    jsonata = own != "JSONPath"
    yield from _query_language(state, where)
    if own == "JSONPath" and scope.language == "JSONata":
        message = (
            "'QueryLanguage' can not be 'JSONPath' if set to 'JSONata' for whole state machine"
        )
        yield Problem(SCHEMA, message, where)
        fields = []
    else:
        fields = JSONPATH_ONLY if jsonata else JSONATA_ONLY
    yield from _of_the_other(state, [f for f in fields if f in FIELDS[kind]], where, jsonata)
    yield from _supported(state, FIELDS[kind], where)
    if missing := [name for name in REQUIRED.get(kind, ()) if name not in state]:
        yield Problem(SCHEMA, _required(missing), where)
    yield from _goes_on(state, kind, where)
    yield from _numbers(state, where, RANGES, jsonata)
    yield from _handlers(state, where, jsonata)
    if kind == "Task":
        yield from _task(state, where, scope, jsonata)
    elif kind == "Wait":
        yield from _wait(state, where, jsonata)
    elif kind == "Choice":
        yield from _choices(state, where, jsonata)
    elif kind == "Map":
        yield from _map(state, where, scope, jsonata)
    yield from _expressions(state, where, scope) if jsonata else _paths(state, where, scope)
    for inside, inner in _inner(state, where):
        yield from _supported(inner, INNER, inside)
        yield from _container(inner, inside, _inside(state, inner, scope))


def _inside(state: dict[str, Any], inner: dict[str, Any], scope: Scope) -> Scope:
    """What the states of a Map or Parallel have around them."""
    mode = _dict(inner.get("ProcessorConfig"))
    if state.get("Type") != "Map" or mode.get("Mode") != "DISTRIBUTED":
        return scope
    express = mode.get("ExecutionType") == "EXPRESS"
    return scope._replace(express=express, variables=frozenset())


def _query_language(one: dict[str, Any], where: str) -> Iterator[Problem]:
    language = one.get("QueryLanguage", "JSONata")
    if not isinstance(language, str):
        yield _typed("STRING", f"{where}/QueryLanguage")
    elif language not in ("JSONPath", "JSONata") and "${" not in language:
        message = "Value should be one of the following: [JSONPath, JSONata]"
        yield Problem(SCHEMA, message, f"{where}/QueryLanguage")


def _of_the_other(
    one: dict[str, Any], fields: Iterable[str], where: str, jsonata: bool
) -> Iterator[Problem]:
    """Fields that only the other query language has."""
    mine, other = ("JSONata", "JSONPath") if jsonata else ("JSONPath", "JSONata")
    for field in fields:
        if field in one:
            message = (
                f"The QueryLanguage is set to '{mine}', but field '{field}' is only supported"
                f" for the '{other}' QueryLanguage"
            )
            yield Problem(SCHEMA, message, where)


def _supported(one: dict[str, Any], fields: Iterable[str], where: str) -> Iterator[Problem]:
    fields = set(fields)
    for field in one:
        if field not in fields and "${" not in field:
            yield Problem(SCHEMA, f"Field '{field}' is not supported", where)


def _goes_on(state: dict[str, Any], kind: str, where: str) -> Iterator[Problem]:
    if kind == "Choice":
        for field in ("Next", "End"):
            if field in state:
                message = f"A Choice goes on by its rules and Default: '{field}' counts for nothing"
                yield Problem(SCHEMA, message, where, False)
        return
    if "Next" not in FIELDS[kind]:
        return
    if "Next" not in state and state.get("End") is not True and not _hidden(state.get("End")):
        yield Problem(SCHEMA, "One of the fields 'Next' and 'End' is required", where)
    if "Next" in state and state.get("End") is True:
        yield Problem(SCHEMA, "Only one of the fields 'Next' and 'End' may be set", where)


def _numbers(
    one: dict[str, Any], where: str, fields: Iterable[str], jsonata: bool
) -> Iterator[Problem]:
    """Numbers of another type, or out of their range."""
    for field in fields:
        value = one.get(field)
        if value is None or _hidden(value) or (jsonata and _expression(value) is not None):
            continue
        least, most = RANGES[field]
        number = isinstance(value, int) or (
            isinstance(value, float) and (field in FRACTIONS or value.is_integer())
        )
        if isinstance(value, bool) or not number:
            kind = "NUMBER" if field in FRACTIONS else "INTEGER"
            yield _typed(kind, f"{where}/{field}")
        elif value < least:
            yield Problem(SCHEMA, f"Minimum value is {least:g}", f"{where}/{field}")
        elif most is not None and value > most:
            yield Problem(SCHEMA, f"Maximum value is {most:.0f}", f"{where}/{field}")


def _handlers(state: dict[str, Any], where: str, jsonata: bool) -> Iterator[Problem]:
    """Retry and Catch."""
    catcher = {"ErrorEquals", "Next", "Comment", "Assign", "ResultPath", "Output"}
    for field, fields in (("Retry", RETRIER), ("Catch", catcher)):
        if field not in FIELDS[state["Type"]] or _hidden(found := state.get(field, [])):
            continue
        if not isinstance(found, list):
            yield _typed("ARRAY", f"{where}/{field}")
            continue
        for index, one in enumerate(found):
            place = f"{where}/{field}[{index}]"
            if not isinstance(one, dict):
                if not _hidden(one):
                    yield _typed("OBJECT", place)
                continue
            other = ["ResultPath"] if jsonata else ["Output"]
            if field == "Catch":
                yield from _of_the_other(one, other, place, jsonata)
            yield from _supported(one, fields, place)
            needed = ["ErrorEquals", "Next"] if field == "Catch" else ["ErrorEquals"]
            if missing := [name for name in needed if name not in one]:
                yield Problem(SCHEMA, _required(missing), place)
            yield from _numbers(one, place, [name for name in RANGES if name in fields], False)
            yield from _errors(one.get("ErrorEquals", []), place, index == len(found) - 1)
            if one.get("JitterStrategy", "NONE") not in ("FULL", "NONE"):
                message = "Value should be one of the following: [FULL, NONE]"
                yield Problem(SCHEMA, message, f"{place}/JitterStrategy")


def _errors(names: Any, where: str, last: bool) -> Iterator[Problem]:
    where = f"{where}/ErrorEquals"
    if not isinstance(names, list):
        if not _hidden(names):
            yield _typed("ARRAY", where)
        return
    if "States.ALL" in names and (len(names) > 1 or not last):
        yield Problem(SCHEMA, "'States.ALL' must be the only error of the last entry", where)


def _unknown_errors(definition: dict[str, Any]) -> Iterator[Problem]:
    """Retriers and catchers of an error of Step Functions that is none; a Fail may raise it."""
    states = list(states_in(definition))
    known = ERRORS | {str(state.get("Error")) for _, _, state in states}
    for where, _, state in states:
        for field in ("Retry", "Catch"):
            for index, one in enumerate(_list(state.get(field))):
                for name in _list(_dict(one).get("ErrorEquals")):
                    if re.match(r"States\.(?!Http\.)", str(name)) and name not in known:
                        message = f"There is no error named '{name}'"
                        place = f"{where}/{field}[{index}]/ErrorEquals"
                        yield Problem(SCHEMA, message, place, False)


def _task(state: dict[str, Any], where: str, scope: Scope, jsonata: bool) -> Iterator[Problem]:
    timeout, heartbeat = state.get("TimeoutSeconds"), state.get("HeartbeatSeconds")
    if isinstance(timeout, int) and isinstance(heartbeat, int) and heartbeat >= timeout:
        message = "'HeartbeatSeconds' must be smaller than 'TimeoutSeconds'"
        yield Problem(SCHEMA, message, f"{where}/HeartbeatSeconds")
    resource = state.get("Resource", "${")
    if not isinstance(resource, str):
        yield _typed("STRING", f"{where}/Resource")
        return
    call = _calls.call(resource)
    if call is None:
        return
    if scope.express and (call.wait or call.kind == "activity"):
        lacks = {
            "": "Activity ARN",
            "waitForTaskToken": "'.waitForTaskToken' service integration ",
        }.get(call.wait, "'.sync' service integration")
        message = f"Express state machine does not support {lacks}"
        yield Problem(SCHEMA, message, f"{where}/Resource")
        return
    if not _calls.exists(call, scope.models):
        yield Problem(SCHEMA, _calls.NOT_RECOGNIZED.format(resource), f"{where}/Resource")
        return
    field = "Arguments" if jsonata else "Parameters"
    arguments = state.get(field)
    if isinstance(arguments, dict):
        for name in _calls.misnamed(call, arguments, scope.models):
            message = f'The field "{name}" is not supported by Step Functions'
            yield Problem(SCHEMA, message, f"{where}/{field}", False)
    if call.wait == "waitForTaskToken" and not _tells_the_token(arguments):
        message = "Nobody is told the task token: give Task.Token of the context to whom it calls"
        yield Problem(SCHEMA, message, where, False)


def _tells_the_token(arguments: Any) -> bool:
    """Whether a token may be in what a task gives: by its name, or with the whole context."""
    text = json.dumps(arguments, default=str)
    whole = re.search(
        r'"\$\$(\.Task)?"|\$states\.context(\.Task)?(?![\w.])|\$states(?![\w.])', text
    )
    return "Task.Token" in text or bool(whole) or bool(re.search(r"\$\{|\$(?!states\b)\w", text))


def _wait(state: dict[str, Any], where: str, jsonata: bool) -> Iterator[Problem]:
    ways = ["Seconds", "Timestamp", *([] if jsonata else ["SecondsPath", "TimestampPath"])]
    if len([name for name in ways if name in state]) != 1:
        yield Problem(
            SCHEMA, f"Exactly one of these fields is required: [{', '.join(ways)}]", where
        )
    yield from _timestamp(state.get("Timestamp"), f"{where}/Timestamp", jsonata)


def _timestamp(value: Any, where: str, jsonata: bool) -> Iterator[Problem]:
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
    if value is None or _hidden(value) or (jsonata and _expression(value) is not None):
        return
    if not isinstance(value, str):
        yield _typed("STRING", where)
    elif not re.fullmatch(form, value):
        message = "A timestamp has seconds and a zone, such as 2026-11-26T08:00:00Z"
        yield Problem(SCHEMA, message, where, False)


def _choices(state: dict[str, Any], where: str, jsonata: bool) -> Iterator[Problem]:
    if _hidden(choices := state.get("Choices", "${")):
        return
    if not isinstance(choices, list):
        yield _typed("ARRAY", f"{where}/Choices")
        return
    if not choices:
        yield Problem(SCHEMA, "At least one choice is required", f"{where}/Choices")
    for index, rule in enumerate(choices):
        place = f"{where}/Choices[{index}]"
        if not isinstance(rule, dict):
            if not _hidden(rule):
                yield _typed("OBJECT", place)
            continue
        if "Next" not in rule:
            yield Problem(SCHEMA, _required(["Next"]), place)
        if jsonata:
            yield from _of_the_other(rule, ["Variable"], place, True)
            if "Condition" not in rule and "Variable" not in rule:
                yield Problem(SCHEMA, _required(["Condition"]), place)
            fields = {"Condition", "Next", "Assign", "Output", "Comment", "Variable"}
            yield from _supported(rule, fields, place)
        else:
            yield from _of_the_other(rule, ["Condition", "Output"], place, False)
            yield from _rule(rule, place, top=True)


def _rule(rule: Any, where: str, top: bool = False) -> Iterator[Problem]:
    """A Choice rule of a state that speaks JSONPath."""
    if not isinstance(rule, dict):
        if not _hidden(rule):
            yield _typed("OBJECT", where)
        return
    fields = {"Variable", "And", "Or", "Not", "Comment", *COMPARISONS, *TESTS}
    fields |= {"Next", "Assign", "Condition", "Output"} if top else set()
    yield from _supported(rule, fields, where)
    if "Condition" in rule:
        return
    asked = [name for name in rule if name in COMPARISONS or name in TESTS]
    joined = [name for name in ("And", "Or", "Not") if name in rule]
    if len(asked) + len(joined) != 1 and not any("${" in name for name in rule):
        unknown = set(rule) - fields
        if asked or joined or not unknown:
            yield Problem(SCHEMA, "Exactly one comparison is required", where)
    if asked and "Variable" not in rule:
        yield Problem(SCHEMA, _required(["Variable"]), where)
    yield from _path(rule.get("Variable"), f"{where}/Variable", strict=True)
    for name in asked:
        yield from _operand(name, rule[name], f"{where}/{name}")
    for name in joined:
        if name == "Not":
            yield from _rule(rule[name], f"{where}/Not")
        elif isinstance(rule[name], list) and rule[name]:
            for index, one in enumerate(rule[name]):
                yield from _rule(one, f"{where}/{name}[{index}]")
        elif not _hidden(rule[name]):
            yield _typed("ARRAY", f"{where}/{name}")


def _operand(name: str, value: Any, where: str) -> Iterator[Problem]:
    kind = COMPARISONS.get(name, "Boolean")
    if _hidden(value):
        return
    if name.endswith("Path"):
        yield from _path(value, where, strict=True)
    elif kind == "Timestamp":
        yield from _timestamp(value, where, False)
    elif kind == "Boolean" and not isinstance(value, bool):
        yield _typed("BOOLEAN", where)
    elif kind == "String" and not isinstance(value, str):
        yield _typed("STRING", where)
    elif kind == "Numeric" and (isinstance(value, bool) or not isinstance(value, (int, float))):
        yield _typed("NUMBER", where)


def _map(state: dict[str, Any], where: str, scope: Scope, jsonata: bool) -> Iterator[Problem]:
    if "ItemProcessor" not in state and "Iterator" not in state:
        yield Problem(SCHEMA, _required(["ItemProcessor"]), where)
    mode = _dict(_dict(state.get("ItemProcessor")).get("ProcessorConfig")).get("Mode")
    if scope.express and mode == "DISTRIBUTED":
        message = "An Express workflow has no Map in distributed mode"
        yield Problem(SCHEMA, message, where, False)
    batcher = state.get("ItemBatcher")
    if isinstance(batcher, dict):
        names = ("MaxItemsPerBatch", "MaxInputBytesPerBatch")
        yield from _numbers(batcher, f"{where}/ItemBatcher", names, jsonata)
    known = {"ItemReader": "s3:(getObject|listObjectsV2)", "ResultWriter": "s3:putObject"}
    for field, resource in known.items():
        one = _dict(state.get(field))
        other, mine = ("Parameters", "Arguments") if jsonata else ("Arguments", "Parameters")
        if other in one:
            message = f"Field '{other}' is not supported: say '{mine}'"
            yield Problem(SCHEMA, message, f"{where}/{field}/{other}")
        text = one.get("Resource")
        if isinstance(text, str) and not re.search(rf":states:::{resource}$|\$\{{\w+\}}$", text):
            message = f"The resource provided {text} is not recognized."
            yield Problem(SCHEMA, message, f"{where}/{field}/Resource")


# ---- JSONPath


def _paths(state: dict[str, Any], where: str, scope: Scope) -> Iterator[Problem]:
    """Paths and payload templates of a state that speaks JSONPath."""
    for field in JSONPATH_ONLY:
        if field.endswith("Path"):
            strict = field in ("ResultPath", "MaxConcurrencyPath")
            yield from _path(state.get(field), f"{where}/{field}", strict, field != "ResultPath")
    template = partial(_template, variables=scope.variables)
    for field in TEMPLATES:
        yield from template(state.get(field), f"{where}/{field}")
    for field, name in (
        ("ItemBatcher", "BatchInput"),
        ("ItemReader", "Parameters"),
        ("ResultWriter", "Parameters"),
    ):
        yield from template(_dict(state.get(field)).get(name), f"{where}/{field}/{name}")
    for field in ("Choices", "Catch"):
        for index, one in enumerate(_list(state.get(field))):
            place = f"{where}/{field}[{index}]"
            yield from template(_dict(one).get("Assign"), f"{place}/Assign")
            yield from _path(_dict(one).get("ResultPath"), f"{place}/ResultPath", True, False)
    if state["Type"] == "Pass":
        for place, key, value in _leaves(state.get("Result"), f"{where}/Result"):
            if key.endswith(".$") and isinstance(value, str):
                message = "Attempt to use a path in the result of a pass state"
                yield Problem("PASS_RESULT_IS_STATIC", message, place, False)


def _path(value: Any, where: str, strict: bool = False, call: bool = False) -> Iterator[Problem]:
    """A path; strict: to one place. call: an intrinsic function may stand there."""
    if value is None or _hidden(value):
        return
    if not isinstance(value, str):
        yield _typed("STRING", where)
    elif not value.startswith("$") and not (call and value.startswith("States.")):
        message = "Value is not a Reference Path: Reference path didn't start with '$'"
        yield Problem(SCHEMA, message, where)
    elif strict and re.search(r"\[\*\]|\.\.|\.\*|\[\?|:\d*\]", re.sub(r"'[^']*'", "", value)):
        yield Problem(SCHEMA, "Value is not a Reference Path: it may name many places", where)


def _template(value: Any, where: str, variables: frozenset[str]) -> Iterator[Problem]:
    for place, key, leaf in _leaves(value, where):
        if key.endswith(".$"):
            if _hidden(leaf):
                continue
            if not isinstance(leaf, str) or not _selects(leaf):
                message = (
                    f"The value for the field '{key}' must be a valid JSONPath or a valid"
                    " intrinsic function call"
                )
                yield Problem(SCHEMA, message, place)
                continue
            name = re.match(r"\$([A-Za-z_]\w*)", leaf)
            if name and name[1] not in variables:
                message = f"No state assigns the variable '${name[1]}'"
                yield Problem(SCHEMA, message, f"{place}/{key}", False)
        elif isinstance(leaf, str) and _looks_like_a_path(leaf):
            message = "No .$ on a field that appears to be a JSONPath or Intrinsic Function"
            yield Problem("NO_DOLLAR", message, f"{place}/{key}", False)


def _selects(text: str) -> bool:
    """Whether a text can be the value of a key that ends in ".$"."""
    if text.startswith("$"):
        return True
    function = re.match(r"States\.(\w+)\(.*\)\s*$", text, re.DOTALL)
    return bool(function) and function[1] in _INTRINSICS.split()


def _looks_like_a_path(text: str) -> bool:
    return bool(
        re.fullmatch(r"\$\$?(\.[A-Za-z_]\w*|\[\d+\])+", text)
        or (re.match(r"States\.(\w+)\(", text) and _selects(text))
    )


def _leaves(value: Any, where: str, key: str = "") -> Iterator[tuple[str, str, Any]]:
    """(location of the object, key, value) of what is no object and no array in a template."""
    if isinstance(value, dict):
        for name, one in value.items():
            if isinstance(one, (dict, list)) and not name.endswith(".$"):
                yield from _leaves(one, f"{where}/{name}", name)
            else:
                yield where, name, one
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _leaves(one, f"{where}[{index}]", key)
    elif key:
        yield where, key, value


# ---- JSONata


def _expressions(state: dict[str, Any], where: str, scope: Scope) -> Iterator[Problem]:
    """The expressions of a state that speaks JSONata."""
    kind = state["Type"]
    result = kind in ("Task", "Parallel", "Map")
    for field in EXPRESSIONS:
        has = {"result"} if result and field in ("Output", "Assign") else set()
        yield from _in(state.get(field), f"{where}/{field}", has, scope)
    for field in ("ItemReader", "ResultWriter"):
        arguments = _dict(state.get(field)).get("Arguments")
        yield from _in(arguments, f"{where}/{field}/Arguments", set(), scope)
    for field, names, has in (
        ("Choices", ("Condition", "Assign", "Output"), set()),
        ("Catch", ("Assign", "Output"), {"errorOutput"}),
    ):
        for index, one in enumerate(_list(state.get(field))):
            for name in names:
                place = f"{where}/{field}[{index}]/{name}"
                yield from _in(_dict(one).get(name), place, has, scope)


def _in(value: Any, where: str, has: set[str], scope: Scope) -> Iterator[Problem]:
    """The expressions inside a value; has: what `$states` has there besides input and context."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _in(one, f"{where}/{name}", has, scope)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _in(one, f"{where}[{index}]", has, scope)
    elif (expression := _expression(value)) is not None:
        plain = re.sub(r"\$\{[^}]*\}", "0", expression)
        read = _jsonata.read(plain.strip())
        if read and not (read.error and plain != expression):
            yield from _read(read, where, {"input", "context", *has}, scope)


def _read(read: _jsonata.Read, where: str, has: set[str], scope: Scope) -> Iterator[Problem]:
    """What is wrong with what an expression reads."""
    if read.error:
        yield Problem("INVALID_JSONATA_EXPRESSION", read.error, where)
    for name in read.names:
        message = f"Reference to '{name}' at the top level is not supported."
        yield Problem(UNSUPPORTED, message, where)
    if read.root:
        yield Problem(UNSUPPORTED, "Reference to '$$' is not supported.", where)
    for name in read.states:
        if name and name not in has:
            message = f"Field '$states.{name}' does not exist."
            yield Problem(UNSUPPORTED, message, where, name == "errorOutput")
    for name in read.variables:
        if name == "eval":
            yield Problem(UNSUPPORTED, "Step Functions has no $eval: use $parse", where, False)
        elif name not in _jsonata.FUNCTIONS | scope.variables | {"states"}:
            message = f"No state assigns the variable '${name}'"
            yield Problem(UNSUPPORTED, message, where, False)


def _expression(value: Any) -> str | None:
    """What is between `{%` and `%}`, if a value is that."""
    if isinstance(value, str) and value.startswith("{%") and value.endswith("%}"):
        return value[2:-2]
    return None


# ---- values


def _assigned(state: dict[str, Any]) -> Iterator[str]:
    """The variables that a state may assign."""
    rules = [*_list(state.get("Catch")), *_list(state.get("Choices"))]
    for one in (state, *rules):
        for name in _dict(_dict(one).get("Assign")):
            yield name.removesuffix(".$")


def _required(names: list[str]) -> str:
    return f"These fields are required: [{', '.join(names)}]"


def _typed(kind: str, where: str) -> Problem:
    return Problem(SCHEMA, f"Expected value of type [{kind}]", where)


def _hidden(value: Any) -> bool:
    """Whether a placeholder hides what a value will be."""
    return isinstance(value, str) and "${" in value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
