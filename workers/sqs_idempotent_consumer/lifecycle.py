"""How an instance learns that Auto Scaling wants it gone, and says that it may go.

Needs Python 3.9 or newer, Amazon Linux 2023's own, and boto3.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from typing import Any

from messages import report

TOKEN_SECONDS = 21600


class Instance:
    """The instance that this program runs on, by its metadata service (IMDSv2).

    every: seconds between two questions. The service's address can be set as for the AWS SDKs.
    """

    def __init__(self, *, every: float) -> None:
        default = "http://169.254.169.254"
        self.address = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", default).rstrip("/")
        self.every, self.asked, self.told, self.token = every, 0.0, "", ""
        # A proxy for the internet is none for a link-local address.
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def leaving(self) -> bool:
        """Whether Auto Scaling is about to terminate this instance."""
        if time.monotonic() - self.asked >= self.every:
            self.asked = time.monotonic()
            try:
                self.told = self._get("autoscaling/target-lifecycle-state")
            except urllib.error.HTTPError as error:
                if error.code != 404:  # 404: in no Auto Scaling group
                    report(state="no metadata", reason=str(error))
            except OSError as error:
                report(state="no metadata", reason=str(error))
        return self.told == "Terminated"

    def let_go(self, autoscaling: Any, group: str, hook: str) -> None:
        """Complete the lifecycle action that waits for us."""
        instance = self._get("instance-id")
        autoscaling.complete_lifecycle_action(
            AutoScalingGroupName=group,
            LifecycleHookName=hook,
            InstanceId=instance,
            LifecycleActionResult="CONTINUE",
        )
        report(state="let go", instance=instance)

    def _get(self, item: str) -> str:
        """One metadata item; a token that is missing or has expired is got anew."""
        for fresh in (False, True):
            if fresh or not self.token:
                self.token = self._ask(
                    "PUT", "api/token", "X-aws-ec2-metadata-token-ttl-seconds", str(TOKEN_SECONDS)
                )
            try:
                return self._ask("GET", f"meta-data/{item}", "X-aws-ec2-metadata-token", self.token)
            except urllib.error.HTTPError as error:
                if error.code != 401 or fresh:
                    raise
        raise AssertionError("not reached")

    def _ask(self, method: str, path: str, header: str, value: str) -> str:
        request = urllib.request.Request(
            f"{self.address}/latest/{path}", method=method, headers={header: value}
        )
        with self.open(request, timeout=2) as answer:
            return answer.read().decode()
