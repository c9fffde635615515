"""svcinitctl health."""

from __future__ import annotations

from svcinit.ctl import state as states
from svcinit.model import SERVING

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def run(_options: argparse.Namespace) -> int:
    state = states.needed()
    return 0 if state and state["state"] in SERVING else 1
