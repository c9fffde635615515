"""A prepare that ends in the middle of its files, as the lifecycle sees it: no processes, no clock."""

from __future__ import annotations

import signal

from fake_crew import FakeCrew
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Deadline, Event, Exited, Role, Signalled
from svcinit.settings import environment

FULL = {"SVCINIT_KV_PREFIX": "config/web", "SVCINIT_CACHE": "", "SVCINIT_PRE_RELOAD": "migrate"}
STARTED: list[Event] = [Exited(Role.PREPARE, 0)]
HUP, TERM = Signalled(signal.SIGHUP), Signalled(signal.SIGTERM)


class Life(Lifecycle):
    """Goes on until there are no more events."""

    crew: FakeCrew

    def next_event(self) -> Event:
        event = super().next_event()
        if not self.crew.events:
            self.on(event)
            raise StopIteration
        return event


class Dying(FakeCrew):
    """Its prepare is in the middle of its files, or done with all that matters, when it ends otherwise than well."""

    def __init__(self, events: list[Event], **how: bool) -> None:
        super().__init__(events)
        self.how, self.at_consul = how, False

    def wait(self, until: float | None) -> Event:
        event = super().wait(until)
        if isinstance(event, Exited) and event.role == Role.PREPARE and event.code:
            vars(self).update(self.how)
        return event


def live(env: dict[str, str], *events: Event, **how: bool) -> tuple[Life, list[str]]:
    crew = Dying([*STARTED, *events], **how)
    life = Life(environment.read(env), crew)
    life.start.begin()
    try:
        while True:
            life.on(life.next_event())
    except StopIteration:
        return life, crew.log[3:]


def test_killed_too_late_its_files_are_put_back_before_the_reload_is_aborted() -> None:
    life, log = live(FULL, HUP, Deadline(), Exited(Role.PREPARE, 137), Exited(Role.ROLLBACK, 0), unfinished=True)
    assert log == ["+prepare", "prepare<-SIGKILL", "+rollback"]
    assert (life.state, life.history.degraded) == (
        "running",
        "aborted: the files are unchanged; the service was not notified",
    )


def test_where_that_fails_it_is_told_and_nobody_says_that_the_files_stay() -> None:
    life, log = live(FULL, HUP, Exited(Role.PREPARE, 78), Exited(Role.ROLLBACK, 78), unfinished=True)
    assert log == ["+prepare", "+rollback"]
    assert (
        life.history.degraded
        == "aborted: the service was not notified; the rollback of the files failed with status 78"
    )


def test_putting_back_is_tried_again_where_it_could_not_be_started_or_died() -> None:
    events = [HUP, Exited(Role.PREPARE, 78), Exited(Role.ROLLBACK, 70), Deadline(), Exited(Role.ROLLBACK, 0)]
    life, log = live(FULL, *events, unfinished=True)
    assert log == ["+prepare", "+rollback", "+rollback"]
    assert life.history.degraded == "aborted: the files are unchanged; the service was not notified"


def test_one_that_could_never_be_started_again_is_put_back_too() -> None:
    events = [HUP, Exited(Role.PREPARE, 137), *[Deadline(), Exited(Role.PREPARE, 70)] * 80]
    crew = Dying([*STARTED, *events], unfinished=True)
    life = Life(environment.read(FULL), crew)
    life.start.begin()
    while "+rollback" not in crew.log:
        life.on(life.next_event())
    assert life.history.degraded == ""


def test_one_that_crashed_is_tried_again_and_the_next_one_puts_back() -> None:
    events = [HUP, Exited(Role.PREPARE, 137), Deadline(), Exited(Role.PREPARE, 0), Exited(Role.HOOK, 0)]
    life, log = live(FULL, *events, unfinished=True)
    assert log == ["+prepare", "+prepare", "+hook:migrate", "main<-SIGHUP", "told"]
    assert life.history.degraded == ""


def test_one_that_was_done_with_all_that_matters_counts_as_done() -> None:
    for code in (137, 78, 75, 70):
        life, log = live(FULL, HUP, Exited(Role.PREPARE, code), Exited(Role.HOOK, 0), is_done=True)
        assert log == ["+prepare", "+hook:migrate", "main<-SIGHUP", "told"]
        assert life.history.degraded == ""


def test_without_consul_the_service_is_told_of_the_former_files_not_of_half_of_the_new_ones() -> None:
    events = [HUP, Exited(Role.PREPARE, 75), Exited(Role.ROLLBACK, 0), Exited(Role.HOOK, 0), Deadline()]
    life, log = live(FULL, *events, unfinished=True)
    assert log == ["+prepare", "+rollback", "+hook:migrate", "main<-SIGHUP", "told"]
    assert life.history.degraded.startswith("in_place: no usable answer")


def test_a_death_that_was_given_up_is_not_that_of_the_present_prepare() -> None:
    """It hung in the kernel when it was killed, and dies while its files wait to be put back."""
    events = [HUP, Deadline(), Deadline(), Exited(Role.PREPARE, 137), Exited(Role.ROLLBACK, 0), TERM]
    crew = Dying([*STARTED, *events])
    life = Life(environment.read(FULL), crew)
    life.start.begin()
    try:
        while True:
            crew.unfinished = len(crew.events) == 4
            life.on(life.next_event())
    except StopIteration:
        pass
    assert crew.log[3:] == ["+prepare", "prepare<-SIGKILL", "+rollback", "main<-SIGTERM"]
