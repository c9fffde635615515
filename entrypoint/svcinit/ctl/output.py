"""Standard output and standard error of svcinitctl.

Texts from KV, from the catalog and from other programs can contain control characters, and must not control a terminal.
So each text for people passes `shown`. Only `raw` and `content` leave it out.
"""

from __future__ import annotations

import errno
import os
import sys

from svcinit.log import printable

KEPT = "\n", "\t"
GONE = errno.EPIPE, errno.EIO  # a pipe without a reader, a terminal that was closed


def shown(text: str) -> str:
    """The text with its control characters escaped, as `\\x1b`; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(each if each in KEPT else printable(each) for each in text)


def put(*texts: str) -> None:
    """Write texts for people, and everything that was printed before."""
    raw(*map(shown, texts))


def content(*texts: str) -> None:
    """Write contents and names of files: as they are, unless standard output is a terminal."""
    (put if sys.stdout and sys.stdout.isatty() else raw)(*texts)


def raw(*texts: str) -> None:
    """Write texts as they are. A reader that is gone is no error: the output is dropped."""
    if not sys.stdout:  # it was closed
        return
    try:
        sys.stdout.flush()
        for text in texts:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in GONE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(*lines: str) -> None:
    """Write lines to standard error. A reader that is gone is no error."""
    if not sys.stderr:
        return
    try:
        sys.stderr.write("".join(f"{shown(str(line))}\n" for line in lines))
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
