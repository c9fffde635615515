"""Files in SVCINIT_RUN: what each part of svcinit leaves for svcinitctl and the metrics, 0600, replaced as a whole.

init.json is init's, prepare.json that of whoever prepared last, presence.json that of presence. `life` in each tells
which start of svcinit it is of: in a container that was stopped and started the pids are often the same ones.
"""

from __future__ import annotations

import os
import time

from svcinit import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

FOLDERS = "/run/svcinit", "/dev/shm/svcinit"
PERIOD = 5.0  # seconds, at least, between two writes for the sake of figures alone
FAILED = "failed"
OUTCOMES = {  # how a reload can end: how that which is told of it begins
    "done": "",
    "in_place": "no usable answer",
    "aborted": "aborted",
    "taken_back": "taken back",
    FAILED: "SVCINIT_RELOAD failed",
}


class StateFile:
    """NAME.json, written when a fact changed. Figures, which change all the time, go along, or follow after a while:
    what is counted must never make more writes than what happens."""

    def __init__(self, folder: str | None, name: str) -> None:
        self._folder, self._name = folder, name
        self._facts: Mapping[str, object] = {}
        self._figures: Mapping[str, object] = {}
        self._next = 0.0

    def tell(self, now: float, facts: Mapping[str, object], figures: Mapping[str, object]) -> float | None:
        """When to call again because of figures that are not written yet; None: all is."""
        if facts == self._facts:
            if figures == self._figures:
                return None
            if now < self._next:
                return self._next
        self._facts, self._figures, self._next = facts, figures, now + PERIOD
        write_state(self._folder, self._name, {**facts, **figures})
        return None


class Tally:
    """What happened in one container's life, counted: for init.json."""

    def __init__(self, now: float) -> None:
        self._started, self._started_monotonic = time.time(), now
        self._main_started: float | None = None
        self._main_starts = self._presence_restarts = 0
        self._main_exits: dict[str, int] = {}
        self._outcomes = dict.fromkeys(OUTCOMES, 0)
        self._seconds = self._reload_began = 0.0
        self._last_reload: dict[str, object] | None = None

    def main_began(self) -> None:
        self._main_starts += 1
        self._main_started = time.time()

    def main_ended(self, code: int) -> None:
        self._main_exits[str(code)] = self._main_exits.get(str(code), 0) + 1

    def presence_died(self) -> None:
        self._presence_restarts += 1

    def reload_began(self, now: float) -> None:
        self._reload_began = now

    def reload_ended(self, now: float, number: int, trouble: str) -> None:
        """`trouble`: what was told of it, empty where it ended well."""
        outcome = outcome_of(trouble)
        seconds = now - self._reload_began
        self._outcomes[outcome] += 1
        self._seconds += seconds
        self._last_reload = {
            "id": number, "outcome": outcome, "trouble": trouble, "seconds": seconds, "ended": time.time()
        }  # fmt: skip

    def facts(self) -> dict[str, object]:
        return {
            "started": self._started,
            "started_monotonic": self._started_monotonic,
            "main_started": self._main_started,
            "main_starts": self._main_starts,
            "main_exits": dict(self._main_exits),
            "presence_restarts": self._presence_restarts,
            "reload_outcomes": dict(self._outcomes),
            "reload_seconds": {"sum": self._seconds, "count": sum(self._outcomes.values())},
            "last_reload": self._last_reload,
        }


def outcome_of(trouble: str) -> str:
    """Which of OUTCOMES it is that a reload is told to have ended with."""
    if not trouble:
        return "done"
    return next((name for name, start in OUTCOMES.items() if start and trouble.startswith(start)), FAILED)


def write_state(folder: str | None, name: str, state: Mapping[str, object]) -> None:
    """Replace FOLDER/NAME.json; where there is no place for it svcinit runs on without."""
    import json

    for place in (folder,) if folder else FOLDERS:
        try:
            os.makedirs(place, 0o700, exist_ok=True)
            new = os.path.join(place, f".{name}.new")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                rest = json.dumps(state).encode()
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            finally:
                os.close(descriptor)
            os.rename(new, os.path.join(place, f"{name}.json"))
            return
        except OSError as error:
            log.debug("state_not_written", "no state in {file}: {error}", file=place, error=error.strerror)
            _remove(os.path.join(place, f"{name}.json"))  # none is better than one that is true no more


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def read_state(folder: str | None, name: str, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The first NAME.json that `fits`; None where there is none."""
    import json

    for place in (folder,) if folder else FOLDERS:
        try:
            with open(os.path.join(place, f"{name}.json"), encoding="utf-8") as file:
                found = json.load(file)
            if fits(found):
                return dict(found)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            continue  # not there, or not ours: whatever stands in it
    return None


def read_of_life(folder: str | None, name: str, life: str) -> dict[str, Any] | None:
    """NAME.json of that start of svcinit; None where there is none."""
    return read_state(folder, name, lambda state: bool(state["life"] == life))
