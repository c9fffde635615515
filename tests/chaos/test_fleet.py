"""Roll-outs while the conductor, instances and Consul's members die, hang and come back; the bound is kept."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack

import pytest

from svcinit.agent.fleet.census import LEFT
from svcinit.agent.fleet.records import PlanState, TurnState
from testing.consul import ConsulAgent
from testing.observer import Client, answering
from testing.rollout import AGENTS, TOGETHER, WARM_UP, Group, Instance
from testing.waiting import Repeatedly, eventually
from tests.chaos.fleet import (
    LIMIT,
    LONG,
    PROGRESS,
    SCALE,
    TTL,
    Row,
    changed,
    next_value,
    state_of,
    turns,
)

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(SCALE.timeout)]

Rolls = Callable[..., AbstractContextManager[Row]]
NO_TURN = 7.0  # seconds until what was claimed before has ended: a reload is confirmed after 5


@pytest.mark.chaos
def test_a_good_change(group: Group, rolls: Rolls) -> None:
    value = next_value("good")
    with rolls(group) as row:
        with Client(group) as client:
            code, said, _ = group.apply(value, seconds=LONG)
        assert code == 0, said
        assert group.all_have(value)
        assert (client.failed, client.unresolved) == ([], [])
        row.ends("done", f"{client.good} requests of a client that asks DNS first, 0 failed")


@pytest.mark.chaos
def test_a_change_after_which_each_instance_has_to_warm_up(group: Group, rolls: Rolls) -> None:
    value = next_value()
    with rolls(group) as row:
        code, said, _ = group.apply(value, seconds=LONG)
        assert code == 0, said
        assert group.all_have(value)
        assert row.observer.most > 1, "they are out for a moment"
        row.ends("done", f"each one answers 500 for {WARM_UP:g} s after its reload")


@pytest.mark.chaos
def test_the_conductor_is_killed(group: Group, rolls: Rolls) -> None:
    value = next_value()
    group.put(value)
    with rolls(group) as row:
        conductor = group.begin("apply")
        for kill in range(SCALE.kills):
            with conductor:
                changed(group, value, 1 + kill * LIMIT)
            conductor = group.begin("resume")
        with conductor:
            assert conductor.wait(LONG) == 0, conductor.said
        assert group.all_have(value)
        row.ends("done", f"{SCALE.kills} KILL{'s' * (SCALE.kills > 1)}, `fleet resume` after each")


@pytest.mark.chaos
def test_the_conductor_is_stopped_and_wakes_when_another_one_leads(group: Group, rolls: Rolls) -> None:
    value = next_value()
    group.put(value)
    with rolls(group) as row, group.begin("apply") as first:
        changed(group, value, 1)
        first.signal(signal.SIGSTOP)
        with group.begin("resume", agent=group.site.agents[0]) as second:
            changed(group, value, 2, TTL + 60)
            first.signal(signal.SIGCONT)
            assert second.wait(LONG) == 0, second.said
            assert first.wait(LONG) == 0, first.said
        assert group.all_have(value)
        row.ends("done", "both `svcinitctl` ended with 0")


def test_two_roll_outs_begin_at_once(group: Group, rolls: Rolls) -> None:
    value = next_value()
    group.put(value)
    with rolls(group) as row:
        with group.begin("apply") as one, group.begin("apply", agent=group.site.agents[0]) as other:
            codes = sorted((one.wait(LONG), other.wait(LONG)))
        assert codes == [0, 75], one.said + other.said
        assert group.all_have(value)
        row.ends("done", "exit status 0 and 75")


class Killer(Repeatedly):
    """KILLs one of ten instances that have claimed a turn, as the machine's lack of memory would."""

    def __init__(self, group: Group, row: Row) -> None:
        super().__init__(0.02)
        self._group, self._row, self._claims = group, row, 0
        self._seen: set[str] = set()
        self.killed: list[str] = []

    def look(self) -> None:
        for each in turns(self._group, TurnState.CLAIMED):
            if each.id in self._seen or len(self.killed) > self._claims // 10:
                continue
            self._seen.add(each.id)
            self._claims += 1
            if self._claims > 1 and len(self.killed) < 1 + self._claims // 10:  # never the canary
                self._row.observer.excused.add(each.id)
                self.killed.append(each.id)
                each.run.process.kill()


def test_instances_are_killed_in_their_turn(group: Group, rolls: Rolls) -> None:
    value = next_value()
    group.put(value)
    before = group.instances[0].content
    with rolls(group) as row:
        with Killer(group, row) as killer:
            code, said = group.run("apply", seconds=LONG)
        assert killer.killed
        assert code == 1, said
        group.all_pass()
        eventually(lambda: group.all_have(before), "all have the revision before", 60)
        row.ends("reverted", f"{len(killer.killed)} killed")


def test_an_instance_hangs_after_its_claim(group: Group, rolls: Rolls) -> None:
    value = next_value()
    group.put(value)
    before = group.instances[0].content
    with rolls(group) as row, group.begin("apply", "--deadline", f"{SCALE.deadline}s") as conductor:
        (hung, *_) = eventually(lambda: turns(group, TurnState.CLAIMED), "the canary has claimed its turn", 60)
        hung.pause()
        plan = eventually(
            lambda: state_of(group) in (PlanState.REVERTING, PlanState.HALTED, PlanState.IDLE),
            "it halts",
            SCALE.deadline * 3,
        )
        assert plan
        halted = time.monotonic() - row.began
        hung.resume()
        assert conductor.wait(LONG) == 1, conductor.said
        group.all_pass()
        eventually(lambda: group.all_have(before), "all have the revision before", 60)
        assert set(group.touched(value)) <= {hung.id}
        row.ends("reverted", f"halted after {halted:.0f} s, at the deadline of {SCALE.deadline} s; 1 touched")


def test_the_leader_of_consul_is_killed(group: Group, rolls: Rolls) -> None:
    value = next_value()
    group.put(value)
    with rolls(group) as row, group.begin("apply") as conductor:
        for _ in range(SCALE.kills):
            changed(group, value, 2)
            leader = group.site.cluster.leader()
            leader.stop()
            time.sleep(SCALE.between)  # how long it is down
            leader.start()
            group.site.cluster.is_healthy()
        assert conductor.wait(LONG) == 0, conductor.said
        assert group.all_have(value)
        row.ends("done", f"{SCALE.kills} KILL{'s' * (SCALE.kills > 1)}, {SCALE.between:g} s down each")


@pytest.mark.chaos
def test_two_of_three_servers_are_down(group: Group, rolls: Rolls) -> None:
    value = next_value()
    group.put(value)
    with rolls(group) as row, group.begin("apply", "--patience", "300") as conductor:
        changed(group, value, 2)
        down = group.site.cluster.servers[:2]
        for server in down:
            server.stop()
        time.sleep(NO_TURN)
        touched = set(group.touched(value))
        time.sleep(SCALE.down)
        assert set(group.touched(value)) == touched, "no turn without Consul"
        for server in down:
            threading.Thread(target=server.start).start()
        group.site.cluster.is_healthy()
        assert conductor.wait(LONG) == 0, conductor.said
        assert group.all_have(value)
        row.ends("done", f"no turn in the {SCALE.down:g} s without a leader")


@pytest.mark.chaos
def test_an_agent_of_consul_hangs(group: Group, rolls: Rolls) -> None:
    value = next_value()
    group.put(value)
    limit = min(LIMIT, len(group.instances) // AGENTS)  # as many as it takes out
    with rolls(group, limit) as row, group.begin("apply", "--max-unavailable", str(limit)) as conductor:
        changed(group, value, 1)
        (canary,) = [each for each in group.instances if each.id in group.touched(value)]
        agent = next(each for each in group.site.agents[:-1] if each is not canary.agent)
        row.observer.excused |= {each.id for each in group.instances if each.agent is agent}
        agent.pause()
        try:
            eventually(lambda: len(group.passing()) <= len(group.instances) - limit, "the catalog has them as out", 60)
            time.sleep(NO_TURN)
            touched = set(group.touched(value))
            eventually(lambda: (plan := group.plan()) is not None and plan.stuck, "it is stuck", PROGRESS + 60)
            assert set(group.touched(value)) == touched, "no turn while so many are out"
        finally:
            agent.resume()
        assert conductor.wait(LONG) == 0, conductor.said
        group.all_pass()
        assert group.all_have(value)
        row.ends("done", f"stuck with {len(touched)} on the new revision, until the agent was back")


@pytest.mark.chaos
def test_instances_join_leave_and_restart_in_the_middle(group: Group, rolls: Rolls) -> None:
    value = next_value()
    before = group.instances[0].content
    group.put(value)
    with rolls(group) as row, group.begin("apply") as conductor:
        changed(group, value, 2)
        old = [each for each in group.instances if each.is_wanted]
        random.shuffle(old)
        new = group.grow(SCALE.churn)
        for first in range(0, SCALE.churn, TOGETHER):
            restart(group, row, old[first : min(first + TOGETHER, SCALE.churn)])
        leaving = old[SCALE.churn : 2 * SCALE.churn]
        row.observer.excused |= {each.id for each in leaving}
        group.stop(leaving)
        assert conductor.process.poll() is None, f"it was in the middle\n{conductor.said}"
        assert conductor.wait(LONG + LEFT) == 0, conductor.said  # it waits for them to be back, for so long
        group.all_pass()
        eventually(lambda: group.all_have(value), "all have it, and the new ones too", 60)
        seen = {content for each in new for content in each.contents()}
        assert seen <= {before, value}, "none on a third revision"
        row.ends("done", f"{SCALE.churn} joined, {SCALE.churn} left, {SCALE.churn} restarted")
    records = group.fleet.store.below(group.fleet.keys.records)  # those that the conductor has not deleted
    for id in {each.id for each in leaving} & {group.fleet.keys.instance(entry.key) for entry in records}:
        code, said = group.run("forget", id)  # a conductor that begins does not know since when they are gone
        assert code == 0, said


def restart(group: Group, row: Row, instances: Sequence[Instance]) -> None:
    """All of them at the same time. They are back at the end, and count again."""
    ids, ports = {each.id for each in instances}, {each.port for each in instances}
    with row.observer.excusing(ids):
        group.stop(instances)
        for each in instances:
            each.start()
        eventually(lambda: ids <= group.passing() and ports == answering(ports), "they pass again", 90, every=0.2)


class Writes(Repeatedly):
    """Writes keys of others, beside those of the fleet."""

    def __init__(self, agent: ConsulAgent, prefix: str) -> None:
        super().__init__(0.005)
        self._agent, self._prefix, self.count = agent, prefix, 0

    def look(self) -> None:
        self._agent.kv_put(f"{self._prefix}/other/{self.count % 100}", str(self.count))
        self.count += 1


def test_others_write_keys_beside_it(group: Group, rolls: Rolls) -> None:
    value = next_value()
    group.put(value)
    with rolls(group) as row:
        with ExitStack() as stack:
            writers = [
                stack.enter_context(Writes(agent, f"{group.fleet.keys.prefix}/{number}"))
                for number, agent in enumerate(group.site.agents)
            ]
            code, said = group.run("apply", "--ramp", "none", seconds=LONG)
        assert code == 0, said
        assert group.all_have(value)
        rate = sum(each.count for each in writers) / (time.monotonic() - row.began)
        row.ends("done", f"{rate:.0f} writes a second below {group.fleet.keys.prefix}/")
