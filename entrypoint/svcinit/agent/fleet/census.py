"""Who is expected, who is out, who needs a turn, who failed: the sets on which the conductor decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property

from svcinit.agent.fleet.policy import Policy, Selector
from svcinit.agent.fleet.records import How, Plan, PlanState, Record, TurnOutcome, TurnState
from svcinit.agent.fleet.view import Counts, Health, Memory, Reason, View, own_records

VANISHED = 600.0  # seconds: an instance that is not in the catalog counts as out for so long
LEFT = 120.0  # the same for an instance that was stopped on purpose, and for one without a record
RETRIED = TurnOutcome.IN_PLACE, TurnOutcome.GIVEN_UP  # no failures: the instance gets another turn
TRIES = 4  # turns of one instance in one roll-out; with the last one, RETRIED is a failure too
UNCLAIMED_AGAIN = 60.0  # seconds until an instance that did not claim its turn gets another one
PROBE = 5.0  # seconds: how long a probe may take, by the default of SVCINIT_CHECK_TIMEOUT
IN_TURN = TurnState.GRANTED, TurnState.CLAIMED


class Census:
    """One view, counted. `plan` is the plan that is in force, which may be newer than the one in the view."""

    def __init__(self, view: View, memory: Memory, plan: Plan, policy: Policy, now: float) -> None:
        self.view, self.memory, self.plan, self.policy, self.now = view, memory, plan, policy, now
        self.health = view.health
        self.records = {**memory.claims, **own_records(view)}
        self.known = set(memory.gone) | set(self.health)
        self.failed = {id for id, _ in plan.failed}

    @cached_property
    def expected(self) -> set[str]:
        return {id for id in self.known if id in self.health or self._age(id) < self._patience(id)}

    def _age(self, id: str) -> float:
        return self.now - self.memory.gone[id]

    def _patience(self, id: str) -> float:
        """How long an instance that is not in the catalog is expected."""
        record = self.records.get(id)
        if record is not None and record.turn.how == How.TURN and record.turn.state == TurnState.CLAIMED:
            return math.inf  # its container is replaced; the host will write the end
        if record is not None and record.turn.state == TurnState.ASKED:
            return VANISHED
        if record is None:  # none yet; or `fleet forget` removed it
            return 0 if id in self.memory.lives else LEFT
        return LEFT if record.left else VANISHED

    @cached_property
    def collectable(self) -> list[str]:
        """Records of instances that are not expected any more. The next conductor would wait for them again: it does
        not know since when they are gone."""
        seen = own_records(self.view)
        return [id for id in self.memory.gone if id in seen and self._age(id) >= self._patience(id)]

    @cached_property
    def passing(self) -> set[str]:
        return {id for id, row in self.health.items() if row.passing}

    @cached_property
    def not_passing(self) -> set[str]:
        """U."""
        return self.expected - self.passing

    @cached_property
    def unreachable(self) -> set[str]:
        """They do not pass, and do not claim their turns: such as those of a host that is down.

        The roll-out does not wait for them. When they start again, they take the good revision.
        """
        return self.not_passing & set(self.memory.unclaimed)

    @cached_property
    def in_turn(self) -> set[str]:
        """G and C, of all roll-outs."""
        return {id for id, record in self.records.items() if record.turn.state in IN_TURN and id in self.expected}

    @cached_property
    def waited_for(self) -> set[str]:
        """Those in a turn for whose end the roll-out waits. One that vanished in an older roll-out is only counted."""
        return {id for id in self.in_turn - self.failed if id in self.health or self.records[id].turn.n == self.plan.n}

    @cached_property
    def unsettled(self) -> set[str]:
        """F: the turn ended, and the instance was not healthy for long enough since.

        An instance that does not pass and is not waited for any more is left out: it is in U.
        """
        return {
            id
            for id, record in self.records.items()
            if record.turn.state == TurnState.ENDED
            and record.turn.n > self.plan.settled
            and id in self.expected
            and not self.is_settled(id)
            and (id in self.passing or not self._given_up(id))
        }

    def is_settled(self, id: str) -> bool:
        record = self.records[id]
        return self.memory.healthy.get(id) == record.turn.serial or record.turn.n <= self.plan.settled

    def _given_up(self, id: str) -> bool:
        return id in self.failed or self.records[id].turn.n != self.plan.n or self.is_excused(id)

    def is_excused(self, id: str) -> bool:
        """Is it no fault of its turn that the instance does not pass?"""
        row = self.health.get(id)
        return self.records[id].turn.broken or (row is not None and row.maintenance)

    @cached_property
    def takes_turns(self) -> set[str]:
        return {id for id in self.expected if self._takes_turns(id)}

    def _takes_turns(self, id: str) -> bool:
        record, row = self.records.get(id), self.health.get(id)
        if record is None:
            return False
        if self.plan.how == How.TURN and record.turn.state == TurnState.ASKED:
            return True
        return row is not None and row.life == record.life

    @property
    def target(self) -> str:
        """The revision that the plan wants; "": each keeps its own."""
        return self.plan.good if self.plan.state == PlanState.IDLE else self.plan.target

    @cached_property
    def needs(self) -> set[str]:
        """They take turns, and are not where the plan wants them."""
        return {id for id in self.takes_turns if self._needs(self.records[id])}

    def _needs(self, record: Record) -> bool:
        turn = record.turn
        on_target = not self.target or bool(record.pin) or record.rev == self.target
        if self.plan.state == PlanState.IDLE or self.plan.how == How.APPLY:
            return not on_target
        if self.plan.how == How.TURN:
            return turn.state == TurnState.ASKED
        did = turn.n == self.plan.n and turn.state == TurnState.ENDED and turn.outcome == TurnOutcome.DONE
        return not (did and on_target)

    @cached_property
    def candidates(self) -> set[str]:
        """They could get a turn now, if the bound has room."""
        return {id for id in self.needs - self.in_turn - self.failed if self._may_try(id)}

    def _may_try(self, id: str) -> bool:
        record, unclaimed = self.records[id], self.memory.unclaimed.get(id)
        turn = record.turn
        if record.left and turn.state != TurnState.ASKED:
            return False
        if self.plan.state == PlanState.IDLE and unclaimed is not None:
            return False
        if turn.n == self.plan.n and turn.state == TurnState.ENDED:
            again = (
                turn.outcome in RETRIED or self.plan.state == PlanState.REVERTING or turn.outcome == TurnOutcome.DONE
            )
            if not again or turn.tries >= TRIES:
                return False
        return unclaimed is None or self.now - unclaimed >= UNCLAIMED_AGAIN

    @cached_property
    def attempted(self) -> set[str]:
        """They have, or had, their turn in this roll-out, and need no other one."""
        return {
            id
            for id, record in self.records.items()
            if id in self.failed
            or (record.turn.n == self.plan.n and id in self.expected
                and (id in self.in_turn or (record.turn.state == TurnState.ENDED and id not in self.needs)))
        }  # fmt: skip

    @cached_property
    def done(self) -> set[str]:
        """They are where the plan wants them, and healthy."""
        return {id for id in self.takes_turns - self.needs - self.in_turn - self.failed if self.is_over(id)}

    def is_over(self, id: str) -> bool:
        """Has the turn of this instance no open question? It failed; or it ended, and the instance is healthy now."""
        if id in self.failed:
            return True
        if id in self.in_turn or id in self.unsettled:
            return False
        return id in self.passing or self.is_excused(id)

    def limit(self, group: set[str] | None = None) -> int:
        return self.policy.limit(len(self.expected if group is None else self.expected & group))

    def node(self, id: str) -> str:
        row = self.health.get(id)
        return row.node if row is not None else self.records[id].node

    def failures(self) -> list[tuple[str, str]]:
        """Those that failed since the last look, with the reason."""
        found = []
        for id in sorted(self.expected - self.failed):
            record = self.records.get(id)
            if record is not None and record.turn.n == self.plan.n:
                reason = self._failure(id, record)
                if reason:
                    found.append((id, reason))
        return found

    def _failure(self, id: str, record: Record) -> str:
        turn = record.turn
        if turn.state == TurnState.ENDED and turn.outcome != TurnOutcome.DONE:
            return self._ended_badly(record)
        late = self.now - self.memory.granted.get(id, (0, self.now))[1] > self._deadline(record)
        if turn.state == TurnState.CLAIMED:
            return Reason.DEADLINE if late else ""
        if turn.state != TurnState.ENDED or record.left or self.is_excused(id):
            return ""
        if turn.owner != record.life and not record.clean and self.plan.how != How.TURN:
            return TurnOutcome.DIED  # it crashed after its turn
        if id not in self.passing and self._failing_for(id) > self._allowance(record):
            return Reason.CRITICAL
        return Reason.DEADLINE if late and not self.is_settled(id) else ""

    def _deadline(self, record: Record) -> float:
        return max(self.policy.deadline, 2 * self.policy.healthy_for(record.every, record.every))

    def _ended_badly(self, record: Record) -> str:
        turn = record.turn
        retried = turn.outcome in RETRIED or (turn.outcome == TurnOutcome.DIED and record.clean)
        if (retried or self.plan.state == PlanState.REVERTING) and turn.tries < TRIES:
            return ""
        return turn.outcome

    def _failing_for(self, id: str) -> float:
        return self.now - max(self.memory.failing.get(id, self.now), self.memory.ended.get(id, (0, self.now))[1])

    def _allowance(self, record: Record) -> float:
        """How long an instance may not pass after its turn: longer if a person has stopped and started it.

        A probe that failed in the turn is no failure. The next one begins an interval later, and has to end first.
        """
        again = record.life != record.turn.owner and record.clean and self.plan.how != How.TURN
        return max(self.policy.deadline if again else 0.0, record.every + PROBE)

    @cached_property
    def counts(self) -> Counts:
        return Counts(
            expected=frozenset(self.expected), takes_turns=frozenset(self.takes_turns),
            not_passing=frozenset(self.not_passing), in_turn=frozenset(self.in_turn),
            unsettled=frozenset(self.unsettled), done=frozenset(self.done), needs=frozenset(self.needs),
            limit=self.limit(),
        )  # fmt: skip


def groups(policy: Policy, health: Mapping[str, Health], ids: Iterable[str]) -> list[set[str]]:
    """The instances in the order of the policy's groups. Those in no group come last; without groups there is one."""
    if not policy.groups:
        return [set(ids)]
    found: dict[tuple[int, str], set[str]] = {}
    if policy.groups[0].kind == "tag":  # the number of a group is the same, also while it has no instance
        found = {(number, ""): set() for number in range(len(policy.groups) + 1)}
    for id in ids:
        found.setdefault(_group(policy.groups, health.get(id)), set()).add(id)
    return [found[key] for key in sorted(found)]


def _group(selectors: tuple[Selector, ...], row: Health | None) -> tuple[int, str]:
    for number, selector in enumerate(selectors):
        if row is not None and selector.kind == "tag" and selector.key in row.tags:
            return number, ""
        value = value_of(selector, row) if selector.kind != "tag" else ""
        if value:
            return number, value
    return len(selectors), ""


def value_of(selector: Selector, row: Health | None) -> str:
    """The value of `meta:KEY` or `node-meta:KEY` of an instance; "": it has none."""
    if row is None:
        return ""
    return str((row.meta if selector.kind == "meta" else row.node_meta).get(selector.key, ""))
