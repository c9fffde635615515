"""Awaiting a condition, never sleeping for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from testing.architecture import SLOWNESS

T = TypeVar("T")
POLL = 0.02  # seconds
QUIET = 2.5  # seconds in which a change would have shown: more than a turn of SVCINIT_WATCH


def eventually(condition: Callable[[], T], what: str, timeout: float = 10.0, every: float = POLL) -> T:
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


def stays(condition: Callable[[], bool], what: str) -> None:
    """True now, and for QUIET seconds."""
    until = time.monotonic() + QUIET
    eventually(lambda: not condition() or time.monotonic() > until, what, QUIET + 1)
    assert condition(), what
