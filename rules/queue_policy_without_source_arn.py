"""Any topic of anybody may send through a queue policy that only names SNS."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Rule, World, allows, principals, statements


class QueuePolicyWithoutSourceArn(Rule):
    """The service principal is shared by all accounts: the condition says whose topic it is."""

    id = "E9112"
    shortdesc = "Name the topic in aws:SourceArn where a queue's policy admits sns.amazonaws.com."
    description = (
        "The principal sns.amazonaws.com stands for every topic of every account. Without a"
        " condition on aws:SourceArn anybody's topic can send to the queue."
    )
    source_url = "https://docs.aws.amazon.com/sns/latest/dg/subscribe-sqs-queue-to-sns-topic.html"
    tags = ["sqs", "sns"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each statement of a queue's policy that allows SNS to send."""
        for policy in world.of("AWS::SQS::QueuePolicy", "AWS::SQS::QueueInlinePolicy"):
            for index, statement in enumerate(statements(policy["PolicyDocument"])):
                condition = statement.get("Condition")
                if (
                    "sns.amazonaws.com" in principals(statement, "Service")
                    and allows(statement, "sqs:SendMessage", unknown=False)
                    and condition is not UNKNOWN
                    and not names_the_source(condition)
                ):
                    yield (
                        policy.path("PolicyDocument"),
                        f"Add a condition on aws:SourceArn to statement {index + 1} of"
                        f" {policy.id}: it lets every topic of every account send.",
                    )


def names_the_source(condition: object) -> bool:
    """Whether a condition compares aws:SourceArn with something, in any spelling."""
    operators = condition.values() if isinstance(condition, dict) else []
    return any(
        key.lower() == "aws:sourcearn" and value != "*"
        for operands in operators
        if isinstance(operands, dict)
        for key, value in operands.items()
    )
