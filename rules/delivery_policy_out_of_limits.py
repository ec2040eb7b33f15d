"""The numbers of an HTTP delivery policy."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import Finding, Rule, World, at, number


class DeliveryPolicyOutOfLimits(Rule):
    """At most 100 retries, an hour in all, and phases that add up."""

    id = "E9204"
    shortdesc = "Keep the HTTP delivery policy within SNS's limits: 100 retries and 3,600 s in all."
    description = (
        "SNS refuses a policy with more than 100 retries, with delays outside 1 to 3,600 s or the"
        " least above the most, with phases that have more retries than all together, or that"
        " takes longer than 3,600 s. The total is reckoned here from its least: the shortest delays"
        " that the policy can have."
    )
    source_url = "https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html"
    tags = ["sns"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each subscription's and each topic's delivery policy."""
        for one, path, settings, _ in world.subscriptions:
            policy = at(settings.get("DeliveryPolicy"), "healthyRetryPolicy")
            for problem in problems(policy):
                yield [*path, "DeliveryPolicy"], f"Mend the DeliveryPolicy of {one.id}: {problem}."
        for topic in world.of("AWS::SNS::Topic"):
            policy = at(topic["DeliveryPolicy"], "http", "defaultHealthyRetryPolicy")
            for problem in problems(policy):
                yield (
                    topic.path("DeliveryPolicy"),
                    f"Mend the DeliveryPolicy of {topic.id}: {problem}.",
                )


def problems(policy: object) -> Iterator[str]:
    """What SNS would refuse in a retry policy; its defaults are 3 retries 20 s apart."""

    def value(name: str, default: float) -> float | None:
        return number(at(policy, name), default)

    if not isinstance(policy, dict):
        return
    retries, least, most = (
        value("numRetries", 3),
        value("minDelayTarget", 20),
        value("maxDelayTarget", 20),
    )
    phases = [
        value(name, 0) for name in ("numNoDelayRetries", "numMinDelayRetries", "numMaxDelayRetries")
    ]
    if retries is None or least is None or most is None or None in phases:
        return
    known = [phase for phase in phases if phase is not None]
    if not 0 <= retries <= 100:
        yield f"numRetries is 0 to 100, not {retries:g}"
    if not 1 <= least <= most <= 3600:
        yield f"delays are 1 to 3600 s, the least ({least:g}) not above the most ({most:g})"
    elif sum(known) > retries:
        yield f"its phases have {sum(known):g} retries, more than numRetries ({retries:g})"
    elif (total := (retries - known[0] - known[2]) * least + known[2] * most) > 3600:
        yield f"its retries take {total:g} s or more, and SNS gives up after 3600"
