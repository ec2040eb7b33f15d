"""A receive from a FIFO queue brings as many messages of one group as there are.

SQS fills a receive from the first group that is free before it goes on to the next (developer
guide, FIFO delivery logic). Seen in MiniStack 1.5.33: it takes them in the order of their sending,
so a receive of two from interleaved groups mixes them.
"""

from typing import Any

from ministack.services import sqs

PATCHES = ("services.sqs._collect_fifo",)


def close() -> None:
    """Give it the messages group by group, in the order of each group's oldest."""
    collect = sqs._collect_fifo

    def collect_by_group(queue: dict[str, Any], *more: Any) -> list[dict[str, Any]]:
        first: dict[str, int] = {}
        for message in queue["messages"]:
            if message["visible_at"] <= sqs.time.time():
                first.setdefault(message["group_id"], len(first))
        ordered = sorted(
            queue["messages"], key=lambda message: first.get(message["group_id"], len(first))
        )
        return collect({**queue, "messages": ordered}, *more)

    sqs._collect_fifo = collect_by_group
