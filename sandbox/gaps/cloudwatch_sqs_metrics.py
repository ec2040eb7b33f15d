"""The metrics that SQS publishes about each queue.

Seen in MiniStack 1.5.33: AWS/SQS is empty, so an alarm on a dead-letter queue never moves. Here
depth and age are published every second (AWS: every minute). Ages are in SQS time: with the
faster clock they grow as fast as the timeouts that they are compared with.
"""

import threading
import time

from ministack.core.responses import request_scope
from ministack.services import cloudwatch, sqs

PATCHES = ("services.sqs._queues", "services.sqs._queues_lock", "services.cloudwatch.record_metric")


def close() -> None:
    """Publish for every queue of every account, for ever."""
    threading.Thread(target=_publish, daemon=True, name="gap-sqs-metrics").start()


def _publish() -> None:
    while True:
        time.sleep(1)
        for (account, region, *_), queue in list(sqs._queues._data.items()):
            with request_scope(account, region):
                _record(queue)


def _record(queue: dict) -> None:
    now = sqs.time.time()
    with sqs._queues_lock:
        messages = list(queue["messages"])
    waiting = [message for message in messages if message.get("visible_at", 0) <= now]
    flying = [
        message
        for message in messages
        if message.get("visible_at", 0) > now and message.get("receive_count", 0)
    ]
    oldest = max((now - message.get("sent_at", now) for message in messages), default=0)
    dimensions = {"QueueName": queue["attributes"]["QueueArn"].rsplit(":", 1)[1]}
    for name, value, unit in (
        ("ApproximateNumberOfMessagesVisible", len(waiting), "Count"),
        ("ApproximateNumberOfMessagesNotVisible", len(flying), "Count"),
        ("ApproximateNumberOfMessagesDelayed", len(messages) - len(waiting) - len(flying), "Count"),
        ("ApproximateAgeOfOldestMessage", oldest, "Seconds"),
    ):
        cloudwatch.record_metric("AWS/SQS", name, value, unit, dimensions)
