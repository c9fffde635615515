"""The state files as one document, which `svcinitctl status --json` prints (docs/schemas/status.json)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.stats import RequestStats
from svcinit.log import RECENT
from svcinit.state_files import MISSHAPEN, read_of_life

if TYPE_CHECKING:
    from collections.abc import Mapping

EMPTY = {"last": None, "sum": 0.0, "count": 0}
PREPARED = "ended", "errors", "templates", "prefixes", "peers", "catalog", "fetch_seconds", "render_seconds"
FOR_PRESENCE = "revision", "last_turn", "stops"  # facts of init that presence reads, with SVCINIT_ROLL
NOTHING: dict[str, object] = {
    "ended": None, "errors": [], "templates": [], "prefixes": {}, "peers": {}, "catalog": {},
    "fetch_seconds": EMPTY, "render_seconds": EMPTY,
}  # fmt: skip


def overview(init: Mapping[str, Any], folder: str | None) -> dict[str, Any]:
    """`init`: the content of init.json. The other files are used if they are of the same run."""
    presence = read_of_life(folder, "presence", init["life"]) or {}
    prepared = read_of_life(folder, "prepare", init["life"]) or {}
    try:
        return _document(init, presence, prepared)
    except MISSHAPEN:  # another program wrote them
        return _document(init, {}, {})


def _document(init: Mapping[str, Any], presence: Mapping[str, Any], prepared: Mapping[str, Any]) -> dict[str, Any]:
    requests = RequestStats(prepared.get("requests"))
    requests.add(presence.get("requests", {}))
    document = dict(init)
    began = document.pop("started_monotonic")
    for name in FOR_PRESENCE:
        document.pop(name, None)
    document["log"] = _newest([*init.get("log", ()), *presence.get("log", ()), *prepared.get("log", ())])
    last_synced = presence.get("last_synced", {})
    return {
        **document,
        "uptime_seconds": time.monotonic() - began,
        "ready": presence.get("ready"),
        "services": {
            service_id: {**known, "last_synced": last_synced.get(service_id)}
            for service_id, known in presence.get("services", {}).items()
        },
        **({"roll": presence["roll"]} if presence.get("roll") else {}),
        "watch": _watch(presence) if presence.get("watch") else None,
        "preparation": {name: prepared.get(name, NOTHING[name]) for name in PREPARED},
        "consul_requests": requests.state(),
    }


def _newest(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last log lines of all processes; a child begins with those of its parent."""
    each = {(line["time"], line["pid"], line["message"]): line for line in lines}
    return [each[key] for key in sorted(each)][-RECENT:]


def _watch(presence: Mapping[str, Any]) -> dict[str, Any]:
    """`lag_seconds`: the age of the oldest change that is not applied yet."""
    since = presence["watch"]["pending_since"]
    lag = 0.0 if since is None else max(0.0, time.time() - since)
    return {"reason": presence["watch"]["reason"], "lag_seconds": lag, "followed": presence["followed"]}
