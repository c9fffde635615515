"""What is registered, when, and with which status. The agent, the clock and the probes' children are the tests'."""

from __future__ import annotations

import os
import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fake_consul import RECORD, FakeChannel, FakeClock, FakeConsul
from svcinit.agent.consul.answers import CRITICAL, PASSING
from svcinit.agent.consul.http import BODY_LIMIT
from svcinit.agent.registration.keeper import RETURN_SPREAD, Keeper
from svcinit.agent.registration.presence import BEAT, Presence
from svcinit.agent.registration.probes import Probe
from svcinit.agent.registration.services import services
from svcinit.errors import EX_OK, ConfigError, Outcome, Unavailable
from svcinit.handover import Slot
from svcinit.settings.environment import Settings, read

WEB = {"SVCINIT_SERVICE": "web", "SVCINIT_ID": "web", "SVCINIT_PORT": "8000", "SVCINIT_ADVERTISE": "10.0.0.1"}
MARK = {"svcinit": "earlier-0123456789abcdef"}


def settings_of(**more: str) -> Settings:
    return read({**WEB, **more}, "/nosuch")


@pytest.fixture
def consul() -> FakeConsul:
    return FakeConsul()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    return FakeClock()


class FakeChild:
    """Ends at once, with the status that the test has set for it."""

    codes: list[int]

    def __init__(self, body: Callable[[], int], seconds: float) -> None:
        self.late, self.output, self.is_cut = 0.0, b"said", False
        self.code: int | None = None

    def turn(self, now: float) -> bool:
        self.code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        return True

    def end(self) -> None: ...


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit statuses of the next probes; the last one stays."""
    codes = [0]
    monkeypatch.setattr(FakeChild, "codes", codes, raising=False)
    monkeypatch.setattr(Probe.__init__, "__defaults__", (FakeChild,))
    return codes


def keeper(consul: FakeConsul, clock: FakeClock, **more: Any) -> Keeper:
    (service,) = services(settings_of())
    options = {"advertise": "10.0.0.1", "first_sync": True, "known_ready": False, **more}
    return Keeper(service, consul, "life", 30.0, now=clock, **options)  # type: ignore[arg-type]


# the ids


def test_svcinit_id_is_the_stem_of_all_ids_so_that_containers_can_share_a_hostname() -> None:
    entries = '[{"name": "peer", "port": 9300}, {"name": "own", "port": 9400, "id": "mine"}]'
    assert [each.id for each in services(settings_of(SVCINIT_SERVICES=entries))] == ["web", "web-peer-9300", "mine"]
    by_default = services(settings_of(SVCINIT_SERVICES=entries, SVCINIT_ID=""))
    assert by_default[1].id == f"peer-{os.uname().nodename}-9300"


# the keeper


def test_what_an_earlier_run_left_is_removed_at_our_place_only(consul: FakeConsul, clock: FakeClock) -> None:
    for id, address, port, meta in (
        ("ghost", "10.0.0.1", 8000, MARK),
        ("elsewhere", "10.0.0.1", 8001, MARK),
        ("other-address", "10.0.0.2", 8000, MARK),
        ("by-hand", "10.0.0.1", 8000, {}),
    ):
        consul.registered[id] = {"ID": id, "Service": "web", "Address": address, "Port": port, "Meta": meta}
    keeper(consul, clock).sync(ready=True)
    assert consul.made("deregister") == [("deregister", "ghost")]


def test_where_ports_are_shared_only_the_same_id_is_replaced(consul: FakeConsul, clock: FakeClock) -> None:
    for id in ("web", "sibling"):
        consul.registered[id] = {
            "ID": id, "Service": "web", "Address": "10.0.0.1", "Port": 8000, "Meta": MARK, "_checks": []
        }  # fmt: skip
    made = keeper(consul, clock, owns_port=False)
    made.sync(ready=True)
    assert consul.made("deregister") == []
    assert made.registered


def test_an_earlier_registration_with_our_id_is_replaced_without_a_gap(consul: FakeConsul, clock: FakeClock) -> None:
    """Another svcinit with the same id, if it runs, would repair a registration that is missing for a moment."""
    keeper(consul, clock).sync(ready=True)
    first = keeper(consul, clock)
    first._life = "first"
    first.sync(ready=True)
    assert consul.made("deregister") == []
    assert consul.registered["web"]["Meta"]["svcinit"].startswith("first-")
    later = keeper(consul, clock)
    later.sync(ready=True)
    first.sync(ready=True)
    assert "another svcinit" in first.reason
    assert first.deregister() is False


def test_before_it_is_ready_an_earlier_registration_is_removed_and_nothing_registered(
    consul: FakeConsul, clock: FakeClock
) -> None:
    consul.registered["web"] = {"ID": "web", "Service": "web", "Meta": MARK, "_checks": []}
    made = keeper(consul, clock)
    made.sync(ready=False)
    assert consul.calls == [("deregister", "web")]
    assert not made.registered


def test_the_pause_after_a_failure_grows_and_begins_anew_after_a_success(consul: FakeConsul, clock: FakeClock) -> None:
    made, pauses = keeper(consul, clock), []
    for fails in (True, True, True, False, True, True):
        consul.fails = Unavailable("no answer") if fails else None
        made.sync(ready=True)
        pauses.append(made.due - clock())
    assert pauses == [0.25, 0.5, 1.0, 30.0, 0.25, 0.5]


def test_a_change_of_the_record_does_not_end_a_pause(consul: FakeConsul, clock: FakeClock) -> None:
    made = keeper(consul, clock)
    consul.fails = Unavailable("no answer")
    made.sync(ready=True)
    due = made.due
    made.changed()
    assert made.due == due


def test_after_the_agent_lost_its_data_the_check_has_its_last_status(consul: FakeConsul, clock: FakeClock) -> None:
    made = keeper(consul, clock, known_ready=True)
    made.sync(ready=True)
    assert consul.statuses == {"service:web": PASSING}
    consul.registered.clear()  # before the agent's first probe
    made.sync(ready=True)
    assert consul.statuses == {"service:web": PASSING}
    consul.statuses["service:web"] = CRITICAL
    made.sync(ready=True)
    consul.registered.clear()
    made.sync(ready=True)
    assert consul.statuses == {"service:web": CRITICAL}


def test_without_readiness_a_service_is_registered_with_consuls_own_default(
    consul: FakeConsul, clock: FakeClock
) -> None:
    keeper(consul, clock).sync(ready=True)
    assert consul.statuses == {"service:web": CRITICAL}


# presence


class Started:
    """A presence whose turns the test takes."""

    def __init__(self, consul: FakeConsul, clock: FakeClock, folder: pathlib.Path, **env: str) -> None:
        self.consul, self.clock, consul.now = consul, clock, clock
        self.ready = Slot("ready").open()
        settings = settings_of(SVCINIT_RUN=str(folder), **env)
        self.presence = Presence(
            settings, consul, lambda: None, life="life", first=True, ready=self.ready, now=clock  # type: ignore[arg-type]
        )  # fmt: skip

    def turns(self, seconds: float = 0.0) -> None:
        """All turns up to `seconds` later."""
        until = self.clock.now + seconds
        while True:
            for _ in range(3):
                self.presence.turn(self.clock.now)
            if self.clock.now >= until:
                return
            self.clock.now = min(until, self.clock.now + min(0.5, max(0.05, self.presence._until_due())))
            self.consul.end_waits()


@pytest.fixture
def start(consul: FakeConsul, clock: FakeClock, tmp_path: pathlib.Path) -> Iterator[Callable[..., Started]]:
    made: list[Started] = []

    def begin(**env: str) -> Started:
        made.append(Started(consul, clock, tmp_path, **env))
        return made[-1]

    yield begin
    for each in made:
        each.presence.connections.close()
        each.presence._clock.close()
        each.ready.close()


@pytest.mark.parametrize("check", ["http:/", "exec:true"])
@pytest.mark.parametrize("more", [{}, {"SVCINIT_CHECK_SUCCESSES": "3"}])
def test_a_service_is_registered_as_passing_the_moment_it_is_ready(
    start: Callable[..., Started], results: list[int], consul: FakeConsul, check: str, more: dict[str, str]
) -> None:
    """A probe before that found a service that was still starting."""
    started = start(SVCINIT_READY=check, SVCINIT_CHECK=check, SVCINIT_CHECK_VIA="ttl", **more)
    results[:] = [2]
    started.turns(3)
    assert consul.made("register") == []
    results[:] = [0]
    started.turns(0.5)
    assert consul.made("register") == [("register", "web")]
    assert consul.registered_as == [[PASSING]]


def test_a_check_other_than_ready_is_probed_before_the_registration(
    start: Callable[..., Started], results: list[int], consul: FakeConsul
) -> None:
    started = start(SVCINIT_READY="tcp", SVCINIT_CHECK="http:/", SVCINIT_CHECK_VIA="ttl", SVCINIT_CHECK_SUCCESSES="2")
    results[:] = [2, 2, 0]
    started.turns(2)
    assert consul.registered_as == [[PASSING]]


def test_a_check_that_fails_although_the_service_is_ready_is_registered_as_critical(
    start: Callable[..., Started], results: list[int], consul: FakeConsul
) -> None:
    started = start(SVCINIT_READY="tcp", SVCINIT_CHECK="http:/", SVCINIT_CHECK_VIA="ttl")
    results[:] = [0, 2]
    started.turns(2)
    assert consul.registered_as == [[CRITICAL]]


def test_a_loss_of_the_agents_data_within_the_first_interval_leaves_it_passing(
    start: Callable[..., Started], results: list[int], consul: FakeConsul
) -> None:
    started = start(SVCINIT_READY="http:/", SVCINIT_CHECK="http:/", SVCINIT_CHECK_VIA="ttl")
    started.turns(1)
    consul.registered.clear()
    consul.statuses.clear()
    started.presence.keepers[0].changed()
    results[:] = [2]  # not probed again before its interval is over
    started.turns(1)
    assert consul.statuses == {"service:web": PASSING}


def test_a_service_that_never_becomes_ready_is_not_registered(
    start: Callable[..., Started], results: list[int], consul: FakeConsul, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start(SVCINIT_READY="http:/", SVCINIT_START_TIMEOUT="3s")
    results[:] = [2]

    def wait(_: object, seconds: float | None) -> None:
        started.clock.now += max(seconds or 0.0, 0.01)

    monkeypatch.setattr(started.presence._clock, "wait", wait)
    assert started.presence.run() == Outcome.NOT_READY
    assert consul.calls == []


SEVERAL = {"SVCINIT_SERVICES": '[{"name": "a", "port": 1}, {"name": "b", "port": 2}]'}
REPORTED = {"SVCINIT_CHECK": "tcp", "SVCINIT_CHECK_VIA": "ttl"}


def records_asked(consul: FakeConsul) -> list[FakeChannel]:
    return [channel for channel in consul.asked if channel.path.startswith(RECORD)]


@pytest.mark.parametrize("env", [{}, {"SVCINIT_WATCH": "1"}, SEVERAL, REPORTED])
@pytest.mark.parametrize("removed", [True, False])
def test_a_registration_that_another_program_changes_or_removes_is_repaired_within_two_seconds(
    start: Callable[..., Started], consul: FakeConsul, env: dict[str, str], removed: bool
) -> None:
    started = start(**env)
    started.turns(10)
    before = dict(consul.registered)
    for id, record in before.items():
        consul.change(id, None if removed else {**record, "Tags": ["x"]})
        started.turns(2)
        assert consul.registered[id]["Tags"] == []
        assert consul.made("register")[-1] == ("register", id)
    assert len(consul.made("register")) == 2 * len(before)


@pytest.mark.parametrize("env", [{}, SEVERAL])
def test_a_container_at_rest_has_one_connection_however_many_services_it_has(
    start: Callable[..., Started], consul: FakeConsul, env: dict[str, str]
) -> None:
    started = start(**env)
    for _ in range(100):
        started.turns(1)
        assert len(consul.open_channels) == 1
        assert not consul.kept
    assert consul.most_channels == 1


@pytest.mark.parametrize("env", [{**REPORTED, "SVCINIT_CHECK_INTERVAL": "2s"}, {"SVCINIT_SYNC_INTERVAL": "2s"}])
def test_where_a_report_or_a_sync_notices_a_lost_registration_as_well_no_query_waits_for_it(
    start: Callable[..., Started], results: list[int], consul: FakeConsul, env: dict[str, str]
) -> None:
    started = start(**env)
    started.turns(20)
    assert consul.kept
    assert consul.asked == []
    consul.change("web", None)
    started.turns(2)
    assert consul.made("register") == [("register", "web")] * 2


def test_a_start_asks_for_the_record_once_and_syncs_once(
    start: Callable[..., Started], consul: FakeConsul, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Svcinit's own registration is no change that another program made."""
    syncs: list[str] = []
    monkeypatch.setattr(consul, "instance", lambda *named: syncs.append(named[0]))
    start().turns(15)
    assert syncs == ["web"]
    assert [set(query) for query in consul.queries] == [set(), {"hash", "wait"}]


def test_a_record_that_another_program_changed_before_the_first_query_for_it_is_repaired(
    start: Callable[..., Started], consul: FakeConsul
) -> None:
    started = start()
    started.presence.turn(started.clock.now)
    consul.change("web", {**consul.registered["web"], "Tags": ["x"]})
    started.turns(1)
    assert consul.registered["web"]["Tags"] == []


def test_an_agent_that_holds_no_query_is_asked_once_a_second(start: Callable[..., Started], consul: FakeConsul) -> None:
    started = start()
    consul.holds = False
    started.turns(60)
    assert 50 <= len(consul.asked) <= 61
    consul.change("web", None)
    started.turns(1)
    assert consul.made("register") == [("register", "web")] * 2


def test_a_program_that_removes_the_registration_again_and_again_causes_one_repair_a_second(
    start: Callable[..., Started], consul: FakeConsul
) -> None:
    started = start()
    for _ in range(300):
        started.turns(0.1)
        consul.change("web", None)
    assert 15 <= len(consul.made("register")) <= 33


def test_an_agent_that_refuses_the_query_keeps_the_service_registered(
    start: Callable[..., Started], consul: FakeConsul, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with http_config.block_endpoints: a pause that grows to 30 s, and syncs as without the query."""
    started = start()

    def refuse(channel: FakeChannel, path: str, rule: str, limit: int) -> None:
        channel.sock.recv(1)
        raise ConfigError("denied")

    monkeypatch.setattr(consul, "receive", refuse)
    started.turns(300)
    assert len(consul.asked) <= 20
    assert started.presence.keepers[0].reason == ""
    assert consul.made("register") == [("register", "web")]
    consul.change("web", None)
    started.turns(30)
    assert consul.made("register") == [("register", "web")] * 2


def test_while_a_sync_fails_the_record_is_not_asked_for(start: Callable[..., Started], consul: FakeConsul) -> None:
    """Another svcinit has registered itself under the same id."""
    started = start()
    started.turns(1)
    consul.change("web", {**consul.registered["web"], "Meta": MARK})
    asked = len(consul.asked)
    started.turns(60)
    assert "another svcinit" in started.presence.keepers[0].reason
    assert len(consul.asked) == asked
    assert consul.open_channels[0].is_held is False
    consul.change("web", None)
    started.turns(31)
    assert consul.made("register") == [("register", "web")] * 2
    assert len(consul.asked) > asked


def test_a_record_is_read_up_to_the_limit_of_answers_without_keys_or_peers(
    start: Callable[..., Started], consul: FakeConsul, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Presence must not fill the memory of the container (docs/failures.md)."""
    limits: list[int] = []

    def receive(channel: FakeChannel, path: str, rule: str, limit: int) -> tuple[Any, int]:
        limits.append(limit)
        return FakeConsul.receive(consul, channel, path, rule, limit)

    monkeypatch.setattr(consul, "receive", receive)
    start().turns(1)
    assert limits == [BODY_LIMIT]


@pytest.mark.parametrize("answer", [[], "", {}, 7, {"ContentHash": 1}, {"ContentHash": "x", "Meta": 1, "Connect": 1}])
def test_an_answer_that_is_no_record_is_one_sync_and_no_loop(
    start: Callable[..., Started], consul: FakeConsul, answer: object
) -> None:
    started = start()
    started.turns(1)
    consul.answers[RECORD + "web"] = answer, 0
    consul.change("web", consul.registered["web"])
    started.turns(20)
    assert len(consul.asked) <= 23
    assert consul.made("register") == [("register", "web")]


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("env", [{}, REPORTED, {"SVCINIT_WATCH": "1"}])
def test_the_instances_of_a_host_come_back_to_an_agent_that_ended_one_after_the_other(
    start: Callable[..., Started], results: list[int], consul: FakeConsul, monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str], share: float,
) -> None:  # fmt: skip
    started = start(**env)
    started.turns(1)
    followed = bool(consul.asked)
    monkeypatch.setattr(random, "uniform", lambda least, most: least + share * (most - least))
    consul.hung_up, consul.fails = not followed, Unavailable("connection reset")
    if followed:
        consul.asked[-1].answer()  # the end of the connection is readable, too
    opened = consul.opened
    started.turns(0)
    consul.hung_up = False
    keeper = started.presence.keepers[0]
    assert keeper.due == pytest.approx(started.clock() + share * RETURN_SPREAD)
    started.turns(share * RETURN_SPREAD)
    assert keeper.reason == "connection reset"
    assert keeper.due > started.clock()
    assert consul.opened == opened, "the record is watched before the service is in sync again"
    consul.fails = None
    started.turns(1)
    assert keeper.reason == ""
    assert (consul.opened > opened) == followed


def test_presence_waits_no_longer_than_a_beat_and_never_without_an_end(
    start: Callable[..., Started], consul: FakeConsul
) -> None:
    started = start()
    for _ in range(50):
        started.presence.turn(started.clock.now)
        assert 0 <= started.presence._until_due() <= BEAT
        started.clock.now += 1


def test_deregistering_closes_the_query_last(start: Callable[..., Started], consul: FakeConsul) -> None:
    started = start()
    started.turns(1)
    assert consul.open_channels
    assert started.presence.deregister() == EX_OK
    assert consul.open_channels == []
    assert consul.registered == {}


class Holding:
    """A part in roll-outs that compares the revision with the plan, until `until`."""

    until, due = 1003.0, float("inf")

    def registration_due(self, now: float) -> float:
        return self.until if now < self.until else 0.0

    def turn(self, now: float) -> None: ...

    def facts(self) -> dict[str, object]:
        return {}


def test_presence_sleeps_while_a_roll_out_holds_the_registration(
    start: Callable[..., Started], consul: FakeConsul, clock: FakeClock
) -> None:
    started = start(SVCINIT_CHECK="none")
    started.presence.turns = Holding()  # type: ignore[assignment]
    started.presence.turn(clock.now)
    assert started.presence._until_due() == 3.0
    assert consul.made("register") == []
    started.turns(3)
    assert consul.made("register") == [("register", "web")]
