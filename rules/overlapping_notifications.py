"""Two S3 event notifications for the same event."""

import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World


class OverlappingNotifications(Rule):
    """S3 refuses rules of one event type whose prefixes and suffixes overlap."""

    id = "E9301"
    shortdesc = "Send each S3 event to one target: overlapping rules of one event type are refused."
    description = (
        "S3 refuses a notification configuration in which two rules have an event type in common"
        " and a key can match the prefixes and suffixes of both. To tell several, notify a topic."
    )
    source_url = (
        "https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-filtering.html"
    )
    tags = ["s3"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each pair of notifications of one bucket."""
        for one in {resource.id: resource for resource, _, _ in world.notifications}.values():
            of_bucket = [
                (path, rule) for each, path, rule in world.notifications if each.id == one.id
            ]
            for (_, first), (path, second) in combinations(of_bucket, 2):
                if first.known and second.known and first.overlaps(second):
                    yield (
                        path,
                        f"Notify a topic instead of two targets from {one.id}:"
                        f" {', '.join(second.events)} of keys"
                        f" {second.prefix}*{second.suffix} and {first.prefix}*{first.suffix}"
                        " overlap, and S3 refuses them.",
                    )
