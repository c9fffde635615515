"""SVCINIT_ROLL: the configuration changes in a turn, and only in a turn. The test is the conductor."""

from __future__ import annotations

import dataclasses
import os
import signal

import pytest

from svcinit.agent.fleet import revision
from svcinit.agent.fleet.records import How, Plan, PlanState, Turn, TurnOutcome, TurnState
from svcinit.errors import EX_UNAVAILABLE
from testing.consul import free_ports
from testing.ctl import svcinitctl
from testing.fleet import Fleet
from testing.process import Running, end_session
from testing.waiting import eventually, stays
from tests.e2e.conftest import Service
from tests.e2e.failing import is_passing

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]


@pytest.fixture
def rolled(service: Service) -> Service:
    service.env |= {"SVCINIT_ROLL": "manual", "SVCINIT_ID": "web-1"}
    service.consul.kv_put("config/web/n", "1")
    return service


@pytest.fixture
def fleet(rolled: Service) -> Fleet:
    return Fleet(rolled.consul)


def up(service: Service) -> Running:
    svcinit = service.start()
    is_passing(service)
    eventually(lambda: service.notes == ["up"], "the service is up")
    return svcinit


def test_before_the_first_roll_out_an_instance_stores_what_it_started_with(rolled: Service, fleet: Fleet) -> None:
    """So the keys may change before the first `fleet apply`: what all instances run is the good revision."""
    up(rolled)
    record = fleet.wait_for("it has a record", left=False, turn_state=TurnState.IDLE)
    content = revision.read_live(fleet.store.consul, fleet.prefixes)
    assert record.rev == revision.name_of(content)
    eventually(lambda: revision.is_kept(fleet.store, "svcinit/web", record.rev), "the revision is stored")
    rolled.consul.kv_put("config/web/n", "2")
    done = svcinitctl("fleet", "apply", "web", "--dry-run", env=rolled.consul.env)
    assert f"{record.rev[:6]} -> " in done.stdout, done


def test_after_turns_without_a_good_revision_an_instance_stores_what_a_reload_took(
    rolled: Service, fleet: Fleet
) -> None:
    """As after `fleet turn -- docker kill -s HUP`: the first `fleet apply` can go back to it."""
    target = rolled.template("app.ini", '{{ key("n") }}')
    fleet.store.put(fleet.keys.plan, Plan(n=1, state=PlanState.ROLLING, how=How.TURN).dump())
    svcinit = up(rolled)
    first = fleet.live()
    fleet.wait_for("it has a record", rev=first, turn_state=TurnState.IDLE)
    rolled.consul.kv_put("config/web/n", "2")
    svcinit.signal(signal.SIGHUP)
    record = fleet.wait_for("it runs what the prefix has now", rev=revision.name_of(fleet.content()))
    assert (record.rev != first, target.read_text()) == (True, "2")
    eventually(lambda: revision.is_kept(fleet.store, "svcinit/web", record.rev), "the revision is stored")


def test_an_instance_has_a_record_and_changes_only_in_its_turn(rolled: Service, fleet: Fleet) -> None:
    target = rolled.template("app.ini", '{{ key("n") }}')
    rolled.env["SVCINIT_CHECK_FAILURES"] = "5"
    svcinit = up(rolled)
    good = fleet.live()
    record = fleet.wait_for("it has a record", rev=good, left=False, turn_state=TurnState.IDLE)
    assert (record.paths, record.every, record.clean) == (("config/web",), 0.5, True)
    fleet.plan(good)
    rolled.consul.kv_put("config/web/n", "2")
    wanted = fleet.live()
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done", 20)
    assert target.read_text() == "1"
    serial = fleet.grant(wanted)
    ended = fleet.ended(serial)
    assert (ended.turn.outcome, ended.rev, ended.last) == (TurnOutcome.DONE, wanted, serial), svcinit.err
    assert target.read_text() == "2"
    writes = fleet.writes()
    stays(lambda: fleet.writes() == writes, "nothing is written when nothing happens")
    assert svcinit.stop() == 0
    assert fleet.wait_for("it has left", left=True).turn.state == TurnState.ENDED


def test_a_reload_in_a_turn_takes_no_new_configuration(rolled: Service, fleet: Fleet) -> None:
    target = rolled.template("app.ini", '{{ key("n") }}')
    svcinit = up(rolled)
    fleet.plan(fleet.live())
    fleet.wait_for("it has a record")
    rolled.consul.kv_put("config/web/n", "2")
    ended = fleet.ended(fleet.grant(how=How.RELOAD))
    assert ended.turn.outcome == TurnOutcome.DONE, svcinit.err
    assert (rolled.notes, target.read_text()) == (["up", "SIGHUP", "up"], "1")


@pytest.mark.parametrize("in_turn", [False, True], ids=["idle", "in its turn"])
def test_a_record_that_somebody_deletes_is_written_anew_with_its_turn(
    rolled: Service, fleet: Fleet, in_turn: bool
) -> None:
    up(rolled)
    good = fleet.live()
    fleet.wait_for("it has a record", rev=good, left=False, turn_state=TurnState.IDLE)
    fleet.plan(good)
    serial = fleet.grant(how=How.RELOAD) if in_turn else 0
    if in_turn:
        fleet.wait_for("it has claimed its turn", turn_state=TurnState.CLAIMED)
    fleet.store.delete(fleet.keys.at("web-1"))
    record = fleet.wait_for("the record is there again", rev=good)
    assert (record.turn.serial, record.turn.n) == (serial, int(in_turn))
    if in_turn:
        assert fleet.ended(serial).turn.outcome == TurnOutcome.DONE


def test_a_restart_in_a_turn_ends_presence_and_the_next_one_reports_it(rolled: Service, fleet: Fleet) -> None:
    svcinit = up(rolled)
    fleet.plan(fleet.live())
    fleet.wait_for("it has a record")
    ended = fleet.ended(fleet.grant(how=How.RESTART))
    assert ended.turn.outcome == TurnOutcome.DONE, svcinit.err
    assert rolled.notes == ["up", "SIGTERM", "up"]
    assert ended.left is False


def test_a_stop_in_the_turn_ends_the_turn_and_is_a_stop_on_purpose(rolled: Service, fleet: Fleet) -> None:
    rolled.template("app.ini", '{{ key("n") }}')
    svcinit = up(rolled)
    fleet.plan(fleet.live())
    fleet.wait_for("it has a record")
    rolled.consul.kv_put("config/web/n", "2")
    fleet.grant(fleet.live())
    eventually(lambda: "SIGHUP" in rolled.notes, "the reload is not confirmed yet")
    assert fleet.wait_for("it is in its turn").turn.state == TurnState.CLAIMED
    svcinit.stop()
    record = fleet.wait_for("it has left", left=True)
    assert record.turn.state == TurnState.ENDED, svcinit.err
    assert record.turn.outcome in (TurnOutcome.DONE, TurnOutcome.GIVEN_UP)


@pytest.mark.parametrize("in_turn", [True, False], ids=["in its turn", "without a turn"])
def test_a_service_that_ends_by_itself_has_not_left_on_purpose(rolled: Service, fleet: Fleet, in_turn: bool) -> None:
    rolled.template("app.ini", '{{ key("n") }}')
    svcinit = up(rolled)
    fleet.plan(fleet.live())
    before = fleet.wait_for("it has a record")
    if in_turn:
        rolled.consul.kv_put("config/web/n", "2")
        fleet.grant(fleet.live())
        eventually(lambda: "SIGHUP" in rolled.notes, "the reload is not confirmed yet")
    os.kill(svcinit.child("main"), signal.SIGKILL)
    svcinit.wait()
    record = fleet.wait_for("its record is as it was", left=False)
    if in_turn:
        assert (record.turn.state, record.turn.outcome) == (TurnState.ENDED, TurnOutcome.FAILED), svcinit.err
    else:
        assert record == before


def test_a_service_that_is_not_ready_in_time_has_not_left_on_purpose(rolled: Service, fleet: Fleet) -> None:
    up(rolled).stop()
    fleet.wait_for("it was stopped", left=True)
    (closed,) = free_ports(1)
    rolled.env |= {"SVCINIT_READY": f"http://127.0.0.1:{closed}/", "SVCINIT_START_TIMEOUT": "2s"}
    svcinit = rolled.start()
    assert svcinit.wait(20) == EX_UNAVAILABLE
    assert fleet.wait_for("it has failed", left=False).rev, svcinit.err


def test_a_changed_environment_restarts_the_service_if_the_turn_allows_it(rolled: Service, fleet: Fleet) -> None:
    rolled.consul.kv_put("config/web/env/WORKERS", "2")
    svcinit = up(rolled)
    fleet.plan(fleet.live())
    fleet.wait_for("it has a record")
    for restart, notes in ((False, ["up"]), (True, ["up", "SIGTERM", "up"])):
        revision = fleet.make(**{"n": "1", "env/WORKERS": f"3{restart}"})
        ended = fleet.ended(fleet.grant(revision, restart=restart))
        assert (ended.turn.outcome, ended.rev) == (TurnOutcome.DONE, revision), svcinit.err
        assert rolled.notes == notes, svcinit.err


def test_a_revision_that_does_not_render_is_aborted_and_the_old_one_stays(rolled: Service, fleet: Fleet) -> None:
    target = rolled.template("app.ini", '{{ key("n") }}')
    svcinit = up(rolled)
    good = fleet.live()
    fleet.plan(good)
    fleet.wait_for("it has a record")
    ended = fleet.ended(fleet.grant(fleet.make(other="x")))
    assert (ended.turn.outcome, ended.rev) == (TurnOutcome.ABORTED, good), svcinit.err
    assert "app.ini" in ended.turn.trouble
    assert (rolled.notes, target.read_text()) == (["up"], "1")
    again = fleet.ended(fleet.grant(fleet.make(n="3")))
    assert (again.turn.outcome, target.read_text()) == (TurnOutcome.DONE, "3")


def test_a_revision_that_breaks_the_check_is_rolled_back(rolled: Service, fleet: Fleet) -> None:
    target = rolled.template("app.ini", '{{ key("n") }}')
    rolled.env |= {"SVCINIT_CHECK": f"exec:grep -q 1 {target}", "SVCINIT_RELOAD_VERIFY": "1s"}
    svcinit = up(rolled)
    good = fleet.live()
    fleet.plan(good)
    fleet.wait_for("it has a record")
    ended = fleet.ended(fleet.grant(fleet.make(n="2")))
    assert (ended.turn.outcome, ended.rev) == (TurnOutcome.ROLLED_BACK, good), svcinit.err
    assert target.read_text() == "1"
    svcinit.signal(signal.SIGHUP)  # on the revision in place, which is the old one again
    svcinit.says("reload 2: done", 20)
    assert target.read_text() == "1"


def test_an_old_grant_is_ignored(rolled: Service, fleet: Fleet) -> None:
    svcinit = up(rolled)
    good = fleet.live()
    fleet.plan(good)
    fleet.wait_for("it has a record")
    before = fleet.record()
    assert before is not None
    serial = fleet.grant(good)
    fleet.ended(serial)
    granted = Turn(n=1, serial=serial, rev=good, how=How.APPLY, restart=True, state=TurnState.GRANTED)
    restored = dataclasses.replace(before, turn=granted)  # as when Consul is restored from a snapshot
    fleet.store.put(fleet.keys.at("web-1"), restored.dump())
    fleet.wait_for("its own facts are written again", last=serial, turn_state=TurnState.GRANTED)
    stays(lambda: svcinit.err.count("has its turn") == 1, "the grant is not claimed again")


def test_a_turn_whose_container_ended_is_reported_by_the_next_life(rolled: Service, fleet: Fleet) -> None:
    rolled.env["SVCINIT_PRE_RELOAD"] = "sleep 20"
    rolled.template("app.ini", '{{ key("n") }}')
    svcinit = up(rolled)
    good = fleet.live()
    fleet.plan(good, fleet.make(n="2"), PlanState.ROLLING)
    fleet.wait_for("it has a record")
    serial = fleet.grant(fleet.make(n="2"))
    claimed = fleet.wait_for("it has claimed", turn_state=TurnState.CLAIMED)
    svcinit.says("reload 1: begins")
    end_session(svcinit.process)
    second = rolled.start()
    ended = fleet.ended(serial)
    assert (ended.turn.outcome, ended.rev) == (TurnOutcome.DIED, good), second.err
    assert (ended.life != claimed.life, ended.clean) == (True, False)


def test_presence_that_is_killed_at_any_moment_of_a_turn_loses_nothing(rolled: Service, fleet: Fleet) -> None:
    target = rolled.template("app.ini", '{{ key("n") }}')
    svcinit = up(rolled)
    fleet.plan(fleet.live())
    fleet.wait_for("it has a record")
    for n, moment in enumerate(("has its turn", "reload 2: begins", "reload 3: done")):
        revision = fleet.make(n=f"killed at {moment}")
        serial = fleet.grant(revision)
        svcinit.says(moment, 20)
        os.kill(svcinit.child("presence"), signal.SIGKILL)
        ended = fleet.ended(serial, 30)
        assert (ended.turn.outcome, ended.rev) == (TurnOutcome.DONE, revision), svcinit.err
        assert target.read_text() == f"killed at {moment}", n
