"""Preparing without Consul, from SVCINIT_CACHE, and keeping there what a preparation with Consul found."""

from __future__ import annotations

import time

from svcinit import log
from svcinit.agent.consul.discovery import Peer
from svcinit.agent.prepare import cache
from svcinit.agent.prepare.transaction import Preparation, called
from svcinit.errors import ConfigError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.settings.environment import Settings


def keep(done: Preparation) -> None:
    """Keep what a preparation found. A cache that cannot be written is no reason not to start."""
    peers = {
        question: [(peer.host, peer.address, peer.port, peer.node) for peer in found]
        for question, found in done.found.items()
    }
    try:
        cache.save(done.settings, cache.Snapshot(done.kv, done.seen, peers, done.told_by_agent, time.time()))
    except (OSError, ConfigError) as error:
        (log.warning if "SVCINIT_CACHE" in done.settings.environment else log.debug)(
            "cache_not_written", "{variable}='{file}' cannot be written: {error}; the old one stays",
            variable="SVCINIT_CACHE", file=done.settings.cache,
            error=error.strerror if isinstance(error, OSError) else error,
        )  # fmt: skip


def count(settings: Settings, what: str) -> int:
    """How many entries a prefix or peer set had when the cache was written; 0 without a usable one."""
    try:
        known = cache.load(settings) if settings.cache else None
    except Unavailable as refused:
        log.warning("cache_refused", "{error}", error=refused, **refused.fields)
        return 0
    return known.seen.get(what, 0) if known else 0


class LastKnown(Preparation):
    """A preparation for which the cache stands in for Consul. Raises Unavailable where there is none to use."""

    def __init__(self, settings: Settings, command: tuple[str, ...]) -> None:
        super().__init__(settings, command, -1, 0.0)
        known = cache.load(settings)
        if known is None:
            raise Unavailable(
                f"SVCINIT_CACHE={settings.cache!r} is gone", variable="SVCINIT_CACHE", file=settings.cache
            )
        self._known = known

    def fetch(self) -> None:
        log.warning("degraded", "starting without Consul, from {variable}='{file}', {age}",
                    variable="SVCINIT_CACHE", file=self.settings.cache, age=self._known.age)  # fmt: skip
        self.kv, self.seen = dict(self._known.kv), dict(self._known.seen)
        self.as_of = dict.fromkeys(self.seen, (self._known.written, 0))
        self.told_by_agent = dict(self._known.agent)

    def keep(self) -> None:
        """It is kept already."""

    def wait(self) -> None:
        """The peers waited for are taken as they were."""

    def peers(self, name: str, tag: str | None = None, dc: str | None = None) -> list[Peer]:
        found = self._known.peers.get((name, tag, dc))
        if found is None:
            raise Unavailable(
                f"SVCINIT_CACHE={self.settings.cache!r} knows no peers of {called(name, tag, dc)}",
                variable="SVCINIT_CACHE",
            )
        return [Peer(*peer) for peer in found]

    @property
    def agent(self) -> dict[str, str]:
        if not self.told_by_agent:
            raise Unavailable(
                f"SVCINIT_CACHE={self.settings.cache!r} knows neither node nor address of the agent",
                variable="SVCINIT_CACHE",
            )
        return self.told_by_agent
