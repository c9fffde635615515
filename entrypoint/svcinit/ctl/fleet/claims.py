"""Turns that `svcinitctl fleet turn` has claimed: its command runs, or it was killed. Only its own host can know."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.agent.fleet.view import Decision, View


def remedy(service: str, id: str, owner: str) -> tuple[str, str]:
    """What a person can do, in two lines."""
    from svcinit.ctl.fleet.owner import who

    return (
        f"{id} is in the turn of `fleet turn` of {who(owner)}. If that was killed: run it again",
        f"  on the same host, or `svcinitctl fleet forget {service} {id}` after its command has ended",
    )


class Claims:
    """The claims that remain after a roll-out has ended, such as one that was aborted."""

    def __init__(self, service: str) -> None:
        self._service, self._since, self._said = service, 0.0, dict[str, str]()

    def are_given_up(self, view: View | None, decision: Decision, line: Callable[[str, str], None]) -> bool:
        """True if all their processes have ended, as far as this host can know, or after `deadline`. Such a turn stays
        claimed, and the instance counts as out."""
        from svcinit.ctl.fleet.owner import has_ended, who

        owners, now = _owners(view, decision), time.monotonic()
        if not owners:
            self._since = 0.0
            return False
        self._since = self._since or now
        deadline = _deadline(view)
        for id, owner in owners.items():
            if self._said.get(id) != owner:
                line("waiting", f"{id} is in the turn of `fleet turn` of {who(owner)}, for at most {deadline:g} s")
            self._said[id] = owner
        if now - self._since <= deadline and not all(has_ended(owner) for owner in owners.values()):
            return False
        for id, owner in owners.items():
            for text in remedy(self._service, id, owner):
                line("claimed", text)
        return True


def _deadline(view: View | None) -> float:
    from svcinit.agent.fleet.policy import of_plan
    from svcinit.agent.fleet.records import is_own

    return of_plan(view.plan.policy if view is not None and is_own(view.plan) else {}).deadline


def _owners(view: View | None, decision: Decision) -> dict[str, str]:
    """The owners of the claims by id, where the plan is idle and nothing else is left to do; otherwise empty."""
    from svcinit.agent.fleet.records import How, PlanState, TurnState, is_own
    from svcinit.agent.fleet.view import own_records

    if view is None or not is_own(view.plan) or view.plan.state is not PlanState.IDLE or decision.plan is not None:
        return {}
    records, counts = own_records(view), decision.counts
    waits = counts.in_turn - {id for id, _ in view.plan.failed}
    turns = {id: records[id].turn for id in waits if id in records}
    found = {id: turn.owner for id, turn in turns.items() if (turn.how, turn.state) == (How.TURN, TurnState.CLAIMED)}
    has_more = decision.grants or decision.revokes or (counts.unsettled and counts.needs)
    return {} if has_more or found.keys() != waits else found
