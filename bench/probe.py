"""The service that the contenders start, and the clock that it and the stopwatch share."""

from __future__ import annotations

import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Callable

SOURCE = pathlib.Path(__file__).with_name("probe.c")
STAY, THEN = "stay", "then"


class Probe:
    """A command that says when it began. `clock` is what it reads too, in nanoseconds."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._path = folder / "began"
        os.mkfifo(self._path)
        self._path.chmod(0o666)  # a container's user writes into it, too
        self._fifo = os.open(self._path, os.O_RDWR | os.O_NONBLOCK)
        compiled = _compile(folder / "probe")
        self.clock: Callable[[], int] = time.monotonic_ns
        if compiled:
            self.argv = [str(compiled), str(self._path)]
            self.note = "a C program that reads CLOCK_MONOTONIC as its first step"
            return
        self.clock = time.time_ns
        os.mkfifo(f"{self._path}.end")  # nobody writes into it: who opens it for reading waits
        self.argv = [_need("sh"), "-c", 'date +%s%N >"$1"; [ $# -lt 2 ] || : <"$1.end"', "sh", str(self._path)]
        self.note = "no C compiler: `sh -c 'date +%s%N'`, whose own start is in every figure"

    def began(self, seconds: float) -> int:
        """When the probe began, by `clock`. Raises TimeoutError."""
        poll = select.poll()
        poll.register(self._fifo, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise TimeoutError(f"the service did not start within {seconds:g} s")
        return int(os.read(self._fifo, 4096).split()[-1])

    def close(self) -> None:
        os.close(self._fifo)


def _compile(target: pathlib.Path) -> pathlib.Path | None:
    """The probe, static where the machine has what that takes: its loader's time is nobody's."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    for static in (["-static"], []):
        done = subprocess.run(
            [compiler, "-O1", *static, "-o", str(target), str(SOURCE)], capture_output=True, timeout=60, check=False
        )
        if done.returncode == 0:
            return target
    return None


def _need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise FileNotFoundError(f"{program} is not installed")
    return found
