"""Counts and durations of the requests to Consul and its DNS, by kind and outcome, for the state files.

A kind is a method and an endpoint without names, so that there are few kinds: GET kv, PUT agent/service/register, watch
health/service (a blocking query, whose duration is not measured), DNS SRV.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OK = "ok"  # a usable answer; "there is no such thing" is one, too
DENIED = "denied"
ERROR = "error"  # an answer with an error, or an unusable one
UNREACHABLE = "unreachable"  # no answer, or half of one
BUCKETS = 0.005, 0.025, 0.1, 0.5, 2.5  # seconds
RECORDS = "agent/service"  # the record of a service, by its id
WRITES = "agent/service/register", "agent/service/deregister", "agent/service/maintenance"
PARTS = {"kv": 1, "agent": 3}  # how many parts of a path below /v1 name the endpoint; otherwise two


class Request:
    """A request in progress. `outcome` counts if nothing changes it before the end."""

    def __init__(self) -> None:
        self.outcome = UNREACHABLE

    def answered(self, status: int) -> None:
        self.outcome = DENIED if status == 403 else ERROR


class RequestStats:
    """By kind: `outcomes`, how many of each, and `seconds`: `count` and `sum` of those that were timed, and in
    `buckets` how many took at most so long."""

    def __init__(self, earlier: Mapping[str, Any] | None = None) -> None:
        self._kinds: dict[str, dict[str, Any]] = {}
        self.add(earlier or {})

    @contextlib.contextmanager
    def one(self, kind: str, *, timed: bool = True) -> Iterator[Request]:
        """Count one request: as OK if the block raises nothing."""
        request, began = Request(), time.monotonic()
        try:
            yield request
            request.outcome = OK
        finally:
            self.note(kind, request.outcome, time.monotonic() - began if timed else None)

    def note(self, kind: str, outcome: str, seconds: float | None = None) -> None:
        entry = self._entry(kind)
        entry["outcomes"][outcome] = entry["outcomes"].get(outcome, 0) + 1
        if seconds is None:
            return
        timed = entry["seconds"]
        timed["count"] += 1
        timed["sum"] += seconds
        for limit in BUCKETS:
            timed["buckets"][str(limit)] += seconds <= limit

    def add(self, state: Mapping[str, Any]) -> None:
        """Add the counts in the `state` of another process."""
        for kind, other in state.items():
            entry = self._entry(kind)
            _sum_up(entry["outcomes"], other["outcomes"])
            timed, theirs = entry["seconds"], other["seconds"]
            timed["count"] += theirs["count"]
            timed["sum"] += theirs["sum"]
            _sum_up(timed["buckets"], theirs["buckets"])

    def state(self) -> dict[str, Any]:
        """A copy, for JSON."""
        return {
            kind: {
                "outcomes": dict(entry["outcomes"]),
                "seconds": {**entry["seconds"], "buckets": dict(entry["seconds"]["buckets"])},
            }
            for kind, entry in self._kinds.items()
        }

    def _entry(self, kind: str) -> dict[str, Any]:
        if kind not in self._kinds:
            buckets = {str(limit): 0 for limit in BUCKETS}
            self._kinds[kind] = {"outcomes": {}, "seconds": {"count": 0, "sum": 0.0, "buckets": buckets}}
        return self._kinds[kind]


def endpoint(path: str) -> str:
    """A path below /v1 without the names in it."""
    parts = path.removeprefix("/v1/").split("/")
    return "/".join(parts[: PARTS.get(parts[0], 2)])


def blocking(path: str) -> str:
    """The kind of a blocking query. Below RECORDS, only the id of a service can follow then."""
    kind = endpoint(path)
    return f"watch {RECORDS if kind.startswith(RECORDS + '/') and kind not in WRITES else kind}"


def _sum_up(mine: dict[str, int], theirs: Mapping[str, int]) -> None:
    for name, count in theirs.items():
        mine[name] = mine.get(name, 0) + count
