"""A name that stands in the way of the next change."""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import ClassVar

from cfnlint.schema import PROVIDER_SCHEMA_MANAGER, ResourceNotFoundError

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _messaging import UNKNOWN, Finding, Reference, Rule, World, missing


class PhysicalName(Rule):
    """A named resource cannot be replaced, and a second copy cannot be deployed."""

    id = "W9801"
    shortdesc = (
        "Leave the name to CloudFormation: a named resource can be neither replaced nor copied."
    )
    description = (
        "CloudFormation makes the new resource before it removes the old one, so a change that"
        " needs replacement fails on the name, and so does a second copy of the stack in the"
        " account. Asked are names that need replacement to change, are not required, and name the"
        " whole resource (not a part of another). A name made from AWS::StackName or from another"
        " resource lets copies live; the option `stack_name_is_enough: false` asks those too."
    )
    source_url = (
        "https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-properties-name.html"
    )
    tags = ["all"]

    options: ClassVar = {"stack_name_is_enough": {"type": "boolean", "default": True}}

    def check(self, world: World) -> Iterator[Finding]:
        """Each resource of a type that need not be named."""
        for one in world.resources.values():
            name = name_property(one.type)
            given = one[name]
            if not name or missing(given) or given is UNKNOWN or isinstance(given, Reference):
                continue
            everywhere = "AccountId|Region|Partition|URLSuffix"
            if not self.config["stack_name_is_enough"]:
                everywhere += "|StackName|StackId"
            if "${" in re.sub(rf"\$\{{AWS::({everywhere})\}}", "", str(given)):
                continue
            yield (
                one.path(name),
                f"Remove {name} of {one.id}: with it the resource can be neither replaced nor"
                " deployed twice in one account.",
            )


@cache
def name_property(kind: str) -> str:
    """The property that names a resource of this type and may be left out; empty if none."""
    try:
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    except ResourceNotFoundError:
        return ""
    short, fixed = kind.rpartition("::")[2], schema.get("createOnlyProperties", [])
    if len(schema.get("primaryIdentifier", [])) > 1:  # a part of something else
        return ""
    for name in (f"{short}Name", "Name", "GroupName"):
        if f"/properties/{name}" in fixed and name not in schema.get("required", []):
            return name
    return ""
