"""What happened in one run of a container: for the log, and for the state file, which svcinitctl and metrics read.

A transition that fails is repeated as a whole (lifecycle/table.py). Therefore each method may be called again for the
same thing: only the first call counts and logs. A plain init has no history.
"""

from __future__ import annotations

import time

from svcinit import __version__, log
from svcinit.model import RELOAD_OUTCOMES, ReloadOutcome, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.settings.environment import Settings

QUIET = ReloadOutcome.DONE, ReloadOutcome.GIVEN_UP  # outcomes after which svcinit is not degraded


class History:
    """`now` is the monotonic clock, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began, self._began_at = now(), time.time()
        self.degraded = ""  # why; empty: the last start or reload succeeded
        self._service_starts, self._service_started_at = 0, None  # type: int, float | None
        self._service_since = 0.0
        self._service_exits: dict[str, int] = {}  # by exit status
        self._presence_deaths = 0
        self._prepare_began = self._began
        self._prepare_seconds: float | None = None
        self._announced = 0  # number of the last reload that has begun
        self._reload_began: float | None = None  # of the open reload
        self._worked: float | None = None  # seconds that its steps took, if all are done
        self._outcomes = dict.fromkeys(RELOAD_OUTCOMES, 0)
        self._reload_seconds = 0.0
        self._last_reload: dict[str, object] | None = None
        self._turn = 0  # the turn of a roll-out that the open reload is; 0: none
        self._last_turn: dict[str, object] = {}
        self._exit_reason = ""
        self._is_ordered: bool | None = None  # the stop; None: there is none
        self._killed = False
        self._phase, self._phase_began = "", 0.0  # of the stop
        self._phases: dict[str, float] = {}  # durations of the phases that ended, in seconds

    def facts(self) -> dict[str, object]:
        """For the state file."""
        return {
            "degraded": self.degraded,
            "started": self._began_at,
            "started_monotonic": self._began,
            "main_started": self._service_started_at,
            "main_starts": self._service_starts,
            "main_exits": dict(self._service_exits),
            "presence_restarts": self._presence_deaths,
            "reload_outcomes": dict(self._outcomes),
            "reload_seconds": {"sum": self._reload_seconds, "count": sum(self._outcomes.values())},
            "last_reload": self._last_reload,
            **({"last_turn": self._last_turn} if self._last_turn else {}),
            **({} if self._is_ordered is None else {"stops": self._is_ordered}),
        }

    # starts

    def prepare_began(self) -> None:
        self._prepare_began = self._now()

    def preparing_seconds(self) -> float:
        """Seconds since the first prepare of this start began."""
        return self._now() - self._prepare_began

    def prepare_ended(self) -> None:
        self._prepare_seconds = self._now() - self._prepare_began

    def service_started(self) -> None:
        self._service_starts += 1
        self._service_started_at, self._service_since = time.time(), self._now()
        self._is_ordered = None

    def log_start(
        self, command: str, pid: int | None, settings: Settings, prepared: Mapping[str, object], *, cached: bool
    ) -> None:
        """Log one line that sums up the whole start."""
        log.info(
            "started", "started {command} pid={main_pid}", command=command, main_pid=pid, version=__version__,
            service=settings.service, id=settings.id, files=prepared.get("files"), keys=prepared.get("keys"),
            cached=cached if settings.needs_prepare else None, degraded=self.degraded or None,
            prepare_seconds=self._prepare_seconds,
        )  # fmt: skip
        self._prepare_seconds = None

    def presence_died(self) -> None:
        self._presence_deaths += 1

    # reloads

    def reload_began(self, number: int, changed: list[str] | None = None, *, turn: int = 0) -> None:
        """From now on, all lines carry the number of this reload. `changed`: files that changed because of Consul;
        `turn`: of a roll-out."""
        log.context(reload=number)
        if number == self._announced:
            return
        self._announced, self._reload_began, self._prepare_seconds, self._turn = number, self._now(), None, turn
        if changed is None:
            log.info("reload_started", "reload {reload}: begins")
        else:
            log.info("reload_started", "reload {reload}: begins, for a change", changed=",".join(changed) or None)

    def reload_worked(self) -> None:
        """All steps of the reload are done; only its confirmation is missing. That takes none of its time."""
        if self._reload_began is not None and self._worked is None:
            self._worked = self._now() - self._reload_began
            log.context(reload=None)

    def reload_ended(self, outcome: str, reason: str = "") -> None:
        """Nothing happens if no reload is open."""
        if self._reload_began is None:
            return
        seconds = self._now() - self._reload_began if self._worked is None else self._worked
        self._reload_began = self._worked = None
        self._outcomes[outcome] += 1
        self._reload_seconds += seconds
        self._last_reload = {
            "id": self._announced, "outcome": outcome, "reason": reason, "seconds": seconds, "ended": time.time(),
        }  # fmt: skip
        if self._turn:
            self._last_turn = {"turn": self._turn, "outcome": outcome, "reason": reason, "seconds": seconds}
        self.degraded = "" if outcome in QUIET else f"{outcome}: {reason}"
        number = self._announced
        if outcome == ReloadOutcome.DONE:
            log.info("reload_ended", "reload {reload}: {outcome}", reload=number, outcome=outcome, seconds=seconds)
        elif outcome in (ReloadOutcome.IN_PLACE, ReloadOutcome.GIVEN_UP):
            log.warning("reload_ended", "reload {reload}: {outcome}: {reason}", reload=number, outcome=outcome,
                        reason=reason, seconds=seconds)  # fmt: skip
        else:
            log.error("reload_ended", "reload {reload}: {outcome}: {reason}", reload=number, outcome=outcome,
                      reason=reason, seconds=seconds)  # fmt: skip
        log.context(reload=None)

    # the end

    def service_exited(self, command: str, code: int) -> None:
        self._service_exits[str(code)] = self._service_exits.get(str(code), 0) + 1
        seconds = self._now() - self._service_since
        log.info("exited", "{command} exited with status {code}", command=command, code=code, ran_seconds=seconds)

    def stop_began(self, reason: str, *, is_ordered: bool) -> None:
        """The durations of the phases are measured from here. `is_ordered`: False if the service is the reason."""
        if self._is_ordered is None:
            log.info("stopping", "stopping ({reason})", reason=reason)
        self._is_ordered, self._exit_reason, self._killed, self._phases = is_ordered, reason, False, {}

    def exit_because(self, reason: str) -> None:
        """The restart that goes on becomes a stop."""
        self._exit_reason = reason

    def phase_began(self, phase: str) -> None:
        """The phase before it has ended."""
        now = self._now()
        self._phases[self._phase] = now - self._phase_began
        self._phase, self._phase_began = phase, now

    def deregistered(self) -> None:
        log.info("deregistered", "deregistered", seconds=self._now() - self._phase_began)

    def killed(self) -> None:
        self._killed = True

    def ended_before_start(self, code: int, reason: str) -> None:
        """Log the last line of a run that ends before the service was started."""
        self.reload_ended(ReloadOutcome.FAILED, reason)
        log.error("ended", "exit {code}: {reason}", code=code, reason=reason)
        self._exit_reason = ""

    def ended(self, code: int) -> None:
        """Log the last line of any other run."""
        if not self._exit_reason:
            return
        self.phase_began(State.DONE)
        done, given_up = self._outcomes[ReloadOutcome.DONE], self._outcomes[ReloadOutcome.GIVEN_UP]
        log.info(
            "ended", "exit {code}: {reason}", code=code, reason=self._exit_reason,
            uptime_seconds=self._now() - self._began,
            reloads=done, reloads_failed=sum(self._outcomes.values()) - done - given_up,
            deregister_seconds=self._phases.get(State.DEREGISTERING), drain_seconds=self._phases.get(State.DRAINING),
            stop_seconds=self._phases.get(State.STOPPING), killed=self._killed,
        )  # fmt: skip
