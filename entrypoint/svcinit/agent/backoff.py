"""How long to leave alone what is away."""

from __future__ import annotations

import random


def pause_before(attempt: int, backoff: tuple[float, float], at_least: float | None = None) -> float:
    """Seconds before try `attempt` + 2: exponential with full jitter, so that a fleet does not come back as one.

    `backoff` is the first and the longest pause; `at_least` what the other side asked for (Retry-After): a longer one
    than the longest is not granted.
    """
    first, longest = backoff
    return max(random.uniform(0, min(longest, first * 2 ** min(attempt, 16))), min(longest, at_least or 0.0))
