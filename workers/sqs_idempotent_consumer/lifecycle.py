"""How a worker says that it works, learns that Auto Scaling wants it gone, and lets it go.

Needs Python 3.9 or newer, Amazon Linux 2023's own, and boto3.
"""

from __future__ import annotations

import os
import socket
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from program import report, said

METADATA = "http://169.254.169.254"
TOKEN_SECONDS = 21600
LONGEST_ANSWER = 1000  # bytes, several times what is asked for


def tell_ready() -> None:
    """Tell systemd, if it started us, that the program does its work (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(b"READY=1", address.replace("@", "\0", 1))
    report(state="ready")


class Instance:
    """The instance that this program runs on, by its metadata service (IMDSv2).

    The service's address can be set as for the AWS SDKs.
    """

    def __init__(self) -> None:
        address = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", METADATA)
        self.host, self.token = urlsplit(address).netloc, ""

    def leaving(self) -> bool:
        """Whether Auto Scaling is about to terminate this instance; no, if nobody can tell."""
        try:
            return self._get("autoscaling/target-lifecycle-state") == "Terminated"
        except Exception as error:  # whatever a service that is broken answers
            report(state="no metadata", reason=said(error))
            return False

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
        """One item of metadata, "" if there is none of that name; OSError if nobody answers."""
        path = f"meta-data/{item}"
        status, text = self._ask("GET", path, "X-aws-ec2-metadata-token", self.token)
        if status == 401:  # no token yet, or it has expired
            lifetime = "X-aws-ec2-metadata-token-ttl-seconds"
            granted, self.token = self._ask("PUT", "api/token", lifetime, str(TOKEN_SECONDS))
            if granted != 200:
                raise OSError(f"the metadata service answers {granted} when asked for a token")
            status, text = self._ask("GET", path, "X-aws-ec2-metadata-token", self.token)
        if status not in (200, 404):
            raise OSError(f"the metadata service answers {status}")
        return text if status == 200 else ""

    def _ask(self, method: str, path: str, header: str, value: str) -> tuple[int, str]:
        """(HTTP status, text); by no proxy, for the address is a link-local one."""
        connection = HTTPConnection(self.host, timeout=2)
        try:
            connection.request(method, f"/latest/{path}", headers={header: value})
            answer = connection.getresponse()
            return answer.status, answer.read(LONGEST_ANSWER).decode()
        finally:
            connection.close()
