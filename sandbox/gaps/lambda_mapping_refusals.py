"""What AWS refuses of an event source mapping, when it is made and when it is changed.

Values out of range, a batch of more than ten without a window, filters that are no event patterns
or more than five, a source that is missing, a queue that the function's role may not consume or
whose visibility timeout is below the function's, a second mapping of the same pair. Seen in
MiniStack 1.5.33 with AUTH=true: all of them are accepted but a MaximumConcurrency out of range.

Sources that nobody polls here are refused as well, so that no mapping waits for ever.
"""

from typing import Any

import ranges
import roles
from ministack.services import eventbridge, lambda_svc, sqs
from ministack.services.cloudformation import provisioners
from refusals import Refused, before, before_made

PATCHES = (
    *roles.NEEDS,
    "services.eventbridge._parse_pattern_text",
    "services.lambda_svc._create_esm",
    "services.lambda_svc._update_esm",
    "services.lambda_svc._esms",
    "services.lambda_svc._get_func_record_for_ref",
    "services.sqs._queue_by_arn",
    "services.cloudformation.provisioners._RESOURCE_HANDLERS",
    "services.cloudformation.provisioners._lambda_esm_create",
)

POLLED = ("sqs", "kinesis", "dynamodb", "mq")  # brokers by those who start a real one
OF_STREAMS = (  # parameters that a queue's mapping may not have
    "DestinationConfig",
    "MaximumRetryAttempts",
    "MaximumRecordAgeInSeconds",
    "BisectBatchOnFunctionError",
    "ParallelizationFactor",
    "TumblingWindowInSeconds",
)
ACTIONS = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")
MOST_FILTERS = 5  # of a mapping; AWS raises it to ten on request


def close() -> None:
    """Check before a mapping is made or changed."""
    lambda_svc._create_esm = before(lambda_svc._create_esm, by_api)
    lambda_svc._update_esm = before(lambda_svc._update_esm, changed_by_api)
    handlers = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]
    handlers["create"] = before_made(handlers["create"], by_template)
    handlers["update"] = before_made(handlers["update"], changed_by_template)
    # What an update calls that must replace a mapping.
    provisioners._lambda_esm_create = before_made(provisioners._lambda_esm_create, by_template)


def by_api(mapping: dict[str, Any]) -> None:
    """CreateEventSourceMapping."""
    in_range("CreateEventSourceMapping", mapping)
    check(mapping)
    first_of_its_pair(mapping)


def changed_by_api(mapping_id: str, changes: dict[str, Any]) -> None:
    """UpdateEventSourceMapping."""
    in_range("UpdateEventSourceMapping", {**changes, "UUID": mapping_id})
    if known := lambda_svc._esms.get(mapping_id):
        check({**known, "FunctionName": known["FunctionArn"], "StartingPosition": None, **changes})


def by_template(_: str, properties: dict[str, Any], __: str) -> None:
    """A resource that is made."""
    in_range("CreateEventSourceMapping", properties)
    check(properties)
    first_of_its_pair(properties)


def changed_by_template(_: str, old: dict[str, Any], new: dict[str, Any], __: str) -> None:
    """A resource that is changed; one that is replaced is checked when the new one is made."""
    if old.get("EventSourceArn") == new.get("EventSourceArn"):
        in_range("CreateEventSourceMapping", new)
        check(new)


def in_range(operation: str, sent: dict[str, Any]) -> None:
    """Values that AWS looks at before anything else."""
    if problem := ranges.problem("lambda", operation, sent):
        raise Refused(problem, "ValidationException")


def check(mapping: dict[str, Any]) -> None:
    """What holds for a mapping that is made and for one that is changed."""
    source = mapping.get("EventSourceArn") or ""
    kind = source.split(":")[2] if source.count(":") > 4 else ""
    if "SelfManagedEventSource" in mapping or (kind and kind not in POLLED):
        raise Refused(f"The sandbox polls no event source of {kind or 'self-managed Kafka'}")
    if not kind:
        raise Refused("Unrecognized event source.")
    filters = (mapping.get("FilterCriteria") or {}).get("Filters") or []
    if len(filters) > MOST_FILTERS:
        raise Refused(f"A mapping has at most {MOST_FILTERS} filters, not {len(filters)}")
    for one in filters:
        if not eventbridge._parse_pattern_text(one.get("Pattern") or "")[0]:
            raise Refused("Invalid filter pattern definition.")
    reference = mapping.get("FunctionName", "")
    function = lambda_svc._get_func_record_for_ref(reference)[1]
    if not function:
        raise Refused("Function does not exist")
    if kind == "sqs":
        check_queue(mapping, source, function)


def check_queue(mapping: dict[str, Any], arn: str, function: dict[str, Any]) -> None:
    """What holds for the mapping of a queue and a function, its configuration."""
    if mapping.get("StartingPosition") or mapping.get("StartingPositionTimestamp"):
        raise Refused("StartingPosition is not valid for SQS event sources.")
    for name in OF_STREAMS:
        if mapping.get(name):
            raise Refused(f"Unsupported {name} parameter for given event source mapping type.")
    size = int(mapping.get("BatchSize") or 10)
    window = int(mapping.get("MaximumBatchingWindowInSeconds") or 0)
    if size > 10 and not window:
        raise Refused(
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is"
            " greater than 10"
        )
    if window and arn.endswith(".fifo"):
        raise Refused("Batching window is not supported for FIFO queues")
    queue = sqs._queue_by_arn(arn)
    if not queue:
        raise Refused(
            "Error occurred while ReceiveMessage. SQS Error Code:"
            " AWS.SimpleQueueService.NonExistentQueue. SQS Error Message: The specified queue does"
            " not exist."
        )
    for action in ACTIONS:
        if not roles.allows(function["Role"], "lambda.amazonaws.com", f"sqs:{action}", arn):
            raise Refused(
                f"The provided execution role does not have permissions to call {action} on SQS"
            )
    visibility = int(queue["attributes"].get("VisibilityTimeout", 30))
    if visibility < int(function["Timeout"]):
        raise Refused(
            f"Queue visibility timeout: {visibility} seconds is less than Function timeout:"
            f" {function['Timeout']} seconds"
        )


def first_of_its_pair(mapping: dict[str, Any]) -> None:
    """Whether no other mapping joins the same source and function."""
    source = mapping["EventSourceArn"]
    name, qualifier = lambda_svc._resolve_name_and_qualifier(mapping["FunctionName"])
    subject = f'arn (" {source} ") and function (" {name} ")'
    said = f"The event source {subject} provided mapping already exists."
    if ":sqs:" in source:
        said = f"An event source mapping with SQS {subject} already exists."
    for other in lambda_svc._esms.values():
        pair = (other["EventSourceArn"], other["FunctionName"], other.get("Qualifier"))
        if ":mq:" not in source and pair == (source, name, qualifier):
            then = f"Please update or delete the existing mapping with UUID {other['UUID']}"
            raise Refused(f"{said} {then}", "ResourceConflictException", 409)
