"""Apply each order's changes in order; one that keeps failing holds back its own order only.

    Buying --> OrderChanges --> ApplyChange --> ChangedOrders
                    |  max_receive_count failures
                    v
              FailedChanges --> ChangesParked (alarm) --> Alerts --> e-mail

Decisions worth knowing:

- Buying sends with the order as message group and order and revision as deduplication id. A copy
  sent within 5 minutes is dropped by SQS; a later one by the revisions that the row lists.
- Within a group SQS hands out nothing while a message is in work or waits to be tried again.
  Batches mix groups, so ApplyChange fails the group of a failed message and no other.
- A dead-letter queue gives up that order: the poison change leaves its group, those behind it go
  on, and redriven it comes after them. By default that is tolerated, because each change carries
  the whole order as it then is. The gap is logged (`missing`), and the parked change, when it is
  redriven, is refused: it would undo what came later.
- Where a change builds upon the one before (a charge and its refund), rather stop: with
  stop_at_gaps an order takes the next revision or none, so all that follow a poison change gather
  behind it in FailedChanges, in order. Mend ApplyChange and redrive; or send a right revision
  under another deduplication id, delete the wrong one, and redrive the others.
- No dead-letter queue at all stops as well, until retention deletes the poison change after days,
  and order is lost with it. A long stop reaches other orders too: a FIFO queue looks for groups
  among its first 120,000 messages only. ChangesLate tells of a group that is held.
- To be received counts, tried or not. So at a poison change's last receive ApplyChange goes on
  with those behind it, or they would be parked with it, untried. A crash or a timeout at that
  receive still parks the batch: batch_size=1 parks one message alone, at one call a message.
- high_throughput lifts the limit of one queue (300 calls/s) to that of each order and of the
  Region. Its price is scope: deduplication ids then count within one order only.
- FIFO names must end in .fifo. OrderChanges is named after the stack: FailedChanges must name it
  (redrive allow policy) before it exists. A second copy of the stack has another name.
- Alerts has a KMS key of its own, because CloudWatch cannot publish under `alias/aws/sns`.
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

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "sqs_fifo_lambda_dlq"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"


class SqsFifoLambdaDlq(Stack):
    """Changes of orders through a FIFO queue to a function, with a FIFO dead-letter queue.

    max_receive_count: receives after which a failing change is parked (1 to 1,000; with a Lambda
        consumer 5 or more, so that throttling parks no good change).
    timeout_seconds: what ApplyChange may take for a batch (1 to 900 s).
    batch_size: changes that ApplyChange gets at once (1 to 10).
    max_concurrency: batches in work at the same time, never two with one order (2 to 1,000).
    stop_at_gaps: whether an order stops for good at a parked change, or goes on without it.
    high_throughput: whether throughput and deduplication are counted per order.
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of rows and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 max_receive_count: int = 5, timeout_seconds: int = 10, batch_size: int = 10,
                 max_concurrency: int = 5, stop_at_gaps: bool = False,
                 high_throughput: bool = False, alert_email: str | None = None,
                 removal_policy: str = "destroy", **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        visibility_timeout_seconds = 6 * timeout_seconds
        for option, value, least, most in (
            ("max_receive_count", max_receive_count, 1, 1000),
            ("timeout_seconds", timeout_seconds, 1, 900),
            ("batch_size", batch_size, 1, 10),
            ("max_concurrency", max_concurrency, 2, 1000),
            ("the length of the stack's name", len(self.stack_name), 1,
             80 - len("-OrderChanges.fifo")),
            # Or SQS deletes a change, which is four days old by then, before it is parked.
            ("max_receive_count + 1 visibility timeouts, in seconds,",
             visibility_timeout_seconds * (max_receive_count + 1), 1, 4 * 86400),
        ):
            if not least <= value <= most:
                raise ValueError(f"{option} is {least} to {most}, not {value}")
        if removal_policy not in ("destroy", "retain"):
            raise ValueError(f'removal_policy is "destroy" or "retain", not "{removal_policy}"')
        on_destroy = RemovalPolicy[removal_policy.upper()]
        deduplication_scope = (sqs.DeduplicationScope.MESSAGE_GROUP if high_throughput
                               else sqs.DeduplicationScope.QUEUE)
        throughput_limit = (sqs.FifoThroughputLimit.PER_MESSAGE_GROUP_ID if high_throughput
                            else sqs.FifoThroughputLimit.PER_QUEUE)

        order_changes_name = f"{Aws.STACK_NAME}-OrderChanges.fifo"
        order_changes_by_name = sqs.Queue.from_queue_arn(
            self, "OrderChangesByName",
            self.format_arn(service="sqs", resource=order_changes_name))
        failed_changes = sqs.Queue(
            self, "FailedChanges",
            fifo=True,
            deduplication_scope=deduplication_scope,
            fifo_throughput_limit=throughput_limit,
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            max_message_size_bytes=1_048_576,
            retention_period=Duration.days(14),
            receive_message_wait_time=Duration.seconds(20),
            redrive_allow_policy=sqs.RedriveAllowPolicy(source_queues=[order_changes_by_name]))
        order_changes = sqs.Queue(
            self, "OrderChanges",
            queue_name=order_changes_name,
            fifo=True,
            deduplication_scope=deduplication_scope,
            fifo_throughput_limit=throughput_limit,
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            max_message_size_bytes=1_048_576,
            retention_period=Duration.days(4),
            receive_message_wait_time=Duration.seconds(20),
            visibility_timeout=Duration.seconds(visibility_timeout_seconds),
            dead_letter_queue=sqs.DeadLetterQueue(
                queue=failed_changes, max_receive_count=max_receive_count))

        changed_orders = dynamodb.Table(
            self, "ChangedOrders",
            partition_key=dynamodb.Attribute(name="order_id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True),
            removal_policy=on_destroy)

        apply_change_logs = logs.LogGroup(
            self, "ApplyChangeLogs",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        apply_change_role = iam.Role(
            self, "ApplyChangeRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        powertools = lambda_.LayerVersion.from_layer_version_arn(
            self, "Powertools", ssm.StringParameter.value_for_string_parameter(self, POWERTOOLS))
        apply_change = lambda_.Function(
            self, "ApplyChange",
            runtime=PYTHON,
            architecture=lambda_.Architecture.ARM_64,
            handler="apply_change.handler",
            code=lambda_.Code.from_asset(str(LAMBDAS), exclude=["**/__pycache__/**"]),
            layers=[powertools],
            role=apply_change_role,
            timeout=Duration.seconds(timeout_seconds),
            memory_size=512,
            tracing=lambda_.Tracing.ACTIVE,
            log_group=apply_change_logs,
            environment={
                "POWERTOOLS_SERVICE_NAME": "apply-change",
                "CHANGED_ORDERS": changed_orders.table_name,
                "MAX_RECEIVE_COUNT": str(max_receive_count),
                "STOP_AT_GAPS": str(stop_at_gaps).lower(),
            })
        apply_change.add_event_source_mapping(
            "OrderChanges",
            event_source_arn=order_changes.queue_arn,
            batch_size=batch_size,
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

        order_changes.grant_consume_messages(apply_change_role)
        apply_change_logs.grant_write(apply_change_role)
        changed_orders.grant(apply_change_role, "dynamodb:UpdateItem")
        alerts.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions={
            "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            "ArnLike": {"aws:SourceArn": f"arn:{Aws.PARTITION}:cloudwatch:{Aws.REGION}:"
                                         f"{Aws.ACCOUNT_ID}:alarm:{Aws.STACK_NAME}-*"}}))

        for alarm, meaning, metric, threshold, minutes in (
            ("ChangesParked", "Changes are in the dead-letter queue and their orders"
             f" {'stand still' if stop_at_gaps else 'went on without them'}: look, mend.",
             failed_changes.metric_approximate_number_of_messages_visible(statistic="Maximum"),
             1, 1),
            ("ChangesLate", "A change has waited longer than all retries of one before it take.",
             order_changes.metric_approximate_age_of_oldest_message(statistic="Maximum"),
             visibility_timeout_seconds * (max_receive_count + 1), 5),
            ("ApplyChangeErrors", "ApplyChange crashed or ran out of time: a batch comes back.",
             apply_change.metric_errors(statistic="Sum"), 1, 1),
        ):
            metric.with_(period=Duration.minutes(1)).create_alarm(
                self, alarm,
                alarm_description=meaning,
                threshold=threshold,
                evaluation_periods=minutes,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ).add_alarm_action(actions.SnsAction(alerts))

        Validations.of(apply_change_role).acknowledge(Acknowledgment(
            id="AwsSolutions-IAM5[Resource::*]",
            reason="X-Ray's PutTraceSegments and PutTelemetryRecords accept no resource."))

        CfnOutput(self, "OrderChangesUrl", value=order_changes.queue_url)
        CfnOutput(self, "OrderChangesArn", value=order_changes.queue_arn)
        CfnOutput(self, "FailedChangesUrl", value=failed_changes.queue_url)
        CfnOutput(self, "FailedChangesArn", value=failed_changes.queue_arn)
        CfnOutput(self, "ChangedOrdersName", value=changed_orders.table_name)
        CfnOutput(self, "ApplyChangeName", value=apply_change.function_name)
        CfnOutput(self, "ApplyChangeLogsName", value=apply_change_logs.log_group_name)
        CfnOutput(self, "AlertsArn", value=alerts.topic_arn)
