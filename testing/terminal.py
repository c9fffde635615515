"""A program on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
from collections.abc import Mapping

from testing.process import PATH, descendants
from testing.waiting import eventually


class Terminal:
    """A pseudo terminal whose session leader becomes the program `argv`, as `docker run -t` does."""

    def __init__(self, argv: list[str], env: Mapping[str, str] = PATH) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(argv[0] if "/" in argv[0] else f"/usr/bin/{argv[0]}", argv, env)
        self.seen = b""

    def says(self, text: bytes, times: int = 1) -> None:
        def read() -> bool:
            while select.select([self.master], [], [], 0)[0]:
                try:
                    self.seen += os.read(self.master, 4096)
                except OSError:
                    break
            return self.seen.count(text) >= times

        eventually(read, f"{text!r} on the terminal", 5)

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def close(self) -> int:
        try:
            below = descendants(self.pid)
            for pid in [*below, self.pid]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return os.waitpid(self.pid, 0)[1]
        finally:
            os.close(self.master)
