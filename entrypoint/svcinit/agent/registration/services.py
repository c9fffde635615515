"""The services of this container: SVCINIT_SERVICE, and those of SVCINIT_SERVICES.

SVCINIT_SERVICES is a YAML or JSON list of mappings. The keys of a mapping are `name` and the variables of a service
without SVCINIT_ and in lower case: `id`, `port`, `tags`, `meta`, `check`, `check_via`, ... A mapping inherits the
options of checks from the variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svcinit.agent.registration import checks
from svcinit.agent.registration.checks import raw
from svcinit.errors import ConfigError
from svcinit.settings.parsers import service_name, wrong_value
from svcinit.settings.rules import check_faults, default_id, derive_service
from svcinit.settings.table import row_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcinit.agent.prepare.located_yaml import Node
    from svcinit.agent.registration.checks import Check
    from svcinit.settings.environment import Settings

# no entry of SVCINIT_SERVICES inherits these
OWN = "id", "port", "tags", "meta", "check", "checks", "weights", "tagged_addresses", "connect_native"
SHARED = (
    "tag_override", "check_via", "check_interval", "check_timeout", "check_method", "check_headers",
    "check_tls_verify", "check_successes", "check_failures", "deregister_after",
)  # fmt: skip
JOINTS = {"meta": "=", "check_headers": ":", "tagged_addresses": "="}
EXAMPLE = 'such as [{"name": "admin", "port": 8001, "check": "http:/health"}]'


class Service:
    """One service to register. `deregister_after` is seconds; the rest is as in the settings of the same names."""

    name: str
    id: str
    port: int | None
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    weights: tuple[int, int] | None
    tagged_addresses: Mapping[str, tuple[str, int | None]]
    connect_native: bool
    tag_override: bool
    deregister_after: float
    checks: tuple[Check, ...]

    def __init__(self, name: str, values: Mapping[str, Any], further: list[Check]) -> None:
        self.name = name
        for attribute in (
            "id", "port", "tags", "meta", "weights", "tagged_addresses", "connect_native", "tag_override",
            "deregister_after",
        ):  # fmt: skip
            setattr(self, attribute, values[attribute])
        self.checks = (*checks.first(values), *further)


def own(settings: Settings) -> Service:
    """SVCINIT_SERVICE as the variables describe it, whether it is registered or not. Raises ConfigError."""
    values = {name: getattr(settings, name) for name in SHARED + OWN}
    listed = _parsed(settings.checks, "SVCINIT_CHECKS", f"such as {checks.EXAMPLE}") if settings.checks else []
    return Service(settings.service or "", values, checks.further(listed, values, "SVCINIT_CHECKS"))


def services(settings: Settings) -> list[Service]:
    """All services of this container, SVCINIT_SERVICE first; none where nothing is registered.

    Raises ConfigError with every fault of SVCINIT_SERVICES.
    """
    if not settings.service or not settings.registers:
        return []
    shared = {name: getattr(settings, name) for name in SHARED}
    found = [own(settings)]
    faults: list[str] = []
    for index, entry in enumerate(_entries(settings.services) if settings.services else ()):
        where = f"SVCINIT_SERVICES[{index}]"
        try:
            service = _service(entry, where, settings, shared)
            if service.id in [each.id for each in found]:
                faults.append(f"{where}: the id {service.id} is used twice: give each service its own port or id")
            found.append(service)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults, variable="SVCINIT_SERVICES")
    return found


def _service(entry: Mapping[Any, Any], where: str, settings: Settings, shared: Mapping[str, Any]) -> Service:
    own_values, faults = _read(entry, where)
    if faults:
        raise ConfigError(*faults)
    name = str(own_values.pop("name", settings.service))
    values = {**shared, **own_values}
    if values["id"] is None and settings.id != default_id(settings.service, settings.port):  # SVCINIT_ID is set
        values["id"] = "-".join(str(part) for part in (settings.id, name, values["port"]) if part)
    derive_service(name, values)
    faults = [f"{where}: {fault}" for fault in check_faults({**values, "service": name})]
    if faults:
        raise ConfigError(*faults)
    return Service(name, values, checks.further(entry.get("checks") or [], values, f"{where}.checks"))


def _entries(text: str) -> list[Any]:
    entries = _parsed(text, "SVCINIT_SERVICES", EXAMPLE)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(
            f"SVCINIT_SERVICES is no list of mappings; expected one {EXAMPLE}", variable="SVCINIT_SERVICES"
        )
    return entries


def _parsed(text: str, variable: str, example: str) -> object:
    """JSON or YAML, each value as it is written: 1.10 stays 1.10, and 12:30 is no number. Raises ConfigError."""
    from svcinit.agent.prepare.located_yaml import Place, parse

    try:
        return _plain(parse(text, Place(variable, variable=variable)))
    except ConfigError as error:
        raise ConfigError(*(fault.reworded(f"{fault}; expected a list {example}") for fault in error.faults)) from None


def _plain(node: Node) -> object:
    if isinstance(node.value, dict):
        return {name: _plain(each) for name, each in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(each) for each in node.value]
    return None if node.is_null else node.value


def _read(entry: Mapping[Any, object], where: str) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {
        "port": None, "tags": (), "meta": {}, "check": None, "id": None, "weights": None, "tagged_addresses": {},
        "connect_native": False,
    }  # fmt: skip
    faults = []
    for key, given in entry.items():
        if key != "name" and key not in OWN + SHARED:
            faults.append(f"{where}.{key} is unknown; expected name, {', '.join(OWN + SHARED)}")
            continue
        if key == "checks":
            continue  # a list of its own
        try:
            text = raw(given, JOINTS.get(key, ""))
            values[key] = service_name(text) if key == "name" else row_of(key).parse(text)
        except ValueError as wrong:
            hidden = key != "name" and row_of(key).private
            faults.append(f"{where}.{key}=" + (wrong_value(None, str(wrong)) if hidden else f"{given!r}: {wrong}"))
    return values, faults
