"""Take orders as fast as they come and write them as fast as the table bears, and lose none.

    Buying -- POST /orders, signed --> Api --> Orders --> WriteOrders --> WrittenOrders
       <-- 202, 400, 403, 415, 429 ---'          |  max_receive_count failures
                                                 v
                                           FailedOrders --> OrdersParked (alarm) --> Alerts

Decisions worth knowing:

- No function stands between Api and Orders: a 202 means that SQS has stored the order, on several
  machines. Whatever else SQS answers is a 500, and Buying sends again.
- What is not an order gets a 400 before it is queued. Only application/json passes (415 for any
  other type): API Gateway checks a body against its model only where it knows the type.
- The rate is bounded twice. A writer pauses after each call for as long as the units it used are
  worth, and there are never more than max_concurrency of them, each with its share. The table's own
  maximum stands against everybody else who writes there, and AWS keeps it as best it can: a table
  that was idle takes a burst above it. A batch is what a writer may write in one second.
- What the table refuses is tried again for three seconds, with growing pauses; then the queue
  waits, which costs nothing. It waits max_receive_count times the visibility timeout (10 minutes by
  default) before it parks an order; a table that may stand still for longer wants more receives.
- BatchWriteItem knows no conditions. The order's id is the key, so an order that comes twice, from
  SQS or from Buying, is one row. An id used again for another order replaces the first: ids are
  Buying's to make unique. And its permission covers deletes, which IAM cannot tell from puts.
- API Gateway writes logs with one role for all APIs of an account and Region. It is not a stack's
  to replace: set it once, or say account_log_role=true in an account where no API has logged yet.
"""

import json
from pathlib import Path
from typing import Any

from aws_cdk import Acknowledgment, Aws, CfnOutput, Duration, RemovalPolicy, Stack, Validations
from aws_cdk import aws_apigateway as apigateway
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

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "sqs_write_buffer"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"
STAGE = "prod"
BATCHING_WINDOW_SECONDS = 1


def _text(most: int) -> apigateway.JsonSchema:
    return apigateway.JsonSchema(
        type=apigateway.JsonSchemaType.STRING, pattern=f"^[A-Za-z0-9-]{{1,{most}}}$")


# WriteOrders asks the same again: a queue has other entrances.
ORDER = apigateway.JsonSchema(
    schema=apigateway.JsonSchemaVersion.DRAFT4,
    type=apigateway.JsonSchemaType.OBJECT,
    additional_properties=False,
    required=["order_id", "customer", "items"],
    properties={
        "order_id": _text(64),
        "customer": _text(64),
        "items": apigateway.JsonSchema(
            type=apigateway.JsonSchemaType.ARRAY, min_items=1, max_items=20,
            items=apigateway.JsonSchema(
                type=apigateway.JsonSchemaType.OBJECT,
                additional_properties=False,
                required=["sku", "quantity"],
                properties={
                    "sku": _text(32),
                    "quantity": apigateway.JsonSchema(
                        type=apigateway.JsonSchemaType.INTEGER, minimum=1, maximum=1000),
                })),
    })


class SqsWriteBuffer(Stack):
    """An API that queues orders, and writers that bring them to a table at a bounded rate.

    writes_per_second: write request units that all writers together use at most, and the table's
        maximum (max_concurrency to 2,000; an order takes one unit per KB).
    max_concurrency: writers at the same time, which share the rate (2 to 1,000).
    posts_per_second: requests that Api takes, and as many at once; more get a 429 (1 to 10,000).
    max_receive_count: failed receives after which an order is parked (5 to 1,000).
    timeout_seconds: what WriteOrders may take for a batch (10 to 900 s).
    account_log_role: also set the role with which API Gateway writes logs, for all APIs of the
        account and Region; it stays on destroy, because other APIs use it by then.
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of rows and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 writes_per_second: int = 100, max_concurrency: int = 2,
                 posts_per_second: int = 1000, max_receive_count: int = 5,
                 timeout_seconds: int = 20, account_log_role: bool = False,
                 alert_email: str | None = None, removal_policy: str = "destroy",
                 **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        visibility_timeout_seconds = 6 * timeout_seconds + BATCHING_WINDOW_SECONDS
        for option, value, least, most in (
            ("max_concurrency", max_concurrency, 2, 1000),
            ("writes_per_second", writes_per_second, max_concurrency, 2000),
            ("posts_per_second", posts_per_second, 1, 10000),
            ("max_receive_count", max_receive_count, 5, 1000),
            ("timeout_seconds", timeout_seconds, 10, 900),
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

        api_access_logs = logs.LogGroup(
            self, "ApiAccessLogs",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        api = apigateway.RestApi(
            self, "Api",
            rest_api_name=Aws.STACK_NAME,
            description="Takes Buying's orders",
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            cloud_watch_role=account_log_role,
            cloud_watch_role_removal_policy=RemovalPolicy.RETAIN if account_log_role else None,
            deploy_options=apigateway.StageOptions(
                stage_name=STAGE,
                throttling_rate_limit=posts_per_second,
                throttling_burst_limit=posts_per_second,
                tracing_enabled=True,
                metrics_enabled=True,
                logging_level=apigateway.MethodLoggingLevel.ERROR,
                data_trace_enabled=False,
                access_log_destination=apigateway.LogGroupLogDestination(api_access_logs),
                access_log_format=apigateway.AccessLogFormat.custom(json.dumps({
                    "request_id": apigateway.AccessLogField.context_request_id(),
                    "at": apigateway.AccessLogField.context_request_time_epoch(),
                    "caller": apigateway.AccessLogField.context_identity_user_arn(),
                    "method": apigateway.AccessLogField.context_http_method(),
                    "path": apigateway.AccessLogField.context_path(),
                    "status": apigateway.AccessLogField.context_status(),
                    "error": apigateway.AccessLogField.context_error_response_type(),
                    "integration_status": apigateway.AccessLogField.context_integration_status(),
                }))))
        api.node.try_remove_child("Endpoint")  # the CDK's own output; ours is named ApiUrl
        # API Gateway would make this group itself, without a retention, and leave it on destroy.
        api_errors = logs.LogGroup(
            self, "ApiErrors",
            log_group_name=f"API-Gateway-Execution-Logs_{api.rest_api_id}/{STAGE}",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        api.deployment_stage.node.add_dependency(api_errors)

        order = api.add_model("Order", content_type="application/json", schema=ORDER)
        api_role = iam.Role(
            self, "ApiRole", assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"))
        send_message = apigateway.AwsIntegration(
            service="sqs",
            path=f"{Aws.ACCOUNT_ID}/{orders.queue_name}",
            integration_http_method="POST",
            options=apigateway.IntegrationOptions(
                credentials_role=api_role,
                passthrough_behavior=apigateway.PassthroughBehavior.NEVER,
                request_parameters={"integration.request.header.Content-Type":
                                    "'application/x-www-form-urlencoded'"},
                request_templates={"application/json":
                                   "Action=SendMessage&MessageBody=$util.urlEncode($input.body)"},
                integration_responses=[
                    apigateway.IntegrationResponse(
                        status_code="202", selection_pattern=r"2\d{2}",
                        response_templates={"application/json": json.dumps({"message_id": (
                            "$input.path('$.SendMessageResponse.SendMessageResult.MessageId')")})}),
                    apigateway.IntegrationResponse(  # no pattern: whatever else SQS answers
                        status_code="500",
                        response_templates={"application/json": json.dumps(
                            {"message": "The order was not queued; send it again"})}),
                ]))
        post_order = api.root.add_resource("orders").add_method(
            "POST", send_message,
            authorization_type=apigateway.AuthorizationType.IAM,
            request_models={"application/json": order},
            request_validator=api.add_request_validator(
                "Requests", validate_request_body=True, validate_request_parameters=True),
            method_responses=[apigateway.MethodResponse(status_code=status)
                              for status in ("202", "400", "403", "500")])
        buying = iam.Role(self, "Buying", assumed_by=iam.AccountPrincipal(Aws.ACCOUNT_ID))

        written_orders = dynamodb.Table(
            self, "WrittenOrders",
            partition_key=dynamodb.Attribute(name="order_id", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            max_write_request_units=writes_per_second,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True),
            removal_policy=on_destroy)

        write_orders_logs = logs.LogGroup(
            self, "WriteOrdersLogs",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        write_orders_role = iam.Role(
            self, "WriteOrdersRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        powertools = lambda_.LayerVersion.from_layer_version_arn(
            self, "Powertools", ssm.StringParameter.value_for_string_parameter(self, POWERTOOLS))
        write_orders = lambda_.Function(
            self, "WriteOrders",
            runtime=PYTHON,
            architecture=lambda_.Architecture.ARM_64,
            handler="write_orders.handler",
            code=lambda_.Code.from_asset(str(LAMBDAS), exclude=["**/__pycache__/**"]),
            layers=[powertools],
            role=write_orders_role,
            timeout=Duration.seconds(timeout_seconds),
            memory_size=512,
            tracing=lambda_.Tracing.ACTIVE,
            log_group=write_orders_logs,
            environment={
                "POWERTOOLS_SERVICE_NAME": "write-orders",
                "WRITTEN_ORDERS": written_orders.table_name,
                "WRITES_PER_SECOND": str(writes_per_second / max_concurrency),
            })
        write_orders.add_event_source_mapping(
            "Orders",
            event_source_arn=orders.queue_arn,
            batch_size=writes_per_second // max_concurrency,
            max_batching_window=Duration.seconds(BATCHING_WINDOW_SECONDS),
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

        post_order.grant_execute(buying)
        orders.grant(api_role, "sqs:SendMessage")
        orders.grant_consume_messages(write_orders_role)
        write_orders_logs.grant_write(write_orders_role)
        written_orders.grant(write_orders_role, "dynamodb:BatchWriteItem")
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
            ("PostsFailed", "Api could not queue an order: look at its role and at the queue.",
             api.deployment_stage.metric_server_error(statistic="Sum"), 1, 1),
            ("WriteOrdersErrors", "WriteOrders crashed or ran out of time: a batch comes back.",
             write_orders.metric_errors(statistic="Sum"), 1, 1),
        ):
            metric.with_(period=Duration.minutes(1)).create_alarm(
                self, alarm,
                alarm_description=meaning,
                threshold=threshold,
                evaluation_periods=minutes,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ).add_alarm_action(actions.SnsAction(alerts))

        Validations.of(write_orders_role).acknowledge(Acknowledgment(
            id="AwsSolutions-IAM5[Resource::*]",
            reason="X-Ray's PutTraceSegments and PutTelemetryRecords accept no resource."))
        Validations.of(post_order).acknowledge(Acknowledgment(
            id="AwsSolutions-COG4",
            reason="Callers are services with IAM roles, not people: the method asks for SigV4."))
        Validations.of(api.deployment_stage).acknowledge(Acknowledgment(
            id="AwsSolutions-APIG3",
            reason="Nothing but a signed request of a principal with the permission passes; API"
                   " Gateway throttles those, and a web ACL would look at the same requests."))

        if account_log_role:
            Validations.of(api).acknowledge(Acknowledgment(
                id="AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/"
                   "AmazonAPIGatewayPushToCloudWatchLogs]",
                reason="The role serves all APIs of the account, for which AWS wrote this policy."))

        for output, value in (
            ("ApiUrl", api.url),
            ("ApiAccessLogsName", api_access_logs.log_group_name),
            ("BuyingArn", buying.role_arn),
            ("OrdersUrl", orders.queue_url),
            ("OrdersArn", orders.queue_arn),
            ("FailedOrdersUrl", failed_orders.queue_url),
            ("FailedOrdersArn", failed_orders.queue_arn),
            ("WrittenOrdersName", written_orders.table_name),
            ("WriteOrdersName", write_orders.function_name),
            ("WriteOrdersLogsName", write_orders_logs.log_group_name),
            ("AlertsArn", alerts.topic_arn),
        ):
            CfnOutput(self, output, value=value)
