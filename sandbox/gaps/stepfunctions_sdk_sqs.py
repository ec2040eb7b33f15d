"""A state machine calls any action of SQS by its AWS SDK integration, as its role.

Seen in MiniStack 1.5.33: `aws-sdk:sqs:...` speaks SQS's old query protocol, in which MiniStack
knows fewer fields (no SourceArn), and always as the account's root. Here it speaks the JSON
protocol, the caller is the role of the state machine, whom the actions of sqs_message_move_tasks
ask, and an error has the name that the SDK for Java gives it: its own class, or SqsException for
the many that SQS's model does not list. Other actions of SQS still pass without a check.
"""

import botocore.session
from gaps import stepfunctions_role
from ministack.core import iam_evaluator
from ministack.services import stepfunctions

PATCHES = (
    "services.stepfunctions._AWS_SDK_SERVICE_MAP",
    "services.stepfunctions._prefix_sdk_error",
    "core.iam_evaluator.request_caller_arn",
)


def close() -> None:
    """Change the protocol, the caller and the errors' names."""
    stepfunctions._AWS_SDK_SERVICE_MAP["sqs"] = {"target_prefix": "AmazonSQS", "protocol": "json"}
    prefix, caller = stepfunctions._prefix_sdk_error, iam_evaluator.request_caller_arn
    model = botocore.session.get_session().get_service_model("sqs")
    classes = {error.name for error in model.error_shapes}

    def name(service: str, code: str) -> str:
        if service == "sqs":
            code = (
                f"{code.removesuffix('Exception')}Exception" if code in classes else "SqsException"
            )
        return prefix(service, code)

    def role_or_caller(headers: dict, query_params: dict | None = None) -> str:
        return stepfunctions_role.session() or caller(headers, query_params)

    stepfunctions._prefix_sdk_error = name
    iam_evaluator.request_caller_arn = role_or_caller
