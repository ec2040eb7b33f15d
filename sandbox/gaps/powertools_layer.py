"""AWS publishes Powertools as a Lambda layer and its ARN as a public SSM parameter.

Seen in MiniStack 1.5.33: public parameters are a fixed list of two machine images, and no public
layer exists. Here the parameters of the pinned version and of "latest" lead to one layer of AWS's
account, whose content is what `make setup` installed from sandbox/layer.lock, for the Python that
functions run on here.
"""

import base64
import io
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

from ministack.core.responses import request_scope
from ministack.services import lambda_svc, ssm

PATCHES = (
    "services.ssm._PUBLIC_AMI_PARAMETERS",
    "services.lambda_svc._publish_layer_version",
    "services.lambda_svc._add_layer_version_permission",
)

LAYER = Path(__file__).parent.parent.parent / ".sandbox" / "layer"
AWS_ACCOUNT = "017000801446"
PYTHONS = range(10, 15)  # 3.10 to 3.14, which AWS has layers for


def close() -> None:
    """Publish the layer to everybody, and its ARN as the public parameter."""
    (powertools,) = Distribution.discover(name="aws-lambda-powertools", path=[str(LAYER)])
    for minor in PYTHONS:
        name = f"AWSLambdaPowertoolsPythonV3-python3{minor}-arm64"
        with request_scope(AWS_ACCOUNT, "us-east-1"):
            lambda_svc._publish_layer_version(name, {"Content": {"ZipFile": _zip()}})
            lambda_svc._add_layer_version_permission(
                name,
                1,
                {"StatementId": "public", "Action": "lambda:GetLayerVersion", "Principal": "*"},
            )
        for label in (powertools.version, "latest"):
            parameter = f"/aws/service/powertools/python/arm64/python3.{minor}/{label}"
            ssm._PUBLIC_AMI_PARAMETERS[parameter] = (
                f"arn:aws:lambda:us-east-1:{AWS_ACCOUNT}:layer:{name}:1"
            )


def _zip() -> str:
    """A layer of one line that leads to the installed packages.

    MiniStack unpacks a layer for every new execution environment: 13 MB and its bytecode
    each time would make a cold call far slower than the one on AWS that it stands for.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as layer:
        layer.writestr("python/lib/python3/site-packages/powertools.pth", f"{LAYER}\n")
    return base64.b64encode(content.getvalue()).decode()
