"""Tell several services of every order event, each customer's in order and each once.

                       +--> FraudChecks --> CheckFraud --> FraudVerdicts
    Buying --> OrderEvents
                       +--> Shipments ----> ShipOrder ---> ShippingSteps
                       |        |  max_receive_count failures
                       |        v
                       |   FailedShipments --> ShipmentsParked (alarm) --> Alerts --> e-mail
                       |  SNS cannot deliver
                       v
              UndeliveredShipments --> ShipmentsUndelivered (alarm) --> Alerts   (Fraud: alike)

Decisions worth knowing:

- Buying publishes with the customer as message group and the event's id as deduplication id
  (`order_events.grant_publish(buying)`). A copy published within 5 minutes is dropped by the
  topic; a later one, or a redelivery, by the condition on the row.
- Order holds within a customer, not between customers: a failing event holds back its customer
  only. ShipOrder also fails for a customer whose row 0 is marked `held`, until it is released.
- A dead-letter queue gives up that order. At its last receive the poison event leaves its group
  and the later ones overtake it; redriven, it comes after them. A row's `sequence` says in which
  order Buying published, its `position` in which order the service handled.
- To be received counts, tried or not. So at a poison event's last receive the function goes on
  with those behind it in the batch, or they would go to the dead-letter queue with it, untried.
- Each subscription has a dead-letter queue of its own besides the queue's: "SNS could not deliver"
  and "the consumer could not cope" need different answers. Both are FIFO, as the topic is.
- high_throughput lifts the limits of one topic (3,000 messages/s) and one queue (300 calls/s) to
  those of each customer and of the Region. Its price is scope: a deduplication id then counts
  within one customer only, so it must not be relied on between customers.
- OrderEvents is encrypted under `alias/aws/sns`: no key to pay for, but publishers must be in this
  account. Alerts has a key of its own, because CloudWatch cannot publish under that alias.
- FIFO names must end in .fifo; they are made from the stack's name, so two copies can stand.
"""

from pathlib import Path
from typing import Any, cast

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

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "sns_fifo_sqs_fifo_fan_out"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"


class SnsFifoSqsFifoFanOut(Stack):
    """Order events through a FIFO topic to a FIFO queue, a function and a table for each service.

    max_receive_count: receives after which a failing event is parked and its customer's later
        ones go on (1 to 1,000; with a Lambda consumer 5 or more, so that throttling parks none).
    timeout_seconds: what a function may take for a batch (1 to 900 s).
    batch_size: events that a function gets at once (1 to 10).
    max_concurrency: batches of a queue in work at the same time, never two with one customer (2 to
        1,000).
    content_based_deduplication: whether an event published without a deduplication id gets the
        hash of its body.
    high_throughput: whether throughput and deduplication are counted per customer.
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of rows and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 max_receive_count: int = 5, timeout_seconds: int = 10, batch_size: int = 10,
                 max_concurrency: int = 5, content_based_deduplication: bool = False,
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
             80 - len("-FraudChecks.fifo")),
            # Or SQS deletes an event, which is four days old by then, before it is parked.
            ("max_receive_count + 1 visibility timeouts, in seconds,",
             visibility_timeout_seconds * (max_receive_count + 1), 1, 4 * 86400),
        ):
            if not least <= value <= most:
                raise ValueError(f"{option} is {least} to {most}, not {value}")
        if removal_policy not in ("destroy", "retain"):
            raise ValueError(f'removal_policy is "destroy" or "retain", not "{removal_policy}"')
        on_destroy = RemovalPolicy[removal_policy.upper()]

        order_events = sns.Topic(
            self, "OrderEvents",
            topic_name=f"{Aws.STACK_NAME}-OrderEvents.fifo",
            fifo=True,
            content_based_deduplication=content_based_deduplication,
            fifo_throughput_scope=sns.FifoThroughputScope.MESSAGE_GROUP if high_throughput
            else sns.FifoThroughputScope.TOPIC,
            enforce_ssl=True,
            signature_version="2")
        # By its name, as the CDK cannot: for its ARN, SNS makes no key where there was none yet.
        cast(sns.CfnTopic, order_events.node.default_child).kms_master_key_id = "alias/aws/sns"
        powertools = lambda_.LayerVersion.from_layer_version_arn(
            self, "Powertools", ssm.StringParameter.value_for_string_parameter(self, POWERTOOLS))
        every_queue: dict[str, Any] = {
            "fifo": True,
            "enforce_ssl": True,
            "encryption": sqs.QueueEncryption.SQS_MANAGED,
            "max_message_size_bytes": 1_048_576,
            "receive_message_wait_time": Duration.seconds(20),
            "deduplication_scope": sqs.DeduplicationScope.MESSAGE_GROUP if high_throughput
            else sqs.DeduplicationScope.QUEUE,
            "fifo_throughput_limit": sqs.FifoThroughputLimit.PER_MESSAGE_GROUP_ID if high_throughput
            else sqs.FifoThroughputLimit.PER_QUEUE,
        }

        alarms: list[tuple[str, str, cloudwatch.Metric, int, int]] = []
        for events, failed_events, undelivered_events, handle, module, effects in (
            ("FraudChecks", "FailedFraudChecks", "UndeliveredFraudChecks",
             "CheckFraud", "check_fraud", "FraudVerdicts"),
            ("Shipments", "FailedShipments", "UndeliveredShipments",
             "ShipOrder", "ship_order", "ShippingSteps"),
        ):
            queue_name = f"{Aws.STACK_NAME}-{events}.fifo"
            queue_by_name = sqs.Queue.from_queue_arn(
                self, f"{events}ByName", self.format_arn(service="sqs", resource=queue_name))
            undelivered = sqs.Queue(
                self, undelivered_events,
                retention_period=Duration.days(14),
                redrive_allow_policy=sqs.RedriveAllowPolicy(
                    redrive_permission=sqs.RedrivePermission.DENY_ALL),  # of queues; SNS is none
                **every_queue)
            failed = sqs.Queue(
                self, failed_events,
                retention_period=Duration.days(14),
                redrive_allow_policy=sqs.RedriveAllowPolicy(source_queues=[queue_by_name]),
                **every_queue)
            queue = sqs.Queue(
                self, events,
                queue_name=queue_name,
                retention_period=Duration.days(4),
                visibility_timeout=Duration.seconds(visibility_timeout_seconds),
                dead_letter_queue=sqs.DeadLetterQueue(
                    queue=failed, max_receive_count=max_receive_count),
                **every_queue)
            order_events.add_subscription(subscriptions.SqsSubscription(
                queue, raw_message_delivery=True, dead_letter_queue=undelivered))

            table = dynamodb.Table(
                self, effects,
                partition_key=dynamodb.Attribute(
                    name="customer", type=dynamodb.AttributeType.STRING),
                sort_key=dynamodb.Attribute(name="sequence", type=dynamodb.AttributeType.NUMBER),
                billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
                point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                    point_in_time_recovery_enabled=True),
                removal_policy=on_destroy)
            function_logs = logs.LogGroup(
                self, f"{handle}Logs",
                retention=logs.RetentionDays.ONE_MONTH,
                removal_policy=on_destroy)
            role = iam.Role(
                self, f"{handle}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
            function = lambda_.Function(
                self, handle,
                runtime=PYTHON,
                architecture=lambda_.Architecture.ARM_64,
                handler=f"{module}.handler",
                code=lambda_.Code.from_asset(str(LAMBDAS), exclude=["**/__pycache__/**"]),
                layers=[powertools],
                role=role,
                timeout=Duration.seconds(timeout_seconds),
                memory_size=512,
                tracing=lambda_.Tracing.ACTIVE,
                log_group=function_logs,
                environment={
                    "POWERTOOLS_SERVICE_NAME": module.replace("_", "-"),
                    "EFFECTS": table.table_name,
                    "MAX_RECEIVE_COUNT": str(max_receive_count),
                })
            function.add_event_source_mapping(
                events,
                event_source_arn=queue.queue_arn,
                batch_size=batch_size,
                report_batch_item_failures=True,
                max_concurrency=max_concurrency)

            queue.grant_consume_messages(role)
            function_logs.grant_write(role)
            table.grant(role, "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem")
            Validations.of(role).acknowledge(Acknowledgment(
                id="AwsSolutions-IAM5[Resource::*]",
                reason="X-Ray's PutTraceSegments and PutTelemetryRecords accept no resource."))

            Validations.of(undelivered).acknowledge(Acknowledgment(
                id="AwsSolutions-SQS3",
                reason="It is a dead-letter queue itself: that of the subscription."))

            alarms += [
                (f"{events}Parked", f"{failed_events} holds events: look, mend, redrive.",
                 failed.metric_approximate_number_of_messages_visible(statistic="Maximum"), 1, 1),
                (f"{events}Undelivered", f"SNS could not deliver events to {events}: look, mend,"
                 f" publish what {undelivered_events} holds.",
                 undelivered.metric_approximate_number_of_messages_visible(statistic="Maximum"),
                 1, 1),
                (f"{events}Late", f"An event in {events} has waited longer than all retries of"
                 " the one before it take.",
                 queue.metric_approximate_age_of_oldest_message(statistic="Maximum"),
                 visibility_timeout_seconds * (max_receive_count + 1), 5),
                (f"{handle}Errors", f"{handle} crashed or ran out of time: a batch comes back.",
                 function.metric_errors(statistic="Sum"), 1, 1),
            ]
            CfnOutput(self, f"{events}Url", value=queue.queue_url)
            CfnOutput(self, f"{events}Arn", value=queue.queue_arn)
            CfnOutput(self, f"{failed_events}Url", value=failed.queue_url)
            CfnOutput(self, f"{failed_events}Arn", value=failed.queue_arn)
            CfnOutput(self, f"{undelivered_events}Url", value=undelivered.queue_url)
            CfnOutput(self, f"{undelivered_events}Arn", value=undelivered.queue_arn)
            CfnOutput(self, f"{effects}Name", value=table.table_name)
            CfnOutput(self, f"{handle}Name", value=function.function_name)
            CfnOutput(self, f"{handle}LogsName", value=function_logs.log_group_name)

        alerts_key = kms.Key(
            self, "AlertsKey",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=RemovalPolicy.DESTROY)
        alerts = sns.Topic(
            self, "Alerts", master_key=alerts_key, enforce_ssl=True, signature_version="2")
        if alert_email:
            alerts.add_subscription(subscriptions.EmailSubscription(alert_email))
        alerts.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions={
            "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            "ArnLike": {"aws:SourceArn": f"arn:{Aws.PARTITION}:cloudwatch:{Aws.REGION}:"
                                         f"{Aws.ACCOUNT_ID}:alarm:{Aws.STACK_NAME}-*"}}))
        for alarm, meaning, metric, threshold, minutes in alarms:
            metric.with_(period=Duration.minutes(1)).create_alarm(
                self, alarm,
                alarm_description=meaning,
                threshold=threshold,
                evaluation_periods=minutes,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ).add_alarm_action(actions.SnsAction(alerts))

        CfnOutput(self, "OrderEventsArn", value=order_events.topic_arn)
        CfnOutput(self, "AlertsArn", value=alerts.topic_arn)
