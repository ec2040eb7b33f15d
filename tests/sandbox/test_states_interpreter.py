"""State machines, run without a server; histories as they were recorded on AWS."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox.states import history, times
from sandbox.states.history import History, Trail
from sandbox.states.interpreter import Branch, Execution
from sandbox.states.scope import Scope
from sandbox.states.task import StatesError, Task

LAMBDA = "arn:aws:states:::lambda:invoke"
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:f"
ARN = "arn:aws:states:us-east-1:000000000000:execution:m:one"
State = dict[str, Any]


@dataclass
class Ran:
    """How a run ended: its output, or error and cause; and the events of its history."""

    output: Any = None
    error: str | None = None
    cause: str | None = None
    failed: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def story(self) -> list[tuple[int, int, str]]:
        """(id, previous id, type) of the events."""
        return [(one["id"], one["previousEventId"], one["type"]) for one in self.events[1:]]

    def details(self, kind: str) -> list[dict[str, Any]]:
        """The details of the events of a type."""
        key = next(
            (f"s{end[1:]}" for end in ("StateEntered", "StateExited") if kind.endswith(end)),
            kind[0].lower() + kind[1:],
        )
        return [one[f"{key}EventDetails"] for one in self.events if one["type"] == kind]


def run(
    states: dict[str, State],
    given: Any = None,
    perform: Callable[[Task], Any] = lambda task: task.arguments,
    **machine: Any,
) -> Ran:
    """Run a machine of these states from the first one on; all but the last go on to the next."""
    names, ran = list(states), Ran(events=[{"id": 1, "type": "ExecutionStarted"}])
    for name, following in zip(names, [*names[1:], None], strict=True):
        state = states[name]
        if (
            state["Type"] not in {"Choice", "Fail", "Succeed"}
            and not {"Next", "End"} & state.keys()
        ):
            state.setdefault(*(("Next", following) if following else ("End", True)))
    definition = {"StartAt": names[0], "States": states, **machine}
    given, life = {} if given is None else given, times.Life()
    execution = Execution(
        ARN, "one", "arn:aws:iam::000000000000:role/r", False,
        definition.get("QueryLanguage", "JSONPath"), perform, lambda visit, processor: None,
    )  # fmt: skip
    context = {"Execution": {"Id": ARN, "Name": "one", "Input": given, "RedriveCount": 0}}
    trail = Trail(History(ran.events, times.now, life.check))
    try:
        ran.output = Branch(execution, definition, context, Scope(), trail, life).run(given)
    except StatesError as error:
        ran.failed, ran.error, ran.cause = True, error.error, error.cause
    return ran


def only(given: Any = None, perform: Any = lambda task: task.arguments, **state: Any) -> Ran:
    """Run a machine of one state."""
    return run({"S": state}, given, perform)


def told(task: Task) -> None:
    """Tell that a task began, as who performs it does."""
    about = {"resource": "invoke", "resourceType": "lambda"}
    task.tell("TaskScheduled", {**about, "region": "us-east-1", "parameters": "{}"})
    task.tell("TaskStarted", about)


def failing(error: str | None, cause: str | None = None) -> Callable[[Task], Any]:
    def perform(task: Task) -> Any:
        told(task)
        raise StatesError(error, cause)

    return perform


# Input and output in JSONPath.


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({}, {"a": {"b": 1}, "c": 2}),
        ({"Result": [1]}, [1]),
        ({"Result": {"x.$": "$.a"}}, {"x.$": "$.a"}),
        ({"InputPath": "$.a"}, {"b": 1}),
        ({"InputPath": None}, {}),
        ({"OutputPath": "$.c"}, 2),
        ({"OutputPath": None}, {}),
        ({"ResultPath": None, "Result": 1}, {"a": {"b": 1}, "c": 2}),
        ({"ResultPath": "$.d.e", "Result": 1}, {"a": {"b": 1}, "c": 2, "d": {"e": 1}}),
        ({"InputPath": "$.a", "ResultPath": "$.d"}, {"a": {"b": 1}, "c": 2, "d": {"b": 1}}),
        ({"Parameters": {"x.$": "$.c", "n.$": "$$.State.Name"}}, {"x": 2, "n": "S"}),
        ({"InputPath": "$.a", "Parameters": {"x.$": "$.b"}}, {"x": 1}),
        ({"Parameters": {"x.$": "$.c"}, "ResultPath": "$.a", "OutputPath": "$.a"}, {"x": 2}),
        ({"InputPath": "$$.Execution.Name"}, "one"),
        ({"OutputPath": "$$.Execution.RedriveCount"}, 0),
    ],
)
def test_how_input_becomes_output(fields: State, output: Any) -> None:
    assert only({"a": {"b": 1}, "c": 2}, Type="Pass", **fields).output == output


@pytest.mark.parametrize(
    ("fields", "error", "problem"),
    [
        ({"InputPath": "$.b"}, "States.Runtime",
         "Invalid path '$.b' : No results for path: $['b']"),
        ({"OutputPath": "$.b"}, "States.Runtime",
         "Invalid path '$.b' : No results for path: $['b']"),
        ({"Parameters": {"x.$": "$.b"}}, "States.Runtime",
         "The JSONPath '$.b' specified for the field 'x.$' could not be found in the input"
         " '{\"a\":1}'"),
        ({"Parameters": {"x.$": "$unassigned"}}, "States.Runtime",
         "The JSONPath '$unassigned' specified for the field 'x.$' could not be found in the input"
         " 'null'"),
        ({"ResultPath": "$.a.b"}, "States.ResultPathMatchFailure",
         'Unable to apply ReferencePath $.a.b to input {"a":1}'),
    ],
)  # fmt: skip
def test_what_is_not_there_fails_the_state(fields: State, error: str, problem: str) -> None:
    ran = only({"a": 1}, Type="Pass", **fields)
    cause = (
        f"An error occurred while executing the state 'S' (entered at the event id #2). {problem}"
    )
    assert (ran.failed, ran.error, ran.cause) == (True, error, cause)


def test_a_task_result_is_selected_and_placed() -> None:
    ran = only(
        {"order": 1},
        lambda task: {"Payload": {"paid": task.arguments["id"]}, "Status": 200},
        Type="Task",
        Resource=LAMBDA,
        Parameters={"id.$": "$.order"},
        ResultSelector={"paid.$": "$.Payload.paid"},
        ResultPath="$.charge",
    )
    assert ran.output == {"order": 1, "charge": {"paid": 1}}


# Input and output in JSONata.


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({}, {"a": 1}),
        ({"Output": "{% $states.input.a + 1 %}"}, 2),
        ({"Output": {"n": "{% $states.context.State.Name %}", "k": None}}, {"n": "S", "k": None}),
        ({"Output": ["{% null %}"]}, [None]),
    ],
)
def test_how_jsonata_makes_output(fields: State, output: Any) -> None:
    assert only({"a": 1}, Type="Pass", QueryLanguage="JSONata", **fields).output == output


def test_jsonata_sees_a_task_result() -> None:
    state = {
        "Type": "Task",
        "Resource": LAMBDA,
        "Arguments": {"id": "{% $states.input.id %}"},
        "Output": "{% $states.result.twice & $states.input.id %}",
    }
    ran = run({"S": state}, {"id": 2}, lambda task: {"twice": 2 * task.arguments["id"]},
              QueryLanguage="JSONata")  # fmt: skip
    assert ran.output == "42"


@pytest.mark.parametrize(
    ("state", "where"),
    [
        ({"Type": "Pass", "Output": {"v": "{% $states.input.no %}"}}, "Output/v"),
        ({"Type": "Pass", "Output": "{% $states.input.no %}"}, "Output"),
        ({"Type": "Pass", "Assign": {"x": "{% $states.input.no %}"}}, "Assign/x"),
        ({"Type": "Task", "Resource": LAMBDA, "Arguments": {"i": "{% $states.input.no %}"}},
         "Arguments/i"),
        ({"Type": "Choice", "Choices": [{"Condition": "{% false %}", "Next": "S"},
                                        {"Condition": "{% $states.input.no %}", "Next": "S"}]},
         "Choices[1]/Condition"),
        ({"Type": "Choice", "Choices": [{"Condition": "{% true %}", "Next": "S",
                                         "Output": {"v": "{% $states.input.no %}"}}]},
         "Choices[0]/Output/v"),
        ({"Type": "Choice", "Choices": [{"Condition": "{% true %}", "Next": "S",
                                         "Assign": {"x": "{% $states.input.no %}"}}]},
         "Choices[0]/Assign/x"),
        ({"Type": "Wait", "Seconds": "{% $states.input.no %}"}, "Seconds"),
        ({"Type": "Wait", "Timestamp": "{% $states.input.no %}"}, "Timestamp"),
        ({"Type": "Fail", "Error": "{% $states.input.no %}"}, "Error"),
        ({"Type": "Fail", "Error": "E", "Cause": "{% $states.input.no %}"}, "Cause"),
        ({"Type": "Map", "Items": "{% $states.input.no %}", "ItemProcessor": {}}, "Items"),
        ({"Type": "Map", "Items": [1], "MaxConcurrency": "{% $states.input.no %}",
          "ItemProcessor": {}}, "MaxConcurrency"),
    ],
)  # fmt: skip
def test_nothing_in_a_jsonata_field_fails_the_state(state: State, where: str) -> None:
    ran = run({"S": state}, {}, QueryLanguage="JSONata")
    assert (ran.error, ran.cause) == (
        "States.QueryEvaluationError",
        "An error occurred while executing the state 'S' (entered at the event id #2). The JSONata"
        f" expression '$states.input.no' specified for the field '{where}' returned nothing"
        " (undefined).",
    )
    assert ran.details("EvaluationFailed") == [
        {"error": ran.error, "cause": ran.cause, "location": where, "state": "S"}
    ]


# Variables.


def test_assign_sees_the_values_at_entry_in_both_languages() -> None:
    seed = {"Type": "Pass", "Assign": {"x": 3, "a": 6}}
    path = {
        "Type": "Pass",
        "Assign": {"x.$": "$a", "nextX.$": "$x"},
        "Parameters": {"x.$": "$x"},
    }
    then = {"Type": "Pass", "Parameters": {"seen.$": "$.x", "x.$": "$x", "nextX.$": "$nextX"}}
    assert run({"A": seed, "B": path, "C": then}).output == {"seen": 3, "x": 6, "nextX": 3}
    query = {
        "Type": "Pass",
        "Assign": {"x": "{% $a %}", "nextX": "{% $x %}"},
        "Output": {"x": "{% $x %}"},
    }
    after = {
        "Type": "Pass",
        "Output": {"seen": "{% $states.input.x %}", "x": "{% $x %}", "nextX": "{% $nextX %}"},
    }
    ran = run({"A": dict(seed), "B": query, "C": after}, QueryLanguage="JSONata")
    assert ran.output == {"seen": 3, "x": 6, "nextX": 3}
    assert ran.details("PassStateExited")[0]["assignedVariables"] == {"x": "3", "a": "6"}


def test_a_jsonpath_assign_sees_the_result_before_it_is_selected() -> None:
    task = {
        "Type": "Task",
        "Resource": LAMBDA,
        "ResultSelector": {"kept.$": "$.b"},
        "Assign": {"all.$": "$", "a.$": "$.a", "in.$": "States.Format('{}', $.b)"},
    }
    ran = run({"T": task, "P": {"Type": "Pass", "Parameters": {"o.$": "$", "a.$": "$a", "all.$":
              "$all.b", "in.$": "$in"}}}, {}, lambda _: {"a": 1, "b": 2})  # fmt: skip
    assert ran.output == {"o": {"kept": 2}, "a": 1, "all": 2, "in": "2"}


def test_variables_in_paths_of_all_kinds() -> None:
    seed = {
        "Type": "Pass",
        "Assign": {"v": {"list": [1, 2], "one": 1, "stamp": "2020-01-01T00:00:00Z"}},
    }
    choice = {
        "Type": "Choice",
        "Choices": [{"Variable": "$v.one", "NumericEqualsPath": "$.n", "Next": "W",
                     "Assign": {"chosen.$": "$.n"}}],
    }  # fmt: skip
    wait = {"Type": "Wait", "TimestampPath": "$v.stamp"}
    each = {
        "Type": "Map",
        "ItemsPath": "$v.list",
        "ItemSelector": {"i.$": "$$.Map.Item.Value", "n.$": "$v.one"},
        "ItemProcessor": {"StartAt": "I", "States": {"I": {
            "Type": "Pass", "End": True, "Assign": {"inner.$": "$.s"},
            "Parameters": {"s.$": "States.MathAdd($.i, $v.one)"}}}},
    }  # fmt: skip
    last = {"Type": "Pass", "InputPath": "$chosen"}
    ran = run({"A": seed, "C": choice, "W": wait, "M": each, "P": last}, {"n": 1})
    assert ran.output == 1
    assert json.loads(ran.details("MapStateExited")[0]["output"]) == [{"s": 2}, {"s": 3}]


def test_an_iteration_cannot_write_an_outer_variable() -> None:
    inner = {"Type": "Pass", "End": True, "Assign": {"x": 2}}
    each = {"Type": "Map", "ItemProcessor": {"StartAt": "I", "States": {"I": inner}}}
    ran = run({"A": {"Type": "Pass", "Assign": {"x": 1}}, "M": each}, [1])
    assert ran.error == "States.Runtime"


# The context object.


def test_the_context_object() -> None:
    task = {"Type": "Task", "Resource": f"{LAMBDA}.waitForTaskToken", "Parameters": {"c.$": "$$"}}
    seen: list[Task] = []
    ran = run({"T": task}, {"i": 1}, lambda task: seen.append(task) or task.arguments["c"])
    assert ran.output["Task"] == {"Token": seen[0].token}
    assert ran.output["State"] == {"Name": "T", "EnteredTime": ran.output["State"]["EnteredTime"],
                                   "RetryCount": 0}  # fmt: skip
    assert ran.output["Execution"]["Input"] == {"i": 1}
    assert times.moment(ran.output["State"]["EnteredTime"])


# Choice, Wait, Succeed, Fail.


def test_a_choice_without_a_match_or_default() -> None:
    ran = only({"v": 1}, Type="Choice",
               Choices=[{"Variable": "$.v", "IsString": True, "Next": "S"}])  # fmt: skip
    assert (ran.error, ran.cause) == (
        "States.Runtime",
        "An error occurred while executing the state 'S' (entered at the event id #2). Failed to"
        " transition out of the state. The state does not point to a next state.",
    )


@pytest.mark.parametrize(("given", "assigned"), [(True, "rule"), (False, "default")])
def test_a_matching_rule_uses_only_its_own_assign_and_output(given: bool, assigned: str) -> None:
    choice = {
        "Type": "Choice",
        "QueryLanguage": "JSONata",
        "Choices": [{"Condition": "{% $states.input.go %}", "Next": "P", "Output": "rule",
                     "Assign": {"a": "rule"}}],
        "Default": "P",
        "Output": "default",
        "Assign": {"a": "default"},
    }  # fmt: skip
    then = {"Type": "Pass", "Parameters": {"in.$": "$", "a.$": "$a"}}
    assert run({"C": choice, "P": then}, {"go": given}).output == {"in": assigned, "a": assigned}


def test_a_condition_must_be_a_boolean() -> None:
    choice = {"Type": "Choice", "Choices": [{"Condition": "{% 'yes' %}", "Next": "S"}]}
    ran = run({"S": choice}, QueryLanguage="JSONata")
    assert ran.error == "States.QueryEvaluationError" and ran.cause and ran.cause.endswith(
        "returned an unexpected result type. Expected 'boolean', but was 'string' for value:"
        ' "yes"'
    )  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"Seconds": 0},
        {"SecondsPath": "$.zero"},
        {"Timestamp": "2016-03-14T01:59:00Z"},
        {"TimestampPath": "$.stamp"},
        {"QueryLanguage": "JSONata", "Seconds": "{% $states.input.zero %}"},
        {"QueryLanguage": "JSONata", "Timestamp": "{% $states.input.stamp %}"},
    ],
)
def test_waits_that_are_over_at_once(fields: State) -> None:
    given = {"zero": 0, "stamp": "2016-03-14T01:59:00Z"}
    assert only(given, Type="Wait", **fields).output == given


@pytest.mark.parametrize("stamp", ["2016-03-14T01:59:00", "2016-03-14", "soon"])
def test_a_wait_needs_a_timestamp_with_seconds_and_zone(stamp: str) -> None:
    ran = only({"start_at": stamp}, Type="Wait", TimestampPath="$.start_at")
    assert (ran.error, ran.cause) == (
        "States.Runtime",
        "An error occurred while executing the state 'S' (entered at the event id #2). The"
        " TimestampPath parameter does not reference a valid ISO-8601 extended offset date-time"
        f" format string: $.start_at == {stamp}",
    )


def test_succeed_ends_a_run_wherever_it_is() -> None:
    ran = run({"A": {"Type": "Succeed", "OutputPath": "$.a"}, "B": {"Type": "Pass"}}, {"a": 1})
    assert ran.output == 1
    assert ran.story == [(2, 0, "SucceedStateEntered"), (3, 2, "SucceedStateExited")]


@pytest.mark.parametrize(
    ("fields", "error", "cause"),
    [
        ({"Error": "E", "Cause": "C"}, "E", "C"),
        ({}, None, None),
        ({"ErrorPath": "$.e", "CausePath": "$.c"}, "error string", "cause string"),
        ({"Error": "E", "CausePath": "States.Format('{} by {}.', $.e, $.c)"}, "E",
         "error string by cause string."),
        ({"QueryLanguage": "JSONata", "Error": "{% $states.input.e %}", "Cause": "{% 'c' %}"},
         "error string", "c"),
    ],
)  # fmt: skip
def test_fail(fields: State, error: str | None, cause: str | None) -> None:
    ran = only({"e": "error string", "c": "cause string"}, Type="Fail", **fields)
    assert (ran.failed, ran.error, ran.cause) == (True, error, cause)
    assert ran.story == [(2, 0, "FailStateEntered")]


# Tasks: histories, errors, time.


def test_the_history_of_a_task() -> None:
    def perform(task: Task) -> Any:
        told(task)
        return {"Payload": 1}

    ran = only({}, perform, Type="Task", Resource=LAMBDA)
    assert ran.story == [
        (2, 0, "TaskStateEntered"),
        (3, 2, "TaskScheduled"),
        (4, 3, "TaskStarted"),
        (5, 4, "TaskSucceeded"),
        (6, 5, "TaskStateExited"),
    ]
    assert ran.details("TaskSucceeded") == [
        {"resource": "invoke", "resourceType": "lambda", "output": '{"Payload":1}',
         "outputDetails": {"truncated": False}}
    ]  # fmt: skip


def test_the_history_of_a_function() -> None:
    def perform(task: Task) -> Any:
        task.tell("LambdaFunctionScheduled", {"resource": task.resource, "input": "{}"})
        task.tell("LambdaFunctionStarted", {})
        raise StatesError("ValueError", "no")

    ran = only({}, perform, Type="Task", Resource=FUNCTION)
    assert [kind for _, _, kind in ran.story] == [
        "TaskStateEntered",
        "LambdaFunctionScheduled",
        "LambdaFunctionStarted",
        "LambdaFunctionFailed",
    ]
    assert ran.details("LambdaFunctionFailed") == [{"error": "ValueError", "cause": "no"}]


def test_what_was_never_scheduled_leaves_no_event() -> None:
    def perform(task: Task) -> Any:
        raise StatesError("States.Runtime", "The activity is gone")

    ran = only({}, perform, Type="Task", Resource="arn:aws:states:::x:y",
               Catch=[{"ErrorEquals": ["States.ALL"], "Next": "S"}])  # fmt: skip
    assert (ran.error, ran.cause) == ("States.Runtime", "The activity is gone")
    assert ran.story == [(2, 0, "TaskStateEntered")]


@pytest.mark.parametrize(
    "fields",
    [
        {"TimeoutSeconds": 0.05},
        {"TimeoutSecondsPath": "$.limit"},
        {"QueryLanguage": "JSONata", "TimeoutSeconds": "{% $states.input.limit %}"},
    ],
)
def test_a_task_that_takes_too_long(fields: State) -> None:
    ended: list[threading.Event] = []

    def perform(task: Task) -> Any:
        told(task)
        ended.append(task.ended)
        task.ended.wait(10)

    state = {"Type": "Task", "Resource": LAMBDA, **fields}
    ran = run({"S": dict(state)}, {"limit": 0.05}, perform)
    assert (ran.failed, ran.error, ran.cause) == (True, "States.Timeout", None)
    assert ran.details("TaskTimedOut") == [
        {"resource": "invoke", "resourceType": "lambda", "error": "States.Timeout"}
    ]
    assert ended[0].is_set()
    caught = {"Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "P"}], "Next": "P"}
    assert run({"S": state | caught, "P": {"Type": "Pass"}}, {"limit": 0.05}, perform).output == {
        "Error": "States.Timeout"
    }


def test_heartbeats_are_handed_on_to_who_performs() -> None:
    seen: list[Task] = []
    state = {"Type": "Task", "Resource": LAMBDA, "HeartbeatSecondsPath": "$.h", "TimeoutSeconds": 9}
    run({"S": state}, {"h": 5}, seen.append)
    assert (seen[0].heartbeat, seen[0].timeout) == (5, 9)
    assert (seen[0].execution, seen[0].name, seen[0].express) == (ARN, "one", False)


@pytest.mark.parametrize(
    ("fields", "role"),
    [
        ({}, "arn:aws:iam::000000000000:role/r"),
        ({"Credentials": {"RoleArn": "other"}}, "other"),
        ({"Credentials": {"RoleArn.$": "$.role"}}, "given"),
        ({"QueryLanguage": "JSONata", "Credentials": {"RoleArn": "{% $states.input.role %}"}},
         "given"),
    ],
)  # fmt: skip
def test_the_role_that_calls(fields: State, role: str) -> None:
    seen: list[Task] = []
    only({"role": "given"}, seen.append, Type="Task", Resource=LAMBDA, **fields)
    assert seen[0].role == role


def test_what_performs_a_task_may_change_its_arguments() -> None:
    def perform(task: Task) -> None:
        task.arguments["list"].append(2)

    given = {"list": [1]}
    ran = only(given, perform, Type="Task", Resource=LAMBDA, ResultPath="$.result")
    assert ran.output == {"list": [1], "result": None}


@pytest.mark.parametrize("path", ["$.text", "$.missing"])
def test_a_timeout_must_be_a_number(path: str) -> None:
    ran = only({"text": "1"}, Type="Task", Resource=LAMBDA, TimeoutSecondsPath=path)
    assert ran.error == "States.Runtime"


def test_a_result_that_is_too_large_can_be_caught() -> None:
    catch = {"Catch": [{"ErrorEquals": ["States.ALL"], "Next": "P"}], "Next": "P"}
    for resource, name in ((LAMBDA, "lambda"), (FUNCTION, FUNCTION)):
        state = {"Type": "Task", "Resource": resource, **catch}

        def perform(task: Task) -> str:
            if task.resource == LAMBDA:
                told(task)
            return "\u00e9" * 131_072

        ran = run({"S": state, "P": {"Type": "Pass"}}, {}, perform)
        assert ran.output == {
            "Error": "States.DataLimitExceeded",
            "Cause": f"The state/task '{name}' returned a result with a size exceeding the maximum"
            " number of bytes service limit.",
        }
    assert only({}, lambda _: "x" * 262_142, Type="Task", Resource=LAMBDA).failed is False


def test_an_output_that_is_too_large_ends_the_run() -> None:
    half = {"Type": "Pass", "Parameters": {"a.$": "$", "b.$": "$"}}
    ran = run({"S": half}, "x" * 140_000)
    assert ran.error == "States.DataLimitExceeded" and "'S'" in (ran.cause or "")


# Retry and Catch.


def test_retries_count_and_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFN_WAIT_SCALE", "0")
    counts: list[int] = []

    def perform(task: Task) -> Any:
        told(task)
        counts.append(task.arguments["n"])
        if len(counts) < 3:
            raise StatesError("Busy", "later")
        return "done"

    ran = only({}, perform, Type="Task", Resource=LAMBDA, Parameters={"n.$": "$$.State.RetryCount"},
               Retry=[{"ErrorEquals": ["Busy"], "MaxAttempts": 2}])  # fmt: skip
    assert ran.output == "done" and counts == [0, 1, 2]
    assert [kind for _, _, kind in ran.story].count("TaskScheduled") == 3
    assert [kind for _, _, kind in ran.story].count("TaskStateEntered") == 1


def test_retries_wait() -> None:
    began = time.monotonic()
    only({}, failing("E"), Type="Task", Resource=LAMBDA,
         Retry=[{"ErrorEquals": ["E"], "IntervalSeconds": 0.1, "MaxAttempts": 2,
                 "BackoffRate": 2}])  # fmt: skip
    assert time.monotonic() - began > 0.3


def test_a_catch_in_jsonpath() -> None:
    state = {
        "Type": "Task",
        "Resource": LAMBDA,
        "Catch": [
            {"ErrorEquals": ["Other"], "Next": "P"},
            {"ErrorEquals": ["States.TaskFailed"], "Next": "P", "ResultPath": "$.problem",
             "Assign": {"name.$": "$.Error"}},
        ],
        "OutputPath": "$.never",
    }  # fmt: skip
    then = {"Type": "Pass", "Parameters": {"in.$": "$", "name.$": "$name"}}
    ran = run({"T": state, "P": then}, {"id": 1}, failing("Declined", "no money"))
    assert ran.output == {
        "in": {"id": 1, "problem": {"Error": "Declined", "Cause": "no money"}},
        "name": "Declined",
    }


def test_a_catch_in_jsonata() -> None:
    state = {
        "Type": "Task",
        "Resource": LAMBDA,
        "Output": "never",
        "Assign": {"never": 1},
        "Catch": [
            {"ErrorEquals": ["States.ALL"], "Next": "P", "Output": "{% $states.input.id %}",
             "Assign": {"problem": "{% $states.errorOutput.Error %}"}},
        ],
    }  # fmt: skip
    then = {"Type": "Pass", "Output": ["{% $states.input %}", "{% $problem %}"]}
    ran = run({"T": state, "P": then}, {"id": 1}, failing("Declined", None),
              QueryLanguage="JSONata")  # fmt: skip
    assert ran.output == [1, "Declined"]


def test_a_catch_without_output_hands_on_the_error() -> None:
    state = {"Type": "Task", "Resource": LAMBDA, "Output": "{% $states.result.missing %}",
             "Catch": [{"ErrorEquals": ["States.QueryEvaluationError"], "Next": "P"}]}  # fmt: skip
    ran = run({"T": state, "P": {"Type": "Pass"}}, {}, QueryLanguage="JSONata")
    assert ran.output["Error"] == "States.QueryEvaluationError"
    assert "'Output'" in ran.output["Cause"]


def test_a_fault_in_a_catch_is_not_caught_again() -> None:
    state = {
        "Type": "Task",
        "Resource": LAMBDA,
        "Catch": [{"ErrorEquals": ["Never"], "Next": "P"},
                  {"ErrorEquals": ["States.ALL"], "Next": "P",
                   "Output": {"v": "{% $states.input.missing %}"}}],
    }  # fmt: skip
    ran = run({"T": state, "P": {"Type": "Pass"}}, {}, failing("E"), QueryLanguage="JSONata")
    assert ran.error == "States.QueryEvaluationError" and "'Catch[1]/Output/v'" in (ran.cause or "")


def test_nothing_catches_a_runtime_error() -> None:
    state = {"Type": "Task", "Resource": LAMBDA, "Parameters": {"x.$": "$.missing"},
             "Retry": [{"ErrorEquals": ["States.ALL"]}],
             "Catch": [{"ErrorEquals": ["States.Runtime", "States.ALL"], "Next": "P"}]}  # fmt: skip
    assert run({"T": state, "P": {"Type": "Pass"}}, {}).error == "States.Runtime"


# Parallel.


def branch(*states: State) -> State:
    names = [f"B{at}" for at in range(len(states))]
    for state, following in zip(states, [*names[1:], None], strict=True):
        if state["Type"] != "Fail":
            state.setdefault(*(("Next", following) if following else ("End", True)))
    return {"StartAt": names[0], "States": dict(zip(names, states, strict=True))}


def test_parallel_branches_have_the_input_and_give_a_list() -> None:
    one = branch({"Type": "Pass", "Result": 1}, {"Type": "Pass"})
    two = branch({"Type": "Pass", "OutputPath": "$.a"})
    ran = only({"a": 2}, Type="Parallel", Branches=[one, two], ResultPath="$.both")
    assert ran.output == {"a": 2, "both": [1, 2]}
    kinds = [kind for _, _, kind in ran.story]
    assert kinds[:2] == ["ParallelStateEntered", "ParallelStateStarted"]
    (succeeded,) = [one for one in ran.story if one[2] == "ParallelStateSucceeded"]
    assert ran.story[-1] == (succeeded[0] + 1, succeeded[1], "ParallelStateExited")
    begun = [previous for _, previous, kind in ran.story if kind == "PassStateEntered"]
    assert begun.count(3) == 2


def test_parallel_branches_run_at_the_same_time() -> None:
    meet = threading.Barrier(3, timeout=10)
    task = {"Type": "Task", "Resource": LAMBDA}
    ran = only({}, lambda _: meet.wait() >= 0, Type="Parallel",
               Branches=[branch(dict(task)) for _ in range(3)])  # fmt: skip
    assert ran.output == [True] * 3


def test_a_branch_that_fails_stops_the_others() -> None:
    begun, stopped = threading.Event(), threading.Event()

    def perform(task: Task) -> Any:
        if task.resource == FUNCTION:
            return begun.wait(10)
        told(task)
        begun.set()
        if task.ended.wait(10):
            stopped.set()
        return "late"

    slow = branch({"Type": "Task", "Resource": LAMBDA}, {"Type": "Pass"})
    fails = branch(
        {"Type": "Task", "Resource": FUNCTION}, {"Type": "Fail", "Error": "E", "Cause": "C"}
    )
    ran = only({}, perform, Type="Parallel", Branches=[slow, fails],
               Catch=[{"ErrorEquals": ["E"], "Next": "P"}], Next="P")  # fmt: skip
    assert (ran.error, ran.cause) == ("States.Runtime", "The state 'P' does not exist")
    assert stopped.wait(10)
    kinds = [kind for _, _, kind in ran.story]
    assert "TaskSucceeded" not in kinds and "PassStateEntered" not in kinds
    failed = next(one for one in ran.story if one[2] == "FailStateEntered")
    assert [one[1:] for one in ran.story][-3:] == [
        (failed[0], "TaskStateAborted"),
        (failed[0], "ParallelStateFailed"),
        (len(ran.events) - 1, "ParallelStateExited"),
    ]


# Map.


def over(state: State, **fields: Any) -> State:
    processor = {"StartAt": "I", "States": {"I": {"End": True, **state}}}
    return {"Type": "Map", "ItemProcessor": processor, **fields}


def test_the_history_of_a_map_one_by_one() -> None:
    ran = run({"M": over({"Type": "Pass"}, MaxConcurrency=1)}, [1, 2])
    assert ran.output == [1, 2]
    assert ran.story == [
        (2, 0, "MapStateEntered"),
        (3, 2, "MapStateStarted"),
        (4, 3, "MapIterationStarted"),
        (5, 4, "PassStateEntered"),
        (6, 5, "PassStateExited"),
        (7, 6, "MapIterationSucceeded"),
        (8, 6, "MapIterationStarted"),
        (9, 8, "PassStateEntered"),
        (10, 9, "PassStateExited"),
        (11, 10, "MapIterationSucceeded"),
        (12, 11, "MapStateSucceeded"),
        (13, 11, "MapStateExited"),
    ]
    assert ran.details("MapStateStarted") == [{"length": 2}]
    assert ran.details("MapIterationStarted")[1] == {"name": "M", "index": 1}


@pytest.mark.parametrize(
    ("state", "output"),
    [
        (over({"Type": "Pass"}), [{"l": [3]}]),
        (over({"Type": "Pass"}, ItemsPath="$[0].l"), [3]),
        (over({"Type": "Pass"}, InputPath="$[0]", ItemsPath="$.l"), [3]),
        (over({"Type": "Pass"}, ItemsPath="$[0].l",
              ItemSelector={"v.$": "$$.Map.Item.Value", "i.$": "$$.Map.Item.Index", "l.$": "$[0]"}),
         [{"v": 3, "i": 0, "l": {"l": [3]}}]),
        (over({"Type": "Pass"}, Parameters={"v.$": "$$.Map.Item.Value.l[0]"}), [{"v": 3}]),
        (over({"Type": "Pass"}, ItemsPath="$[0].l", ResultSelector={"all.$": "$[*]"}),
         {"all": [3]}),
        (over({"Type": "Pass"}, QueryLanguage="JSONata", Items="{% $states.input[0].l %}",
              ItemSelector={"v": "{% $states.context.Map.Item.Value %}"}), [{"v": 3}]),
        (over({"Type": "Pass"}, QueryLanguage="JSONata", Items=[1, "{% 1 + 1 %}"]), [1, 2]),
        (over({"Type": "Pass"}, QueryLanguage="JSONata", Items="{% $states.input[0] %}"),
         [{"Key": "l", "Value": [3]}]),
        (over({"Type": "Pass"}, QueryLanguage="JSONata", Items={"a": 1},
              ItemSelector="{% $states.context.Map.Item.Key %}"), ["a"]),
        (over({"Type": "Pass"}, QueryLanguage="JSONata", Output="{% $count($states.result) %}"), 1),
    ],
)  # fmt: skip
def test_what_a_map_iterates_over(state: State, output: Any) -> None:
    assert run({"M": state}, [{"l": [3]}]).output == output


def test_an_empty_map_gives_an_empty_list() -> None:
    ran = run({"M": over({"Type": "Pass"})}, [])
    assert ran.output == []
    assert [kind for _, _, kind in ran.story][1:3] == ["MapStateStarted", "MapStateSucceeded"]


@pytest.mark.parametrize(
    ("fields", "error", "problem"),
    [
        ({"ItemsPath": "$.text"}, "States.Runtime", 'Reference path "$.text" must point to array.'),
        ({}, "States.Runtime", 'Reference path "$" must point to array.'),
        ({"QueryLanguage": "JSONata", "Items": "{% $states.input.text %}"},
         "States.QueryEvaluationError",
         "The JSONata expression '$states.input.text' specified for the field 'Items' returned an"
         " unexpected result type. Expected 'array', but was 'string' for value: \"x\""),
    ],
)  # fmt: skip
def test_a_map_needs_an_array(fields: State, error: str, problem: str) -> None:
    ran = run({"M": over({"Type": "Pass"}, **fields)}, {"text": "x"})
    cause = (
        f"An error occurred while executing the state 'M' (entered at the event id #2). {problem}"
    )
    assert (ran.error, ran.cause) == (error, cause)


@pytest.mark.parametrize(("limit", "most"), [({"MaxConcurrency": 2}, 2), ({}, 40)])
def test_a_map_runs_as_many_at_a_time_as_it_may(limit: State, most: int) -> None:
    running, highest, lock = 0, 0, threading.Lock()

    def perform(_: Task) -> None:
        nonlocal running, highest
        with lock:
            running += 1
            highest = max(highest, running)
        time.sleep(0.2)
        with lock:
            running -= 1

    run({"M": over({"Type": "Task", "Resource": LAMBDA}, **limit)}, list(range(2 * most)), perform)
    assert highest <= most and (highest == most or most > 2)


def test_an_iteration_that_fails_stops_the_others() -> None:
    begun = threading.Event()

    def perform(task: Task) -> Any:
        told(task)
        if task.arguments == 1:
            begun.wait(10)
            raise StatesError("E", "C")
        begun.set()
        task.ended.wait(10)

    ran = run({"M": over({"Type": "Task", "Resource": LAMBDA}, MaxConcurrency=2)},
              [0, 1, 2], perform)  # fmt: skip
    assert (ran.error, ran.cause) == ("E", "C")
    failed = next(one[0] for one in ran.story if one[2] == "TaskFailed")
    assert [one[1:] for one in ran.story if one[0] > failed] == [
        (failed, "MapIterationFailed"),
        (failed, "TaskStateAborted"),
        (failed, "MapIterationAborted"),
        (failed, "MapStateFailed"),
    ]
    assert ran.details("MapIterationFailed") == [{"name": "M", "index": 1}]
    assert len(ran.details("MapIterationStarted")) == 2


def test_a_map_is_tried_again_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFN_WAIT_SCALE", "0")
    calls: list[Any] = []

    def perform(task: Task) -> Any:
        calls.append(task.arguments)
        if len(calls) == 1:
            raise StatesError("Once")
        return task.arguments

    ran = run({"M": over({"Type": "Task", "Resource": LAMBDA},
                         Retry=[{"ErrorEquals": ["States.ALL"]}])}, [5], perform)  # fmt: skip
    assert ran.output == [5] and calls == [5, 5]


def test_maps_within_maps() -> None:
    inner = over({"Type": "Pass", "Assign": {"sum.$": "States.MathAdd($, $outer)"}})
    seed = {"Type": "Pass", "Assign": {"outer": 1}}
    assert run({"A": seed, "M": over(inner)}, [[1, 2], [3]]).output == [[1, 2], [3]]


def test_a_loop_ends_when_its_history_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 100)
    ran = run({"A": {"Type": "Pass", "Next": "B"}, "B": {"Type": "Pass", "Next": "A"}})
    assert ran.error == "States.Runtime" and len(ran.events) == 99
    each = over({"Type": "Pass"}, Next="M")
    assert run({"M": each}, [1, 2, 3]).error == "States.Runtime"
