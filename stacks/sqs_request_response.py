"""Ask another service through a queue, go on, and get the answer to your own question in time.

                 correlation_id, reply_to, expires_at
    Buying ----+                                     +--> BuyingAnswers ----> Buying
               +--> FraudQuestions --> CheckFraud ---+
    Shipping --+       |                   |         +--> ShippingAnswers --> Shipping
                       |                   v                    |  nobody takes it
                       |                Verdicts                v
                       |  max_receive_count failures    FailedShippingAnswers (Buying: alike)
                       v                                        |
               FailedFraudQuestions --> alarms --> Alerts <-----+

Decisions worth knowing:

- A queue of answers for each asker, made beforehand, as AWS advises. From a shared one an asker
  would also receive the others' answers, each such receive would count as a failure, and IAM could
  not keep one from reading the other's. An asker is one process: for two of Buying say
  askers="Buying1,Buying2,Shipping". For many short-lived ones look at virtual queues (AWS's
  Temporary Queue Client for Java), which share one queue by way of a client that sorts.
- A question is known by its asker's queue and its correlation id. Whoever may send questions and
  knows an id can have one of theirs decided first under it; the asker's then fails, and ends as a
  dead letter. Askers keep their ids, which nobody can guess, to themselves.
- workers/sqs_request_response/asker.py is the asking side: ask() returns a future. Attach the
  policy BuyingAccess to Buying's role: it may ask, and read its own answers.
- reply_to is the name of a queue that CheckFraud's role may send to. So the role is the list of
  askers, and a forged name is refused before any work and parked. Who may ask may also name
  another asker, who then leaves the answer in its queue: it is parked, too.
- A question carries the time at which its asker gives up. CheckFraud does not begin with an expired
  one, and the asker drops a late answer by the same time, which the answer brings back. Both
  services' clocks must agree to a second or so, as those on AWS do.
- A worker that dies has lost nothing: the question comes back after the visibility timeout. It is
  decided once (the condition on its row in Verdicts, kept until it expires) but answered at each
  delivery, because nobody knows whether the first answer left. The asker drops the second one.
- A malformed question whose asker is known is answered with a refusal: the asker learns the reason
  at once instead of waiting. Only what cannot be answered is parked.
- The queues have names, made from the stack's: their dead-letter queues must name them (redrive
  allow policy) before they exist. A second copy of the stack has others.
- Alerts has a KMS key of its own, because CloudWatch cannot publish to a topic under
  `alias/aws/sns`. While idle you pay for it, for the alarms and for the polling: Lambda's of the
  questions, and the askers' of their answers.
"""

import re
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

LAMBDAS = Path(__file__).parent.parent / "lambdas" / "sqs_request_response"
PYTHON = lambda_.Runtime.PYTHON_3_14
POWERTOOLS = f"/aws/service/powertools/python/arm64/{PYTHON.name}/3.37.0"
ANSWERS_VISIBILITY_TIMEOUT_SECONDS = 60  # an asker deletes an answer at once, or leaves it


class SqsRequestResponse(Stack):
    """A queue of questions, a function that answers, a queue of answers for each asker, alarms.

    askers: names of the processes that ask, separated by commas (1 to 10 names of letters and
        digits, each beginning with a capital, of at most 30 characters).
    max_receive_count: failed receives after which a question or answer is parked (5 to 1,000).
    timeout_seconds: what CheckFraud may take for a batch of ten (1 to 900 s).
    max_concurrency: batches in work at the same time (2 to 1,000).
    alert_email: who is told; the address gets a mail to confirm.
    removal_policy: what becomes of the logs on destroy, "destroy" or "retain".
    """

    def __init__(self, scope: Construct, construct_id: str, *,
                 askers: str = "Buying,Shipping", max_receive_count: int = 5,
                 timeout_seconds: int = 10, max_concurrency: int = 5,
                 alert_email: str | None = None, removal_policy: str = "destroy",
                 **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        visibility_timeout_seconds = 6 * timeout_seconds
        names = askers.split(",")
        if (len(names) > 10 or len(set(names)) < len(names)
                or not all(re.fullmatch("[A-Z][A-Za-z0-9]{0,29}", name) for name in names)):
            raise ValueError(f'askers is 1 to 10 names such as "Buying,Shipping", not "{askers}"')
        for option, value, least, most in (
            ("max_receive_count", max_receive_count, 5, 1000),
            ("timeout_seconds", timeout_seconds, 1, 900),
            ("max_concurrency", max_concurrency, 2, 1000),
            ("the length of the stack's name", len(self.stack_name), 1,
             80 - len(f"-{max(names, key=len)}Answers")),
            # Or SQS deletes a question, which is a day old by then, before it is parked.
            ("max_receive_count + 1 visibility timeouts, in seconds,",
             visibility_timeout_seconds * (max_receive_count + 1), 1, 86400),
        ):
            if not least <= value <= most:
                raise ValueError(f"{option} is {least} to {most}, not {value}")
        if removal_policy not in ("destroy", "retain"):
            raise ValueError(f'removal_policy is "destroy" or "retain", not "{removal_policy}"')
        on_destroy = RemovalPolicy[removal_policy.upper()]

        fraud_questions, failed_fraud_questions = self._queues(
            "FraudQuestions", visibility_timeout_seconds, max_receive_count)
        verdicts = dynamodb.Table(
            self, "Verdicts",
            partition_key=dynamodb.Attribute(name="question", type=dynamodb.AttributeType.STRING),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            time_to_live_attribute="expires_at",
            removal_policy=RemovalPolicy.DESTROY)

        check_fraud_logs = logs.LogGroup(
            self, "CheckFraudLogs",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=on_destroy)
        check_fraud_role = iam.Role(
            self, "CheckFraudRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        powertools = lambda_.LayerVersion.from_layer_version_arn(
            self, "Powertools", ssm.StringParameter.value_for_string_parameter(self, POWERTOOLS))
        check_fraud = lambda_.Function(
            self, "CheckFraud",
            runtime=PYTHON,
            architecture=lambda_.Architecture.ARM_64,
            handler="check_fraud.handler",
            code=lambda_.Code.from_asset(str(LAMBDAS), exclude=["**/__pycache__/**"]),
            layers=[powertools],
            role=check_fraud_role,
            timeout=Duration.seconds(timeout_seconds),
            memory_size=512,
            tracing=lambda_.Tracing.ACTIVE,
            log_group=check_fraud_logs,
            environment={
                "POWERTOOLS_SERVICE_NAME": "check-fraud",
                "VERDICTS": verdicts.table_name,
            })
        check_fraud.add_event_source_mapping(
            "FraudQuestions",
            event_source_arn=fraud_questions.queue_arn,
            batch_size=10,
            report_batch_item_failures=True,
            max_concurrency=max_concurrency)

        check_fraud_logs.grant_write(check_fraud_role)
        verdicts.grant(check_fraud_role, "dynamodb:PutItem")
        # Not grant_consume_messages: with its GetQueueUrl this queue could be named in reply_to.
        fraud_questions.grant(
            check_fraud_role, "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
        answers = {name: self._queues(f"{name}Answers", ANSWERS_VISIBILITY_TIMEOUT_SECONDS,
                                      max_receive_count) for name in names}
        for name, (queue, _) in answers.items():
            queue.grant(check_fraud_role, "sqs:GetQueueUrl", "sqs:SendMessage")
            access = iam.ManagedPolicy(
                self, f"{name}Access",
                description=f"To ask as {name}; attach it to the role that {name} runs with",
                statements=[
                    iam.PolicyStatement(actions=["sqs:SendMessage"],
                                        resources=[fraud_questions.queue_arn]),
                    iam.PolicyStatement(actions=["sqs:ReceiveMessage", "sqs:DeleteMessage"],
                                        resources=[queue.queue_arn])])
            CfnOutput(self, f"{name}AnswersUrl", value=queue.queue_url)
            CfnOutput(self, f"{name}AccessArn", value=access.managed_policy_arn)

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

        alarms = [("CheckFraudErrors", "CheckFraud crashed or ran out of time: a batch comes back.",
                   check_fraud.metric_errors(statistic="Sum"), 1, 1)]
        for name, what, (queue, failed), seconds in (
            ("FraudQuestions", "questions to Fraud",
             (fraud_questions, failed_fraud_questions), visibility_timeout_seconds),
            *((f"{name}Answers", f"answers to {name}", pair, ANSWERS_VISIBILITY_TIMEOUT_SECONDS)
              for name, pair in answers.items()),
        ):
            alarms += [
                (f"{name}Parked", f"Dead letters among the {what}: look, mend, redrive.",
                 failed.metric_approximate_number_of_messages_visible(statistic="Maximum"), 1, 1),
                (f"{name}Late", f"One of the {what}, received less than three times, has waited"
                                " longer than all retries take.",
                 queue.metric_approximate_age_of_oldest_message(statistic="Maximum"),
                 seconds * (max_receive_count + 1), 5)]
            CfnOutput(self, f"Failed{name}Url", value=failed.queue_url)
        for alarm, meaning, metric, threshold, minutes in alarms:
            metric.with_(period=Duration.minutes(1)).create_alarm(
                self, alarm,
                alarm_description=meaning,
                threshold=threshold,
                evaluation_periods=minutes,
                treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            ).add_alarm_action(actions.SnsAction(alerts))

        Validations.of(check_fraud_role).acknowledge(Acknowledgment(
            id="AwsSolutions-IAM5[Resource::*]",
            reason="X-Ray's PutTraceSegments and PutTelemetryRecords accept no resource."))
        Validations.of(verdicts).acknowledge(Acknowledgment(
            id="AwsSolutions-DDB3",
            reason="A row is of use until its question expires, then nothing is lost with it."))

        CfnOutput(self, "FraudQuestionsUrl", value=fraud_questions.queue_url)
        CfnOutput(self, "VerdictsName", value=verdicts.table_name)
        CfnOutput(self, "CheckFraudName", value=check_fraud.function_name)
        CfnOutput(self, "CheckFraudLogsName", value=check_fraud_logs.log_group_name)
        CfnOutput(self, "AlertsArn", value=alerts.topic_arn)

    def _queues(self, name: str, visibility_timeout_seconds: int,
                max_receive_count: int) -> tuple[sqs.Queue, sqs.Queue]:
        """A queue and its dead-letter queue, which has the name with Failed before it."""
        queue_name = f"{Aws.STACK_NAME}-{name}"
        by_name = sqs.Queue.from_queue_arn(
            self, f"{name}ByName", self.format_arn(service="sqs", resource=queue_name))
        failed = sqs.Queue(
            self, f"Failed{name}",
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            max_message_size_bytes=1_048_576,
            retention_period=Duration.days(14),
            receive_message_wait_time=Duration.seconds(20),
            redrive_allow_policy=sqs.RedriveAllowPolicy(source_queues=[by_name]))
        queue = sqs.Queue(
            self, name,
            queue_name=queue_name,
            enforce_ssl=True,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            max_message_size_bytes=1_048_576,
            retention_period=Duration.days(1),
            receive_message_wait_time=Duration.seconds(20),
            visibility_timeout=Duration.seconds(visibility_timeout_seconds),
            dead_letter_queue=sqs.DeadLetterQueue(
                queue=failed, max_receive_count=max_receive_count))
        return queue, failed
