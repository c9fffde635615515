"""Standard output and standard error of svcinitctl.

Texts from KV, from the catalog and from other programs can contain control characters, and must not control a terminal.
So each text for people passes `shown`. Only `raw` and `content` leave it out.
"""

from __future__ import annotations

import errno
import os
import sys

from svcinit.log import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

DUMB = "dumb", "unknown"  # as rich takes TERM
KEPT = "\n", "\t"
GONE = errno.EPIPE, errno.EIO  # a pipe without a reader, a terminal that was closed


def is_terminal() -> bool:
    """Can lines on standard output be rewritten? Not on one that knows no control sequences, as in an editor."""
    return bool(sys.stdout) and sys.stdout.isatty() and os.environ.get("TERM") not in DUMB


def shown(text: str) -> str:
    """The text with its control characters escaped, as `\\x1b`; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(each if each in KEPT else printable(each) for each in text)


def put(*texts: str) -> bool:
    """Write texts for people, and everything that was printed before. False: the reader is gone."""
    return raw(*map(shown, texts))


def content(*texts: str) -> None:
    """Write contents and names of files: as they are, unless standard output is a terminal."""
    (put if sys.stdout and sys.stdout.isatty() else raw)(*texts)


def raw(*texts: str) -> bool:
    """Write texts as they are. A reader that is gone is no error: the output is dropped, and the result is False."""
    if not sys.stdout:  # it was closed
        return False
    try:
        sys.stdout.flush()
        for text in texts:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in GONE:
            raise
        drop()
        return False
    return True


def drop(stream: TextIO | None = None) -> None:
    """Drop what could not be written to the stream, by default standard output, and all that follows."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), (stream or sys.stdout).fileno())


def complain(*lines: str) -> None:
    """Write lines to standard error. A reader that is gone is no error."""
    if not sys.stderr:
        return
    try:
        sys.stderr.write("".join(f"{shown(str(line))}\n" for line in lines))
        sys.stderr.flush()
    except OSError:
        drop(sys.stderr)
