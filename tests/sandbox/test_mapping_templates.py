"""What mapping templates come to; they run where the server runs, in one process for all."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
RENDER = """
import json, sys
sys.path.insert(0, "sandbox")
import mapping_templates
for line in sys.stdin:
    template, body, context = json.loads(line)
    context = mapping_templates.velocity(context)
    params = {"path": {"id": "7"}, "querystring": {"id": "8", "q": "a b"}, "header": {"x-one": "1"}}
    try:
        made = mapping_templates.render(template, body, params, context, {"table": "orders"})
    except mapping_templates.InvalidBody:
        made = None
    print(json.dumps([made, context]))
"""
JSON = '{"a":1,"b":[{"c":5}],"text":"it\'s \\"so\\"","none":null,"yes":true}'

# Template, body, text. What an object prints as and what an empty body is were recorded on AWS.
CASES = {
    "an object prints as in Java, its lists as JSON": (
        "$input.path('$')",
        '{"a": 1, "b": [{"c": 5}]}',
        '{a=1, b=[{"c":5}]}',
    ),
    "a list prints as JSON": ("$input.path('$').b", '{"b": [{"c": 5}]}', '[{"c":5}]'),
    "a string is JSON too": ("$input.json('$.text')", JSON, '"it\'s \\"so\\""'),
    "escaped for JavaScript": (
        "$util.escapeJavaScript($input.json('$.message'))",
        '{"message": "foobar"}',
        '\\"foobar\\"',
    ),
    "single quotes are escaped": (
        "$util.escapeJavaScript($input.path('$.text'))",
        JSON,
        'it\\\'s \\"so\\"',
    ),
    "an empty body is an object": ("$input.body $input.json('$')", "", "{} {}"),
    "nothing at a path": ("[$input.path('$.no')] $input.json('$.no')", JSON, '[] ""'),
    "text that is no JSON is a string": ("$input.json('$')", "hello", '"hello"'),
    "the path wins over the query string": (
        "$input.params('id') $input.params('q') $input.params('X-One') $input.params('no')",
        "",
        "7 a b 1 ",
    ),
    "all parameters": (
        "#foreach($n in $input.params().querystring.keySet())$n#if($foreach.hasNext),#end#end",
        "",
        "id,q",
    ),
    "encoded for a form": (
        "$util.urlEncode('x=a+b') $util.urlDecode('x=a+b')",
        "",
        "x%3Da%2Bb x=a b",
    ),
    "Base64": ("$util.base64Encode('ab') $util.base64Decode('YWI=')", "", "YWI= ab"),
    "JSON in a string": ('$util.parseJson(\'{"a": {"b": [1, 2]}}\').a.b[1]', "", "2"),
    "stage variables and context": ("$stageVariables.table $context.stage", "", "orders prod"),
    "what is not there is false": ("#if($no)a#end#if(!$no)b#end#if($no.no)c#end", "", "b"),
    "a getter is a property": ("#set($s = 'x')#if($s && !$s.empty)full#end", "", "full"),
    "expressions of Java": (
        r"""#set($s = "it\'s")$s.replaceAll("\\'","'") $s.length() $s.substring(0,2)""",
        "",
        "it's 5 it",
    ),
    "a list's methods": ("#set($l = $input.path('$.b'))$l.size() $l.get(0).c", JSON, "1 5"),
}


def render(*given: tuple[str, str, dict[str, Any]]) -> list[list[Any]]:
    """[text or None, context afterwards] of each (template, body, context)."""
    made = subprocess.run(
        [ROOT / ".sandbox/venv/bin/python", "-c", RENDER],
        input="\n".join(map(json.dumps, given)),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return [json.loads(line) for line in made.stdout.splitlines()]


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    answers = render(*((text, body, {"stage": "prod"}) for text, body, _ in CASES.values()))
    return dict(zip(CASES, (answer[0] for answer in answers), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_template_comes_to(case: str, rendered: dict[str, str]) -> None:
    assert rendered[case] == CASES[case][2]


def test_overrides_stay_in_the_context() -> None:
    template = (
        "#set($context.responseOverride.status = 404)#set($context.responseOverride.header.X = 'y')"
    )
    ((text, context),) = render((template, "", {"responseOverride": {"header": {}}}))
    assert (text, context) == ("", {"responseOverride": {"header": {"X": "y"}, "status": 404}})


def test_broken_json_is_no_body() -> None:
    assert render(("$input.json('$')", "{no", {}), ("$input.body", "{no", {})) == [
        [None, {}],
        ["{no", {}],
    ]


def cdk_templates() -> dict[str, Any]:
    """The integration that the CDK makes for an Express workflow, with all it can pass on."""
    from aws_cdk import App, Stack
    from aws_cdk import aws_apigateway as apigateway
    from aws_cdk import aws_stepfunctions as sfn
    from aws_cdk.assertions import Template

    stack = Stack(App(), "S")
    passes = sfn.DefinitionBody.from_chainable(sfn.Pass(stack, "Pass"))
    express = sfn.StateMachineType.EXPRESS
    machine = sfn.StateMachine(stack, "Machine", definition_body=passes, state_machine_type=express)
    api = apigateway.RestApi(stack, "Api")
    api.root.add_method(
        "POST",
        apigateway.StepFunctionsIntegration.start_execution(
            machine,
            headers=True,
            request_context=apigateway.RequestContext(http_method=True, stage=True),
        ),
    )
    (method,) = Template.from_stack(stack).find_resources("AWS::ApiGateway::Method").values()
    return method["Properties"]["Integration"]


def test_the_cdks_own_templates_come_to_json() -> None:
    integration = cdk_templates()
    template = integration["RequestTemplates"]["application/json"]
    parts = template["Fn::Join"][1]
    start = "".join(part if isinstance(part, str) else "arn:machine" for part in parts)
    responses = {one["StatusCode"]: one for one in integration["IntegrationResponses"]}
    told = responses["200"]["ResponseTemplates"]["application/json"]
    context = {"httpMethod": "POST", "stage": "prod", "responseOverride": {"header": {}}}
    failed = '{"status": "FAILED", "error": "Out", "cause": "of stock"}'
    made = render(
        (start, '{"text": "it\'s \\"so\\""}', context),
        (told, '{"status": "SUCCEEDED", "output": "{\\"a\\":1}"}', context),
        (told, failed, context),
        (told, '{"status": "TIMED_OUT"}', context),
    )
    (sent, _), (passed, _), (broke, overridden), (late, _) = made
    given = json.loads(sent)
    assert given["stateMachineArn"] == "arn:machine"
    assert json.loads(given["input"]) == {
        "body": {"text": 'it\'s "so"'},
        "header": {"x-one": "1"},
        "path": {"id": "7"},
        "querystring": {"id": "8", "q": "a b"},
        "requestContext": {"httpMethod": "POST", "stage": "prod"},
    }
    assert json.loads(passed) == {"a": 1}
    assert json.loads(broke) == {"error": "Out", "cause": "of stock"}
    assert overridden["responseOverride"]["status"] == 500
    assert late.strip() == ""
