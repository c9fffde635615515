"""Inputs from SVCINIT_CACHE, for a start without Consul."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.prepare import cache
from svcinit.agent.prepare.source import Answer, InputId, Kind, Source
from svcinit.errors import Unavailable

if TYPE_CHECKING:
    from svcinit.settings.environment import Settings


class CacheSource(Source):
    """Raises Unavailable where there is no cache, or none that can be used."""

    may_lose_data = waits = is_live = False
    token_hint = ""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.cache
        snapshot = cache.load(settings)
        if snapshot is None:
            raise self._lacking("is gone")
        self._snapshot = snapshot
        if settings.rolls:
            from svcinit.agent.fleet.revision import name_of

            own = [InputId(Kind.KV, prefix, dc) for prefix, dc in settings.kv_prefix]
            self.revision = name_of({each.text: snapshot.contents.get(each, {}) for each in own})
        log.warning("degraded", "starting without Consul, from {variable}='{file}', {age}",
                    variable="SVCINIT_CACHE", file=settings.cache, age=snapshot.age)  # fmt: skip

    def read(self, wanted: InputId) -> Answer:
        found = self.former(wanted)
        if found is None:
            raise self._lacking(f"does not contain the {wanted}")
        return found

    def former(self, wanted: InputId) -> Answer | None:
        found = self._snapshot.contents.get(wanted)
        return None if found is None else Answer(found, self._snapshot.written)

    def agent(self) -> dict[str, str]:
        if not self._snapshot.agent:
            raise self._lacking("contains neither the node nor the address of the agent")
        return dict(self._snapshot.agent)

    def _lacking(self, fault: str) -> Unavailable:
        return Unavailable(f"SVCINIT_CACHE={self._path!r} {fault}", variable="SVCINIT_CACHE", file=self._path)
