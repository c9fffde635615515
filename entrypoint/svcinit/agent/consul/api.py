"""What svcinit asks of a Consul agent: a method for each endpoint.

Each raises ConfigError (as Denied, Refused or TlsFailed) and Unavailable (as Away). Source: Consul's "KV Store",
"Agent", "Service - Agent", "Check - Agent", "Catalog" and "ACL Token" API pages, and the answers of agents from 1.8 to
1.14.
"""

from __future__ import annotations

import base64
import urllib.parse
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.answers import Away, Cause, Denied, Refused
from svcinit.agent.consul.http import LARGE_LIMIT, Http
from svcinit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from svcinit.settings.environment import Settings

CONNECT_TIMEOUT, READ_TIMEOUT = 3.0, 10.0  # seconds; Consul's agent is on this host or next to it
HEALTH_STATES = 429, 503  # how the agent says that an instance is warning or critical
AGENT_RULE = 'agent_prefix "" { policy = "read" }'
EXTERNAL = "external-node"  # the meta key of nodes without an agent, by which consul-esm finds those to look after


def connect(settings: Settings, longest: float = READ_TIMEOUT, *, trusting: bool = False) -> Consul:
    """A client of the local Consul agent; nothing is sent yet. `longest`: seconds for one call.

    `trusting`: accept any certificate; such a client sends no secret.
    """
    verify: bool | str = settings.consul_http_ssl_verify and not trusting
    if verify:
        verify = settings.consul_cacert or settings.consul_capath or True
    consul = Consul(
        settings.consul_http_addr,
        token=None if trusting else settings.consul_http_token,
        token_file=None if trusting else settings.environment.get("CONSUL_HTTP_TOKEN_FILE"),
        auth=None if trusting else settings.consul_http_auth,
        ssl=settings.consul_http_ssl,
        verify=verify,
        client_cert=settings.consul_client_cert,
        client_key=settings.consul_client_key,
        server_name=settings.consul_tls_server_name,
        namespace=settings.consul_namespace,
        partition=settings.consul_partition,
        timeout=timeouts(longest),
    )
    consul.consistency = settings.consistency
    return consul


def timeouts(longest: float = READ_TIMEOUT) -> tuple[float, float]:
    """Seconds to connect, and for a read."""
    return min(CONNECT_TIMEOUT, longest), min(READ_TIMEOUT, longest)


class Consul(Http):
    """An agent, by its endpoints. `consistency` of KV reads: default, stale or consistent."""

    consistency = "default"
    _only_passing: bool | None = None  # None: not asked yet

    def kv(self, prefix: str, dc: str | None = None) -> dict[str, bytes]:
        """All keys below the folder `prefix`, by full name, in one recursive GET; none: an empty mapping.

        Keys that the token may not read are not told apart from none, unless Consul's acl.enable_key_list_policy is on.
        """
        path = key_path(prefix)
        return self.pairs(path, self.call("GET", path, key_rule(prefix + "/"), self.kv_query(dc), limit=LARGE_LIMIT))

    def kv_query(self, dc: str | None) -> dict[str, str]:
        return {"recurse": "", **({"dc": dc} if dc else {}), **self.consistency_query()}

    def consistency_query(self) -> dict[str, str]:
        return {} if self.consistency == "default" else {self.consistency: ""}

    def pairs(self, path: str, entries: object) -> dict[str, bytes]:
        """Key to value, folders left out, of what `path` answered."""
        if entries is None:
            return {}
        try:
            return _pairs(entries)
        except (TypeError, KeyError, ValueError, AttributeError):
            raise Away(f"{self.title('GET', path)}: the answer is no list of keys") from None

    def agent(self) -> dict[str, str]:
        """What the agent says of itself: the name of its `node`, and the `address` that it advertises."""
        path = "/v1/agent/self"
        facts = self.record("GET", path, self.call("GET", path, AGENT_RULE))
        try:
            return {"node": str(facts["Config"]["NodeName"]), "address": str(facts["Member"]["Addr"])}
        except (KeyError, TypeError):
            raise Away(
                f"{self.title('GET', path)}: the answer does not have the agent's name and address yet"
            ) from None

    def datacenter(self) -> str:
        """That of the agent."""
        path = "/v1/agent/self"
        facts = self.record("GET", path, self.call("GET", path, AGENT_RULE))
        try:
            return str(facts["Config"]["Datacenter"])
        except (KeyError, TypeError):
            raise Away(f"{self.title('GET', path)}: the answer does not have the datacenter yet") from None

    def dns_only_passing(self) -> bool:
        """The agent's dns_config.only_passing; False if the agent does not show its configuration."""
        path = "/v1/agent/self"
        if self._only_passing is None:
            shown = self.record("GET", path, self.call("GET", path, AGENT_RULE)).get("DebugConfig")
            self._only_passing = isinstance(shown, dict) and shown.get("DNSOnlyPassing") is True
        return self._only_passing

    def close(self) -> None:
        super().close()
        self._only_passing = None  # the agent may have been started with another configuration

    def leader(self) -> str:
        """HOST:PORT of the servers' leader; empty when there is none. No token is needed."""
        return str(self.call("GET", "/v1/status/leader", "no rule") or "")

    def token_self(self) -> dict[str, Any] | None:
        """The token that is used, without its secret: AccessorID, names of policies and roles; None: no ACLs here."""
        path = "/v1/acl/token/self"
        try:
            found = self.record("GET", path, self.call("GET", path, "to be one that Consul knows"))
        except Refused as error:
            if error.cause is Cause.ACLS_DISABLED:
                return None
            raise
        named = {kind: [str(link.get("Name")) for link in found.get(kind) or []] for kind in ("Policies", "Roles")}
        return {"AccessorID": str(found.get("AccessorID")), **named}

    def look_up(self, key: str, dc: str | None = None) -> None:
        """Read a key that need not be there. Unlike `kv` it raises Denied where the token may not."""
        query = {"dc": dc} if dc else None
        self.call("GET", "/v1/kv/" + urllib.parse.quote(key), key_rule(key), query, limit=LARGE_LIMIT)

    def may_register(self, names: Sequence[str]) -> dict[str, bool] | None:
        """Which services the token may register, without any being registered; None where the agent does not tell.

        By what Consul's own pages ask, since 1.7: no other call that writes is without effect.
        """
        path = "/v1/internal/acl/authorize"
        questions = [{"Resource": "service", "Access": "write", "Segment": name} for name in names]
        try:
            answer = self.call("POST", path, "to be one that Consul knows", None, questions)
            return {str(each["Segment"]): bool(each["Allow"]) for each in answer}
        except Denied:
            raise
        except (ConfigError, TypeError, KeyError):
            return None

    def instance(self, service_id: str, name: str) -> dict[str, Any] | None:
        """A local service as its agent has it, `Service` and `Checks`; None where there is none."""
        path = "/v1/agent/health/service/id/" + urllib.parse.quote(service_id, safe="")
        query = {"format": "json"}
        answer = self.call("GET", path, service_rule(name, "read"), query, states=HEALTH_STATES)
        if answer is None:
            return None
        record = self.record("GET", path, answer)
        checks = record.get("Checks") or []
        parts = [record.get("Service"), *checks] if isinstance(checks, list) else [None]
        if not all(isinstance(part, dict) for part in parts):
            raise Away(f"{self.title('GET', path)}: the answer is no service")
        return record

    def services(self, name: str) -> dict[str, dict[str, Any]]:
        """All local services of that name, by id."""
        path = "/v1/agent/services"
        answer = self.call("GET", path, service_rule(name, "read"), {"filter": f'Service == "{name}"'})
        if not isinstance(answer, dict) or not all(isinstance(record, dict) for record in answer.values()):
            raise Away(f"{self.title('GET', path)}: the answer is no list of services")
        return answer

    def register(self, definition: dict[str, Any], *, replaces_checks: bool = False) -> None:
        """Register, or replace, a service with its checks. Checks that others gave it stay, unless
        `replaces_checks`."""
        query = {"replace-existing-checks": "true"} if replaces_checks else None
        self.call("PUT", "/v1/agent/service/register", service_rule(definition["Name"]), query, definition)

    def deregister(self, service_id: str, name: str) -> None:
        """Deregister a service that is there: for others newer agents answer 404, 1.8 a 200, or with ACLs a 500."""
        path = "/v1/agent/service/deregister/" + urllib.parse.quote(service_id, safe="")
        self.call("PUT", path, service_rule(name))

    def deregister_check(self, check_id: str, name: str) -> None:
        path = "/v1/agent/check/deregister/" + urllib.parse.quote(check_id, safe="")
        self.call("PUT", path, service_rule(name))

    def report(self, check_id: str, name: str, status: str, output: str) -> bool:
        """Report the status of a TTL check; False where the agent has no such check."""
        path = "/v1/agent/check/update/" + urllib.parse.quote(check_id, safe="")
        try:
            answer = self.call("PUT", path, service_rule(name), None, {"Status": status, "Output": output})
        except Away as error:
            if error.cause is Cause.NOT_FOUND:
                return False
            raise
        return answer is not None

    def maintenance(self, service_id: str, name: str, *, on: bool, reason: str = "") -> bool:
        """Put a service into maintenance mode, or end it; False where there is no such service."""
        path = "/v1/agent/service/maintenance/" + urllib.parse.quote(service_id, safe="")
        query = {"enable": str(on).lower(), **({"reason": reason} if on and reason else {})}
        return self.call("PUT", path, service_rule(name), query) is not None

    # the catalog: only for what no agent looks after

    def node(self, node: str, dc: str | None = None) -> dict[str, Any] | None:
        """`Node` and its `Services`, by id; None where there is none, or the token may not read it."""
        path = "/v1/catalog/node/" + urllib.parse.quote(node, safe="")
        answer = self.call("GET", path, node_rule(node, "read"), {"dc": dc} if dc else None)
        return None if answer is None else self.record("GET", path, answer)

    def external_instances(self, name: str, dc: str | None = None) -> list[tuple[str, str]]:
        """Node and id of the instances of a service that are on external nodes."""
        path = "/v1/catalog/service/" + urllib.parse.quote(name, safe="")
        query = {"node-meta": f"{EXTERNAL}:true", **({"dc": dc} if dc else {})}
        answer = self.call("GET", path, service_rule(name, "read"), query)
        try:
            return [(str(entry["Node"]), str(entry["ServiceID"])) for entry in answer or ()]
        except (TypeError, KeyError):
            raise Away(f"{self.title('GET', path)}: the answer is no list of instances") from None

    def node_checks(self, node: str, dc: str | None = None) -> dict[str, str]:
        """The status of each check of a node and its services, by id."""
        path = "/v1/health/node/" + urllib.parse.quote(node, safe="")
        answer = self.call("GET", path, node_rule(node, "read"), {"dc": dc} if dc else None)
        try:
            return {str(check["CheckID"]): str(check["Status"]) for check in answer or ()}
        except (TypeError, KeyError):
            raise Away(f"{self.title('GET', path)}: the answer is no list of checks") from None

    def register_external(self, registration: dict[str, Any]) -> None:
        """Put a node with a service into the catalog, or replace them."""
        rules = f"{node_rule(registration['Node'])} {service_rule(registration['Service']['Service'])}"
        self.call("PUT", "/v1/catalog/register", rules, None, registration)

    def deregister_external(self, node: str, name: str = "", dc: str | None = None, **what: str) -> None:
        """Remove a `ServiceID` or a `CheckID` of service `name` from the catalog; without one the whole node."""
        rule = service_rule(name) if what else node_rule(node)
        where = {"Node": node, **({"Datacenter": dc} if dc else {})}
        self.call("PUT", "/v1/catalog/deregister", rule, None, {**where, **what})


def key_path(prefix: str) -> str:
    """The endpoint that has all keys below a prefix."""
    folder = prefix.strip("/") + "/" if prefix.strip("/") else ""
    return "/v1/kv/" + urllib.parse.quote(folder)


def key_rule(folder: str, policy: str = "read") -> str:
    """The ACL rule that lets a token read, or also write, the keys below `folder`."""
    return f'key_prefix "{folder}" {{ policy = "{policy}" }}'


def service_rule(name: str, policy: str = "write") -> str:
    """The ACL rule that lets a token register `name` (which includes reading it), or only read it."""
    return f'service "{name}" {{ policy = "{policy}" }}'


def node_rule(node: str, policy: str = "write") -> str:
    return f'node "{node}" {{ policy = "{policy}" }}'


def _pairs(entries: object) -> dict[str, bytes]:
    """Key to value, folders left out. Raises TypeError, KeyError, ValueError, AttributeError for anything else."""
    if not isinstance(entries, list):
        raise TypeError
    values = {entry["Key"]: base64.b64decode(entry["Value"] or "", validate=True) for entry in entries}
    return {key: value for key, value in values.items() if not key.endswith("/")}
