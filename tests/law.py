"""What is said when a stack breaks a law: which resource, which law, why, and how to leave it out.

A law is a test in tests/test_patterns.py. Its name says what must hold, its docstring why; where
it looks at resources one by one, the name of the one at hand is `logical_id`.
"""

from __future__ import annotations

import inspect
from types import FunctionType, TracebackType


def sentence(law: FunctionType, error: BaseException, pattern: str = "") -> str:
    """The lines for whoever broke a law.

    law: the test. error: what it raised, with its traceback. pattern: whose stack it looked at.
    """
    resource = resource_at(error.__traceback__)
    where = f"{resource} in {pattern}".removesuffix(" in ") if resource else pattern or "a stack"
    name = law.__name__.removeprefix("test_").replace("_", " ")
    why = " ".join(inspect.cleandoc(law.__doc__ or "").split())
    file = inspect.getsourcefile(law) or ""
    return "\n".join(
        (
            f"{where} breaks the law “{name}”: {what(error)}",
            *([f"Why: {why}"] if why else []),
            f"If it is not your law, delete {law.__name__} in tests/{file.rpartition('/')[2]}.",
        )
    )


def resource_at(traceback: TracebackType | None) -> str:
    """The logical id of the resource that was looked at last; "" if none was."""
    found = ""
    while traceback:
        if isinstance(one := traceback.tb_frame.f_locals.get("logical_id"), str):
            found = one
        traceback = traceback.tb_next
    return found


def what(error: BaseException) -> str:
    """What is wrong, as far as the error tells."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}." if error.args else "something is missing."
    if isinstance(error, AssertionError):
        return "\n    ".join(str(error).splitlines()) or "what must hold does not."
    text = " ".join(str(error).split())
    return f"what stands there has another form than the law knows ({text})."
