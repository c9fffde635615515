"""svcinitctl reload."""

from __future__ import annotations

import os
import signal
import sys
import time

from svcinit.ctl import state as states

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

POLL = 0.02  # seconds between two looks at the state file


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="longest wait [120]")


def run(options: argparse.Namespace) -> int:
    """Send HUP and wait until the reload that it causes, or the one that it was merged into, has ended."""
    state = states.needed()
    if state is None:
        return 1
    deadline = time.monotonic() + options.timeout
    target = state["hups"] + 1  # a reload that runs already may have fetched before this call: it serves no new HUP
    try:
        os.kill(state["pid"], signal.SIGHUP)
    except PermissionError:
        print("not permitted to signal svcinit: use docker kill -s HUP, or its own user", file=sys.stderr)
        return 1
    while time.monotonic() < deadline:
        now = states.read()
        if now is None or (now["state"] not in ("starting", *states.SERVING) and not now["restarting"]):
            print("the service is being stopped", file=sys.stderr)
            return 1
        if now["served"] >= target and now["state"] == "running":
            print(now["degraded"] or "reloaded", file=sys.stderr if now["degraded"] else sys.stdout)
            return 1 if now["degraded"] else 0
        time.sleep(POLL)
    print(f"the reload did not end within {options.timeout:g} s", file=sys.stderr)
    return 1
