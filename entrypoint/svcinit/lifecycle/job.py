"""The job: the short-lived child that the lifecycle waits for (prepare, a hook, an action, verify, a rollback).

One job runs at a time. Each has a deadline; at the deadline its whole process group gets KILL.
"""

from __future__ import annotations

import _signal

from svcinit import log
from svcinit.errors import EX_CONFIG, EX_OK, EX_SOFTWARE, EX_TEMPFAIL
from svcinit.model import Exited, ReloadOutcome, Role, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.lifecycle.table import Lifecycle

PREPARE_MARGIN = 0.5  # seconds in which prepare can give up by itself before it is killed
COMMAND_MARGIN = 2.5  # seconds in which the process that reads the output of a command can kill it and log that
RETRY_DELAY = 0.5  # seconds before a child that died or could not be started is started again
KILL_TIMEOUT = 1.0  # seconds in which the kernel can end a job after KILL
KILLED = 128 + _signal.SIGKILL


class Job:
    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle, self.crew = lifecycle, lifecycle.crew
        self.role = ""  # empty: no job
        self.late = False  # its deadline has passed
        self._start: Callable[[], object] = bool

    def begin(self, role: str, seconds: float, start: Callable[[], object]) -> None:
        """`start` starts the child, again if the child dies or cannot be started. `seconds`: for all that."""
        self.expect(role, seconds, start)
        start()

    def run_hook(self, hook: tuple[str, ...] | None, seconds: float, without: Callable[[], None]) -> None:
        """Run a hook of the user. `without`: the next step, if there is no hook."""
        if hook:
            self.begin(Role.HOOK, seconds, lambda: self.crew.start_hook(hook))
        else:
            without()

    def expect(self, role: str, seconds: float, start: Callable[[], object]) -> None:
        """As `begin`, for a child that was started, or will be."""
        self._forget_end()
        self.role, self.late, self._start = role, False, start
        self.lifecycle.timers["job"] = self.crew.now() + seconds

    @property
    def seconds_left(self) -> float:
        return self.lifecycle.timers["job"] - self.crew.now()

    def retry(self) -> None:
        """Start it again after a pause; its deadline stays. What only makes a start shorter ends: it takes room."""
        self.crew.make_room()
        self.lifecycle.timers["retry"] = self.crew.now() + RETRY_DELAY

    def start_again(self) -> None:
        self.late = False
        self._start()

    def can_retry(self, code: int) -> bool:
        """Could it not be started, or did it die by an internal error, before its deadline?"""
        return code == EX_SOFTWARE and "job" in self.lifecycle.timers

    def end(self) -> None:
        self._forget_end()
        self.role, self.late = "", False
        for name in ("job", "retry", "ready", "notify"):
            self.lifecycle.timers.pop(name, None)

    def _forget_end(self) -> None:
        """The job is over: if the transition of its exit failed, it is not tried again."""
        failed = self.lifecycle.failed
        self.lifecycle.failed = [each for each in failed if not isinstance(each, Exited) or each.role != self.role]

    def expire(self) -> Exited | None:
        """The deadline has passed. Returns how the job ended, if no process has its role or not even KILL ended it."""
        if self.crew.alive(self.role) and not self.late:
            log.warning("timed_out", "{child} took too long: killed", child=self.role)
            self.late = True
            self.lifecycle.timers["job"] = self.crew.now() + KILL_TIMEOUT
            self.crew.kill(self.role)
            return None
        return Exited(self.role, KILLED if self.late else EX_SOFTWARE)


class Preparation:
    """The job that fetches, renders and writes the files, at the start and at a reload."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle, self.crew, self.job = lifecycle, lifecycle.crew, lifecycle.job
        self.fallback = ""  # how to start without Consul, if it does not answer: see `Start.fall_back`
        self._code = EX_OK  # of a prepare whose files are rolled back before this status has an effect

    def begin(self, seconds: float, *, fallback: str = "") -> None:
        self.fallback = fallback
        if not fallback:
            self.lifecycle.history.prepare_began()
        self.job.begin(Role.PREPARE, seconds, self.run)

    def run(self) -> None:
        """At a reload, prepare may wait for Consul for half of its time: new code must be deployed in any case."""
        self.lifecycle.reload.serve_hups()
        self.job.late = False
        left = self.job.seconds_left
        starts = self.lifecycle.state == State.STARTING
        self.crew.start_prepare(seconds=left - PREPARE_MARGIN if starts else left / 2, fallback=self.fallback)

    def take(self) -> bool:
        """Take over what prepare found. False: it left nothing that can be read, so it is started again."""
        if not self.crew.take_verdict():
            self.died(EX_SOFTWARE)
            return False
        self.lifecycle.history.prepare_ended()
        return True

    def finished(self) -> None:
        """It was done with all that matters when it died, perhaps at its deadline."""
        self.job.expect(Role.PREPARE, self.lifecycle.settings.reload_timeout, self.run)

    def died(self, code: int) -> None:
        log.warning("prepare_died", "prepare died with status {code}; trying again", code=code)
        self.job.retry()

    def expired(self) -> None:
        """It could not be started, or died each time."""
        if self.crew.begun():
            self.roll_back(EX_TEMPFAIL if self.lifecycle.state == State.STARTING else EX_CONFIG)
        elif self.lifecycle.state == State.STARTING:
            self.lifecycle.start.fall_back()
        else:
            self.lifecycle.reload.end(
                ReloadOutcome.ABORTED,
                "prepare could not be run; the files are unchanged, the service was not notified",
            )

    def late_code(self) -> int:
        """The status of a prepare that was killed at its deadline: if it waited, what it waited for did not answer."""
        return EX_TEMPFAIL if self.crew.fetching() else EX_CONFIG

    def roll_back(self, code: int) -> None:
        """Prepare ended while it wrote files. They are rolled back first; then its `code` has its usual effect."""
        self._code = code
        self.job.begin(Role.ROLLBACK, self.lifecycle.settings.reload_timeout, self.crew.start_rollback)

    @property
    def rolls_back(self) -> bool:
        return self._code != EX_OK

    def rolled_back(self, status: int) -> None:
        if self.job.can_retry(status):
            self.job.retry()
            return
        code, self._code = self._code, EX_OK
        reason = f"the rollback of the files failed with status {status}"
        if not status:
            self.job.role = Role.PREPARE
            self.lifecycle.on(Exited(Role.PREPARE, code))
        elif self.lifecycle.state == State.RELOADING:
            self.lifecycle.reload.end(ReloadOutcome.ABORTED, f"the service was not notified; {reason}")
        else:
            self.lifecycle.start.exit_before_start(EX_CONFIG, f"{reason}; the service was not started")
