"""The half of SqsIdempotentConsumer's scenario that drives instances: AWS's models only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import boto3
import pytest
from botocore.stub import Stubber

from scenarios.sqs_idempotent_consumer import Instances
from scenarios.stage import ScenarioFailed, Stage

NAME = {"AutoScalingGroupName": "Workers"}


def described(stub: Stubber, desired: int) -> None:
    """The group is asked for once, and has one worker in service."""
    instance = {"InstanceId": "i-1", "AvailabilityZone": "a", "LifecycleState": "InService"}
    group = {
        **NAME,
        "MinSize": 1,
        "MaxSize": 4,
        "DesiredCapacity": desired,
        "DefaultCooldown": 300,
        "AvailabilityZones": ["a"],
        "HealthCheckType": "EC2",
        "CreatedTime": "2026-11-26T00:00:00Z",
        "Instances": [instance | {"HealthStatus": "Healthy", "ProtectedFromScaleIn": False}],
    }
    stub.add_response(
        "describe_auto_scaling_groups",
        {"AutoScalingGroups": [group]},
        {"AutoScalingGroupNames": ["Workers"]},
    )


def test_nothing_scales_the_group_while_the_scenario_does() -> None:
    autoscaling = boto3.client("autoscaling", region_name="us-east-1")
    scaling = NAME | {"ScalingProcesses": ["AlarmNotification"]}

    def gives_up(what: str, probe: Any, seconds: float) -> None:
        assert probe() is None
        raise ScenarioFailed(what)

    stage = SimpleNamespace(
        outputs={"WorkersName": "Workers", "WorkerRoleName": "WorkerRole"},
        client=lambda _: autoscaling,
        until=gives_up,
    )
    with Stubber(autoscaling) as stub:
        described(stub, desired=1)
        stub.add_response("suspend_processes", {}, scaling)
        stub.add_response(
            "set_desired_capacity", {}, NAME | {"DesiredCapacity": 3, "HonorCooldown": False}
        )
        described(stub, desired=3)
        stub.add_response(
            "set_desired_capacity", {}, NAME | {"DesiredCapacity": 1, "HonorCooldown": False}
        )
        stub.add_response("resume_processes", {}, scaling)
        with (
            pytest.raises(ScenarioFailed, match="three workers in service"),
            Instances(cast(Stage, stage)).started(),
        ):
            pass
        stub.assert_no_pending_responses()
