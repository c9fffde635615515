"""The account of one life, for its log: when it began, how its reloads ended, how long each phase of its stop took.

Imported where there is something to tell: not by a plain init.
"""

from __future__ import annotations

from svcinit import __version__, log
from svcinit.model import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.settings.environment import Settings

DONE, FAILED, GIVEN_UP = "done", "failed", "given_up"  # how a reload ends


class Account:
    """`now` is the monotonic clock, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began = self._prepare_began = now()
        self._prepare_seconds: float | None = None
        self._reload_began: float | None = None  # of the one that goes on
        self._reloads = {DONE: 0, FAILED: 0, GIVEN_UP: 0}
        self._why = ""  # it stops
        self._killed = False
        self._phase, self._phase_began = "", 0.0  # of the stop
        self._phases: dict[str, float] = {}  # how long those took that are over

    def prepare_begins(self) -> None:
        self._prepare_began = self._now()

    def prepare_ends(self) -> None:
        self._prepare_seconds = self._now() - self._prepare_began

    def started(
        self, command: str, pid: int | None, settings: Settings, prepared: Mapping[str, object], *, cached: bool,
        degraded: str,
    ) -> None:  # fmt: skip
        """The whole start in one line. That of a restart is the last one of its reload."""
        log.info(
            "started", "started {command} pid={main_pid}", command=command, main_pid=pid, version=__version__,
            service=settings.service, id=settings.id, files=prepared.get("files"), keys=prepared.get("keys"),
            cached=cached if settings.needs_prepare else None, degraded=degraded or None,
            prepare_seconds=self._prepare_seconds,
        )  # fmt: skip
        log.context(reload=None)

    def reload_begins(self, number: int, changed: list[str] | None = None) -> None:
        """All lines are this reload's from now on."""
        self._reload_began = self._now()
        log.context(reload=number)
        if changed is None:
            log.info("reload_begins", "reload {reload}: begins")
        else:
            log.info("reload_begins", "reload {reload}: begins, for a change", changed=",".join(changed))

    def reload_ended(self, trouble: str) -> None:
        self._end_reload(trouble, FAILED if trouble else DONE)
        log.context(reload=None)

    def restarts(self) -> None:
        """The reload is done with the start that comes now."""
        self._end_reload("", DONE)

    def give_up_reload(self, why: str) -> None:
        self._end_reload(f"given up ({why})", GIVEN_UP)
        log.context(reload=None)
        self._why = why

    def stopping(self, why: str) -> None:
        """Main's end begins, and with it the count of its phases."""
        log.info("stopping", "stopping ({reason})", reason=why)
        self._why, self._killed, self._phases = why, False, {}

    def phase(self, phase: str) -> None:
        """It begins, and the former one is over."""
        now = self._now()
        self._phases[self._phase] = now - self._phase_began
        self._phase, self._phase_began = phase, now

    def deregistered(self) -> None:
        log.info("deregistered", "deregistered", seconds=self._now() - self._phase_began)

    def killed(self) -> None:
        self._killed = True

    def never_started(self, code: int, why: str) -> None:
        """The last line of a life without main."""
        self._end_reload(why, FAILED)
        log.context(reload=None)
        log.error("ended", "exit {code}: {reason}", code=code, reason=why)
        self._why = ""

    def ended(self, code: int) -> None:
        """The last line of any other."""
        if not self._why:
            return
        self.phase(State.DONE)
        log.info(
            "ended", "exit {code}: {reason}", code=code, reason=self._why, uptime_seconds=self._now() - self._began,
            reloads=self._reloads[DONE], reloads_failed=self._reloads[FAILED],
            deregister_seconds=self._phases.get(State.DEREGISTERING), drain_seconds=self._phases.get(State.DRAINING),
            stop_seconds=self._phases.get(State.STOPPING), killed=self._killed,
        )  # fmt: skip

    def _end_reload(self, trouble: str, outcome: str) -> None:
        if self._reload_began is None:  # none goes on
            return
        seconds, self._reload_began = self._now() - self._reload_began, None
        self._reloads[outcome] += 1
        if outcome == DONE:
            log.info("reload_ended", "reload {reload}: done", outcome=outcome, seconds=seconds)
        elif outcome == FAILED:
            log.error("reload_ended", "reload {reload}: {error}", error=trouble, outcome=outcome, seconds=seconds)
        else:
            log.warning("reload_ended", "reload {reload}: {error}", error=trouble, outcome=outcome, seconds=seconds)
