"""DNS servers that never answer cost a test no time, and those that answer have as much as a busy machine needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from svcinit.agent.consul import discovery

A_MOMENT = 0.05  # seconds


def hurried(patch: pytest.MonkeyPatch, exchange: str, server: tuple[str, int]) -> list[float]:
    """Wait only a moment for this server in `exchange` (_over_udp, _over_tcp). Returns the seconds that each exchange
    with it was allowed to take."""
    allowed: list[float] = []
    real: Callable[..., Any] = getattr(discovery, exchange)

    def hurry(query: object, asked: tuple[str, int], deadline: float) -> object:
        if asked == server:
            allowed.append(deadline - time.monotonic())
            deadline = min(deadline, time.monotonic() + A_MOMENT)
        return real(query, asked, deadline)

    patch.setattr(discovery, exchange, hurry)
    return allowed
