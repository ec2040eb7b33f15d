"""Retry what may pass, catch what will not, and tell a person of every order that came to nothing.

    Buying --> OrderWorkflow: ChargeCard --> ChargeOrder --> Charges
                                  |  any error; a transient one after two retries
                                  v
                             PublishAlert --> GiveUp (FAILED)
                                  v
                               Alerts --> e-mail
                                  ^
    FAILED, TIMED_OUT, ABORTED    |
        of OrderWorkflow --> UnfinishedOrders --> UndeliveredAlerts (dead letters, alarm)

Decisions worth knowing:

- One retrier holds all transient errors, because each retrier counts its own retries: two would
  make up to five attempts. The CDK's own, six more for Lambda's errors, is off.
- A retry waits a random time (full jitter) under a growing but capped limit, so that orders which
  failed together do not come back together. A declined card is caught at once.
- The Catch tells who and why; the workflow's timeout, an abort and an error of the definition pass
  it by. The rule sees every end without success, so a caught failure is told twice. What the topic
  does not take from the rule waits in UndeliveredAlerts, to be read there: it cannot be redriven.
- Step Functions promises no event (best effort): alarms count failures and timeouts as well. That
  an order was aborted is told by the rule alone.
- ChargeOrder is idempotent by order id, because an attempt may be cut off after the card was
  charged. Name an execution after its order: then a second start of the order starts nothing.
- Logs hold no order unless include_execution_data says so, and alerts never the card.
- Topic and key admit EventBridge as a whole: its guide supports no condition on it in a topic's
  policy, and an alert that is refused is what this pattern must not lose. What bounds it instead:
  a rule of another account delivers with a role of its own, which the topic does not admit, and
  the key serves nothing but this topic.
"""

from pathlib import Path
from typing import Any

from aws_cdk import Acknowledgment, Aws, CfnOutput, Duration, Fn, RemovalPolicy, Stack, Validations
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_ssm as ssm
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "step_functions_error_handling"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"
TRANSIENT = [
    "PaymentServiceUnavailable",  # a class that ChargeOrder raises
    "Sandbox.Timedout", "Lambda.Unknown",  # ChargeOrder ran out of time, by new or older names
    "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException", "Lambda.TooManyRequestsException",
]
# Lambda's cause is JSON with the exception's message in it; other causes are text, which may have
# JSON behind it, or missing.
REASON = ("{% ($cause := $states.errorOutput.Cause & ''; $substring(("
          "$contains($cause, /^[{].*\"errorMessage\".*[}]$/) ? $parse($cause).errorMessage : $cause"
          ") & '', 0, 500)) %}")


class StepFunctionsErrorHandling(Stack):
    """A workflow that charges orders: with retries, a catch, alerts of every failure, and alarms.

    timeout_seconds: what one attempt of ChargeOrder may take (1 to 900 s).
    workflow_timeout_seconds: when an order still in work is cut off (above timeout_seconds, to a
        year of 31,536,000 s). By default sooner than three attempts that hang would be.
    include_execution_data: whether the workflow's log holds orders, with customer and card.
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of charges and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 timeout_seconds: int = 10, workflow_timeout_seconds: int = 25,
                 include_execution_data: bool = False,
                 alert_email: str | None = None, removal_policy: str = "destroy",
                 **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        for option, value, least, most in (
            ("timeout_seconds", timeout_seconds, 1, 900),
            ("workflow_timeout_seconds", workflow_timeout_seconds, timeout_seconds + 1, 31536000),
        ):
            if not least <= value <= most:
                raise ValueError(f"{option} is {least} to {most}, not {value}")
        if removal_policy not in ("destroy", "retain"):
            raise ValueError(f'removal_policy is "destroy" or "retain", not "{removal_policy}"')
        on_destroy = RemovalPolicy[removal_policy.upper()]

        undelivered_alerts = sqs.Queue(
            self, "UndeliveredAlerts",
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            max_message_size_bytes=1_048_576,
            retention_period=Duration.days(14),
            receive_message_wait_time=Duration.seconds(20),
            redrive_allow_policy=sqs.RedriveAllowPolicy(
                redrive_permission=sqs.RedrivePermission.DENY_ALL))
        alerts_key = kms.Key(
            self, "AlertsKey",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=RemovalPolicy.DESTROY)
        alerts = sns.Topic(
            self, "Alerts", master_key=alerts_key, enforce_ssl=True, signature_version="2")
        if alert_email:
            alerts.add_subscription(subscriptions.EmailSubscription(alert_email))

        charges = dynamodb.Table(
            self, "Charges",
            partition_key=dynamodb.Attribute(name="order_id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True),
            removal_policy=on_destroy)
        charge_order_logs = logs.LogGroup(
            self, "ChargeOrderLogs",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        charge_order_role = iam.Role(
            self, "ChargeOrderRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        powertools = lambda_.LayerVersion.from_layer_version_arn(
            self, "Powertools", ssm.StringParameter.value_for_string_parameter(self, POWERTOOLS))
        charge_order = lambda_.Function(
            self, "ChargeOrder",
            runtime=PYTHON,
            architecture=lambda_.Architecture.ARM_64,
            handler="charge_order.handler",
            code=lambda_.Code.from_asset(str(LAMBDAS), exclude=["**/__pycache__/**"]),
            layers=[powertools],
            role=charge_order_role,
            timeout=Duration.seconds(timeout_seconds),
            memory_size=512,
            tracing=lambda_.Tracing.ACTIVE,
            log_group=charge_order_logs,
            environment={
                "POWERTOOLS_SERVICE_NAME": "charge-order",
                "CHARGES": charges.table_name,
            })

        executions = (f"https://{Aws.REGION}.console.aws.amazon.com/states/home"
                      f"?region={Aws.REGION}#/v2/executions/details/")
        charge_card = tasks.LambdaInvoke.jsonata(
            self, "ChargeCard",
            lambda_function=charge_order,
            payload_response_only=True,
            retry_on_service_exceptions=False)
        publish_alert = tasks.SnsPublish.jsonata(
            self, "PublishAlert",
            topic=alerts,
            subject="Order not charged",
            message=sfn.TaskInput.from_text(
                "{% 'Order ' & $states.context.Execution.Name & ' of ' &"
                " $states.context.Execution.Input.customer & ' is not charged.\\n' &"
                " $problem.error & ': ' & $problem.reason & '\\n' &"
                f" '{executions}' & $states.context.Execution.Id %}}"),
            outputs="{% $states.input %}")
        give_up = sfn.Fail.jsonata(
            self, "GiveUp", error="{% $problem.error %}", cause="{% $problem.reason %}")
        charge_card.add_retry(
            errors=TRANSIENT,
            max_attempts=2,
            interval=Duration.seconds(2),
            backoff_rate=2,
            max_delay=Duration.seconds(3),
            jitter_strategy=sfn.JitterType.FULL)
        charge_card.add_catch(
            publish_alert,
            errors=["States.ALL"],
            assign={"problem": {"error": "{% $states.errorOutput.Error %}", "reason": REASON}},
            outputs="{% $states.input %}")
        publish_alert.add_retry(errors=["States.TaskFailed"], max_attempts=2)
        publish_alert.add_catch(give_up)  # the execution's error stays the order's
        publish_alert.next(give_up)

        # Of the stack's id: the log of an earlier stack of this name is not in the way.
        copy = Fn.select(0, Fn.split("-", Fn.select(2, Fn.split("/", Aws.STACK_ID))))
        order_workflow_logs = logs.LogGroup(
            self, "OrderWorkflowLogs",
            # Each without this prefix uses up some of the Region's policy for log deliveries.
            log_group_name=f"/aws/vendedlogs/states/{Aws.STACK_NAME}-OrderWorkflow-{copy}",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        order_workflow_role = iam.Role(
            self, "OrderWorkflowRole",
            assumed_by=iam.ServicePrincipal("states.amazonaws.com", conditions={
                "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}))
        order_workflow = sfn.StateMachine(
            self, "OrderWorkflow",
            state_machine_type=sfn.StateMachineType.STANDARD,
            query_language=sfn.QueryLanguage.JSONATA,
            definition_body=sfn.DefinitionBody.from_chainable(charge_card),
            role=order_workflow_role,
            timeout=Duration.seconds(workflow_timeout_seconds),
            tracing_enabled=True,
            logs=sfn.LogOptions(
                destination=order_workflow_logs,
                level=sfn.LogLevel.ALL,
                include_execution_data=include_execution_data))

        field = events.EventField.from_path
        unfinished_orders = events.Rule(
            self, "UnfinishedOrders",
            description="Executions of OrderWorkflow that ended without success.",
            event_pattern=events.EventPattern(
                source=["aws.states"],
                detail_type=["Step Functions Execution Status Change"],
                detail={
                    "stateMachineArn": [order_workflow.state_machine_arn],
                    "status": ["FAILED", "TIMED_OUT", "ABORTED"],
                }))
        unfinished_orders.add_target(targets.SnsTopic(
            alerts,
            message=events.RuleTargetInput.from_multiline_text(
                f"Order {field('$.detail.name')} is not finished:"
                f" its execution is {field('$.detail.status')} since {field('$.time')}.\n"
                f"{executions}{field('$.detail.executionArn')}"),
            dead_letter_queue=undelivered_alerts,
            retry_attempts=20,
            max_event_age=Duration.hours(1)))

        charge_order_logs.grant_write(charge_order_role)
        charges.grant(charge_order_role, "dynamodb:UpdateItem")
        alerts.grant_publish(order_workflow_role)
        alerts.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions={
            "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            "ArnLike": {"aws:SourceArn": f"arn:{Aws.PARTITION}:cloudwatch:{Aws.REGION}:"
                                         f"{Aws.ACCOUNT_ID}:alarm:{Aws.STACK_NAME}-*"}}))

        for alarm, meaning, metric in (
            ("OrdersFailed", "An order failed: its own alert says which and why.",
             order_workflow.metric_failed(statistic="Sum")),
            ("OrdersTimedOut", "An order was cut off by the workflow's timeout: see Charges first.",
             order_workflow.metric_timed_out(statistic="Sum")),
            ("OrdersThrottled", "Orders wait because the account's state transitions are used up.",
             order_workflow.metric_throttled(statistic="Sum")),
            ("AlertsUndelivered", "Alerts are in the dead-letter queue: mend the topic, read them.",
             undelivered_alerts.metric_approximate_number_of_messages_visible(statistic="Maximum")),
        ):
            metric.with_(period=Duration.minutes(1)).create_alarm(
                self, alarm,
                alarm_description=meaning,
                threshold=1,
                evaluation_periods=1,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ).add_alarm_action(actions.SnsAction(alerts))

        Validations.of(undelivered_alerts).acknowledge(Acknowledgment(
            id="AwsSolutions-SQS3", reason="It is the dead-letter queue of the rule's target."))
        Validations.of(charge_order_role).acknowledge(Acknowledgment(
            id="AwsSolutions-IAM5[Resource::*]",
            reason="X-Ray's PutTraceSegments and PutTelemetryRecords accept no resource."))
        Validations.of(order_workflow_role).acknowledge(
            Acknowledgment(
                id="AwsSolutions-IAM5[Resource::*]",
                reason="X-Ray and the log deliveries of CloudWatch Logs accept no resource."),
            Acknowledgment(
                id="AwsSolutions-IAM5[Resource::<ChargeOrder6695D7AC.Arn>:*]",
                reason="Versions and aliases of ChargeOrder, and of no other function."),
            Acknowledgment(
                id="AwsSolutions-IAM5[Action::kms:GenerateDataKey*]",
                reason="With and without plaintext, of the one key that encrypts Alerts."))

        CfnOutput(self, "OrderWorkflowArn", value=order_workflow.state_machine_arn)
        CfnOutput(self, "OrderWorkflowLogsName", value=order_workflow_logs.log_group_name)
        CfnOutput(self, "ChargeOrderName", value=charge_order.function_name)
        CfnOutput(self, "ChargeOrderLogsName", value=charge_order_logs.log_group_name)
        CfnOutput(self, "ChargesName", value=charges.table_name)
        CfnOutput(self, "UndeliveredAlertsUrl", value=undelivered_alerts.queue_url)
        CfnOutput(self, "UndeliveredAlertsArn", value=undelivered_alerts.queue_arn)
        CfnOutput(self, "AlertsArn", value=alerts.topic_arn)
