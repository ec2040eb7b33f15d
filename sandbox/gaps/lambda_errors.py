"""How a Python function's failure is called, and a worker that outlives it.

Seen in MiniStack 1.5.33: whatever a function raises is reported as Runtime.HandlerError without a
stack trace, a module that cannot be imported as RuntimeError, an answer that is no JSON as
TypeError. So Retry and Catch of a workflow cannot tell a declined card from a payment service that
is down; and the worker is ended, so that every failed call costs a cold start. Here the worker
reports class, message and stack trace as Lambda's own runtime for Python does, and stays; it writes
decimal numbers as that does, too. One that failed to import its module tries again when called.
"""

from ministack.core import lambda_runtime
from ministack.services import lambda_svc

PATCHES = (
    "core.lambda_runtime._PYTHON_WORKER_SCRIPT",
    "services.lambda_svc._execute_function_warm",
)

RAISED = "gaps.lambda_errors"
RUNTIME = '''
import decimal

def _fault(name, text):
    return type("Runtime." + name, (Exception,), {})(text)

def _import_handler(module, name):
    """A module's handler, or one that fails as its import has."""
    try:
        if not name:
            raise _fault(
                "MalformedHandlerName",
                f"Bad handler '{module}': not enough values to unpack (expected 2, got 1)",
            )
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise _fault("ImportModuleError", f"Unable to import module '{module}': {error}")
        except SyntaxError as error:
            raise _fault("UserCodeSyntaxError", f"Syntax error in module '{module}': {error}")
        if not hasattr(found, name):
            raise _fault("HandlerNotFound", f"Handler '{name}' missing on module '{module}'")
        return getattr(found, name)
    except Exception as error:
        failed = [error]

    def fail(event, context):
        if failed:
            raise failed.pop()
        return _import_handler(module, name)(event, context)  # as a new environment would

    return fail

def _number(value):
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

def _marshalled(answer):
    try:
        return json.dumps(answer, default=_number)
    except Exception as error:
        raise _fault("MarshalError", f"Unable to marshal response: {error}")

def run():
'''
CHANGES = {
    "\ndef run():\n": RUNTIME,
    "        mod = importlib.import_module(module_name)\n": "",
    "getattr(mod, handler_name)": "_import_handler(module_name, handler_name)",
    'json.dumps({"status": "ok", "result": result})': (
        '_marshalled({"status": "ok", "result": result})'
    ),
    '{"status": "error", "error": str(e), "trace": traceback.format_exc()}': (
        '{"status": "ok", "result": {"' + RAISED + '": {"errorMessage": str(e),'
        ' "errorType": type(e).__name__, "requestId": context.aws_request_id,'
        ' "stackTrace": [] if type(e).__name__.startswith("Runtime.")'
        ' else traceback.format_tb(e.__traceback__)[1:], "log": traceback.format_exc()}}}'
    ),
}


def close() -> None:
    """Let the worker answer with what was raised, and turn that answer into a failed call."""
    for stock, ours in CHANGES.items():
        if lambda_runtime._PYTHON_WORKER_SCRIPT.count(stock) != 1:
            raise SystemExit("MiniStack's Python worker is made in another way: lambda_errors")
        lambda_runtime._PYTHON_WORKER_SCRIPT = lambda_runtime._PYTHON_WORKER_SCRIPT.replace(
            stock, ours
        )
    execute_stock = lambda_svc._execute_function_warm

    def execute(func: dict, event: dict, request_id: str) -> dict:
        config = func.get("config") or func
        if str(config.get("Runtime")).startswith("python") and "." not in config["Handler"]:
            func = {**func, "config": {**config, "Handler": f"{config['Handler']}."}}
        result = execute_stock(func, event, request_id)
        body = result.get("body")
        if result.get("error") and isinstance(body, dict):
            return {**result, "body": _named(body, request_id)}
        if not (isinstance(body, dict) and RAISED in body):
            return result
        error = body[RAISED]
        log = "\n".join(filter(None, [result.get("log", ""), error.pop("log")]))
        return {"body": error, "error": True, "log": log}

    lambda_svc._execute_function_warm = execute


def _named(error: dict, request_id: str) -> dict:
    """What Lambda itself says of an environment that has ended."""
    kind, said = error.get("errorType"), error.get("errorMessage")
    if said == "Worker process died":
        kind, said = "Runtime.ExitError", "Runtime exited with error: exit status 1"
    elif kind != "Sandbox.Timedout":
        return error
    return {"errorType": kind, "errorMessage": f"RequestId: {request_id} Error: {said}"}
