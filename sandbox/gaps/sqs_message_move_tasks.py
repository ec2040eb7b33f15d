"""A dead-letter queue is redriven: message move tasks are started, listed and cancelled.

Seen in MiniStack 1.5.33: StartMessageMoveTask, ListMessageMoveTasks and CancelMessageMoveTask are
"not valid for this endpoint". Here, as on AWS, a task moves what waited in the dead-letter queue
when it started, oldest first, no faster than asked, to each message's own source or to the
destination given; one task at a time for each queue; a moved message is a new one, with a new id.
The caller needs what AWS's guide lists: on the dead-letter queue the action itself and
ReceiveMessage, DeleteMessage and GetQueueAttributes, on the destination SendMessage. Without the
former the call is refused here, without the latter the task fails: the guide says "can fail" of
both, and nothing of messages that arrive while a task runs.

A task keeps the wall clock's time, not the faster one of sqs_clock: its velocity limit protects
consumers, which are no faster here.
"""

import base64
import contextvars
import json
import threading
import time

import roles
from ministack.core import iam_actions, iam_evaluator
from ministack.core.responses import new_uuid
from ministack.services import sqs

PATCHES = (
    "services.sqs._HANDLERS",
    "services.sqs._Err",
    "services.sqs._act_send_message",
    "services.sqs._queue_by_arn",
    "services.sqs._queues",
    "services.sqs._queues_lock",
    "core.iam_actions.extract_resource_arn",
    "core.iam_evaluator.caller_arn",
    "core.iam_evaluator.pin_request_origin",
    *roles.NEEDS,
)

ACTIVE = ("RUNNING", "CANCELLING")
MOVES = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
FASTEST = 500  # messages a second


def close() -> None:
    """Answer the three actions, and let IAM see which queue they are about."""
    sqs._HANDLERS.update(
        StartMessageMoveTask=start, ListMessageMoveTasks=list_, CancelMessageMoveTask=cancel
    )
    stock = iam_actions.extract_resource_arn

    def resource_arn(service: str, method: str, path: str, headers: dict, body: bytes, *rest):
        if service == "sqs" and headers.get("x-amz-target", "").endswith(("MoveTask", "MoveTasks")):
            data = json.loads(body or b"{}")
            return data.get("SourceArn") or handle(data.get("TaskHandle", ""))[1] or "*"
        return stock(service, method, path, headers, body, *rest)

    iam_actions.extract_resource_arn = resource_arn


def handle(text: str) -> tuple[str, str]:
    """The task's id and source in a TaskHandle; empty if it is none."""
    try:
        found = json.loads(base64.b64decode(text, validate=True))
        return found["taskId"], found["sourceArn"]
    except (ValueError, KeyError, TypeError):
        return "", ""


def dead_letter_queue(arn: str, *actions: str) -> dict:
    """The queue with this ARN, if the caller may do all these actions on it."""
    queue = sqs._queue_by_arn(arn)
    if queue is None:
        raise sqs._Err("ResourceNotFoundException", missing("SourceArn"), 404)
    caller = iam_evaluator.caller_arn()
    for action in actions:
        if not roles.permits(caller, action, arn):
            raise sqs._Err(
                "AccessDenied",
                f"User: {caller} is not authorized to perform: {action} on resource: {arn}",
                403,
            )
    return queue


def missing(parameter: str) -> str:
    """AWS's words for an ARN of nothing."""
    return f"The resource that you specified for the {parameter} parameter doesn't exist."


def start(data: dict, _url: str) -> dict:
    """Begin to move messages; the answer does not wait for the first."""
    arn, to = data.get("SourceArn", ""), data.get("DestinationArn")
    source = dead_letter_queue(arn, "sqs:StartMessageMoveTask", *MOVES)
    policies = [queue["attributes"].get("RedrivePolicy") for queue in sqs._queues.values()]
    if arn not in [json.loads(policy)["deadLetterTargetArn"] for policy in policies if policy]:
        raise sqs._Err(
            "InvalidParameterValue", "Source queue must be configured as a Dead Letter Queue."
        )
    if to and sqs._queue_by_arn(to) is None:
        raise sqs._Err("ResourceNotFoundException", missing("DestinationArn"), 404)
    pace = data.get("MaxNumberOfMessagesPerSecond")
    if pace is not None and not 1 <= pace <= FASTEST:
        raise sqs._Err(
            "InvalidParameterValue",
            f"Value for parameter MaxNumberOfMessagesPerSecond is invalid: 1 to {FASTEST}.",
        )
    tasks = source.setdefault("move_tasks", [])  # newest first; gone with the queue
    if tasks and tasks[0]["Status"] in ACTIVE:
        raise sqs._Err(
            "InvalidParameterValue",
            "There is already a task running. Only one active task is allowed for a source queue"
            " arn at a given time.",
        )
    now = sqs.time.time()
    waiting = [message["id"] for message in source["messages"] if message["visible_at"] <= now]
    named = {"taskId": new_uuid(), "sourceArn": arn}
    task = {
        "TaskHandle": base64.b64encode(json.dumps(named).encode()).decode(),
        "Status": "RUNNING",
        "SourceArn": arn,
        "DestinationArn": to,
        "MaxNumberOfMessagesPerSecond": pace,
        "ApproximateNumberOfMessagesMoved": 0,
        "ApproximateNumberOfMessagesToMove": len(waiting),
        "FailureReason": None,
        "StartedTimestamp": int(time.time() * 1000),
    }
    tasks.insert(0, task)
    # The account, the Region and the caller are context variables; services speak TLS.
    context = contextvars.copy_context()
    context.run(iam_evaluator.pin_request_origin, "127.0.0.1", True)
    threading.Thread(
        target=context.run, args=(run, task, source, waiting), daemon=True, name="gap-move-task"
    ).start()
    return {"TaskHandle": task["TaskHandle"]}


def list_(data: dict, _url: str) -> dict:
    """The newest tasks of a queue; only one that runs shows its handle."""
    source = dead_letter_queue(
        data.get("SourceArn", ""), "sqs:ListMessageMoveTasks", "sqs:GetQueueAttributes"
    )
    most = data.get("MaxResults") or 1
    if not 1 <= most <= 10:
        raise sqs._Err(
            "InvalidParameterValue", "Value for parameter MaxResults is invalid: 1 to 10."
        )
    return {
        "Results": [
            {
                name: value
                for name, value in task.items()
                if value is not None and (name != "TaskHandle" or task["Status"] == "RUNNING")
            }
            for task in source.get("move_tasks", [])[:most]
        ]
    }


def cancel(data: dict, _url: str) -> dict:
    """Stop a task before its next message; what it has moved stays moved."""
    _, arn = handle(data.get("TaskHandle", ""))
    if not arn:
        raise sqs._Err("InvalidParameterValue", "Value for parameter TaskHandle is invalid.")
    source = dead_letter_queue(arn, "sqs:CancelMessageMoveTask", *MOVES)
    for task in source.get("move_tasks", []):
        if task["TaskHandle"] == data["TaskHandle"]:
            if task["Status"] != "RUNNING":
                raise sqs._Err("UnsupportedOperation", "Only a running task can be cancelled.")
            task["Status"] = "CANCELLING"
            return {
                "ApproximateNumberOfMessagesMoved": task["ApproximateNumberOfMessagesMoved"],
            }
    raise sqs._Err("ResourceNotFoundException", "Task does not exist.", 404)


def run(task: dict, source: dict, waiting: list[str]) -> None:
    """Move one message after the other until all are moved, one cannot be, or somebody cancels."""
    pace, began = task["MaxNumberOfMessagesPerSecond"] or FASTEST, time.monotonic()
    for number, message_id in enumerate(waiting):
        due = began + number / pace
        while (left := due - time.monotonic()) > 0 and task["Status"] == "RUNNING":
            time.sleep(min(left, 0.05))
        if task["Status"] != "RUNNING":
            break
        with sqs._queues_lock:
            if failure := move(source, message_id, task):
                task.update(Status="FAILED", FailureReason=failure)
                return
    task["Status"] = "CANCELLED" if task["Status"] == "CANCELLING" else "COMPLETED"


def move(source: dict, message_id: str, task: dict) -> str:
    """Send one message on and delete it here; why that cannot be, empty if it can.

    A message that somebody else has received or deleted meanwhile is left alone.
    """
    now = sqs.time.time()
    found = next((one for one in source["messages"] if one["id"] == message_id), None)
    if found is None or found["visible_at"] > now:
        return ""
    arn = task["DestinationArn"] or found["sys"].get("DeadLetterQueueSourceArn")
    if not arn:  # sent here by somebody, and not by a redrive policy
        return "CouldNotDetermineMessageSource"
    destination = sqs._queue_by_arn(arn)
    if destination is None:
        return "AWS.SimpleQueueService.NonExistentQueue"
    if not roles.permits(iam_evaluator.caller_arn(), "sqs:SendMessage", arn):
        return "AccessDenied"
    sent = {"MessageBody": found["body"], "MessageAttributes": found["message_attributes"]}
    if destination["is_fifo"]:
        # The source has seen the message's own deduplication id: it would drop the message.
        sent |= {"MessageGroupId": found["group_id"], "MessageDeduplicationId": found["id"]}
    sqs._act_send_message(sent, destination["url"])
    source["messages"].remove(found)
    task["ApproximateNumberOfMessagesMoved"] += 1
    return ""
