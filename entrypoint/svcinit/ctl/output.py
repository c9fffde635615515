"""Standard output of svcinitctl."""

from __future__ import annotations

import os
import sys


def put(*texts: str) -> None:
    """Write texts, and everything that was printed before. A reader that is gone is no error: the output is dropped."""
    if not sys.stdout:  # it was closed
        return
    try:
        sys.stdout.flush()
        for text in texts:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
