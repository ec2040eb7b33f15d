"""Park orders that keep failing, so that one bad order never blocks the rest.

    Buying --> Orders --> FulfilOrder --> FulfilledOrders
                  |  max_receive_count failures
                  v
            FailedOrders --> OrdersParked (alarm) --> Alerts --> e-mail

Decisions worth knowing:

- A batch reports its failures one by one, so the good orders beside a poison one are done once.
- A duplicate has no second effect: an idempotency record saves the work for an hour, and the
  condition on the row in FulfilledOrders holds for ever. An order id used again for a different
  order is not dropped but parked.
- FulfilOrder's role names every action and table; it can write an order and never read or
  delete one.
- Orders is the one resource with a name, made from the stack's: its dead-letter queue must name
  it (redrive allow policy) before it exists. A second copy of the stack has another name.
- Alerts has a KMS key of its own, because CloudWatch cannot publish to a topic under
  `alias/aws/sns`. While idle you pay for it, for the alarms and for Lambda's polling of Orders.
"""

from pathlib import Path
from typing import Any

from aws_cdk import Acknowledgment, Aws, CfnOutput, Duration, RemovalPolicy, Stack, Validations
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_ssm as ssm
from constructs import Construct

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "sqs_lambda_dlq"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"


class SqsLambdaDlq(Stack):
    """Orders through a queue to a function, with a dead-letter queue, alarms and alerts.

    max_receive_count: failed receives after which an order is parked (1 to 1,000; with a Lambda
        consumer 5 or more, so that throttling parks no good order).
    timeout_seconds: what FulfilOrder may take for a batch of ten (1 to 900 s).
    max_concurrency: batches in work at the same time (2 to 1,000).
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of rows and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 max_receive_count: int = 5, timeout_seconds: int = 10, max_concurrency: int = 5,
                 alert_email: str | None = None, removal_policy: str = "destroy",
                 **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        visibility_timeout_seconds = 6 * timeout_seconds
        for option, value, least, most in (
            ("max_receive_count", max_receive_count, 1, 1000),
            ("timeout_seconds", timeout_seconds, 1, 900),
            ("max_concurrency", max_concurrency, 2, 1000),
            ("the length of the stack's name", len(self.stack_name), 1, 80 - len("-Orders")),
            # Or SQS deletes an order, which is four days old by then, before it is parked.
            ("max_receive_count + 1 visibility timeouts, in seconds,",
             visibility_timeout_seconds * (max_receive_count + 1), 1, 4 * 86400),
        ):
            if not least <= value <= most:
                raise ValueError(f"{option} is {least} to {most}, not {value}")
        if removal_policy not in ("destroy", "retain"):
            raise ValueError(f'removal_policy is "destroy" or "retain", not "{removal_policy}"')
        on_destroy = RemovalPolicy[removal_policy.upper()]

        orders_name = f"{Aws.STACK_NAME}-Orders"
        orders_by_name = sqs.Queue.from_queue_arn(
            self, "OrdersByName", self.format_arn(service="sqs", resource=orders_name))
        failed_orders = sqs.Queue(
            self, "FailedOrders",
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            max_message_size_bytes=1_048_576,
            retention_period=Duration.days(14),
            receive_message_wait_time=Duration.seconds(20),
            redrive_allow_policy=sqs.RedriveAllowPolicy(source_queues=[orders_by_name]))
        orders = sqs.Queue(
            self, "Orders",
            queue_name=orders_name,
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            max_message_size_bytes=1_048_576,
            retention_period=Duration.days(4),
            receive_message_wait_time=Duration.seconds(20),
            visibility_timeout=Duration.seconds(visibility_timeout_seconds),
            dead_letter_queue=sqs.DeadLetterQueue(
                queue=failed_orders, max_receive_count=max_receive_count))

        fulfilled_orders = dynamodb.Table(
            self, "FulfilledOrders",
            partition_key=dynamodb.Attribute(name="order_id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True),
            removal_policy=on_destroy)
        idempotency_records = dynamodb.Table(
            self, "IdempotencyRecords",
            partition_key=dynamodb.Attribute(name="id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            time_to_live_attribute="expiration",
            removal_policy=RemovalPolicy.DESTROY)

        fulfil_order_logs = logs.LogGroup(
            self, "FulfilOrderLogs",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        fulfil_order_role = iam.Role(
            self, "FulfilOrderRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        powertools = lambda_.LayerVersion.from_layer_version_arn(
            self, "Powertools", ssm.StringParameter.value_for_string_parameter(self, POWERTOOLS))
        fulfil_order = lambda_.Function(
            self, "FulfilOrder",
            runtime=PYTHON,
            architecture=lambda_.Architecture.ARM_64,
            handler="fulfil_order.handler",
            code=lambda_.Code.from_asset(str(LAMBDAS), exclude=["**/__pycache__/**"]),
            layers=[powertools],
            role=fulfil_order_role,
            timeout=Duration.seconds(timeout_seconds),
            memory_size=512,
            tracing=lambda_.Tracing.ACTIVE,
            log_group=fulfil_order_logs,
            environment={
                "POWERTOOLS_SERVICE_NAME": "fulfil-order",
                "FULFILLED_ORDERS": fulfilled_orders.table_name,
                "IDEMPOTENCY_RECORDS": idempotency_records.table_name,
            })
        fulfil_order.add_event_source_mapping(
            "Orders",
            event_source_arn=orders.queue_arn,
            batch_size=10,
            report_batch_item_failures=True,
            max_concurrency=max_concurrency)

        alerts_key = kms.Key(
            self, "AlertsKey",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=RemovalPolicy.DESTROY)
        alerts = sns.Topic(
            self, "Alerts", master_key=alerts_key, enforce_ssl=True, signature_version="2")
        if alert_email:
            alerts.add_subscription(subscriptions.EmailSubscription(alert_email))

        orders.grant_consume_messages(fulfil_order_role)
        fulfil_order_logs.grant_write(fulfil_order_role)
        fulfilled_orders.grant(fulfil_order_role, "dynamodb:PutItem")
        idempotency_records.grant(
            fulfil_order_role,
            "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem")
        alerts.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions={
            "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            "ArnLike": {"aws:SourceArn": f"arn:{Aws.PARTITION}:cloudwatch:{Aws.REGION}:"
                                         f"{Aws.ACCOUNT_ID}:alarm:{Aws.STACK_NAME}-*"}}))

        for alarm, meaning, metric, threshold, minutes in (
            ("OrdersParked", "Orders are in the dead-letter queue: look, mend, redrive.",
             failed_orders.metric_approximate_number_of_messages_visible(statistic="Maximum"),
             1, 1),
            ("OrdersLate", "An order received less than three times has waited longer"
             " than all its retries take.",
             orders.metric_approximate_age_of_oldest_message(statistic="Maximum"),
             visibility_timeout_seconds * (max_receive_count + 1), 5),
            ("FulfilOrderErrors", "FulfilOrder crashed or ran out of time: a batch comes back.",
             fulfil_order.metric_errors(statistic="Sum"), 1, 1),
        ):
            metric.with_(period=Duration.minutes(1)).create_alarm(
                self, alarm,
                alarm_description=meaning,
                threshold=threshold,
                evaluation_periods=minutes,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ).add_alarm_action(actions.SnsAction(alerts))

        Validations.of(fulfil_order_role).acknowledge(Acknowledgment(
            id="AwsSolutions-IAM5[Resource::*]",
            reason="X-Ray's PutTraceSegments and PutTelemetryRecords accept no resource."))
        Validations.of(idempotency_records).acknowledge(Acknowledgment(
            id="AwsSolutions-DDB3",
            reason="The records live for an hour; restoring them would restore nothing."))

        CfnOutput(self, "OrdersUrl", value=orders.queue_url)
        CfnOutput(self, "OrdersArn", value=orders.queue_arn)
        CfnOutput(self, "FailedOrdersUrl", value=failed_orders.queue_url)
        CfnOutput(self, "FailedOrdersArn", value=failed_orders.queue_arn)
        CfnOutput(self, "FulfilledOrdersName", value=fulfilled_orders.table_name)
        CfnOutput(self, "FulfilOrderName", value=fulfil_order.function_name)
        CfnOutput(self, "FulfilOrderLogsName", value=fulfil_order_logs.log_group_name)
        CfnOutput(self, "AlertsArn", value=alerts.topic_arn)
