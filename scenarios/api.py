"""Requests to an API of API Gateway, signed or not, over connections that stay open."""

from __future__ import annotations

import http.client
import os
import ssl
import threading
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


class Api:
    """One API, asked by one caller; threads may share it.

    url: the stage's URL, as a stack's output has it. region: that of the signatures.

    Where AWS_ENDPOINT_URL is set, as it is for the sandbox, connections go there and the
    certificate is that host's; the host that is said and signed is that of the URL everywhere.
    """

    def __init__(self, url: str, region: str) -> None:
        self.url, self.region = url.rstrip("/"), region
        self.host = urlsplit(url).netloc
        endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL") or f"https://{self.host}")
        self.address = endpoint.hostname or "", endpoint.port or 443
        self.trusted = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
        self.mine = threading.local()

    def post(
        self,
        path: str,
        body: str,
        caller: Credentials | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, str]:
        """(status, body) of the answer to a POST; not signed without a caller.

        A connection that broke is opened anew once, so the request may arrive twice.
        """
        request = AWSRequest(
            "POST",
            self.url + path,
            data=body.encode(),
            headers={"Host": self.host, "Content-Type": content_type},
        )
        if caller:
            SigV4Auth(caller, "execute-api", self.region).add_auth(request)
        target = urlsplit(self.url + path).path
        for last in (False, True):
            connection = self._connection()
            try:
                connection.request("POST", target, body.encode(), dict(request.headers.items()))
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except (http.client.HTTPException, OSError):
                connection.close()
                if last:
                    raise
        raise AssertionError("unreachable")

    def _connection(self) -> http.client.HTTPSConnection:
        """This thread's connection."""
        if not hasattr(self.mine, "connection"):
            self.mine.connection = http.client.HTTPSConnection(
                *self.address, timeout=30, context=self.trusted
            )
        return self.mine.connection
