"""JSONPath as Step Functions reads it."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.states import paths

DOCUMENT = {
    "a": {"b": [1, 2, {"c": None}]},
    "items": [{"p": 1, "n": "x"}, {"p": 5, "n": "y"}, {"n": "z"}],
    "s": "text",
    "x y": 3,
    "store-name": 4,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", DOCUMENT),
        ("$.s", "text"),
        ("$['s']", "text"),
        ('$["x y"]', 3),
        ("$.store-name", 4),
        ("$.a.b[0]", 1),
        ("$.a.b[-1].c", None),
        ("$.a['b'][1]", 2),
        ("$['s','x y']", {"s": "text", "x y": 3}),
    ],
)
def test_a_definite_path_comes_to_one_value(path: str, value: Any) -> None:
    assert paths.parse(path).definite
    assert paths.parse(path).read(DOCUMENT) == value


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("$.items[*].n", ["x", "y", "z"]),
        ("$.items[0:2].n", ["x", "y"]),
        ("$.items[1:].n", ["y", "z"]),
        ("$.items[:-1].n", ["x", "y"]),
        ("$.items[-2:].n", ["y", "z"]),
        ("$.a.b[0,1]", [1, 2]),
        ("$..p", [1, 5]),
        ("$..b[0]", [1]),
        ("$.a.*", [[1, 2, {"c": None}]]),
        ("$..missing", []),
        ("$.items[?(@.p)].n", ["x", "y"]),
        ("$.items[?(!(@.p))].n", ["z"]),
        ("$.items[?(@.p == 1)].n", ["x"]),
        ("$.items[?(@.p != 1)].n", ["y", "z"]),
        ("$.items[?(@.p > 1)].n", ["y"]),
        ("$.items[?(@.p >= 1 && @.n == 'y')].n", ["y"]),
        ("$.items[?(@.p < 2 || @.n == 'z')].n", ["x", "z"]),
        ("$.items[?((@.p < 2 || @.p > 4) && @.n != 'x')].n", ["y"]),
        ("$.items[?(@.n in ['x', 'z'])].n", ["x", "z"]),
        ("$.items[?(@.n nin ['x', 'z'])].n", ["y"]),
        ("$.items[?(@.n =~ /[X-Y]/i)].n", ["x", "y"]),
        ("$.items[?(@.p == $.a.b[0])].n", ["x"]),
        ("$.items[?(@['p'] == 5)]", [{"p": 5, "n": "y"}]),
        ("$.items[?(@.p == 9)]", []),
        ("$.items[?(@.p == '1')]", []),
        ("$.items[?(@.p > 'a')]", []),
        ("$.a[?(@.b size 3)].b[0]", [1]),
    ],
)
def test_any_other_path_comes_to_all_matches(path: str, values: list[Any]) -> None:
    assert not paths.parse(path).definite
    assert paths.parse(path).read(DOCUMENT) == values


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("$.z", "No results for path: $['z']"),
        ("$.a.b[5]", "No results for path: $['a']['b'][5]"),
        ("$.z.y", "Missing property in path $['z']"),
        ("$.z[*]", "Missing property in path $['z']"),
        ("$.s.q", "Missing property in path $['s']['q']"),
        ("$.s[0]", "$['s'] is no array"),
    ],
)
def test_what_a_definite_part_needs_must_be_there(path: str, problem: str) -> None:
    with pytest.raises(paths.PathError) as raised:
        paths.parse(path).read(DOCUMENT)
    assert str(raised.value) == problem


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "$.",
        "$.a[",
        "$.a['b",
        "$.a[x]",
        "$.items.length()",
        "$.items[(@.length-1)]",
        "$.a b",
    ],
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(paths.PathError):
        paths.parse(path)


@pytest.mark.parametrize(
    ("path", "root"), [("$.a", "$"), ("$$.Execution.Id", "$$"), ("$v.a", "$v")]
)
def test_a_path_says_what_it_starts_from(path: str, root: str) -> None:
    assert paths.parse(path).root == root


@pytest.mark.parametrize(
    ("path", "document", "result"),
    [
        ("$", {"a": 1}, "new"),
        ("$.b", {"a": 1}, {"a": 1, "b": "new"}),
        ("$.a", {"a": 1}, {"a": "new"}),
        ("$.a.b.c", {}, {"a": {"b": {"c": "new"}}}),
        ("$['a b'].c", {"x": 0}, {"x": 0, "a b": {"c": "new"}}),
        ("$.l[1]", {"l": [1, 2]}, {"l": [1, "new"]}),
    ],
)
def test_put_makes_a_copy_with_a_value_in_it(path: str, document: Any, result: Any) -> None:
    before = repr(document)
    assert paths.put(paths.parse(path), document, "new") == result
    assert repr(document) == before


@pytest.mark.parametrize(
    ("path", "document"),
    [("$.a", "text"), ("$.a.b", {"a": 1}), ("$.a[2]", {"a": [1]}), ("$.a[*]", {"a": [1]})],
)
def test_put_needs_somewhere_to_put_it(path: str, document: Any) -> None:
    with pytest.raises(paths.PathError):
        paths.put(paths.parse(path), document, "new")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (None, None, True),
        ([1, {"a": 1}], [1, {"a": 1}], True),
        ([True], [1], False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
    ],
)
def test_equality_is_that_of_json(left: Any, right: Any, same: bool) -> None:
    assert paths.equal(left, right) is same
