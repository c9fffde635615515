"""svcinitctl status."""

from __future__ import annotations

import json

from svcinit.ctl import state as states

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    state = states.needed()
    if state is None:
        return 1
    presence = states.presence(state)
    if options.json:
        print(json.dumps({**state, "services": presence["services"], "watch": presence["watch"]}, indent=2))
    else:
        print(f"{state['service'] or 'service'}: {state['state']}")
        for name in ("id", "main", "presence", "reloads"):
            print(f"  {name:9} {'-' if state[name] is None else state[name]}")
        for service_id, known in presence["services"].items():
            print(f"  {_registration(known)}: {service_id}")
        if presence["watch"]:
            print(f"  watch     {presence['watch']}")
        if state["degraded"]:
            print(f"  degraded  {state['degraded']}")
    return 0 if state["state"] in states.SERVING and not state["degraded"] else 1


def _registration(known: dict[str, Any]) -> str:
    told = "registered" if known["registered"] else "not registered"
    if known["maintenance"] is not None:
        told += f", in maintenance ({known['maintenance']})"
    if known["trouble"]:
        told += f", {known['trouble']}"
    return told
