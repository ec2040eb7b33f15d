"""An API answers under the host name that its URL in an output has.

On AWS a stage's URL is https://API.execute-api.REGION.amazonaws.com/STAGE/, and that host is part
of what a caller signs. Seen in MiniStack 1.5.33: outputs hold this URL, but requests with this host
are not taken for the API's; only API.execute-api.localhost and a path of its own are. Here a client
connects to the sandbox as it would to a proxy and says the host of the URL, so that URL and
signature are the same as on AWS.
"""

import re

from ministack import app

PATCHES = ("app._EXECUTE_API_RE",)


def close() -> None:
    """Know the host by AWS's name too."""
    stock = app._EXECUTE_API_RE.pattern
    aws = r"^([a-z0-9]{8,10})\.execute-api\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?(?::\d+)?$"
    app._EXECUTE_API_RE = _Either(re.compile(stock), re.compile(aws))


class _Either:
    """Two patterns in the place of one."""

    def __init__(self, *patterns: re.Pattern[str]) -> None:
        self.patterns = patterns

    def match(self, host: str) -> re.Match[str] | None:
        """The first match; its group 1 is the API's id."""
        return next((found for one in self.patterns if (found := one.match(host))), None)
