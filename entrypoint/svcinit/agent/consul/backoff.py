"""How long to leave alone what is away."""

from __future__ import annotations

import random
import time

DIGITS = 19  # of the largest number


def pause_before(attempt: int, backoff: tuple[float, float], at_least: float | None = None) -> float:
    """Seconds before try `attempt` + 2: exponential with full jitter, so that a fleet does not come back as one.

    `backoff` is the first and the longest pause; `at_least` what the other side asked for (Retry-After): a longer one
    than the longest is not granted.
    """
    first, longest = backoff
    return max(random.uniform(0, min(longest, first * 2 ** min(attempt, 16))), min(longest, at_least or 0.0))


def retry_after(header: str | None) -> float | None:
    """Seconds from now, of both forms that it has (RFC 9110, 10.2.3); None where it is neither, or is over."""
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
    """A number as HTTP has it: ASCII digits, no more than 64 bits need (int() takes more, and fails at 4,301)."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else None
