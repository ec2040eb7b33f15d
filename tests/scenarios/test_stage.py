"""What every scenario does on AWS, seen from the calls that it makes."""

from __future__ import annotations

from unittest.mock import MagicMock

from scenarios.stage import Stage


def test_a_listeners_queue_has_a_valid_name_whatever_the_stacks_is() -> None:
    """A stack's name has up to 128 characters, a queue's up to 80."""
    stage, service = Stage.__new__(Stage), MagicMock()
    stage.stack = 128 * "S"
    stage.clock = 1000
    vars(stage)["client"] = lambda _name: service
    service.get_queue_attributes.return_value = {"Attributes": {"QueueArn": "arn:aws:sqs:::one"}}
    with stage.listener("arn:aws:sns:::topic"):
        assert len(service.create_queue.call_args.kwargs["QueueName"]) <= 80
