"""svcinitctl reload."""

from __future__ import annotations

import os
import signal
import time

from svcinit.ctl import state as states
from svcinit.ctl.output import complain, put
from svcinit.log import printable
from svcinit.model import SERVING, State
from svcinit.settings.environment import read_one

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

POLL_INTERVAL = 0.02  # seconds between two reads of the state file


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="longest wait [120]")


def run(options: argparse.Namespace) -> int:
    """Send HUP and wait until the reload for it has ended, or the reload that it was merged into."""
    state = states.needed()
    if state is None:
        return 1
    signals = read_one("SVCINIT_SIGNALS", os.environ)
    if isinstance(signals, dict) and signals.get(signal.SIGHUP, signal.SIGHUP) != signal.SIGHUP:
        complain("SVCINIT_SIGNALS rewrites HUP, so HUP is no reload")
        return 1
    began = time.time()
    deadline = time.monotonic() + options.timeout
    target = state["hups"] + 1  # a reload that runs already may have fetched before this call: it serves no new HUP
    try:
        os.kill(state["pid"], signal.SIGHUP)
    except PermissionError:
        complain("not permitted to signal svcinit: use docker kill -s HUP, or svcinit's user")
        return 1
    while time.monotonic() < deadline:
        now = states.read()
        if now is None or (now["state"] not in (State.STARTING, *SERVING) and not now["restarting"]):
            complain(*_why_stopped(state["life"], target))
            return 1
        if now["served"] >= target and now["state"] == State.RUNNING:
            if not now["degraded"]:
                put("reloaded\n")
                return 0
            complain(now["degraded"], *_faults(now, began))
            return 1
        time.sleep(POLL_INTERVAL)
    complain(f"the reload did not end within {options.timeout:g} s")
    return 1


def _why_stopped(life: str, target: int) -> list[str]:
    """The reload is the cause if it had ended before: its failure is in the last state of svcinit."""
    from svcinit.state_files import MISSHAPEN, read_of_life

    stopped = "the service is being stopped"
    try:
        last = read_of_life(states.folder(), "init", life) or {"served": 0}
        return [last["degraded"], stopped] if last["served"] >= target and last["degraded"] else [stopped]
    except MISSHAPEN:
        return [stopped]


def _faults(state: Mapping[str, Any], began: float) -> list[str]:
    """The errors of the preparation that this reload ran, as in the log; `began`: seconds since the epoch."""
    from svcinit.state_files import MISSHAPEN, read_of_life

    try:
        prepared = read_of_life(states.folder(), "prepare", state["life"]) or {}
        if prepared.get("ended", 0.0) < began:
            return []  # the reload failed later: `degraded` has the reason
        return [f"  {printable(fault)}" for fault in prepared["errors"]]
    except MISSHAPEN:
        return []
