"""`--json` of the commands that change something: one object, when the command has ended, as
docs/schemas/fleet-result.json describes it. The lines for people are on standard error then."""

from __future__ import annotations

import dataclasses
import json

from svcinit.ctl.fleet.place import Place
from svcinit.errors import SvcinitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from typing import Any


def document(options: argparse.Namespace, status: int, faults: Iterable[str], why: str) -> str:
    """The object as text. `why`: the value of `commands.py: Why`, if the plan did not allow the command."""
    plan, entry = _now(options)
    found = {
        "command": options.action,
        "service": options.name,
        "exit_status": status,
        "why": why or getattr(options, "why", ""),
        "faults": [str(fault) for fault in faults],
        "roll_out": getattr(options, "roll_out", None),
        "plan": plan,
        "entry": entry,
        "order": getattr(options, "order", None),
        "keys": getattr(options, "changed_keys", None),
        "policy": getattr(options, "policy", None),
    }
    return json.dumps(found, indent=2)


def _now(options: argparse.Namespace) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The plan, and the entry in the history of the roll-out of this command; None: there is none, or Consul does not
    give it. The name of the service is filled in."""
    try:
        place = Place(options)
        options.name = place.name
        plan, _ = place.fleet.plan()
        n = getattr(options, "roll_out", None)
        entry = None if n is None else place.fleet.entry(n)
    except SvcinitError:
        return None, None
    finally:
        options.name = options.name or ""
    return None if plan is None else plan_of(plan), None if entry is None else entry_of(entry)


def plan_of(plan: Any) -> dict[str, Any]:
    """`plan` in docs/schemas/fleet.json."""
    return {**json.loads(plan.dump()), "source": plan.before}


def entry_of(entry: Any) -> dict[str, Any]:
    """An item of docs/schemas/fleet-history.json."""
    return {name: value for name, value in dataclasses.asdict(entry).items() if name != "extra"}
