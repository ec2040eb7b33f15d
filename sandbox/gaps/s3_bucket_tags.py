"""A bucket of a template has the template's tags.

Seen in MiniStack 1.5.33: it has none, so the CDK's function that empties a bucket before it is
deleted, and asks a tag whether it may, fails, and the stack cannot be deleted.
"""

from typing import Any

import resources
from ministack.services import s3

PATCHES = (*resources.NEEDS, "services.s3._bucket_tags")


def close() -> None:
    """Keep them where S3's own calls look for them."""

    def keep(bucket: str, properties: dict[str, Any]) -> None:
        s3._bucket_tags.pop(bucket, None)
        if tags := properties.get("Tags"):
            s3._bucket_tags[bucket] = {tag["Key"]: str(tag["Value"]) for tag in tags}

    resources.finish("AWS::S3::Bucket", keep)
