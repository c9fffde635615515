"""What is registered: the body of PUT /v1/agent/service/register (Consul's "Service - Agent HTTP API" page)."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from svcinit.agent.registration.checks import is_own_id
from svcinit.errors import SvcinitError
from svcinit.names import endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.agent.registration.checks import Check
    from svcinit.agent.registration.services import Service

MARK = "svcinit"  # the meta key that holds which run of svcinit registered the service, and a digest of the definition
MAINTENANCE = "_service_maintenance:"  # the prefix of the id of Consul's own check for maintenance mode
DEFAULT_WEIGHTS = {"Passing": 1, "Warning": 1}  # Consul's own
TAGS_OF_ADDRESSES = "lan", "wan"  # Consul itself adds others, such as lan_ipv4


def definition(service: Service, address: str | None, agent_address: str, life: str) -> dict[str, Any]:
    """The registration of a service and its checks.

    `address`: the address to register, None for the agent's own; `agent_address`: the address of the agent.
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
    if service.weights is not None:
        wanted["Weights"] = {"Passing": service.weights[0], "Warning": service.weights[1]}
    if service.tagged_addresses:
        wanted["TaggedAddresses"] = {
            tag: {"Address": host, "Port": port or service.port or 0}
            for tag, (host, port) in service.tagged_addresses.items()
        }
    if service.connect_native:
        wanted["Connect"] = {"Native": True}
    if service.checks:
        wanted["Checks"] = [_check(service, check, address or agent_address) for check in service.checks]
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    wanted["Meta"][MARK] = f"{life}-{digest[:16]}"
    return wanted


def differences(actual: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The names of the fields in which the agent's record (Consul.instance) is not in sync.

    The agent does not return the definition of a check; its digest is part of the mark in the metadata.
    """
    own = {id for id in statuses(actual) if is_own_id(id, wanted["ID"])}
    return differences_of_record(actual["Service"], wanted) + ["check"] * (own != ids_of_checks(wanted))


def differences_of_record(record: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """As `differences`, of the service alone, without its checks."""
    fields = {
        "name": (record.get("Service"), wanted["Name"]),
        "port": (record.get("Port"), wanted["Port"]),
        "address": (record.get("Address") or "", wanted["Address"]),
        "tags": (record.get("Tags") or [], wanted["Tags"]),
        "meta": (record.get("Meta") or {}, wanted["Meta"]),
        "tag override": (bool(record.get("EnableTagOverride")), wanted["EnableTagOverride"]),
        "weights": (record.get("Weights") or DEFAULT_WEIGHTS, wanted.get("Weights", DEFAULT_WEIGHTS)),
        "tagged addresses": (_tagged(record), wanted.get("TaggedAddresses", {})),
        "connect": (_is_native(record), _is_native(wanted)),
    }
    if wanted["EnableTagOverride"]:  # other programs may set the tags
        del fields["tags"]
    return [name for name, (have, want) in fields.items() if have != want]


def surplus_checks(actual: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The ids of checks that an svcinit gave to this service and that are not part of `wanted`."""
    return [id for id in statuses(actual) if is_own_id(id, wanted["ID"]) and id not in ids_of_checks(wanted)]


def ids_of_checks(wanted: Mapping[str, Any]) -> set[str]:
    return {check["CheckID"] for check in wanted.get("Checks", ())}


def life_of(record: Mapping[str, Any]) -> str:
    """The run of svcinit that made this registration; empty: another tool made it."""
    meta = record.get("Meta")
    mark = meta.get(MARK) if isinstance(meta, dict) else None
    return mark.partition("-")[0] if isinstance(mark, str) else ""


def maintenance_of(actual: Mapping[str, Any]) -> str | None:
    """The reason for the service's maintenance mode; None: it is not in maintenance mode."""
    for check in actual.get("Checks") or []:
        if str(check.get("CheckID")).startswith(MAINTENANCE):
            return str(check.get("Notes") or "")
    return None


def statuses(actual: Mapping[str, Any]) -> dict[str, str]:
    """The status of each of the service's checks, by id."""
    return {str(check.get("CheckID")): str(check.get("Status") or "") for check in actual.get("Checks") or []}


def _tagged(record: Mapping[str, Any]) -> dict[str, object]:
    found = record.get("TaggedAddresses")
    return {tag: found[tag] for tag in TAGS_OF_ADDRESSES if tag in found} if isinstance(found, dict) else {}


def _is_native(record: Mapping[str, Any]) -> bool:
    connect = record.get("Connect")  # missing for a service that is not native
    return isinstance(connect, dict) and connect.get("Native") is True


def _check(service: Service, check: Check, service_host: str) -> dict[str, Any]:
    target = check.target
    assert check.port is not None or check.is_probed_here
    place = endpoint(target.host or service_host, check.port)
    lax = not check.tls_verify
    probe: dict[str, object]
    if check.is_probed_here:
        probe = {"TTL": _go(check.ttl)}
    elif target.kind in ("http", "https"):
        probe = {
            "HTTP": f"{target.kind}://{place}{target.rest}",
            "Method": check.method,
            "Header": {name: [value] for name, value in check.headers.items()},
            "TLSSkipVerify": lax,
        }
    elif target.kind in ("grpc", "grpcs"):
        probe = {"GRPC": f"{place}{target.rest}", "GRPCUseTLS": target.kind == "grpcs", "TLSSkipVerify": lax}
    elif target.kind == "tcp":
        probe = {"TCP": place}
    else:
        raise SvcinitError(f"Consul cannot run a check of kind {target.kind}")
    if not check.is_probed_here:
        probe |= {"Interval": _go(check.interval), "Timeout": _go(check.timeout)}
        probe |= {"SuccessBeforePassing": check.successes} if check.successes > 1 else {}
        probe |= {"FailuresBeforeCritical": check.failures} if check.failures > 1 else {}
    return {
        "CheckID": check.id(service.id),
        "Name": check.name or f"{service.name} {target.kind}",
        **probe,
        "DeregisterCriticalServiceAfter": _go(service.deregister_after),
    }


def _go(seconds: float) -> str:
    """Seconds as Go's time.ParseDuration reads them."""
    return f"{round(seconds * 1000)}ms"
