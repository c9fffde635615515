"""What a reload leads to is known when the service has survived it: one outcome in log, status and metrics."""

from __future__ import annotations

import signal

import pytest

from svcinit import log
from svcinit.errors import Outcome
from svcinit.handover import Refusal
from svcinit.lifecycle.reload import CONFIRM_AFTER, POLL_INTERVAL
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import Exited, News, ReloadOutcome, Role, Signalled
from svcinit.settings import environment
from test_lifecycle_telling import NEVER, READY, WEB, Timed, Timeline, stop

HUP, TERM = Signalled(signal.SIGHUP), Signalled(signal.SIGTERM)
RESTART = {**WEB, "SVCINIT_RELOAD": "restart"}
VERIFY = {"SVCINIT_RELOAD_VERIFY": "5s"}
EXITS = Exited(Role.MAIN, 129)
PRESENCE = Exited(Role.PRESENCE, 0)
STOPS: list[Timed] = [(10, PRESENCE), (10, Exited(Role.MAIN, 0))]  # for a restart, at second 10


class Registering(Timeline):
    """The registration is back from a second on."""

    def __init__(self, events: list[Timed], registered: float = 0.0, **facts: float) -> None:
        super().__init__(events, **facts)
        self.registered_from = registered
        self.states: list[tuple[float, str, object]] = []

    def is_registered(self) -> bool:
        return self.clock >= self.registered_from

    def report(self, facts: object) -> float | None:
        assert isinstance(facts, dict)
        self.states.append((self.clock, facts["state"], facts["served"]))
        return None

    def served_at(self) -> float:
        return next(second for second, state, served in self.states if state == "running" and served)


def outcome(life: Lifecycle) -> dict[str, object]:
    """As the state file and the metrics have it; they must not differ."""
    facts = life.history.facts()
    last, counts = facts["last_reload"], facts["reload_outcomes"]
    assert isinstance(last, dict)
    assert isinstance(counts, dict)
    assert counts[last["outcome"]] >= 1
    return last


def live(env: dict[str, str], events: list[Timed], **facts: float) -> tuple[Registering, Lifecycle]:
    crew = Registering(events, **facts)
    life = Lifecycle(environment.read(env), crew)
    life.run()
    assert not crew.events
    return crew, life


def exits(second: float) -> list[Timed]:
    return [(second, EXITS), (second, PRESENCE)]


@pytest.mark.parametrize(
    ("second", "expected"), [(10.1, ReloadOutcome.FAILED), (14.9, ReloadOutcome.FAILED), (15.1, ReloadOutcome.DONE)]
)
def test_an_exit_within_5_s_of_the_signal_is_the_failure_of_the_reload(
    capfd: pytest.CaptureFixture[str], second: float, expected: str
) -> None:
    _, life = live(WEB, [(10, HUP), *exits(second)])
    found, failed = outcome(life), expected == ReloadOutcome.FAILED
    assert (found["outcome"], bool(found["reason"]), found["seconds"]) == (expected, failed, 0.0)
    assert life.history.degraded.startswith("failed: ") == failed
    said = capfd.readouterr().err
    assert f"<reload_ended> reload=1 outcome={expected}" in said
    assert f"reloads={1 - failed} reloads_failed={int(failed)}" in said.splitlines()[-1]
    assert life.code == 129


@pytest.mark.parametrize("way", ["exec:tell", "write:/fifo:c"])
def test_an_exit_during_or_soon_after_a_reload_command_is_its_failure(way: str) -> None:
    env = {**WEB, "SVCINIT_RELOAD": way}
    acted: list[Timed] = [(18, Exited(Role.ACTION, 0))]
    for events in ([(12, EXITS), (12, Exited(Role.ACTION, 143)), (12, PRESENCE)], [*acted, *exits(20)]):
        found = outcome(live(env, [(10, HUP), *events])[1])
        assert found["outcome"] == ReloadOutcome.FAILED
    assert outcome(live(env, [(10, HUP), *acted, *exits(24)])[1])["outcome"] == ReloadOutcome.DONE


def test_an_exit_before_the_service_was_notified_is_not_its_failure() -> None:
    env = {**WEB, "SVCINIT_PRE_RELOAD": "migrate"}
    _, life = live(env, [(10, HUP), (11, EXITS), (11, Exited(Role.HOOK, 143)), (11, PRESENCE)])
    assert outcome(life)["outcome"] == ReloadOutcome.GIVEN_UP


def test_a_reload_that_notifies_nobody_is_done_at_once() -> None:
    crew, life = live({**WEB, "SVCINIT_RELOAD": "none"}, [(10, HUP), *exits(11)])
    assert outcome(life)["outcome"] == ReloadOutcome.DONE
    assert crew.served_at() == 10


def test_svcinitctl_sees_a_hup_served_when_its_reload_is_confirmed() -> None:
    crew, _ = live(WEB, [(10, HUP), *stop(20)])
    assert crew.served_at() == 10 + CONFIRM_AFTER


def test_a_further_hup_does_not_wait_for_the_confirmation() -> None:
    crew, life = live(WEB, [(10, HUP), (11, HUP), (12, HUP), *exits(13)])
    assert crew.told_at == [10, 11, 12]
    counts = life.history.facts()["reload_outcomes"]
    assert isinstance(counts, dict)
    assert (counts["done"], counts["failed"]) == (2, 1)


def test_a_change_does_not_wait_for_the_confirmation() -> None:
    prepared = Exited(Role.PREPARE, 0)
    crew = Registering([(0, prepared), (10, HUP), (10, prepared), (11, News()), *stop(12)])
    crew.news = True
    life = Lifecycle(environment.read({**WEB, "SVCINIT_WATCH": "1"}), crew)
    life.run()
    assert life.reload.number == 2
    assert outcome(life)["outcome"] == ReloadOutcome.DONE


def test_a_stop_soon_after_the_signal_ends_a_reload_that_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    _, life = live(WEB, [(10, HUP), *stop(11)])
    assert outcome(life)["outcome"] == ReloadOutcome.DONE
    said = capfd.readouterr().err
    assert said.index("<reload_ended>") < said.index("<stopping>")


def test_a_verified_reload_fails_too_when_the_service_exits_soon_after() -> None:
    events: list[Timed] = [(10, HUP), (11, Exited(Role.VERIFY, 0)), *exits(13)]
    assert outcome(live({**WEB, **VERIFY}, events)[1])["outcome"] == ReloadOutcome.FAILED


# a restart


@pytest.mark.parametrize("env", [RESTART, {**READY, **RESTART}])
def test_a_restart_is_done_when_the_service_is_ready_and_registered_again(
    capfd: pytest.CaptureFixture[str], env: dict[str, str]
) -> None:
    crew, life = live(env, [(10, HUP), *STOPS, *stop(60)], ready=0.0, registered=22.0)
    assert outcome(life)["outcome"] == ReloadOutcome.DONE
    assert crew.served_at() == pytest.approx(22, abs=2 * POLL_INTERVAL)
    assert all(state != "running" for second, state, _ in crew.states if 10 < second < 22)
    said = capfd.readouterr().err
    assert said.rindex("<started>") < said.index("<reload_ended>")


def test_without_ready_a_restarted_service_has_to_survive_5_s() -> None:
    crew, _ = live(RESTART, [(10, HUP), *STOPS, *stop(60)], registered=11.0)
    assert crew.served_at() == 10 + CONFIRM_AFTER
    assert outcome(live(RESTART, [(10, HUP), *STOPS, *exits(13)])[1])["outcome"] == ReloadOutcome.FAILED


def test_a_restart_whose_registration_does_not_come_back_has_failed() -> None:
    env = {**RESTART, "SVCINIT_RELOAD_TIMEOUT": "7s"}
    crew, life = live(env, [(10, HUP), *STOPS, *stop(60)], registered=NEVER)
    assert outcome(life)["outcome"] == ReloadOutcome.FAILED
    assert crew.served_at() == pytest.approx(17, abs=2 * POLL_INTERVAL)


def test_a_restart_into_a_service_that_never_becomes_ready_has_failed(capfd: pytest.CaptureFixture[str]) -> None:
    gone: list[Timed] = [(70, Exited(Role.PRESENCE, Outcome.NOT_READY)), (70, Exited(Role.DEREGISTER, 0))]
    env = {**READY, **RESTART}
    _, life = live(env, [(10, HUP), *STOPS, *gone, (70, Exited(Role.MAIN, 0))], ready=NEVER)
    assert (outcome(life)["outcome"], life.code) == (ReloadOutcome.FAILED, 69)
    assert "reloads=0 reloads_failed=1" in capfd.readouterr().err.splitlines()[-1]


def test_a_restart_into_a_service_that_exits_has_failed() -> None:
    _, life = live({**READY, **RESTART}, [(10, HUP), *STOPS, *exits(12)], ready=11.5, registered=NEVER)
    assert (outcome(life)["outcome"], life.code) == (ReloadOutcome.FAILED, 129)


def test_a_verified_restart_is_done_with_its_check() -> None:
    events: list[Timed] = [(10, HUP), *STOPS, (12, Exited(Role.VERIFY, 0)), *stop(60)]
    crew, life = live({**RESTART, **VERIFY}, events, registered=NEVER)
    assert outcome(life)["outcome"] == ReloadOutcome.DONE
    assert crew.served_at() == 12


def test_a_restart_whose_check_fails_is_restarted_on_the_former_files() -> None:
    fails: list[Timed] = [(12, Exited(Role.VERIFY, Outcome.NOT_PASSING)), (12, Exited(Role.ROLLBACK, 0))]
    again: list[Timed] = [(13, PRESENCE), (13, Exited(Role.MAIN, 0))]
    crew, life = live({**RESTART, **VERIFY}, [(10, HUP), *STOPS, *fails, *again, *stop(60)])
    assert crew.log.count("+main") == 3
    assert crew.log[crew.log.index("+verify") :].count("+verify") == 1
    assert outcome(life)["outcome"] == ReloadOutcome.ROLLED_BACK
    assert life.history.degraded.startswith("rolled_back: ")


def test_hups_while_a_restarted_service_is_awaited_make_exactly_one_more_reload() -> None:
    again: list[Timed] = [(22.5, PRESENCE), (22.5, Exited(Role.MAIN, 0))]
    events: list[Timed] = [(10, HUP), *STOPS, (11, HUP), (12, HUP), *again, *stop(60)]
    _, life = live({**READY, **RESTART}, events, registered=22.0)
    assert (life.reload.number, life.reload.hups, life.reload.served) == (2, 3, 3)


def test_a_stop_while_a_restarted_service_is_awaited_gives_the_reload_up() -> None:
    _, life = live({**READY, **RESTART}, [(10, HUP), *STOPS, *stop(12)], registered=NEVER)
    assert (outcome(life)["outcome"], life.code) == (ReloadOutcome.GIVEN_UP, 0)


def test_without_a_registration_a_restart_needs_none() -> None:
    env = {"SVCINIT_RELOAD": "restart"}
    gone = Exited(Role.MAIN, 0)
    crew, life = live(env, [(10, HUP), (10, gone), (60, TERM), (60, gone)])
    assert outcome(life)["outcome"] == ReloadOutcome.DONE
    assert crew.served_at() == 10 + CONFIRM_AFTER


# a change that presence could not prepare


def test_a_refused_change_is_an_aborted_reload_and_degraded_as_by_hup(capfd: pytest.CaptureFixture[str]) -> None:
    log.hold()
    log.error("fault", "{error}", error="no key worker")
    refusal = Refusal("no key worker", log.held())
    env = {**WEB, "SVCINIT_WATCH": "1"}
    prepared = Exited(Role.PREPARE, 0)
    crew = Registering([(0, prepared), (10, News()), *stop(12)])
    crew.news, crew.refusal = True, refusal
    life = Lifecycle(environment.read(env), crew)
    life.run()
    by_hup = live(env, [(0, prepared), (10, HUP), (10, Exited(Role.PREPARE, 78)), *stop(12)])[1]
    assert outcome(life)["outcome"] == outcome(by_hup)["outcome"] == ReloadOutcome.ABORTED
    assert life.history.degraded == by_hup.history.degraded != ""
    assert crew.told_at == []
    said = capfd.readouterr().err
    assert said.index("<reload_started>") < said.index("<fault>") < said.index("<reload_ended>")
