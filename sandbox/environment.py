"""Environments that cannot reach AWS by accident: for the server, and for what targets it."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

REGION = "us-east-1"
ACCOUNT = "000000000000"
NO_AWS = Path(__file__).parent / "guarded" / "no_aws.cjs"
# StartSyncExecution and a few others ask a host of their own: sync-localhost, which is nowhere.
ONE_HOST = {"AWS_DISABLE_HOST_PREFIX_INJECTION": "true"}


class Keys(NamedTuple):
    """What proves that a request comes from whoever started the sandbox: the keys of its root."""

    id: str
    secret: str

    @classmethod
    def new(cls) -> Keys:
        """Keys that nobody can guess, in AWS's form."""
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
        return cls(
            "AKIA" + "".join(secrets.choice(letters) for _ in range(16)), secrets.token_urlsafe(30)
        )

    def variables(self) -> dict[str, str]:
        """As the AWS SDKs read them."""
        return {"AWS_ACCESS_KEY_ID": self.id, "AWS_SECRET_ACCESS_KEY": self.secret}


def for_clients(
    port: int, authority: Path, keys: Keys, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a command that targets the sandbox on `port` as the owner of `keys`.

    Everything of AWS in `base` (default: this process's) goes: credentials, profile, config files,
    Region, endpoints of single services. `authority` is the sandbox's own certificate
    authority, and the only one that AWS clients here trust: no connection to AWS gets through.
    """
    base = os.environ if base is None else base
    kept = {
        name: value
        for name, value in base.items()
        if not name.startswith(("AWS_", "AMAZON_", "BOTO_", "CDK_DEFAULT_"))
        and not name.upper().endswith("_PROXY")
    }
    return (
        kept
        | ONE_HOST
        | keys.variables()
        | {
            "AWS_ENDPOINT_URL": f"https://localhost:{port}",
            # Of an address, no SDK makes BUCKET.localhost, which leads nowhere.
            "AWS_ENDPOINT_URL_S3": f"https://127.0.0.1:{port}",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CA_BUNDLE": str(authority),
            "REQUESTS_CA_BUNDLE": str(authority),
            "NODE_EXTRA_CA_CERTS": str(authority),
            # Node.js trusts other authorities, too: there, names of AWS lead nowhere.
            "NODE_OPTIONS": " ".join(
                [*filter(None, [base.get("NODE_OPTIONS")]), f'--require "{NO_AWS}"']
            ),
            "NO_PROXY": "*",
            # The CDK's command-line interface reports home otherwise.
            "CDK_DISABLE_CLI_TELEMETRY": "true",
        }
    )


def for_server(port: int, folder: Path, keys: Keys, clock: float, gaps: bool) -> dict[str, str]:
    """The environment of the server, made from nothing: functions inherit every word of it.

    But for the keys: a function has its own role's in their place.
    """
    temporary, authority = folder / "tmp", folder / "tls" / "ca.pem"
    return (
        ONE_HOST
        | keys.variables()
        | {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(temporary),
            "TMPDIR": str(temporary),
            "LANG": "C.UTF-8",
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "AUTH": "true",
            "USE_SSL": "1",
            "MINISTACK_SSL_CERT": str(folder / "tls" / "server.pem"),
            "MINISTACK_SSL_KEY": str(folder / "tls" / "server.key"),
            # Functions call back over TLS and must trust this certificate: without it botocore
            # retries in silence until the function times out.
            "AWS_CA_BUNDLE": str(authority),
            "REQUESTS_CA_BUNDLE": str(authority),
            "SSL_CERT_FILE": str(authority),
            # Listeners on other ports and all interfaces, which no pattern needs.
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "LOG_LEVEL": "INFO",
            "SANDBOX_CLOCK": str(clock),
            "SANDBOX_GAPS": "closed" if gaps else "stock",
            "SANDBOX_PYTHON": sys.executable,  # with what functions must not see
        }
    )
