"""svcinitctl status: what the state files say, and what svcinit's processes and the service take."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

from svcinit.ctl import state as states
from svcinit.ctl.output import put
from svcinit.state_files import NAMES, places

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

PERIOD = 1.0  # seconds, at most, between two looks of --watch
POLL = 0.1  # seconds between two looks at whether a file changed
TOP, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K\n", "\x1b[J"


def arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="for programs")
    how.add_argument("--watch", action="store_true", help="again whenever it changes, until Ctrl-C")


def run(options: argparse.Namespace) -> int:
    if options.watch:
        return watch()
    state = states.needed()
    if state is None:
        return 1
    status = full(state)
    if options.json:
        put(json.dumps(status, indent=2), "\n")
    else:
        from svcinit.ctl.status_text import lines

        put("\n".join([*lines(status, time.time()), ""]))
    return code(state)


def full(init: dict[str, Any]) -> dict[str, Any]:
    from svcinit.agent.metrics.overview import overview
    from svcinit.agent.metrics.processes import figures

    return {**overview(init, states.folder()), "processes": figures(init)}


def code(state: dict[str, Any]) -> int:
    return 0 if state["state"] in states.SERVING and not state["degraded"] else 1


def watch() -> int:
    """A terminal has one picture that changes; anything else gets all of it anew when more than times changed."""
    from svcinit.ctl.status_text import lines, still

    last, shown = 1, None
    try:
        while True:
            stamp = _stamp()
            state = states.needed()
            if state is None:
                return 1
            last, status = code(state), full(state)
            found = lines(status, time.time())
            if sys.stdout.isatty():
                width, height = shutil.get_terminal_size()
                picture = REST_OF_LINE.join([*(line[: width - 1] for line in found[: height - 1]), ""])
                print(TOP + picture + REST_OF_SCREEN, end="", flush=True)
            elif still(status) != shown:
                print(*found, "", sep="\n", flush=True)
                shown = still(status)
            _await_change(stamp)
    except KeyboardInterrupt:
        return last
    except BrokenPipeError:  # who reads it has seen enough; nor shall the interpreter's end trip over it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return last


def _await_change(stamp: list[tuple[int, int]]) -> None:
    until = time.monotonic() + PERIOD
    while time.monotonic() < until and _stamp() == stamp:
        time.sleep(POLL)


def _stamp() -> list[tuple[int, int]]:
    """What changes when one of the state files does."""
    found = []
    for place in places(states.folder()):
        for name in NAMES:
            try:
                status = os.stat(os.path.join(place, f"{name}.json"))
            except OSError:
                continue
            found.append((status.st_ino, status.st_mtime_ns))
    return found
