"""What the transitions of a start do: prepare the files, run SVCINIT_PRE_START, start the service and its residents.

A restart ends here, too: the service was stopped and is started again.
"""

from __future__ import annotations

from svcinit.errors import EX_SOFTWARE, EX_UNAVAILABLE
from svcinit.lifecycle.job import PREPARE_MARGIN
from svcinit.model import ReloadOutcome, Role, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.lifecycle.table import Lifecycle

START_RETRY_TIMEOUT = 3.0  # seconds in which the start of the service is tried again while no process can be had
# Seconds after which the service counts as started, whether or not its program was executed. More than the time in
# which execve(2) is tried again without room (processes/child.py).
EXEC_TIMEOUT = 4.0
EXEC_POLL_INTERVAL = 0.01
STARTED_WITHOUT = {
    "cache": "started from SVCINIT_CACHE, without Consul; the next HUP tries again",
    "defaults": "started with the defaults of the templates, without Consul; its first answer is a reload",
}


class Start:
    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle, self.settings = lifecycle, lifecycle.settings
        self.crew, self.job = lifecycle.crew, lifecycle.job
        self.ever_started = False
        self._prepared_again = False  # because of a HUP during the first start
        self._cached, self.is_logged = False, True  # of the last start
        self.service_since = 0.0  # when the service was started

    def begin(self) -> None:
        self.lifecycle.state = State.STARTING
        if self.settings.plain:
            self.start_service()
            return
        self.lifecycle.residents.expect_metrics()
        if self.settings.needs_prepare:
            self.crew.expect_presence()
            self.lifecycle.preparation.begin(self.settings.start_timeout + PREPARE_MARGIN)
        else:
            self.run_hook()

    def fall_back(self) -> None:
        """Consul did not answer within SVCINIT_START_TIMEOUT: start without it, if that is possible."""
        fallback = self._next_fallback()
        if not fallback:
            passed, limit = self.lifecycle.history.preparing_seconds(), self.settings.start_timeout
            reason = f"not ready within {passed:.1f} s (SVCINIT_START_TIMEOUT={limit:g}s)"
            self.exit_before_start(EX_UNAVAILABLE, reason)
            return
        self.lifecycle.reload.due = False
        self.lifecycle.preparation.begin(self.settings.reload_timeout, fallback=fallback)

    def _next_fallback(self) -> str:
        """`cache` first, then `defaults` if SVCINIT_START_WITHOUT asks for them; empty: there is no other one."""
        from os.path import exists  # a plain init has no use for it

        tried, cache = self.lifecycle.preparation.fallback, self.settings.cache
        if not tried and cache and exists(cache):
            return "cache"
        return "defaults" if self.settings.start_without == "defaults" and tried != "defaults" else ""

    def prepared(self) -> None:
        """The files are in place."""
        preparation, reload = self.lifecycle.preparation, self.lifecycle.reload
        if not preparation.take():
            return
        if self._must_prepare_again():
            preparation.run()
            return
        if preparation.fallback:
            reload.outcome, reload.reason = ReloadOutcome.IN_PLACE, STARTED_WITHOUT[preparation.fallback]
        elif self.crew.prepared.get("trouble"):
            reload.outcome, reload.reason = ReloadOutcome.IN_PLACE, str(self.crew.prepared["trouble"])
        self.run_hook()

    def run_hook(self) -> None:
        self.job.run_hook(self.settings.pre_start, self.settings.start_timeout, self.start_service)

    def start_service(self) -> None:
        lifecycle = self.lifecycle
        if self.settings.needs_prepare and self._must_prepare_again():
            self.begin()
            return
        if not self.crew.alive(Role.MAIN):  # it runs already if a later step failed and all is repeated
            if not self.crew.start_main():
                self._retry()
                return
            self.service_since = self.crew.now()
            if not self.settings.plain:
                lifecycle.history.service_started()
        self.job.end()
        lifecycle.timers.clear()
        lifecycle.state, lifecycle.limit, self.ever_started = State.RUNNING, None, True
        if not self.settings.plain:
            self._started()

    def _must_prepare_again(self) -> bool:
        """A HUP during the first start means that the files may be old. Only once: the service must not wait for the
        last of many HUPs. Another one, and one during a restart, is served by a reload as soon as the service runs."""
        reload, is_first = self.lifecycle.reload, not self.ever_started and not self._prepared_again
        if not reload.due or not is_first or self.lifecycle.preparation.fallback:
            return False
        self._prepared_again, reload.due = True, False
        return True

    def _retry(self) -> None:
        self.lifecycle.state = State.STARTING
        if self.job.role != Role.MAIN:
            self.job.expect(Role.MAIN, START_RETRY_TIMEOUT, self.start_service)
        self.job.retry()

    def _started(self) -> None:
        lifecycle, cached = self.lifecycle, self.lifecycle.preparation.fallback == "cache"
        restarted, lifecycle.stop.restarting = lifecycle.stop.restarting, False
        if not restarted:
            lifecycle.history.degraded = lifecycle.reload.reason
        lifecycle.reload.service_started(restarted=restarted)
        self._cached, self.is_logged = cached, False
        self.log_start()
        lifecycle.residents.start()
        lifecycle.reload.go_on(restarted=restarted)

    def log_start(self) -> None:
        """Log the start as soon as the program of the service was executed, and not if that failed."""
        executed = self.crew.executed()
        if self.is_logged:
            return
        waits = self.crew.alive(Role.MAIN) and self.crew.now() < self.service_since + EXEC_TIMEOUT
        if executed is None and waits:
            self.lifecycle.timers["started"] = self.crew.now() + EXEC_POLL_INTERVAL
            return
        self.is_logged = True
        if executed is not False:
            self.lifecycle.history.log_start(
                self.crew.argv[0], self.crew.pid(Role.MAIN), self.settings, self.crew.prepared, cached=self._cached
            )

    def never_started(self) -> None:
        if self.settings.plain:
            self.lifecycle.code, self.lifecycle.state = EX_SOFTWARE, State.DONE
            return
        self.lifecycle.stop.restarting = False
        self.exit_before_start(EX_SOFTWARE, "the service could not be started")

    def exit_before_start(self, code: int, reason: str) -> None:
        """Exit without the service."""
        lifecycle = self.lifecycle
        lifecycle.history.ended_before_start(code, reason)
        lifecycle.code = code
        lifecycle.timers = {"kill": self.crew.now() + lifecycle.stop.timeout}
        lifecycle.stop.sweep()
