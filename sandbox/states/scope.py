"""The variables of a workflow, and what a JSONPath field can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import paths
from .faults import runtime, text


class Scope:
    """Variables as a state sees them; what Assign gives holds from the next state on.

    A branch or an iteration reads the variables outside and writes its own only: AWS refuses a
    definition in which an inner name is an outer one.
    """

    def __init__(self, outer: Scope | None = None) -> None:
        self._outer, self._own = outer, {}

    def all(self) -> dict[str, Any]:
        """Every variable that can be read here, by its name."""
        return (self._outer.all() if self._outer else {}) | self._own

    def assign(self, values: dict[str, Any]) -> None:
        """Set variables of this scope."""
        if self._outer and (taken := self._outer.all().keys() & values):
            raise runtime(f"The variable '{min(taken)}' belongs to an outer scope.")
        self._own |= values


@dataclass(frozen=True)
class Sight:
    """What the paths of a JSONPath field can see: a document ($), the context ($$), variables."""

    document: Any
    context: dict[str, Any]
    variables: dict[str, Any]

    def of(self, document: Any) -> Sight:
        """The same with another document."""
        return Sight(document, self.context, self.variables)

    def look(self, path: str) -> Any:
        """What a path comes to. paths.PathError if it finds nothing."""
        parsed = paths.parse(path)
        return parsed.read(self._root(parsed.root))

    def source(self, path: str) -> Any:
        """The value that a path starts from; None where there is no such variable."""
        try:
            return self._root(paths.parse(path).root)
        except paths.PathError:
            return None

    def _root(self, root: str) -> Any:
        if root in {"$", "$$"}:
            return self.document if root == "$" else self.context
        if (name := root[1:]) not in self.variables:
            raise paths.PathError(f"No results for path: {root}")
        return self.variables[name]

    def filter(self, path: str) -> Any:
        """What InputPath, OutputPath, ItemsPath and the like select."""
        try:
            return self.look(path)
        except paths.PathError as problem:
            raise runtime(f"Invalid path '{path}' : {problem}") from None

    def field(self, path: str, field: str) -> Any:
        """What a field of a payload template comes to."""
        try:
            return self.look(path)
        except paths.PathError:
            raise runtime(
                f"The JSONPath '{path}' specified for the field '{field}' could not be found"
                f" in the input '{text(self.source(path))}'"
            ) from None
