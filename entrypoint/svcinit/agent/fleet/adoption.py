"""The first good revision of a fleet: the one that its instances run already."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from svcinit.agent.fleet import commands, revision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from svcinit.agent.fleet.conduct import Fleet
    from svcinit.agent.fleet.records import Plan, Record
    from svcinit.agent.fleet.revision import Content


class Adopted(NamedTuple):
    """`plan` has the good revision, if there is one. `is_written`: it is the plan in KV now."""

    plan: Plan
    is_written: bool


def adopt(
    fleet: Fleet, before: Plan | None, index: int, records: Sequence[Record], live: Content, who: str, *,
    is_led: bool, write: bool = True,
) -> Adopted | None:  # fmt: skip
    """What `commands.py: adopt` says for these records and live prefixes, stored and written. None: the plan is not
    `before`, of this ModifyIndex, any more. `is_led` as for `commands.py: is_running`. Raises ConfigError, Unavailable.

    The plan of a roll-out in progress is not written: the instances of a `fleet turn` read the live prefixes until
    its end.
    """
    name, root = revision.name_of(live), fleet.keys.prefix
    plan = commands.adopt(records, name, set(revision.names(fleet.store, root)), before)
    if not write:
        return Adopted(plan, is_written=False)
    if plan.good == name:
        revision.keep(fleet.store, root, live, who)
    if plan == before or (before is not None and commands.is_running(before, records, is_led=is_led)):
        return Adopted(plan, is_written=False)
    return Adopted(plan, is_written=True) if fleet.store.put(fleet.keys.plan, plan.dump(), index=index) else None
