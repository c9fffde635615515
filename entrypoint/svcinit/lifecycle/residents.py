"""The resident children: presence and the metrics exporter. They run as long as the service and are restarted when they
die, after a pause that doubles. The service never notices.
"""

from __future__ import annotations

from svcinit import log
from svcinit.errors import EX_CONFIG
from svcinit.lifecycle.start import EXEC_TIMEOUT
from svcinit.model import Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.lifecycle.table import Lifecycle

BACKOFF = 0.5, 30.0  # first and longest pause before a dead resident child is started again, in seconds
HEALTHY = 60.0  # a child that ran for so many seconds is started again after the first pause
HEARTBEAT_INTERVAL = 5.0  # seconds between two looks at presence
HEARTBEAT_TIMEOUT = 45.0  # seconds without a heartbeat after which presence counts as hung: a slow call takes less
EXEC_POLL_INTERVAL = 0.002  # seconds between two looks whether the program was executed
METRICS_DELAY = 1.0  # a start that takes more seconds than this is worth showing: metrics are served from then on


class Pause:
    """The pause before a child is started again: it doubles, unless the child ran for long."""

    def __init__(self) -> None:
        self.since = 0.0  # when the child was started
        self._next = BACKOFF[0]

    def next(self, now: float) -> float:
        pause = BACKOFF[0] if now - self.since > HEALTHY else self._next
        self._next = min(pause * 2, BACKOFF[1])
        return pause


class Residents:
    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle, self.crew = lifecycle, lifecycle.crew
        self.has_metrics = lifecycle.settings.metrics is not None
        self._presence_pause, self._metrics_pause = Pause(), Pause()

    def start(self) -> None:
        """The service was started."""
        self.start_metrics()
        is_there = self.crew.alive(Role.PRESENCE) and not self.crew.waits  # all is repeated if a later step failed
        if self.lifecycle.settings.needs_presence and not is_there:
            self.begin_presence()

    def begin_presence(self) -> None:
        """A presence that waits is quick: it must not register a program that cannot be executed."""
        executed = self.crew.executed() if self.crew.waits else True
        if executed is None and self.crew.now() < self.lifecycle.start.service_since + EXEC_TIMEOUT:
            self._set_timer("presence", EXEC_POLL_INTERVAL)
        elif executed is not False:
            self.start_presence()

    def start_presence(self) -> None:
        self.crew.start_presence()
        self._presence_pause.since = self.crew.now()
        self._set_timer("presence", HEARTBEAT_INTERVAL)

    def check_presence(self) -> None:
        if self.crew.waits or not self.crew.alive(Role.PRESENCE):
            self.begin_presence()
            return
        if self.crew.silence() > HEARTBEAT_TIMEOUT:
            log.warning("presence_hung", "presence hangs: killed", reload=None)
            self.crew.kill(Role.PRESENCE)
        self._set_timer("presence", HEARTBEAT_INTERVAL)

    def presence_died(self, code: int) -> None:
        self.lifecycle.reload.news = self.crew.has_news()  # it may have died after a change and before its signal
        pause = self._presence_pause.next(self.crew.now())
        log.warning("presence_died", "presence died with status {code}; started again in {pause_seconds:g} s",
                    code=code, pause_seconds=pause, reload=None)  # fmt: skip
        self.lifecycle.history.presence_died()
        self._set_timer("presence", pause)

    def expect_metrics(self) -> None:
        if self.has_metrics:
            self._set_timer("metrics", METRICS_DELAY)

    def start_metrics(self) -> None:
        self.lifecycle.timers.pop("metrics", None)
        if self.has_metrics and not self.crew.alive(Role.METRICS):
            self.crew.start_metrics()
            self._metrics_pause.since = self.crew.now()

    def metrics_died(self, code: int) -> None:
        """A scrape must never cost a service. An error that a person has to correct is not tried again."""
        if code == EX_CONFIG:
            self.has_metrics = False
            return
        pause = self._metrics_pause.next(self.crew.now())
        log.warning("metrics_died", "metrics died with status {code}; started again in {pause_seconds:g} s",
                    code=code, pause_seconds=pause, reload=None)  # fmt: skip
        self._set_timer("metrics", pause)

    def _set_timer(self, name: str, seconds: float) -> None:
        self.lifecycle.timers[name] = self.crew.now() + seconds
