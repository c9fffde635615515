"""The state file of the svcinit that runs in this container."""

from __future__ import annotations

import json
import os
import sys

from svcinit.state import FOLDERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SERVING = "running", "reloading"
NOT_RUNNING = "no running svcinit found: looked for init.json in {}"


def folders() -> tuple[str, ...]:
    """Where a state file may be."""
    return (os.environ["SVCINIT_RUN"],) if os.environ.get("SVCINIT_RUN") else FOLDERS


def read() -> dict[str, Any] | None:
    """The state of the svcinit that runs now; None when there is none, or only what a dead one left."""
    for folder in folders():
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


def presence(init: dict[str, Any]) -> dict[str, Any]:
    """What the presence of that init says: `services` by id, and `watch`: what is wrong with following changes."""
    for folder in folders():
        try:
            with open(os.path.join(folder, "presence.json"), encoding="utf-8") as file:
                said = json.load(file)
        except (OSError, ValueError):
            continue
        if said["pid"] == init["presence"]:
            found: dict[str, Any] = said
            return found
    return {"services": {}, "watch": None}


def needed() -> dict[str, Any] | None:
    """As `read`, and tells people when there is none."""
    state = read()
    if state is None:
        print(NOT_RUNNING.format(" and ".join(folders())), file=sys.stderr)
    return state
