"""Stands for the processes of a container: the lifecycle asks it, a test answers for it."""

from __future__ import annotations

import signal
from collections.abc import Mapping

import pytest

from svcinit import log
from svcinit.handover import Refusal
from svcinit.model import Deadline, Event, Exited, Role
from svcinit.settings.parsers import Action


class FakeCrew:
    """Records what the lifecycle asks for; events come from a table, `Deadline` moves the clock to the next timer."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.log: list[str] = []
        self.running: set[str] = set()
        self.argv: tuple[str, ...] = ("main",)
        self.clock = self.quiet = 0.0
        self.verdict = self.can_roll_back = self.at_consul = True
        self.reloads: list[str] = []  # how main hears of the changes of the next verdict
        self.limits: dict[str, float] = {}
        self.changed = ["/etc/app.ini"]
        self.news = self.unfinished = self.is_done = False
        self.room = True  # for the command
        self.refusal: Refusal | None = None
        self.ready, self.registered, self.deaf = True, True, ""
        self.prepared: dict[str, object] = {"files": 1, "keys": 2}
        self.turn = 0
        self.said: list[log.Entry] = []
        self.is_pid1 = False
        self.has_room, self.waits = False, False  # for a presence before the service; does one wait for it?

    def now(self) -> float:
        return self.clock

    def wait(self, until: float | None) -> Event:
        if not self.events:
            pytest.fail(f"the container goes on after all that was to happen did: {self.log}")
        event = self.events.pop(0)
        if isinstance(event, Deadline):
            if until is None:  # pytest.fail, since the lifecycle outlives an Exception
                pytest.fail("a deadline was expected, and none is set")
            self.clock = until
        if isinstance(event, Exited):
            if event.role != Role.ORPHAN and event.role not in self.running:
                pytest.fail(f"{event.role} does not run")
            self.running.discard(event.role)
            if event.role == Role.ROLLBACK and not event.code:
                self.unfinished = False
        return event

    def alive(self, role: str) -> bool:
        return role in self.running

    def pid(self, role: str) -> int | None:
        return 1

    def no_children(self) -> bool:
        return not self.running

    def silence(self) -> float:
        return self.quiet

    def signal(self, role: str, number: int, *, group: bool = False) -> None:
        if role in self.running:
            self.log.append(f"{role}<-{signal.Signals(number).name}{' group' if group else ''}")

    def kill(self, role: str) -> None:
        self.signal(role, signal.SIGKILL)

    def suspend(self, number: int) -> None:
        self.log.append("suspended")

    def resume(self) -> None:
        self.log.append("resumed")

    def strays(self) -> int:
        return 0

    def sweep(self, number: int, *, exec_sessions: bool) -> None:
        self.log.append(f"{'all' if exec_sessions else 'ours'}<-{signal.Signals(number).name}")

    def fetching(self) -> bool:
        return self.at_consul

    def begun(self) -> bool:
        return self.unfinished

    def finished(self) -> bool:
        return self.is_done

    def take_verdict(self) -> bool:
        return self.verdict

    def is_ready(self) -> bool:
        return self.ready

    def unhandled(self, number: int) -> str:
        return self.deaf

    def forget(self) -> None:
        pass

    def has_news(self) -> bool:
        return self.news

    def take_refusal(self) -> Refusal | None:
        refusal, self.refusal = self.refusal, None
        return refusal

    def take_news(self) -> bool:
        self.news = False
        self.log.append("news")
        return self.verdict

    def notified(self) -> None:
        self.reloads = []
        self.log.append("told")

    def report(self, facts: Mapping[str, object]) -> float | None:
        return None

    def executed(self) -> bool | None:
        return True

    def is_registered(self) -> bool:
        return self.registered

    def start_rollback(self) -> bool:
        self._start(Role.ROLLBACK)
        return self.can_roll_back

    def start_prepare(self, *, seconds: float, fallback: str = "") -> None:
        self.unfinished = False  # it puts back first
        self._start(Role.PREPARE, fallback)

    def start_main(self) -> bool:
        if self.room:
            self._start(Role.MAIN)
        return self.room

    def expect_presence(self) -> None:
        if self.has_room:
            self.has_room, self.waits = False, True
            self._start(Role.PRESENCE, "ahead")

    def make_room(self) -> None:
        if self.waits:
            self.kill(Role.PRESENCE)

    def start_presence(self) -> None:
        self.waits = False
        self._start(Role.PRESENCE)

    def start_metrics(self) -> None:
        self._start(Role.METRICS)

    def start_verify(self) -> None:
        self._start(Role.VERIFY)

    def start_deregister(self) -> None:
        self._start(Role.DEREGISTER)

    def start_hook(self, argv: tuple[str, ...]) -> None:
        self._start(Role.HOOK, argv[0])

    def start_action(self, action: Action, seconds: float | None = None) -> None:
        self._start(Role.ACTION, action.text or action.argv[0])

    def _start(self, role: str, what: str = "") -> None:
        self.running.add(role)
        self.log.append(f"+{role}{':' + what if what else ''}")
