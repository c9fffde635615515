"""One line an event on stderr, from either half, that can never hold its writer up.

A log driver that stops reading fills the pipe; a PID 1 blocked on write(2) would then be deaf to signals. So
a line goes out only when poll(2) says that the pipe takes it, and is at most PIPE_BUF long, which pipe(7)
promises to write whole and at once. What does not fit is counted and reported with the next line that does.
"""

from __future__ import annotations

import os
import select
import time

LEVELS = ("debug", "info", "warning", "error")
PIPE_BUF = select.PIPE_BUF
STDERR = 2

_threshold = 1
_json = False
_dropped = 0


def configure(level: str, fmt: str) -> None:
    """Set the least level that is written (one of LEVELS) and the format (`text` or `json`)."""
    global _threshold, _json
    _threshold = LEVELS.index(level)
    _json = fmt == "json"


def debug(message: str, **fields: object) -> None:
    _event(0, message, fields)


def info(message: str, **fields: object) -> None:
    _event(1, message, fields)


def warning(message: str, **fields: object) -> None:
    _event(2, message, fields)


def error(message: str, **fields: object) -> None:
    _event(3, message, fields)


def fault(where: str, error: Exception) -> None:
    _event(3, f"{where}: {internal(error)}", {})


def internal(error: BaseException) -> str:
    """A fault of svcinit's own: what and where, never a value."""
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(last.filename)}:{last.lineno}, {last.name}"
    return f"internal error, {type(error).__name__} at {place}"


def _event(level: int, message: str, fields: dict[str, object]) -> None:
    global _dropped
    if level < _threshold:
        return
    if _dropped:
        fields = {**fields, "lines_dropped": _dropped}
    if _write(_line(level, message, fields)):
        _dropped = 0
    else:
        _dropped += 1


def _line(level: int, message: str, fields: dict[str, object]) -> bytes:
    if _json:
        import json  # only who asks for JSON pays for it

        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
        record = {"time": stamp, "level": LEVELS[level], "pid": os.getpid(), "message": message, **fields}
        return json.dumps(record, default=str).encode()
    extra = "".join(f" {name}={_text(value)}" for name, value in fields.items())
    mark = "" if level == 1 else f"{LEVELS[level]}: "
    text = f"svcinit: {mark}{message}{extra}"
    return text.replace("\r", "\\r").replace("\n", "\\n").encode("utf-8", "backslashreplace")


def _text(value: object) -> str:
    text = str(value)
    return repr(text) if not text or " " in text or "\n" in text else text


def _write(line: bytes) -> bool:
    line = line[: PIPE_BUF - 1] + b"\n"
    try:
        poll = select.poll()
        poll.register(STDERR, select.POLLOUT)
        ready = poll.poll(0)
        if not ready or not ready[0][1] & select.POLLOUT:
            return False
        os.write(STDERR, line)
    except OSError:  # stderr is closed, or its reader is gone: nobody is there to be told
        return False
    return True
