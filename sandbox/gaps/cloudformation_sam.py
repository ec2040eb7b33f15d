"""CloudFormation expands the templates of AWS SAM.

Seen in MiniStack 1.5.33: it does so with aws-sam-translator where that is installed. Here it is in
a folder of its own, `.sandbox/sam`, which the server sees and functions do not: on AWS they have
none of it.
"""

import sys
from pathlib import Path

PATCHES = ("services.cloudformation.engine._apply_transforms",)

FOLDER = Path(__file__).parent.parent.parent / ".sandbox" / "sam"


def close() -> None:
    """Let the server find the translator, after all else."""
    sys.path.append(str(FOLDER))
