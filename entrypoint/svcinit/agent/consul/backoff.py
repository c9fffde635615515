"""How long to wait before the next try, and for one call."""

from __future__ import annotations

import random
import time

AGENT_BACKOFF = 0.25, 30.0  # seconds: first and longest pause between two tries while the agent is unavailable
MIN_TIMEOUT = 0.2  # seconds that a call gets at least, also after the deadline of its client
DIGITS = 19  # of the largest number


def pause_before(attempt: int, backoff: tuple[float, float], at_least: float | None = None) -> float:
    """Seconds before try `attempt` + 2: exponential with full jitter, so that a fleet spreads its tries.

    `backoff`: the first and the longest pause. `at_least`: the pause that the server asked for (Retry-After), at most
    the longest one.
    """
    first, longest = backoff
    return max(random.uniform(0, min(longest, first * 2 ** min(attempt, 16))), min(longest, at_least or 0.0))


def retry_after(header: str | None) -> float | None:
    """Seconds from now, for both forms of the header (RFC 9110, 10.2.3); None for other texts and past times."""
    if not header:
        return None
    seconds: float | None = number(header)
    if seconds is None:
        from email.utils import parsedate_to_datetime

        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return seconds if seconds > 0 else None


def number(text: str) -> int | None:
    """A number in HTTP: ASCII digits, at most 64 bits. int() accepts more, and fails at 4,301 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else None
