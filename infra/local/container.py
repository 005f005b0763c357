"""What runs in a function's process: imports the handler as Lambda does, takes events from a pipe, answers results.

Started by path, not imported: nothing but the standard library may load before the handler does, so that its imports
cost and shadow what they would in Lambda. Frames on the pipes: 4 bytes of length, then JSON.
"""

import importlib
import json
import os
import signal
import struct
import sys
import time
import traceback
from typing import Any, BinaryIO


class Context:
    """What a handler reads of Lambda's context object."""

    function_version = "$LATEST"
    client_context = None
    identity = None

    def __init__(self, request: dict[str, Any], function: dict[str, Any]) -> None:
        self.aws_request_id: str = request["id"]
        self.function_name: str = function["name"]
        self.invoked_function_arn: str = function["arn"]
        self.memory_limit_in_mb: int = function["memory_mb"]
        self.log_group_name = f"/aws/lambda/{self.function_name}"
        self.log_stream_name = f"local/{os.getpid()}"
        self._deadline = time.monotonic() + function["timeout_seconds"]

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is ended."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def read_frame(stream: BinaryIO) -> Any:
    """Return the next frame, or None at the end."""
    head = stream.read(4)
    if len(head) < 4:  # noqa: PLR2004
        return None
    return json.loads(stream.read(struct.unpack(">I", head)[0]))


def write_frame(stream: BinaryIO, value: object) -> None:
    """Write a frame."""
    body = json.dumps(value).encode()
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def _failure(error: BaseException) -> dict[str, Any]:
    # In the form of Lambda's own answer for a function error.
    trace = traceback.format_exception(error)
    print("".join(trace), file=sys.stderr, flush=True)
    return {"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": trace}


def main() -> None:
    """Import the handler, say so, and serve invocations until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runtime ends us, after what is running has ended
    events = os.fdopen(os.dup(0), "rb")
    results = os.fdopen(os.dup(1), "wb")
    # What the handler reads is empty, and what it prints are logs.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    function = read_frame(events)
    sys.path[:0] = function["path"]
    module, _, name = function["handler"].rpartition(".")
    began = time.monotonic()
    try:
        handler = getattr(importlib.import_module(module), name)
    except BaseException as error:  # noqa: BLE001 -- whatever it is, the runtime tells it
        write_frame(results, {"error": _failure(error)})
        return
    write_frame(results, {"ready_after": time.monotonic() - began})

    while (request := read_frame(events)) is not None:
        try:
            answer = {"result": handler(request["event"], Context(request, function))}
            json.dumps(answer)
        except Exception as error:  # noqa: BLE001 -- as Lambda: the invocation fails, the container stays
            answer = {"error": _failure(error)}
        write_frame(results, answer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Lambda's containers vanish too; what is open here needs no farewell


if __name__ == "__main__":
    main()
