"""Follows the agent's own record of a service: svcinit repairs a registration at once when another program removes it.

Source: Consul's "Service - Agent HTTP API" page, "Get Service Configuration": a blocking query by the hash of the
definition. It ends, too, when the agent stops; the agent may have lost the registration then.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.api import service_rule
from svcinit.agent.consul.blocking import NEVER, BlockingQuery

if TYPE_CHECKING:
    from svcinit.agent.consul.api import Consul
    from svcinit.agent.consul.blocking import Connections
    from svcinit.agent.registration.keeper import Keeper
    from svcinit.errors import SvcinitError

AGAIN = 1.0  # seconds between two queries while the agent has no record


class RecordWatch(BlockingQuery):
    """`turn` is True when the record has changed; `has_failed`: the agent ended the query, or did not answer it."""

    def __init__(self, consul: Consul, connections: Connections, keeper: Keeper) -> None:
        super().__init__(consul, connections)
        self._keeper, self._hash = keeper, ""
        service = keeper.service
        self.path = "/v1/agent/service/" + urllib.parse.quote(service.id, safe="")
        self.rule = service_rule(service.name, "read")
        self.has_failed = False

    def blocking(self, wait: str) -> dict[str, str]:
        return {"hash": self._hash, "wait": wait} if self._hash else {}

    def accept(self, answer: Any) -> bool:
        found = answer.get("ContentHash") if isinstance(answer, dict) else None
        before, self._hash = self._hash, found if isinstance(found, str) else ""
        if not self._hash:
            self.due = self.asked_at + AGAIN
            return True
        return before != self._hash  # the first answer counts: the record may have changed just before the query

    def turn(self, now: float) -> bool:
        """Nothing is asked before the service is registered, nor, after the end of the agent, before the next sync."""
        self.has_failed = False
        return self._may_ask() and super().turn(now)

    def next_due(self) -> float:
        return self.due if self._may_ask() else NEVER

    def close(self) -> None:
        super().close()
        self._hash = ""

    def _fail(self, now: float, error: SvcinitError) -> None:
        super()._fail(now, error)
        self.has_failed = True

    def _may_ask(self) -> bool:
        return self.is_in_flight or (self._keeper.registered and not self._keeper.is_doubtful)
