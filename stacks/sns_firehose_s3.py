"""Keep every order event for years, in files that a person and a query engine can read.

    Buying --> OrderEvents --> OrderArchive --> ArchivedOrders   orders/yyyy/MM/dd/HH/*.gz
                    |          (a buffer)                        errors/processing-failed/...
                    |  refused
                    v
             UnarchivedOrders --> OrdersUnarchived (alarm) --> Alerts --> e-mail

Decisions worth knowing:

- Raw delivery and a newline after each record: a line of a file is an event as Buying published
  it, without bare line breaks (JSON escapes them). SNS and Firehose deliver at least once.
- What SNS cannot hand over is parked at once: there is no second try for a role or a stream that
  is gone. SQS cannot redrive it; mend the cause, publish it again.
- What the bucket refuses Firehose tries again for 24 hours, and then it is lost: ArchiveRefused
  tells of the first refusal, and stays in ALARM between the attempts until an object is taken.
  Under `errors/` lies only what a processor could not process.
- Both roles name their actions, the stream and two prefixes. The CDK would let Firehose read and
  delete the whole archive, so it gets the roles without leave to add to them.
- The roles trust their services for this account only. Firehose documents the external id that
  it sends; SNS documents no such key, so its condition binds where the key is sent.
- OrderEvents is encrypted with AWS's own key for SNS, which is free. Alerts has a key of its own,
  because CloudWatch cannot publish to a topic under `alias/aws/sns`.
- CloudFormation deletes no bucket that holds objects: before `cdk destroy`, empty ArchivedOrders
  and AccessLogs (`aws s3 rm --recursive`).
"""

from typing import Any, cast

from aws_cdk import (
    Acknowledgment,
    Aws,
    CfnOutput,
    Duration,
    RemovalPolicy,
    Size,
    Stack,
    Validations,
)
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from constructs import Construct


class SnsFirehoseS3(Stack):
    """Order events from a topic through a delivery stream to a bucket, with alarms and alerts.

    buffer_seconds: how long the stream collects before it writes an object (0 to 900 s; 0 means
        at once). Longer means fewer and larger objects.
    buffer_mib: how much it collects at most, before compression (1 to 128 MiB).
    cool_days: age at which an object moves to Infrequent Access (30 to 3,650 days). S3 moves none
        below 128 KB, compressed: with few events, buffer longer or none will ever move.
    keep_days: age at which it is deleted (more than cool_days, to 36,500 days).
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of the archive and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 buffer_seconds: int = 60, buffer_mib: int = 5,
                 cool_days: int = 90, keep_days: int = 2555,
                 alert_email: str | None = None, removal_policy: str = "destroy",
                 **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        for option, value, least, most in (("buffer_seconds", buffer_seconds, 0, 900),
                                           ("buffer_mib", buffer_mib, 1, 128),
                                           ("cool_days", cool_days, 30, 3650),
                                           ("keep_days", keep_days, cool_days + 1, 36500)):
            if not least <= value <= most:
                raise ValueError(f"{option} is {least} to {most}, not {value}")
        if removal_policy not in ("destroy", "retain"):
            raise ValueError(f'removal_policy is "destroy" or "retain", not "{removal_policy}"')
        on_destroy = RemovalPolicy[removal_policy.upper()]

        unarchived_orders = sqs.Queue(
            self, "UnarchivedOrders",
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            max_message_size_bytes=1_048_576,
            retention_period=Duration.days(14),
            receive_message_wait_time=Duration.seconds(20),
            redrive_allow_policy=sqs.RedriveAllowPolicy(
                redrive_permission=sqs.RedrivePermission.DENY_ALL))  # of queues; SNS is none
        order_events = sns.Topic(
            self, "OrderEvents",
            enforce_ssl=True,
            signature_version="2")
        # By its name, as the CDK cannot: for its ARN, SNS makes no key where there was none yet.
        cast(sns.CfnTopic, order_events.node.default_child).kms_master_key_id = "alias/aws/sns"

        access_logs = s3.Bucket(
            self, "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            lifecycle_rules=[s3.LifecycleRule(expiration=Duration.days(90))],
            removal_policy=on_destroy)
        archived_orders = s3.Bucket(
            self, "ArchivedOrders",
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            server_access_logs_bucket=access_logs,
            server_access_logs_prefix="archived-orders/",
            lifecycle_rules=[s3.LifecycleRule(
                transitions=[s3.Transition(
                    storage_class=s3.StorageClass.INFREQUENT_ACCESS,
                    transition_after=Duration.days(cool_days))],
                expiration=Duration.days(keep_days),
                abort_incomplete_multipart_upload_after=Duration.days(7))],
            removal_policy=on_destroy)

        order_archive_errors = logs.LogGroup(
            self, "OrderArchiveErrors",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        order_archive_role = iam.Role(
            self, "OrderArchiveRole",
            assumed_by=iam.ServicePrincipal("firehose.amazonaws.com", conditions={
                "StringEquals": {"sts:ExternalId": Aws.ACCOUNT_ID}}))
        order_archive = firehose.DeliveryStream(
            self, "OrderArchive",
            encryption=firehose.StreamEncryption.aws_owned_key(),
            destination=firehose.S3Bucket(
                archived_orders,
                role=order_archive_role.without_policy_updates(),
                processors=[firehose.AppendDelimiterToRecordProcessor()],
                buffering_interval=Duration.seconds(buffer_seconds),
                buffering_size=Size.mebibytes(buffer_mib),
                compression=firehose.Compression.GZIP,
                data_output_prefix="orders/!{timestamp:yyyy/MM/dd/HH}/",
                error_output_prefix="errors/!{firehose:error-output-type}/"
                                    "!{timestamp:yyyy/MM/dd/HH}/",
                logging_config=firehose.EnableLogging(order_archive_errors)))
        # The CDK adds a table of addresses that only a VPC needs, and retains the log stream.
        self.node.try_remove_child("@aws-cdk--aws-kinesisfirehose.CidrBlocks")
        for stream in order_archive_errors.node.children:
            if isinstance(stream, logs.LogStream):
                stream.apply_removal_policy(on_destroy)

        order_events_role = iam.Role(
            self, "OrderEventsRole",
            assumed_by=iam.ServicePrincipal("sns.amazonaws.com", conditions={
                "StringEqualsIfExists": {"aws:SourceAccount": Aws.ACCOUNT_ID}}))
        subscription = order_events.add_subscription(subscriptions.FirehoseSubscription(
            order_archive,
            role=order_events_role.without_policy_updates(),
            raw_message_delivery=True,
            dead_letter_queue=unarchived_orders))

        alerts_key = kms.Key(
            self, "AlertsKey",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=RemovalPolicy.DESTROY)
        alerts = sns.Topic(
            self, "Alerts", master_key=alerts_key, enforce_ssl=True, signature_version="2")
        if alert_email:
            alerts.add_subscription(subscriptions.EmailSubscription(alert_email))

        order_archive.grant(order_events_role, "firehose:PutRecord", "firehose:PutRecordBatch")
        subscription.node.add_dependency(order_events_role)
        order_archive_role.add_to_policy(iam.PolicyStatement(
            actions=["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
            resources=[archived_orders.bucket_arn]))
        order_archive_role.add_to_policy(iam.PolicyStatement(
            actions=["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
            resources=[archived_orders.arn_for_objects("orders/*"),
                       archived_orders.arn_for_objects("errors/*")]))
        order_archive_errors.grant(order_archive_role, "logs:PutLogEvents")
        order_archive.node.add_dependency(order_archive_role)
        alerts.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions={
            "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            "ArnLike": {"aws:SourceArn": f"arn:{Aws.PARTITION}:cloudwatch:{Aws.REGION}:"
                                         f"{Aws.ACCOUNT_ID}:alarm:{Aws.STACK_NAME}-*"}}))

        for alarm, meaning, metric, comparison, threshold, minutes, missing in (
            ("OrdersUnarchived", "SNS could not hand orders to the archive: mend, publish again.",
             unarchived_orders.metric_approximate_number_of_messages_visible(statistic="Maximum"),
             "GREATER_THAN_OR_EQUAL_TO", 1, 1, "NOT_BREACHING"),
            ("ArchiveRefused", "The bucket refused an object: mend within 24 hours.",
             order_archive.metric("DeliveryToS3.Success", statistic="Average"),
             "LESS_THAN", 1, 1, "IGNORE"),
            ("ArchiveLate", "An order has waited ten minutes longer than the buffer does.",
             order_archive.metric("DeliveryToS3.DataFreshness", statistic="Maximum"),
             "GREATER_THAN_OR_EQUAL_TO", buffer_seconds + 600, 5, "NOT_BREACHING"),
        ):
            metric.with_(period=Duration.minutes(1)).create_alarm(
                self, alarm,
                alarm_description=meaning,
                comparison_operator=cloudwatch.ComparisonOperator[f"{comparison}_THRESHOLD"],
                threshold=threshold,
                evaluation_periods=minutes,
                treat_missing_data=cloudwatch.TreatMissingData[missing],
            ).add_alarm_action(actions.SnsAction(alerts))

        Validations.of(unarchived_orders).acknowledge(Acknowledgment(
            id="AwsSolutions-SQS3",
            reason="It is the dead-letter queue of the subscription of OrderArchive."))
        for prefix in ("orders", "errors"):
            Validations.of(order_archive_role).acknowledge(Acknowledgment(
                id=f"AwsSolutions-IAM5[Resource::<ArchivedOrdersF5E56808.Arn>/{prefix}/*]",
                reason=f"Firehose gives each object a new name, and every one begins {prefix}/."))

        CfnOutput(self, "OrderEventsArn", value=order_events.topic_arn)
        CfnOutput(self, "OrderArchiveName", value=order_archive.delivery_stream_name)
        CfnOutput(self, "ArchivedOrdersName", value=archived_orders.bucket_name)
        CfnOutput(self, "OrderArchiveErrorsName", value=order_archive_errors.log_group_name)
        CfnOutput(self, "UnarchivedOrdersUrl", value=unarchived_orders.queue_url)
        CfnOutput(self, "UnarchivedOrdersArn", value=unarchived_orders.queue_arn)
        CfnOutput(self, "AlertsArn", value=alerts.topic_arn)
