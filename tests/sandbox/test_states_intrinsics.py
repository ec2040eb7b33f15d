"""Intrinsic functions and payload templates, with answers that were recorded on AWS."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.states import intrinsics
from sandbox.states.scope import Sight
from sandbox.states.task import StatesError

INPUT = {
    "list": [1, 2, 3, 4, 5, 6, 7, 8, 9],
    "json": '{"b": [1]}',
    "object": {"p": 1},
    "null": None,
    "name": "Ada",
    "twice": [1, 1.0, True, "1", [1], [1]],
}
SIGHT = Sight(INPUT, {"Execution": {"Name": "one"}}, {"v": {"w": [7]}})


@pytest.mark.parametrize(
    ("call", "value"),
    [
        ("States.Format('Formatting argument {}.', $.name)", "Formatting argument Ada."),
        ("States.Format('Formatting argument {}.', $.null)", "Formatting argument null."),
        ("States.Format('Formatting argument {}.', 1.1)", "Formatting argument 1.1."),
        ("States.Format('{} and {}', 'a', true)", "a and true"),
        (r"States.Format('it\'s \{{}\} \\', 1)", "it's {1} \\"),
        ("States.Format('nothing')", "nothing"),
        ("States.StringToJson($.json)", {"b": [1]}),
        ("States.JsonToString($.object)", '{"p":1}'),
        ("States.Array(1, 'b', true, null, $.name)", [1, "b", True, None, "Ada"]),
        ("States.Array()", []),
        ("States.ArrayPartition($.list, 4)", [[1, 2, 3, 4], [5, 6, 7, 8], [9]]),
        ("States.ArrayPartition($.list, 4.4)", [[1, 2, 3, 4], [5, 6, 7, 8], [9]]),
        ("States.ArrayContains($.list, 5)", True),
        ("States.ArrayContains($.list, '5')", False),
        ("States.ArrayContains($.list, true)", False),
        ("States.ArrayContains($.twice, $.twice[4])", True),
        ("States.ArrayRange(1, 9, 2)", [1, 3, 5, 7, 9]),
        ("States.ArrayRange(3, 1, -1)", [3, 2, 1]),
        ("States.ArrayRange(1, 0, 1)", []),
        ("States.ArrayGetItem($.list, 5)", 6),
        ("States.ArrayLength($.list)", 9),
        ("States.ArrayLength($.list[?(@ > 7)])", 2),
        ("States.ArrayUnique($.twice)", [1, True, "1", [1]]),
        ("States.Base64Encode('Data to encode')", "RGF0YSB0byBlbmNvZGU="),
        ("States.Base64Decode('RGVjb2RlZCBkYXRh')", "Decoded data"),
        ("States.Hash('input data', 'SHA-1')", "aaff4a450a104cd177d28d18d74485e8cae074b7"),
        ("States.JsonMerge($.object, $v, false)", {"p": 1, "w": [7]}),
        ("States.MathAdd(111, -1)", 110),
        ("States.MathAdd(1.5, 1)", 3),
        ("States.StringSplit(' , ', ',')", [" ", " "]),
        ("States.StringSplit(', , ,', ',')", [" ", " "]),
        ("States.StringSplit(',,,,', ',')", []),
        ("States.StringSplit('This.is+a,test=string', '.+,=')",
         ["This", "is", "a", "test", "string"]),
        ("States.ArrayGetItem($v.w, 0)", 7),
        ("States.Format('{}', $$.Execution.Name)", "one"),
        ("States.ArrayLength(States.Array(1, States.Array(2, 3)))", 2),
        ("States.Array($.list[0,1], $['name'])", [[1, 2], "Ada"]),
    ],
)  # fmt: skip
def test_what_a_function_comes_to(call: str, value: Any) -> None:
    result = intrinsics.call(call, SIGHT)
    assert result == value and repr(result) == repr(value)


def test_what_is_random_is_within_its_bounds_and_follows_its_seed() -> None:
    drawn = {intrinsics.call("States.MathRandom(1, 3)", SIGHT) for _ in range(100)}
    assert drawn == {1, 2}
    seeded = {intrinsics.call("States.MathRandom(1, 999999, 7)", SIGHT) for _ in range(3)}
    assert len(seeded) == 1
    assert len({intrinsics.call("States.UUID()", SIGHT) for _ in range(3)}) == 3


@pytest.mark.parametrize(
    "call",
    [
        "States.Format('{} {}', 1)",
        "States.StringToJson('{')",
        "States.ArrayPartition($.list, 0)",
        "States.ArrayRange(1, 9, 0)",
        "States.ArrayRange(1, 1001, 1)",
        "States.ArrayGetItem($.list, 9)",
        "States.ArrayLength($.name)",
        "States.Base64Decode('?')",
        "States.Hash('x', 'SHA-3')",
        "States.JsonMerge($.object, $.object, true)",
        "States.MathRandom(3, 3)",
        "States.MathAdd(2147483647, 1)",
        "States.MathAdd('1', 1)",
        "States.Nothing(1)",
        "States.Hash('x')",
        "States.Array(1",
    ],
)
def test_what_a_function_does_not_take(call: str) -> None:
    with pytest.raises(StatesError) as raised:
        intrinsics.call(call, SIGHT)
    assert raised.value.error == "States.IntrinsicFailure"
    assert raised.value.cause is not None
    assert raised.value.cause.startswith(f"The function '{call}' had the following error: ")


def test_long_strings_are_refused() -> None:
    sight = Sight({"long": "x" * 10_001}, {}, {})
    for name in ("Base64Encode($.long)", "Base64Decode($.long)", "Hash($.long, 'MD5')"):
        with pytest.raises(StatesError):
            intrinsics.call(f"States.{name}", sight)


def test_a_path_that_finds_nothing_is_told_in_awss_words() -> None:
    with pytest.raises(StatesError) as raised:
        intrinsics.call("States.Array($.optional)", Sight({"required": 1}, {}, {}))
    assert (raised.value.error, raised.value.cause) == (
        "States.Runtime",
        "The function 'States.Array($.optional)' had the following error: The JsonPath argument for"
        " the field '$.optional' could not be found in the input '{\"required\":1}'",
    )


def test_a_template_is_filled_where_names_end_in_a_path() -> None:
    template = {
        "name.$": "$.name",
        "inner": {"run.$": "$$.Execution.Name", "kept": "$.name"},
        "list": [{"v.$": "$v.w[0]"}, "$.name"],
        "call.$": "States.Format('{}!', $.name)",
    }
    assert intrinsics.fill(template, SIGHT) == {
        "name": "Ada",
        "inner": {"run": "one", "kept": "$.name"},
        "list": [{"v": 7}, "$.name"],
        "call": "Ada!",
    }


def test_a_field_that_finds_nothing_is_told_in_awss_words() -> None:
    sight = Sight({"flagged": False}, {}, {})
    with pytest.raises(StatesError) as raised:
        intrinsics.fill({"in": {"address.$": "$.application.address"}}, sight)
    assert (raised.value.error, raised.value.cause) == (
        "States.Runtime",
        "The JSONPath '$.application.address' specified for the field 'address.$' could not be"
        " found in the input '{\"flagged\":false}'",
    )
