"""One line for each event on stderr, from both halves. Writing a line never blocks.

    info("started", "started {command} pid={main_pid}", command="uwsgi", main_pid=12)

An event has a name of log_events.py, fields, and a sentence with fields in it; docs/logs.md describes both formats of a
line. In the text format, the fields that the sentence does not contain follow it. The exception: the fields of an
error (`errors.py: Fault`) are in the error's own sentence already. Characters that are not printable are escaped.

A log driver that stops reading fills the pipe; a PID 1 that blocks in write(2) would then handle no signal. poll(2)
does not help: the service writes to the same pipe, and a terminal takes less than poll(2) promises. So each write is
one that does not wait, and a line has at most PIPE_BUF bytes, which pipe(7) promises to write completely or not at
all. Lines that do not fit are counted, and the next line that fits has their number.
"""

from __future__ import annotations

import _stat as stat  # not `stat`: its import costs every container start 0.1 ms
import posix  # not `os`: its import costs every container start 1 ms
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.errors import SvcinitError
    from svcinit.log_events import EventName

    Field = str | int | float | None
    Fields = Mapping[str, Field]
    # when, level, pid, context, event, sentence, fields, names of the fields that are in the sentence of the error
    Entry = tuple[float, int, int, Fields, EventName, str, Fields, list[str]]

LEVELS = ("debug", "info", "warning", "error")
PIPE_BUF = 4096  # bytes, of Linux
INTERNAL = "internal error, {error} at {file}:{line}, {function}"
STDERR = 2
CUT = "..."
MESSAGE = 300  # characters of each field in these
RECENT = 3  # lines that are kept for the state files

_threshold = 1
_json = False
_dropped = 0
_torn = False  # the end of the last line was cut off
_context: dict[str, Field] = {"role": "init"}
_held: list[Entry] | None = None
_recent: list[Entry] = []


def configure(level: str, fmt: str, **fields: Field) -> None:
    """Set the least level that is written (one of LEVELS), the format (`text` or `json`), and the context."""
    global _threshold, _json
    _threshold = LEVELS.index(level)
    _json = fmt == "json"
    context(**fields)


def context(**fields: Field) -> None:
    """Set fields of all further lines of this process and of its children; None removes a field."""
    _context.update(fields)


def debug(event: EventName, sentence: str, **fields: object) -> None:
    _event(0, event, sentence, fields)


def info(event: EventName, sentence: str, **fields: object) -> None:
    _event(1, event, sentence, fields)


def warning(event: EventName, sentence: str, **fields: object) -> None:
    _event(2, event, sentence, fields)


def error(event: EventName, sentence: str, **fields: object) -> None:
    _event(3, event, sentence, fields)


def faults(found: SvcinitError) -> None:
    """An error that was raised on purpose: one line for each fault."""
    for fault in found.faults:
        _event(3, "fault", "{error}", {"error": fault})


def internal(where: str, found: Exception) -> None:
    """A bug in svcinit."""
    _event(3, "internal_error", "{where}: " + INTERNAL, {"where": where, **origin(found)})


def origin(found: BaseException) -> dict[str, object]:
    """The fields of INTERNAL: the kind of the exception and its place, and no value of a variable."""
    last = found.__traceback__
    assert last
    while last.tb_next:  # not `traceback`: without a free descriptor nothing can be imported
        last = last.tb_next
    code = last.tb_frame.f_code
    place = {"file": code.co_filename.rpartition("/")[2], "line": last.tb_lineno, "function": code.co_name}
    return {"error": type(found).__name__, **place}


def hold() -> None:
    """Hold lines back until it is known to which reload they belong."""
    global _held
    _held = []


def held() -> list[Entry]:
    """The entries that were held back; further lines are written again."""
    global _held
    found, _held = _held or [], None
    return found


def replay(entries: list[Entry]) -> None:
    """Write the entries that another process held back, as part of the reload that runs here, if any."""
    try:
        for when, level, pid, fields, event, sentence, own, named in entries:
            _put((when, level, pid, {**fields, "reload": _context.get("reload")}, event, sentence, own, named))
    except (TypeError, ValueError, LookupError, AttributeError):  # a killed child can leave wrong entries
        return


def recent() -> list[dict[str, object]]:
    """The last lines of this process: when (seconds since the epoch), the level, and the message."""
    return [
        {"time": entry[0], "level": LEVELS[entry[1]], "pid": entry[2], "message": _text(entry)} for entry in _recent
    ]


def _event(level: int, event: EventName, sentence: str, fields: Mapping[str, object]) -> None:
    if level < _threshold:
        return
    named: Mapping[str, object] = getattr(fields.get("error"), "fields", {})
    fields = {**named, **fields}
    plain = {name: value if isinstance(value, int | float | None) else str(value) for name, value in fields.items()}
    entry = time.time(), level, posix.getpid(), dict(_context), event, sentence, plain, list(named)
    if _held is None:
        _put(entry)
    else:
        _held.append(entry)


def _put(entry: Entry) -> None:
    global _dropped
    _recent.append(entry)
    del _recent[:-RECENT]
    try:
        written = _write(_line(entry))
    except (ImportError, OSError):  # no descriptor is left for an import
        written = False
    _dropped = 0 if written else _dropped + 1


def _line(entry: Entry) -> bytes:
    """The line as it is written. Long texts in it are cut, so that it has at most PIPE_BUF bytes."""
    limit = PIPE_BUF
    line = _form(entry, limit)
    while len(line) >= PIPE_BUF and limit:
        limit //= 2
        line = _form(entry, limit)
    return line + b"\n"


def _form(entry: Entry, limit: int) -> bytes:
    when, level, pid, common, event, sentence, own, named = entry
    own = {"reload": common.get("reload"), **own, "lines_dropped": _dropped or None}
    given = {name: value for name, value in {**common, **own}.items() if value is not None}
    shown = {name: _shown(value, limit) for name, value in given.items()}
    if any(isinstance(value, str) and len(value) > limit for value in given.values()):
        shown["cut"] = own["cut"] = True
    values = _Values({**dict.fromkeys(own, "-"), **shown})
    message = sentence.format_map(values)
    if _json:
        import json  # only SVCINIT_LOG_FORMAT=json pays for the import

        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when)) + f".{int(when % 1 * 1000):03}Z"
        record = {"time": stamp, "level": LEVELS[level], "pid": pid, "event": event, "message": message, **shown}
        if len(values.used) == 1 and shown.get(values.used[0]) == message:
            del record[values.used[0]]  # the message is this field
        return json.dumps(record).encode()
    mark = "" if level == 1 else f"{LEVELS[level]}: "
    rest = [name for name in own if name in shown and name not in named and name not in values.used]
    return f"svcinit: {mark}{message}{''.join(f' {name}={_word(shown[name])}' for name in rest)}".encode()


class _Values(dict[str, object]):
    """The fields of a line; `used`: those that its sentence contains."""

    def __init__(self, values: Mapping[str, object]) -> None:
        super().__init__(values)
        self.used: list[str] = []

    def __getitem__(self, name: str) -> object:
        self.used.append(name)
        return super().__getitem__(name)


def _text(entry: Entry) -> str:
    """The message alone, as `_form` makes it."""
    _, _, _, common, _, sentence, own, _ = entry
    given = {name: _shown(value, MESSAGE) for name, value in {**common, **own}.items() if value is not None}
    return sentence.format_map({**dict.fromkeys(own, "-"), **dict.fromkeys(common, "-"), **given})


def _shown(value: Field, limit: int) -> Field:
    """A number as it is; a text printable, and not too long: its beginning and its end, where errors have the cause."""
    if isinstance(value, float):
        return round(value, 3)
    if not isinstance(value, str):
        return value
    return printable(value if len(value) <= limit else f"{value[: limit // 2]}{CUT}{value[len(value) - limit // 2 :]}")


def printable(text: str) -> str:
    """The text on one line, without control characters: output of other programs must not control a terminal."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _word(value: Field) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}" if not text or " " in text else text


def _write(line: bytes) -> bool:
    """True if the whole text was written. If its end was cut off, the next line begins with a line end."""
    global _torn
    whole = b"\n" + line if _torn else line
    try:
        sent = _send(whole)
    except OSError:  # no room, closed, or its reader is gone
        return False
    if sent:
        _torn = sent < len(whole)
    return sent >= len(whole) - 1


def _send(data: bytes) -> int:
    """Write what fits now; return the number of bytes.

    O_NONBLOCK is never set on fd 2: the service shares this open file description (open(2)) and would get EAGAIN.
    """
    kind = stat.S_IFMT(posix.fstat(STDERR).st_mode)
    if kind == stat.S_IFREG:
        return posix.write(STDERR, data)
    if kind == stat.S_IFSOCK:
        return _send_to_socket(data)
    try:
        return posix.pwritev(STDERR, (data,), -1, posix.RWF_NOWAIT)
    except BlockingIOError:
        raise
    except (OSError, AttributeError, NotImplementedError):
        pass  # a terminal, a named pipe, any pipe before Linux 6.4, a libc without pwritev2(2)
    try:
        own = _reopen()
    except OSError:
        if kind == stat.S_IFIFO:
            return _splice(data)
        raise
    try:
        return posix.write(own, data)
    finally:
        posix.close(own)


def _reopen() -> int:
    """Open the file of stderr again, without waiting."""
    flags = posix.O_WRONLY | posix.O_NONBLOCK | posix.O_NOCTTY
    try:
        return posix.open(f"/proc/self/fd/{STDERR}", flags)
    except OSError:
        posix.tcgetpgrp(STDERR)  # fails unless stderr is our controlling terminal: then /dev/tty is the same
        return posix.open("/dev/tty", flags)  # every user may open this one


def _splice(data: bytes) -> int:
    """Write to a pipe that we may not open. Each call uses a page of the pipe, so bursts fill it soon."""
    reading, writing = posix.pipe()
    try:
        posix.write(writing, data)
        return posix.splice(reading, STDERR, len(data), flags=posix.SPLICE_F_NONBLOCK)
    finally:
        posix.close(reading)
        posix.close(writing)


def _send_to_socket(data: bytes) -> int:
    import _socket  # the C module under `socket`

    channel = _socket.socket(fileno=STDERR)
    try:
        return channel.send(data, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
    finally:
        channel.detach()  # keeps the descriptor open
