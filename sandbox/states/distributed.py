"""A Map state in distributed mode: its items, its batches, what it tolerates, and its results.

Each item or batch is an execution of its own, which sees no variable of the parent.
"""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from . import choices, expressions, intrinsics, times
from .faults import entries, runtime, text
from .history import failure
from .interpreter import Visit
from .task import StatesError

AT_A_TIME = 64  # child executions; AWS runs up to 10,000
LARGEST_BATCH = 262_144  # bytes of a child's input (developer guide, quotas)
_DELIMITERS = {"COMMA": ",", "PIPE": "|", "SEMICOLON": ";", "SPACE": " ", "TAB": "\t"}
_STATUSES = {"SUCCEEDED": "succeeded", "FAILED": "failed", "TIMED_OUT": "timedOut",
             "ABORTED": "aborted"}  # fmt: skip


class Store(Protocol):
    """S3 as the state machine's role may use it. Each raises StatesError with a cause of S3's."""

    def read(self, bucket: str, key: str) -> str:
        """An object's text."""
        ...

    def objects(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """The objects as ListObjectsV2 has them in a Map: Etag, Key, LastModified, Size, ..."""
        ...

    def write(self, bucket: str, key: str, body: str) -> None:
        """Put an object."""
        ...


@dataclass
class Child:
    """One child execution. items: how many it holds. run: runs it, and says how it ended."""

    items: int
    run: Callable[[times.Life], dict[str, Any]]


@dataclass
class MapRun:
    """One run of a Map. begin: makes a child from its input. counts: of items and executions."""

    visit: Visit
    arn: str
    store: Store
    begin: Callable[[Any, int], Child]
    counts: tuple[dict[str, int], dict[str, int]]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Any:
        """The result of the Map. StatesError if more failed than is tolerated."""
        trail = self.visit.branch.trail
        trail.tell("MapRunStarted", {"mapRunArn": self.arn})
        try:
            items = [self.visit.selected(at, item) for at, item in enumerate(self.items())]
            children = [self.begin(given, size) for given, size in self.batches(items)]
            for counted, total in zip(self.counts, (len(items), len(children)), strict=True):
                counted.update(total=total, pending=total)
            result = self.written(self._ended(children, self.tolerated(len(items))))
        except StatesError as error:
            trail.tell("MapRunFailed", failure(error.error, error.cause))
            raise
        trail.tell("MapRunSucceeded")
        return result

    # What it iterates over.

    def items(self) -> list[Any]:
        """The items of the input, or of what ItemReader reads."""
        if "ItemReader" not in self.visit.state:
            return self.visit.items()
        reader = self.visit.state["ItemReader"]
        config, where = reader.get("ReaderConfig", {}), self._filled("ItemReader", reader)
        try:
            if reader["Resource"].endswith(":s3:listObjectsV2"):
                items = self._listed(config, where)
            else:
                items = parse(self.store.read(where["Bucket"], where["Key"]), config)
        except StatesError as error:
            raise StatesError(error.error or "States.ItemReaderFailed", error.cause) from None
        most = self._number(config, "ItemReader/ReaderConfig", "MaxItems")
        return items[: int(most)] if most else items

    def _listed(self, config: dict[str, Any], where: dict[str, Any]) -> list[Any]:
        listed = self.store.objects(where["Bucket"], where.get("Prefix", ""))
        if config.get("Transformation") != "LOAD_AND_FLATTEN":
            return listed
        return [
            item
            for one in listed
            for item in parse(self.store.read(where["Bucket"], one["Key"]), config)
        ]

    def batches(self, items: list[Any]) -> Iterator[tuple[Any, int]]:
        """The input of each child, and how many items it holds."""
        if "ItemBatcher" not in self.visit.state:
            yield from ((item, 1) for item in items)
            return
        batcher = self.visit.state["ItemBatcher"]
        most = self._number(batcher, "ItemBatcher", "MaxItemsPerBatch") or len(items)
        largest = self._number(batcher, "ItemBatcher", "MaxInputBytesPerBatch") or LARGEST_BATCH
        shared = {}
        if "BatchInput" in batcher:
            shared = {"BatchInput": self._template("ItemBatcher/BatchInput", batcher["BatchInput"])}
        batch: list[Any] = []
        for item in items:
            grown = text(shared | {"Items": [*batch, item]}).encode()
            if batch and (len(batch) >= most or len(grown) > largest):
                yield shared | {"Items": batch}, len(batch)
                batch = []
            batch.append(item)
        if batch:
            yield shared | {"Items": batch}, len(batch)

    def _filled(self, name: str, part: dict[str, Any]) -> dict[str, Any]:
        """Bucket, Key and Prefix of a reader or writer."""
        key = "Arguments" if self.visit.jsonata else "Parameters"
        return self._template(f"{name}/{key}", part.get(key, {}))

    def _template(self, field: str, template: Any) -> Any:
        visit = self.visit
        if visit.jsonata:
            return expressions.fill(template, field, visit.bindings())
        return intrinsics.fill(template, visit.sight(visit.effective()))

    def _number(self, part: dict[str, Any], where: str, name: str) -> Any:
        """A number of a part of the state: as it is, by ...Path, or by JSONata."""
        visit = self.visit
        if path := part.get(f"{name}Path"):
            value = visit.sight(visit.effective()).filter(path)
        else:
            value = self._template(f"{where}/{name}", part.get(name))
        if value is not None and not choices.is_number(value):
            raise runtime(f"{name} is not a number: {text(value)}")
        return value

    # How it runs.

    def tolerated(self, items: int) -> Callable[[int], bool]:
        """Whether the Map stands so many failed items."""
        count = self.visit.number("ToleratedFailureCount")
        percentage = self.visit.number("ToleratedFailurePercentage")
        if count is None and percentage is None:
            count = 0

        def stands(failed: int) -> bool:
            return not (
                (count is not None and failed > count)
                or (percentage is not None and failed * 100 > percentage * items)
            )

        return stands

    def _ended(self, children: list[Child], stands: Callable[[int], bool]) -> list[dict[str, Any]]:
        """How each child ended, in order."""
        limit = self.visit.number("MaxConcurrency") or AT_A_TIME
        life, numbers = times.Life(self.visit.branch.life), iter(range(len(children)))
        ended: dict[int, dict[str, Any]] = {}

        def work() -> None:
            while not life.ended.is_set():
                with self._lock:
                    if (at := next(numbers, None)) is None:
                        return
                self._count(children[at], "pending", "running")
                ended[at] = children[at].run(life)
                self._count(children[at], "running", _STATUSES[ended[at]["status"]])
                if not stands(self.counts[0]["failed"] + self.counts[0]["timedOut"]):
                    life.end()

        threads = [times.start(work) for _ in range(min(len(children), int(limit), AT_A_TIME))]
        for thread in threads:
            thread.join()
        self.visit.branch.life.check()
        if life.ended.is_set():
            raise StatesError(
                "States.ExceedToleratedFailureThreshold",
                "The specified tolerated failure threshold was exceeded",
            )
        life.end()
        return [ended[at] for at in sorted(ended)]

    def _count(self, child: Child, before: str, after: str) -> None:
        with self._lock:
            for counted, many in zip(self.counts, (child.items, 1), strict=True):
                counted[before] -= many
                counted[after] += many

    # What it comes to.

    def written(self, ended: list[dict[str, Any]]) -> Any:
        """The result: the children's outputs, or where ResultWriter has put them."""
        writer = self.visit.state.get("ResultWriter", {})
        config = writer.get("WriterConfig", {})
        exports = "Resource" in writer
        shape = config.get("Transformation", "NONE" if exports else "COMPACT")
        if not exports:
            return shaped(ended, shape)
        where = self._filled("ResultWriter", writer)
        folder = "/".join(filter(None, [where.get("Prefix", "").strip("/"), self.arn[-36:]]))
        try:
            files = self._files(ended, shape, config, where["Bucket"], folder)
            manifest = {
                "DestinationBucket": where["Bucket"],
                "MapRunArn": self.arn,
                "ResultFiles": files,
            }
            self.store.write(where["Bucket"], f"{folder}/manifest.json", text(manifest))
        except StatesError as error:
            raise StatesError(error.error or "States.ResultWriterFailed", error.cause) from None
        return {
            "MapRunArn": self.arn,
            "ResultWriterDetails": {"Bucket": where["Bucket"], "Key": f"{folder}/manifest.json"},
        }

    def _files(
        self,
        ended: list[dict[str, Any]],
        shape: str,
        config: dict[str, Any],
        bucket: str,
        folder: str,
    ) -> dict[str, list[dict[str, Any]]]:
        files: dict[str, list[dict[str, Any]]] = {"FAILED": [], "PENDING": [], "SUCCEEDED": []}
        for status, found in (
            ("SUCCEEDED", shaped([one for one in ended if one["status"] == "SUCCEEDED"], shape)),
            ("FAILED", shaped([one for one in ended if one["status"] != "SUCCEEDED"], "NONE")),
        ):
            if not found:
                continue
            lines = config.get("OutputType") == "JSONL"
            key = f"{folder}/{status}_0.json{'l' if lines else ''}"
            body = "\n".join(map(text, found)) if lines else text(found)
            self.store.write(bucket, key, body)
            files[status].append({"Key": key, "Size": len(body.encode())})
        return files


def shaped(ended: list[dict[str, Any]], shape: str) -> list[Any]:
    """Results as WriterConfig wants them: NONE as executions, COMPACT or FLATTEN as outputs."""
    if shape == "NONE":
        return [_told(one) for one in ended]
    outputs = [json.loads(one["output"] or "null") for one in ended]
    if shape == "COMPACT":
        return outputs
    return [one for output in outputs for one in (output if isinstance(output, list) else [output])]


def _told(execution: dict[str, Any]) -> dict[str, Any]:
    """A child as the files of a ResultWriter have it: fields with a capital letter."""
    names = ("executionArn", "input", "inputDetails", "name", "output", "outputDetails", "error",
             "cause", "startDate", "stateMachineArn", "status", "stopDate")  # fmt: skip
    told = {
        f"{name[0].upper()}{name[1:]}": execution[name]
        for name in names
        if execution.get(name) is not None
    }
    for name in ("InputDetails", "OutputDetails"):
        if name in told:
            told[name] = {"Included": True}
    return told | {"RedriveCount": 0}


def parse(source: str, config: dict[str, Any]) -> list[Any]:
    """The items of an object, as ReaderConfig says. StatesError for what cannot be read."""
    kind = config.get("InputType", "JSON")
    if kind == "CSV":
        return _rows(source, config)
    try:
        if kind == "JSONL":
            return [json.loads(line) for line in source.splitlines() if line.strip()]
        if kind == "JSON":
            found = json.loads(source)
            for part in filter(None, config.get("ItemsPointer", "").split("/")):
                found = found[int(part)] if isinstance(found, list) else found[part]
            if isinstance(found, list | dict):
                return entries(found) if isinstance(found, dict) else found
            raise StatesError(
                "States.ItemReaderFailed", "Attempting to map over non-iterable node."
            )
    except (ValueError, LookupError, TypeError) as problem:
        raise StatesError("States.ItemReaderFailed", f"Cannot read the items: {problem}") from None
    raise StatesError("States.Runtime", f"The sandbox cannot read items of the type {kind}")


def _rows(source: str, config: dict[str, Any]) -> list[dict[str, str]]:
    """Each row as an object. What a row lacks is an empty string, what it has too much is left."""
    delimiter = _DELIMITERS.get(config.get("CSVDelimiter", "COMMA"), ",")
    rows = [row for row in csv.reader(io.StringIO(source), delimiter=delimiter) if row]
    if config.get("CSVHeaderLocation") == "GIVEN":
        names = config["CSVHeaders"]
    else:
        names, rows = (rows[0], rows[1:]) if rows else ([], [])
    return [
        dict(zip(names, [*row, *[""] * max(0, len(names) - len(row))], strict=False))
        for row in rows
    ]
