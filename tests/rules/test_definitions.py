"""The reader of definitions: one valid one, and for each reason to refuse it, one change."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules import _calls, _definitions
from rules._definitions import Problem, problems, read

LAMBDA = "arn:aws:states:::lambda:invoke"
ITEMS = {"StartAt": "Pack", "States": {"Pack": {"Type": "Pass", "End": True}}}
JSONPATH: dict[str, Any] = {
    "Comment": "An order",
    "StartAt": "Charge",
    "TimeoutSeconds": 600,
    "States": {
        "Charge": {
            "Type": "Task",
            "Resource": LAMBDA,
            "Parameters": {"FunctionName": "charge", "Payload": {"order.$": "$.order"}},
            "ResultSelector": {"paid.$": "$.Payload.paid", "id.$": "States.Format('{}', $.id)"},
            "ResultPath": "$.charge",
            "TimeoutSeconds": 60,
            "HeartbeatSeconds": 20,
            "Assign": {"order.$": "$.Payload.id"},
            "Retry": [
                {"ErrorEquals": ["Lambda.TooManyRequestsException"], "IntervalSeconds": 1},
                {"ErrorEquals": ["States.ALL"], "MaxAttempts": 2, "BackoffRate": 1.5},
            ],
            "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Refuse"}],
            "Next": "Paid",
        },
        "Paid": {
            "Type": "Choice",
            "Choices": [
                {"Variable": "$.charge.paid", "BooleanEquals": True, "Next": "Items"},
                {
                    "And": [
                        {"Variable": "$.n", "NumericGreaterThan": 3},
                        {"Not": {"Variable": "$.s", "StringMatches": "a*"}},
                        {"Variable": "$.at", "TimestampLessThan": "2026-11-26T08:00:00Z"},
                        {"Variable": "$.a", "StringEqualsPath": "$.b"},
                        {"Variable": "$.c", "IsPresent": False},
                    ],
                    "Next": "Later",
                },
            ],
            "Default": "Refuse",
        },
        "Later": {"Type": "Wait", "Seconds": 5, "Next": "Both"},
        "Items": {
            "Type": "Map",
            "ItemsPath": "$.items",
            "ItemSelector": {"item.$": "$$.Map.Item.Value", "of.$": "$order"},
            "MaxConcurrency": 3,
            "ItemProcessor": copy.deepcopy(ITEMS),
            "Next": "Both",
        },
        "Both": {
            "Type": "Parallel",
            "Branches": [
                {
                    "StartAt": "Tell",
                    "States": {
                        "Tell": {
                            "Type": "Task",
                            "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
                            "Parameters": {
                                "QueueUrl": "https://example.com/q",
                                "MessageBody": {"token.$": "$$.Task.Token"},
                            },
                            "HeartbeatSeconds": 60,
                            "End": True,
                        }
                    },
                },
                {
                    "StartAt": "Ask",
                    "States": {
                        "Ask": {
                            "Type": "Task",
                            "Resource": "arn:aws:states:::aws-sdk:dynamodb:query",
                            "Parameters": {"TableName": "orders"},
                            "End": True,
                        }
                    },
                },
            ],
            "End": True,
        },
        "Refuse": {"Type": "Fail", "Error": "Refused", "CausePath": "$.error.Cause"},
    },
}
JSONATA: dict[str, Any] = {
    "QueryLanguage": "JSONata",
    "StartAt": "Charge",
    "States": {
        "Charge": {
            "Type": "Task",
            "Resource": LAMBDA,
            "Arguments": {"FunctionName": "charge", "Payload": "{% $states.input.order %}"},
            "TimeoutSeconds": "{% $states.input.patience %}",
            "Assign": {"paid": "{% $states.result.Payload.paid %}"},
            "Output": {"items": "{% $states.input.items[price > 3].{'id': id} %}"},
            "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 2}],
            "Catch": [
                {
                    "ErrorEquals": ["States.ALL"],
                    "Output": "{% $states.errorOutput.Error %}",
                    "Next": "Refuse",
                }
            ],
            "Next": "Paid",
        },
        "Paid": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $paid and $exists($states.input) %}", "Next": "Items"}],
            "Default": "Refuse",
        },
        "Items": {
            "Type": "Map",
            "Items": "{% $states.input.items %}",
            "ItemSelector": {"item": "{% $states.context.Map.Item.Value %}"},
            "ItemProcessor": copy.deepcopy(ITEMS),
            "Output": "{% $map($states.result, function($one){ $one.id }) %}",
            "Next": "Later",
        },
        "Later": {"Type": "Wait", "Timestamp": "{% $fromMillis($millis()) %}", "Next": "Done"},
        "Done": {"Type": "Succeed", "Output": "{% $partition([1, 2], 1) ~> $count() %}"},
        "Refuse": {"Type": "Fail", "Error": "Refused", "Cause": "{% 'no: ' & $states.input %}"},
    },
}
FORMS = {"JSONPath": JSONPATH, "JSONata": JSONATA}
GONE = object()


def changed(form: str, path: str, value: Any) -> dict[str, Any]:
    """The valid definition with another value at "States/Charge/Next"; GONE takes it away."""
    definition = copy.deepcopy(FORMS[form])
    at: Any = definition
    *way, last = [int(step) if step.isdecimal() else step for step in path.split("/")]
    for step in way:
        at = at[step]
    if value is GONE:
        del at[last]
    else:
        at[last] = value
    return definition


NOT_HERE = (
    "The QueryLanguage is set to '{}', but field '{}' is only supported for the '{}' QueryLanguage"
)
CHARGE, PAID, ITEM = "States/Charge", "States/Paid", "States/Items"
TOP = "Reference to '{}' at the top level is not supported."

# (language, what is changed, to what, AWS's code, its words or some of them, its place)
REFUSED: list[tuple[str, str, Any, str, str, str]] = [
    # what was recorded on AWS or measured there
    *(
        (form, "States/Refuse/Type", "Stop", "SCHEMA_VALIDATION_FAILED",
         "The field 'Type' should have one of these values: "
         "[Task, Wait, Pass, Succeed, Fail, Choice, Parallel, Map]", "/States/Refuse/Type")
        for form in FORMS
    ),
    ("JSONPath", "StartAt", GONE, "SCHEMA_VALIDATION_FAILED",
     "These fields are required: [StartAt]", "/"),
    ("JSONPath", "States", GONE, "SCHEMA_VALIDATION_FAILED",
     "These fields are required: [States]", "/"),
    ("JSONPath", f"{PAID}/Choices", GONE, "SCHEMA_VALIDATION_FAILED",
     "These fields are required: [Choices]", "/States/Paid"),
    ("JSONPath", f"{CHARGE}/Next", "Nowhere", "MISSING_TRANSITION_TARGET",
     "Missing 'Next' target: Nowhere", "/States/Charge/Next"),
    ("JSONPath", "StartAt", "Nowhere", "MISSING_TRANSITION_TARGET",
     "Missing 'Next' target: Nowhere", "/StartAt"),
    ("JSONPath", f"{PAID}/Default", "Nowhere", "MISSING_TRANSITION_TARGET",
     "Missing 'Next' target: Nowhere", "/States/Paid/Default"),
    ("JSONPath", f"{PAID}/Choices/0/Next", "Nowhere", "MISSING_TRANSITION_TARGET",
     "Missing 'Next' target: Nowhere", "/States/Paid/Choices[0]/Next"),
    ("JSONPath", f"{CHARGE}/Catch/0/Next", "Nowhere", "MISSING_TRANSITION_TARGET",
     "Missing 'Next' target: Nowhere", "/States/Charge/Catch[0]/Next"),
    ("JSONPath", f"{ITEM}/ItemProcessor/StartAt", "Nowhere", "MISSING_TRANSITION_TARGET",
     "Missing 'Next' target: Nowhere", "/States/Items/ItemProcessor/StartAt"),
    ("JSONPath", f"{ITEM}/Next", "Charge", "", "", ""),  # a loop is none
    ("JSONPath", "States/Lonely", {"Type": "Pass", "End": True}, "MISSING_TRANSITION_TARGET",
     'State "Lonely" is not reachable.', "/States/Lonely"),
    ("JSONPath", f"{ITEM}/ItemProcessor/States/Lonely", {"Type": "Pass", "End": True},
     "MISSING_TRANSITION_TARGET", 'State "Lonely" is not reachable.',
     "/States/Items/ItemProcessor/States/Lonely"),
    ("JSONPath", f"{ITEM}/TimeoutSeconds", 5, "SCHEMA_VALIDATION_FAILED",
     "Field 'TimeoutSeconds' is not supported", "/States/Items"),
    ("JSONPath", f"{PAID}/Retry", [], "SCHEMA_VALIDATION_FAILED",
     "Field 'Retry' is not supported", "/States/Paid"),
    ("JSONata", "States/Later/Catch", [], "SCHEMA_VALIDATION_FAILED",
     "Field 'Catch' is not supported", "/States/Later"),
    ("JSONPath", f"{CHARGE}/_comment", "", "SCHEMA_VALIDATION_FAILED",
     "Field '_comment' is not supported", "/States/Charge"),
    ("JSONPath", f"{ITEM}/ItemProcessor/QueryLanguage", "JSONata", "SCHEMA_VALIDATION_FAILED",
     "Field 'QueryLanguage' is not supported", "/States/Items/ItemProcessor"),
    ("JSONPath", "States/Both/Branches/0/QueryLanguage", "JSONata", "SCHEMA_VALIDATION_FAILED",
     "Field 'QueryLanguage' is not supported", "/States/Both/Branches[0]"),
    ("JSONata", f"{CHARGE}/QueryLanguage", "JSONPath", "SCHEMA_VALIDATION_FAILED",
     "'QueryLanguage' can not be 'JSONPath' if set to 'JSONata' for whole state machine",
     "/States/Charge"),
    ("JSONata", "States/Later/QueryLanguage", "jsonata", "SCHEMA_VALIDATION_FAILED",
     "Value should be one of the following: [JSONPath, JSONata]", "/States/Later/QueryLanguage"),
    ("JSONata", "QueryLanguage", 5, "SCHEMA_VALIDATION_FAILED",
     "Expected value of type [STRING]", "/QueryLanguage"),
    ("JSONPath", f"{CHARGE}/Output", {}, "SCHEMA_VALIDATION_FAILED",
     NOT_HERE.format("JSONPath", "Output", "JSONata"), "/States/Charge"),
    ("JSONPath", f"{ITEM}/Items", [], "SCHEMA_VALIDATION_FAILED",
     NOT_HERE.format("JSONPath", "Items", "JSONata"), "/States/Items"),
    ("JSONata", f"{CHARGE}/Parameters", {}, "SCHEMA_VALIDATION_FAILED",
     NOT_HERE.format("JSONata", "Parameters", "JSONPath"), "/States/Charge"),
    ("JSONata", f"{ITEM}/MaxConcurrencyPath", "$.n", "SCHEMA_VALIDATION_FAILED",
     NOT_HERE.format("JSONata", "MaxConcurrencyPath", "JSONPath"), "/States/Items"),
    ("JSONPath", f"{ITEM}/MaxConcurrency", -1, "SCHEMA_VALIDATION_FAILED",
     "Minimum value is 0", "/States/Items/MaxConcurrency"),
    ("JSONPath", f"{PAID}/Choices/0/Variable", "States.ArrayLength($.a)",
     "SCHEMA_VALIDATION_FAILED",
     "Value is not a Reference Path: Reference path didn't start with '$'",
     "/States/Paid/Choices[0]/Variable"),
    ("JSONPath", f"{CHARGE}/Parameters/Payload/order.$", "order", "SCHEMA_VALIDATION_FAILED",
     "The value for the field 'order.$' must be a valid JSONPath or a valid intrinsic function"
     " call", "/States/Charge/Parameters/Payload"),
    ("JSONPath", f"{CHARGE}/Resource", "arn:aws:states:::aws-sdk:apigatewaymanagementapi:post",
     "SCHEMA_VALIDATION_FAILED",
     "The resource provided arn:aws:states:::aws-sdk:apigatewaymanagementapi:post is not"
     " recognized. The value is not a valid resource ARN, or the resource is not available in this"
     " region.", "/States/Charge/Resource"),
    *(
        ("JSONata", f"{CHARGE}/Output/items", f"{{% {text} %}}", code, words,
         "/States/Charge/Output/items")
        for text, code, words in (
            ("phone[1,2)", "INVALID_JSONATA_EXPRESSION", 'Expected "]", got ","'),
            ('"open', "INVALID_JSONATA_EXPRESSION",
             "String literal must be terminated by a matching quote"),
            ("1 +", "INVALID_JSONATA_EXPRESSION", "Unexpected end of expression"),
            ("", "INVALID_JSONATA_EXPRESSION", "Unexpected end of expression"),
            ('{"a":}', "INVALID_JSONATA_EXPRESSION",
             'The symbol "}" cannot be used as a unary operator'),
            ("$match('a', /abc", "INVALID_JSONATA_EXPRESSION",
             "No terminating / in regular expression"),
            ("phone %.other", "INVALID_JSONATA_EXPRESSION",
             'The symbol "." cannot be used as a unary operator'),
            ("$states.input.a ?? 1", "INVALID_JSONATA_EXPRESSION",
             'The symbol "?" cannot be used as a unary operator'),
            ("$states.input.a ?: 1", "INVALID_JSONATA_EXPRESSION",
             'The symbol ":" cannot be used as a unary operator'),
            ("phone[0]", "UNSUPPORTED_JSONATA_EXPRESSION", TOP.format("phone")),
            ("$.phone", "UNSUPPORTED_JSONATA_EXPRESSION", TOP.format("$")),
            ("$map([1], function($x){ b })", "UNSUPPORTED_JSONATA_EXPRESSION", TOP.format("b")),
            ("$$", "UNSUPPORTED_JSONATA_EXPRESSION", "Reference to '$$' is not supported."),
            ("$states.errorOutput", "UNSUPPORTED_JSONATA_EXPRESSION",
             "Field '$states.errorOutput' does not exist."),
        )
    ),
    *(
        ("JSONata", path, "{% phone %}", "UNSUPPORTED_JSONATA_EXPRESSION", TOP.format("phone"),
         place)
        for path, place in (
            (f"{CHARGE}/Assign/paid", "/States/Charge/Assign/paid"),
            (f"{CHARGE}/Catch/0/Output", "/States/Charge/Catch[0]/Output"),
            (f"{CHARGE}/Arguments/Payload", "/States/Charge/Arguments/Payload"),
            (f"{PAID}/Choices/0/Condition", "/States/Paid/Choices[0]/Condition"),
            (f"{ITEM}/Items", "/States/Items/Items"),
            (f"{ITEM}/ItemProcessor/States/Pack/Output",
             "/States/Items/ItemProcessor/States/Pack/Output"),
            ("States/Later/Timestamp", "/States/Later/Timestamp"),
            ("States/Refuse/Cause", "/States/Refuse/Cause"),
        )
    ),
    ("JSONata", f"{CHARGE}/Output", {"a": {"b": ["{% phone %}"]}},
     "UNSUPPORTED_JSONATA_EXPRESSION", TOP.format("phone"), "/States/Charge/Output/a/b[0]"),
    ("JSONPath", f"{ITEM}/ItemProcessor", {"StartAt": "Paid", "States": {
        "Paid": {"Type": "Pass", "End": True}}},
     "DUPLICATE_STATE_NAME", "Duplicate State name: Paid",
     "/States/Items/ItemProcessor/States/Paid"),
    # what the language's description says; the words are ours
    ("JSONPath", f"{CHARGE}/Next", GONE, "SCHEMA_VALIDATION_FAILED", "'Next' and 'End'",
     "/States/Charge"),
    ("JSONPath", f"{CHARGE}/End", True, "SCHEMA_VALIDATION_FAILED", "'Next' and 'End'",
     "/States/Charge"),
    ("JSONPath", f"{CHARGE}/TimeoutSeconds", 0, "SCHEMA_VALIDATION_FAILED", "Minimum value is 1",
     "/States/Charge/TimeoutSeconds"),
    ("JSONPath", "TimeoutSeconds", 100_000_000, "SCHEMA_VALIDATION_FAILED",
     "Maximum value is 99999999", "/TimeoutSeconds"),
    ("JSONPath", f"{CHARGE}/TimeoutSeconds", "60", "SCHEMA_VALIDATION_FAILED", "[INTEGER]",
     "/States/Charge/TimeoutSeconds"),
    ("JSONPath", f"{CHARGE}/HeartbeatSeconds", 60, "SCHEMA_VALIDATION_FAILED",
     "smaller than 'TimeoutSeconds'", "/States/Charge/HeartbeatSeconds"),
    ("JSONPath", f"{CHARGE}/Retry/1/BackoffRate", 0.5, "SCHEMA_VALIDATION_FAILED",
     "Minimum value is 1", "/States/Charge/Retry[1]/BackoffRate"),
    ("JSONPath", f"{CHARGE}/Retry/0/ErrorEquals", ["States.ALL"], "SCHEMA_VALIDATION_FAILED",
     "States.ALL", "/States/Charge/Retry[0]/ErrorEquals"),
    ("JSONPath", f"{CHARGE}/Catch/0/ErrorEquals", ["States.ALL", "Refused"],
     "SCHEMA_VALIDATION_FAILED", "States.ALL", "/States/Charge/Catch[0]/ErrorEquals"),
    ("JSONPath", f"{CHARGE}/Catch/0/ErrorEquals", GONE, "SCHEMA_VALIDATION_FAILED",
     "These fields are required: [ErrorEquals]", "/States/Charge/Catch[0]"),
    ("JSONPath", f"{PAID}/Choices/0/BooleanEquals", "true", "SCHEMA_VALIDATION_FAILED",
     "[BOOLEAN]", "/States/Paid/Choices[0]/BooleanEquals"),
    ("JSONPath", f"{PAID}/Choices/1/And/0/NumericGreaterThan", "3", "SCHEMA_VALIDATION_FAILED",
     "[NUMBER]", "/States/Paid/Choices[1]/And[0]/NumericGreaterThan"),
    ("JSONPath", f"{PAID}/Choices/1/And/0/NumericGreater", 3, "SCHEMA_VALIDATION_FAILED",
     "Field 'NumericGreater' is not supported", "/States/Paid/Choices[1]/And[0]"),
    ("JSONPath", f"{PAID}/Choices/0/Variable", GONE, "SCHEMA_VALIDATION_FAILED",
     "These fields are required: [Variable]", "/States/Paid/Choices[0]"),
    ("JSONata", f"{PAID}/Choices/0/Condition", GONE, "SCHEMA_VALIDATION_FAILED",
     "These fields are required: [Condition]", "/States/Paid/Choices[0]"),
    ("JSONPath", "States/Later/SecondsPath", "$.n", "SCHEMA_VALIDATION_FAILED", "Exactly one",
     "/States/Later"),
    ("JSONPath", f"{ITEM}/ItemProcessor", GONE, "SCHEMA_VALIDATION_FAILED",
     "These fields are required: [ItemProcessor]", "/States/Items"),
    ("JSONPath", f"{CHARGE}/ResultPath", "$.all[*]", "SCHEMA_VALIDATION_FAILED", "Reference Path",
     "/States/Charge/ResultPath"),
    ("JSONPath", f"{CHARGE}/ResultSelector/id.$", "States.Shout($.id)",
     "SCHEMA_VALIDATION_FAILED", "valid intrinsic function call",
     "/States/Charge/ResultSelector"),
    *(
        ("JSONPath", f"{CHARGE}/Resource", resource, "SCHEMA_VALIDATION_FAILED",
         "is not recognized", "/States/Charge/Resource")
        for resource in (
            "charge",
            "arn:aws:states:::dynamodb:query",
            "arn:aws:states:::sqs:sendMessage.sync",
            "arn:aws:states:::lambda:invoke.sync",
            "arn:aws:states:::aws-sdk:sqs:sendMessages",
            "arn:aws:states:::aws-sdk:sqs:sendMessage.sync",
            "arn:aws:sqs:us-east-1:111122223333:orders",
        )
    ),
]  # fmt: skip

# What AWS takes, and what then fails: (language, what is changed, to what, some of the words)
SAID: list[tuple[str, str, Any, str]] = [
    ("JSONata", f"{CHARGE}/Output/items", "{% $eval('1') %}", "$eval"),
    ("JSONata", f"{CHARGE}/Output/items", "{% $price %}", "'$price'"),
    ("JSONata", f"{CHARGE}/Arguments/Payload", "{% $states.result %}", "'$states.result'"),
    ("JSONata", f"{CHARGE}/Output/items", "{% $states.event %}", "'$states.event'"),
    ("JSONPath", f"{ITEM}/ItemSelector/of.$", "$price.now", "'$price'"),
    ("JSONPath", f"{CHARGE}/Parameters/Payload/a", "$.order.id", "No .$ on a field"),
    ("JSONPath", f"{ITEM}/ItemProcessor/States/Pack/Result", {"a.$": "$.a"}, "result of a pass"),
    ("JSONPath", f"{CHARGE}/Parameters/Functionname", "x", '"Functionname"'),
    ("JSONPath", f"{CHARGE}/Parameters/Function", "x", '"Function"'),
    ("JSONPath", "States/Both/Branches/1/States/Ask/Parameters/tableName", "x", '"tableName"'),
    ("JSONPath", "States/Both/Branches/0/States/Tell/Parameters/MessageBody", "x", "token"),
    ("JSONPath", "States/Later", {"Type": "Wait", "Timestamp": "2026-11-26", "Next": "Both"},
     "seconds and a zone"),
    ("JSONPath", f"{PAID}/End", True, "A Choice goes on by its rules"),
    ("JSONPath", f"{CHARGE}/Retry/0/ErrorEquals", ["States.Timeouts"], "States.Timeouts"),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_valid_definition_is_taken(form: str) -> None:
    assert problems(FORMS[form], models=True) == []
    assert read(json.dumps(FORMS[form]), models=True) == []


@pytest.mark.parametrize(
    ("form", "path", "value", "code", "words", "place"),
    REFUSED,
    ids=[f"{n}-{one[1]}" for n, one in enumerate(REFUSED)],
)
def test_one_change_is_refused_for_its_reason(
    form: str, path: str, value: Any, code: str, words: str, place: str
) -> None:
    found = [one for one in problems(changed(form, path, value), models=True) if one.refused]
    if not code:
        assert [one for one in found if one.code != "MISSING_TRANSITION_TARGET"] == []
        return
    assert any(
        (one.code, one.location) == (code, place) and words in one.message for one in found
    ), found
    # Nothing else is wrong but what follows from it: states that nothing leads to any more.
    others = {one.code for one in found} - {code, "MISSING_TRANSITION_TARGET"}
    assert others <= ({"SCHEMA_VALIDATION_FAILED"} if path == "QueryLanguage" else set()), found


@pytest.mark.parametrize(
    ("form", "path", "value", "words"), SAID, ids=[f"{n}-{one[1]}" for n, one in enumerate(SAID)]
)
def test_one_change_is_taken_and_said(form: str, path: str, value: Any, words: str) -> None:
    found = problems(changed(form, path, value), models=True)
    assert not [one for one in found if one.refused], found
    assert [words in one.message for one in found] == [True], found


def test_a_machine_that_never_ends() -> None:
    """Measured: who is not reached is not said as well, a target that is nowhere is."""
    states = {"A": {"Type": "Pass", "Next": "B"}, "B": {"Type": "Pass", "Next": "A"}}
    states["C"] = {"Type": "Pass", "Next": "Nowhere"}
    assert [str(one) for one in problems({"StartAt": "A", "States": states})] == [
        "MISSING_TRANSITION_TARGET: Missing 'Next' target: Nowhere at /States/C/Next",
        "MISSING_END_STATE: Workflow has no terminal state at null",
    ]
    inner = {"Type": "Map", "ItemProcessor": {"StartAt": "A", "States": states}, "End": True}
    del states["C"]
    assert problems({"StartAt": "Items", "States": {"Items": inner}}) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "SCHEMA_VALIDATION_FAILED: Definition must be a valid JSON object at null"),
        ("[]", "SCHEMA_VALIDATION_FAILED: Definition must be a valid JSON object at null"),
        ("{}", "SCHEMA_VALIDATION_FAILED: These fields are required: [States, StartAt] at /"),
    ],
)
def test_what_is_no_definition(text: str, said: str) -> None:
    assert [str(one) for one in read(text)] == [said]


def test_errors_of_the_language_are_known_and_those_that_a_fail_raises() -> None:
    for name in ("States.Http.StatusCode.503", "States.HeartbeatTimeout", "Refused"):
        assert problems(changed("JSONPath", f"{CHARGE}/Retry/0/ErrorEquals", [name])) == []
    mine = changed("JSONPath", f"{CHARGE}/Retry/0/ErrorEquals", ["States.OutOfStock"])
    assert [one.refused for one in problems(mine)] == [False]
    mine["States"]["Refuse"]["Error"] = "States.OutOfStock"
    assert problems(mine) == []


def test_what_is_no_json() -> None:
    assert [one.code for one in read("not a definition")] == ["INVALID_JSON_DESCRIPTION"]


@pytest.mark.parametrize(
    ("resource", "lacks"),
    [
        ("arn:aws:states:::sqs:sendMessage.waitForTaskToken", "'.waitForTaskToken' service inte"),
        ("arn:aws:states:::states:startExecution.sync:2", "'.sync' service integration"),
        ("arn:aws:states:us-east-1:111122223333:activity:pack", "Activity ARN"),
    ],
)
def test_what_express_lacks(resource: str, lacks: str) -> None:
    task = {"Type": "Task", "Resource": resource, "End": True}
    definition = {"StartAt": "Job", "States": {"Job": task}}
    (found,) = [one for one in problems(definition, express=True) if one.refused]
    assert found.message.startswith(f"Express state machine does not support {lacks}")
    assert found.location == "/States/Job/Resource"
    assert not [one for one in problems(definition) if one.refused]
    mode = {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS"}
    items = {"Type": "Map", "ItemProcessor": definition | {"ProcessorConfig": mode}, "End": True}
    (found,) = [one for one in problems({"StartAt": "M", "States": {"M": items}}) if one.refused]
    assert found.location == "/States/M/ItemProcessor/States/Job/Resource"


def test_references_hide_what_they_stand_for() -> None:
    """As the CDK writes definitions; what is around a reference is read all the same."""
    text = json.dumps(JSONPATH).replace("arn:aws:states", "arn:${AWS::Partition}:states")
    assert read(text.replace('"charge"', '"${Charge.Arn}"'), models=True) == []
    broken = text.replace(":::lambda:invoke", ":::lambda:invokes")
    assert [one.location for one in read(broken)] == ["/States/Charge/Resource"]
    hidden = text.replace(LAMBDA.replace("aws", "${AWS::Partition}"), "${Charge.Arn}")
    assert read(hidden, models=True) == []
    assert problems(changed("JSONPath", "QueryLanguage", "${Language}"), models=True) == []
    expression = "{% $states.input.n > ${Least} and '${Queue.Arn}' != $states.input.arn %}"
    assert problems(changed("JSONata", f"{PAID}/Choices/0/Condition", expression)) == []


def test_without_jsonata_python_expressions_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _definitions._jsonata.read.cache_clear()
    monkeypatch.setattr(_definitions._jsonata, "Parser", None)
    broken = changed("JSONata", f"{CHARGE}/Output/items", "{% broken( %}")
    assert problems(broken) == []
    _definitions._jsonata.read.cache_clear()


def test_a_distributed_map_sees_no_variable_from_outside() -> None:
    inner = changed("JSONata", f"{ITEM}/ItemProcessor/States/Pack/Output", "{% $paid %}")
    assert problems(inner) == []
    mode = {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}
    inner["States"]["Items"]["ItemProcessor"]["ProcessorConfig"] = mode
    assert [one.message for one in problems(inner)] == ["No state assigns the variable '$paid'"]


def test_names_are_at_most_80_characters() -> None:
    def named(name: str) -> dict[str, Any]:
        return {"StartAt": name, "States": {name: {"Type": "Succeed"}}}

    assert problems(named("x" * 80)) == []
    assert [one.code for one in problems(named("x" * 81))] == ["INVALID_STATE_NAME"]


def test_optimized_calls() -> None:
    """Each action with each of its waits is known, and no other."""
    for service, actions in _calls.OPTIMIZED.items():
        for action, waits in actions.items():
            for wait in ("", "sync", "sync:2", "waitForTaskToken"):
                name = f"arn:aws-cn:states:::{service}:{action}{'.' if wait else ''}{wait}"
                call = _calls.call(name)
                assert call == _calls.Call("optimized", service, action, wait)
                assert _calls.exists(call, False) == (wait in ("", *waits)), name


# ---- generated


def generated(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    """A valid container: a chain of states of any type, with shortcuts forward."""
    count = chance.randint(1, 4)
    mine = [f"S{len(names) + n}" for n in range(count)]
    names.extend(mine)
    states: dict[str, Any] = {}
    for index, name in enumerate(mine):
        later = mine[index + 1 :]
        kinds = ["Task", "Pass", "Wait"] + (["Map", "Parallel"] if depth else [])
        kind = chance.choice([*kinds, "Choice"]) if later else chance.choice([*kinds, "Succeed"])
        state: dict[str, Any] = {"Type": kind}
        match kind:
            case "Task":
                state |= {"Resource": LAMBDA, "Parameters": {"FunctionName": "f", "a.$": "$.a"}}
                state["Parameters"].pop("a.$")
                state["Catch"] = [{"ErrorEquals": ["States.ALL"], "Next": one} for one in later[:1]]
                state["TimeoutSeconds"] = chance.randint(1, 99999999)
            case "Wait":
                state |= chance.choice([{"Seconds": chance.randint(0, 9)}, {"SecondsPath": "$.n"}])
            case "Map":
                state["ItemProcessor"] = generated(chance, depth - 1, names)
            case "Parallel":
                state["Branches"] = [generated(chance, depth - 1, names) for _ in range(2)]
            case "Choice":
                rule = {"Variable": "$.n", "NumericEquals": chance.random(), "Next": later[-1]}
                state |= {"Choices": [rule], "Default": later[0]}
        if kind not in ("Choice", "Succeed"):
            state |= {"Next": later[0]} if later else {"End": True}
        states[name] = state
    return {"StartAt": mine[0], "States": states}


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_generated_definitions_are_taken_and_with_one_state_less_are_not(seed: int) -> None:
    chance = random.Random(seed)
    definition = generated(chance, 2, [])
    assert problems(definition, models=True) == []
    places = list(_definitions.states_in(definition))
    where, name, _ = chance.choice(places)
    at: Any = definition
    for step in where.removesuffix(f"/States/{name}").split("/")[1:]:
        key, _, index = step.partition("[")
        at = at[key][int(index[:-1])] if index else at[key]
    del at["States"][name]
    assert [one for one in problems(definition) if one.refused]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), form=st.sampled_from(sorted(FORMS)))
def test_nothing_crashes_on_a_broken_definition(seed: int, form: str) -> None:
    chance = random.Random(seed)
    odd: list[Any] = [None, True, -1, 7.5, "", "${", "$", "{% a", [], {}, [{}], [None], {"": {}}]
    definition = copy.deepcopy(FORMS[form])

    def spoil(value: Any) -> Any:
        if chance.random() < 0.05:
            return copy.deepcopy(chance.choice(odd))
        if isinstance(value, dict):
            return {key: spoil(one) for key, one in value.items()}
        return [spoil(one) for one in value] if isinstance(value, list) else value

    for one in problems(spoil(definition), chance.random() < 0.5, True):
        assert isinstance(one, Problem) and str(one)
