"""Asker: what it makes of a message, and how its futures end, on the sandbox's queues."""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from workers.sqs_request_response import asker
from workers.sqs_request_response.asker import Asker, NoAnswer, Refused

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)
answers = st.fixed_dictionaries(
    {
        "correlation_id": st.text(),
        "expires_at": st.floats().map(repr),
        "outcome": st.sampled_from(["answered", "refused"]),
    }
)
contents = st.dictionaries(st.text(), json_values)


@given(attributes=answers, content=contents, reason=json_values)
def test_an_answer_is_understood(
    attributes: dict[str, str], content: dict[str, Any], reason: Any
) -> None:
    given = content | ({"reason": reason} if attributes["outcome"] == "refused" else {})
    found = asker._parse(message(json.dumps(given), attributes))
    assert found
    correlation_id, expires_at, error, said = found
    assert correlation_id == attributes["correlation_id"]
    assert repr(expires_at) == attributes["expires_at"]
    assert (error is not None) == (attributes["outcome"] == "refused")
    assert error is None or repr(error.args) == repr((str(json.loads(json.dumps(reason))),))
    assert repr(said) == repr(json.loads(json.dumps(given)))  # NaN is not itself


@given(attributes=answers, body=st.text() | json_values.map(json.dumps), missing=st.integers(0, 3))
def test_anything_else_is_no_answer(attributes: dict[str, str], body: str, missing: int) -> None:
    """A body that is no object, or one of the attributes missing or of another kind."""
    if missing < 3:
        left = dict(attributes)
        del left[list(attributes)[missing]]
        assert asker._parse(message("{}", left)) is None
        return
    assert asker._parse(message("{}", attributes | {"outcome": "decided"})) is None
    assert asker._parse(message("{}", attributes | {"expires_at": "soon"})) is None
    if not body.lstrip().startswith("{"):
        assert asker._parse(message(body, attributes)) is None


def message(body: str, attributes: dict[str, str]) -> dict[str, Any]:
    sent = {name: {"StringValue": value} for name, value in attributes.items()}
    return {"Body": body, "MessageAttributes": sent}


def test_a_body_that_no_parser_survives_is_no_answer() -> None:
    sent = {"correlation_id": "a", "expires_at": "1", "outcome": "answered"}
    assert asker._parse(message("[" * 1_000_000, sent)) is None


# ---- on real queues


@pytest.fixture
def shop(sandbox: Any) -> Generator[SimpleNamespace]:
    """A queue of questions and one of answers, whose messages come back after 3 s of ours."""
    sqs, run = boto3.client("sqs"), uuid.uuid4().hex[:8]
    questions, answers = (
        sqs.create_queue(QueueName=f"{what}-{run}", Attributes={"VisibilityTimeout": "60"})[
            "QueueUrl"
        ]
        for what in ("questions", "answers")
    )
    yield SimpleNamespace(sqs=sqs, questions=questions, answers=answers)
    for url in (questions, answers):
        with suppress(sqs.exceptions.QueueDoesNotExist):
            sqs.delete_queue(QueueUrl=url)


@pytest.fixture
def fraud(shop: SimpleNamespace) -> Generator[Asker]:
    with Asker(shop.questions, shop.answers, poll_seconds=1) as open_:
        yield open_


def questions(shop: SimpleNamespace, count: int = 1) -> list[dict[str, Any]]:
    """As many questions as were asked, taken out of their queue."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    while len(found) < count and time.monotonic() < deadline:
        for message in shop.sqs.receive_message(
            QueueUrl=shop.questions,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=20,
            MessageAttributeNames=["All"],
        ).get("Messages", []):
            found.append(message)
            shop.sqs.delete_message(QueueUrl=shop.questions, ReceiptHandle=message["ReceiptHandle"])
    assert len(found) == count
    return found


def answer(
    shop: SimpleNamespace, question: dict[str, Any], outcome: str = "answered", **content: Any
) -> None:
    """Answer as CheckFraud does."""
    sent = question["MessageAttributes"]
    shop.sqs.send_message(
        QueueUrl=shop.answers,
        MessageBody=json.dumps(content),
        MessageAttributes={
            "correlation_id": sent["correlation_id"],
            "expires_at": sent["expires_at"],
            "outcome": {"DataType": "String", "StringValue": outcome},
        },
    )


def soon(probe: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not (result := probe()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return result


def waiting(shop: SimpleNamespace) -> int:
    """Messages in the queue of answers, in flight or not."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = shop.sqs.get_queue_attributes(QueueUrl=shop.answers, AttributeNames=names)
    return sum(int(number) for number in found["Attributes"].values())


def some(counts: dict[str, int]) -> dict[str, int]:
    return {what: count for what, count in counts.items() if count}


def test_a_question_says_who_asks_where_to_answer_and_until_when(
    shop: SimpleNamespace, fraud: Asker
) -> None:
    before = time.time()
    pending = fraud.ask({"order_id": "a"}, timeout=30)
    (question,) = questions(shop)
    sent = {name: one["StringValue"] for name, one in question["MessageAttributes"].items()}
    assert json.loads(question["Body"]) == {"order_id": "a"}
    assert sent["correlation_id"] == pending.correlation_id
    assert sent["reply_to"] == shop.answers.split("/")[-1]
    assert before + 30 <= float(sent["expires_at"]) == pending.expires_at <= time.time() + 30


def test_the_future_has_the_answer_and_the_queue_no_longer(
    shop: SimpleNamespace, fraud: Asker
) -> None:
    pending = fraud.ask({}, timeout=30)
    assert not pending.done()
    answer(shop, *questions(shop), verdict="clear")
    assert pending.result(20) == {"verdict": "clear"}
    assert soon(lambda: waiting(shop) == 0)
    assert some(fraud.counts) == {"asked": 1, "answered": 1}


def test_a_refusal_is_raised_with_its_reason(shop: SimpleNamespace, fraud: Asker) -> None:
    pending = fraud.ask({}, timeout=30)
    answer(shop, *questions(shop), outcome="refused", reason="order_id: Field required")
    with pytest.raises(Refused, match=r"^order_id: Field required$"):
        pending.result(20)
    assert some(fraud.counts) == {"asked": 1, "refused": 1}


def test_a_late_answer_is_dropped(shop: SimpleNamespace, fraud: Asker) -> None:
    pending = fraud.ask({}, timeout=0.5)
    (question,) = questions(shop)
    with pytest.raises(NoAnswer, match=r"^no answer in time$"):
        pending.result(20)
    answer(shop, question, verdict="clear")
    assert soon(lambda: fraud.counts["late"] == 1)
    assert soon(lambda: waiting(shop) == 0)
    assert some(fraud.counts) == {"asked": 1, "timed out": 1, "late": 1}


def test_the_shorter_timeout_ends_first(fraud: Asker) -> None:
    long, short = fraud.ask({}, timeout=30), fraud.ask({}, timeout=0.2)
    with pytest.raises(NoAnswer):
        short.result(5)
    assert not long.done()


def test_the_same_answer_again_is_dropped(shop: SimpleNamespace, fraud: Asker) -> None:
    pending = fraud.ask({}, timeout=30)
    (question,) = questions(shop)
    answer(shop, question, verdict="clear")
    answer(shop, question, verdict="review")
    first = pending.result(20)
    assert soon(lambda: fraud.counts["repeated"] == 1)
    assert pending.result() == first
    assert soon(lambda: waiting(shop) == 0)


def test_an_answer_that_nobody_asked_for_stays(shop: SimpleNamespace, fraud: Asker) -> None:
    """It goes to the dead-letter queue by and by; one that has expired would be dropped."""
    expires_at = {"DataType": "Number", "StringValue": repr(time.time() + 60)}
    other = {"correlation_id": {"DataType": "String", "StringValue": "x"}, "expires_at": expires_at}
    answer(shop, {"MessageAttributes": other}, verdict="clear")
    shop.sqs.send_message(QueueUrl=shop.answers, MessageBody="no answer at all")
    assert soon(lambda: fraud.counts["strange"] >= 4)  # each twice
    assert waiting(shop) == 2


def test_a_restarted_asker_drops_its_predecessors_answers_once_they_expire(
    shop: SimpleNamespace,
) -> None:
    with Asker(shop.questions, shop.answers, poll_seconds=1) as predecessor:
        pending = predecessor.ask({}, timeout=4)
    with pytest.raises(CancelledError):
        pending.result(0)
    answer(shop, *questions(shop), verdict="clear")
    with Asker(shop.questions, shop.answers, poll_seconds=1) as successor:
        assert soon(lambda: successor.counts["late"] == 1)
        assert soon(lambda: waiting(shop) == 0)


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(
    shop: SimpleNamespace, fraud: Asker
) -> None:
    def respond() -> None:
        for question in questions(shop, 60):
            answer(shop, question, **json.loads(question["Body"]))

    responder = threading.Thread(target=respond)
    responder.start()
    with ThreadPoolExecutor(6) as threads:
        pending = list(threads.map(lambda n: fraud.ask({"n": n}, timeout=60), range(60)))
    assert [one.result(60)["n"] for one in pending] == list(range(60))
    responder.join()
    assert some(fraud.counts) == {"asked": 60, "answered": 60}


def test_a_callback_may_ask_again(shop: SimpleNamespace, fraud: Asker) -> None:
    second: list[asker.Pending] = []
    first = fraud.ask({}, timeout=30)
    first.add_done_callback(lambda _: second.append(fraud.ask({}, timeout=30)))
    answer(shop, *questions(shop), verdict="review")
    first.result(20)
    answer(shop, *questions(shop), verdict="clear")
    assert second[0].result(20) == {"verdict": "clear"}


def test_a_cancelled_future_wants_no_answer(shop: SimpleNamespace, fraud: Asker) -> None:
    pending = fraud.ask({}, timeout=30)
    assert pending.cancel()
    answer(shop, *questions(shop), verdict="clear")
    assert soon(lambda: waiting(shop) == 0 and fraud.counts["cancelled"] == 1)
    assert some(fraud.counts) == {"asked": 1, "cancelled": 1}


def test_close_cancels_what_is_open_and_ends_the_threads(shop: SimpleNamespace) -> None:
    before = threading.active_count()
    with Asker(shop.questions, shop.answers, poll_seconds=1) as closing:
        pending = closing.ask({}, timeout=30)
    assert pending.cancelled()
    assert threading.active_count() == before
    assert some(closing.counts) == {"asked": 1, "cancelled": 1}
    with pytest.raises(RuntimeError, match="closed"):
        closing.ask({})


def test_what_sqs_does_not_take_was_not_asked(shop: SimpleNamespace) -> None:
    with Asker(f"{shop.questions}-gone", shop.answers, poll_seconds=1) as lost:
        with pytest.raises(ClientError, match=r"NonExistentQueue|QueueDoesNotExist"):
            lost.ask({})
        assert some(lost.counts) == {}


def test_a_queue_that_cannot_be_read_is_named_in_the_timeout(
    shop: SimpleNamespace, fraud: Asker
) -> None:
    assert fraud.problem is None
    shop.sqs.delete_queue(QueueUrl=shop.answers)
    assert soon(lambda: fraud.problem is not None)
    with pytest.raises(NoAnswer, match=r"answers cannot be received: .*(NonExistent|DoesNotExist)"):
        fraud.ask({}, timeout=0.2).result(5)


@pytest.mark.parametrize("timeout", [0, -1.0])
def test_a_timeout_is_positive(fraud: Asker, timeout: float) -> None:
    with pytest.raises(
        ValueError, match=f"timeout is more than 0 s and at most 1209600, not {timeout}"
    ):
        fraud.ask({}, timeout=timeout)


# ---- faults: no future waits for ever, and no thread dies in silence


class Sqs:
    """SQS of an asker, whose every question is answered at once."""

    def __init__(self) -> None:
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self.sending: list[BaseException] = []
        self.receiving: list[BaseException] = []
        self.deleting: list[BaseException] = []
        self.answering = True

    def send_message(self, MessageAttributes: dict[str, Any], **_: Any) -> None:
        fault = self.sending.pop(0) if self.sending else None
        if not isinstance(fault, ClientError) and self.answering:
            outcome = {"outcome": {"StringValue": "answered"}}
            self.answers.put({"MessageId": "m", "ReceiptHandle": "r", "Body": "{}",
                              "MessageAttributes": MessageAttributes | outcome})  # fmt: skip
        if fault:
            raise fault

    def receive_message(self, **_: Any) -> dict[str, Any]:
        if self.receiving:
            raise self.receiving.pop(0)
        try:
            return {"Messages": [self.answers.get(timeout=0.05)]}
        except queue.Empty:
            return {}

    def delete_message_batch(self, **_: Any) -> None:
        if self.deleting:
            raise self.deleting.pop(0)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[Sqs, Asker]]:
    sqs = Sqs()
    with Asker("questions", "https://sqs/answers", sqs=sqs, poll_seconds=1) as open_:
        yield sqs, open_


LOST = EndpointConnectionError(endpoint_url="https://sqs")
REFUSED = ClientError(
    {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}},
    "SendMessage",
)


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 1e10, 14 * 86400 + 1])
def test_a_timeout_has_an_end(faulty: tuple[Sqs, Asker], timeout: float) -> None:
    _, fraud = faulty
    with pytest.raises(ValueError, match="at most 1209600"):
        fraud.ask({}, timeout=timeout)
    fraud.ask({}, timeout=14 * 86400).result(5)
    assert some(fraud.counts) == {"asked": 1, "answered": 1}


@pytest.mark.parametrize(
    "what", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), ValueError()]
)
@pytest.mark.parametrize("end", ["answered", "timed out"])
def test_a_callback_that_raises_costs_no_other_future(
    faulty: tuple[Sqs, Asker], end: str, what: BaseException
) -> None:
    sqs, fraud = faulty
    sqs.answering = end == "answered"

    def ends(_: object) -> None:
        raise what

    first = asker.Pending(0.3)
    first.add_done_callback(ends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asker, "Pending", lambda timeout: first)
        fraud.ask({}, timeout=0.3)
    assert soon(first.done)
    sqs.answering = True
    assert fraud.ask({}, timeout=5).result(5) == {}
    sqs.answering = False
    with pytest.raises(NoAnswer):
        fraud.ask({}, timeout=0.2).result(5)


@pytest.mark.parametrize("call", ["receiving", "deleting"])
@pytest.mark.parametrize(
    "fault", [LOST, REFUSED, KeyError("Messages"), MemoryError(), SystemExit()]
)
def test_a_call_that_fails_is_told_and_tried_again(
    faulty: tuple[Sqs, Asker], call: str, fault: BaseException
) -> None:
    sqs, fraud = faulty
    getattr(sqs, call).append(fault)
    first = fraud.ask({}, timeout=10)
    assert soon(lambda: fraud.problem is fault)
    assert first.result(5) == {}
    assert fraud.ask({}, timeout=10).result(5) == {}
    assert soon(lambda: fraud.problem is None)


def test_the_answer_to_a_question_whose_sending_failed_is_dropped(
    faulty: tuple[Sqs, Asker],
) -> None:
    """SQS has it, and only its answer to us was lost."""
    sqs, fraud = faulty
    sqs.sending.append(LOST)
    with pytest.raises(EndpointConnectionError):
        fraud.ask({}, timeout=10)
    assert soon(lambda: fraud.counts["repeated"] == 1)
    assert some(fraud.counts) == {"repeated": 1}


def test_what_sqs_refuses_leaves_nothing(faulty: tuple[Sqs, Asker]) -> None:
    sqs, fraud = faulty
    sqs.sending.append(REFUSED)
    with pytest.raises(ClientError):
        fraud.ask({}, timeout=10)
    assert fraud._asked == {}


@pytest.mark.parametrize("question", [{"a": float("nan")}, {"a": object()}])
def test_what_is_no_json_is_not_asked(faulty: tuple[Sqs, Asker], question: dict[str, Any]) -> None:
    _, fraud = faulty
    with pytest.raises((ValueError, TypeError)):
        fraud.ask(question, timeout=10)
    assert some(fraud.counts) == {}


@pytest.mark.parametrize("seconds", [0, 21])
def test_a_poll_is_1_to_20_seconds(seconds: int) -> None:
    with pytest.raises(ValueError, match=f"poll_seconds is 1 to 20, not {seconds}"):
        Asker("questions", "answers", sqs=Sqs(), poll_seconds=seconds)


def test_by_default_a_service_that_hangs_is_given_up(sandbox: Any) -> None:
    with Asker("https://sqs/questions", "https://sqs/answers", poll_seconds=20) as fraud:
        fraud._closing.set()
        assert fraud._sqs.meta.config.read_timeout == 10
        assert fraud._receiving.meta.config.read_timeout == 30
