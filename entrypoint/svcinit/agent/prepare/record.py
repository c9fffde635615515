"""prepare.json: the inputs and the files of the last preparation, and how long all preparations of this run took.

A preparation writes it when nobody waits for its outcome any more. It contains no value of a key, and no error that
was not logged.
"""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING, Any

from svcinit import log
from svcinit.agent.consul.stats import RequestStats
from svcinit.agent.files.paths import reach
from svcinit.agent.files.replacement import state_in
from svcinit.agent.prepare.rendering import find_templates
from svcinit.agent.prepare.source import HAVE_VALUES, Kind
from svcinit.errors import ConfigError
from svcinit.state_files import MISSHAPEN, read_of_life, write_state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from svcinit.agent.prepare.source import Answer
    from svcinit.agent.prepare.transaction import Transaction
    from svcinit.settings.environment import Settings

NAME = "prepare"
PHASES = "fetch", "render"
ENDS = ", :"  # what may follow a path in an error that is about it


def write_record(done: Transaction, life: str, faults: Sequence[str], clock: Callable[[], float] = time.time) -> None:
    """`faults`: why the preparation failed; none if it succeeded. What a failed one did not reach stays as it was.

    `life`: the run of svcinit; `clock`: seconds since the epoch.
    """
    try:
        state = _record(done, life, faults, _earlier(done.settings, life), clock())
    except MISSHAPEN:  # another program wrote the earlier one
        state = _record(done, life, faults, {}, clock())
    write_state(done.settings.run, NAME, state)


def _record(
    done: Transaction, life: str, faults: Sequence[str], earlier: Mapping[str, Any], ended: float
) -> dict[str, object]:
    requests = RequestStats(earlier.get("requests"))
    requests.add(done.source.request_stats())
    return {
        "life": life,
        "ended": ended,
        "errors": list(faults),
        "templates": _failed(done, earlier, faults) if faults else _rendered(done),
        "prefixes": _entries(done, earlier.get("prefixes", {}) if faults else {}, *HAVE_VALUES),
        "peers": _entries(done, earlier.get("peers", {}) if faults else {}, Kind.PEERS),
        "catalog": _catalog(done, earlier.get("catalog", {}) if faults else {}),
        **{f"{phase}_seconds": _added(earlier, f"{phase}_seconds", done.seconds.get(phase)) for phase in PHASES},
        "requests": requests.state(),
        "log": log.recent(),
    }


def refresh_checksums(settings: Settings, life: str) -> None:
    """The files were rolled back: record what they contain now."""
    state = _earlier(settings, life)
    try:
        for entry in state.get("templates", ()):
            entry["sha256"] = _digest(entry["target"])
            entry["changed"] = _changed(entry["target"])
    except MISSHAPEN:  # another program wrote it
        return
    if state:
        write_state(settings.run, NAME, state)


def _digest(target: str) -> str | None:
    try:
        with reach(target) as place:
            now = state_in(place)
    except (OSError, ConfigError):
        return None
    return hashlib.sha256(now.content).hexdigest() if now else None


def _earlier(settings: Settings, life: str) -> dict[str, Any]:
    return read_of_life(settings.run, NAME, life) or {}


def _rendered(done: Transaction) -> list[dict[str, object]]:
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


def _failed(done: Transaction, earlier: Mapping[str, Any], faults: Sequence[str]) -> list[dict[str, object]]:
    """The templates as they were, each with what was wrong with it this time."""
    known = {entry["target"]: entry for entry in earlier.get("templates", ())}
    try:
        sources = find_templates(done.settings)
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


def _entries(done: Transaction, earlier: Mapping[str, Any], *kinds: str) -> dict[str, Any]:
    """How many entries each input of some kinds had, when, and at which of Consul's indexes."""
    found = {each.text: _entry(answer) for each, answer in done.data.answers.items() if each.kind in kinds}
    return {**earlier, **found}


def _catalog(done: Transaction, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """The same for all other inputs, by their full labels, because a node can have the name of a service."""
    others = {
        str(each): _entry(answer)
        for each, answer in done.data.answers.items()
        if each.kind not in (*HAVE_VALUES, Kind.PEERS)
    }
    return {**earlier, **others}


def _entry(answer: Answer) -> dict[str, Any]:
    return {"entries": len(answer.content), "index": answer.index or None, "fetched": answer.fetched_at}


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
