"""svcinitctl: what people and HEALTHCHECK ask of a running svcinit, inside its container.

There is no control socket: it reads the state file that init leaves in SVCINIT_RUN and signals init.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

from svcinit.state import FOLDERS

SERVING = "running", "reloading"
POLL = 0.02  # seconds between two looks at the state file
NOT_RUNNING = "no running svcinit found: looked for init.json in {}"


def main() -> NoReturn:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Exit status: 0 well, 1 not (degraded, not serving, the reload failed), 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="svcinitctl", description="Ask a running svcinit, inside its container.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="what state it is in; 1 when degraded or not serving")
    status.add_argument("--json", action="store_true", help="for programs")
    commands.add_parser("health", help="for HEALTHCHECK: 0 while the service runs, else 1; no network is used")
    again = commands.add_parser("reload", help="the same as docker kill -s HUP, and wait for how it ended")
    again.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="longest wait [120]")
    options = parser.parse_args(arguments)
    folders = (os.environ["SVCINIT_RUN"],) if os.environ.get("SVCINIT_RUN") else FOLDERS
    state = read_state(folders)
    if state is None:
        print(NOT_RUNNING.format(" and ".join(folders)), file=sys.stderr)
        return 1
    if options.command == "status":
        return show(state, as_json=options.json)
    if options.command == "health":
        return 0 if state["state"] in SERVING else 1
    return reload(state, folders, options.timeout)


def read_state(folders: tuple[str, ...]) -> dict[str, Any] | None:
    """The state of the svcinit that runs now; None when there is none, or only what a dead one left."""
    for folder in folders:
        try:
            with open(os.path.join(folder, "init.json"), encoding="utf-8") as file:
                state: dict[str, Any] = json.load(file)
        except (OSError, ValueError):
            continue
        try:
            os.kill(state["pid"], 0)
        except PermissionError:
            pass  # it lives, and is another user's
        except OSError:
            continue
        return state
    return None


def show(state: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps(state, indent=2))
    else:
        print(f"{state['service'] or 'service'}: {state['state']}")
        for name in ("id", "main", "presence", "reloads"):
            print(f"  {name:9} {'-' if state[name] is None else state[name]}")
        if state["degraded"]:
            print(f"  degraded  {state['degraded']}")
    return 0 if state["state"] in SERVING and not state["degraded"] else 1


def reload(state: dict[str, Any], folders: tuple[str, ...], timeout: float) -> int:
    """Send HUP and wait until the reload that it causes, or the one that it was merged into, has ended."""
    deadline = time.monotonic() + timeout
    target = (
        state["hups"] + 1
    )  # a reload that runs already may have fetched before this call: it does not serve this HUP
    try:
        os.kill(state["pid"], signal.SIGHUP)
    except PermissionError:
        print("not permitted to signal svcinit: use docker kill -s HUP, or its own user", file=sys.stderr)
        return 1
    while time.monotonic() < deadline:
        now = read_state(folders)
        if now is None or (now["state"] not in ("starting", *SERVING) and not now["restarting"]):
            print("the service is being stopped", file=sys.stderr)
            return 1
        if now["served"] >= target and now["state"] == "running":
            print(now["degraded"] or "reloaded", file=sys.stderr if now["degraded"] else sys.stdout)
            return 1 if now["degraded"] else 0
        time.sleep(POLL)
    print(f"the reload did not end within {timeout:g} s", file=sys.stderr)
    return 1
