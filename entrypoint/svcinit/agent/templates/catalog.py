"""What templates see of Consul's catalog and of DNS. Imported when a template uses one of these functions."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.answers import PASSING, WARNING
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.templates.faults import WrongError
from svcinit.errors import Unavailable

if TYPE_CHECKING:
    from svcinit.agent.templates.engine import Data

STATUSES = PASSING, WARNING, "any"
RECORDS = "A", "AAAA", "CNAME", "SRV", "TXT"


class Catalog:
    """The functions. What they return is a copy: a template cannot change the input."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def instances(
        self, name: str, tag: str | None = None, dc: str | None = None, near: str | None = None,
        status: str = PASSING, filter: str | None = None, min: int = 0,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The instances of a service with all their fields, sorted; with `near` the nearest first.

        status: the worst status that is included. filter: in the filter language of Consul's API.
        """
        if status not in STATUSES:
            raise WrongError(f"instances: status must be one of {', '.join(STATUSES)}")
        more = {"near": near, "filter": filter, "passing": "1" if status == PASSING else None}
        query = {name: value for name, value in more.items() if value}
        found = self._data.catalog(Kind.INSTANCES, name, tag, dc, query)
        chosen = [deepcopy(each) for each in found if status == "any" or each["status"] in STATUSES[:2]]
        if len(chosen) < min:
            wanted = InputId(Kind.INSTANCES, name, dc, tag)
            raise Unavailable(f"there are {len(chosen)} of the {min} {wanted} needed", input=str(wanted))
        return chosen

    def services(self, tag: str | None = None, dc: str | None = None) -> list[dict[str, Any]]:
        """All services, by name, with their tags; tag: only those with an instance that has it."""
        found = self._data.catalog(Kind.SERVICES, "", None, dc, {})
        return [deepcopy(each) for each in found if tag is None or tag in each["tags"]]

    def nodes(self, dc: str | None = None) -> list[dict[str, Any]]:
        return deepcopy(self._data.catalog(Kind.NODES, "", None, dc, {}))

    def node(self, name: str, dc: str | None = None) -> dict[str, Any] | None:
        found = self._data.catalog(Kind.NODE, name, None, dc, {})
        return deepcopy(found[0]) if found else None

    def datacenters(self) -> list[str]:
        return deepcopy(self._data.catalog(Kind.DATACENTERS, "", None, None, {}))

    def connect_ca(self) -> list[dict[str, Any]]:
        """The root certificates of Consul's service mesh: id, name, cert (PEM) and active."""
        return deepcopy(self._data.catalog(Kind.CONNECT_CA, "", None, None, {}))

    def lookup(self, name: str, type: str = "A", server: str | None = None) -> list[Any]:
        """The DNS records of a name outside Consul, sorted. server: HOST:PORT, by default those of this host."""
        if type not in RECORDS:
            raise WrongError(f"lookup: the type must be one of {', '.join(RECORDS)}")
        query = {"type": type} | ({"server": server} if server else {})
        return deepcopy(self._data.catalog(Kind.LOOKUP, name, None, None, query))
