"""Gaps of SNS: what it refuses, filters and hands over."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from tests.sandbox.checks.sqs import arn_of, queue, said
from tests.sandbox.cloud import Clients, deploy, listen, soon


def topic(client: Clients, ends: str = "", **attributes: str) -> str:
    """The ARN of a new topic."""
    name = f"gap-{uuid.uuid4().hex[:8]}{ends}"
    return client("sns").create_topic(Name=name, Attributes=attributes)["TopicArn"]


def sns_refusals__topics(client: Clients) -> bool:
    """Names and attributes of topics."""
    sns = client("sns")
    arn = topic(client)
    return [
        said(sns.create_topic, Name="with space"),
        said(sns.create_topic, Name="a" * 257),
        said(sns.create_topic, Name="orders.fifo"),
        said(
            sns.set_topic_attributes,
            TopicArn=arn,
            AttributeName="SignatureVersion",
            AttributeValue="3",
        )[:17],
        said(sns.create_topic, Name="orders", Attributes={"FifoTopic": "true"})[:41],
    ] == [
        *["Invalid parameter: Topic Name"] * 3,
        "Invalid parameter",
        "Invalid parameter: Fifo Topic names must ",
    ]


def sns_refusals__topic_attributes(client: Clients) -> bool:
    """Which attributes a topic has and may change, and the numbers of its delivery policy."""
    sns = client("sns")
    arn, name = topic(client), f"gap-{uuid.uuid4().hex[:8]}"

    def made(**attributes: str) -> str:
        return said(sns.create_topic, Name=name, Attributes=attributes)

    def changed(attribute: str, value: str, to: str = arn) -> str:
        return said(
            sns.set_topic_attributes, TopicArn=to, AttributeName=attribute, AttributeValue=value
        )

    def retried(**numbers: Any) -> str:
        return changed(
            "DeliveryPolicy", json.dumps({"http": {"defaultHealthyRetryPolicy": numbers}})
        )

    start = "Invalid parameter: "
    unknown = f"{start}Attributes Reason: Unknown attribute "
    refused = [
        (made(Colour="red"), f"{unknown}Colour"),
        (made(ContentBasedDeduplication="true"), f"{unknown}ContentBasedDeduplication"),
        (changed("Colour", "red"), f"{start}AttributeName"),
        (changed("FifoTopic", "true"), f"{start}AttributeName"),
        (changed("DisplayName", "x", to="orders"), f"{start}TopicArn Reason: An ARN must have at"),
        *(
            (changed("DeliveryPolicy", policy), f"{start}DeliveryPolicy: ")
            for policy in ("[]", '{"http": 5}', '{"http": {"defaultHealthyRetryPolicy": 5}}')
        ),
        (retried(numRetries=True), f"{start}DeliveryPolicy: numRetries"),
        (retried(numNoDelayRetries=4), f"{start}DeliveryPolicy: "),
        (retried(minDelayTarget=30, maxDelayTarget=20), f"{start}DeliveryPolicy: "),
        (retried(numRetries=100, minDelayTarget=60, maxDelayTarget=60), f"{start}DeliveryPolicy: "),
    ]
    taken = [
        made(DisplayName="Orders"),
        made(DisplayName="Orders"),
        made(),
        changed("SQSFailureFeedbackRoleArn", "arn:aws:iam::000000000000:role/log"),
        changed("DisplayName", ""),
        retried(numRetries=100, minDelayTarget=1, maxDelayTarget=60),
    ]
    return (
        all(text.startswith(wanted) for text, wanted in refused)
        and taken == [""] * len(taken)
        and made(DisplayName="Other")
        == f"{start}Attributes Reason: Topic already exists with different attributes"
    )


def sns_refusals__dead_letter_queues(client: Clients) -> bool:
    """A FIFO subscription's is FIFO, a standard topic's is not; others may be as they are."""
    sns, arn, fifo = client("sns"), topic(client), topic(client, ".fifo", FifoTopic="true")
    ordered = {"FifoQueue": "true"}

    def subscribed(to: str, ends: str, dead_ends: str) -> str:
        ends_at, dead = (
            arn_of(client, queue(client, one, **(ordered if one else {})))
            for one in (ends, dead_ends)
        )
        policy = json.dumps({"deadLetterTargetArn": dead})
        return said(
            sns.subscribe,
            TopicArn=to,
            Protocol="sqs",
            Endpoint=ends_at,
            Attributes={"RedrivePolicy": policy},
        )

    return (
        "must use a FIFO queue" in subscribed(fifo, ".fifo", "")
        and "RedrivePolicy" in subscribed(arn, "", ".fifo")
        and [subscribed(fifo, ".fifo", ".fifo"), subscribed(fifo, "", ""), subscribed(arn, "", "")]
        == [""] * 3
    )


def sns_refusals__subscriptions(client: Clients) -> bool:
    """Protocols, endpoints and attributes of subscriptions, in a request and later."""
    sns, arn, fifo = client("sns"), topic(client), topic(client, ".fifo", FifoTopic="true")
    plain, ordered = (arn_of(client, queue(client)) for _ in range(2))
    ordered = arn_of(client, queue(client, ".fifo", FifoQueue="true"))
    stream = "arn:aws:firehose:us-east-1:000000000000:deliverystream/s"

    def subscribed(to: str, protocol: str, endpoint: str, **attributes: str) -> str:
        text = said(
            sns.subscribe, TopicArn=to, Protocol=protocol, Endpoint=endpoint, Attributes=attributes
        )
        return text.removeprefix("Invalid parameter: ")

    dead = json.dumps({"deadLetterTargetArn": plain})
    refused = {
        subscribed(arn, "pigeon", "coop"): "Amazon SNS does not support this protocol string",
        subscribed(arn, "https", "http://localhost"): "Endpoint must match",
        subscribed(arn, "sqs", ordered): "Invalid parameter: Endpoint Reason: FIFO SQS Queues",
        subscribed(fifo, "email", "shop@example.com"): "Invalid protocol type",
        subscribed(arn, "firehose", stream): "Attributes Reason: SubscriptionRoleArn",
        subscribed(fifo, "sqs", ordered, RedrivePolicy=dead): "Attributes Reason: RedrivePolicy",
        subscribed(arn, "sqs", plain, RawMessageDelivery="yes"): "Attributes Reason: RawMessage",
        subscribed(arn, "sqs", plain, FilterPolicyScope="Body"): "Attributes Reason: FilterPolicyS",
        subscribed(arn, "sqs", plain, FilterPolicy='{"a": "x"}'): "Attributes Reason: FilterPolicy",
        subscribed("orders", "sqs", plain): "TopicArn Reason: An ARN must have at least 6 elements",
    }
    if not all(text.startswith(wanted) for text, wanted in refused.items()):
        return False
    one = sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=plain, ReturnSubscriptionArn=True)[
        "SubscriptionArn"
    ]
    again = subscribed(arn, "sqs", plain, RawMessageDelivery="true")
    later = said(
        sns.set_subscription_attributes,
        SubscriptionArn=one,
        AttributeName="FilterPolicy",
        AttributeValue='{"a": []}',
    )
    return (
        again == "Attributes Reason: Subscription already exists with different attributes"
        and later == "Invalid parameter: FilterPolicy: Empty arrays are not allowed"
    )


def sns_refusals__templates(client: Clients) -> bool:
    """A FIFO topic without a name gets one that ends so; a stream's subscription wants a role."""
    made = deploy(
        client, {"Changes": {"Type": "AWS::SNS::Topic", "Properties": {"FifoTopic": True}}}
    )
    arn, to = topic(client), arn_of(client, queue(client))

    def deployed(**properties: Any) -> bool:
        one = {"Type": "AWS::SNS::Subscription", "Properties": {"TopicArn": arn, **properties}}
        try:
            deploy(client, {"One": one})
        except AssertionError:
            return False
        return True

    def inline(**one: str) -> bool:
        made = {"Type": "AWS::SNS::Topic", "Properties": {"Subscription": [one]}}
        try:
            deploy(client, {"Changes": made})
        except AssertionError:
            return False
        return True

    taken = arn_of(client, queue(client))
    client("sns").subscribe(TopicArn=arn, Protocol="sqs", Endpoint=taken)
    ordered = arn_of(client, queue(client, ".fifo", FifoQueue="true"))
    return (
        made["Changes"].endswith(".fifo")
        and not inline(Protocol="sqs", Endpoint=ordered)
        and inline(Protocol="sqs", Endpoint=to)
        and not deployed(Protocol="sqs", Endpoint=taken, RawMessageDelivery=True)
        and not deployed(
            Protocol="firehose",
            Endpoint="arn:aws:firehose:us-east-1:000000000000:deliverystream/s",
        )
        and not deployed(Protocol="sqs", Endpoint=to, FilterPolicy={"a": []})
        and deployed(Protocol="sqs", Endpoint=to, FilterPolicy={"a": ["x"]})
    )


def sns_refusals__template_updates(client: Clients) -> bool:
    """A policy and its scope change together; a policy that is wrong leaves the old one."""
    arn, to, stack = topic(client), arn_of(client, queue(client)), f"gap-{uuid.uuid4().hex[:8]}"
    cloudformation, sns = client("cloudformation"), client("sns")

    def resources(**properties: Any) -> dict[str, Any]:
        own = {"TopicArn": arn, "Protocol": "sqs", "Endpoint": to, **properties}
        return {"One": {"Type": "AWS::SNS::Subscription", "Properties": own}}

    def updated(**properties: Any) -> str:
        body = json.dumps({"Resources": resources(**properties)})
        cloudformation.update_stack(StackName=stack, TemplateBody=body)

        def status() -> str:
            return cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]

        assert soon(lambda: not status().endswith("_IN_PROGRESS"))
        return status()

    def policy() -> tuple[str, Any]:
        found = sns.get_subscription_attributes(SubscriptionArn=made["One"])["Attributes"]
        return found["FilterPolicyScope"], json.loads(found["FilterPolicy"])

    made = deploy(client, resources(FilterPolicy={"a": ["x"]}), name=stack)
    nested = {"FilterPolicyScope": "MessageBody", "FilterPolicy": {"a": {"b": ["x"]}}}
    return (
        updated(**nested) == "UPDATE_COMPLETE"
        and policy() == ("MessageBody", nested["FilterPolicy"])
        and updated(FilterPolicyScope="MessageBody", FilterPolicy={"a": []})
        == "UPDATE_ROLLBACK_COMPLETE"
        and policy() == ("MessageBody", nested["FilterPolicy"])
        and updated(FilterPolicyScope="MessageAttributes", FilterPolicy={"a": ["y"]})
        == "UPDATE_COMPLETE"
        and policy() == ("MessageAttributes", {"a": ["y"]})
    )


def sns_message_refusals__attributes(client: Clients) -> bool:
    """Names and numbers of a message's attributes, one by one and in a batch."""
    sns, arn = client("sns"), topic(client)

    def refused(name: str, kind: str = "String", value: str = "x") -> str:
        attribute = {name: {"DataType": kind, "StringValue": value}}
        entry = {"Id": "1", "Message": "order", "MessageAttributes": attribute}
        texts = {
            said(sns.publish, TopicArn=arn, Message="order", MessageAttributes=attribute),
            said(sns.publish_batch, TopicArn=arn, PublishBatchRequestEntries=[entry]),
        }
        return texts.pop() if len(texts) == 1 else "not the same"

    return [
        refused(".kind"),
        refused("kind."),
        refused("kind..of"),
        refused("kind of")[:39],
        refused("k" * 257),
        refused("kind", "Number", "many"),
        refused("kind-of.an_order1"),
        refused("kind", "Number.int", "-1.5e3"),
    ] == [
        "Invalid message attribute name starting with character '.' was found.",
        "Invalid message attribute name ending with character '.' was found.",
        "Message attribute name can not have successive '.' character.",
        "Invalid non-alphanumeric character '#x2",
        "Length of message attribute name must be less than 256 bytes.",
        "Could not cast message attribute 'kind' value to number.",
        "",
        "",
    ]


def sns_message_refusals__addresses(client: Clients) -> bool:
    """The topic that a message names is one, and of this Region."""
    sns, arn = client("sns"), topic(client)
    entries = [{"Id": "1", "Message": "order"}]
    elsewhere = arn.replace("us-east-1", "eu-west-1")
    return [
        said(sns.publish, TopicArn=elsewhere, Message="order"),
        said(sns.publish, TargetArn=elsewhere, Message="order"),
        said(sns.publish_batch, TopicArn="orders", PublishBatchRequestEntries=entries),
        said(sns.publish_batch, TopicArn=arn, PublishBatchRequestEntries=entries),
    ] == [
        "Invalid parameter: TopicArn",
        "Invalid parameter: TargetArn",
        "Invalid parameter: TopicArn Reason: An ARN must have at least 6 elements, not 1",
        "",
    ]


def sns_message_refusals(client: Clients) -> bool:
    """Messages that SNS does not take, and batches as a whole."""
    sns, arn = client("sns"), topic(client)
    fifo = topic(client, ".fifo", FifoTopic="true")

    def refused(to: str = arn, text: str = "order", **more: Any) -> str:
        return said(sns.publish, TopicArn=to, Message=text, **more)

    def attribute(kind: str, value: str) -> dict[str, Any]:
        return {"MessageAttributes": {"kind": {"DataType": kind, "StringValue": value}}}

    entries = [{"Id": "1", "Message": "order"}, {"Id": "2", "Message": ""}]
    return [
        refused(text=""),
        refused(Subject=""),
        refused(Subject="s" * 101),
        refused(text="no JSON", MessageStructure="json"),
        refused(text='{"sqs": "x"}', MessageStructure="json"),
        refused(text="x" * 262_145),
        refused(fifo),
        refused(fifo, MessageGroupId="g"),
        bool(refused(fifo, MessageGroupId="with space", MessageDeduplicationId="d")),
        bool(refused(MessageDeduplicationId="d")),
        bool(refused(**attribute("Text", "x"))),
        bool(refused(**attribute("String", ""))),
        said(sns.publish_batch, TopicArn=arn, PublishBatchRequestEntries=entries),
        refused(Subject="right", MessageGroupId="fair", **attribute("String", "x")),
    ] == [
        "Invalid parameter: Empty message",
        "Invalid parameter: Subject",
        "Invalid parameter: Subject",
        "Invalid parameter: Message Structure - JSON message body failed to parse",
        "Invalid parameter: Message Structure - No default entry in JSON message body",
        "Invalid parameter: Message too long",
        "Invalid parameter: The MessageGroupId parameter is required for FIFO topics",
        "Invalid parameter: The topic should either have ContentBasedDeduplication enabled or"
        " MessageDeduplicationId provided explicitly",
        *[True] * 4,
        "Invalid parameter: Empty message",
        "",
    ]


def sns_filter_policies(client: Clients) -> bool:
    """A policy on the body looks into arrays of objects, one element at a time."""
    sns, url, arn = client("sns"), queue(client), topic(client)
    policy = {"items": {"sku": ["cup"], "count": [4]}}
    listen(
        client,
        arn,
        url,
        FilterPolicy=json.dumps(policy),
        FilterPolicyScope="MessageBody",
        RawMessageDelivery="true",
    )
    for cups in (1, 4):
        items = [{"sku": "tea", "count": 4}, {"sku": "cup", "count": cups}]
        sns.publish(TopicArn=arn, Message=json.dumps({"items": items}))
    found: list[str] = []

    def received() -> bool:
        messages = client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)
        found.extend(one["Body"] for one in messages.get("Messages", []))
        return bool(found)

    return soon(received) and [json.loads(one)["items"][1]["count"] for one in found] == [4]


def sns_envelopes(client: Clients) -> bool:
    """Binary attributes arrive, and a standard queue behind a FIFO topic gets no group."""
    sns, sqs = client("sns"), client("sqs")
    arn = topic(client, SignatureVersion="2")
    raw, wrapped = queue(client), queue(client)
    listen(client, arn, raw, RawMessageDelivery="true")
    listen(client, arn, wrapped)
    fifo, standard = topic(client, ".fifo", FifoTopic="true"), queue(client)
    listen(client, fifo, standard, RawMessageDelivery="true")
    attribute = {"kind": {"DataType": "Binary", "BinaryValue": b"\x00\xff"}}
    entry = {"Id": "1", "Message": "order", "MessageAttributes": attribute}
    try:
        sns.publish_batch(TopicArn=arn, PublishBatchRequestEntries=[entry])
    except ClientError:
        return False
    sns.publish(TopicArn=fifo, Message="x", MessageGroupId="g", MessageDeduplicationId="d")

    def received(url: str) -> dict[str, Any]:
        answer = sqs.receive_message(
            QueueUrl=url,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
            WaitTimeSeconds=20,
        )
        return answer.get("Messages", [{}])[0]

    envelope = json.loads(received(wrapped).get("Body", "{}"))
    value = envelope.get("MessageAttributes", {}).get("kind", {}).get("Value", "")
    return (
        received(raw).get("MessageAttributes") == attribute
        and base64.b64decode(value) == b"\x00\xff"
        and envelope["SignatureVersion"] == "2"
        and "MessageGroupId" not in received(standard)["Attributes"]
    )


def sns_envelopes__parts(client: Clients) -> bool:
    """A protocol's part that is no text is ignored; stock answers with an error that is no XML."""
    sns, url, arn = client("sns"), queue(client), topic(client)
    listen(client, arn, url, RawMessageDelivery="true")
    parts = json.dumps({"default": "all", "sqs": 5})
    try:
        sns.publish(TopicArn=arn, Message=parts, MessageStructure="json")
    except (ClientError, ResponseParserError):
        return False
    found = client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=20)
    return [one["Body"] for one in found.get("Messages", [])] == ["all"]
