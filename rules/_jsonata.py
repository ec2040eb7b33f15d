"""JSONata in a state machine's definition, as Step Functions reads it when the machine is made.

Where jsonata-python is not installed, expressions are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

try:
    from jsonata.jexception import JException
    from jsonata.parser import Parser
except ImportError:  # nothing is said of expressions
    Parser: Any = None

# What JSONata 2.0.6 has, but $eval, and what Step Functions adds.
_FUNCTIONS = (
    "abs append assert average base64decode base64encode boolean ceil contains count"
    " decodeUrl decodeUrlComponent distinct each encodeUrl encodeUrlComponent error exists filter"
    " floor formatBase formatInteger formatNumber fromMillis join keys length lookup lowercase map"
    " match max merge millis min not now number pad parseInteger power reduce replace reverse round"
    " shuffle sift single sort split spread sqrt string substring substringAfter substringBefore"
    " sum toMillis trim type uppercase zip"
    " hash parse partition random range uuid"
)
FUNCTIONS = frozenset(_FUNCTIONS.split())
# Operators of JSONata 2.1, as the parser of 2.0.6 stumbles over them.
LATER = {
    "??": 'The symbol "?" cannot be used as a unary operator',
    "?:": 'The symbol ":" cannot be used as a unary operator',
}
# JSONata's own words where they name a token: the port leaves the quotes out.
QUOTED = {
    "S0201": 'Syntax error: "{}"',
    "S0202": 'Expected "{}", got "{}"',
    "S0203": 'Expected "{}" before end of expression',
    "S0204": 'Unknown operator: "{}"',
    "S0211": 'The symbol "{}" cannot be used as a unary operator',
}
# What is asked of each item, not of the whole: a name there is a field of the item.
OF_ITEMS = ("stages", "predicate", "group", "terms", "pattern", "update", "delete")
PARTS = (
    *("lhs", "rhs", "lhs_object", "rhs_object", "expression", "expressions", "expr", "condition"),
    *("then", "_else", "procedure", "arguments", "body"),
)


class Read(NamedTuple):
    """What an expression reads.

    error: why it does not parse, or None. names: fields and "$" read where nothing is before them,
    for Step Functions gives an expression no context. root: whether `$$` is read so. variables:
    names with neither `$` nor a meaning within the expression; states: the fields of `$states`.
    """

    error: str | None
    names: tuple[str, ...] = ()
    root: bool = False
    variables: tuple[str, ...] = ()
    states: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def read(expression: str) -> Read | None:
    """What is between `{%` and `%}`; None where it cannot be told."""
    if Parser is None:
        return None
    parser = Parser()
    for operator in LATER:
        parser.symbol_table.pop(operator, None)
    try:
        tree = parser.parse(expression)
        found = list(dict.fromkeys(_references(tree, True)))
        bound = set(_bound(tree))
    except JException as error:
        words = QUOTED.get(error.error, "").format(error.current, error.expected)
        return Read(words or str(error)) if error.error.startswith("S0") else None
    except KeyError as error:
        return Read(LATER[error.args[0]]) if error.args[0] in LATER else None
    except (AttributeError, IndexError, RecursionError, TypeError, ValueError):
        return None  # the port's own weakness

    def of(kind: str) -> tuple[str, ...]:
        return tuple(name for one, name in found if one == kind)

    variables = tuple(name for name in of("variable") if name not in bound)
    return Read(None, of("name"), bool(of("root")), variables, of("states"))


def _references(node: Any, top: bool) -> Iterator[tuple[str, str]]:
    """(kind, name) of what a node reads; top: whether it is asked of the missing context."""
    if isinstance(node, (list, tuple)):
        for one in node:
            yield from _references(one, top)
        return
    if not isinstance(node, Parser.Symbol):
        return
    if node.type == "name" and top:
        yield "name", node.value
    elif node.type == "variable":
        if node.value == "$":
            yield ("root", "$$") if top else ("item", "")
        elif node.value:
            yield "variable", node.value
        elif top:
            yield "name", "$"
    steps = getattr(node, "steps", None) or ()
    if len(steps) > 1 and (steps[0].type, steps[0].value) == ("variable", "states"):
        yield "states", steps[1].value if steps[1].type == "name" else ""
    for index, step in enumerate(steps):
        yield from _references(step, top and index == 0)
    for part in PARTS:
        yield from _references(getattr(node, part, None), top)
    for part in OF_ITEMS:
        yield from _references(getattr(node, part, None), False)


def _bound(node: Any) -> Iterator[str]:
    """The variables that an expression gives a meaning itself."""
    if isinstance(node, (list, tuple)):
        for one in node:
            yield from _bound(one)
        return
    if not isinstance(node, Parser.Symbol):
        return
    if node.type == "bind":
        yield node.lhs.value
    elif node.type == "lambda":
        yield from (one.value for one in node.arguments)
    for name in ("focus", "index"):
        if isinstance(value := getattr(node, name, None), str):
            yield value
    for part in (*PARTS, *OF_ITEMS, "steps"):
        yield from _bound(getattr(node, part, None))
