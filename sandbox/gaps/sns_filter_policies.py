"""Which messages a subscription's filter policy lets through.

Seen in MiniStack 1.5.33: a policy on the body does not look into arrays of objects, knows no null
and no names with dots. What makes a policy invalid is in sns_refusals.
"""

from typing import Any

import filter_policies
from ministack.services import sns

PATCHES = ("services.sns._matches_filter_policy",)


def close() -> None:
    """Ask ours."""
    sns._matches_filter_policy = _lets_through


def _lets_through(subscription: dict[str, Any], attributes: dict[str, Any], message: str) -> bool:
    set_to = subscription.get("attributes", {})
    scope = set_to.get("FilterPolicyScope") or "MessageAttributes"
    return filter_policies.lets_through(set_to.get("FilterPolicy", ""), scope, attributes, message)
