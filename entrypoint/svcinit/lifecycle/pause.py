"""How long a resident child that died stays dead."""

from __future__ import annotations

BACKOFF = 0.5, 30.0  # first and longest pause before a dead resident child is started again, in seconds
HEALTHY = 60.0  # having lived for so long, it starts again with the first pause


class Pause:
    """Twice as long each time, unless the child had lived for long."""

    def __init__(self) -> None:
        self.since = 0.0  # when it was started
        self._next = BACKOFF[0]

    def next(self, now: float) -> float:
        pause = BACKOFF[0] if now - self.since > HEALTHY else self._next
        self._next = min(pause * 2, BACKOFF[1])
        return pause
