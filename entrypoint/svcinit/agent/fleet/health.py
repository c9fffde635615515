"""The health of a service's instances, from the answer of Consul's health API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from svcinit.agent.fleet.view import Health
from svcinit.agent.registration.definition import life_of

HEALTHY = "passing", "warning"  # as in Consul's DNS
MAINTENANCE = "_node_maintenance", "_service_maintenance"


def rows(answer: Iterable[Mapping[str, Any]]) -> dict[str, Health]:
    """The answer of /v1/health/service/NAME (Consul's API, "List Service Instances for a Service"), by id.

    Two nodes may have the same id, for example an instance that moved: the one that passes counts.
    Raises KeyError, TypeError or AttributeError if the answer is no list of instances.
    """
    found: dict[str, Health] = {}
    for row in map(_row, answer):
        if row.id not in found or row.passing:
            found[row.id] = row
    return found


def _row(each: Mapping[str, Any]) -> Health:
    node, service, checks = each["Node"], each["Service"], each["Checks"] or ()
    return Health(
        id=service["ID"],
        node=node["Node"],
        passing=all(check["Status"] in HEALTHY for check in checks),
        maintenance=any(str(check["CheckID"]).startswith(MAINTENANCE) for check in checks),
        life=life_of(service),
        address=service["Address"] or node["Address"],
        port=service.get("Port", 0),  # Consul 1.14 leaves 0 out
        tags=frozenset(service["Tags"] or ()),
        meta=service["Meta"] or {},
        node_meta=node["Meta"] or {},
    )
