"""The programs on docs/clients.md do what the page says: they are run as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Generator
from pathlib import Path

import boto3
import pytest

from sandbox import amazonmq, server
from tests.sandbox.checks.mq import broker
from tests.sandbox.cloud import soon

PAGE = (Path(__file__).parent.parent / "docs" / "clients.md").read_text()
PROGRAMS = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, flags=re.DOTALL))


def written(folder: Path) -> None:
    """Every program of the page as a file."""
    for name, code in PROGRAMS.items():
        (folder / f"{name}.py").write_text(code)


def run(folder: Path, program: str) -> str:
    """What a program of the page prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, f"{program}.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},  # also where PYTHONSAFEPATH is set
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def stack(sandbox: server.Server) -> Generator[str]:
    """A stack with a broker that runs, and with those outputs of MqBroker that the page reads."""
    if missing := amazonmq.missing():
        pytest.skip(missing)
    name, login = (
        f"broker-{uuid.uuid4().hex[:8]}",
        {"username": "shop", "password": "long-enough-for-it"},
    )
    resources = broker(login["password"]) | {
        "Password": {
            "Type": "AWS::SecretsManager::Secret",
            "Properties": {"SecretString": json.dumps(login)},
        }
    }
    outputs = {
        "BrokerUrl": {"Fn::Select": [0, {"Fn::GetAtt": ["Broker", "AmqpEndpoints"]}]},
        "PasswordArn": {"Ref": "Password"},
        "BrokerId": {"Ref": "Broker"},
    }
    template = {
        "Resources": resources,
        "Outputs": {output: {"Value": value} for output, value in outputs.items()},
    }
    cloudformation, mq = boto3.client("cloudformation"), boto3.client("mq")
    cloudformation.create_stack(StackName=name, TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=name, WaiterConfig={"Delay": 1}
    )
    (found,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    (made,) = (one["OutputValue"] for one in found["Outputs"] if one["OutputKey"] == "BrokerId")
    try:
        assert soon(lambda: mq.describe_broker(BrokerId=made)["BrokerState"] == "RUNNING", 60)
        yield name
    finally:
        cloudformation.delete_stack(StackName=name)


def test_every_program_of_the_page_is_found_and_is_python() -> None:
    assert len(PROGRAMS) == PAGE.count("```python") > 0
    for name, code in PROGRAMS.items():
        compile(code, f"{name}.py", "exec")


def test_boto3_needs_nothing(sandbox: server.Server, tmp_path: Path) -> None:
    written(tmp_path)
    assert run(tmp_path, "with_boto3") == "an order\n"
    assert "://" not in PROGRAMS["with_boto3"]


def test_pika_reaches_the_broker_of_a_stack(stack: str, tmp_path: Path) -> None:
    written(tmp_path)
    where = tmp_path / "broker.py"
    assert PROGRAMS["broker"].count('StackName="MqBroker"') == 1
    where.write_text(PROGRAMS["broker"].replace("MqBroker", stack))
    assert run(tmp_path, "with_pika") == "an order\n"
