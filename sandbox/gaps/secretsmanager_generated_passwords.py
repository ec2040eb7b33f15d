"""GenerateSecretString of a secret in a template.

Seen in MiniStack 1.5.33: of its rules only the length and the excluded characters are kept, so a
password that must have no punctuation has it. Here the API's own GetRandomPassword, which keeps
them all, makes the password.
"""

import json

from ministack.services import secretsmanager
from ministack.services.cloudformation import provisioners

PATCHES = (
    "services.secretsmanager._get_random_password",
    "services.cloudformation.provisioners._sm_secret_string",
)

RULES = (
    "PasswordLength",
    "ExcludeCharacters",
    "ExcludeNumbers",
    "ExcludePunctuation",
    "ExcludeUppercase",
    "ExcludeLowercase",
    "IncludeSpace",
    "RequireEachIncludedType",
)


def close() -> None:
    """Generate by the API's rules, into the template's string if there is one."""
    plain = provisioners._sm_secret_string

    def secret_string(properties: dict) -> str:
        rules = properties.get("GenerateSecretString")
        if not rules or properties.get("SecretString"):
            return plain(properties)
        request = {name: rules[name] for name in RULES if name in rules}
        for name, value in request.items():
            if name == "PasswordLength":
                request[name] = int(value)
            elif name != "ExcludeCharacters":
                request[name] = provisioners._cfn_bool(value)
        status, _, body = secretsmanager._get_random_password(request)
        if status >= 400:
            raise ValueError(body.decode())
        password = json.loads(body)["RandomPassword"]
        if "SecretStringTemplate" not in rules:
            return password
        return json.dumps(
            {**json.loads(rules["SecretStringTemplate"]), rules["GenerateStringKey"]: password}
        )

    provisioners._sm_secret_string = secret_string
