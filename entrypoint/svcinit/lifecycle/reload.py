"""What the transitions of a reload do: prepare, hook, tell main, verify; or put the files back.

A reload begins with a HUP, or with news: files that presence has changed already, because something changed in Consul.
"""

from __future__ import annotations

from svcinit import log
from svcinit.errors import EX_CONFIG, EX_OK, EX_SOFTWARE, Outcome
from svcinit.lifecycle.steps import BEAT, RETRY, SLACK
from svcinit.lifecycle.stop import Stops
from svcinit.model import Exited, Role, State
from svcinit.settings.parsers import reload_option, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.settings.parsers import Action

LOOK = 0.1  # seconds between two looks at whether main can be told now
HANDLES_WITHIN = 5.0  # seconds that a command which was never told gets to install its handler
DISRUPTION = {"none": 0, "signal": 1, "write": 2, "exec": 2, "restart": 3}


class Reloads(Stops):
    """The steps of a container's life, those of its stop and its reloads included."""

    def reload(self) -> None:
        self.state, self.by_hup = State.RELOADING, True
        self.again = False
        self.reloads += 1
        self.tally.reload_began(self.crew.now())
        self.serving_hups = self.hups
        self.account.reload_begins(self.reloads)
        if self.settings.needs_prepare:
            self.begin(Role.PREPARE, self.settings.reload_timeout)
            self.prepare()
        else:
            self.pre_reload_hook()

    def pre_reload_hook(self, trouble: str = "") -> None:
        self.outcome = trouble
        if trouble:
            log.warning("degraded", "reload {reload}: {error}", error=trouble)
        if self.settings.pre_reload:
            self.begin(Role.HOOK, self.settings.reload_timeout)
            self.crew.start_hook(self.settings.pre_reload)
        else:
            self.forward()

    def take_news(self) -> None:
        """Presence has prepared a change: main is told, unless no changed file asks for that."""
        self.news = False
        if not self.crew.has_news():
            return
        if not self.crew.take_news():
            self.reload()
            return
        self.state, self.by_hup = State.RELOADING, False
        self.reloads += 1
        self.tally.reload_began(self.crew.now())
        self.account.reload_begins(self.reloads, self.crew.changed)
        log.replay(self.crew.said)
        if self.ways():
            self.pre_reload_hook()
        else:
            self.crew.notified()
            self.end_reload("")

    def ways(self) -> list[Action]:
        """How main is to be told: a HUP's reload by SVCINIT_RELOAD at least, a change as the changed templates ask; the
        most disruptive ones win."""
        asked = [reload_option(how) if how else self.settings.reload for how in self.crew.reloads]
        found = {DISRUPTION[way.kind]: [] for way in asked}  # type: dict[int, list[Action]]
        for way in [self.settings.reload] * self.by_hup + asked:
            same = found.setdefault(DISRUPTION[way.kind], [])
            if way.key not in [other.key for other in same]:
                same.append(way)
        worst = max(found, default=0)
        return found[worst] if worst else []

    def forward(self) -> None:
        self.end_job()
        self.tell(self.ways())

    def tell(self, ways: list[Action]) -> None:
        now, limit = self.crew.now(), self.settings.reload_timeout
        self.pending = ways
        self.tell_until = max(now + limit, self.main_since + self.settings.start_timeout + BEAT)
        self.await_ready()

    def await_ready(self) -> None:
        """Main still starts and may have no handler yet: it is told when SVCINIT_READY has succeeded."""
        now, limit = self.crew.now(), self.settings.reload_timeout
        if not self.pending or self.pending[0].kind == "restart" or self.crew.is_ready():
            self.tell_until = now + (limit if self.handled else min(limit, HANDLES_WITHIN))
            self.tell_reload()
        elif now < self.tell_until:
            self.hold("ready", "SVCINIT_READY has not succeeded yet")
        else:
            self.not_told("SVCINIT_READY has not succeeded yet; the next HUP tries again")

    def tell_reload(self) -> None:
        """Tell main in each of the ways that are left, one after the other."""
        while self.pending:
            action = self.pending[0]
            if action.kind == "restart":
                self.restarting = True
                self.stop("restart")
                return
            if action.kind == "signal":
                if who := self.crew.unhandled(action.signal):
                    self.keep_from(who, signal_name(action.signal))
                    return
                self.handled = True
            self.pending.pop(0)
            if self.act(action):
                self.begin(Role.ACTION, self.settings.reload_timeout)
                return
        self.told()

    def keep_from(self, who: str, name: str) -> None:
        """The signal would end that process, which gets some time: it may be about to install its handler."""
        lacks = f"{who} does not handle {name}, and would end by it"
        if self.crew.now() < self.tell_until:
            self.hold("tell", lacks)
            return
        todo = "set SVCINIT_RELOAD, or reload= of the template, to restart, none or exec:COMMAND"
        self.not_told(f"{lacks}: not sent; {todo}")

    def hold(self, timer: str, why: str) -> None:
        """Look again in a moment."""
        if not self.held:
            log.info("reload_waits", "reload {reload}: waits before it tells the service: {error}", error=why)
        self.held = True
        self.timers[timer] = self.crew.now() + LOOK

    def not_told(self, why: str) -> None:
        """Main goes on as it was; what changed stays due."""
        self.end_reload(f"{self.taken_back}; {why}" if self.taken_back else f"SVCINIT_RELOAD failed: {why}")

    def acted(self, code: int) -> None:
        """Main was told to reload, or could not be: then the changes stay due, and the next HUP tells it again."""
        if code:
            self.end_reload(f"SVCINIT_RELOAD failed with status {code}; the next HUP tries again")
        else:
            self.tell_reload()

    def told(self) -> None:
        if self.settings.reload_verify and not self.outcome and not self.taken_back:
            self.begin(Role.VERIFY, self.settings.reload_verify + SLACK)
            self.crew.start_verify()
            return
        self.crew.notified()
        self.end_reload(self.taken_back or self.outcome)

    def verified(self, code: int) -> None:
        """Where the service's check does not succeed with the new files it is told again, of the former ones."""
        if code != Outcome.NOT_PASSING and not self.late:
            self.crew.notified()
            self.end_reload(f"SVCINIT_RELOAD_VERIFY could not look: it died with status {code}" if code else "")
            return
        self.taken_back = "taken back: SVCINIT_CHECK did not succeed within SVCINIT_RELOAD_VERIFY"
        log.error("taken_back", "reload {reload}: {error}", error=self.taken_back)
        self.undo(self.taken_back)

    def undo(self, why: str) -> None:
        """Put the files back as they were before the reload that ends because of `why`."""
        self.outcome = why
        if self.crew.start_undo():
            self.begin(Role.UNDO, self.settings.reload_timeout)
        else:
            self.end_reload(why)

    def undone(self, code: int) -> None:
        if self.undo_again(code):
            return
        fate = f"putting the files back failed with status {code}" if code else "the files were put back"
        if self.taken_back:
            self.taken_back += f"; {fate}"
            self.tell([self.settings.reload])
            return
        self.end_reload(f"{self.outcome}; {fate}")

    def roll_back(self, code: int) -> None:
        """Prepare ended in the middle of its files: what its `code` leads to goes by the former ones."""
        self.unprepared = code
        self.begin(Role.UNDO, self.settings.reload_timeout)
        self.crew.start_undo()

    def rolled_back(self, status: int) -> None:
        if self.undo_again(status):
            return
        code, self.unprepared = self.unprepared, EX_OK
        trouble = f"putting the files back failed with status {status}"
        if not status:
            self.job = Role.PREPARE
            self.on(Exited(Role.PREPARE, code))
        elif self.state == State.RELOADING:
            self.end_reload(f"aborted: the service was not told; {trouble}")
        else:
            self.leave(EX_CONFIG, f"{trouble}; the service was not started")

    def undo_again(self, code: int) -> bool:
        """It could not be started, or died: until its time is over."""
        if code != EX_SOFTWARE or "job" not in self.timers:
            return False
        self.timers["retry"] = self.crew.now() + RETRY
        return True

    def end_reload(self, trouble: str) -> None:
        """The reload is over: well if there was no `trouble`, else svcinit is degraded until one ends well."""
        self.end_job()
        self.outcome, self.taken_back, self.held = trouble, "", False
        self.served = self.serving_hups
        self.state = State.RUNNING
        self.tally.reload_ended(self.crew.now(), self.reloads, trouble)
        self.account.reload_ended(trouble)
        if self.again:
            self.reload()
        elif self.news:
            self.take_news()
