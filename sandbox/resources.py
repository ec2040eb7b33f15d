"""What CloudFormation still has to do for a resource that MiniStack's own handlers make.

MiniStack 1.5.33 drops properties of many types. A gap that gives one its due asks here.
"""

from collections.abc import Callable
from typing import Any

from ministack.services.cloudformation import provisioners

# For the PATCHES of a gap that asks.
NEEDS = ("services.cloudformation.provisioners._RESOURCE_HANDLERS",)


def finish(kind: str, keep: Callable[[str, dict[str, Any]], None]) -> None:
    """Call `keep` with the physical id and the properties of each such resource made or updated."""
    handlers = provisioners._RESOURCE_HANDLERS[kind]
    for verb, properties_at in (("create", 1), ("update", 2)):
        if verb in handlers:
            handlers[verb] = _then(handlers[verb], properties_at, keep)


def _then(handler: Any, properties_at: int, keep: Callable[[str, dict[str, Any]], None]) -> Any:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = handler(*arguments, **named)
        keep(result[0], arguments[properties_at])
        return result

    return wrapped
