"""Batches of different message groups are in work at the same time.

AWS: as many at once as there are groups with messages, up to the mapping's MaximumConcurrency, and
never two of one group. Seen in MiniStack 1.5.33: one batch of a FIFO queue at a time, so that a
slow group holds up all others, and order would hold even if the queue did not keep its groups
apart. Here two are in work: more cold functions at once on two cores may outlive a visibility
timeout of the faster clock. That no group is in both is the queue's own doing.
"""

from ministack.services import lambda_svc

PATCHES = ("services.lambda_svc._sqs_esm_concurrency", "services.sqs._collect_fifo")

AT_ONCE = 2


def close() -> None:
    """Count a FIFO queue's batches as a standard queue's, up to two."""
    stock = lambda_svc._sqs_esm_concurrency

    def at_once(esm: dict, function: dict, config: dict, queue: dict | None = None) -> int:
        limit = stock(esm, function, config)
        return min(AT_ONCE, limit) if (queue or {}).get("is_fifo") else limit

    lambda_svc._sqs_esm_concurrency = at_once
