"""Awaiting a condition, never sleeping for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self, TypeVar

from testing.architecture import SLOWNESS

T = TypeVar("T")
POLL = 0.02  # seconds
QUIET = 2.5  # seconds in which a change would have shown: more than a turn of SVCINIT_WATCH


def eventually(condition: Callable[[], T], what: str, timeout: float = 20.0, every: float = POLL) -> T:
    """The first true value of `condition`, asked for `every` so many seconds.

    AssertionError with the last one seen when `timeout` seconds are over.
    """
    timeout *= SLOWNESS
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}; last seen: {value!r}")
        time.sleep(every)


def unchanged(value: Callable[[], object], seconds: float, what: str, timeout: float) -> None:
    """Wait until `value` has been the same for so many seconds."""
    seen, since = value(), time.monotonic()

    def quiet() -> bool:
        nonlocal seen, since
        now = value()
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > seconds

    eventually(quiet, what, timeout, every=0.1)


class Repeatedly:
    """Calls `look` in a thread until the end of the block, with `pause` seconds before each call."""

    def __init__(self, pause: float) -> None:
        self._pause, self._ended = pause, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def look(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        while not self._ended.wait(self._pause):
            self.look()


def stays(condition: Callable[[], bool], what: str) -> None:
    """True now, and for QUIET seconds."""
    until = time.monotonic() + QUIET
    eventually(lambda: not condition() or time.monotonic() > until, what, QUIET + 1)
    assert condition(), what
