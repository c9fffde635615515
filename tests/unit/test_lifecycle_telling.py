"""When a command is told of a reload: not before it is ready, and by no signal that would end it."""

from __future__ import annotations

import signal

import pytest

from fake_crew import FakeCrew
from svcinit.errors import Outcome
from svcinit.lifecycle.reload import HANDLER_TIMEOUT, POLL_INTERVAL
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Deadline, Event, Exited, Role, Signalled
from svcinit.settings import environment

TERM, HUP = signal.SIGTERM, signal.SIGHUP
WEB = {
    "SVCINIT_SERVICE": "web",
    "SVCINIT_PORT": "8000",
    "SVCINIT_CACHE": "",
    "SVCINIT_KV_PREFIX": "",
    "SVCINIT_PORT_CHECK": "0",
    "SVCINIT_DRAIN": "0s",
}
READY = {**WEB, "SVCINIT_READY": "tcp"}
DEAF = "sh (pid 7)"
NEVER = 1e9
Timed = tuple[float, Event]


class Timeline(FakeCrew):
    """Events with the second at which they happen; main is ready, and handles its signal, from a second on."""

    def __init__(self, events: list[Timed], ready: float = 0.0, handles: float = 0.0, deaf: float = NEVER) -> None:
        super().__init__([event for _, event in events])
        self.times = [second for second, _ in events]
        self.ready_from, self.handles_from, self.deaf_from = ready, handles, deaf
        self.told_at: list[int] = []  # seconds

    def wait(self, until: float | None) -> Event:
        if until is not None and until < self.times[0]:
            self.clock = until
            return Deadline()
        self.clock = max(self.clock, self.times.pop(0))
        return super().wait(None)

    def signal(self, role: str, number: int, *, group: bool = False) -> None:
        if number == HUP:
            self.told_at.append(int(self.clock))
        super().signal(role, number, group=group)

    def start_action(self, action: object, seconds: float | None = None) -> None:
        self.told_at.append(int(self.clock))
        super().start_action(action, seconds)  # type: ignore[arg-type]

    def is_ready(self) -> bool:
        return self.clock >= self.ready_from

    def unhandled(self, number: int) -> str:
        return "" if self.handles_from <= self.clock < self.deaf_from else DEAF


def stop(second: float) -> list[Timed]:
    return [(second, Signalled(TERM)), (second, Exited(Role.PRESENCE, 0)), (second, Exited(Role.MAIN, 0))]


def live(env: dict[str, str], events: list[Timed], **facts: float) -> tuple[Timeline, Lifecycle]:
    crew = Timeline(events, **facts)
    life = Lifecycle(environment.read(env), crew)
    assert life.run() in (0, 69)
    assert not crew.events
    return crew, life


def test_a_hup_to_a_service_that_still_starts_is_told_when_it_is_ready() -> None:
    crew, life = live(READY, [(0.4, Signalled(HUP)), *stop(20)], ready=12.0)
    assert crew.told_at == [12.0]
    assert life.history.facts()["reload_outcomes"]["done"] == 1  # type: ignore[index]


def test_hups_while_it_waits_to_become_ready_make_exactly_one_more_reload() -> None:
    crew, _ = live(READY, [(second, Signalled(HUP)) for second in (0.4, 1.0, 2.0, 3.0)] + stop(20), ready=12.0)
    assert crew.told_at == [12.0, 12.0]


@pytest.mark.parametrize("way", ["exec:tell", "write:/fifo:c"])
def test_a_command_or_a_fifo_waits_for_ready_as_a_signal_does(way: str) -> None:
    events = [(0.4, Signalled(HUP)), (13.0, Exited(Role.ACTION, 0)), *stop(20)]
    assert live({**READY, "SVCINIT_RELOAD": way}, events, ready=12.0)[0].told_at == [12.0]


def test_a_restart_waits_for_nobody() -> None:
    again: list[Timed] = [(0.5, Exited(Role.PRESENCE, 0)), (0.5, Exited(Role.MAIN, 0))]
    crew, _ = live({**READY, "SVCINIT_RELOAD": "restart"}, [(0.4, Signalled(HUP)), *again, *stop(9)], ready=NEVER)
    assert crew.log.count("+main") == 2


def test_a_service_that_never_becomes_ready_is_stopped_in_the_middle_of_a_reload() -> None:
    gone: list[Timed] = [
        (60, Exited(Role.PRESENCE, Outcome.NOT_READY)),
        (60, Exited(Role.DEREGISTER, Outcome.NOT_REGISTERED)),
    ]
    crew, life = live(READY, [(0.4, Signalled(HUP)), *gone, (60, Exited(Role.MAIN, 0))], ready=NEVER)
    assert (life.code, crew.told_at) == (69, [])


def test_a_reload_does_not_wait_for_ready_for_ever() -> None:
    """Such as where presence, which is to look, dies again and again."""
    crew, life = live({**READY, "SVCINIT_START_TIMEOUT": "60s"}, [(0.4, Signalled(HUP)), *stop(100)], ready=NEVER)
    assert crew.told_at == []
    assert life.history.degraded == "failed: SVCINIT_READY has not succeeded yet; the next HUP tries again"
    assert life.history.facts()["reload_seconds"]["sum"] == pytest.approx(64.6, abs=2 * POLL_INTERVAL)  # type: ignore[index]


def test_a_stop_while_a_reload_waits_to_be_told_is_obeyed_at_once() -> None:
    for facts in ({"ready": NEVER}, {"handles": NEVER}):
        crew, _ = live(READY, [(0.4, Signalled(HUP)), *stop(1.0)], **facts)
        assert crew.told_at == []
        assert crew.log[-2:] == ["presence<-SIGTERM", "main<-SIGTERM"]


def test_a_signal_that_would_end_the_service_is_not_sent_and_the_fault_says_what_to_set() -> None:
    crew, life = live(WEB, [(100, Signalled(HUP)), *stop(120)], handles=NEVER)
    assert crew.told_at == []
    assert life.history.degraded == (
        f"failed: {DEAF} does not handle HUP, and would end by it: not sent; "
        "set SVCINIT_RELOAD, or reload= of the template, to restart, none or exec:COMMAND"
    )
    facts = life.history.facts()
    assert facts["reload_outcomes"]["failed"] == 1  # type: ignore[index]
    assert facts["reload_seconds"]["sum"] == pytest.approx(HANDLER_TIMEOUT, abs=2 * POLL_INTERVAL)  # type: ignore[index]
    assert "told" not in crew.log[crew.log.index("+presence") :], "what changed is still due"


def test_a_service_that_is_about_to_install_its_handler_gets_the_time() -> None:
    assert live(WEB, [(0.1, Signalled(HUP)), *stop(20)], handles=2.0)[0].told_at == [2]


def test_a_service_that_loads_itself_anew_gets_all_of_the_reloads_time() -> None:
    """As uwsgi does by exec(2) at a HUP: until its application is loaded it has no handler again."""

    class Reloading(Timeline):
        def unhandled(self, number: int) -> str:
            return DEAF if 100.5 < self.clock < 120 else ""

    crew = Reloading([(100, Signalled(HUP)), (101, Signalled(HUP)), *stop(200)])
    assert Lifecycle(environment.read(WEB), crew).run() == 0
    assert crew.told_at == [100, 120]


def test_the_next_hup_tries_again() -> None:
    crew, life = live(WEB, [(100, Signalled(HUP)), (200, Signalled(HUP)), *stop(220)], handles=150.0)
    assert (crew.told_at, life.history.degraded) == ([200], "")


def test_a_plain_init_and_the_stop_ask_nobody() -> None:
    crew = Timeline([(1, Signalled(HUP)), (2, Exited(Role.MAIN, 129))], handles=NEVER)
    assert Lifecycle(environment.read({}), crew).run() == 129
    assert crew.told_at == [1]
    assert live(WEB, stop(3), handles=NEVER)[0].log[-1] == "main<-SIGTERM"


def test_a_rolled_back_reload_that_cannot_be_notified_again_has_that_outcome() -> None:
    env = {**WEB, "SVCINIT_RELOAD_VERIFY": "5s"}
    crew = Timeline(
        [
            (9, Signalled(HUP)),
            (14, Exited(Role.VERIFY, Outcome.NOT_PASSING)),
            (15, Exited(Role.ROLLBACK, 0)),
            *stop(99),
        ],
        deaf=10.0,
    )
    life = Lifecycle(environment.read(env), crew)
    life.run()
    assert crew.told_at == [9]
    assert life.history.degraded.startswith("rolled_back: ")
    assert DEAF in life.history.degraded


@pytest.mark.parametrize("code", [1, 69, 70, 143])
def test_a_check_after_a_reload_that_died_is_no_verdict_on_the_service(code: int) -> None:
    env = {**WEB, "SVCINIT_RELOAD_VERIFY": "5s"}
    crew, life = live(env, [(9, Signalled(HUP)), (10, Exited(Role.VERIFY, code)), *stop(99)])
    assert "+rollback" not in crew.log
    assert life.history.degraded == f"failed: the process for SVCINIT_RELOAD_VERIFY died with status {code}"


@pytest.mark.parametrize("code", [Outcome.NOT_REGISTERED, 69, 75, 78, 143, 0])
def test_a_presence_that_ends_for_any_reason_but_readiness_is_started_again_and_the_service_runs_on(code: int) -> None:
    crew, life = live(READY, [(9, Exited(Role.PRESENCE, code)), *stop(99)])
    assert (life.code, crew.log.count("+presence"), crew.log.count("main<-SIGTERM")) == (0, 2, 1)


def test_a_stop_does_not_trust_that_what_was_not_ready_is_not_registered() -> None:
    events: list[Timed] = [
        (9, Signalled(TERM)),
        (9, Exited(Role.PRESENCE, Outcome.NOT_READY)),
        (9, Exited(Role.DEREGISTER, 0)),
        (9, Exited(Role.MAIN, 0)),
    ]
    assert live(READY, events)[0].log[-2:] == ["+deregister", "main<-SIGTERM"]


def test_outcomes_of_children_are_told_apart() -> None:
    from svcinit import errors

    own = [value for name, value in vars(Outcome).items() if name.isupper()]
    others = [value for name, value in vars(errors).items() if name.isupper() and type(value) is int]
    assert len({*own, *others}) == len(own) + len(others)
    assert all(79 <= value < 126 for value in own)
