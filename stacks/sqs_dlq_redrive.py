"""Put parked orders back to work once their fault is mended: slowly, watched, and stoppable.

    Buying --> Orders --> FulfilOrder --> FulfilledOrders
               |    ^
               v    |  at most messages_per_second
          FailedOrders (dead letters, alarm)
                    ^
    Operator --> Runbook: LookForTask --> StartRedrive --> Pause <--> ReadProgress --> Redriven
                              |  cancel
                              +---------> CancelRedrive --> Pause ...

An operator assumes the role Operator and starts the runbook, or cancels what runs:

    aws stepfunctions start-execution --state-machine-arn RunbookArn
        --input '{"messages_per_second": 5}'    or    --input '{"cancel": true}'

Without a runbook one command does the same, for somebody who may read, delete and send orders:

    aws sqs start-message-move-task --source-arn FailedOrdersArn
        --max-number-of-messages-per-second 5

Decisions worth knowing:

- The operator may start the runbook and see how far it is. Only the runbook may move an order.
- SQS runs one redrive of a queue at a time. The runbook looks before it starts one; of two that
  look at the same moment, SQS refuses the second.
- A redrive goes on in SQS, whatever becomes of the execution that started it: nobody may stop the
  execution, and its timeout is longer than the 36 hours that SQS gives a redrive. Cancel instead.
- Starting is retried only when SQS throttled it: after a lost answer a second start would be
  refused. To read or to cancel again does no harm.
- A cancelled redrive succeeds, and its output says so. An alarm that fires for what somebody meant
  to do is soon an alarm that nobody reads.
- A redriven order is a new message, with a new id, five new receives and a new retention period,
  and SQS delivers at least once. FulfilOrder knows it again by the order's own id.
- A message that somebody sent to FailedOrders itself has no source to go back to: the redrive fails
  there and says CouldNotDetermineMessageSource.
- accept_gift_orders stands for your fix: the release that FulfilOrder did not know gift orders in,
  and the next. Deploy it before you redrive, or the orders only come back.
"""

from pathlib import Path
from typing import Any

from aws_cdk import Acknowledgment, Aws, CfnOutput, Duration, Fn, RemovalPolicy, Stack, Validations
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
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "sqs_dlq_redrive"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"

# The newest redrive of the queue, in a state that has just listed it. SQS leaves out what it does
# not know yet, and the whole list if there is none.
NEWEST = ("$merge([{'Status': 'NONE', 'StartedTimestamp': 0, 'ApproximateNumberOfMessagesMoved': 0,"
          " 'ApproximateNumberOfMessagesToMove': 0}, $states.result.Results[0]])")
RUNS = "Status in ['RUNNING', 'CANCELLING']"
# How long until the next look: a quarter of the time that is left, or twice as long as before if
# nothing has moved or the counts say that nothing is left; 2 to 60 s. At 60 s, 36 hours fit into
# the 25,000 events of a history, also if orders that come back keep a redrive going.
PAUSE = (f"($newest := {NEWEST};"
         " $left := $newest.(ApproximateNumberOfMessagesToMove - ApproximateNumberOfMessagesMoved);"
         f" $not($newest.{RUNS}) ? 5"
         " : $left <= 0"
         " or $newest.ApproximateNumberOfMessagesMoved = $task.ApproximateNumberOfMessagesMoved"
         " ? $min([60, 2 * $pause]) : $max([2, $min([60, $ceil($left / $velocity / 4)])]))")
# At how many looks the redrive was over: its counts may be complete only after its end.
ENDED = (f"($newest := {NEWEST};"
         f" $newest.{RUNS} or $newest.StartedTimestamp = $before ? 0 : $ended + 1)")
MOVED = ("$task.ApproximateNumberOfMessagesMoved & ' of ' &"
         " $task.ApproximateNumberOfMessagesToMove & ' orders are moved'")


class SqsDlqRedrive(Stack):
    """Orders through a queue to a function, and a runbook that redrives its dead-letter queue.

    max_receive_count: failed receives after which an order is parked (1 to 1,000; with a Lambda
        consumer 5 or more, so that throttling parks no good order).
    timeout_seconds: what FulfilOrder may take for a batch of ten (1 to 900 s).
    max_messages_per_second: the fastest redrive that the runbook accepts, and what it takes if the
        operator names none (1 to 500 orders a second).
    accept_gift_orders: whether FulfilOrder is the release that knows gift orders.
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of rows and logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 max_receive_count: int = 5, timeout_seconds: int = 10,
                 max_messages_per_second: int = 10, accept_gift_orders: bool = False,
                 alert_email: str | None = None, removal_policy: str = "destroy",
                 **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        visibility_timeout_seconds = 6 * timeout_seconds
        for option, value, least, most in (
            ("max_receive_count", max_receive_count, 1, 1000),
            ("timeout_seconds", timeout_seconds, 1, 900),
            ("max_messages_per_second", max_messages_per_second, 1, 500),
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
                "ACCEPT_GIFT_ORDERS": str(accept_gift_orders).lower(),
            })
        fulfil_order.add_event_source_mapping(
            "Orders",
            event_source_arn=orders.queue_arn,
            batch_size=10,
            report_batch_item_failures=True,
            max_concurrency=5)

        # Of the stack's id: the log of an earlier stack of this name is not in the way.
        copy = Fn.select(0, Fn.split("-", Fn.select(2, Fn.split("/", Aws.STACK_ID))))
        runbook_logs = logs.LogGroup(
            self, "RunbookLogs",
            # Each without this prefix uses up some of the Region's policy for log deliveries.
            log_group_name=f"/aws/vendedlogs/states/{Aws.STACK_NAME}-Runbook-{copy}",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        runbook_role = iam.Role(
            self, "RunbookRole",
            assumed_by=iam.ServicePrincipal("states.amazonaws.com", conditions={
                "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}))
        runbook = sfn.StateMachine(
            self, "Runbook",
            state_machine_type=sfn.StateMachineType.STANDARD,
            query_language=sfn.QueryLanguage.JSONATA,
            definition_body=sfn.DefinitionBody.from_chainable(
                self._steps(failed_orders.queue_arn, max_messages_per_second)),
            role=runbook_role,
            timeout=Duration.hours(37),
            tracing_enabled=True,
            logs=sfn.LogOptions(
                destination=runbook_logs,
                level=sfn.LogLevel.ALL,
                include_execution_data=True))  # counts and states, never an order
        operator = iam.Role(self, "Operator", assumed_by=iam.AccountRootPrincipal())

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
        # What SQS does in a redrive, it does with the rights of who started it.
        failed_orders.grant(
            runbook_role, "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
        orders.grant(runbook_role, "sqs:SendMessage")
        runbook.grant_start_execution(operator)
        runbook.grant_execution(
            operator, "states:DescribeExecution", "states:GetExecutionHistory")
        failed_orders.grant(operator, "sqs:ListMessageMoveTasks", "sqs:GetQueueAttributes")
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
            ("RedriveFailed", "The runbook refused or failed: its execution says why.",
             runbook.metric_failed(statistic="Sum"), 1, 1),
            ("RedriveTimedOut", "The runbook lost sight of a redrive: list its move tasks.",
             runbook.metric_timed_out(statistic="Sum"), 1, 1),
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
        Validations.of(runbook_role).acknowledge(Acknowledgment(
            id="AwsSolutions-IAM5[Resource::*]",
            reason="X-Ray and the log deliveries of CloudWatch Logs accept no resource."))

        Validations.of(operator).acknowledge(Acknowledgment(
            id='AwsSolutions-IAM5[Resource::arn:<AWS::Partition>:states:<AWS::Region>:'
               '<AWS::AccountId>:execution:{"Fn::Select":[6,{"Fn::Split":[":",'
               '{"Ref":"Runbook246ED732"}]}]}:*]',
            reason="The executions of Runbook, and of no other state machine."))

        CfnOutput(self, "OrdersUrl", value=orders.queue_url)
        CfnOutput(self, "FailedOrdersUrl", value=failed_orders.queue_url)
        CfnOutput(self, "FailedOrdersArn", value=failed_orders.queue_arn)
        CfnOutput(self, "FulfilledOrdersName", value=fulfilled_orders.table_name)
        CfnOutput(self, "FulfilOrderName", value=fulfil_order.function_name)
        CfnOutput(self, "FulfilOrderLogsName", value=fulfil_order_logs.log_group_name)
        CfnOutput(self, "RunbookArn", value=runbook.state_machine_arn)
        CfnOutput(self, "OperatorArn", value=operator.role_arn)
        CfnOutput(self, "AlertsArn", value=alerts.topic_arn)

    def _steps(self, failed_orders_arn: str, max_messages_per_second: int) -> sfn.IChainable:
        """The states of the runbook."""
        look_for_task = self._ask(
            "LookForTask", "ListMessageMoveTasks", failed_orders_arn,
            {"SourceArn": failed_orders_arn, "MaxResults": 1},
            assign={
                "task": f"{{% {NEWEST} %}}",
                # Anything but false: who writes "true" or 1 means to stop, and not to start.
                "cancel": "{% $exists($states.input.cancel)"
                          " ? $states.input.cancel != false : false %}",
                "velocity": "{% $exists($states.input.messages_per_second)"
                            f" ? $states.input.messages_per_second : {max_messages_per_second} %}}",
            },
            outputs="{% $states.input %}")
        start_redrive = self._ask(
            "StartRedrive", "StartMessageMoveTask", failed_orders_arn,
            {"SourceArn": failed_orders_arn,
             "MaxNumberOfMessagesPerSecond": "{% $velocity %}"},
            assign={"before": "{% $task.StartedTimestamp %}", "pause": 2, "ended": 0})
        cancel_redrive = self._ask(
            "CancelRedrive", "CancelMessageMoveTask", failed_orders_arn,
            {"TaskHandle": "{% $task.TaskHandle %}"}, assign={"before": 0, "pause": 2, "ended": 0})
        read_progress = self._ask(
            "ReadProgress", "ListMessageMoveTasks", failed_orders_arn,
            {"SourceArn": failed_orders_arn, "MaxResults": 1},
            assign={"task": f"{{% {NEWEST} %}}", "pause": f"{{% {PAUSE} %}}",
                    "ended": f"{{% {ENDED} %}}"},
            outputs=f"{{% {NEWEST}.{{'status': Status, 'moved': ApproximateNumberOfMessagesMoved,"
                    " 'to_move': ApproximateNumberOfMessagesToMove} %}")
        pause = sfn.Wait.jsonata(self, "Pause", time=sfn.WaitTime.seconds("{% $pause %}"))
        give_up = sfn.Fail.jsonata(
            self, "GiveUp", error="{% $problem.Error %}",
            cause="{% $problem.Cause & ' (A redrive that runs goes on until it is cancelled.)' %}")
        for task in (look_for_task, read_progress, cancel_redrive):
            task.add_retry(
                errors=["States.ALL"], interval=Duration.seconds(1), backoff_rate=2, max_attempts=3,
                max_delay=Duration.seconds(5), jitter_strategy=sfn.JitterType.FULL)
        start_redrive.add_retry(
            errors=["Sqs.RequestThrottledException"], interval=Duration.seconds(1), backoff_rate=2,
            max_attempts=5, jitter_strategy=sfn.JitterType.FULL)
        for task in (look_for_task, start_redrive, read_progress, cancel_redrive):
            task.add_catch(
                give_up, errors=["States.ALL"], assign={"problem": "{% $states.errorOutput %}"})

        holds = sfn.Condition.jsonata
        look_for_task.next(
            sfn.Choice.jsonata(self, "Decide")
            .when(holds("{% $cancel and $task.Status = 'RUNNING' %}"),
                  cancel_redrive)
            .when(holds("{% $cancel %}"), sfn.Fail.jsonata(
                self, "RefuseToCancel", error="NoRedriveRunning",
                cause="{% 'The latest redrive is ' & $task.Status & '.' %}"))
            .when(holds(f"{{% $task.{RUNS} %}}"), sfn.Fail.jsonata(
                self, "RefuseSecondRedrive", error="RedriveAlreadyRunning",
                cause=f"{{% 'One redrive at a time: ' & {MOVED} & '.' %}}"))
            .when(holds("{% $type($velocity) = 'number' ? $velocity != $floor($velocity)"
                        f" or $velocity < 1 or $velocity > {max_messages_per_second} : true %}}"),
                  sfn.Fail.jsonata(
                      self, "RefuseVelocity", error="InvalidVelocity",
                      cause="messages_per_second is a whole number from 1 to "
                            f"{max_messages_per_second}."))
            .otherwise(start_redrive))
        start_redrive.next(pause)
        cancel_redrive.next(pause)
        pause.next(read_progress)
        read_progress.next(
            sfn.Choice.jsonata(self, "Judge")
            # Or what was the newest before the start still is: SQS does not show ours yet.
            .when(holds("{% $ended < 2 %}"), pause)
            .when(holds("{% $task.Status = 'FAILED' %}"), sfn.Fail.jsonata(
                self, "ReportFailure", error="RedriveFailed",
                cause=f"{{% $task.FailureReason & ': ' & {MOVED} & '.' %}}"))
            .otherwise(sfn.Succeed.jsonata(self, "Ended")))
        return look_for_task

    def _ask(self, construct_id: str, action: str, queue_arn: str, parameters: dict[str, Any],
             **settings: Any) -> tasks.CallAwsService:
        """A state that asks SQS about a queue, which is all that its grant allows."""
        return tasks.CallAwsService.jsonata(
            self, construct_id,
            service="sqs",
            action=action[0].lower() + action[1:],
            iam_action=f"sqs:{action}",
            iam_resources=[queue_arn],
            parameters=parameters,
            task_timeout=sfn.Timeout.duration(Duration.seconds(30)),
            **settings)
