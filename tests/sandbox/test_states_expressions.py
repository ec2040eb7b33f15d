"""JSONata as Step Functions evaluates it."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.states import expressions
from sandbox.states.task import StatesError

INPUT = {"empty": None, "list": [None, 1], "none": [], "n": [1, 2, 3], "float": 2.0, "text": "abc"}
BINDINGS = {"states": {"input": INPUT, "context": {"Execution": {"Name": "one"}}}, "nothing": None}


def evaluate(expression: str, field: str = "Output") -> Any:
    return expressions.evaluate(f"{{% {expression} %}}", field, BINDINGS)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("$states.input.text", "abc"),
        ("$states.context.Execution.Name", "one"),
        ("$states.input", INPUT),
        # null is a value
        ("null", None),
        ("$states.input.empty", None),
        ("$nothing", None),
        ("$states.input.list", [None, 1]),
        ("$states.input.list[0]", None),
        ("$exists($states.input.empty)", True),
        ("$exists($nothing)", True),
        ("$exists($states.input.missing)", False),
        ("$states.input.empty = null", True),
        ("$type($states.input.empty)", "null"),
        ("{'a': null, 'b': [null]}", {"a": None, "b": [None]}),
        ("$lookup($states.input, 'empty')", None),
        ("$merge([{'a': 1}, {'b': null}])", {"a": 1, "b": None}),
        # what is undefined inside is left out
        ("{'a': $states.input.missing, 'b': 1}", {"b": 1}),
        # sequences
        ("$states.input.none", []),
        ("$states.input.n[$ > 1]", [2, 3]),
        ("$states.input.n[$ > 2]", 3),
        ("[$states.input.n[$ > 2]]", [3]),
        ("[1..4]", [1, 2, 3, 4]),
        ("$count([1..4])", 4),
        # whole numbers
        ("4 / 2", 2),
        ("1 / 4", 0.25),
        ("$sum([0.5, 0.5])", 1),
        ("1 / 0", None),
        ("+".join("1" * 100), 100),
        ("$count($range(1, 360145, 1))", 360145),
        # AWS's own functions
        ("$partition([1, 2, 3, 4], 3)", [[1, 2, 3], [4]]),
        ("$range(0, 10, 5)", [0, 5, 10]),
        ("$range(3, 1, -1)", [3, 2, 1]),
        ("$hash('input data', 'SHA-1')", "aaff4a450a104cd177d28d18d74485e8cae074b7"),
        ("""$parse('{"a": [null, 1]}')""", {"a": [None, 1]}),
        ("$exists($parse($states.input.missing))", False),
        ("$length($uuid())", 36),
        ("$replace('abcb', 'b', '-', 1)", "a-cb"),
        ("'abc' ~> $replace(/B/i, '-')", "a-c"),
        ("$split('a1b2c', /[0-9]/)", ["a", "b", "c"]),
        ("$contains('abc', /b/)", True),
        ("$match('abc', /b/).index", 1),
        ("$random(7) = $random(7)", True),
        ("$random() < 1", True),
        ("$toMillis('2024-01-01T00:00:00Z')", 1704067200000),
    ],
)
def test_what_an_expression_comes_to(expression: str, value: Any) -> None:
    result = evaluate(expression)
    assert result == value and repr(result).replace("2.0", "2") == repr(value).replace("2.0", "2")


@pytest.mark.parametrize(
    "expression",
    [
        "$states.input.missing",
        "$unassigned",
        "$states.result",
        "missing",
        "$states.input.n[$ > 9]",
        "$filter([1], function($one) { $one > 1 })",
    ],
)
def test_nothing_is_an_error_that_names_the_field(expression: str) -> None:
    with pytest.raises(StatesError) as raised:
        evaluate(expression, "Arguments/Input/pushLocation")
    assert (raised.value.error, raised.value.cause) == (
        "States.QueryEvaluationError",
        f"The JSONata expression '{expression}' specified for the field"
        " 'Arguments/Input/pushLocation' returned nothing (undefined).",
    )


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("1 + 'a'", '. T2002: The right side of the "+" operator must evaluate to a number'),
        ("$length(1)",
         '. T0410: Argument 1 of function "length" does not match function signature'),
        ("$sum(['a'])", '. T0412: Argument 1 of function "sum" must be an array of "numbers"'),
        ("$eval('1')", ". T1006: Attempted to invoke a non-function"),
        ("$number('one')", '. D3030: Unable to cast value to a number: "one"'),
        ("$error('boom')", ". D3137: boom"),
        ("$assert(1 = 2, 'unequal')", ". D3141: unequal"),
        ("$replace('abc', '', 'x')",
         ". D3010: Second argument of replace function cannot be an empty string"),
        ("$replace('abc', /x*/, '-')", ". D1004: Regular expression matches zero length string"),
        ("$match('abc', /x*/)", ". D1004: Regular expression matches zero length string"),
        ("$toMillis('x')", ". D3110: "),
        ("$string(1 / 0)", ". D1001: Number out of range: Infinity"),
        ("$toMillis('2024-01-01 00:00:00')",
         ". D3110: The argument of the toMillis function must be an ISO 8601 formatted timestamp."
         ' Given "2024-01-01 00:00:00"'),
        ("$range(1, 360146, 1)",
         ": Expression evaluation memory limit exceeded: Check for excessive memory usage"),
        ("+".join("1" * 101),
         ": Stack overflow error: Check for non-terminating recursive function. Consider rewriting"
         " as tail-recursive."),
        ("$parse('{')", ": "),
        ("$partition([1], 0)", ": "),
        ("$range(1, 2, 0)", ": "),
        ("$hash('x', 'SHA-3')", ": "),
        ("$sum", ": "),
    ],
)  # fmt: skip
def test_what_fails_is_told_in_awss_words(expression: str, problem: str) -> None:
    with pytest.raises(StatesError) as raised:
        evaluate(expression, "Output/v")
    assert raised.value.error == "States.QueryEvaluationError"
    assert (raised.value.cause or "").startswith(
        f"The JSONata expression '{expression}' specified for the field 'Output/v' threw an error"
        f" during evaluation{problem}"
    )


def test_an_expression_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "LONGEST", 50)
    for endless in ("($f := function($n) { $f($n + 1) }; $f(1))",
                    "($f := function($n) { 1 + $f($n) }; $f(1))"):  # fmt: skip
        with pytest.raises(StatesError) as raised:
            evaluate(endless)
        assert "during evaluation: " in (raised.value.cause or "")


def test_a_template_is_filled_where_strings_are_expressions() -> None:
    template = {"a": "{% $states.input.text %}", "b": ["{%1+1%}", "{% open"], "c": {"d": None}}
    assert expressions.fill(template, "Output", BINDINGS) == {
        "a": "abc",
        "b": [2, "{% open"],
        "c": {"d": None},
    }


def test_the_field_is_named_by_its_place_in_the_template() -> None:
    with pytest.raises(StatesError) as raised:
        expressions.fill({"a": [{"b": "{% $x %}"}]}, "Catch[1]/Output", BINDINGS)
    assert "'Catch[1]/Output/a[0]/b'" in (raised.value.cause or "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1], "array"), (1.5, "number"), (True, "boolean"), ("x", "string"), (None, "null")],
)
def test_a_field_of_one_type_takes_no_other(value: Any, expected: str) -> None:
    assert expressions.typed(value, "Items", {}, expected) == value
    with pytest.raises(StatesError) as raised:
        expressions.typed("{% {'a': 1} %}", "Items", {}, expected)
    assert (raised.value.cause or "").endswith(
        "for the field 'Items' returned an unexpected result type."
        f" Expected '{expected}', but was 'object' for value: {{\"a\":1}}"
    )


def test_what_went_in_is_left_as_it_was() -> None:
    before = repr(BINDINGS)
    evaluate("$states.input")
    assert repr(BINDINGS) == before
