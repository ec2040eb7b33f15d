"""CheckFraud: the decision without AWS, the answer on the sandbox's queues and table."""

from __future__ import annotations

import importlib
import io
import json
import sys
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from tests.lambdas import hostile

LAMBDAS = Path(__file__).parent.parent.parent / "lambdas" / "sqs_request_response"

questions = st.fixed_dictionaries(
    {
        "order_id": st.text(min_size=1, max_size=64),
        "customer": st.text(min_size=1, max_size=64),
        "total_cents": st.integers(0, 10**9),
    }
)


@pytest.fixture(scope="module")
def check_fraud() -> Generator[ModuleType]:
    """The handler's module as Lambda imports it, with a table that does not exist."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VERDICTS", "nowhere")
        patch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
        patch.syspath_prepend(str(LAMBDAS))
        yield importlib.import_module("check_fraud")
        sys.modules.pop("check_fraud", None)


@given(question=questions)
def test_every_question_is_answered_about_its_own_order(
    check_fraud: ModuleType, question: dict[str, Any]
) -> None:
    outcome, answer = check_fraud.decide(json.dumps(question))
    doubts = question["total_cents"] > check_fraud.REVIEW_ABOVE_CENTS
    assert outcome == "answered"
    assert answer == {
        "order_id": question["order_id"],
        "verdict": "review" if doubts else "clear",
    }


@given(body=st.text())
def test_any_other_text_is_refused_with_a_reason(check_fraud: ModuleType, body: str) -> None:
    outcome, answer = check_fraud.decide(body)
    assert outcome == "refused"
    assert "JSON" in answer["reason"] or "Input" in answer["reason"]


@given(question=questions, field=st.sampled_from(["order_id", "customer", "total_cents"]))
def test_the_refusal_names_the_field_and_not_its_value(
    check_fraud: ModuleType, question: dict[str, Any], field: str
) -> None:
    without = {name: value for name, value in question.items() if name != field}
    assert check_fraud.decide(json.dumps(without)) == (
        "refused",
        {"reason": f"{field}: Field required"},
    )
    wrong = question | {field: {"card": "4111-secret"}}
    _, answer = check_fraud.decide(json.dumps(wrong))
    assert answer["reason"].startswith(f"{field}: ") and "secret" not in answer["reason"]


# ---- the answer, on real queues and a real table


@pytest.fixture
def deployed(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> Generator[SimpleNamespace]:
    """The handler with a table and a queue of answers of its own."""
    dynamodb, sqs, run = boto3.client("dynamodb"), boto3.client("sqs"), uuid.uuid4().hex[:8]
    table, name = f"verdicts-{run}", f"answers-{run}"
    dynamodb.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "question", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "question", "AttributeType": "S"}],
    )
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    monkeypatch.setenv("VERDICTS", table)
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.syspath_prepend(str(LAMBDAS))
    sys.modules.pop("check_fraud", None)
    module, log = importlib.import_module("check_fraud"), io.StringIO()
    module.logger.registered_handler.setStream(log)
    yield SimpleNamespace(
        module=module, table=table, name=name, url=url, dynamodb=dynamodb, sqs=sqs, log=log
    )
    sys.modules.pop("check_fraud")
    dynamodb.delete_table(TableName=table)
    sqs.delete_queue(QueueUrl=url)


CONTEXT = SimpleNamespace(
    function_name="CheckFraud",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:CheckFraud",
    aws_request_id="request",
    get_remaining_time_in_millis=lambda: 10000,
)
SMALL = json.dumps({"order_id": "a", "customer": "ada", "total_cents": 1})
LARGE = json.dumps({"order_id": "a", "customer": "ada", "total_cents": 100_001})


def record(deployed: SimpleNamespace, body: str = SMALL, **changes: str | None) -> dict[str, Any]:
    """A message as Lambda hands it over; None leaves an attribute out."""
    envelope = {
        "correlation_id": "c-1",
        "reply_to": deployed.name,
        "expires_at": repr(time.time() + 60),
    } | changes
    return {
        "messageId": f"message-{uuid.uuid4().hex[:8]}",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1"},
        "messageAttributes": {
            name: {"dataType": "String", "stringValue": value}
            for name, value in envelope.items()
            if value is not None
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:FraudQuestions",
    }


def failed(deployed: SimpleNamespace, *records: dict[str, Any]) -> list[int]:
    """Which records of a batch come back."""
    answer = deployed.module.handler({"Records": list(records)}, CONTEXT)
    back = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
    return [n for n, one in enumerate(records) if one["messageId"] in back]


def answers(deployed: SimpleNamespace) -> list[tuple[str, str, dict[str, Any]]]:
    """(correlation id, outcome, content) of what is in the queue of answers."""
    found = []
    while messages := deployed.sqs.receive_message(
        QueueUrl=deployed.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    ).get("Messages"):
        for message in messages:
            sent = {n: one["StringValue"] for n, one in message["MessageAttributes"].items()}
            found.append((sent["correlation_id"], sent["outcome"], json.loads(message["Body"])))
            deployed.sqs.delete_message(
                QueueUrl=deployed.url, ReceiptHandle=message["ReceiptHandle"]
            )
    return found


def rows(deployed: SimpleNamespace) -> list[dict[str, Any]]:
    return deployed.dynamodb.scan(TableName=deployed.table, ConsistentRead=True)["Items"]


def rejected(deployed: SimpleNamespace) -> list[str]:
    lines = [json.loads(line) for line in deployed.log.getvalue().splitlines()]
    return [line["reason"] for line in lines if line["message"] == "Rejected question"]


CLEAR = ("c-1", "answered", {"order_id": "a", "verdict": "clear"})


def test_a_question_is_answered_where_it_says(deployed: SimpleNamespace) -> None:
    assert failed(deployed, record(deployed), record(deployed, LARGE, correlation_id="c-2")) == []
    review = ("c-2", "answered", {"order_id": "a", "verdict": "review"})
    assert sorted(answers(deployed)) == [CLEAR, review]


def test_the_answer_brings_the_expiry_back_to_the_letter(deployed: SimpleNamespace) -> None:
    expires_at = repr(time.time() + 60)
    failed(deployed, record(deployed, expires_at=expires_at))
    (message,) = deployed.sqs.receive_message(QueueUrl=deployed.url, MessageAttributeNames=["All"])[
        "Messages"
    ]
    assert message["MessageAttributes"]["expires_at"]["StringValue"] == expires_at


def test_a_malformed_question_is_refused_and_does_not_come_back(deployed: SimpleNamespace) -> None:
    assert failed(deployed, record(deployed, "{}")) == []
    ((correlation_id, outcome, content),) = answers(deployed)
    assert (correlation_id, outcome) == ("c-1", "refused")
    assert content["reason"] == "order_id: Field required"


def test_a_second_delivery_is_answered_alike_and_not_decided_again(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = record(deployed)
    failed(deployed, question)
    monkeypatch.setattr(deployed.module, "REVIEW_ABOVE_CENTS", 0)  # would decide otherwise now
    assert failed(deployed, question, record(deployed)) == []  # redelivered, and sent twice
    assert answers(deployed) == [CLEAR] * 3
    (row,) = rows(deployed)
    assert row["message_id"]["S"] == question["messageId"]


def test_a_row_is_kept_until_its_question_expires(deployed: SimpleNamespace) -> None:
    expires_at = time.time() + 60
    failed(deployed, record(deployed, expires_at=repr(expires_at)))
    (row,) = rows(deployed)
    assert expires_at <= int(row["expires_at"]["N"]) < expires_at + 1


def test_one_correlation_id_of_two_askers_are_two_questions(deployed: SimpleNamespace) -> None:
    other = deployed.sqs.create_queue(QueueName=f"{deployed.name}-other")["QueueUrl"]
    try:
        reply_to = f"{deployed.name}-other"
        assert failed(deployed, record(deployed), record(deployed, LARGE, reply_to=reply_to)) == []
        assert answers(deployed) == [CLEAR]
    finally:
        deployed.sqs.delete_queue(QueueUrl=other)


def test_a_correlation_id_used_again_for_another_question_comes_back(
    deployed: SimpleNamespace,
) -> None:
    assert failed(deployed, record(deployed), record(deployed, LARGE)) == [1]
    assert answers(deployed) == [CLEAR]
    assert rejected(deployed) == ["correlation_id belongs to another question"]


def test_an_expired_question_is_dropped_without_work(deployed: SimpleNamespace) -> None:
    assert failed(deployed, record(deployed, expires_at=repr(time.time() - 0.01))) == []
    assert rows(deployed) == [] and answers(deployed) == []
    assert "Dropped expired question" in deployed.log.getvalue()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"correlation_id": None}, "correlation_id: Field required"),
        ({"reply_to": None}, "reply_to: Field required"),
        ({"reply_to": "https://sqs.example.com/1/answers"}, "reply_to: String should match"),
        ({"reply_to": "nowhere-at-all"}, "reply_to: no queue of an asker"),
        ({"expires_at": None}, "expires_at: Field required"),
        ({"expires_at": "soon"}, "expires_at: Input should be a valid number"),
        ({"expires_at": "nan"}, "expires_at: Input should be"),
        ({"expires_at": "1760000000000"}, "expires_at: Input should be less than"),
    ],
)
def test_what_cannot_be_answered_comes_back_alone_and_costs_no_work(
    deployed: SimpleNamespace, changes: dict[str, str | None], reason: str
) -> None:
    good = record(deployed, correlation_id="c-2")
    assert failed(deployed, record(deployed, **changes), good) == [0]
    assert [row["question"]["S"] for row in rows(deployed)] == [f"{deployed.name}/c-2"]
    assert rejected(deployed)[0].startswith(reason)
    assert str(next(iter(changes.values()))) not in rejected(deployed)[0]


def test_a_queue_that_the_role_may_not_use_is_no_askers(deployed: SimpleNamespace) -> None:
    with Stubber(deployed.module.sqs) as sqs:
        sqs.add_client_error("get_queue_url", "AccessDenied")
        with pytest.raises(
            deployed.module.Unanswerable, match=r"no queue of an asker \(AccessDenied\)"
        ):
            deployed.module.answers_url("somebodys")


def test_a_throttled_lookup_is_no_forgery_and_not_remembered(deployed: SimpleNamespace) -> None:
    with Stubber(deployed.module.sqs) as sqs:
        sqs.add_client_error("get_queue_url", "RequestThrottled")
        sqs.add_response("get_queue_url", {"QueueUrl": "https://queue"})
        with pytest.raises(deployed.module.sqs.exceptions.ClientError):
            deployed.module.answers_url("answers")
        assert deployed.module.answers_url("answers") == "https://queue"


def test_an_answer_that_cannot_be_sent_is_sent_at_the_next_delivery(
    deployed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        raise OSError("down")

    question = record(deployed)
    with monkeypatch.context() as patch:
        patch.setattr(deployed.module, "reply", down)
        assert failed(deployed, question) == [0]
    assert failed(deployed, question) == []
    assert answers(deployed) == [CLEAR]


def test_the_log_holds_no_message(deployed: SimpleNamespace) -> None:
    failed(deployed, record(deployed, json.dumps({"card": "4111-secret"})))
    assert "Answered question" in deployed.log.getvalue()
    assert "4111-secret" not in deployed.log.getvalue()


# ---- hostile messages and faults: what may be lost is nothing


@hostile.names(json.loads(SMALL), text="customer", number="total_cents")
def test_a_hostile_question_is_refused_alone(deployed: SimpleNamespace, message: str) -> None:
    known = {"correlation_id": "odd"}
    good, odd = record(deployed), record(deployed, message, **known)
    assert hostile.handled(lambda: failed(deployed, good, odd), message, deployed.log) == []
    said = {one[0]: one for one in answers(deployed)}
    assert said["c-1"] == CLEAR
    assert said["odd"][1] == "refused"
    assert len(json.dumps(said["odd"][2])) < 300 and hostile.SECRET not in str(said["odd"])


@pytest.mark.parametrize(
    ("cents", "verdict"),
    [(0, "clear"), (100_000, "clear"), (100_001, "review"), (10**12, "review")],
)
def test_a_person_reviews_what_is_above_a_thousand(
    check_fraud: ModuleType, cents: int, verdict: str
) -> None:
    question = json.loads(SMALL) | {"total_cents": cents}
    assert check_fraud.decide(json.dumps(question))[1]["verdict"] == verdict


@pytest.mark.parametrize("odd", ["", "x" * 129, "a\nb", "a b", "\u0000", "é"])
def test_a_correlation_id_that_spoils_a_log_comes_back(deployed: SimpleNamespace, odd: str) -> None:
    assert failed(deployed, record(deployed, correlation_id=odd), record(deployed)) == [0]
    assert answers(deployed) == [CLEAR]


@hostile.moments
@hostile.faults
@pytest.mark.parametrize(("client", "call"), [("dynamodb", "put_item"), ("sqs", "send_message")])
def test_a_call_that_fails_costs_only_its_own_question_a_receive(
    deployed: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    client: str,
    call: str,
    fault: Exception,
    moment: str,
) -> None:
    """An answer that was sent before the call failed is sent again, alike."""
    module = deployed.module
    faulty = hostile.Faulty(getattr(module, client), call, 2, fault, moment)
    monkeypatch.setattr(module, client, faulty)
    asked = [record(deployed, correlation_id=f"c-{number}") for number in range(3)]
    assert failed(deployed, *asked) == [1]
    assert failed(deployed, asked[1]) == []
    said = answers(deployed)
    assert {one[0] for one in said} == {"c-0", "c-1", "c-2"}
    assert {json.dumps(one[2]) for one in said} == {json.dumps(CLEAR[2])}


def test_what_a_question_holds_has_these_bounds(check_fraud: ModuleType) -> None:
    hostile.bounded(
        lambda given: check_fraud.decide(json.dumps(given))[0] == "answered",
        json.loads(SMALL), order_id=(1, 64), customer=(1, 64), total_cents=(0, 10**12),
    )  # fmt: skip


@pytest.mark.parametrize(("expires_at", "taken"), [("99999999999.5", True), ("1e11", False)])
def test_a_time_in_milliseconds_is_no_expiry(
    deployed: SimpleNamespace, expires_at: str, taken: bool
) -> None:
    assert failed(deployed, record(deployed, expires_at=expires_at)) == ([] if taken else [0])
