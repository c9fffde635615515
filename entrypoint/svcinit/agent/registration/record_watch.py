"""Follows the agent's own record of a service: svcinit repairs a registration at once when another program changes or
removes it.

Source: Consul's "Service - Agent HTTP API" page, "Get Service Configuration": a blocking query by the hash of the
service's definition. The checks and the maintenance mode are not part of it. The query ends, too, when the agent stops;
the agent may have lost the registration then.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.api import service_rule
from svcinit.agent.consul.blocking import BlockingQuery
from svcinit.agent.consul.http import BODY_LIMIT

if TYPE_CHECKING:
    from svcinit.agent.consul.api import Consul
    from svcinit.agent.consul.blocking import Connections
    from svcinit.agent.registration.keeper import Keeper
    from svcinit.errors import SvcinitError

AGAIN = 1.0  # seconds between two queries after one that found a difference, or that the agent did not hold


class RecordWatch(BlockingQuery):
    """`turn` is True when the record is not in sync any more. `has_failed`: the agent ended the query, or did not
    answer it."""

    is_local, limit = True, BODY_LIMIT

    def __init__(self, consul: Consul, connections: Connections, keeper: Keeper) -> None:
        self._keeper, self._hash = keeper, ""
        super().__init__(consul, connections)
        service = keeper.service
        self.path = "/v1/agent/service/" + urllib.parse.quote(service.id, safe="")
        self.rule = service_rule(service.name, "read")
        self.has_failed = False

    def blocking(self, wait: str) -> dict[str, str]:
        return {"hash": self._hash, "wait": wait} if self._hash else {}

    def accept(self, answer: Any) -> bool:
        """The first answer counts: the record may have changed just before the query."""
        record = answer if isinstance(answer, dict) else {}
        found = record.get("ContentHash")
        before, self._hash = self._hash, found if isinstance(found, str) else ""
        is_new = answer is None or (before != self._hash and not self._keeper.is_synced_with(record))
        if is_new or before == self._hash:
            self.due = max(self.due, self.asked_at + AGAIN)
        return is_new

    @property
    def is_wanted(self) -> bool:  # type: ignore[override]
        """Nothing is asked before the service is registered, nor, after an error, before the next sync succeeds."""
        return self._keeper.registered and not self._keeper.is_doubtful and not self._keeper.reason

    def turn(self, now: float) -> bool:
        self.has_failed = False
        return super().turn(now)

    def _fail(self, now: float, error: SvcinitError) -> None:
        super()._fail(now, error)
        self._hash, self.has_failed = "", True
