"""What AWS refuses, by API and by CloudFormation alike."""

import json
from collections.abc import Callable
from typing import Any


class Refused(ValueError):
    """AWS would refuse: its text, error code and HTTP status. A stack fails with the text."""

    def __init__(
        self, text: str, code: str = "InvalidParameterValueException", status: int = 400
    ) -> None:
        super().__init__(text)
        self.code, self.status = code, status

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """What a JSON service answers."""
        headers = {"Content-Type": "application/json", "x-amzn-errortype": self.code}
        body = json.dumps({"__type": self.code, "message": str(self)})
        return self.status, headers, body.encode()


def before(call: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    """The call of a JSON service, refused where `check` of the same arguments is Refused."""

    def checked(*arguments: Any, **named: Any) -> Any:
        try:
            check(*arguments, **named)
        except Refused as refused:
            return refused.answer()
        return call(*arguments, **named)

    return checked


def before_made(handler: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    """CloudFormation's handler of a type, failed where `check` of the same arguments is Refused."""

    def checked(*arguments: Any, **named: Any) -> Any:
        check(*arguments, **named)
        return handler(*arguments, **named)

    return checked
