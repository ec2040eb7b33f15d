"""What a handler may meet: hostile messages, and calls of AWS that fail at every moment."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

SECRET = "4111-secret-of-the-sender"
SIZE = 900_000  # characters: SQS takes 1 MiB
# Times its size: what a message may take. An empty object of JSON is three characters with its
# comma, and 64 bytes in Python: so much takes whatever reads it.
MEMORY = 30
MODULES = 4 * 2**20  # bytes that libraries take once, whatever comes


def messages(valid: dict[str, Any], text: str, number: str) -> dict[str, str]:
    """Messages that are none, by what is odd about them.

    valid: an understood message. text, number: its fields of that kind, not in a list.
    """

    def but(**changes: Any) -> str:
        return json.dumps(valid | changes)

    raw = json.dumps(valid)
    found = {
        "no JSON": SECRET,
        "a list": json.dumps([valid]),
        "deep": "[" * SIZE,
        "many lists": "[" + "{}," * (SIZE // 3) + "{}]",
        "many fields": json.dumps({f"{SECRET}-{n}": n for n in range(SIZE // 40)}),
        "a long text": but(**{text: SECRET * (SIZE // len(SECRET))}),
        "a text that is no Unicode": but(**{text: "\ud800" + SECRET}),
        "an empty text": but(**{text: ""}),
        "a number for a text": but(**{text: 7}),
        "an object for a text": but(**{text: {SECRET: SECRET}}),
    }
    if number:
        found |= {
            "true for a number": but(**{number: True}),
            "a text for a number": but(**{number: " 7 "}),
            "a number of many digits": but(**{number: 10**40}),
            "a number without end": raw.replace(f'"{number}": ', f'"{number}": {"9" * 5000}'),
            "a number that is none": but(**{number: float("nan")}),
            "a negative number": but(**{number: -1}),
        }
    if "items" in valid:
        item = valid["items"][0]
        found |= {
            "many wrong items": but(items=[{}] * (SIZE // 3)),
            "many items with many fields": but(items=[{SECRET: SECRET}] * (SIZE // 60)),
            "true for a quantity": but(items=[item | {"quantity": True}]),
            "a text for a quantity": but(items=[item | {"quantity": "3"}]),
            "a quantity of many digits": but(items=[item | {"quantity": 10**40}]),
            "none of an item": but(items=[item | {"quantity": 0}]),
            "no items": but(items=[]),
        }
    return found


def names(valid: dict[str, Any], text: str, number: str = "") -> Any:
    """Parametrizes a test over the messages: `message`."""
    found = messages(valid, text, number)
    return pytest.mark.parametrize("message", list(found.values()), ids=list(found))


def peak(call: Callable[[], Any]) -> tuple[Any, int]:
    """(what the call returned, the most bytes that it held at once)."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def handled(call: Callable[[], Any], message: str, log: Any) -> Any:
    """What a handler returned for a batch with a hostile message; it took and told little."""
    call()  # what is made once, such as a validator, is not the message's
    answer, most = peak(call)
    assert most < MODULES + MEMORY * len(message), f"{most / len(message):.0f} times its size"
    told = log.getvalue()
    assert SECRET not in told
    assert len(told) < 60_000, f"{len(told)} characters in the log"
    return answer


# ---- faults


def refused(code: str, status: int = 400) -> ClientError:
    """What a client raises when AWS answers with an error."""
    answer: Any = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(answer, "Call")


FAULTS = {
    "throttled": refused("ThrottlingException"),
    "refused": refused("AccessDeniedException"),
    "failed": refused("InternalServerError", 500),
    "not reached": EndpointConnectionError(endpoint_url="https://aws"),
    "without an answer": ReadTimeoutError(endpoint_url="https://aws"),
    "answered oddly": KeyError("Attributes"),
}
faults = pytest.mark.parametrize("fault", list(FAULTS.values()), ids=list(FAULTS))
moments = pytest.mark.parametrize("moment", ["before", "after"])


class Faulty:
    """A client whose `call` fails once, the nth time: before it has an effect, or after it."""

    def __init__(self, client: Any, call: str, nth: int, fault: Exception, moment: str) -> None:
        self._client, self._call, self._left = client, call, nth
        self._fault, self._moment = fault, moment

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name != self._call:
            return found

        def call(**words: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                if self._moment == "after":
                    found(**words)
                raise self._fault
            return found(**words)

        return call


# ---- bounds


def bounded(
    understood: Callable[[dict[str, Any]], bool],
    valid: dict[str, Any],
    **bounds: tuple[int, int],
) -> None:
    """Each field takes its least and its most and not one step beyond.

    bounds: of a text's characters, of a number, or of a list's items; item__field: of the items.
    """
    for name, (least, most) in bounds.items():
        of_item, _, field = name.rpartition("__")
        before = valid["items"][0][field] if of_item else valid[field]
        for size in (least - 1, least, most, most + 1):
            value: Any = size
            if isinstance(before, str):
                value = "x" * size
            elif isinstance(before, list):
                value = before[:1] * size
            changed = {field: value}
            if of_item:
                changed = {"items": [valid["items"][0] | changed]}
            assert understood(valid | changed) == (least <= size <= most), (name, size)


def accepts(error: type[Exception], parse: Callable[[Any], Any]) -> Callable[[Any], bool]:
    """Whether a parser takes an input, which it refuses by this error."""

    def understood(given: Any) -> bool:
        try:
            parse(given)
        except error:
            return False
        return True

    return understood
