"""Whatever happens in whatever order, these hold for a fleet: random events, with the real decision.

FLEET_EXAMPLES is the number of random histories (300 if it is not set).
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fake_fleet import EVERY, KEYS, Conductor, FakeConsul, Instance, step_is_allowed
from svcinit.agent.fleet import commands
from svcinit.agent.fleet.commands import NotNow, Request
from svcinit.agent.fleet.records import How, Plan, PlanState, Record, TurnOutcome, TurnState
from svcinit.agent.fleet.view import Waiting

HEALTHY = 1.5 * EVERY  # the floor: at least so long an instance is watched after its turn
ROUNDS = 500
EXAMPLES = int(os.environ.get("FLEET_EXAMPLES", "300"))
INSTANCES = st.integers(0, 5)
CONDUCTORS = st.integers(0, 1)
BADLY = TurnOutcome.ABORTED, TurnOutcome.ROLLED_BACK, TurnOutcome.FAILED, TurnOutcome.IN_PLACE, TurnOutcome.GIVEN_UP


class Fleet(RuleBasedStateMachine):
    """Instances, two conductors that may both think that they lead, people, and time."""

    @initialize(
        size=st.integers(2, 5),
        limit=st.integers(1, 2),
        canary=st.integers(0, 1),
        failures=st.sampled_from(("0", "1", "100%")),
        on_failure=st.sampled_from(("revert", "pause")),
        ramp=st.sampled_from(("double", "none", "1,2")),
        spread=st.sampled_from(("none", "node")),
        rehearse=st.sampled_from(("yes", "no")),
        bad=st.sets(st.tuples(st.integers(0, 5), st.integers(1, 3))),
        unrenderable=st.sets(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=1),
    )
    def begin(
        self, size: int, limit: int, canary: int, failures: str, on_failure: str, ramp: str, spread: str, rehearse: str,
        bad: set[tuple[int, int]], unrenderable: set[tuple[int, int]],
    ) -> None:  # fmt: skip
        self.consul, self.limit, self.reverts = FakeConsul(), limit, on_failure == "revert"
        self.texts = {
            "max_unavailable": str(limit), "canary": str(canary), "max_failures": failures, "on_failure": on_failure,
            "ramp": ramp, "spread": spread, "bake": "20s", "deadline": "5m",
        }  # fmt: skip
        self.rehearse, self.revision = rehearse == "yes", 0
        self.bad, self.unrenderable = bad, unrenderable
        self.instances: dict[str, Instance] = {}
        for number in range(size):
            self._new(number)
        records = [record for each in self.instances.values() if (record := each.read()[0])]
        assert self.consul.person(commands.adopt(records, "r0", {"r0"}))
        self.conductors = [Conductor(f"c{i}", self.consul, self.instances, offset=1e6 * i) for i in range(2)]
        self.glances: dict[str, tuple[Record | None, int]] = {}
        self.largest = 0
        self.advance(60)
        self.apply(False)

    def _new(self, number: int) -> None:
        instance = Instance(f"i{number}", self.consul, "r0", node=f"h{number % 3}")
        instance.bad = {f"r{revision}" for who, revision in self.bad if who == number}
        instance.unrenderable = {f"r{revision}" for who, revision in self.unrenderable if who == number}
        self.instances[instance.id] = instance
        instance.start()

    def advance(self, seconds: float) -> None:
        until = self.consul.now + seconds
        while self.consul.now < until:
            self.consul.now = min(until, self.consul.now + 5)
            for each in self.instances.values():
                each.probe()

    def at(self, number: int) -> Instance:
        return list(self.instances.values())[number % len(self.instances)]

    # ---- time, Consul

    @rule(seconds=st.sampled_from((1, 5, 20, 40, 400)))
    def time_passes(self, seconds: float) -> None:
        self.advance(seconds)

    @rule(who=CONDUCTORS)
    def session_expires(self, who: int) -> None:
        self.consul.expire(self.conductors[who].session)

    # ---- conductors

    @rule(who=CONDUCTORS)
    def conductor_looks(self, who: int) -> None:
        """It got the lock before; it need not have it any more when it writes."""
        if self.conductors[who].lead():
            self.conductors[who].look()

    @rule(who=CONDUCTORS)
    def conductor_writes(self, who: int) -> None:
        self.conductors[who].write()

    @rule(who=CONDUCTORS, seconds=st.sampled_from((1, 5, 20)))
    def conductor_works(self, who: int, seconds: float) -> None:
        self.advance(seconds)
        if self.conductors[who].lead():
            self.conductors[who].whole()

    @rule(who=CONDUCTORS, rounds=st.integers(1, 8), slow=INSTANCES)
    def all_goes_well_for_a_while(self, who: int, rounds: int, slow: int) -> None:
        """But one instance claims its turn and does not end it."""
        for _ in range(rounds):
            self.conductor_works(who, 5)
            for number, each in enumerate(self.instances.values()):
                each.rehearse()
                if number == slow:
                    each.claim(*each.read())
                else:
                    self._take_turn(each)

    @rule(who=CONDUCTORS, other=INSTANCES, seconds=st.sampled_from((0, 20)))
    def a_conductor_that_was_deposed_writes(self, who: int, other: int, seconds: float) -> None:
        """It looked, and was suspended; another one led meanwhile, and an instance had its turn."""
        first, second = self.conductors[who], self.conductors[1 - who]
        if not first.lead():
            return
        first.look()
        self.consul.expire(first.session)
        self.advance(seconds + 2)
        if second.lead():
            second.whole()
        self._take_turn(self.at(other))
        while first.todo:
            first.write()

    # ---- instances

    @rule(who=INSTANCES)
    def instance_claims(self, who: int) -> None:
        """And then it is suspended, or slow."""
        instance = self.at(who)
        instance.claim(*instance.read())

    @rule(who=INSTANCES)
    def instance_reads_its_record(self, who: int) -> None:
        self.glances[self.at(who).id] = self.at(who).read()

    @rule(who=INSTANCES)
    def instance_claims_what_it_read_before(self, who: int) -> None:
        instance = self.at(who)
        instance.claim(*self.glances.get(instance.id, (None, 0)))

    @rule(who=INSTANCES)
    def instance_takes_its_turn(self, who: int) -> None:
        self._take_turn(self.at(who))

    def _take_turn(self, instance: Instance) -> None:
        instance.claim(*instance.read())
        instance.reload(TurnOutcome.DONE)
        instance.report()

    @rule(who=INSTANCES, outcome=st.sampled_from((TurnOutcome.DONE, *BADLY)))
    def instance_reloads(self, who: int, outcome: TurnOutcome) -> None:
        self.at(who).reload(outcome)

    @rule(who=INSTANCES)
    def instance_reports(self, who: int) -> None:
        self.at(who).report()

    @rule(who=INSTANCES)
    def instance_rehearses(self, who: int) -> None:
        self.at(who).rehearse()

    @rule(who=INSTANCES, orderly=st.booleans())
    def instance_restarts(self, who: int, orderly: bool) -> None:
        if self.at(who).runs:
            self.at(who).stop(orderly=orderly)
        self._start(self.at(who))

    @rule(who=INSTANCES, orderly=st.booleans())
    def instance_stops(self, who: int, orderly: bool) -> None:
        if self.at(who).runs:
            self.at(who).stop(orderly=orderly)

    def _start(self, instance: Instance) -> None:
        before = instance.read()[0]
        instance.start()
        if before is not None and before.turn.state == TurnState.CLAIMED:
            instance.changed_at = self.consul.now

    @rule()
    @precondition(lambda self: len(self.instances) < 6)
    def instance_joins(self) -> None:
        self._new(len(self.instances))

    @rule(who=INSTANCES)
    def instance_breaks_by_itself(self, who: int) -> None:
        self.at(who).ok = False

    @rule(who=INSTANCES)
    def instance_recovers(self, who: int) -> None:
        self.at(who).ok = self.at(who).rev not in self.at(who).bad

    # ---- people

    @rule(supersede=st.booleans())
    def apply(self, supersede: bool) -> None:
        self._begin(How.APPLY, supersede)

    @rule()
    def reload(self) -> None:
        self._begin(How.RELOAD, False)

    def _begin(self, how: How, supersede: bool) -> None:
        if self.revision >= 3:
            return
        target = f"r{self.revision + 1}" if how == How.APPLY else ""
        request = Request(how, target, policy=self.texts, rehearse=self.rehearse)
        records = [record for each in self.instances.values() if (record := each.read()[0])]
        try:
            plan, _ = commands.begin(self.consul.plan, records, request, supersede=supersede)
        except NotNow:
            return
        self.revision += how == How.APPLY
        self.consul.person(plan)

    @rule()
    def pause(self) -> None:
        self._person("pause")

    @rule()
    def resume(self) -> None:
        self._person("resume")

    @rule()
    def abort(self) -> None:
        self._person("abort")

    def _person(self, what: str) -> None:
        try:
            found = getattr(commands, what)(self.consul.plan)
        except NotNow:
            return
        plan = found if isinstance(found, Plan) else found[0]
        assert self.consul.person(plan)

    # ---- what always holds

    @invariant()
    def the_roll_out_never_makes_more_unavailable_than_allowed(self) -> None:
        if hasattr(self, "glances"):
            hurt = {id for id, each in self.instances.items() if self._is_hurt(each)}
            assert len(hurt) <= self.limit, hurt

    def _is_hurt(self, instance: Instance) -> bool:
        """Is it in its turn, or just had it, or is it broken by it; and did it pass before?"""
        record, _ = instance.read()
        if record is None or record.turn.broken:
            return False
        if record.turn.state == TurnState.ENDED:
            fresh = self.consul.now - instance.changed_at < HEALTHY
            return fresh or (record.turn.rev in instance.bad and instance.rev == record.turn.rev)
        return record.turn.state in (TurnState.GRANTED, TurnState.CLAIMED)

    @invariant()
    def each_write_to_a_record_is_a_step_of_the_table(self) -> None:
        if hasattr(self, "glances"):
            for key, before, after in self.consul.steps:
                assert step_is_allowed(before, after), (key, before, after)
            self.consul.steps.clear()

    @invariant()
    def the_number_of_the_roll_out_never_falls(self) -> None:
        if hasattr(self, "glances"):
            assert self.consul.plan.n >= self.largest
            self.largest = self.consul.plan.n

    # ---- how it ends

    def teardown(self) -> None:
        """If nothing goes wrong any more, the roll-out ends: with all on one revision, or it says why it waits."""
        if not hasattr(self, "glances"):
            return
        if self.consul.plan.state == PlanState.PAUSED:
            self.resume()
        conductor = self.conductors[0]
        self.consul.expire(self.conductors[1].session)
        over = 0
        for _ in range(ROUNDS):
            self._all_behave()
            self.advance(5)
            if conductor.lead():
                over = over + 1 if conductor.whole().over else 0
            self.the_roll_out_never_makes_more_unavailable_than_allowed()
            if over == 3:
                break
        self._assert_ended(conductor, over)

    def _all_behave(self) -> None:
        for each in self.instances.values():
            each.ok = each.rev not in each.bad
            if not each.runs:
                self._start(each)
            each.rehearse()
            self._take_turn(each)

    def _assert_ended(self, conductor: Conductor, over: int) -> None:
        plan, last = self.consul.plan, conductor.last
        assert last is not None
        if over < 3:  # those that the change broke use up the limit: nobody else is touched, and it is told
            assert plan.stuck, plan
            assert last.waiting in (Waiting.LIMIT, Waiting.INSTANCES), (last.waiting, plan)
            return
        found = {id: record for id, each in self.instances.items() if (record := each.read()[0])}
        assert not any(record.turn.state in (TurnState.GRANTED, TurnState.CLAIMED) for record in found.values())
        if plan.state == PlanState.IDLE:
            failed = {id for id, _ in plan.failed}
            assert all(record.rev == plan.good for id, record in found.items() if id not in failed), (plan, found)
        assert plan.state in (PlanState.IDLE, PlanState.HALTED)
        assert KEYS.plan in self.consul.values


TestFleet = Fleet.TestCase
TestFleet.pytestmark = [pytest.mark.timeout(60 + EXAMPLES)]  # type: ignore[attr-defined]
TestFleet.settings = hypothesis_settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
