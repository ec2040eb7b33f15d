"""A Map in distributed mode: batches, results in S3, child executions, and the role's rights.

Seen in MiniStack 1.5.33: ItemBatcher and ResultWriter are ignored in silence, S3 is read without
asking anybody, a threshold is looked at when all is over, children have no history. Here a Map
does what Step Functions documents: the role reads and writes S3, children are executions with a
history, and a Map that fails more than it tolerates stops the others. Manifests of S3's inventory
and Parquet cannot be read here, and fail the Map with a cause that says so.
"""

from typing import Any

import roles
from botocore.exceptions import BotoCoreError, ClientError
from gaps import stepfunctions_interpreter
from ministack.core.responses import new_uuid
from ministack.services import stepfunctions
from states import distributed, interpreter, times
from states.faults import text
from states.task import StatesError

PATCHES = (
    "services.stepfunctions._executions",
    "services.stepfunctions._map_runs",
    *roles.NEEDS,
)

_COUNTS = (
    "pending", "running", "succeeded", "failed", "timedOut", "aborted", "total", "resultsWritten",
    "failuresNotRedrivable", "pendingRedrive",
)  # fmt: skip


def close() -> None:
    """Have distributed Maps run here."""
    stepfunctions_interpreter.distribute = distribute


def distribute(parent: dict[str, Any], visit: interpreter.Visit, processor: dict[str, Any]) -> Any:
    """Run a Map in distributed mode; ListMapRuns, DescribeMapRun and ListExecutions show it."""
    prefix, _, machine = parent["stateMachineArn"].rpartition(":")
    place, label = prefix.removesuffix(":stateMachine"), visit.state.get("Label") or new_uuid()
    counts = (dict.fromkeys(_COUNTS, 0), dict.fromkeys(_COUNTS, 0))
    record = {
        "mapRunArn": f"{place}:mapRun:{machine}/{label}:{new_uuid()}",
        "executionArn": parent["executionArn"],
        "status": "RUNNING",
        "startDate": times.now(),
        "maxConcurrency": int(visit.number("MaxConcurrency") or 0),
        "toleratedFailureCount": int(visit.number("ToleratedFailureCount") or 0),
        "toleratedFailurePercentage": float(visit.number("ToleratedFailurePercentage") or 0),
        "itemCounts": counts[0],
        "executionCounts": counts[1],
        "redriveCount": 0,
        "_stateMachineArn": f"{prefix}:{machine}/{label}",
    }
    stepfunctions._map_runs[record["mapRunArn"]] = record

    def begin(given: Any, items: int) -> distributed.Child:
        name = new_uuid()
        child = {
            "executionArn": f"{place}:execution:{machine}/{label}:{name}",
            "stateMachineArn": record["_stateMachineArn"],
            "name": name,
            "status": "RUNNING",
            "startDate": times.now(),
            "stopDate": None,
            "input": text(given),
            "inputDetails": {"included": True},
            "output": None,
            "outputDetails": {"included": True},
            "mapRunArn": record["mapRunArn"],
            "testCase": "",
            "mockAttempts": {},
            "events": [
                {
                    "id": 1,
                    "type": "ExecutionStarted",
                    "timestamp": times.now(),
                    "executionStartedEventDetails": {
                        "input": text(given),
                        "roleArn": visit.branch.execution.role,
                    },
                }
            ],
        }
        machine_of_child = {
            "stateMachineArn": record["_stateMachineArn"],
            "name": f"{machine}/{label}",
            "roleArn": visit.branch.execution.role,
            "type": processor.get("ProcessorConfig", {}).get("ExecutionType", "STANDARD"),
        }
        definition = {"QueryLanguage": visit.branch.execution.language} | processor

        def run_child(life: times.Life) -> dict[str, Any]:
            stepfunctions._executions[child["executionArn"]] = child
            stepfunctions_interpreter.run_to_the_end(child, machine_of_child, definition, life)
            return child

        return distributed.Child(items, run_child)

    store = Store(visit.branch.execution, parent["stateMachineArn"])
    try:
        result = distributed.MapRun(visit, record["mapRunArn"], store, begin, counts).run()
        record["status"] = "SUCCEEDED"
    except BaseException as problem:
        record["status"] = "ABORTED" if isinstance(problem, times.Over) else "FAILED"
        raise
    finally:
        record["stopDate"] = times.now()
    return result


class Store:
    """S3 as the state machine's role may use it."""

    def __init__(self, execution: interpreter.Execution, machine: str) -> None:
        self._execution, self._machine = execution, machine

    def read(self, bucket: str, key: str) -> str:
        """An object's text."""
        return self._ask("get_object", Bucket=bucket, Key=key)["Body"].read().decode()

    def objects(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """The objects below a prefix, as items of a Map."""
        found, more = [], {}
        while True:
            answer = self._ask("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
            found += answer.get("Contents", [])
            if not answer.get("IsTruncated"):
                break
            more = {"ContinuationToken": answer["NextContinuationToken"]}
        return [
            {
                "Etag": one["ETag"],
                "Key": one["Key"],
                "LastModified": int(one["LastModified"].timestamp()),
                "Size": one["Size"],
                "StorageClass": one.get("StorageClass", "STANDARD"),
            }
            for one in found
        ]

    def write(self, bucket: str, key: str, body: str) -> None:
        """Put an object."""
        self._ask("put_object", Bucket=bucket, Key=key, Body=body.encode())

    def _ask(self, operation: str, **parameters: Any) -> Any:
        execution = self._execution
        sent = {
            "aws_SourceArn": self._machine,
            "aws_SourceAccount": execution.role.split(":")[4],
        }
        try:
            s3 = roles.client("s3", execution.role, "states.amazonaws.com", execution.name, **sent)
            return getattr(s3, operation)(**parameters)
        except (roles.Denied, BotoCoreError, ClientError) as problem:
            raise StatesError(None, str(problem)) from None
