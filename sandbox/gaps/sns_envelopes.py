"""What a message of a topic looks like in a queue.

Binary attributes are in it, a topic's signature version is the envelope's, and a FIFO topic gives a
standard queue no message group. Seen in MiniStack 1.5.33: a batch's binary attributes are lost, an
envelope's are empty, its version is always 1, a standard queue gets the group, and a protocol's
part that is no text (SNS ignores it) breaks Publish.
"""

import json
from typing import Any

from ministack.services import sns

PATCHES = (
    "services.sns._parse_batch_entries",
    "services.sns._build_envelope",
    "services.sns._deliver_to_sqs",
    "services.sns._resolve_message_for_protocol",
    "services.sns._topic_by_arn_any_scope",
    "services.sns._p",
)


def close() -> None:
    """Read a batch's attributes whole, and write envelopes as AWS does."""
    parse, build, deliver = sns._parse_batch_entries, sns._build_envelope, sns._deliver_to_sqs

    def parse_whole(params: dict[str, Any]) -> list[dict[str, Any]]:
        entries = parse(params)
        for number, entry in enumerate(entries, start=1):
            at = f"PublishBatchRequestEntries.member.{number}.MessageAttributes.entry."
            for position, attribute in enumerate(entry["message_attributes"].values(), start=1):
                if binary := sns._p(params, f"{at}{position}.Value.BinaryValue"):
                    attribute["BinaryValue"] = binary
                    attribute.pop("StringValue", None)
        return entries

    def build_whole(topic: str, *parts: Any) -> str:
        text, (attributes, raw) = build(topic, *parts), parts[-2:]
        if raw:
            return text
        envelope = json.loads(text)
        found = sns._topic_by_arn_any_scope(topic) or {"attributes": {}}
        envelope["SignatureVersion"] = found["attributes"].get("SignatureVersion", "1")
        for name, attribute in attributes.items():
            if "BinaryValue" in attribute:
                envelope["MessageAttributes"][name]["Value"] = attribute["BinaryValue"]
        return json.dumps(envelope)

    def deliver_by_type(endpoint: str, *parts: Any, **named: Any) -> None:
        if not endpoint.endswith(".fifo") and named.get("message_dedup_id"):
            named |= {"message_group_id": "", "message_dedup_id": ""}
        deliver(endpoint, *parts, **named)

    resolve = sns._resolve_message_for_protocol

    def resolve_texts(message: str, structure: str, protocol: str) -> str:
        if structure == "json":
            parts = json.loads(message)
            message = json.dumps({key: one for key, one in parts.items() if isinstance(one, str)})
        return resolve(message, structure, protocol)

    sns._parse_batch_entries, sns._build_envelope = parse_whole, build_whole
    sns._resolve_message_for_protocol = resolve_texts
    sns._deliver_to_sqs = deliver_by_type
