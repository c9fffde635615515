"""SVCINIT_ROLL=auto: the conductor begins a roll-out when the prefixes change. The instances are the test's own."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Iterator

import pytest

from svcinit.agent.consul.store import Store
from svcinit.agent.fleet import revision
from svcinit.agent.fleet.auto import Automatic
from svcinit.agent.fleet.commands import Request, begin
from svcinit.agent.fleet.conduct import Lead
from svcinit.agent.fleet.records import How, Plan, PlanState, RollOutcome, TurnOutcome, TurnState
from svcinit.agent.metrics.families import of_roll_out
from svcinit.settings import environment
from svcinit.state_files import read_of_life
from testing.consul import ConsulAgent
from testing.ctl import svcinitctl
from testing.fleet import POLICY, Catalog
from testing.waiting import eventually

LIFE = "life0"
pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]


class Auto(Catalog):
    """`outcome`: of the turns that the instances do. `folder`: SVCINIT_RUN."""

    def __init__(self, consul: ConsulAgent, folder: pathlib.Path) -> None:
        super().__init__(consul)
        self.outcome = TurnOutcome.DONE
        given = {**consul.env, "SVCINIT_SERVICE": "web", "SVCINIT_ID": "web-0", "SVCINIT_ROLL": "auto"}
        given |= {"SVCINIT_METRICS": "127.0.0.1:1", "SVCINIT_RUN": str(folder), "SVCINIT_SETTLE": "0s"}
        settings = environment.read(given)
        fleet = self.reader()
        self.lead = Lead(fleet.store, fleet.keys, "web-0")
        assert self.lead.take()
        self.automatic = Automatic(settings, fleet, self.lead, os.getppid(), LIFE)

    def begin(self, count: int) -> str:
        """Instances that run what KV has. Returns its revision."""
        self.fleet.store.put(self.fleet.keys.policy, json.dumps(POLICY).encode())
        self.consul.kv_put("config/web/n", "1")
        good = revision.name_of(revision.read_live(self.clients[0], ["config/web"]))
        self.start(count, good)
        return good

    def turn(self) -> None:
        """One look of the conductor, and what the instances do after it."""
        self.lead.take()
        self.automatic._turn()
        for id in self.turns(TurnState.GRANTED):
            self.step(id, TurnState.CLAIMED)
            self.step(id, TurnState.ENDED, outcome=self.outcome)
        time.sleep(0.1)

    def until(self, n: int) -> str:
        """The outcome of roll-out `n`."""

        def is_over() -> bool:
            self.turn()
            return self.fleet.entry(n) is not None

        eventually(is_over, f"roll-out {n} is over", 40)
        entry = self.fleet.entry(n)
        assert entry is not None
        return entry.outcome


@pytest.fixture
def auto(consul: ConsulAgent, tmp_path: pathlib.Path) -> Iterator[Auto]:
    with Auto(consul, tmp_path) as made:
        yield made
        made.lead.give_back()


def state(auto: Auto) -> tuple[int, PlanState, str]:
    plan, _ = auto.fleet.plan()
    assert plan is not None
    return plan.n, plan.state, plan.good


def begins_nothing(auto: Auto, n: int, wanted: PlanState, good: str) -> None:
    """Five more looks leave all as it is."""
    for _ in range(5):
        auto.turn()
    assert state(auto) == (n, wanted, good)


def test_the_instance_that_conducts_has_the_figures_of_the_roll_out(auto: Auto, tmp_path: pathlib.Path) -> None:
    def figures() -> dict[str, object]:
        found = read_of_life(str(tmp_path), "conductor", LIFE)
        assert found is not None
        return {name: value for name, _, value in of_roll_out(found)}

    auto.begin(2)
    for _ in range(5):
        auto.turn()
    assert (figures()["fleet_conducting"], figures()["fleet_roll_out"]) == (True, 0)
    auto.consul.kv_put("config/web/n", "2")
    assert auto.until(1) == RollOutcome.DONE
    auto.turn()
    assert (figures()["fleet_roll_out"], figures()["fleet_max_unavailable"]) == (1, 2)
    auto.automatic._export(None)
    assert figures() == {"fleet_conducting": False}


def test_what_all_run_is_adopted_and_nothing_begins(auto: Auto) -> None:
    good = auto.begin(3)
    begins_nothing(auto, 0, PlanState.IDLE, good)
    assert revision.is_kept(auto.fleet.store, "svcinit/web", good)


def test_a_change_rolls_by_itself_and_only_once(auto: Auto) -> None:
    auto.begin(3)
    for _ in range(3):
        auto.turn()
    auto.consul.kv_put("config/web/n", "2")
    assert auto.until(1) == RollOutcome.DONE
    wanted = revision.name_of(revision.read_live(auto.clients[0], ["config/web"]))
    begins_nothing(auto, 1, PlanState.IDLE, wanted)
    assert {record.rev for record in auto.fleet.own_records()} == {wanted}


def test_a_change_that_fails_is_reverted_and_does_not_begin_again(auto: Auto) -> None:
    good = auto.begin(3)
    for _ in range(3):
        auto.turn()
    auto.outcome = TurnOutcome.FAILED
    auto.consul.kv_put("config/web/n", "bad")
    assert auto.until(1) == RollOutcome.HALTED
    auto.outcome = TurnOutcome.DONE
    assert auto.until(2) == RollOutcome.REVERTED
    begins_nothing(auto, 2, PlanState.IDLE, good)
    auto.consul.kv_put("config/web/n", "mended")
    assert auto.until(3) == RollOutcome.DONE


def test_a_further_change_in_the_middle_takes_the_place_of_the_first(auto: Auto) -> None:
    auto.begin(3)
    for _ in range(3):
        auto.turn()
    auto.consul.kv_put("config/web/n", "2")
    eventually(lambda: auto.turn() or state(auto)[0] == 1, "the first one begins", 20)  # type: ignore[func-returns-value]
    auto.consul.kv_put("config/web/n", "3")
    assert auto.until(1) == RollOutcome.SUPERSEDED
    assert auto.until(2) == RollOutcome.DONE
    wanted = revision.name_of(revision.read_live(auto.clients[0], ["config/web"]))
    assert state(auto) == (2, PlanState.IDLE, wanted)


def test_a_wrong_policy_in_kv_stops_no_roll_out_that_runs(auto: Auto) -> None:
    auto.begin(3)
    for _ in range(3):
        auto.turn()
    auto.consul.kv_put("config/web/n", "2")
    eventually(lambda: auto.turn() or state(auto)[0] == 1, "the roll-out begins", 20)  # type: ignore[func-returns-value]
    auto.fleet.store.put(auto.fleet.keys.policy, b'{"max_unavailable": "all of them"}')
    auto.consul.kv_put("config/web/n", "3")
    assert auto.until(1) == RollOutcome.DONE


def test_a_plan_that_cannot_be_read_is_left_alone(auto: Auto) -> None:
    auto.begin(2)
    auto.fleet.store.put(auto.fleet.keys.plan, b'{"v": 2}')
    for _ in range(3):
        auto.turn()
    entry = auto.fleet.store.get(auto.fleet.keys.plan)
    assert entry is not None
    assert entry.value == b'{"v": 2}'


def test_a_prefix_that_is_suddenly_empty_begins_nothing(auto: Auto) -> None:
    good = auto.begin(2)
    for _ in range(3):
        auto.turn()
    auto.consul.kv_delete("config/web/")
    begins_nothing(auto, 0, PlanState.IDLE, good)


def rolled(auto: Auto, value: str, policy: dict[str, str] | None = None) -> str:
    """A change begins a roll-out, the first one. Returns the revision from which it comes."""
    good = auto.begin(3)
    auto.fleet.store.put(auto.fleet.keys.policy, json.dumps({**POLICY, **(policy or {})}).encode())
    for _ in range(3):
        auto.turn()
    auto.consul.kv_put("config/web/n", value)
    eventually(lambda: auto.turn() or state(auto)[0] == 1, "the roll-out begins", 20)  # type: ignore[func-returns-value]
    return good


def ordered(auto: Auto, *command: str) -> None:
    done = svcinitctl("fleet", *command, "--detach", "web", env=auto.consul.env)
    assert done.returncode == 0, done


def test_what_a_person_aborts_and_settles_is_not_begun_again(auto: Auto) -> None:
    good = rolled(auto, "2")
    ordered(auto, "abort", "--keep")
    begins_nothing(auto, 1, PlanState.HALTED, good)
    ordered(auto, "settle")
    assert auto.until(2) == RollOutcome.DONE
    begins_nothing(auto, 2, PlanState.IDLE, good)
    assert {record.rev for record in auto.fleet.own_records()} == {good}


@pytest.mark.parametrize("to", [False, True], ids=["the one before", "an older one"])
def test_a_roll_out_that_a_person_reverts_is_not_begun_again(auto: Auto, to: bool) -> None:
    """The keys still have it. A further change is rolled out."""
    before = rolled(auto, "2")
    assert auto.until(1) == RollOutcome.DONE
    ordered(auto, "revert", *(["--to", before] if to else []))
    assert auto.until(2) == RollOutcome.DONE
    begins_nothing(auto, 2, PlanState.IDLE, before)
    auto.consul.kv_put("config/web/n", "3")
    assert auto.until(3) == RollOutcome.DONE


def test_an_abort_of_the_first_roll_out_without_a_good_revision_is_its_end(auto: Auto) -> None:
    auto.begin(2)
    auto.consul.kv_put("config/web/n", "2")  # what they run is stored nowhere
    auto.turn()
    eventually(lambda: auto.turn() or state(auto)[0] == 1, "the roll-out begins", 20)  # type: ignore[func-returns-value]
    ordered(auto, "abort")
    begins_nothing(auto, 1, PlanState.IDLE, "")


def test_after_a_halt_the_former_value_of_the_key_is_rolled_out(auto: Auto) -> None:
    auto.outcome = TurnOutcome.FAILED
    good = rolled(auto, "bad", {"on_failure": "pause"})
    eventually(lambda: auto.turn() or state(auto)[1] is PlanState.HALTED, "it is halted", 20)  # type: ignore[func-returns-value]
    auto.outcome = TurnOutcome.DONE
    auto.consul.kv_put("config/web/n", "1")
    assert auto.until(2) == RollOutcome.DONE
    assert state(auto) == (2, PlanState.IDLE, good)
    assert {record.rev for record in auto.fleet.own_records()} == {good}


def test_after_an_abort_with_keep_the_former_value_of_the_key_begins_nothing(auto: Auto) -> None:
    good = rolled(auto, "2")
    ordered(auto, "abort", "--keep")
    auto.consul.kv_put("config/web/n", "1")
    begins_nothing(auto, 1, PlanState.HALTED, good)


class Person:
    """Rolls out `target` at the moment when the automatic conductor has read the plan and not written it yet."""

    def __init__(self, auto: Auto, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
        self._names, self._fleet, self._target = revision.names, auto.reader(), target
        self.n = 0
        monkeypatch.setattr(revision, "names", self._between)

    def _between(self, store: Store, root: str) -> list[str]:
        if not self.n and store is not self._fleet.store:
            plan, index = self._fleet.plan()
            request = Request(
                How.APPLY, self._target, policy=POLICY, paths=("config/web",), by="person", rehearse=False
            )
            following, _ = begin(plan or Plan(), self._fleet.own_records(), request)
            assert self._fleet.store.put(self._fleet.keys.plan, following.dump(), index=index)
            self.n = following.n
        return self._names(store, root)


@pytest.mark.parametrize("is_adopted", [False, True], ids=["the first plan", "a change"])
def test_a_roll_out_that_a_person_begins_while_auto_decides_stays_as_it_is(
    auto: Auto, monkeypatch: pytest.MonkeyPatch, is_adopted: bool
) -> None:
    auto.begin(3)
    if is_adopted:
        for _ in range(3):
            auto.turn()
        auto.consul.kv_put("config/web/n", "2")
    target = revision.keep(auto.fleet.store, "svcinit/web", revision.read_live(auto.clients[0], ["config/web"]))
    person = Person(auto, monkeypatch, target)
    eventually(lambda: auto.turn() or person.n, "both have begun", 20)  # type: ignore[func-returns-value]
    assert auto.until(person.n) == RollOutcome.DONE
    entry = auto.fleet.entry(person.n)
    assert entry is not None
    assert (entry.by, entry.target) == ("person", target)
    for _ in range(3):
        auto.turn()
    assert state(auto) == (person.n, PlanState.IDLE, target)


@pytest.mark.parametrize("state_", [PlanState.ROLLING, PlanState.HALTED])
@pytest.mark.parametrize("good", ["", "1"], ids=["without a good revision", "with a good revision"])
def test_auto_changes_nothing_in_a_roll_out_in_which_hosts_run_their_commands(
    auto: Auto, good: str, state_: PlanState
) -> None:
    """Their instances read the live prefixes until its end; and hosts that wait would give up. A halt is for later
    hosts, too."""
    found = auto.begin(3)
    plan = Plan(n=1, state=state_, how=How.TURN, good=found if good else "", policy=POLICY)
    auto.fleet.store.put(auto.fleet.keys.plan, plan.dump())
    auto.step("web-1", TurnState.ASKED, how=How.TURN)
    auto.consul.kv_put("config/web/n", "2")
    for _ in range(10):
        auto.lead.take()
        auto.automatic._turn()
        assert state(auto) == (1, state_, plan.good)
        time.sleep(0.1)
