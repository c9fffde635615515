"""What templates see of Consul's catalog, of DNS and of Vault. Imported when a template uses one of these functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from math import isfinite
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.answers import PASSING, WARNING
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.templates.faults import NoSecretError, WrongError
from svcinit.agent.templates.secret import Secret, Unissued
from svcinit.errors import Unavailable
from svcinit.names import is_addressable

if TYPE_CHECKING:
    from svcinit.agent.templates.engine import Data

STATUSES = PASSING, WARNING, "any"
RECORDS = "A", "AAAA", "CNAME", "SRV", "TXT"


class Catalog:
    """The functions. What they return is a copy: a template cannot change the input."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self.secret_uses = 0

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

    def node_name(self) -> _NodeName:
        return _NodeName(self._data.node, self.node)

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

    def secret(self, path: str, key: str | None = None, version: int | None = None, **arguments: Any) -> Any:
        """The fields of a secret of Vault, or the one that is named `key`.

        version: of a secret in version 2 of KV. arguments: of a path that issues a secret, such as common_name.
        """
        self.secret_uses += 1
        name = _path(path)
        if arguments:
            if version is not None:
                raise WrongError("secret: version= is for KV, and other arguments are for secrets that are issued")
            given = json.dumps({each: _argument(value) for each, value in arguments.items()}, sort_keys=True)
            found = self._data.vault(Kind.ISSUE, name, given)
        else:
            found = self._data.vault(Kind.SECRET, name, None if version is None else f"version={_number(version)}")
        if not found:
            at = "" if version is None else f", version {version},"
            raise NoSecretError(f"there is no secret '{name}'{at} or it was deleted")
        fields: Any = found[0] if isinstance(found[0], Unissued) else Secret(name, deepcopy(found[0]))
        if key is None:
            return fields
        if key not in fields:
            raise NoSecretError(fields.lacks(key))
        return fields[key]

    def secrets(self, path: str) -> list[str]:
        """The names of the secrets below a path of Vault, sorted; those of folders end in a slash."""
        self.secret_uses += 1
        return list(self._data.vault(Kind.SECRETS, _path(path), None))


class _NodeName(str):
    """The name of this node; called, it gives another node: `node("other")`."""

    _find: Callable[..., Any]

    def __new__(cls, name: str, find: Callable[..., Any]) -> _NodeName:
        made = super().__new__(cls, name)
        made._find = find
        return made

    def __call__(self, name: str, dc: str | None = None) -> Any:
        return self._find(name, dc)


def _path(path: str) -> str:
    """A path of Vault. It may come from a value, so it must not leave its folder."""
    name = str(path).strip("/")
    if "?" in name:
        raise WrongError("secret: a path has no question mark: write version=1 instead of ?version=1")
    if not name.isprintable() or not is_addressable(name):
        raise WrongError("secret: the path has an empty part, a part of dots, or a character that no path has")
    return name


def _number(version: object) -> int:
    try:
        return int(str(version))
    except ValueError:
        raise WrongError("secret: version= must be a number") from None


def _argument(value: Any) -> Any:
    """As Vault takes it: text, a number or a boolean; a list is a text with commas."""
    if isinstance(value, list | tuple):
        return ",".join(str(each) for each in value)
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not isfinite(value)):
        raise WrongError("secret: an argument must be text, a number, a boolean or a list of them")
    return value
