"""A state machine that Step Functions refuses, or takes and that then fails."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # cfn-lint loads this file by its path alone
from _definitions import problems
from _messaging import Finding, Rule, World


class DefinitionCannotWork(Rule):
    """Definitions, read as Step Functions does; what Express lacks has a rule of its own."""

    id = "E9406"
    shortdesc = "Give a state machine a definition that Step Functions takes and that can work."
    description = (
        "Step Functions reads a definition when the stack is deployed: transitions that lead"
        " nowhere, states that nothing leads to, fields of the other query language, JSONata that"
        " does not parse or reads a field of nothing, calls that there are not. This is read"
        " before, in definitions that the CDK writes with references in them, too. Also what is"
        " taken and then fails: variables that nobody assigns, misspelled parameters, a task token"
        " that nobody is told. Expressions are read where jsonata-python is installed."
    )
    source_url = (
        "https://docs.aws.amazon.com/step-functions/latest/apireference/"
        "API_ValidateStateMachineDefinitionDiagnostic.html"
    )
    tags = ["stepfunctions"]

    def check(self, world: World) -> Iterator[Finding]:
        """Each problem of each definition that can be read."""
        for machine, definition in world.state_machines:
            for problem in problems(definition, models=True):
                whose = "refuses" if problem.refused else "takes, and it fails"
                where = f" at {problem.location}" if problem.location else ""
                text = f"{problem.message.rstrip('. ')}{where}"
                text = re.sub(r"\.\s+", "; ", text)  # one sentence
                yield machine.path(), f"Mend {machine.id}, which Step Functions {whose}: {text}."
