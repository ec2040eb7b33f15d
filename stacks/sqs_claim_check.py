"""Send orders of any size through a queue: the large ones wait in a bucket, a claim in the queue.

    Buying --+--> up to 1 MiB -------> Orders --> FulfilOrder --> FulfilledOrders
             |                           ^  |          |  fetches, checks, deletes when done
             +--> more --> LargeOrders --+  |          v
                           and a claim      |     LargeOrders --> keep_days --> gone
                                            |  max_receive_count failures
                                            v
                  FailedOrders --> OrdersParked (alarm) --> Alerts --> e-mail

Decisions worth knowing:

- `sender.py`, in workers/, is Buying's part: it counts a message as SQS does, stores
  what is above its threshold, compressed, and sends a claim in the form of AWS's extended
  clients. It says what it adds to that form, and why it is not their library for Python.
- The claim holds the hash of the object: who may store an object may also overwrite one. The
  hash is checked before anything looks into the object; then no more is unpacked than the claim
  announces (and FulfilOrder opens), so that a small object cannot fill the memory.
- A claim is good for this stack's bucket and prefix only, whatever bucket it names.
- The object is deleted after the row is written and the claim noted in RedeemedClaims: a claim
  that comes again finds no object, and is still not parked but dropped.
- A message that is parked stays as it was sent; the log of FulfilOrder says at each receive, by
  message id, why. Its object stays, too: a message lives at most 14 days from its sending, and
  once more so after a redrive, so keep_days is 30. What nobody claims goes then, which is the
  safety net of every failure between storing and deleting.
- FulfilOrder may list LargeOrders, though it never does: without that grant S3 answers 403 for an
  object that is missing, as for one that is forbidden, and the reason would be a guess.
- LargeOrders is not versioned: each object is written once, and deleted must mean gone.
- Orders is the one resource with a name, made from the stack's: its dead-letter queue must name
  it (redrive allow policy) before it exists. A second copy of the stack has another name.
- CloudFormation deletes no bucket that holds objects: before `cdk destroy`, empty LargeOrders and
  AccessLogs (`aws s3 rm --recursive`).
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
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_ssm as ssm
from constructs import Construct

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "sqs_claim_check"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"


class SqsClaimCheck(Stack):
    """Orders through a queue, the large ones by way of a bucket, with a dead-letter queue.

    largest_order_mib: the largest order that is opened, uncompressed (1 to 32 MiB; one takes up to
        thirty times its size of the function's 1,769 MB, and much of timeout_seconds).
    keep_days: age at which an object that nobody claimed is deleted (15 to 3,650 days; more than
        the 14 days that a message may wait, 29 or more if messages are redriven).
    max_receive_count: failed receives after which an order is parked (1 to 1,000; with a Lambda
        consumer 5 or more, so that throttling parks no good order).
    timeout_seconds: what FulfilOrder may take for a batch of five (1 to 900 s).
    max_concurrency: batches in work at the same time (2 to 1,000).
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of rows, objects and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 largest_order_mib: int = 8, keep_days: int = 30, max_receive_count: int = 5,
                 timeout_seconds: int = 15, max_concurrency: int = 5,
                 alert_email: str | None = None, removal_policy: str = "destroy",
                 **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        visibility_timeout_seconds = 6 * timeout_seconds
        for option, value, least, most in (
            ("largest_order_mib", largest_order_mib, 1, 32),
            ("keep_days", keep_days, 15, 3650),
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

        access_logs = s3.Bucket(
            self, "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            lifecycle_rules=[s3.LifecycleRule(expiration=Duration.days(90))],
            removal_policy=on_destroy)
        large_orders = s3.Bucket(
            self, "LargeOrders",
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            server_access_logs_bucket=access_logs,
            server_access_logs_prefix="large-orders/",
            lifecycle_rules=[s3.LifecycleRule(
                expiration=Duration.days(keep_days),
                abort_incomplete_multipart_upload_after=Duration.days(7))],
            removal_policy=on_destroy)
        objects = large_orders.arn_for_objects("orders/*")

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
        # A role for the account's own programs: whoever sends orders assumes it.
        buying = iam.Role(self, "Buying", assumed_by=iam.AccountRootPrincipal())

        fulfilled_orders = dynamodb.Table(
            self, "FulfilledOrders",
            partition_key=dynamodb.Attribute(name="order_id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True),
            removal_policy=on_destroy)
        redeemed_claims = dynamodb.Table(
            self, "RedeemedClaims",
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
            memory_size=1769,  # one whole processor: to unpack and parse is all it does
            tracing=lambda_.Tracing.ACTIVE,
            log_group=fulfil_order_logs,
            environment={
                "POWERTOOLS_SERVICE_NAME": "fulfil-order",
                "LARGE_ORDERS": large_orders.bucket_name,
                "LARGEST_ORDER": str(largest_order_mib * 1024 * 1024),
                "FULFILLED_ORDERS": fulfilled_orders.table_name,
                "REDEEMED_CLAIMS": redeemed_claims.table_name,
                "KEEP_DAYS": str(keep_days),
            })
        fulfil_order.add_event_source_mapping(
            "Orders",
            event_source_arn=orders.queue_arn,
            batch_size=5,
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

        orders.grant(buying, "sqs:SendMessage")
        buying.add_to_policy(iam.PolicyStatement(actions=["s3:PutObject"], resources=[objects]))
        orders.grant_consume_messages(fulfil_order_role)
        fulfil_order_role.add_to_policy(iam.PolicyStatement(
            actions=["s3:GetObject", "s3:DeleteObject"], resources=[objects]))
        fulfil_order_role.add_to_policy(iam.PolicyStatement(
            actions=["s3:ListBucket"], resources=[large_orders.bucket_arn]))
        fulfilled_orders.grant(fulfil_order_role, "dynamodb:PutItem")
        redeemed_claims.grant(
            fulfil_order_role,
            "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem")
        fulfil_order_logs.grant_write(fulfil_order_role)
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

        bucket_id = self.get_logical_id(cast(s3.CfnBucket, large_orders.node.default_child))
        for role in (buying, fulfil_order_role):
            Validations.of(role).acknowledge(Acknowledgment(
                id=f"AwsSolutions-IAM5[Resource::<{bucket_id}.Arn>/orders/*]",
                reason="Each order is stored under a new key, and every key begins orders/."))
        Validations.of(fulfil_order_role).acknowledge(Acknowledgment(
            id="AwsSolutions-IAM5[Resource::*]",
            reason="X-Ray's PutTraceSegments and PutTelemetryRecords accept no resource."))
        Validations.of(redeemed_claims).acknowledge(Acknowledgment(
            id="AwsSolutions-DDB3",
            reason="A lost record costs no order: a claim that comes again is then parked."))

        CfnOutput(self, "BuyingArn", value=buying.role_arn)
        CfnOutput(self, "LargeOrdersName", value=large_orders.bucket_name)
        CfnOutput(self, "OrdersUrl", value=orders.queue_url)
        CfnOutput(self, "OrdersArn", value=orders.queue_arn)
        CfnOutput(self, "FailedOrdersUrl", value=failed_orders.queue_url)
        CfnOutput(self, "FailedOrdersArn", value=failed_orders.queue_arn)
        CfnOutput(self, "FulfilledOrdersName", value=fulfilled_orders.table_name)
        CfnOutput(self, "FulfilOrderName", value=fulfil_order.function_name)
        CfnOutput(self, "FulfilOrderLogsName", value=fulfil_order_logs.log_group_name)
        CfnOutput(self, "AlertsArn", value=alerts.topic_arn)
