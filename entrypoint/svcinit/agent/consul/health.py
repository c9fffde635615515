"""Peers from the health API: the same instances in the same form as from Consul's DNS, so that files are the same.

DNS returns instances without a critical check; with the agent's `dns_config.only_passing` it returns only those whose
checks are all passing. DNS has one spelling of an IP address, and names are in lower case. Source: Consul's
"Health" API and "Discover services with DNS" pages, and agent/dns.go.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.answers import CRITICAL, PASSING, Away, Denied
from svcinit.agent.consul.api import service_rule
from svcinit.agent.consul.discovery import QUERY, Peer, canonical, name_and_tag, packed
from svcinit.agent.consul.http import LARGE_LIMIT
from svcinit.errors import ConfigError

if TYPE_CHECKING:
    from svcinit.agent.consul.api import Consul

    Question = tuple[str, str | None, str | None]

PORTS = 65535


class Peers:
    """One question to the health API: `path` and `query` to send, and `read` for the answer."""

    def __init__(self, question: Question, domain: str, *, only_passing: bool = False) -> None:
        name, tag, self._dc = question
        self.name, self._tag = service_and_tag(name, tag)
        self._domain, self.only_passing = domain.strip(".").lower(), only_passing
        self.path = "/v1/health/service/" + urllib.parse.quote(self.name, safe="")
        self.rule = service_rule(self.name, "read")

    @property
    def query(self) -> dict[str, str]:
        return ({"tag": self._tag} if self._tag else {}) | ({"dc": self._dc} if self._dc else {})

    def read(self, answer: Any) -> list[Peer]:
        """Raises Away."""
        try:
            return sorted({self._peer(entry) for entry in answer if self._is_healthy(entry)})
        except (TypeError, KeyError, AttributeError):
            raise Away(f"{self.path}: the answer is no list of instances") from None

    def _is_healthy(self, entry: Any) -> bool:
        statuses = {check["Status"] for check in entry["Checks"] or ()}
        return statuses <= {PASSING} if self.only_passing else CRITICAL not in statuses

    def _peer(self, entry: Any) -> Peer:
        node, service = entry["Node"], entry["Service"]
        dc, port = node.get("Datacenter") or self._dc, service.get("Port", 0)  # Consul 1.14 leaves 0 out
        texts = node["Node"], service["Address"] or node["Address"]
        if not all(isinstance(text, str) for text in texts) or type(port) is not int or not 0 <= port <= PORTS:
            raise TypeError
        if not service["Address"]:
            name = node["Node"].lower()
            return Peer(f"{name}.node.{dc}.{self._domain}", canonical(node["Address"]), port, name)
        address = packed(service["Address"])
        if address is None:  # a host name: DNS has to be asked
            return Peer(service["Address"], service["Address"], port, "")
        return Peer(f"{address.hex()}.addr.{dc}.{self._domain}", canonical(service["Address"]), port, "")


def service_and_tag(name: str, tag: str | None) -> tuple[str, str]:
    """The service and its tag ("": any) of NAME, TAG.NAME or _NAME._TAG (RFC 2782, where _tcp stands for any tag)."""
    if not name.startswith("_"):
        return name_and_tag(name, tag)
    name, _, tag = name[1:].partition("._")
    return name, "" if tag in ("tcp", "udp") else tag


def is_complete(peers: list[Peer]) -> bool:
    """Is each address an IP address, so that DNS need not be asked?"""
    return all(packed(peer.address) is not None for peer in peers)


def only_passing(consul: Consul) -> bool:
    """The agent's dns_config.only_passing; its default, False, if the token may not read the agent.

    Raises Unavailable.
    """
    try:
        return consul.dns_only_passing()
    except Denied:
        return False


def peers(consul: Consul, question: Question, domain: str) -> list[Peer]:
    """All healthy instances, as DNS would give them if its answer had room for all.

    Raises Unavailable, and ConfigError for a prepared query, which the health API does not know.
    """
    if question[0].endswith(QUERY):
        raise ConfigError(f"{question[0]!r} is a prepared query: only DNS can be asked for it")
    asked = Peers(question, domain, only_passing=only_passing(consul))
    return asked.read(consul.call("GET", asked.path, asked.rule, asked.query, limit=LARGE_LIMIT))
