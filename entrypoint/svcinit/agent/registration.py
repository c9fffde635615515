"""What is registered: the body of PUT /v1/agent/service/register (Consul's "Service - Agent HTTP API" page)."""

from __future__ import annotations

import hashlib
import json

from svcinit.agent.advertise import advertised
from svcinit.errors import ConfigError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from svcinit.agent.consul import Consul
    from svcinit.settings import Settings

MARK = "svcinit"  # the meta key that says whose registration it is, and of which definition
LOOPBACK = "127.0.0.1"


def definition(settings: Settings, consul: Consul) -> dict[str, Any]:
    """The registration of this service and its check. Raises ConfigError (SVCINIT_ADVERTISE), Unavailable."""
    address = advertised(settings.advertise)
    wanted: dict[str, Any] = {
        "ID": settings.id,
        "Name": settings.service,
        "Tags": list(settings.tags),
        "Port": settings.port or 0,
        "Meta": dict(settings.meta),
    }
    if address:
        wanted["Address"] = address
    kind, path = settings.check
    if kind != "none":
        wanted["Check"] = _check(settings, kind, path, address or _agent_address(consul))
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    wanted["Meta"][MARK] = digest[:16]
    return wanted


def same(actual: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Does the agent's own record (GET /v1/agent/service/:id) stem from this very definition?"""
    return actual is not None and (actual.get("Meta") or {}).get(MARK) == wanted["Meta"][MARK]


def _check(settings: Settings, kind: str, path: str, host: str) -> dict[str, Any]:
    host = f"[{host}]" if ":" in host else host
    target = f"{host}:{settings.port}"
    probes: dict[str, dict[str, object]] = {
        "http": {"HTTP": f"http://{target}{path}"},
        "https": {"HTTP": f"https://{target}{path}", "TLSSkipVerify": True},
        "tcp": {"TCP": target},
        "grpc": {"GRPC": target},
    }
    return {
        "CheckID": f"service:{settings.id}",
        "Name": f"{settings.service} {kind}",
        **probes[kind],
        "Interval": _go(settings.check_interval),
        "Timeout": _go(settings.check_timeout),
        "DeregisterCriticalServiceAfter": _go(settings.deregister_after),
    }


def _go(seconds: float) -> str:
    """Seconds as Go's time.ParseDuration reads them."""
    return f"{round(seconds * 1000)}ms"


def _agent_address(consul: Consul) -> str:
    """Where the agent reaches this host: what it advertises itself, since the service is registered at that."""
    try:
        return str(consul.agent_self()["Member"]["Addr"])
    except ConfigError:  # the token may not read the agent: the agent is on this host all the same
        return LOOPBACK
    except (KeyError, TypeError):
        raise Unavailable("the Consul agent does not say its address yet (/v1/agent/self)") from None
