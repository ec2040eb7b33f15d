"""A Map in distributed mode, without S3 and without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.states import distributed, times
from sandbox.states.history import History, Trail
from sandbox.states.interpreter import Branch, Execution, Visit
from sandbox.states.scope import Scope
from sandbox.states.task import StatesError

RUN = "arn:aws:states:us-east-1:000000000000:mapRun:m/l:12345678-1234-1234-1234-123456789012"
COUNTS = ("pending", "running", "succeeded", "failed", "timedOut", "aborted", "total")


class Shelf:
    """A store in memory."""

    def __init__(self, **objects: str) -> None:
        self.kept = objects

    def read(self, bucket: str, key: str) -> str:
        if key not in self.kept:
            raise StatesError(None, "The specified key does not exist.")
        return self.kept[key]

    def objects(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        return [{"Key": key} for key in sorted(self.kept) if key.startswith(prefix)]

    def write(self, bucket: str, key: str, body: str) -> None:
        self.kept[key] = body


class Run:
    """A MapRun of a state whose children give their input back, or fail for one that is bad."""

    def __init__(
        self, state: dict[str, Any], given: Any = None, shelf: Shelf | None = None
    ) -> None:
        self.shelf, self.began = shelf or Shelf(), []
        self.events: list[dict[str, Any]] = [{"id": 1}]
        execution = Execution("arn", "one", "role", False, "JSONPath", print, print)
        trail = Trail(History(self.events, times.now, lambda: None))
        context = {"Execution": {"Name": "one"}}
        branch = Branch(execution, {}, context, Scope(), trail, times.Life())
        visit = Visit(branch, "M", {"Type": "Map", **state}, given, context=context)
        self.counts = (dict.fromkeys(COUNTS, 0), dict.fromkeys(COUNTS, 0))
        self.map_run = distributed.MapRun(visit, RUN, self.shelf, self.begin, self.counts)

    def begin(self, given: Any, items: int) -> distributed.Child:
        def run(_: times.Life) -> dict[str, Any]:
            self.began.append(given)
            text = json.dumps(given)
            bad = "bad" in text
            told = {"name": "child", "input": text, "status": "FAILED" if bad else "SUCCEEDED"}
            return told | ({"error": "E", "output": None} if bad else {"output": text})

        return distributed.Child(items, run)


@pytest.mark.parametrize(
    ("source", "config", "items"),
    [
        ("[1, 2]", {}, [1, 2]),
        ('{"a": 1, "b": [2]}', {}, [{"Key": "a", "Value": 1}, {"Key": "b", "Value": [2]}]),
        ('{"a": [{"b": [3]}]}', {"InputType": "JSON", "ItemsPointer": "/a/0/b"}, [3]),
        ('{"a": 1}\n\n{"a": 2}\n', {"InputType": "JSONL"}, [{"a": 1}, {"a": 2}]),
        ("a,b\n1,2\n3\n", {"InputType": "CSV"}, [{"a": "1", "b": "2"}, {"a": "3", "b": ""}]),
        ("1;2;3\n", {"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a", "b"],
                     "CSVDelimiter": "SEMICOLON"}, [{"a": "1", "b": "2"}]),
        ('a\n"x,\ny"\n', {"InputType": "CSV"}, [{"a": "x,\ny"}]),
        ("", {"InputType": "CSV"}, []),
    ],
)  # fmt: skip
def test_what_an_object_holds(source: str, config: dict[str, Any], items: list[Any]) -> None:
    assert distributed.parse(source, config) == items


@pytest.mark.parametrize(
    ("source", "config", "error"),
    [
        ("1", {}, "States.ItemReaderFailed"),
        ("[", {}, "States.ItemReaderFailed"),
        ("{}", {"ItemsPointer": "/a"}, "States.ItemReaderFailed"),
        ("PAR1", {"InputType": "PARQUET"}, "States.Runtime"),
    ],
)
def test_what_cannot_be_read(source: str, config: dict[str, Any], error: str) -> None:
    with pytest.raises(StatesError) as raised:
        distributed.parse(source, config)
    assert raised.value.error == error


def test_items_of_the_input_are_selected() -> None:
    run = Run(
        {"ItemsPath": "$.l", "ItemSelector": {"v.$": "$$.Map.Item.Value", "k.$": "$.k"}},
        {"l": [1, 2], "k": "all"},
    )
    assert run.map_run.run() == [{"v": 1, "k": "all"}, {"v": 2, "k": "all"}]
    assert run.counts[0] == run.counts[1] == dict.fromkeys(COUNTS, 0) | {"succeeded": 2, "total": 2}
    assert [one["type"] for one in run.events[1:]] == ["MapRunStarted", "MapRunSucceeded"]


READER = {"Resource": "arn:aws:states:::s3:getObject", "Parameters": {"Bucket": "b", "Key": "o"}}
LISTS = {"Resource": "arn:aws:states:::s3:listObjectsV2", "Parameters": {"Bucket": "b"}}


@pytest.mark.parametrize(
    ("reader", "items"),
    [
        (READER, [1, 2, 3]),
        (READER | {"ReaderConfig": {"MaxItems": 2}}, [1, 2]),
        (READER | {"ReaderConfig": {"MaxItemsPath": "$.most"}}, [1]),
        (LISTS, [{"Key": "o"}, {"Key": "p"}]),
        (LISTS | {"ReaderConfig": {"Transformation": "LOAD_AND_FLATTEN"}}, [1, 2, 3, 4]),
    ],
)
def test_items_are_read(reader: dict[str, Any], items: list[Any]) -> None:
    run = Run({"ItemReader": reader}, {"most": 1}, Shelf(o="[1, 2, 3]", p="[4]"))
    assert run.map_run.items() == items


def test_an_object_that_is_not_there() -> None:
    run = Run({"ItemReader": READER}, {})
    with pytest.raises(StatesError) as raised:
        run.map_run.run()
    assert raised.value.error == "States.ItemReaderFailed"
    assert [one["type"] for one in run.events[1:]] == ["MapRunStarted", "MapRunFailed"]


@pytest.mark.parametrize(
    ("batcher", "sizes"),
    [
        ({"MaxItemsPerBatch": 2}, [2, 2, 1]),
        ({"MaxItemsPerBatchPath": "$.size"}, [3, 2]),
        ({"MaxInputBytesPerBatch": 17}, [3, 2]),
        ({"MaxInputBytesPerBatch": 1}, [1, 1, 1, 1, 1]),
        ({}, [5]),
    ],
)
def test_batches(batcher: dict[str, Any], sizes: list[int]) -> None:
    run = Run({"ItemBatcher": batcher, "ItemsPath": "$.l"}, {"size": 3, "l": [1, 2, 3, 4, 5]})
    batches = list(run.map_run.batches([1, 2, 3, 4, 5]))
    assert [size for _, size in batches] == sizes
    assert [item for batch, _ in batches for item in batch["Items"]] == [1, 2, 3, 4, 5]


def test_batches_share_an_input() -> None:
    batcher = {"MaxItemsPerBatch": 1, "BatchInput": {"n.$": "$.n", "of.$": "$$.Execution.Name"}}
    run = Run({"ItemBatcher": batcher}, {"n": 7})
    assert list(run.map_run.batches(["a"])) == [
        ({"BatchInput": {"n": 7, "of": "one"}, "Items": ["a"]}, 1)
    ]


@pytest.mark.parametrize(
    ("fields", "stands"),
    [
        ({}, False),
        ({"ToleratedFailureCount": 1}, False),
        ({"ToleratedFailureCount": 2}, True),
        ({"ToleratedFailurePercentage": 49}, False),
        ({"ToleratedFailurePercentage": 50}, True),
        ({"ToleratedFailureCountPath": "$[4]"}, True),
        ({"ToleratedFailureCount": 1, "ToleratedFailurePercentage": 100}, False),
    ],
)
def test_what_is_tolerated(fields: dict[str, Any], stands: bool) -> None:
    given = (
        [1, "bad", "bad", 4, 2] if "ToleratedFailureCountPath" in fields else [1, "bad", "bad", 4]
    )
    run = Run({**fields, "MaxConcurrency": 1}, given)
    if stands:
        assert run.map_run.run()[:4] == [1, None, None, 4]
        return
    with pytest.raises(StatesError) as raised:
        run.map_run.run()
    assert raised.value.error == "States.ExceedToleratedFailureThreshold"
    assert run.events[-1]["type"] == "MapRunFailed"
    assert 4 not in run.began  # the others were stopped


FOLDER = f"results/{RUN[-36:]}"
WRITER = {
    "Resource": "arn:aws:states:::s3:putObject",
    "Parameters": {"Bucket": "b", "Prefix": "results/"},
}


def test_results_are_written_with_a_manifest() -> None:
    run = Run({"ResultWriter": WRITER, "ToleratedFailureCount": 1}, [1, "bad"])
    manifest = f"{FOLDER}/manifest.json"
    assert run.map_run.run() == {
        "MapRunArn": RUN,
        "ResultWriterDetails": {"Bucket": "b", "Key": manifest},
    }
    kept = {key: json.loads(body) for key, body in run.shelf.kept.items()}
    assert kept[f"{FOLDER}/SUCCEEDED_0.json"] == [
        {"Name": "child", "Input": "1", "Output": "1", "Status": "SUCCEEDED", "RedriveCount": 0}
    ]
    assert kept[f"{FOLDER}/FAILED_0.json"][0]["Error"] == "E"
    assert kept[manifest]["DestinationBucket"] == "b"
    assert {
        status: [file["Key"] for file in files]
        for status, files in kept[manifest]["ResultFiles"].items()
    } == {
        "SUCCEEDED": [f"{FOLDER}/SUCCEEDED_0.json"],
        "FAILED": [f"{FOLDER}/FAILED_0.json"],
        "PENDING": [],
    }


@pytest.mark.parametrize(
    ("config", "name", "body"),
    [
        ({"Transformation": "COMPACT"}, "json", "[[1],[2,3]]"),
        ({"Transformation": "FLATTEN"}, "json", "[1,2,3]"),
        ({"Transformation": "FLATTEN", "OutputType": "JSONL"}, "jsonl", "1\n2\n3"),
    ],
)
def test_results_are_written_in_other_shapes(config: dict[str, str], name: str, body: str) -> None:
    run = Run({"ResultWriter": WRITER | {"WriterConfig": config}}, [[1], [2, 3]])
    run.map_run.run()
    assert run.shelf.kept[f"{FOLDER}/SUCCEEDED_0.{name}"] == body


def test_results_can_be_shaped_without_being_written() -> None:
    run = Run({"ResultWriter": {"WriterConfig": {"Transformation": "FLATTEN"}}}, [[1], [2, 3]])
    assert run.map_run.run() == [1, 2, 3] and not run.shelf.kept
