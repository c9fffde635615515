"""prepare.json: what the last preparation found and made, and how long all of this life's took.

Whoever prepares writes it when nobody waits for the outcome any more. There is no value of a key in it, and no fault
that was not logged.
"""

from __future__ import annotations

import hashlib
import os
import time

from svcinit.agent.consul.stats import RequestStats
from svcinit.agent.files.paths import reach
from svcinit.agent.files.replacement import look_in
from svcinit.errors import ConfigError
from svcinit.state_files import MISSHAPEN, read_of_life, write_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from svcinit.agent.prepare.transaction import Preparation
    from svcinit.settings.environment import Settings

NAME = "prepare"
PHASES = "fetch", "render"
ENDS = ", :"  # what may follow a path in the fault that is about it


def keep(done: Preparation, life: str, faults: Sequence[str]) -> None:
    """`faults`: why it failed, none if it did not; then what it did not get to is as it was before."""
    try:
        state = _record(done, life, faults, _earlier(done.settings, life))
    except MISSHAPEN:  # somebody else wrote the earlier one
        state = _record(done, life, faults, {})
    write_state(done.settings.run, NAME, state)


def _record(done: Preparation, life: str, faults: Sequence[str], earlier: Mapping[str, Any]) -> dict[str, object]:
    from svcinit.agent.prepare.transaction import PEERS, PREFIX

    requests = RequestStats(earlier.get("requests"))
    requests.add(done.stats.state())
    return {
        "life": life,
        "ended": time.time(),
        "trouble": list(faults),
        "templates": _failed(done, earlier, faults) if faults else _rendered(done),
        "prefixes": _entries(done, earlier.get("prefixes", {}) if faults else {}, PREFIX),
        "peers": _entries(done, earlier.get("peers", {}) if faults else {}, PEERS),
        **{f"{phase}_seconds": _added(earlier, f"{phase}_seconds", done.took.get(phase)) for phase in PHASES},
        "requests": requests.state(),
    }


def look_again(settings: Settings, life: str) -> None:
    """The files were put back: they are what they are."""
    state = _earlier(settings, life)
    try:
        for entry in state.get("templates", ()):
            entry["sha256"] = _digest(entry["target"])
            entry["changed"] = _changed(entry["target"])
    except MISSHAPEN:  # somebody else wrote it
        return
    if state:
        write_state(settings.run, NAME, state)


def _digest(target: str) -> str | None:
    try:
        with reach(target) as place:
            now = look_in(place)
    except (OSError, ConfigError):
        return None
    return hashlib.sha256(now.content).hexdigest() if now else None


def _earlier(settings: Settings, life: str) -> dict[str, Any]:
    return read_of_life(settings.run, NAME, life) or {}


def _rendered(done: Preparation) -> list[dict[str, object]]:
    return [
        {
            "source": file.source,
            "target": file.target,
            "sha256": hashlib.sha256(file.content).hexdigest(),
            "changed": _changed(file.target),
            "error": None,
        }
        for file in done.files
    ]


def _failed(done: Preparation, earlier: Mapping[str, Any], faults: Sequence[str]) -> list[dict[str, object]]:
    """The templates as they were, with what was wrong with each this time."""
    known = {entry["target"]: entry for entry in earlier.get("templates", ())}
    if not done.dirs:
        return []
    from svcinit.agent.templates import render

    try:
        sources = render.find(done.dirs)
    except ConfigError:
        return list(known.values())
    return [
        {
            "sha256": None,
            "changed": _changed(source.target),
            **known.get(source.target, {}),
            "source": source.path,
            "target": source.target,
            "error": "; ".join(fault for fault in faults if _is_about(fault, source)) or None,
        }
        for source in sources
    ]


def _is_about(fault: str, source: Any) -> bool:
    return any(f"{path}{end}" in fault for path in (source.path, source.target) for end in ENDS)


def _entries(done: Preparation, earlier: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """How many entries each prefix or peer set had, when, and at which of Consul's indexes."""
    found = {}
    for what, count in done.seen.items():
        if what.startswith(kind):
            fetched, index = done.as_of[what]
            found[what.removeprefix(kind)] = {"entries": count, "index": index or None, "fetched": fetched}
    return {**earlier, **found}


def _added(earlier: Mapping[str, Any], name: str, seconds: float | None) -> dict[str, Any]:
    before = earlier.get(name, {"last": None, "sum": 0.0, "count": 0})
    if seconds is None:
        return dict(before)
    return {"last": seconds, "sum": before["sum"] + seconds, "count": before["count"] + 1}


def _changed(target: str) -> float | None:
    try:
        return os.stat(target).st_mtime
    except OSError:
        return None
