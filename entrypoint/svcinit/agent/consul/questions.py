"""What templates can ask a Consul agent, besides the keys below a prefix and peers: a class for each kind of input.

A question has the `path` and the ACL `rule` of its endpoint, the parameters of its `query`, and `read` for the answer,
which raises Away for anything else than the endpoint gives. The content can be expressed in JSON, except for keys. A
question with `is_blocking` has an index, so its answer can be followed. Source: Consul's "KV Store", "Health",
"Catalog" and "Connect CA" API pages, and the answers of agents from 1.8 to 1.14 (newer ones leave out a port 0).
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING

from svcinit.agent.consul.answers import CRITICAL, PASSING, WARNING, Away
from svcinit.agent.consul.api import key_rule, node_rule, service_rule
from svcinit.agent.prepare.source import Kind

if TYPE_CHECKING:
    from typing import Any

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.prepare.source import InputId

ORDER = "address", "port", "id"


class Question:
    """The base of all questions, and what they have in common."""

    path = rule = ""
    is_blocking = True
    can_be_cached = False  # by the agent: see `agent/watch/queries.py: Peers`

    def __init__(self, wanted: InputId) -> None:
        self.wanted = wanted

    def query(self, _consul: Consul) -> dict[str, str]:
        return {"dc": self.wanted.dc} if self.wanted.dc else {}

    def read(self, _consul: Consul, answer: Any) -> Any:
        try:
            return self.content(answer)
        except (TypeError, KeyError, AttributeError, ValueError):
            raise Away(f"{self.path}: the answer is not what this endpoint gives") from None

    def content(self, answer: Any) -> Any:
        """Raises TypeError, KeyError, AttributeError, ValueError for an answer of another form."""
        raise NotImplementedError


class Key(Question):
    """One key, by its full name: a mapping with its value, or an empty one."""

    def __init__(self, wanted: InputId) -> None:
        super().__init__(wanted)
        self.path, self.rule = "/v1/kv/" + urllib.parse.quote(wanted.name), key_rule(wanted.name)

    def query(self, consul: Consul) -> dict[str, str]:
        return {**super().query(consul), **consul.consistency_query()}

    def read(self, consul: Consul, answer: Any) -> dict[str, bytes]:
        return consul.pairs(self.path, answer)


class Instances(Question):
    """The instances of a service, sorted by address, port and id; with `near` in Consul's order, the nearest first.

    The output of checks is left out: it changes at each probe.
    """

    can_be_cached = True

    def __init__(self, wanted: InputId) -> None:
        super().__init__(wanted)
        self.path = "/v1/health/service/" + urllib.parse.quote(wanted.name, safe="")
        self.rule = service_rule(wanted.name, "read")
        self._more = dict(urllib.parse.parse_qsl(wanted.query or "", keep_blank_values=True))

    def query(self, consul: Consul) -> dict[str, str]:
        tag = {"tag": self.wanted.tag} if self.wanted.tag else {}
        return {**super().query(consul), **tag, **self._more}

    def content(self, answer: Any) -> list[dict[str, Any]]:
        found = [_instance(entry, self.wanted.dc) for entry in answer]
        return found if "near" in self._more else sorted(found, key=lambda each: [each[name] for name in ORDER])


class Services(Question):
    """All services of a datacenter, by name, with the tags of all their instances."""

    path, rule = "/v1/catalog/services", 'service_prefix "" { policy = "read" }'

    def content(self, answer: Any) -> list[dict[str, Any]]:
        return [{"name": name, "tags": sorted(map(_text, tags or ()))} for name, tags in sorted(answer.items())]


class Nodes(Question):
    """All nodes of a datacenter, by name."""

    path, rule = "/v1/catalog/nodes", 'node_prefix "" { policy = "read" }'

    def content(self, answer: Any) -> list[dict[str, Any]]:
        return sorted((_node(each) for each in answer), key=lambda each: str(each["name"]))


class Node(Question):
    """One node, with its services by name and id; none, if there is no such node."""

    def __init__(self, wanted: InputId) -> None:
        super().__init__(wanted)
        self.path = "/v1/catalog/node/" + urllib.parse.quote(wanted.name, safe="")
        self.rule = node_rule(wanted.name, "read")

    def content(self, answer: Any) -> list[dict[str, Any]]:
        if answer is None:
            return []
        services = [_service(each) for each in (answer["Services"] or {}).values()]
        return [{**_node(answer["Node"]), "services": sorted(services, key=lambda each: (each["name"], each["id"]))}]


class Datacenters(Question):
    """The names of all datacenters; the endpoint has no index."""

    path, rule, is_blocking = "/v1/catalog/datacenters", "no rule", False

    def content(self, answer: Any) -> list[str]:
        return sorted(map(_text, answer))


class ConnectCa(Question):
    """The root certificates of Consul's service mesh, by id; during a rotation there are several."""

    path, rule = "/v1/connect/ca/roots", "no rule"

    def content(self, answer: Any) -> list[dict[str, Any]]:
        roots = [
            {"id": _text(each["ID"]), "name": _text(each["Name"]), "cert": _text(each["RootCert"]),
             "active": each["Active"] is True}
            for each in answer["Roots"] or ()
        ]  # fmt: skip
        return sorted(roots, key=lambda each: str(each["id"]))


def _instance(entry: Any, dc: str | None) -> dict[str, Any]:
    node, checks = entry["Node"], entry["Checks"] or ()
    service = _service(entry["Service"])
    status = _status([(_text(check["CheckID"]), _text(check["Status"])) for check in checks])
    weights = entry["Service"].get("Weights") or {}
    return {
        **service,
        "address": service["address"] or _text(node["Address"]),
        "node": _text(node["Node"]),
        "node_id": _text(node.get("ID") or ""),
        "node_address": _text(node["Address"]),
        "node_meta": dict(node.get("Meta") or {}),
        "dc": node.get("Datacenter") or dc or "",
        "status": status,
        "weight": int(weights.get("Warning" if status == WARNING else "Passing", 1)),
        "checks": sorted(
            ({"id": check["CheckID"], "name": check["Name"], "status": check["Status"]} for check in checks),
            key=lambda check: str(check["id"]),
        ),
    }


def _service(service: Any) -> dict[str, Any]:
    return {
        "id": _text(service["ID"]),
        "name": _text(service["Service"]),
        "address": _text(service.get("Address") or ""),
        "port": int(service.get("Port") or 0),
        "tags": sorted(map(_text, service.get("Tags") or ())),
        "meta": dict(service.get("Meta") or {}),
    }


def _node(node: Any) -> dict[str, Any]:
    return {
        "name": _text(node["Node"]),
        "address": _text(node["Address"]),
        "dc": node.get("Datacenter") or "",
        "meta": dict(node.get("Meta") or {}),
    }


def _status(checks: list[tuple[str, str]]) -> str:
    """The worst status of all checks; `maintenance` where that is why the instance is critical."""
    if any(check.startswith(("_node_maintenance", "_service_maintenance")) for check, _ in checks):
        return "maintenance"
    found = {status for _, status in checks}
    return next((status for status in (CRITICAL, WARNING) if status in found), PASSING)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


QUESTIONS: dict[str, type[Question]] = {
    Kind.KEY: Key,
    Kind.INSTANCES: Instances,
    Kind.SERVICES: Services,
    Kind.NODES: Nodes,
    Kind.NODE: Node,
    Kind.DATACENTERS: Datacenters,
    Kind.CONNECT_CA: ConnectCa,
}


def question(wanted: InputId) -> Question:
    return QUESTIONS[wanted.kind](wanted)
