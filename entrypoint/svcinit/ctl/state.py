"""The state of the svcinit that runs in this container."""

from __future__ import annotations

import os

from svcinit.ctl.output import complain
from svcinit.settings.environment import read_one
from svcinit.state_files import directories, read_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NOT_RUNNING = (
    "no running svcinit found: looked for init.json in {} "
    "(a plain init leaves none, and that of another user cannot be read)"
)


def folder() -> str | None:
    """SVCINIT_RUN; None: it is not given."""
    found = read_one("SVCINIT_RUN", os.environ)
    return str(found) if found else None


def read() -> dict[str, Any] | None:
    """The state of the running svcinit; None without one. Files of a svcinit that has ended do not count."""
    return read_state(folder(), "init", _lives)


def _lives(state: dict[str, Any]) -> bool:
    if state["pid"] < 1:  # kill(2): none of these is a single process
        return False
    try:
        os.kill(state["pid"], 0)
    except PermissionError:
        return True  # the process of another user
    except OSError:
        return False
    return True


def needed() -> dict[str, Any] | None:
    """As `read`; prints an error if there is none."""
    state = read()
    if state is None:
        complain(NOT_RUNNING.format(", ".join(directories(folder()))))
    return state
