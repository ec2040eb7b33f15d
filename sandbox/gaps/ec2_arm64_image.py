"""Amazon Linux 2023 for arm64: the image, and the public parameter that leads to it.

Seen in MiniStack 1.5.33: public parameters and images are of x86_64 only, so a template that takes
Amazon's newest image for Graviton cannot be deployed.
"""

from ministack.services import ec2, ssm

PATCHES = (
    "services.ec2._STUB_AMIS",
    "services.ec2._stub_image_view",
    "services.ssm._PUBLIC_AMI_PARAMETERS",
)

IMAGE = "ami-0a2023a4b3c2d1e0f"
PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-6.1-arm64"


def close() -> None:
    """Add both, beside those of x86_64; nothing is ever started from an image."""
    of_x86_64 = ec2._stub_image_view

    def view(ami_id: str, *rest: str) -> dict:
        seen = of_x86_64(ami_id, *rest)
        return {**seen, "Architecture": "arm64"} if ami_id == IMAGE else seen

    ec2._stub_image_view = view
    ec2._STUB_AMIS.append(
        (
            IMAGE,
            "al2023-ami-2023.6.20241010.0-kernel-6.1-arm64",
            "Amazon Linux 2023 AMI",
            "",
            "/dev/xvda",
            "137112412989",
            "amazon",
        )
    )
    ssm._PUBLIC_AMI_PARAMETERS[PARAMETER] = IMAGE
