"""Stand-ins for EC2's instance metadata service, one for each instance that is played by a process.

MiniStack answers for one made-up instance with the credentials of nobody, and knows no lifecycle
state. These answer on loopback, only to who has fetched a token first (IMDSv2), with a role's
credentials, as a program finds them on an instance.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Instance:
    """What one instance is told about itself; `lifecycle_state` is there to be changed."""

    def __init__(self, credentials: Mapping[str, str] | None = None) -> None:
        """credentials: of its role, by the names that they have in an environment."""
        self.id = f"i-{secrets.token_hex(8)}0"
        self.lifecycle_state, self.address = "InService", ""
        self.tokens: set[str] = set()
        self.items = {}
        if credentials:
            self.items["iam/security-credentials/"] = "role"
            self.items["iam/security-credentials/role"] = json.dumps(
                {
                    "Code": "Success",
                    "Type": "AWS-HMAC",
                    "AccessKeyId": credentials["AWS_ACCESS_KEY_ID"],
                    "SecretAccessKey": credentials["AWS_SECRET_ACCESS_KEY"],
                    "Token": credentials["AWS_SESSION_TOKEN"],
                    "LastUpdated": "2026-01-01T00:00:00Z",
                    "Expiration": "2100-01-01T00:00:00Z",  # nobody here asks for new ones
                }
            )

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """(HTTP status, text) of a request; the headers' names are in lower case."""
        if (method, path) == ("PUT", "/latest/api/token"):
            if not headers.get("x-aws-ec2-metadata-token-ttl-seconds", "").isdigit():
                return 400, ""
            self.tokens.add(token := secrets.token_urlsafe(32))
            return 200, token
        if headers.get("x-aws-ec2-metadata-token") not in self.tokens:
            return 401, ""
        items = self.items | {
            "instance-id": self.id,
            "autoscaling/target-lifecycle-state": self.lifecycle_state,
        }
        found = items.get(path.removeprefix("/latest/meta-data/"))
        return (404, "") if found is None else (200, found)


@contextmanager
def served(instance: Instance) -> Generator[Instance]:
    """Answer for the instance at its `address` for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            status, text = instance.answer(
                self.command,
                self.path,
                {name.lower(): value for name, value in self.headers.items()},
            )
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = _answer

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        instance.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield instance
        finally:
            server.shutdown()
            thread.join()
