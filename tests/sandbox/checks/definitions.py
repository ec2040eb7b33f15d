"""What Step Functions refuses to make, by API and by CloudFormation."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from tests.sandbox.checks.stepfunctions import let, role_that_may
from tests.sandbox.cloud import Clients, soon

PASS = {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}
NOWHERE = {"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "B"}, "C": {"Type": "Succeed"}}}
SAID = (
    "Invalid State Machine Definition: 'MISSING_TRANSITION_TARGET: Missing 'Next' target: B at"
    ' /States/A/Next, MISSING_TRANSITION_TARGET: State "C" is not reachable. at /States/C\''
)
CHILD = {
    "Type": "Task",
    "Resource": "arn:aws:states:::states:startExecution.sync:2",
    "Parameters": {"StateMachineArn": "arn:aws:states:us-east-1:000000000000:stateMachine:child"},
    "End": True,
}


def refused(call: Callable[..., Any], **sent: Any) -> tuple[str, str]:
    """AWS's error code and words; nothing where a call is taken."""
    try:
        call(**sent)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["Error"]["Message"]
    return "", ""


def making(client: Clients, definition: Any, role: str, **more: Any) -> tuple[str, str]:
    """What comes of making a machine."""
    text = definition if isinstance(definition, str) else json.dumps(definition)
    name = f"machine-{uuid.uuid4().hex[:8]}"
    sent = {"name": name, "definition": text, "roleArn": role} | more
    return refused(client("stepfunctions").create_state_machine, **sent)


def stack(client: Clients, **properties: Any) -> str:
    """How a new stack of one machine ends, with the reason if it fails."""
    cloudformation, name = client("cloudformation"), f"gap-{uuid.uuid4().hex[:8]}"
    machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}
    body = json.dumps({"Resources": {"Machine": machine}})
    cloudformation.create_stack(StackName=name, TemplateBody=body, OnFailure="DO_NOTHING")

    def status() -> str:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]

    assert soon(lambda: not status().endswith("_IN_PROGRESS"))
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
    reasons = [
        one.get("ResourceStatusReason", "")
        for one in events
        if one["ResourceStatus"] == "CREATE_FAILED"
    ]
    return " ".join([status(), *reasons])


def stepfunctions_definitions__refused(client: Clients) -> bool:
    """A definition that leads nowhere is not made, nor put in the place of another."""
    sfn, role = client("stepfunctions"), role_that_may(client)
    expected = ("InvalidDefinition", SAID)
    if making(client, NOWHERE, role) != expected:
        return False
    arn = sfn.create_state_machine(
        name=f"machine-{uuid.uuid4().hex[:8]}", definition=json.dumps(PASS), roleArn=role
    )["stateMachineArn"]
    sent = {"stateMachineArn": arn, "definition": json.dumps(NOWHERE)}
    task = {"Type": "Task", "Resource": "${Charge}", "End": True}
    forgotten = {"StartAt": "Charge", "States": {"Charge": task}}
    return (
        refused(sfn.update_state_machine, **sent) == expected
        and SAID in stack(client, RoleArn=role, Definition=NOWHERE)
        and "The resource provided ${Charge} is not recognized"
        in stack(client, RoleArn=role, DefinitionString=json.dumps(forgotten))
    )


def stepfunctions_definitions__express(client: Clients) -> bool:
    """An Express machine waits for nobody: AWS's words, which were recorded."""
    role = role_that_may(client, "states:StartExecution", "events:PutRule")
    definition = {"StartAt": "Job", "States": {"Job": CHILD}}
    return making(client, definition, role, type="EXPRESS") == (
        "InvalidDefinition",
        "Invalid State Machine Definition: 'SCHEMA_VALIDATION_FAILED: Express state machine does"
        " not support '.sync' service integration at /States/Job/Resource'",
    )


def stepfunctions_definitions__validated(client: Clients) -> bool:
    """What is wrong is told without a machine, and warnings where they are asked for."""
    validate = client("stepfunctions").validate_state_machine_definition
    answer = validate(definition=json.dumps({"StartAt": "A"}))
    expected = {
        "severity": "ERROR",
        "code": "SCHEMA_VALIDATION_FAILED",
        "message": "These fields are required: [States]",
        "location": "/",
    }
    if (answer["result"], answer["diagnostics"]) != ("FAIL", [expected]):
        return False
    state = {"Type": "Pass", "Parameters": {"order": "$.order.id"}, "End": True}
    text = json.dumps({"StartAt": "A", "States": {"A": state}})
    quiet, loud = validate(definition=text), validate(definition=text, severity="WARNING")
    return (quiet["result"], quiet["diagnostics"]) == ("OK", []) and [
        (one["severity"], one["code"]) for one in loud["diagnostics"]
    ] == [("WARNING", "NO_DOLLAR")]


def stepfunctions_definitions__role(client: Clients) -> bool:
    """A role that Step Functions may not assume makes no machine; one for the Region's does."""
    iam = client("iam")

    def role(service: str, account: str = "000000000000") -> str:
        trust = {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": service},
            "Condition": {"StringEquals": {"aws:SourceAccount": account}},
        }
        return iam.create_role(
            RoleName=f"role-{uuid.uuid4().hex[:8]}",
            AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}),
        )["Role"]["Arn"]

    code, said = making(client, PASS, role("lambda.amazonaws.com"))
    absent, _ = making(client, PASS, "arn:aws:iam::000000000000:role/nobody")
    another, _ = making(client, PASS, role("states.amazonaws.com", "111122223333"))
    return (
        code == absent == another == "AccessDeniedException"
        and "authorized to assume the provided role" in said
        and making(client, PASS, role("states.us-east-1.amazonaws.com")) == ("", "")
        and "assume the provided role"
        in stack(client, RoleArn=role("lambda.amazonaws.com"), Definition=PASS)
    )


def stepfunctions_definitions__logs(client: Clients) -> bool:
    """Logs need one log group, which is there, and a role that may deliver to it."""
    group = f"/states/{uuid.uuid4().hex[:8]}"
    client("logs").create_log_group(logGroupName=group)
    able = role_that_may(client, "logs:*")
    trust = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": "states.amazonaws.com"},
        "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:states:*:*:stateMachine:*"}},
    }
    client("iam").update_assume_role_policy(
        RoleName=able.rpartition("/")[2], PolicyDocument=json.dumps({"Statement": [trust]})
    )

    def logs(*names: str) -> dict[str, Any]:
        arns = [f"arn:aws:logs:us-east-1:000000000000:log-group:{name}:*" for name in names]
        return {
            "level": "ALL",
            "destinations": [{"cloudWatchLogsLogGroup": {"logGroupArn": arn}} for arn in arns],
        }

    def made(role: str, *names: str) -> tuple[str, str]:
        return making(client, PASS, role, loggingConfiguration=logs(*names))

    invalid = "InvalidLoggingConfiguration"
    return (
        made(able, group) == ("", "")
        and made(able) == made(able, group, group)
        and made(able)[0] == made(able, "/states/none")[0] == invalid
        and made(role_that_may(client, "logs:CreateLogDelivery"), group)
        == (
            "AccessDeniedException",
            "The state machine IAM Role is not authorized to access the Log Destination",
        )
    )


def stepfunctions_definitions__managed_rule(client: Clients) -> bool:
    """Who waits for a job needs a rule: without the right to make it there is no machine."""
    role, definition = role_that_may(client), {"StartAt": "Job", "States": {"Job": CHILD}}
    let(client, role, "states:StartExecution")
    expected = ("AccessDeniedException", f"'{role}' is not authorized to create managed-rule.")
    if making(client, definition, role) != expected:
        return False
    let(client, role, "events:PutTargets", "events:PutRule", "events:DescribeRule")
    return making(client, definition, role) == ("", "")


def stepfunctions_definitions__names(client: Clients) -> bool:
    """CloudFormation makes no machine whose name is none or is taken."""
    name, role = f"machine-{uuid.uuid4().hex[:8]}", role_that_may(client)
    given = {"RoleArn": role, "Definition": PASS | {"TimeoutSeconds": 60}}
    return (
        "Invalid Name: 'no name'" in stack(client, StateMachineName="no name", **given)
        and stack(client, StateMachineName=name, **given) == "CREATE_COMPLETE"
        and "State Machine Already Exists" in stack(client, StateMachineName=name, **given)
    )


def stepfunctions_definitions__beyond(client: Clients) -> bool:
    """What AWS can run and the sandbox cannot fails when it is deployed, in one line."""
    task = {"Type": "Task", "Resource": "arn:aws:states:::glue:startJobRun", "End": True}
    definition = {"StartAt": "Job", "States": {"Job": task}}
    said = stack(client, RoleArn=role_that_may(client), Definition=definition)
    return "The sandbox cannot run glue:startJobRun at /States/Job; AWS can" in said
