"""What the transitions of a reload do: prepare, hook, tell main, verify; or put the files back.

A reload begins with a HUP, or with news: files that presence has changed already, because something changed in Consul.
"""

from __future__ import annotations

from svcinit import log
from svcinit.errors import EX_OK
from svcinit.lifecycle.steps import SLACK, State, Steps
from svcinit.processes.init import Role
from svcinit.settings.parsers import reload_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.settings.parsers import Action

DISRUPTION = {"none": 0, "signal": 1, "write": 2, "exec": 2, "restart": 3}


class Reloads(Steps):
    """The steps of a container's life, those of its reloads included."""

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
            self.crew.told()
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
        self.pending = self.ways()
        self.tell_reload()

    def tell_reload(self) -> None:
        """Tell main in each of the ways that are left, one after the other."""
        while self.pending:
            action = self.pending.pop(0)
            if action.kind == "restart":
                self.restarting = True
                self.stop("restart")
                return
            if self.act(action):
                self.begin(Role.ACTION, self.settings.reload_timeout)
                return
        self.told()

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
        self.crew.told()
        trouble = self.taken_back or self.outcome
        self.taken_back = ""
        self.end_reload(trouble)

    def verified(self, code: int) -> None:
        """Where the service's check does not succeed with the new files it is told again, of the former ones."""
        if code == EX_OK:
            self.crew.told()
            self.end_reload("")
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
        fate = f"putting the files back failed with status {code}" if code else "the files were put back"
        if self.taken_back:
            self.taken_back += f"; {fate}"
            self.pending = [self.settings.reload]
            self.tell_reload()
            return
        self.end_reload(f"{self.outcome}; {fate}")

    def end_reload(self, trouble: str) -> None:
        """The reload is over: well if there was no `trouble`, else svcinit is degraded until one ends well."""
        self.end_job()
        self.outcome = trouble
        self.served = self.serving_hups
        self.state = State.RUNNING
        self.tally.reload_ended(self.crew.now(), self.reloads, trouble)
        self.account.reload_ended(trouble)
        if self.again:
            self.reload()
        elif self.news:
            self.take_news()
