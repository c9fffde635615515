"""Inputs from Consul: keys and the catalog over HTTP, peers over DNS. Unused inputs cost no import and no request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.backoff import MIN_TIMEOUT
from svcinit.agent.consul.stats import RequestStats
from svcinit.agent.prepare.source import OF_VAULT, Answer, InputId, Kind, Source
from svcinit.errors import ConfigError

if TYPE_CHECKING:
    from svcinit.agent.consul.api import Consul
    from svcinit.agent.consul.discovery import Peer, Resolver
    from svcinit.settings.environment import Settings

DNS_TIMEOUT = 2.0  # seconds for one question, all servers together
LOOKUP_TIMEOUT = 5.0  # seconds for a name outside Consul, whose servers may be far


class ConsulSource(Source):
    """`deadline` (monotonic seconds): each call gets a timeout that ends about then."""

    def __init__(self, settings: Settings, deadline: float) -> None:
        self._settings, self._deadline = settings, deadline
        self._stats = RequestStats()
        self._consul: Consul | None = None
        self._resolver: Resolver | None = None

    def read(self, wanted: InputId) -> Answer:
        if wanted.kind in OF_VAULT:
            raise ConfigError(f"{wanted}: VAULT_ADDR is not set", variable="VAULT_ADDR")
        own = {Kind.KV: self._keys, Kind.PEERS: self._peers, Kind.LOOKUP: self._records}
        return own.get(wanted.kind, self._answer)(wanted)

    def agent(self) -> dict[str, str]:
        return self._client().agent()

    def request_stats(self) -> dict[str, Any]:
        return self._stats.state()

    def close(self) -> None:
        if self._consul is not None:
            self._consul.close()

    def _keys(self, wanted: InputId) -> Answer:
        """One recursive GET."""
        consul = self._client()
        found = consul.kv(wanted.name, wanted.dc)
        return Answer(found, time.time(), consul.index)

    def _answer(self, wanted: InputId) -> Answer:
        from svcinit.agent.consul import questions
        from svcinit.agent.consul.http import LARGE_LIMIT

        consul, asked = self._client(), questions.question(wanted)
        answer = consul.call("GET", asked.path, asked.rule, asked.query(consul), limit=LARGE_LIMIT)
        return Answer(asked.read(consul, answer), time.time(), consul.index)

    def _records(self, wanted: InputId) -> Answer:
        from svcinit.agent.consul import lookup

        return Answer(lookup.records(wanted, min(LOOKUP_TIMEOUT, self._seconds_left())), time.time())

    def _peers(self, wanted: InputId) -> Answer:
        if self._settings.consul_namespace or self._settings.consul_partition:  # the names in DNS have neither
            found = self._by_health((wanted.name, wanted.tag, wanted.dc))
            return Answer(found, time.time())
        if self._resolver is None:
            from svcinit.agent.consul.discovery import Resolver

            self._resolver = Resolver(self._settings.dns_addr, self._settings.domain, DNS_TIMEOUT, self._by_health)
            self._resolver.stats = self._stats
        self._resolver.timeout = min(DNS_TIMEOUT, self._seconds_left())
        return Answer(self._resolver.peers(wanted.name, tag=wanted.tag, dc=wanted.dc), time.time())

    def _by_health(self, question: tuple[str, str | None, str | None]) -> list[Peer]:
        from svcinit.agent.consul import health

        return health.peers(self._client(), question, self._settings.domain)

    def _client(self) -> Consul:
        if self._consul is None:
            from svcinit.agent.consul.api import connect

            self._consul = connect(self._settings)
            self._consul.stats, self._consul.deadline = self._stats, self._deadline
        return self._consul

    def _seconds_left(self) -> float:
        return max(MIN_TIMEOUT, self._deadline - time.monotonic())
