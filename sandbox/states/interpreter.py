"""Runs a state machine, state by state, as Step Functions does."""

from __future__ import annotations

import base64
import copy
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from . import choices, expressions, intrinsics, paths, retries, times
from .faults import Entry, Fault, entries, runtime, text
from .history import Trail, assigned, failure
from .scope import Scope, Sight
from .task import StatesError, Task

LIMIT = 262_144  # bytes of a payload: 256 KiB (developer guide, quotas)
INLINE = 40  # iterations of an inline Map at a time, at most (developer guide)
_RETRIED = {"Task", "Parallel", "Map"}
_NOTHING = object()


@dataclass(frozen=True)
class Execution:
    """What holds for a whole execution and all branches of it.

    language: of states that name none. perform: does one attempt of a task. distribute: runs a
    Map in distributed mode: what the visit works out, and the definition, to the results.
    """

    arn: str
    name: str
    role: str
    express: bool
    language: str
    perform: Callable[[Task], Any]
    distribute: Callable[[Visit, Any], Any]


@dataclass
class Branch:
    """States that run one after another: a machine's, a branch's, an iteration's."""

    execution: Execution
    machine: dict[str, Any]
    context: dict[str, Any]
    scope: Scope
    trail: Trail
    life: times.Life
    now_in: str = ""  # the type of the state it is in

    def run(self, value: Any) -> Any:
        """The output for an input. StatesError if a state fails, Over if it is stopped."""
        name: str | None = self.machine["StartAt"]
        while name is not None:
            self.life.check()
            if name not in self.machine["States"]:
                raise StatesError("States.Runtime", f"The state '{name}' does not exist")
            state = self.machine["States"][name]
            self.now_in = state["Type"]
            value, name = Visit(self, name, state, value).run()
        return value

    def inner(self, machine: dict[str, Any], life: times.Life, **context: Any) -> Branch:
        """A branch of this one, which reads its variables and has its own."""
        outside = {key: one for key, one in self.context.items() if key != "State"} | context
        return Branch(self.execution, machine, outside, Scope(self.scope), self.trail.fork(), life)


@dataclass
class Visit:
    """One state, from its entry to its exit."""

    branch: Branch
    name: str
    state: dict[str, Any]
    input: Any
    entered: int = 0
    context: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def jsonata(self) -> bool:
        """Whether its fields are in JSONata."""
        language = self.state.get("QueryLanguage", self.branch.execution.language)
        return language == "JSONata"

    def run(self) -> tuple[Any, str | None]:
        """Its output and the state that comes next."""
        kind, trail = self.state["Type"], self.branch.trail
        self.entered = trail.tell(
            f"{kind}StateEntered", {"name": self.name, "input": text(self.input)}
        )
        self.variables = self.branch.scope.all()
        here = {"Name": self.name, "EnteredTime": times.now()}
        if kind in _RETRIED:
            here["RetryCount"] = 0
        self.context = self.branch.context | {"State": here}
        with self.explained():
            if kind in _RETRIED:
                outcome = self._with_retries(
                    {"Task": self._task, "Parallel": self._parallel, "Map": self._map}[kind]
                )
            else:
                outcome = _STATES[kind](self)
        self._limit(outcome.output, self.name)
        details = {"name": self.name, "output": text(outcome.output)}
        if outcome.variables:
            details["assignedVariables"] = assigned(outcome.variables)
        with self.explained():
            self.branch.scope.assign(outcome.variables)
        trail.tell(f"{kind}StateExited", details)
        return outcome.output, outcome.next

    @contextmanager
    def explained(self) -> Generator[None]:
        """Put before the cause of a fault which state it befell, and tell a query's failure."""
        try:
            yield
        except Fault as fault:
            cause = (
                f"An error occurred while executing the state '{self.name}' (entered at the event"
                f" id #{self.entered}). {fault.cause}"
            )
            if fault.field:
                where = {"state": self.name, "location": fault.field}
                self.branch.trail.tell("EvaluationFailed", failure(fault.error, cause) | where)
            raise StatesError(fault.error, cause) from None

    # What fields come to.

    def sight(self, document: Any) -> Sight:
        """What JSONPath sees."""
        return Sight(document, self.context, self.variables)

    def bindings(self, **more: Any) -> dict[str, Any]:
        """What JSONata sees: variables, and $states with result or errorOutput where they are."""
        states = {"input": self.input, "context": self.context, **more}
        return self.variables | {"states": states}

    def effective(self) -> Any:
        """The input as InputPath leaves it."""
        return self._filtered("InputPath", self.input)

    def arguments(self) -> Any:
        """What Arguments or Parameters come to; the input without them."""
        if self.jsonata:
            return self.template("Arguments", self.input)
        effective = self.effective()
        if "Parameters" in self.state:
            return intrinsics.fill(self.state["Parameters"], self.sight(effective))
        return effective

    def template(self, name: str, default: Any, **more: Any) -> Any:
        """What a JSONata field comes to."""
        if name not in self.state:
            return default
        return expressions.fill(self.state[name], name, self.bindings(**more))

    def number(self, name: str) -> Any:
        """A number given as it is, by ...Path or by JSONata; None if it is not given."""
        if self.jsonata and name in self.state:
            return expressions.typed(self.state[name], name, self.bindings(), "number")
        if f"{name}Path" not in self.state:
            return self.state.get(name)
        path = self.state[f"{name}Path"]
        value = self.sight(self.effective()).filter(path)
        if not choices.is_number(value):
            raise runtime(
                f"The {name}Path parameter does not reference an integer value: {path} =="
                f" {text(value)}"
            )
        return value

    def _filtered(self, name: str, value: Any) -> Any:
        path = self.state.get(name, "$")
        return {} if path is None else self.sight(value).filter(path)

    def _limit(self, value: Any, name: str) -> None:
        if len(text(value).encode()) > LIMIT:
            raise StatesError(
                "States.DataLimitExceeded",
                f"The state/task '{name}' returned a result with a size exceeding the maximum"
                " number of bytes service limit.",
            )

    # How a state ends.

    def _next(self) -> str | None:
        return None if self.state.get("End") else self.state.get("Next")

    def _done(self, result: Any = _NOTHING) -> Outcome:
        """The end of a state that did something with a result, or of one that did not."""
        did = result is not _NOTHING
        if self.jsonata:
            more = {"result": result} if did else {}
            output = self.template("Output", result if did else self.input, **more)
            return Outcome(output, self._next(), self.template("Assign", {}, **more))
        effective = self.effective()
        variables = intrinsics.fill(
            self.state.get("Assign", {}), self.sight(result if did else effective)
        )
        if not did:
            return Outcome(self._filtered("OutputPath", effective), self._next(), variables)
        if "ResultSelector" in self.state:
            result = intrinsics.fill(self.state["ResultSelector"], self.sight(result))
        output = self._placed(self.state.get("ResultPath", "$"), result)
        return Outcome(self._filtered("OutputPath", output), self._next(), variables)

    def _placed(self, path: str | None, result: Any) -> Any:
        """The input with a result where ResultPath wants it."""
        if path is None:
            return self.input
        try:
            return paths.put(paths.parse(path), self.input, result)
        except paths.PathError:
            raise Fault(
                "States.ResultPathMatchFailure",
                f"Unable to apply ReferencePath {path} to input {text(self.input)}",
            ) from None

    # Retry and Catch.

    def _with_retries(self, attempt: Callable[[], Outcome]) -> Outcome:
        done = retries.Retries(self.state.get("Retry", []))
        while True:
            try:
                with self.explained():
                    return attempt()
            except StatesError as error:
                if (wait := done.wait_for(error.error)) is None:
                    return self._caught(error)
            self.branch.life.sleep(wait)
            self.context["State"]["RetryCount"] = done.count

    def _caught(self, error: StatesError) -> Outcome:
        catchers = self.state.get("Catch", [])
        if (at := retries.find(catchers, error.error)) is None:
            raise error
        catcher, told = catchers[at], {}
        for key, value in (("Error", error.error), ("Cause", error.cause)):
            if value is not None:
                told[key] = value
        if self.jsonata:
            bindings, here = self.bindings(errorOutput=told), f"Catch[{at}]"
            output = expressions.fill(catcher.get("Output", told), f"{here}/Output", bindings)
            variables = expressions.fill(catcher.get("Assign", {}), f"{here}/Assign", bindings)
        else:
            output = self._placed(catcher.get("ResultPath", "$"), told)
            variables = intrinsics.fill(catcher.get("Assign", {}), self.sight(told))
        return Outcome(output, catcher["Next"], variables)

    # The states.

    def _pass(self) -> Outcome:
        if self.jsonata:
            return self._done()
        result = self.arguments()
        return self._done(self.state.get("Result", result))

    def _succeed(self) -> Outcome:
        if self.jsonata:
            return Outcome(self.template("Output", self.input), None, {})
        return Outcome(self._filtered("OutputPath", self.effective()), None, {})

    def _fail(self) -> Outcome:
        raise StatesError(self._told("Error"), self._told("Cause"))

    def _told(self, name: str) -> str | None:
        if self.jsonata:
            if name not in self.state:
                return None
            return expressions.typed(self.state[name], name, self.bindings(), "string")
        if path := self.state.get(f"{name}Path"):
            sight = self.sight(self.input)
            value = (
                intrinsics.call(path, sight)
                if path.startswith("States.")
                else sight.field(path, f"{name}Path")
            )
            if not isinstance(value, str):
                raise runtime(f"The {name}Path parameter does not reference a string: {path}")
            return value
        return self.state.get(name)

    def _wait(self) -> Outcome:
        if any(name.startswith("Seconds") for name in self.state):
            seconds = self.number("Seconds")
            if seconds < 0:
                raise runtime(f"The Seconds parameter is negative: {seconds}")
        else:
            seconds = times.seconds_until(self._moment())
        self.branch.life.sleep(seconds)
        return self._done()

    def _moment(self) -> Any:
        if self.jsonata:
            given = expressions.typed(
                self.state["Timestamp"], "Timestamp", self.bindings(), "string"
            )
        elif path := self.state.get("TimestampPath"):
            given = self.sight(self.effective()).filter(path)
        else:
            path, given = "Timestamp", self.state["Timestamp"]
        if (instant := times.moment(given)) is not None:
            return instant
        if self.jsonata:
            raise Fault(
                "States.QueryEvaluationError",
                "The Timestamp parameter is not a valid ISO-8601 extended offset date-time format"
                f" string: {given}",
                "Timestamp",
            )
        shown = given if isinstance(given, str) else text(given)
        raise runtime(
            "The TimestampPath parameter does not reference a valid ISO-8601 extended offset"
            f" date-time format string: {path} == {shown}"
        )

    def _choice(self) -> Outcome:
        for at, rule in enumerate(self.state["Choices"]):
            if self.jsonata:
                here, bindings = f"Choices[{at}]", self.bindings()
                condition, where = rule["Condition"], f"{here}/Condition"
                if not expressions.typed(condition, where, bindings, "boolean"):
                    continue
                output = self.input
                if "Output" in rule:
                    output = expressions.fill(rule["Output"], f"{here}/Output", bindings)
                variables = expressions.fill(rule.get("Assign", {}), f"{here}/Assign", bindings)
                return Outcome(output, rule["Next"], variables)
            sight = self.sight(self.effective())
            if choices.holds(rule, sight):
                variables = intrinsics.fill(rule.get("Assign", {}), sight)
                output = self._filtered("OutputPath", sight.document)
                return Outcome(output, rule["Next"], variables)
        if "Default" not in self.state:
            raise runtime(
                "Failed to transition out of the state. The state does not point to a next state."
            )
        return replace(self._done(), next=self.state["Default"])

    # A task.

    def _task(self) -> Outcome:
        resource = self.state["Resource"]
        token = None
        if resource.endswith(".waitForTaskToken"):
            token = base64.b64encode(os.urandom(96)).decode()
            self.context["Task"] = {"Token": token}
        execution, life = self.branch.execution, times.Life(self.branch.life)
        timeout = self.number("TimeoutSeconds")
        told = _Told(self.branch.trail, life)
        task = Task(
            resource=resource,
            arguments=copy.deepcopy(self.arguments()),
            role=self._role(),
            execution=execution.arn,
            name=execution.name,
            express=execution.express,
            token=token,
            timeout=timeout,
            heartbeat=self.number("HeartbeatSeconds"),
            ended=life.ended,
            tell=told.tell,
        )
        try:
            # An activity's clock starts when a worker takes it, which only who performs it sees.
            result = life.finish(
                lambda: execution.perform(task), None if ":activity:" in resource else timeout
            )
            self._limit(result, told.about.get("resourceType", resource))
        except StatesError as error:
            told.failed(error)
            raise
        finally:
            life.end()
        told.succeeded(result)
        return self._done(result)

    def _role(self) -> str:
        """The role that calls for the task: the machine's, or that of Credentials."""
        given = self.state.get("Credentials", {})
        if self.jsonata:
            given = self.template("Credentials", {})
        elif given:
            given = intrinsics.fill(given, self.sight(self.effective()))
        return given.get("RoleArn", self.branch.execution.role)

    # Branches and iterations.

    def _parallel(self) -> Outcome:
        arguments, trail = self.arguments(), self.branch.trail
        trail.tell("ParallelStateStarted")
        life = times.Life(self.branch.life)
        branches = [self.branch.inner(one, life) for one in self.state["Branches"]]
        together = Together(self, life, "Parallel")
        results = together.run(
            len(branches), len(branches), branches.__getitem__, lambda _: arguments
        )
        return self._done(results)

    def _map(self) -> Outcome:
        processor = self.state.get("ItemProcessor", self.state.get("Iterator", {}))
        if processor.get("ProcessorConfig", {}).get("Mode") == "DISTRIBUTED":
            return self._done(self.branch.execution.distribute(self, processor))
        items, limit = self.items(), self.number("MaxConcurrency") or INLINE
        self.branch.trail.tell("MapStateStarted", {"length": len(items)})
        life = times.Life(self.branch.life)

        def branch(at: int) -> Branch:
            return self.branch.inner(processor, life, Map=item_context(at, items[at]))

        together = Together(self, life, "Map")
        results = together.run(
            len(items),
            min(limit, INLINE),
            branch,
            lambda at: self.selected(at, items[at]),
        )
        return self._done(results)

    def items(self) -> list[Any]:
        """What a Map iterates over."""
        if self.jsonata:
            given = self.state.get("Items", "{% $states.input %}")
            found = expressions.fill(given, "Items", self.bindings())
            if isinstance(found, dict):
                return entries(found)
            return expressions.checked(found, given, "Items", "array")
        path = self.state.get("ItemsPath", "$")
        found = self.sight(self.effective()).filter(path)
        if not isinstance(found, list):
            raise runtime(f'Reference path "{path}" must point to array.')
        return found

    def selected(self, at: int, item: Any) -> Any:
        """The input of one iteration: what ItemSelector makes of an item."""
        name = "ItemSelector" if "ItemSelector" in self.state else "Parameters"
        if name not in self.state:
            return item
        context = self.context | {"Map": item_context(at, item)}
        if self.jsonata:
            bindings = self.variables | {"states": {"input": self.input, "context": context}}
            return expressions.fill(self.state[name], name, bindings)
        sight = Sight(self.effective(), context, self.variables)
        return intrinsics.fill(self.state[name], sight)


@dataclass(frozen=True)
class Outcome:
    """How a state ended: its output, what comes next, and the variables that it sets."""

    output: Any
    next: str | None
    variables: dict[str, Any]


_STATES: dict[str, Callable[[Visit], Outcome]] = {
    "Pass": Visit._pass,
    "Succeed": Visit._succeed,
    "Fail": Visit._fail,
    "Wait": Visit._wait,
    "Choice": Visit._choice,
}


def item_context(at: int, item: Any) -> dict[str, Any]:
    """What the context object says of an item of a Map."""
    if isinstance(item, Entry):
        return {"Item": {"Index": at, **item}}
    return {"Item": {"Index": at, "Value": item}}


class _Told:
    """The events of one attempt of a task, the last of which the interpreter tells."""

    def __init__(self, trail: Trail, life: times.Life) -> None:
        self._trail, self._life = trail, life
        self._kind = ""
        self.about: dict[str, str] = {}

    def tell(self, kind: str, details: dict[str, Any]) -> None:
        self._life.check()
        if kind.endswith("Scheduled"):
            self._kind = kind.removesuffix("Scheduled")
            self.about = {
                name: details[name] for name in ("resource", "resourceType") if name in details
            }
        self._trail.tell(kind, details)

    def failed(self, error: StatesError) -> None:
        if self._kind:
            end = "TimedOut" if error.error == "States.Timeout" else "Failed"
            self._trail.tell(
                f"{self._kind}{end}", self._of_task() | failure(error.error, error.cause)
            )

    def succeeded(self, result: Any) -> None:
        if self._kind:
            self._trail.tell(f"{self._kind}Succeeded", self._of_task() | {"output": text(result)})

    def _of_task(self) -> dict[str, Any]:
        return self.about if self._kind == "Task" else {}


class Together:
    """Branches of a Parallel state or iterations of a Map: one that fails ends the others."""

    def __init__(self, visit: Visit, life: times.Life, kind: str) -> None:
        self._visit, self._life, self._kind = visit, life, kind
        self._lock = threading.Lock()
        self._failed: tuple[StatesError, Branch, int] | None = None
        self._running: dict[int, Branch] = {}

    def run(
        self,
        count: int,
        limit: int,
        branch: Callable[[int], Branch],
        value: Callable[[int], Any],
    ) -> list[Any]:
        """The results in order. limit: how many run at a time."""
        results: list[Any] = [None] * count
        numbers, trail = iter(range(count)), self._visit.branch.trail
        last = [trail.previous]

        def work() -> None:
            previous = trail.previous
            while not self._life.ended.is_set():
                with self._lock:
                    if (at := next(numbers, None)) is None:
                        return
                one = branch(at)
                one.trail.previous = previous
                self._iteration("Started", one.trail, at, follows=True)
                with self._lock:
                    self._running[at] = one
                try:
                    with self._visit.explained():
                        given = value(at)
                    results[at] = one.run(given)
                except StatesError as error:
                    self._fail(error, one, at)
                    return
                with self._lock:
                    del self._running[at]
                if self._kind == "Map":
                    previous = one.trail.previous
                # The next iteration points past the end of this one, the end of the Map does not.
                last[0] = self._iteration("Succeeded", one.trail, at, follows=False)

        def guarded() -> None:
            try:
                work()
            except times.Over:
                pass
            except StatesError as error:
                self._fail(error, None, -1)
            except Exception as problem:  # of the interpreter itself
                self._fail(StatesError("States.Runtime", repr(problem)), None, -1)

        threads = [times.start(guarded) for _ in range(min(count, limit))]
        for thread in threads:
            thread.join()
        self._visit.branch.life.check()
        self._life.end()
        if self._failed:
            raise self._over(*self._failed)
        trail.previous = last[0]
        trail.tell(f"{self._kind}StateSucceeded", follows=False)
        return results

    def _iteration(self, end: str, trail: Trail, at: int, follows: bool) -> int:
        """Tell what became of an iteration; the last event, which is a branch's own elsewhere."""
        if self._kind != "Map":
            return trail.previous
        return trail.tell(f"MapIteration{end}", {"name": self._visit.name, "index": at}, follows)

    def _fail(self, error: StatesError, branch: Branch | None, at: int) -> None:
        with self._lock:
            if self._failed is None:
                self._failed = (error, branch or self._visit.branch, at)
        self._life.end()

    def _over(self, error: StatesError, branch: Branch, at: int) -> StatesError:
        """Tell that one failed and the others were stopped; the error."""
        trail = self._visit.branch.trail
        trail.previous = branch.trail.previous
        self._iteration("Failed", trail, at, follows=False)
        for number, other in sorted(self._running.items()):
            if number != at:
                if other.now_in in {"Task", "Wait", "Map", "Parallel"}:
                    trail.tell(f"{other.now_in}StateAborted", follows=False)
                self._iteration("Aborted", trail, number, follows=False)
        trail.tell(f"{self._kind}StateFailed")
        return error
