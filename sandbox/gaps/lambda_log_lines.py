"""All that a Python function logs, however busy the machine is.

Seen in MiniStack 1.5.33: a call's lines are collected for at most 250 ms after it, and no longer
than 5 ms after the last one. On a loaded machine the rest comes with another call of the same
worker or, if that was its last, never. Here the worker says when it has written all, and the log
of one that died is read to its end.
"""

import queue
import time

from ministack.core import lambda_runtime

PATCHES = (
    "core.lambda_runtime._PYTHON_WORKER_SCRIPT",
    "core.lambda_runtime.Worker",
)

END = "gaps.lambda_log_lines"
STOCK = "        _real_stdout.flush()\n\nrun()\n"
OURS = f'        print("{END}", file=sys.stderr, flush=True)\n{STOCK}'


def close() -> None:
    """Let the worker end each call's log with a mark, and wait for the mark."""
    if lambda_runtime._PYTHON_WORKER_SCRIPT.count(STOCK) != 1:
        raise SystemExit("MiniStack's Python worker ends a call in another way: lambda_log_lines")
    lambda_runtime._PYTHON_WORKER_SCRIPT = lambda_runtime._PYTHON_WORKER_SCRIPT.replace(STOCK, OURS)
    stock = lambda_runtime.Worker._drain_stderr_bounded

    def drain(self: lambda_runtime.Worker, *limits: float, **named: float) -> str:
        if not str(self.config.get("Runtime", "")).startswith("python"):
            return stock(self, *limits, **named)
        if self._proc is None:  # dead: its log ends by itself
            if self._stderr_thread:
                self._stderr_thread.join(2)
            return self._drain_stderr()
        lines, deadline = [], time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                line = self._stderr_queue.get(timeout=1)
            except queue.Empty:
                continue
            if line == END:
                break
            lines.append(line)
        return "\n".join(lines)

    lambda_runtime.Worker._drain_stderr_bounded = drain
