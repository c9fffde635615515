"""The conductor on a real Consul: its lock, its writes, its garbage. The instances are the test's own."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import pytest

from svcinit.agent.fleet import conduct, revision
from svcinit.agent.fleet.conductor import decide
from svcinit.agent.fleet.records import (
    How,
    LogEntry,
    Phase,
    PlanState,
    RollOutcome,
    Turn,
    TurnState,
    is_own,
)
from svcinit.agent.fleet.view import Memory
from testing.consul import ConsulAgent
from testing.fleet import Catalog
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]


@pytest.fixture
def service(consul: ConsulAgent) -> Iterator[Catalog]:
    with Catalog(consul) as made:
        yield made


def test_a_roll_out_reaches_all_and_never_more_than_its_limit_at_once(service: Catalog) -> None:
    service.start(5, "old")
    service.plan()
    conductor = service.conductor("one")
    most, over = 0, False
    for _ in range(40):
        over = service.look(conductor).over
        most = max(most, len(service.turns(TurnState.GRANTED)))
        service.do_turns()
        if over:
            break
    assert (over, most) == (True, 2)
    plan, _ = service.fleet.plan()
    assert plan is not None
    assert (plan.state, plan.good, plan.done) == (PlanState.IDLE, "new", 5)
    entry = service.fleet.entry(1)
    assert entry is not None
    assert (entry.outcome, entry.done) == (RollOutcome.DONE, 5)
    assert entry.ended > 0
    conductor.lead.give_back()


def test_only_one_conducts_and_the_next_one_can_at_once_after_it(service: Catalog) -> None:
    service.start(2, "old")
    service.plan()
    one, two = service.conductor("one"), service.conductor("two")
    service.look(two)  # the health timers of both run
    assert two.lead.is_ours
    service.look(one)
    assert not one.lead.is_ours
    before = {entry.key: entry.modified for entry in service.fleet.store.below("svcinit/web/")}
    service.look(one)
    assert {entry.key: entry.modified for entry in service.fleet.store.below("svcinit/web/")} == before
    two.lead.give_back()
    service.look(one)
    assert one.lead.is_ours
    one.lead.give_back()


def test_a_conductor_that_only_looks_on_reports_each_event_once(service: Catalog) -> None:
    service.start(2, "old")
    service.plan(phase=Phase.CANARY, canary="1", bake="1s", progress="1s")
    leads, looks_on = service.conductor("one"), service.conductor("two")
    for _ in range(4):
        service.look(leads)
        service.do_turns()
    plan, _ = service.fleet.plan()
    assert plan is not None
    assert plan.phase is Phase.BAKE
    found = [event.name for _ in range(5) for event in service.look(looks_on).events]
    assert not looks_on.lead.is_ours
    assert "took_over" not in found
    assert sorted(found) == sorted(set(found))
    assert "step" in found, "it decides what the other one does next"
    leads.lead.give_back()


def test_a_roll_out_ends_in_one_write_with_its_entry_in_the_history(service: Catalog) -> None:
    service.start(1, "old")
    service.plan()
    conductor, keys, store = service.conductor("one"), service.fleet.keys, service.fleet.store
    for n, is_there in ((1, False), (2, True)):
        if is_there:
            store.put(keys.log(n), b"{}")
            service.plan(n=n, target="newer")

        def ends(n: int = n) -> bool:
            service.look(conductor)
            service.do_turns()
            plan, _ = service.fleet.plan()
            return plan is not None and (plan.n, plan.state) == (n, PlanState.IDLE)

        eventually(ends, f"roll-out {n} ends")
        plan, entry = store.get(keys.plan), store.get(keys.log(n))
        assert plan is not None
        assert entry is not None
        assert (entry.value == b"{}") == is_there, "an entry that is there already stays"
        assert is_there or entry.modified == plan.modified, "one transaction"
    conductor.lead.give_back()


def test_for_a_conductor_that_only_looks_on_a_roll_out_is_over_when_the_other_one_has_ended_it(
    service: Catalog,
) -> None:
    service.start(2, "old")
    service.plan()
    leads, looks_on = service.conductor("one"), service.conductor("two")
    assert leads.lead.take()
    while service.turns(TurnState.ENDED) != ["web-0", "web-1"]:
        service.look(leads)
        service.do_turns()
    for _ in range(5):
        assert not service.look(looks_on).over, "it would end it now, but that is not written"
    entry = eventually(lambda: (service.look(leads), service.fleet.entry(1))[1], "the other one ends it")
    assert entry is not None
    assert service.look(looks_on).over
    leads.lead.give_back()


def test_a_conductor_that_has_lost_its_lock_without_noticing_writes_nothing(service: Catalog) -> None:
    service.start(3, "old")
    service.plan()
    suspended = service.conductor("suspended")
    assert suspended.lead.take()
    service.fleet.store.destroy(suspended.lead.session)  # as after its TTL, or when its node fails
    other = service.conductor("other")
    eventually(other.lead.take, "the lock is free after the lock-delay", 5, every=0.1)
    before = {entry.key: entry.modified for entry in service.fleet.store.below("svcinit/web/")}
    assert suspended.lead.is_ours, "it does not know yet"
    suspended.look()
    suspended.look()
    assert not suspended.lead.is_ours
    assert {entry.key: entry.modified for entry in service.fleet.store.below("svcinit/web/")} == before
    other.lead.give_back()


def test_a_pause_between_a_look_and_its_writes_lets_no_grant_through(service: Catalog) -> None:
    service.start(3, "old")
    service.plan()
    conductor = service.conductor("one")
    assert conductor.lead.take()
    view, memory = service.fleet.view(), Memory()
    for _ in range(3):
        service.clock.time += 2
        decision = decide(view, memory, service.clock())
        memory = decision.memory
    assert decision.grants
    service.plan(PlanState.PAUSED)
    conductor._write(view, dataclasses.replace(decision, plan=None))
    assert service.turns(TurnState.GRANTED) == []
    conductor._write(view, decision)
    assert service.turns(TurnState.GRANTED) == []
    plan, _ = service.fleet.plan()
    assert plan is not None
    assert plan.state is PlanState.PAUSED
    conductor.lead.give_back()


def test_a_record_that_changed_meanwhile_is_left_out_and_the_others_get_their_turn(service: Catalog) -> None:
    service.start(2, "old")
    service.plan()
    conductor = service.conductor("one")
    true = conductor.fleet.view

    def view(*given: object) -> object:
        found = true(*given)  # type: ignore[arg-type]
        seen = found.records["web-0"]
        assert is_own(seen.record)
        changed = dataclasses.replace(seen.record, node=f"moved at {service.clock.time}")
        service.fleet.store.put(service.fleet.keys.at("web-0"), changed.dump())
        return found

    conductor.fleet.view = view  # type: ignore[assignment,method-assign]
    granted: set[str] = set()
    for _ in range(4):
        service.look(conductor)
        granted |= set(service.turns(TurnState.GRANTED))
    assert granted == {"web-1"}
    conductor.lead.give_back()


def test_revisions_that_nothing_needs_are_deleted_and_those_in_use_stay(service: Catalog) -> None:
    store, root = service.fleet.store, service.fleet.keys.prefix
    made = [revision.keep(store, root, {"config/web": {"config/web/n": bytes([n])}}) for n in range(5)]
    good, target, running, old, unused = made
    service.start(1, running)
    service.plan(PlanState.IDLE, good, target, n=7)
    entry = LogEntry(n=3, how=How.APPLY, outcome=RollOutcome.DONE, source=old, target=good)
    store.put(service.fleet.keys.log(3), entry.dump())
    before = revision.names(store, root)
    late = revision.keep(store, root, {"config/web": {"config/web/n": b"late"}})
    assert conduct.collect(service.fleet, before) == [unused]
    assert set(revision.names(store, root)) == {good, target, running, old, late}


@pytest.mark.parametrize(("keep", "oldest"), [("10", 11), ("55", 6)])
def test_the_history_has_at_least_as_many_entries_as_keep_their_revisions(
    service: Catalog, keep: str, oldest: int
) -> None:
    service.plan(PlanState.IDLE, n=60, keep=keep)
    for n in range(1, 61):
        service.fleet.store.put(service.fleet.keys.log(n), LogEntry(n=n).dump())
    conduct.collect(service.fleet, [])
    assert [entry.n for entry in service.fleet.history()] == list(range(oldest, 61))


def test_a_turn_is_granted_with_a_new_serial_each_time(service: Catalog) -> None:
    service.start(1, "old")
    service.plan()
    conductor = service.conductor("one")
    for _ in range(3):
        service.look(conductor)
    (first,) = service.fleet.own_records()
    assert (first.turn.state, first.turn.n, first.turn.serial) == (TurnState.GRANTED, 1, 1)
    assert first.turn == Turn(**{**vars(first.turn), "rev": "new"})
    conductor.lead.give_back()


@pytest.mark.parametrize(("status", "outcome"), [(0, RollOutcome.DONE), (1, RollOutcome.HALTED)])
def test_the_analysis_command_compares_those_that_changed_with_the_others(
    service: Catalog, tmp_path: pathlib.Path, status: int, outcome: RollOutcome
) -> None:
    service.start(3, "old")
    noted = tmp_path / "noted"
    asked = f"sh -c 'cat >{noted}.new; echo $SVCINIT_FLEET_TO >>{noted}.new; mv {noted}.new {noted}; exit {status}'"
    service.plan(analysis=asked, analysis_interval="1s", bake="1s", canary="1", phase=Phase.CANARY)
    conductor = service.conductor("one")

    def is_over() -> bool:
        service.look(conductor, 1)
        service.do_turns()
        return service.fleet.entry(1) is not None

    eventually(is_over, "the roll-out is over", 30, every=0.1)
    entry = service.fleet.entry(1)
    assert entry is not None
    assert entry.outcome is outcome
    data, target = noted.read_text().rsplit("}", 1)
    assert target.strip() == "new"
    found = json.loads(data + "}")
    assert [len(found[name]) for name in ("done", "others")] == [1, 2] or status == 0
    conductor.lead.give_back()
