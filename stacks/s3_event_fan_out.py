"""Tell several services of every new image, so that one that fails costs the others nothing.

    images/... --> Uploads --> ImageEvents --+--> Thumbnails --> its service
                                             +--> Catalogue --> its service
                                             +--> ScanImage --> ScannedImages

    what SNS cannot hand over:      UndeliveredThumbnails, UndeliveredCatalogue, UndeliveredScans
    what its subscriber fails at:   FailedThumbnails, FailedCatalogue, FailedScans
    each of them --> alarm --> Alerts --> e-mail

Decisions worth knowing:

- The notification is a property of the bucket. The CDK's add_event_notification would deploy a
  hidden function that may change the notifications of every bucket in the account.
- S3 tests the topic while the bucket is made, so the topic's policy names a bucket that does not
  exist yet. Its name is known beforehand and nobody else's to take, because it is in the
  account's own namespace (all Regions but Bahrain and the UAE): the stack's name, at most 24 long.
- SNS does not try again where a policy or an endpoint is gone: the copy is in that subscription's
  dead-letter queue at once. ScanImage is called asynchronously: a scan that fails three times is
  no longer SNS's to keep, so the function has a destination on failure, which says why it failed.
- Nothing leads back from Undelivered... by itself: mend, then send each copy on to its one
  subscriber. Published to the topic again it would reach all three.
- Events come at least once and in any order: a version is scanned once (condition on its row),
  and `sequencer` tells which of a key's versions is the later one.
- The queues hold the event as S3 writes it (raw delivery). Who reads it decodes the key with
  unquote_plus and ignores the `s3:TestEvent` that comes whenever the notification is set.
- One KMS key for both topics: S3 and CloudWatch cannot publish under `alias/aws/sns`. While idle
  you pay for it, for the alarms, and for whatever polls Thumbnails and Catalogue.
- A bucket that holds objects stops `cdk destroy`: empty Uploads, with all versions, and
  UploadsAccessLogs first. What would empty them by itself is a hidden function again.
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
from aws_cdk import aws_lambda_destinations as destinations
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_ssm as ssm
from constructs import Construct

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "s3_event_fan_out"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"
IMAGES = "images/"


class S3EventFanOut(Stack):
    """New images in a bucket, told to two queues and a function through one topic.

    max_receive_count: failed receives after which an image of a queue is parked (1 to 1,000; with
        a Lambda consumer 5 or more, so that throttling parks no good image).
    visibility_timeout_seconds: what a service may take for an image (1 to 43,200 s; six times the
        timeout of a Lambda consumer).
    timeout_seconds: what ScanImage may take for an image (1 to 900 s).
    old_versions_days: how long a replaced or deleted image is kept (1 to 3,650 days).
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of images, findings and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 max_receive_count: int = 5, visibility_timeout_seconds: int = 60,
                 timeout_seconds: int = 10, old_versions_days: int = 30,
                 alert_email: str | None = None, removal_policy: str = "destroy",
                 **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        for option, value, least, most in (
            ("max_receive_count", max_receive_count, 1, 1000),
            ("visibility_timeout_seconds", visibility_timeout_seconds, 1, 43200),
            ("timeout_seconds", timeout_seconds, 1, 900),
            ("old_versions_days", old_versions_days, 1, 3650),
            ("the length of the stack's name", len(self.stack_name), 1, 24),
            # Or SQS deletes an event, which is four days old by then, before it is parked.
            ("max_receive_count + 1 visibility timeouts, in seconds,",
             visibility_timeout_seconds * (max_receive_count + 1), 1, 4 * 86400),
        ):
            if not least <= value <= most:
                raise ValueError(f"{option} is {least} to {most}, not {value}")
        if removal_policy not in ("destroy", "retain"):
            raise ValueError(f'removal_policy is "destroy" or "retain", not "{removal_policy}"')
        on_destroy = RemovalPolicy[removal_policy.upper()]

        uploads_prefix = f"{self.stack_name.lower()}-uploads"
        uploads_name = f"{uploads_prefix}-{Aws.ACCOUNT_ID}-{Aws.REGION}-an"
        topics_key = kms.Key(
            self, "TopicsKey",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=RemovalPolicy.DESTROY)
        image_events = sns.Topic(
            self, "ImageEvents", master_key=topics_key, enforce_ssl=True, signature_version="2")
        image_events.grant_publish(iam.ServicePrincipal("s3.amazonaws.com", conditions={
            "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            "ArnEquals": {"aws:SourceArn": f"arn:{Aws.PARTITION}:s3:::{uploads_name}"}}))

        uploads_access_logs = s3.Bucket(
            self, "UploadsAccessLogs",
            enforce_ssl=True,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            lifecycle_rules=[s3.LifecycleRule(expiration=Duration.days(90))],
            removal_policy=on_destroy)
        uploads = s3.Bucket(
            self, "Uploads",
            bucket_namespace=s3.BucketNamespace.ACCOUNT_REGIONAL,
            bucket_name_prefix=uploads_prefix,
            enforce_ssl=True,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            versioned=True,
            server_access_logs_bucket=uploads_access_logs,
            lifecycle_rules=[s3.LifecycleRule(
                noncurrent_version_expiration=Duration.days(old_versions_days),
                expired_object_delete_marker=True,
                abort_incomplete_multipart_upload_after=Duration.days(7))],
            removal_policy=on_destroy)
        # The L2 bucket knows notifications only by way of the hidden function.
        cfn_uploads = cast(s3.CfnBucket, uploads.node.default_child)
        cfn_uploads.add_property_override("NotificationConfiguration.TopicConfigurations", [{
            "Topic": image_events.topic_arn,
            "Event": "s3:ObjectCreated:*",
            "Filter": {"S3Key": {"Rules": [{"Name": "prefix", "Value": IMAGES}]}}}])
        uploads.node.add_dependency(image_events)  # with its policy, which S3 tests

        queues: dict[str, sqs.Queue] = {}
        parked: dict[str, sqs.Queue] = {}
        for service in ("Thumbnails", "Catalogue"):
            parked[f"Undelivered{service}"] = self._parking(f"Undelivered{service}")
            parked[f"Failed{service}"] = self._parking(f"Failed{service}", source=service)
            queues[service] = sqs.Queue(
                self, service,
                queue_name=f"{Aws.STACK_NAME}-{service}",
                enforce_ssl=True,
                encryption=sqs.QueueEncryption.SQS_MANAGED,
                max_message_size_bytes=1_048_576,
                retention_period=Duration.days(4),
                receive_message_wait_time=Duration.seconds(20),
                visibility_timeout=Duration.seconds(visibility_timeout_seconds),
                dead_letter_queue=sqs.DeadLetterQueue(
                    queue=parked[f"Failed{service}"], max_receive_count=max_receive_count))
            image_events.add_subscription(subscriptions.SqsSubscription(
                queues[service], raw_message_delivery=True,
                dead_letter_queue=parked[f"Undelivered{service}"]))

        scanned_images = dynamodb.Table(
            self, "ScannedImages",
            partition_key=dynamodb.Attribute(name="image", type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name="version_id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True),
            removal_policy=on_destroy)
        for name in ("UndeliveredScans", "FailedScans"):
            parked[name] = self._parking(name)
        scan_image_logs = logs.LogGroup(
            self, "ScanImageLogs",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        scan_image_role = iam.Role(
            self, "ScanImageRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        powertools = lambda_.LayerVersion.from_layer_version_arn(
            self, "Powertools", ssm.StringParameter.value_for_string_parameter(self, POWERTOOLS))
        scan_image = lambda_.Function(
            self, "ScanImage",
            runtime=PYTHON,
            architecture=lambda_.Architecture.ARM_64,
            handler="scan_image.handler",
            code=lambda_.Code.from_asset(str(LAMBDAS), exclude=["**/__pycache__/**"]),
            layers=[powertools],
            role=scan_image_role,
            timeout=Duration.seconds(timeout_seconds),
            memory_size=512,
            tracing=lambda_.Tracing.ACTIVE,
            log_group=scan_image_logs,
            retry_attempts=2,
            on_failure=destinations.SqsDestination(parked["FailedScans"]),
            environment={
                "POWERTOOLS_SERVICE_NAME": "scan-image",
                "SCANNED_IMAGES": scanned_images.table_name,
            })
        image_events.add_subscription(subscriptions.LambdaSubscription(
            scan_image, dead_letter_queue=parked["UndeliveredScans"]))

        alerts = sns.Topic(
            self, "Alerts", master_key=topics_key, enforce_ssl=True, signature_version="2")
        if alert_email:
            alerts.add_subscription(subscriptions.EmailSubscription(alert_email))

        scan_image_logs.grant_write(scan_image_role)
        scan_image_role.add_to_policy(iam.PolicyStatement(
            actions=["s3:GetObjectVersion"], resources=[uploads.arn_for_objects(f"{IMAGES}*")]))
        scanned_images.grant(scan_image_role, "dynamodb:PutItem")
        alerts.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions={
            "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            "ArnLike": {"aws:SourceArn": f"arn:{Aws.PARTITION}:cloudwatch:{Aws.REGION}:"
                                         f"{Aws.ACCOUNT_ID}:alarm:{Aws.STACK_NAME}-*"}}))

        watched = [
            ("ScanImageErrors", "ScanImage crashed or ran out of time: it is tried again.",
             scan_image.metric_errors(statistic="Sum"), 1, 1),
            ("CopiesLost", "SNS could neither hand a copy over nor put it in Undelivered...",
             image_events.metric("NumberOfNotificationsFailedToRedriveToDlq", statistic="Sum"),
             1, 1),
            ("FailuresLost", "Lambda could not put a failed scan in FailedScans.",
             scan_image.metric("DestinationDeliveryFailures", statistic="Sum"), 1, 1)]
        for service, queue in queues.items():
            watched.append((
                f"{service}Late", "An image received less than three times has waited longer than"
                                  " all its retries take.",
                queue.metric_approximate_age_of_oldest_message(statistic="Maximum"),
                visibility_timeout_seconds * (max_receive_count + 1), 5))
        for name, queue in parked.items():
            watched.append((
                f"{name}Wait", f"Images are in {name}: look, mend, send them on.",
                queue.metric_approximate_number_of_messages_visible(statistic="Maximum"), 1, 1))
        for alarm, meaning, metric, threshold, minutes in watched:
            metric.with_(period=Duration.minutes(1)).create_alarm(
                self, alarm,
                alarm_description=meaning,
                threshold=threshold,
                evaluation_periods=minutes,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ).add_alarm_action(actions.SnsAction(alerts))

        Validations.of(scan_image_role).acknowledge(
            Acknowledgment(
                id="AwsSolutions-IAM5[Resource::*]",
                reason="X-Ray's PutTraceSegments and PutTelemetryRecords accept no resource."),
            Acknowledgment(
                id=f"AwsSolutions-IAM5[Resource::<{self.get_logical_id(cfn_uploads)}.Arn>/"
                   f"{IMAGES}*]",
                reason="Which images there will be is not known; all others stay unreadable."))

        CfnOutput(self, "UploadsName", value=uploads.bucket_name)
        CfnOutput(self, "ImageEventsArn", value=image_events.topic_arn)
        for name, queue in {**queues, **parked}.items():
            CfnOutput(self, f"{name}Url", value=queue.queue_url)
            CfnOutput(self, f"{name}Arn", value=queue.queue_arn)
        CfnOutput(self, "ScannedImagesName", value=scanned_images.table_name)
        CfnOutput(self, "ScanImageName", value=scan_image.function_name)
        CfnOutput(self, "ScanImageLogsName", value=scan_image_logs.log_group_name)
        CfnOutput(self, "AlertsArn", value=alerts.topic_arn)

    def _parking(self, construct_id: str, *, source: str | None = None) -> sqs.Queue:
        """A queue for failures: those of the queue `source`, else those of SNS or Lambda."""
        allowed = sqs.RedriveAllowPolicy(redrive_permission=sqs.RedrivePermission.DENY_ALL)
        if source:
            allowed = sqs.RedriveAllowPolicy(source_queues=[sqs.Queue.from_queue_arn(
                self, f"{source}ByName",
                self.format_arn(service="sqs", resource=f"{Aws.STACK_NAME}-{source}"))])
        queue = sqs.Queue(
            self, construct_id,
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            max_message_size_bytes=1_048_576,
            retention_period=Duration.days(14),
            receive_message_wait_time=Duration.seconds(20),
            redrive_allow_policy=allowed)
        if not source:
            Validations.of(queue).acknowledge(Acknowledgment(
                id="AwsSolutions-SQS3",
                reason="A subscription's dead-letter queue or a function's destination itself."))
        return queue
