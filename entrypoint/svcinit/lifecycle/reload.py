"""What the transitions of a reload do: prepare, run the hook, notify the service, verify; or roll the files back.

A reload begins with a HUP, or with news: presence has changed files because something changed in Consul. It ends when
the service has survived: CONFIRM_AFTER seconds after it was notified, or, after a restart, when it is ready and
registered again.
"""

from __future__ import annotations

from svcinit import log
from svcinit.errors import Outcome
from svcinit.lifecycle.job import COMMAND_MARGIN, PREPARE_MARGIN
from svcinit.lifecycle.residents import HEARTBEAT_INTERVAL
from svcinit.model import ReloadOutcome, Role, State
from svcinit.settings.parsers import reload_option, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.handover import Refusal
    from svcinit.lifecycle.table import Lifecycle
    from svcinit.settings.parsers import Action

POLL_INTERVAL = 0.1  # seconds between two looks at whether the service can be notified, or serves again
HANDLER_TIMEOUT = 5.0  # seconds in which a service that was never notified can install its handler
CONFIRM_AFTER = 5.0  # seconds after a notification in which an exit of the service is the reload's failure
UNCHANGED = "the files are unchanged; the service was not notified"
DISRUPTION = {"none": 0, "signal": 1, "write": 2, "exec": 2, "restart": 3}


class Reload:
    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle, self.settings = lifecycle, lifecycle.settings
        self.crew, self.job = lifecycle.crew, lifecycle.job
        self.number = 0
        self.is_open = False
        self.is_confirmed_later = False  # the service was notified, and has to survive that for some seconds
        self.due = False  # a HUP arrived that could not be served at once: exactly one more reload is owed
        self.news = False  # presence has prepared a change that is not taken over yet
        self.hups = 0  # HUPs that arrived; `served` of them by reloads that have ended, whatever their outcome
        self.served = self._serving = 0
        self.outcome, self.reason = ReloadOutcome.DONE, ""  # of the open reload, if nothing else goes wrong
        self._by_hup = True  # and not by news
        self._actions: list[Action] = []  # how the service is notified
        self._pending: list[Action] = []  # those of `_actions` that are not done yet
        self._notify_until = 0.0  # when the service counts as one that cannot be notified
        self._waits_logged = False
        self._handles = False  # the service was notified by a signal before: it has a handler, or will have it again
        self._notified_at: float | None = None  # None: the service was not notified by the open reload
        self._restarts = False
        self._serving_until = 0.0  # when a restarted service has to be ready and registered

    # begin

    def begin(self) -> None:
        """By a HUP."""
        self.settle()
        self._open(by_hup=True)
        self.due = False
        self.serve_hups()
        self.lifecycle.history.reload_began(self.number)
        if self.settings.needs_prepare:
            self.lifecycle.preparation.begin(self.settings.reload_timeout)
        else:
            self._run_hook()

    def serve_hups(self) -> None:
        """What is read from now on is new enough for all HUPs so far."""
        self._serving = self.hups

    def take_news(self) -> None:
        """Presence has prepared a change. The service is notified, unless no changed file asks for it."""
        self.news = False
        if not self.crew.has_news():
            return
        self.settle()
        refusal = self.crew.take_refusal()
        if refusal is not None:
            self._refused(refusal)
            return
        if not self.crew.take_news():
            self.begin()
            return
        self._open(by_hup=False)
        self.lifecycle.history.reload_began(self.number, self.crew.changed, turn=self.crew.turn)
        log.replay(self.crew.said)
        if self.reload_actions():
            self._run_hook()
        else:
            self.crew.notified()
            self.end(ReloadOutcome.DONE)

    def _refused(self, refusal: Refusal) -> None:
        """A change that cannot be prepared is the same failure as a HUP that cannot be prepared."""
        self._open(by_hup=False)
        self.lifecycle.history.reload_began(self.number, [], turn=refusal.turn)
        log.replay(refusal.said)
        self.end(ReloadOutcome.ABORTED, f"{refusal.reason}; {UNCHANGED}" if refusal.turn else UNCHANGED)

    def _open(self, *, by_hup: bool) -> None:
        self.lifecycle.state, self.is_open = State.RELOADING, True
        self.number += 1
        self.outcome, self.reason, self._by_hup = ReloadOutcome.DONE, "", by_hup
        self._waits_logged = self._restarts = False
        self._notified_at, self._actions = None, []

    # before the service is notified

    def prepared(self) -> None:
        if self.lifecycle.preparation.take():
            self._run_hook()

    def without_consul(self) -> None:
        """New code is deployed all the same."""
        self.outcome = ReloadOutcome.IN_PLACE
        self.reason = "no usable answer from Consul; the files are unchanged"
        self._run_hook()

    def _run_hook(self) -> None:
        self.job.run_hook(self.settings.pre_reload, self.settings.reload_timeout, self.notify)

    def refused(self) -> None:
        """Prepare found an error that a person has to correct."""
        self.end(ReloadOutcome.ABORTED, UNCHANGED)

    def hook_failed(self, code: int) -> None:
        self._roll_back(ReloadOutcome.ABORTED, f"SVCINIT_PRE_RELOAD failed with status {code}")

    def notify(self) -> None:
        self.job.end()
        self._notify(self.reload_actions())

    def reload_actions(self) -> list[Action]:
        """How the service is notified: at a HUP at least by SVCINIT_RELOAD, of a change as the changed templates ask.
        Only the most disruptive actions are used."""
        asked = [reload_option(how) if how else self.settings.reload for how in self.crew.reloads]
        found = {DISRUPTION[action.kind]: [] for action in asked}  # type: dict[int, list[Action]]
        for action in [self.settings.reload] * self._by_hup + asked:
            same = found.setdefault(DISRUPTION[action.kind], [])
            if action.key not in [other.key for other in same]:
                same.append(action)
        worst = max(found, default=0)
        return found[worst] if worst else []

    # notify

    def _notify(self, actions: list[Action]) -> None:
        now, limit = self.crew.now(), self.settings.reload_timeout
        self._actions, self._pending = actions, list(actions)
        ready_by = self.lifecycle.start.service_since + self.settings.start_timeout + HEARTBEAT_INTERVAL
        self._notify_until = max(now + limit, ready_by)
        self.await_ready()

    def await_ready(self) -> None:
        """A service that still starts may have no handler yet: it is notified after SVCINIT_READY has succeeded."""
        now, limit = self.crew.now(), self.settings.reload_timeout
        if not self._pending or self._pending[0].kind == "restart" or self.crew.is_ready():
            self._notify_until = now + (limit if self._handles else min(limit, HANDLER_TIMEOUT))
            self.act()
        elif now < self._notify_until:
            self._wait("ready", "SVCINIT_READY has not succeeded yet")
        else:
            self._not_notified("SVCINIT_READY has not succeeded yet; the next HUP tries again")

    def act(self) -> None:
        """Do the pending actions, one after the other."""
        while self._pending:
            action = self._pending[0]
            if action.kind == "restart":
                self._restarts = self.lifecycle.stop.restarting = True
                self.lifecycle.stop.begin("restart")
                return
            if action.kind == "signal":
                if process := self.crew.unhandled(action.signal):
                    self._keep_from(process, signal_name(action.signal))
                    return
                self._handles = True
            self._pending.pop(0)
            if action.kind == "signal":
                self.crew.signal(Role.MAIN, action.signal, group=self.settings.signal_group)
                self._notified_at = self.crew.now()
            elif action.kind in ("write", "exec"):
                self._notified_at = self.crew.now()
                self._run(action)
                return
        self._notified()

    def _run(self, action: Action) -> None:
        """A command may take `timeout=` of the templates that ask for it, by default SVCINIT_RELOAD_TIMEOUT."""
        asked = [seconds for how, seconds in self.crew.limits.items() if reload_option(how).key == action.key]
        limit = max(asked, default=self.settings.reload_timeout)
        margin = COMMAND_MARGIN if action.kind == "exec" else 0.0
        self.job.begin(Role.ACTION, limit + margin, lambda: self.crew.start_action(action, limit))

    def _keep_from(self, process: str, name: str) -> None:
        """The signal would end that process, which gets some time: it may be about to install its handler."""
        lacks = f"{process} does not handle {name}, and would end by it"
        if self.crew.now() < self._notify_until:
            self._wait("notify", lacks)
            return
        advice = "set SVCINIT_RELOAD, or reload= of the template, to restart, none or exec:COMMAND"
        self._not_notified(f"{lacks}: not sent; {advice}")

    def _wait(self, timer: str, reason: str) -> None:
        if not self._waits_logged:
            log.info("reload_waiting", "reload {reload}: waits before it notifies the service: {reason}", reason=reason)
        self._waits_logged = True
        self.lifecycle.timers[timer] = self.crew.now() + POLL_INTERVAL

    def _not_notified(self, reason: str) -> None:
        """The service runs on as it was. The changes stay due."""
        if self.outcome == ReloadOutcome.ROLLED_BACK:
            self.end(self.outcome, f"{self.reason}; {reason}")
        else:
            self.end(ReloadOutcome.FAILED, reason)

    def acted(self, code: int) -> None:
        """The command of SVCINIT_RELOAD has ended. If it failed, the changes stay due, and the next HUP tries again."""
        if code:
            self.end(ReloadOutcome.FAILED, f"SVCINIT_RELOAD failed with status {code}; the next HUP tries again")
        else:
            self._notified_at = self.crew.now()
            self.act()

    # after the notification

    def _notified(self) -> None:
        if not self._verify():
            self.crew.notified()
            self._confirm()

    def service_started(self, *, restarted: bool) -> None:
        """Without a preparation, the start serves all HUPs so far."""
        self._handles = False
        if not self.settings.needs_prepare:
            self.due = False
            self.serve_hups()
        if not restarted:
            self.served = self._serving
            self.crew.notified()
            return
        self.lifecycle.state = State.RELOADING
        self._notified_at = self.crew.now()
        if not self._verify():
            self.crew.notified()
            ready_within = self.settings.start_timeout + HEARTBEAT_INTERVAL if self._has_ready else 0.0
            self._serving_until = self._notified_at + ready_within + self.settings.reload_timeout

    def go_on(self, *, restarted: bool) -> None:
        """After a start of the service: with the reload that restarted it, or with one that became due meanwhile."""
        if not restarted:
            self.begin_next()
        elif self.job.role != Role.VERIFY:
            self.await_service()

    def await_service(self) -> None:
        """A restarted service has to become ready, and its registration has to come back."""
        now = self.crew.now()
        ready = self.crew.is_ready()
        if ready and self.crew.is_registered():
            self._confirm()
        elif now < self._serving_until:
            self.lifecycle.timers["serving"] = now + POLL_INTERVAL
        elif ready:
            limit = f"SVCINIT_RELOAD_TIMEOUT={self.settings.reload_timeout:g}s"
            self.end(ReloadOutcome.FAILED, f"the service was restarted, but was not registered again within {limit}")
        else:
            self.end(ReloadOutcome.FAILED, "the service was restarted, but SVCINIT_READY has not succeeded")

    @property
    def _has_ready(self) -> bool:
        return self.settings.ready.kind != "none"

    def _verify(self) -> bool:
        """Start SVCINIT_RELOAD_VERIFY, if it is set and this is the first notification of the reload."""
        limit = self.settings.reload_verify
        if limit and self.outcome == ReloadOutcome.DONE:
            self.job.begin(Role.VERIFY, limit + PREPARE_MARGIN, self.crew.start_verify)
            return True
        return False

    def verified(self, code: int) -> None:
        """If the check of the service does not succeed with the new files, the service is notified of the old ones."""
        if code != Outcome.NOT_PASSING and not self.job.late:
            if code:
                self.outcome = ReloadOutcome.FAILED
                self.reason = f"the process for SVCINIT_RELOAD_VERIFY died with status {code}"
            self.crew.notified()
            self._confirm(verified=not code)
            return
        reason = "SVCINIT_CHECK did not succeed within SVCINIT_RELOAD_VERIFY"
        log.error("verify_failed", "reload {reload}: {reason}", reason=reason)
        self._roll_back(ReloadOutcome.ROLLED_BACK, reason)

    def _roll_back(self, outcome: str, reason: str) -> None:
        """Put the files back as they were before this reload."""
        self.outcome, self.reason = outcome, reason
        self.job.expect(Role.ROLLBACK, self.settings.reload_timeout, self.crew.start_rollback)
        if not self.crew.start_rollback():
            self.end(outcome, reason)

    def rolled_back(self, code: int) -> None:
        if self.job.can_retry(code):
            self.job.retry()
            return
        self.reason += (
            f"; the rollback of the files failed with status {code}" if code else "; the files were rolled back"
        )
        if self.outcome == ReloadOutcome.ROLLED_BACK:
            self.job.end()
            self._notify(self._actions)
            return
        self.end(self.outcome, self.reason)

    def _confirm(self, *, verified: bool = False) -> None:
        """The service was notified. The reload ends when the service has survived that."""
        self.job.end()
        self.lifecycle.history.reload_worked()
        self.lifecycle.state, self.is_confirmed_later = State.RUNNING, True
        if self._notified_at is None or (self._restarts and (verified or self._has_ready)):
            self.settle()
        else:
            self.lifecycle.timers["confirm"] = max(self.crew.now(), self._notified_at + CONFIRM_AFTER)
        self.begin_next()

    # end

    def settle(self) -> None:
        """End a reload that only waits for its confirmation."""
        if self.is_confirmed_later:
            self._close(self.outcome, self.reason)

    def end(self, outcome: str, reason: str = "") -> None:
        self.job.end()
        self.lifecycle.state = State.RUNNING
        self._close(outcome, reason)
        self.begin_next()

    def give_up(self, reason: str) -> None:
        """The service is about to be stopped because of `reason`."""
        self.settle()
        if self.is_open:
            self._close(ReloadOutcome.GIVEN_UP, reason)

    def service_exited(self, code: int) -> None:
        if self.is_open and self._notified_at is not None:
            seconds = self.crew.now() - self._notified_at
            done = "restarted" if self._restarts else "notified"
            self._close(
                ReloadOutcome.FAILED, f"the service exited with status {code}, {seconds:.1f} s after it was {done}"
            )

    def service_not_ready(self) -> None:
        if self.is_open and self._restarts:
            self._close(ReloadOutcome.FAILED, "SVCINIT_READY did not succeed within SVCINIT_START_TIMEOUT")

    def _close(self, outcome: str, reason: str) -> None:
        self.is_open = self.is_confirmed_later = False
        self.lifecycle.timers.pop("confirm", None)
        self.lifecycle.timers.pop("serving", None)
        self.served = self._serving
        self.lifecycle.history.reload_ended(outcome, reason)

    def begin_next(self) -> None:
        """Begin what became due meanwhile. Before the start of the service is logged, that is left to its log."""
        if not self.lifecycle.start.is_logged or self.lifecycle.state != State.RUNNING:
            return
        if self.due:
            self.begin()
        elif self.news:
            self.take_news()
