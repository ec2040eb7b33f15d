"""Fulfil each order once on machines of your own, however often it is sent or a machine dies.

    Buying --> Orders --> Workers (EC2, 1 to max_workers) --> FulfilledOrders
                  |       take, work, write once, delete
                  |  max_receive_count receives
                  v
            FailedOrders --> OrdersParked (alarm) --> Alerts --> e-mail

Decisions worth knowing:

- At least once in, once out: the condition on the row is what makes a duplicate harmless, a message
  is deleted after its row is written, and a heartbeat keeps an order that takes long from others.
- While the table does not answer, orders wait in their workers' hands, up to eight minutes: to give
  one back would use up a receive, and after max_receive_count of them a good order is parked.
- A worker that is told to stop, by SIGTERM or by its group, gives back what it has not begun, at
  once; what a killed one held comes back after the visibility timeout. Either uses up a receive.
- The group holds the orders that wait for each worker at backlog_per_worker, by metric math: no
  function counts them. It never goes below one worker: a number divided by none is no number.
- A new worker is in service when SQS has answered its program (hook Start), and one that must go is
  gone when its program is done (hook Drain). A release whose program does not get so far is taken
  back: CloudFormation waits for a word of each new worker.
- Nobody logs in: no key, no open port, Session Manager instead. IMDSv2 only.
- Python 3.9, python3-boto3 and the CloudWatch agent are Amazon Linux 2023's, of the release that
  its image is locked to. Each deployment takes the image of the day; a change of the image or the
  program replaces the workers one by one.
- Endpoints and no NAT gateway: no way out to the internet at all, and S3's gateway leads to the
  program and the repository only. Six interface endpoints in two zones are $0.12 an hour in
  us-east-1, two NAT gateways $0.09 and more for each GB (June 2026). While idle you pay for them,
  the worker (t4g.small), its polling, the alarms and the key of Alerts. S3's and DynamoDB's
  gateways are free.
- The zones are the first two that the account shows in the Region; one that shows a single zone
  refuses the stack at its second subnet.
- Orders and Workers are named after the stack: the dead-letter queue names the one, the role and
  the program name the other, before they exist. A second copy of the stack has other names.
"""

from pathlib import Path
from typing import Any, cast

from aws_cdk import Acknowledgment, Aws, CfnOutput, Duration, Fn, RemovalPolicy, Stack, Validations
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from constructs import Construct

WORKERS = Path(__file__).parent.parent / "workers" / "sqs_idempotent_consumer"
HTTPS, Tracking = ec2.Port.tcp(443), autoscaling.CfnScalingPolicy
SIZES = ("micro", "small", "medium", "large", "xlarge", "2xlarge")


class SqsIdempotentConsumer(Stack):
    """Orders through a queue to an Auto Scaling group of workers, with alarms and alerts.

    visibility_timeout_seconds: for which a worker that dies keeps its orders from the others; a
        living one extends it for as long as an order takes (60 to 43,200 s).
    max_receive_count: receives after which an order is parked (5 to 1,000).
    orders_at_once: in work at the same time on one worker (1 to 64).
    backlog_per_worker: orders waiting for each worker that the group is held at: the longest
        wait that you accept, divided by the time for an order, times orders_at_once (1 to 100,000).
    min_workers: that always run (1 to 99).
    max_workers: that run at most (2 to 100, and more than min_workers).
    instance_size: of each t4g worker, "micro" to "2xlarge".
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of rows and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 visibility_timeout_seconds: int = 60, max_receive_count: int = 5,
                 orders_at_once: int = 4, backlog_per_worker: int = 100,
                 min_workers: int = 1, max_workers: int = 4, instance_size: str = "small",
                 alert_email: str | None = None, removal_policy: str = "destroy",
                 **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        for option, value, least, most in (
            ("visibility_timeout_seconds", visibility_timeout_seconds, 60, 43200),
            ("max_receive_count", max_receive_count, 5, 1000),
            ("orders_at_once", orders_at_once, 1, 64),
            ("backlog_per_worker", backlog_per_worker, 1, 100_000),
            ("min_workers", min_workers, 1, 99),
            ("max_workers", max_workers, min_workers + 1, 100),
            ("the length of the stack's name", len(self.stack_name), 1, 80 - len("-Orders")),
            # Or SQS deletes an order, which is four days old by then, before it is parked.
            ("max_receive_count + 1 visibility timeouts, in seconds,",
             visibility_timeout_seconds * (max_receive_count + 1), 1, 4 * 86400),
        ):
            if not least <= value <= most:
                raise ValueError(f"{option} is {least} to {most}, not {value}")
        if instance_size not in SIZES:
            raise ValueError(f'instance_size is one of {", ".join(SIZES)}, not "{instance_size}"')
        if removal_policy not in ("destroy", "retain"):
            raise ValueError(f'removal_policy is "destroy" or "retain", not "{removal_policy}"')
        on_destroy = RemovalPolicy[removal_policy.upper()]
        orders_name, workers_name = f"{Aws.STACK_NAME}-Orders", f"{Aws.STACK_NAME}-Workers"

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

        network = ec2.Vpc(
            self, "Network",
            availability_zones=[Fn.select(zone, Fn.get_azs()) for zone in range(2)],
            nat_gateways=0,
            subnet_configuration=[ec2.SubnetConfiguration(
                name="Private", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24)],
            # The CDK would empty the default group by a hidden function; nothing here uses it.
            restrict_default_security_group=False)
        network.add_flow_log("Traffic", destination=ec2.FlowLogDestination.to_cloud_watch_logs(
            logs.LogGroup(self, "NetworkLogs", retention=logs.RetentionDays.ONE_MONTH,
                          removal_policy=on_destroy)))
        worker_access, endpoint_access = (
            ec2.SecurityGroup(self, group, vpc=network, description=meaning,
                              allow_all_outbound=False)
            for group, meaning in (("WorkerAccess", "Workers; nothing may reach them"),
                                   ("EndpointAccess", "Interface endpoints of AWS services")))
        endpoint_access.connections.allow_from(worker_access, HTTPS, "AWS services")
        worker_access.connections.allow_to_any_ipv4(
            HTTPS, "the gateways of S3 and DynamoDB; no other way out")
        for service, endpoint in (
            ("Sqs", ec2.InterfaceVpcEndpointAwsService.SQS),
            ("AutoScaling", ec2.InterfaceVpcEndpointAwsService.AUTOSCALING),
            ("CloudFormation", ec2.InterfaceVpcEndpointAwsService.CLOUDFORMATION),
            ("Logs", ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS),
            ("Ssm", ec2.InterfaceVpcEndpointAwsService.SSM),
            ("SsmMessages", ec2.InterfaceVpcEndpointAwsService.SSM_MESSAGES),
        ):
            network.add_interface_endpoint(
                service, service=endpoint, open=False, security_groups=[endpoint_access])
        network.add_gateway_endpoint(
            "DynamoDb", service=ec2.GatewayVpcEndpointAwsService.DYNAMODB)
        s3 = network.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)

        program = s3_assets.Asset(
            self, "WorkerProgram", path=str(WORKERS), exclude=["**/__pycache__/**"])
        program_arn = program.bucket.arn_for_objects(program.s3_object_key)
        worker_logs = logs.LogGroup(
            self, "WorkerLogs", retention=logs.RetentionDays.ONE_MONTH, removal_policy=on_destroy)
        worker_role = iam.Role(
            self, "WorkerRole", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
        user_data = ec2.UserData.for_linux()
        user_data.add_commands(
            "set -euo pipefail",
            "cat >/etc/fulfil-orders.env <<'END'",
            *(f"{name}={value}" for name, value in (
                ("AWS_DEFAULT_REGION", Aws.REGION),
                ("ORDERS_URL", orders.queue_url),
                ("FULFILLED_ORDERS", fulfilled_orders.table_name),
                ("VISIBILITY_TIMEOUT", visibility_timeout_seconds),
                ("ORDERS_AT_ONCE", orders_at_once),
                ("GROUP_NAME", workers_name),
                ("HOOK_NAME", "Drain"),
                ("LOG_GROUP", worker_logs.log_group_name))),
            "END",
            "set -a; . /etc/fulfil-orders.env; set +a",
            f"aws s3 cp {program.s3_object_url} /root/worker.zip",
            "python3 -m zipfile -e /root/worker.zip /opt/fulfil-orders",
            "bash /opt/fulfil-orders/install.sh")
        template = ec2.LaunchTemplate(
            self, "WorkerTemplate",
            machine_image=ec2.MachineImage.latest_amazon_linux2023(
                cpu_type=ec2.AmazonLinuxCpuType.ARM_64),
            instance_type=ec2.InstanceType(f"t4g.{instance_size}"),
            user_data=user_data,
            role=worker_role,
            security_group=worker_access,
            require_imdsv2=True,
            http_put_response_hop_limit=1,
            detailed_monitoring=True,
            block_devices=[ec2.BlockDevice(
                device_name="/dev/xvda",
                volume=ec2.BlockDeviceVolume.ebs(
                    8, encrypted=True, volume_type=ec2.EbsDeviceVolumeType.GP3))])
        workers = autoscaling.AutoScalingGroup(
            self, "Workers",
            auto_scaling_group_name=workers_name,
            vpc=network,
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
            launch_template=template,
            min_capacity=min_workers,
            max_capacity=max_workers,
            group_metrics=[autoscaling.GroupMetrics(autoscaling.GroupMetric.IN_SERVICE_INSTANCES)],
            signals=autoscaling.Signals.wait_for_count(min_workers, timeout=Duration.minutes(15)),
            update_policy=autoscaling.UpdatePolicy.rolling_update(
                min_instances_in_service=min_workers, max_batch_size=1))
        # The L2's hooks are resources of their own: there after the first worker, gone before
        # the last.
        group = cast(autoscaling.CfnAutoScalingGroup, workers.node.default_child)
        group.lifecycle_hook_specification_list = [
            autoscaling.CfnAutoScalingGroup.LifecycleHookSpecificationProperty(
                lifecycle_hook_name=hook, lifecycle_transition=f"autoscaling:EC2_INSTANCE_{moment}",
                heartbeat_timeout=600, default_result=otherwise)
            for hook, moment, otherwise in (("Start", "LAUNCHING", "ABANDON"),
                                            ("Drain", "TERMINATING", "CONTINUE"))]

        # However the installation ends, the group and CloudFormation learn it at once.
        user_data.add_on_exit_commands(
            f"set +e; export AWS_DEFAULT_REGION={Aws.REGION}",
            "[ $exitCode = 0 ] && ends='CONTINUE SUCCESS' || ends='ABANDON FAILURE'",
            "metadata=http://169.254.169.254/latest",
            "token=$(curl -sSf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60'"
            " $metadata/api/token)",
            'instance=$(curl -sSf -H "X-aws-ec2-metadata-token: $token"'
            " $metadata/meta-data/instance-id)",
            "aws autoscaling complete-lifecycle-action --lifecycle-hook-name Start"
            f" --auto-scaling-group-name {workers_name} --instance-id $instance"
            " --lifecycle-action-result ${ends% *}",
            # Refused, which does no harm, for a worker that comes while no deployment waits.
            f"aws cloudformation signal-resource --stack-name {Aws.STACK_ID} --logical-resource-id"
            f" {self.get_logical_id(group)} --unique-id $instance --status ${{ends#* }}")

        alerts_key = kms.Key(
            self, "AlertsKey",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=RemovalPolicy.DESTROY)
        alerts = sns.Topic(
            self, "Alerts", master_key=alerts_key, enforce_ssl=True, signature_version="2")
        if alert_email:
            alerts.add_subscription(subscriptions.EmailSubscription(alert_email))

        s3.add_to_policy(iam.PolicyStatement(
            actions=["s3:GetObject"], principals=[iam.AnyPrincipal()],
            resources=[program_arn,  # and Amazon Linux's repository in this Region
                       f"arn:{Aws.PARTITION}:s3:::al2023-repos-{Aws.REGION}-de612dc2/*"]))
        group_arn = self.format_arn(
            service="autoscaling", resource="autoScalingGroup:*:autoScalingGroupName",
            resource_name=workers_name)
        for actions_, resource in (
            (["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"],
             orders.queue_arn),
            (["dynamodb:PutItem"], fulfilled_orders.table_arn),
            (["autoscaling:CompleteLifecycleAction"], group_arn),
            (["s3:GetObject"], program_arn),
            (["ssm:UpdateInstanceInformation", "ssmmessages:CreateControlChannel",
              "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel",
              "ssmmessages:OpenDataChannel"], "*"),
        ):
            worker_role.add_to_policy(iam.PolicyStatement(actions=actions_, resources=[resource]))
        worker_logs.grant_write(worker_role)
        # A worker needs them when it starts, and on destroy until it has let its instance go: with
        # a rule or a route taken away before, the group would wait until Drain's time is over.
        workers.node.add_dependency(worker_role, network, worker_access, endpoint_access)
        alerts.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions={
            "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            "ArnLike": {"aws:SourceArn": f"arn:{Aws.PARTITION}:cloudwatch:{Aws.REGION}:"
                                         f"{Aws.ACCOUNT_ID}:alarm:{Aws.STACK_NAME}-*"}}))

        minute = Duration.minutes(1)
        in_service = cloudwatch.Metric(
            namespace="AWS/AutoScaling", metric_name="GroupInServiceInstances",
            dimensions_map={"AutoScalingGroupName": workers_name}, period=minute)
        # The L2's target tracking takes no metric math.
        autoscaling.CfnScalingPolicy(
            self, "BacklogPerWorker",
            auto_scaling_group_name=workers.auto_scaling_group_name,
            policy_type="TargetTrackingScaling",
            target_tracking_configuration=Tracking.TargetTrackingConfigurationProperty(
                target_value=backlog_per_worker,
                customized_metric_specification=Tracking.CustomizedMetricSpecificationProperty(
                    metrics=[
                        *(Tracking.TargetTrackingMetricDataQueryProperty(
                            id=name, return_data=False,
                            metric_stat=Tracking.TargetTrackingMetricStatProperty(
                                stat="Average", metric=Tracking.MetricProperty(
                                    namespace=namespace, metric_name=metric,
                                    dimensions=[Tracking.MetricDimensionProperty(
                                        name=dimension, value=value)])))
                          for name, namespace, metric, dimension, value in (
                              ("waiting", "AWS/SQS", "ApproximateNumberOfMessagesVisible",
                               "QueueName", orders.queue_name),
                              ("workers", "AWS/AutoScaling", "GroupInServiceInstances",
                               "AutoScalingGroupName", workers_name))),
                        Tracking.TargetTrackingMetricDataQueryProperty(
                            id="backlog", expression="waiting / workers", return_data=True)])))
        at_least, below = (cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
                           cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD)
        for alarm, meaning, metric, comparison, threshold, minutes in (
            ("OrdersParked", "Orders are in the dead-letter queue: look, mend, redrive.",
             failed_orders.metric_approximate_number_of_messages_visible(statistic="Maximum"),
             at_least, 1, 1),
            ("OrdersLate", "An order received less than three times has waited longer"
             " than all its receives take.",
             orders.metric_approximate_age_of_oldest_message(statistic="Maximum"),
             at_least, visibility_timeout_seconds * (max_receive_count + 1), 5),
            ("WorkersMissing", "Fewer workers run than should: new ones do not start.",
             in_service.with_(statistic="Maximum"), below, min_workers, 15),
        ):
            metric.with_(period=minute).create_alarm(
                self, alarm,
                alarm_description=meaning,
                comparison_operator=comparison,
                threshold=threshold,
                evaluation_periods=minutes,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ).add_alarm_action(actions.SnsAction(alerts))

        Validations.of(worker_role).acknowledge(
            Acknowledgment(
                id="AwsSolutions-IAM5[Resource::*]",
                reason="Session Manager's channels accept no resource, and an instance's id, which "
                       "UpdateInstanceInformation accepts, comes after its role."),
            Acknowledgment(
                id="AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:autoscaling:<AWS::Region>:"
                   "<AWS::AccountId>:autoScalingGroup:*:autoScalingGroupName/"
                   "<AWS::StackName>-Workers]",
                reason="A group's ARN holds an id that the group has not got before its role."))
        Validations.of(workers).acknowledge(Acknowledgment(
            id="AwsSolutions-AS3",
            reason="Workers come and go with the load, which is no news; WorkersMissing tells of "
                   "those that do not come."))

        for output, value in (
            ("OrdersUrl", orders.queue_url),
            ("OrdersArn", orders.queue_arn),
            ("FailedOrdersUrl", failed_orders.queue_url),
            ("FailedOrdersArn", failed_orders.queue_arn),
            ("FulfilledOrdersName", fulfilled_orders.table_name),
            ("WorkersName", workers.auto_scaling_group_name),
            ("WorkerRoleName", worker_role.role_name),
            ("WorkerLogsName", worker_logs.log_group_name),
            ("AlertsArn", alerts.topic_arn),
        ):
            CfnOutput(self, output, value=value)
