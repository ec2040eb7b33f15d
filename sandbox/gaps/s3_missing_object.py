"""Who may not list a bucket does not learn that an object is missing.

AWS answers a GetObject or HeadObject for a key that is not there with 404 to who has s3:ListBucket
on the bucket, and with 403 to everybody else. Seen in MiniStack 1.5.33: always with 404, so that a
reader whose role lacks the grant works there and not on AWS.
"""

from ministack.core import iam_actions
from ministack.services import s3

PATCHES = (
    "core.iam_actions.s3_additional_checks",
    "core.iam_actions._s3_action",
    "services.s3._buckets",
)


def close() -> None:
    """Where the object is missing, s3:ListBucket is one more action that the request needs."""
    known = iam_actions.s3_additional_checks

    def checks(
        method: str, path: str, headers: dict, body: bytes, query: dict
    ) -> list[tuple[str, str]]:
        found = known(method, path, headers, body, query)
        name, _, key = path.lstrip("/").partition("/")
        bucket = s3._buckets.get(name)
        reads = key and iam_actions._s3_action(method, path, query) == "GetObject"
        if reads and bucket is not None and key not in bucket["objects"]:
            return [*found, ("s3:ListBucket", f"arn:aws:s3:::{name}")]
        return found

    iam_actions.s3_additional_checks = checks
