"""docs/rules.md, from the rules themselves: `make docs` writes it, a test keeps it current."""

from __future__ import annotations

from pathlib import Path

from cfnlint.rules import Rules

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "rules.md"
FAMILIES = {
    "1": "Queues and their consumers",
    "2": "Topics and their subscriptions",
    "3": "S3 event notifications",
    "4": "State machines",
    "5": "EventBridge",
    "6": "Alarms",
    "7": "Amazon MQ",
    "8": "Names",
}
INTRODUCTION = """# The rules

Made from the rules in `rules/` by `make docs`. README says how to run them on your templates.
E is an error: messages are lost or the deployment fails. W is a warning: there may be a reason.

To leave a rule out for one resource, say so where the resource is:

```yaml
Metadata: {cfn-lint: {config: {ignore_checks: [W9702]}}}
```

in the CDK
`queue.node.default_child.add_metadata("cfn-lint", {"config": {"ignore_checks": ["W9702"]}})`,
or for all with `--ignore-checks W9702`. Options are given as `--configure-rule E9101:factor=3`.

What a rule cannot know before deployment (a parameter without a default, an import, a resource of
another stack) it does not report. A template with conditions is asked in each of its forms. SAM's
own resource types are read after SAM's transform only.
"""


def page() -> str:
    """The whole page."""
    rules = Rules.create_from_directory(str(FOLDER)).data
    lines, family = [INTRODUCTION], ""
    for rule_id in sorted(rules, key=lambda rule_id: rule_id[1:]):
        rule = rules[rule_id]
        if FAMILIES[rule_id[2]] != family:
            family = FAMILIES[rule_id[2]]
            lines.append(f"## {family}\n")
        options = "".join(
            f"\nOption `{name}`: {settings['default']!r} unless said otherwise.\n"
            for name, settings in rule.config_definition.items()
        )
        lines.append(
            f"### {rule_id}: {rule.shortdesc}\n\n{rule.description}\n{options}\n"
            f"Source: <{rule.source_url}>\n"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
