"""What Step Functions' API refuses, and what may be asked of it twice."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from botocore.config import Config

from tests.sandbox.checks.definitions import PASS, refused
from tests.sandbox.checks.stepfunctions import ended, machine, role_that_may, run
from tests.sandbox.cloud import Clients

AWS = "arn:aws:states:us-east-1:000000000000"
WAITS = {"Type": "Wait", "Seconds": 3600}
FAILS = {"StartAt": "A", "States": {"A": {"Type": "Fail", "Error": "Mine", "Cause": "why"}}}


def express(client: Clients, definition: Any = PASS) -> str:
    """The ARN of an Express machine."""
    return client("stepfunctions").create_state_machine(
        name=f"machine-{uuid.uuid4().hex[:8]}",
        definition=json.dumps(definition),
        roleArn=role_that_may(client),
        type="EXPRESS",
    )["stateMachineArn"]


def stepfunctions_api__again(client: Clients) -> bool:
    """Starting what runs, making what is there and deleting what is gone answer as the first."""
    sfn, arn = client("stepfunctions"), machine(client, WAITS)
    sent = {"stateMachineArn": arn, "name": "once", "input": '{"order": 1}'}
    first = sfn.start_execution(**sent)
    if refused(sfn.start_execution, **sent) != ("", ""):
        return False
    again, activity = sfn.start_execution(**sent), f"pack-{uuid.uuid4().hex[:8]}"
    other = refused(sfn.start_execution, **sent | {"input": "{}"})
    sfn.stop_execution(executionArn=first["executionArn"])
    taken = refused(sfn.start_execution, **sent)
    said = f"Execution Already Exists: '{first['executionArn']}'"
    made = [sfn.create_activity(name=activity) for _ in range(2)]
    for _ in range(2):
        sfn.delete_activity(activityArn=made[0]["activityArn"])
        sfn.delete_state_machine(stateMachineArn=arn)
    return (
        (again["executionArn"], again["startDate"]) == (first["executionArn"], first["startDate"])
        and other == taken == ("ExecutionAlreadyExists", said)
        and made[0]["creationDate"] == made[1]["creationDate"]
    )


def stepfunctions_api__refused(client: Clients) -> bool:
    """AWS's codes and words, most of them recorded."""
    sfn, arn = client("stepfunctions"), machine(client, {"Type": "Pass"})
    nobody = f"{AWS}:stateMachine:nobody"
    execution = f"{AWS}:execution:nobody:nothing"
    start = {"stateMachineArn": arn}
    unread = "Invalid State Machine Execution Input: "
    tokens = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')"
    least = "Member must have value less than or equal to 1000"
    expected = {
        (sfn.describe_state_machine, "stateMachineArn", "no_arn"): (
            "InvalidArn",
            "Invalid Arn: 'Invalid ARN prefix: no_arn'",
        ),
        (sfn.describe_state_machine, "stateMachineArn", nobody): (
            "StateMachineDoesNotExist",
            f"State Machine Does Not Exist: '{nobody}'",
        ),
        (sfn.list_executions, "stateMachineArn", nobody): (
            "StateMachineDoesNotExist",
            f"State Machine Does Not Exist: '{nobody}'",
        ),
        (sfn.describe_execution, "executionArn", execution): (
            "ExecutionDoesNotExist",
            f"Execution Does Not Exist: '{execution}'",
        ),
        (sfn.describe_activity, "activityArn", f"{AWS}:activity:nobody"): (
            "ActivityDoesNotExist",
            f"Activity Does Not Exist: '{AWS}:activity:nobody'",
        ),
        (sfn.create_activity, "name", "no name$"): ("InvalidName", "Invalid Name: 'no name$'"),
        (sfn.create_activity, "name", "x" * 81): ("InvalidName", f"Invalid Name: '{'x' * 81}'"),
        (sfn.list_state_machines, "maxResults", 1001): (
            "ValidationException",
            "1 validation error detected: Value '1001' at 'maxResults' failed to satisfy"
            f" constraint: {least}",
        ),
        (sfn.update_state_machine, "stateMachineArn", arn): (
            "MissingRequiredParameter",
            "Either the definition, the role ARN, the LoggingConfiguration, or the"
            " TracingConfiguration must be specified",
        ),
    }
    inputs = {
        "not JSON": f"{unread}'Unrecognized token 'not': was expecting {tokens}'",
        "{'a': 1}": f"{unread}'Unexpected character (''' (code 39)): was expecting double-quote to"
        " start field name'",
        "": f"{unread}'Invalid execution input.'",
    }
    return (
        all(
            refused(call, **{member: value}) == said
            for (call, member, value), said in expected.items()
        )
        and all(
            refused(sfn.start_execution, input=text, **start) == ("InvalidExecutionInput", said)
            for text, said in inputs.items()
        )
        and all(
            refused(sfn.start_execution, input=text, **start) == ("", "")
            for text in ("2", '"text"', "null", json.dumps("x" * 262_142))
        )
        and refused(sfn.start_execution, input=json.dumps("x" * 262_143), **start)[0]
        == "ValidationException"
    )


def stepfunctions_api__express(client: Clients) -> bool:
    """Executions of Express machines have their own ARNs, and are neither listed nor described."""
    sfn = client("stepfunctions", config=Config(inject_host_prefix=False))
    arn, standard = express(client), machine(client, {"Type": "Pass"})
    started = sfn.start_execution(stateMachineArn=arn, name="any")["executionArn"]
    form = rf"{AWS}:express:{arn.rpartition(':')[2]}:any:[0-9a-f-]{{36}}"
    if not re.fullmatch(form, started):
        return False
    again = sfn.start_execution(stateMachineArn=arn, name="any")["executionArn"]
    not_here = (
        "InvalidArn",
        "Invalid Arn: 'Resource type not valid in this context: express'",
    )
    no_type = (
        "StateMachineTypeNotSupported",
        "This operation is not supported by this type of state machine",
    )
    done = sfn.start_sync_execution(stateMachineArn=arn, input='{"a": 1}')
    failed = sfn.start_sync_execution(stateMachineArn=express(client, FAILS))
    return (
        started != again
        and refused(sfn.describe_execution, executionArn=started) == not_here
        and refused(sfn.stop_execution, executionArn=started) == not_here
        and refused(sfn.get_execution_history, executionArn=started) == not_here
        and refused(sfn.list_executions, stateMachineArn=arn) == no_type
        and refused(sfn.start_sync_execution, stateMachineArn=standard) == no_type
        and (done["status"], json.loads(done["output"])) == ("SUCCEEDED", {"a": 1})
        and done["billingDetails"]["billedMemoryUsedInMB"] == 64
        and done["billingDetails"]["billedDurationInMilliseconds"] % 100 == 0
        and (failed["error"], failed["cause"], "output" in failed) == ("Mine", "why", False)
    )


def stepfunctions_api__revisions(client: Clients) -> bool:
    """A machine has a revision from its first update on, and a new one by something new only."""
    sfn, arn = client("stepfunctions"), machine(client, {"Type": "Pass"})

    def update(role: str) -> str:
        return sfn.update_state_machine(stateMachineArn=arn, roleArn=role).get("revisionId", "")

    def described() -> dict[str, Any]:
        return sfn.describe_state_machine(stateMachineArn=arn)

    first, role, other = described(), role_that_may(client), role_that_may(client)
    revision = update(role)
    return (
        "revisionId" not in first
        and first["tracingConfiguration"] == {"enabled": False}
        and described()["revisionId"] == revision == update(role)
        and update(other) != revision
    )


def stepfunctions_api__failed(client: Clients) -> bool:
    """A failed execution has no output; one that runs has no end; a good one is not redriven."""
    sfn = client("stepfunctions")
    fails = sfn.create_state_machine(
        name=f"machine-{uuid.uuid4().hex[:8]}",
        definition=json.dumps(FAILS),
        roleArn=role_that_may(client),
    )["stateMachineArn"]
    failed, done = run(client, fails), run(client, machine(client, {"Type": "Pass"}))
    waits = sfn.start_execution(stateMachineArn=machine(client, WAITS))["executionArn"]
    running = sfn.describe_execution(executionArn=waits)
    sfn.stop_execution(executionArn=waits)
    stopped = ended(client, waits)
    return (
        (failed["error"], failed["cause"]) == ("Mine", "why")
        and not {"output", "outputDetails"} & {*failed, *running, *stopped}
        and "stopDate" not in running
        and done["redriveStatusReason"] == "Execution is SUCCEEDED and cannot be redriven"
        and (failed["redriveStatus"], failed["redriveCount"]) == ("REDRIVABLE", 0)
    )


def stepfunctions_api__pages(client: Clients) -> bool:
    """A list has 100 entries a page, sorted by name, and a token leads on."""
    sfn, prefix = client("stepfunctions"), f"page-{uuid.uuid4().hex[:8]}"
    made = [sfn.create_activity(name=f"{prefix}-{n:03}")["activityArn"] for n in range(101)]
    page = sfn.list_activities()
    sizes, names = [len(page["activities"])], [one["name"] for one in page["activities"]]
    while token := page.get("nextToken"):
        page = sfn.list_activities(nextToken=token)
        sizes.append(len(page["activities"]))
        names += [one["name"] for one in page["activities"]]
    for arn in made:
        sfn.delete_activity(activityArn=arn)
    mine = [name for name in names if name.startswith(prefix)]
    return sizes[0] == 100 and len(sizes) > 1 and len(mine) == 101 and names == sorted(names)
