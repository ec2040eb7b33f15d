"""Move orders through a RabbitMQ cluster that keeps every confirmed one when a node goes away.

    Publisher --> orders --> orders.shipping ---> Worker ----> FulfilledOrders
    (confirms)      |
                    +------> orders.analytics --> RecordOrder --> OrderRecords
                                  |  rejected, or failed too often (either queue)
                                  v
                             orders.dead --> OrdersParked (alarm) --> Alerts --> e-mail

Decisions worth knowing:

- Three nodes over three zones; quorum queues write each order to two of them before they confirm
  it. Publisher and Worker (in workers/) run inside the VPC, which has no way in and none out, with
  the Application security group and the policy ApplicationAccess.
- An account or a Region that shows two zones only refuses the stack at its third subnet: there
  say single_instance, or take another Region. So, too, where one of the first three is a zone that
  Lambda or its endpoint is not in, as one of us-east-1's, which has another letter in each account.
- The mapping must not poll before its queue is there, so it is deployed disabled. Deploy, declare
  the queues (`aws lambda invoke --function-name DeclareQueuesName out.json`, from anywhere), then
  deploy with `-c mapping_enabled=true`. The programs declare the same at each connection.
- Lambda gives back the network interfaces of DeclareQueues and of the mapping late: `cdk destroy`
  may take half an hour.
- The mapping works inside the VPC with the broker's own security group, which therefore admits
  itself on AMQPS. Nothing goes out: no NAT gateway, no internet gateway. Interface endpoints for
  Lambda, STS and Secrets Manager are what the mapping calls; Worker calls the last and CloudWatch
  (monitoring), and DynamoDB by a gateway endpoint, which is free.
- RabbitMQ up to 4.2 counts each return of a message against its queue's delivery limit, 4.3 only
  basic.reject: the limit is 1,000, so that no restart or failover parks a good order. Worker counts
  an order's own failures itself, six at most, and waits with the order for a table in an outage.
- RabbitMQ 4 on Amazon MQ publishes no metric of a single queue: Worker measures orders.dead.
- Memory and disk of a broker are the sums of its nodes': one full node of three can hide in
  BrokerMemory and BrokerDisk. Quorum queues fill all three alike; for the rest look at the same
  metrics by Broker and Node, or at RabbitMQ's own for Prometheus, to which Amazon MQ refers.
- The password does not rotate by itself: Amazon MQ's UpdateUser knows ActiveMQ only, and Secrets
  Manager has no rotation for it. Change it in RabbitMQ's console, then in the secret; the programs
  read the secret at each connection. Give each program a user of its own there, too.
- The broker's log group is made by Amazon MQ (/aws/amazonmq/broker/...) and stays after destroy.
- While idle you pay for the broker's nodes and disks, for four interface endpoints in each zone,
  for the mapping's pollers once it is enabled, for the secret, the alarms and the key of Alerts.
"""

import json
from pathlib import Path
from typing import Any

from aws_cdk import Acknowledgment, Aws, CfnOutput, Duration, Fn, RemovalPolicy, Stack, Validations
from aws_cdk import aws_amazonmq as amazonmq
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_ssm as ssm
from constructs import Construct

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "mq_broker"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"
AMQPS, HTTPS = ec2.Port.tcp(5671), ec2.Port.tcp(443)
SIZES = ("medium", "large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge")


class MqBroker(Stack):
    """A RabbitMQ broker in a VPC of its own, a function on one of its queues, alarms and alerts.

    single_instance: one node in one zone instead of three; cheaper, and gone while it restarts.
    engine_version: RabbitMQ's, "4.3", "4.2" or "3.13".
    instance_size: of each mq.m7g node, "medium" (for trials) to "16xlarge".
    mapping_enabled: whether RecordOrder's mapping polls; true once its queue is declared.
    waiting_orders: orders ready for five minutes on the whole broker that alarm (1 to 10,000,000).
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of broker, password, rows and logs on destroy, "destroy" or
        "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 single_instance: bool = False, engine_version: str = "4.2",
                 instance_size: str = "large", mapping_enabled: bool = False,
                 waiting_orders: int = 10000, alert_email: str | None = None,
                 removal_policy: str = "destroy", **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        if engine_version not in ("4.3", "4.2", "3.13"):
            raise ValueError(f'engine_version is "4.3", "4.2" or "3.13", not "{engine_version}"')
        if instance_size not in SIZES:
            raise ValueError(f'instance_size is one of {", ".join(SIZES)}, not "{instance_size}"')
        for option, value, most in (("waiting_orders", waiting_orders, 10_000_000),
                                    ("the length of the stack's name", len(self.stack_name), 50)):
            if not 1 <= value <= most:
                raise ValueError(f"{option} is 1 to {most}, not {value}")
        if removal_policy not in ("destroy", "retain"):
            raise ValueError(f'removal_policy is "destroy" or "retain", not "{removal_policy}"')
        on_destroy = RemovalPolicy[removal_policy.upper()]

        network = ec2.Vpc(
            self, "Network",
            # A stack for any Region knows two zones; the third is asked for by its index.
            availability_zones=[Fn.select(zone, Fn.get_azs())
                                for zone in range(1 if single_instance else 3)],
            nat_gateways=0,
            subnet_configuration=[ec2.SubnetConfiguration(
                name="Private", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24)],
            # The CDK would empty the default group by a hidden function; nothing here uses it.
            restrict_default_security_group=False)
        network.add_flow_log("Traffic", destination=ec2.FlowLogDestination.to_cloud_watch_logs(
            logs.LogGroup(self, "NetworkLogs", retention=logs.RetentionDays.ONE_MONTH,
                          removal_policy=on_destroy)))
        application, bastion, console, broker_access, endpoints = (
            ec2.SecurityGroup(self, group, vpc=network, description=meaning,
                              allow_all_outbound=False)
            for group, meaning in (
                ("Application", "Programs that publish and consume orders"),
                ("Bastion", "Where people reach the console of RabbitMQ from"),
                ("DeclareAccess", "DeclareQueues, by the HTTP API of RabbitMQ"),
                ("BrokerAccess", "The broker, and the mapping that polls it"),
                ("Endpoints", "Interface endpoints of AWS services")))
        for service, endpoint in (
            ("Lambda", ec2.InterfaceVpcEndpointAwsService.LAMBDA_),
            ("Sts", ec2.InterfaceVpcEndpointAwsService.STS),
            ("SecretsManager", ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER),
            ("Monitoring", ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_MONITORING),
        ):
            network.add_interface_endpoint(
                service, service=endpoint, open=False, security_groups=[endpoints])
        network.add_gateway_endpoint("DynamoDb", service=ec2.GatewayVpcEndpointAwsService.DYNAMODB)

        password = secretsmanager.Secret(
            self, "Password",
            description=f"The first user of the broker {Aws.STACK_NAME}",
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template=json.dumps({"username": "shop"}),
                generate_string_key="password",
                password_length=40,
                exclude_punctuation=True),  # Amazon MQ refuses , : = and URLs more
            removal_policy=on_destroy)
        # aws_amazonmq has no L2 construct.
        broker = amazonmq.CfnBroker(
            self, "Broker",
            broker_name=Aws.STACK_NAME,  # required, and the dimension of its metrics
            engine_type="RABBITMQ",
            engine_version=engine_version,
            host_instance_type=f"mq.m7g.{instance_size}",
            deployment_mode="SINGLE_INSTANCE" if single_instance else "CLUSTER_MULTI_AZ",
            subnet_ids=[subnet.subnet_id for subnet in network.isolated_subnets],
            security_groups=[broker_access.security_group_id],
            publicly_accessible=False,
            auto_minor_version_upgrade=True,  # Amazon MQ refuses false from 3.13 on
            logs=amazonmq.CfnBroker.LogListProperty(general=True),
            maintenance_window_start_time=amazonmq.CfnBroker.MaintenanceWindowProperty(
                day_of_week="SUNDAY", time_of_day="03:00", time_zone="UTC"),
            users=[amazonmq.CfnBroker.UserProperty(
                username=password.secret_value_from_json("username").unsafe_unwrap(),
                password=password.secret_value_from_json("password").unsafe_unwrap())])
        broker.apply_removal_policy(on_destroy)

        fulfilled_orders, order_records = (
            dynamodb.Table(
                self, table,
                partition_key=dynamodb.Attribute(name=key, type=dynamodb.AttributeType.STRING),
                billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
                point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                    point_in_time_recovery_enabled=True),
                removal_policy=on_destroy)
            for table, key in (("FulfilledOrders", "order_id"), ("OrderRecords", "message_id")))

        powertools = lambda_.LayerVersion.from_layer_version_arn(
            self, "Powertools", ssm.StringParameter.value_for_string_parameter(self, POWERTOOLS))
        record_order, record_order_role, record_order_logs = self._function(
            "RecordOrder", "record_order", powertools, on_destroy,
            timeout_seconds=10, environment={"ORDER_RECORDS": order_records.table_name})
        declare_queues, declare_queues_role, declare_queues_logs = self._function(
            "DeclareQueues", "declare_queues", powertools, on_destroy,
            timeout_seconds=60,
            environment={
                "CONSOLE_URL": Fn.select(0, broker.attr_console_ur_ls),
                "PASSWORD_ARN": password.secret_arn,
            },
            vpc=network,
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
            security_groups=[console])
        # The L2 mapping has no Queues, and aws_lambda_event_sources no broker.
        mapping = lambda_.CfnEventSourceMapping(
            self, "OrdersToRecord",
            event_source_arn=broker.attr_arn,
            function_name=record_order.function_name,
            queues=["orders.analytics"],
            source_access_configurations=[
                lambda_.CfnEventSourceMapping.SourceAccessConfigurationProperty(type=kind, uri=uri)
                for kind, uri in (("BASIC_AUTH", password.secret_arn), ("VIRTUAL_HOST", "/"))],
            batch_size=100,
            maximum_batching_window_in_seconds=1,
            enabled=mapping_enabled)

        alerts_key = kms.Key(
            self, "AlertsKey",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=RemovalPolicy.DESTROY)
        alerts = sns.Topic(
            self, "Alerts", master_key=alerts_key, enforce_ssl=True, signature_version="2")
        if alert_email:
            alerts.add_subscription(subscriptions.EmailSubscription(alert_email))

        broker_access.connections.allow_internally(AMQPS, "the mapping")
        for target, source, port, why in (
            (broker_access, application, AMQPS, "orders in and out"),
            (broker_access, bastion, HTTPS, "the console"),
            (broker_access, console, HTTPS, "the console's HTTP API"),
            (endpoints, broker_access, HTTPS, "the mapping"),
            (endpoints, application, HTTPS, "password and metric"),
            (endpoints, console, HTTPS, "password"),
        ):
            target.connections.allow_from(source, port, why)
        application.connections.allow_to_any_ipv4(HTTPS, "DynamoDB's gateway; no other way out")

        order_records.grant(record_order_role, "dynamodb:PutItem")
        # Lambda puts the mapping's pollers into the broker's subnets in the name of this role.
        interface, group, *subnets = (
            self.format_arn(service="ec2", resource=resource, resource_name=name)
            for resource, name in (("network-interface", "*"),
                                   ("security-group", broker_access.security_group_id),
                                   *(("subnet", one.subnet_id)
                                     for one in network.isolated_subnets)))
        for action, resources in (
            ("mq:DescribeBroker", [broker.attr_arn]),
            ("secretsmanager:GetSecretValue", [password.secret_arn]),
            ("ec2:CreateNetworkInterface", [interface, group, *subnets]),
            ("ec2:DescribeSecurityGroups", ["*"]),
            ("ec2:DescribeSubnets", ["*"]),
            ("ec2:DescribeVpcs", ["*"]),
        ):
            record_order_role.add_to_policy(
                iam.PolicyStatement(actions=[action], resources=resources))
        # Lambda takes the interfaces away in the name of the role that made them, some time after
        # the mapping is gone: the right to it must outlive mapping, broker and their group.
        record_order_interfaces = iam.Policy(
            self, "RecordOrderInterfaces",
            roles=[record_order_role],
            statements=[iam.PolicyStatement(
                # Asked beforehand without an interface: scoped, the stack would roll back.
                actions=["ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces"],
                resources=["*"])])
        broker_access.node.add_dependency(record_order_interfaces)
        # Lambda tries them when the mapping is made.
        mapping.node.add_dependency(record_order_role, record_order_interfaces)
        # The same for the interfaces of DeclareQueues.
        for actions_, resources in (
            (["secretsmanager:GetSecretValue"], [password.secret_arn]),
            (["ec2:CreateNetworkInterface"], [
                interface, *subnets, self.format_arn(
                    service="ec2", resource="security-group",
                    resource_name=console.security_group_id)]),
            (["ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"], [interface]),
            (["ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces",
              "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs"], ["*"]),
        ):
            declare_queues_role.add_to_policy(
                iam.PolicyStatement(actions=actions_, resources=resources))
        application_access = iam.ManagedPolicy(
            self, "ApplicationAccess",
            description="What Publisher and Worker may do; attach it to the role they run with",
            statements=[
                iam.PolicyStatement(actions=["secretsmanager:GetSecretValue"],
                                    resources=[password.secret_arn]),
                iam.PolicyStatement(actions=["dynamodb:PutItem"],
                                    resources=[fulfilled_orders.table_arn]),
                iam.PolicyStatement(actions=["cloudwatch:PutMetricData"], resources=["*"],
                                    conditions={"StringEquals": {
                                        "cloudwatch:namespace": Aws.STACK_NAME}})])
        alerts.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com", conditions={
            "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
            "ArnLike": {"aws:SourceArn": f"arn:{Aws.PARTITION}:cloudwatch:{Aws.REGION}:"
                                         f"{Aws.ACCOUNT_ID}:alarm:{Aws.STACK_NAME}-*"}}))

        def of_broker(metric: str, statistic: str = "Maximum") -> cloudwatch.Metric:
            """A metric of the broker, which is the sum of its nodes'."""
            return cloudwatch.Metric(namespace="AWS/AmazonMQ", metric_name=metric,
                                     statistic=statistic, period=Duration.minutes(1),
                                     dimensions_map={"Broker": Aws.STACK_NAME})

        minute, quiet = Duration.minutes(1), cloudwatch.TreatMissingData.NOT_BREACHING
        for alarm, meaning, metric, threshold, minutes, missing in (
            ("OrdersParked", "Orders are in the dead-letter queue: look, mend, publish again.",
             cloudwatch.Metric(namespace=Aws.STACK_NAME, metric_name="DeadOrders", period=minute,
                               statistic="Maximum", dimensions_map={"Queue": "orders.dead"}),
             1, 1, cloudwatch.TreatMissingData.IGNORE),  # no Worker, no measurement, no news
            ("OrdersWaiting", "Orders come faster than they are worked off.",
             of_broker("MessageReadyCount"), waiting_orders, 5, quiet),
            ("OrdersInHand", "Consumers hold orders without finishing them.",
             of_broker("MessageUnacknowledgedCount"), 2000, 5, quiet),
            ("BrokerMemory", "The nodes use most of their memory; at the limit nobody can publish.",
             cloudwatch.MathExpression(
                 expression="100 * used / most", label="percent of the limit", period=minute,
                 using_metrics={"used": of_broker("RabbitMQMemUsed"),
                                "most": of_broker("RabbitMQMemLimit", "Minimum")}), 80, 5, quiet),
            ("BrokerDisk", "The nodes' disks are filling up; at the limit nobody can publish.",
             cloudwatch.MathExpression(
                 expression="100 * least / free", label="percent of the limit", period=minute,
                 using_metrics={"free": of_broker("RabbitMQDiskFree", "Minimum"),
                                "least": of_broker("RabbitMQDiskFreeLimit")}), 50, 5, quiet),
            ("RecordOrderErrors", "RecordOrder crashed or ran out of time: a batch comes back.",
             record_order.metric_errors(statistic="Sum", period=minute), 1, 1, quiet),
        ):
            metric.create_alarm(
                self, alarm,
                alarm_description=meaning,
                threshold=threshold,
                evaluation_periods=minutes,
                treat_missing_data=missing,
            ).add_alarm_action(actions.SnsAction(alerts))

        Validations.of(password).acknowledge(Acknowledgment(
            id="AwsSolutions-SMG4",
            reason="Secrets Manager cannot change a user of RabbitMQ on Amazon MQ; see above how."))
        Validations.of(record_order_role).acknowledge(
            Acknowledgment(
                id="AwsSolutions-IAM5[Resource::*]",
                reason="X-Ray's PutTraceSegments and PutTelemetryRecords, and EC2's Describe "
                       "actions, accept no resource."),
            Acknowledgment(
                id="AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:ec2:<AWS::Region>:"
                   "<AWS::AccountId>:network-interface/*]",
                reason="Lambda makes the mapping's network interfaces; their ids come afterwards."))
        Validations.of(record_order_interfaces).acknowledge(Acknowledgment(
            id="AwsSolutions-IAM5[Resource::*]",
            reason="DescribeNetworkInterfaces accepts no resource; Lambda asks for "
                   "DeleteNetworkInterface before there is one."))
        Validations.of(declare_queues_role).acknowledge(
            Acknowledgment(
                id="AwsSolutions-IAM5[Resource::*]",
                reason="X-Ray's PutTraceSegments and PutTelemetryRecords, and EC2's Describe "
                       "actions, accept no resource; Lambda asks for DeleteNetworkInterface "
                       "before there is one."),
            Acknowledgment(
                id="AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:ec2:<AWS::Region>:"
                   "<AWS::AccountId>:network-interface/*]",
                reason="Lambda makes the function's network interfaces; their ids come later."))
        Validations.of(application_access).acknowledge(Acknowledgment(
            id="AwsSolutions-IAM5[Resource::*]",
            reason="PutMetricData accepts no resource; a condition holds it to one namespace."))

        for output, value in (
            ("BrokerUrl", Fn.select(0, broker.attr_amqp_endpoints)),
            ("BrokerId", broker.ref),
            ("BrokerName", Aws.STACK_NAME),
            ("PasswordArn", password.secret_arn),
            ("ApplicationId", application.security_group_id),
            ("ApplicationAccessArn", application_access.managed_policy_arn),
            ("BastionId", bastion.security_group_id),
            ("OrdersToRecordId", mapping.ref),
            ("FulfilledOrdersName", fulfilled_orders.table_name),
            ("OrderRecordsName", order_records.table_name),
            ("DeclareQueuesName", declare_queues.function_name),
            ("DeclareQueuesLogsName", declare_queues_logs.log_group_name),
            ("RecordOrderName", record_order.function_name),
            ("RecordOrderLogsName", record_order_logs.log_group_name),
            ("AlertsArn", alerts.topic_arn),
        ):
            CfnOutput(self, output, value=value)

    def _function(self, name: str, module: str, powertools: lambda_.ILayerVersion,
                  on_destroy: RemovalPolicy, *, timeout_seconds: int,
                  environment: dict[str, str], **network: Any,
                  ) -> tuple[lambda_.Function, iam.Role, logs.LogGroup]:
        """A function with its role and its log; `network` puts it into a VPC."""
        log = logs.LogGroup(
            self, f"{name}Logs",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        role = iam.Role(
            self, f"{name}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log.grant_write(role)
        function = lambda_.Function(
            self, name,
            runtime=PYTHON,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"{module}.handler",
            code=lambda_.Code.from_asset(str(LAMBDAS), exclude=["**/__pycache__/**"]),
            layers=[powertools],
            role=role,
            timeout=Duration.seconds(timeout_seconds),
            memory_size=512,
            tracing=lambda_.Tracing.ACTIVE,
            log_group=log,
            environment={"POWERTOOLS_SERVICE_NAME": module.replace("_", "-"), **environment},
            **network)
        return function, role, log
