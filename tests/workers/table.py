"""DynamoDB as far as the programs ask it, with faults."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

# What a table may do instead of answering; none of it is the order's fault.
FAULTS = "hangs", "hangs up", "is late", "fails", "throttles", "refuses", "is not there", "a page"


class Table(ThreadingHTTPServer):
    """DynamoDB's PutItem of one table, and the faults that it answers with first."""

    daemon_threads = True

    def __init__(self, *faults: str) -> None:
        super().__init__(("127.0.0.1", 0), TableHandler)
        self.faults, self.rows = list(faults), {}
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def put(self, item: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            kept = self.rows.setdefault(item["order_id"]["S"], item)
        return (200, {}) if kept is item else (400, {"__type": CHECK_FAILED, "Item": kept})


CHECK_FAILED = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"
ERRORS = {
    "fails": (500, "InternalServerError"),
    "throttles": (400, "ThrottlingException"),
    "refuses": (400, "AccessDeniedException"),
    "is not there": (400, "ResourceNotFoundException"),
    "rejects": (400, "ValidationException"),
}


class TableHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        table = cast(Table, self.server)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with table.lock:
            fault = table.faults.pop(0) if table.faults else ""
        if fault == "hangs":
            time.sleep(30)
        if fault in ("hangs", "hangs up"):
            return
        status, answer = table.put(asked["Item"]) if fault in ("", "is late") else (0, {})
        if fault == "is late":  # what was asked for is done, and the answer is lost
            return
        if not status:
            status, code = ERRORS.get(fault, (503, ""))
            answer = {"__type": code, "message": fault}
        body = json.dumps(answer).encode() if status != 503 else b"<html>Busy</html>"
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
