"""What is registered: the body of PUT /v1/agent/service/register (Consul's "Service - Agent HTTP API" page)."""

from __future__ import annotations

import hashlib
import json

from svcinit.names import endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from svcinit.agent.registration.services import Service

MARK = "svcinit"  # the meta key that says which life of which svcinit registered it, and by which definition
MAINTENANCE = "_service_maintenance:"  # how the id of Consul's own check for maintenance begins


def definition(service: Service, address: str | None, agent_address: str, life: str) -> dict[str, Any]:
    """The registration of a service and its check.

    `address`: what is advertised, None for the agent's own; `agent_address`: where the agent reaches this host then.
    """
    wanted: dict[str, Any] = {
        "ID": service.id,
        "Name": service.name,
        "Tags": list(service.tags),
        "Port": service.port or 0,
        "Meta": dict(service.meta),
        "EnableTagOverride": service.tag_override,
        "Address": address or "",
    }
    if service.check[0] != "none":
        wanted["Check"] = _check(service, address or agent_address)
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    wanted["Meta"][MARK] = f"{life}-{digest[:16]}"
    return wanted


def differences(actual: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What is not as it should be in the agent's own record (Consul.instance), by name; none: nothing is to be done.

    A check's definition cannot be read back: it is part of the mark.
    """
    record = actual["Service"]
    fields = {
        "name": (record.get("Service"), wanted["Name"]),
        "port": (record.get("Port"), wanted["Port"]),
        "address": (record.get("Address") or "", wanted["Address"]),
        "tags": (record.get("Tags") or [], wanted["Tags"]),
        "meta": (record.get("Meta") or {}, wanted["Meta"]),
        "tag override": (bool(record.get("EnableTagOverride")), wanted["EnableTagOverride"]),
    }
    if wanted["EnableTagOverride"]:  # then they are others' to set
        del fields["tags"]
    found = [name for name, (have, want) in fields.items() if have != want]
    has_check = check_id(wanted["ID"]) in [check.get("CheckID") for check in actual.get("Checks") or []]
    return found + ["check"] * (has_check != ("Check" in wanted))


def life_of(record: Mapping[str, Any]) -> str:
    """The life of svcinit that made this registration; empty: another tool did."""
    meta = record.get("Meta")
    mark = meta.get(MARK) if isinstance(meta, dict) else None
    return mark.partition("-")[0] if isinstance(mark, str) else ""


def maintenance_of(actual: Mapping[str, Any]) -> str | None:
    """The reason why the service is in maintenance mode; None: it is not."""
    for check in actual.get("Checks") or []:
        if str(check.get("CheckID")).startswith(MAINTENANCE):
            return str(check.get("Notes") or "")
    return None


def statuses(actual: Mapping[str, Any]) -> dict[str, str]:
    """The status of each of the service's checks, by id."""
    return {str(check.get("CheckID")): str(check.get("Status") or "") for check in actual.get("Checks") or []}


def check_id(service_id: str) -> str:
    return f"service:{service_id}"


def _check(service: Service, host: str) -> dict[str, Any]:
    kind, path = service.check
    target = endpoint(host, service.port)
    lax = not service.check_tls_verify
    probe: dict[str, object]
    if service.is_probed_here:
        probe = {"TTL": _go(ttl(service))}
    elif kind in ("http", "https"):
        probe = {
            "HTTP": f"{kind}://{target}{path}",
            "Method": service.check_method,
            "Header": {name: [value] for name, value in service.check_headers.items()},
            "TLSSkipVerify": lax,
        }
    elif kind in ("grpc", "grpcs"):
        probe = {"GRPC": f"{target}{path}", "GRPCUseTLS": kind == "grpcs", "TLSSkipVerify": lax}
    else:
        probe = {"TCP": target}
    if not service.is_probed_here:
        probe |= {"Interval": _go(service.check_interval), "Timeout": _go(service.check_timeout)}
        probe |= {"SuccessBeforePassing": service.check_successes} if service.check_successes > 1 else {}
        probe |= {"FailuresBeforeCritical": service.check_failures} if service.check_failures > 1 else {}
    return {
        "CheckID": check_id(service.id),
        "Name": f"{service.name} {kind}",
        **probe,
        "DeregisterCriticalServiceAfter": _go(service.deregister_after),
    }


def ttl(service: Service) -> float:
    """Seconds without a report until Consul takes the service for critical: one probe late, and some room."""
    return service.check_interval + service.check_timeout + max(1.0, service.check_interval / 2)


def _go(seconds: float) -> str:
    """Seconds as Go's time.ParseDuration reads them."""
    return f"{round(seconds * 1000)}ms"
