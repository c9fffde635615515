"""What this container registers: SVCINIT_SERVICE, and those of SVCINIT_SERVICES beside it.

SVCINIT_SERVICES is a YAML or JSON list of mappings. Their keys are `name` and the variables of a service without
SVCINIT_ and in lower case: `id`, `port`, `tags`, `meta`, `check`, `check_via`, ... What is about how to check is taken
from the variables where an entry does not say.
"""

from __future__ import annotations

import json

from svcinit.errors import ConfigError
from svcinit.settings.environment import check_faults, default_check, default_id
from svcinit.settings.parsers import joined, service_name, wrong_value
from svcinit.settings.table import TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from svcinit.settings.environment import Settings

OWN = "id", "port", "tags", "meta", "check"  # no entry inherits these
SHARED = (
    "tag_override", "check_via", "check_interval", "check_timeout", "check_method", "check_headers",
    "check_tls_verify", "check_successes", "check_failures", "deregister_after",
)  # fmt: skip
JOINTS = {"meta": "=", "check_headers": ":"}
ROWS = {row.attribute: row for row in TABLE}
EXAMPLE = 'such as [{"name": "admin", "port": 8001, "check": "http:/health"}]'


class Service:
    """One service to register: `name` and, under the names of their variables, what the settings say of it."""

    name: str
    id: str
    port: int | None
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    tag_override: bool
    check: tuple[str, str]
    check_via: str
    check_interval: float
    check_timeout: float
    check_method: str
    check_headers: Mapping[str, str]
    check_tls_verify: bool
    check_successes: int
    check_failures: int
    deregister_after: float

    def __init__(self, name: str, values: Mapping[str, object]) -> None:
        self.__dict__.update(values, name=name)

    @property
    def is_probed_here(self) -> bool:
        """Is its check one that svcinit does itself?"""
        return self.check_via == "ttl" and self.check[0] != "none"


def own(settings: Settings) -> Service:
    """SVCINIT_SERVICE as the variables describe it, whether it is registered or not."""
    return Service(settings.service or "", {name: getattr(settings, name) for name in SHARED + OWN})


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
        values, wrong = _read(entry, where)
        if not wrong:
            name = str(values.pop("name", settings.service))
            values = {**shared, **values}
            _derive(name, values)
            wrong = [f"{where}: {fault}" for fault in check_faults({**values, "service": name})]
            if values["id"] in [service.id for service in found]:
                wrong.append(f"{where}: the id {values['id']} is taken: give each service a port or an id of its own")
            found.append(Service(name, values))
        faults += wrong
    if faults:
        raise ConfigError(*faults, variable="SVCINIT_SERVICES")
    return found


def _entries(text: str) -> list[Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        entries = _yaml(text)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(
            f"SVCINIT_SERVICES is no list of mappings; expected one {EXAMPLE}", variable="SVCINIT_SERVICES"
        )
    return entries


def _yaml(text: str) -> object:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            "SVCINIT_SERVICES is not JSON, and YAML needs PyYAML, which is not here: pip install 'svcinit[yaml]'",
            variable="SVCINIT_SERVICES",
        ) from None
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"SVCINIT_SERVICES is neither JSON nor YAML{line}; expected a list {EXAMPLE}", variable="SVCINIT_SERVICES"
        ) from None


def _read(entry: Mapping[Any, object], where: str) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {"port": None, "tags": (), "meta": {}, "check": None, "id": None}
    faults = []
    for key, given in entry.items():
        if key != "name" and key not in OWN + SHARED:
            faults.append(f"{where}.{key} is unknown; expected name, {', '.join(OWN + SHARED)}")
            continue
        try:
            raw = _raw(given, JOINTS.get(key, ""))
            values[key] = service_name(raw) if key == "name" else ROWS[key].parse(raw)
        except ValueError as wrong:
            hidden = key in ROWS and ROWS[key].private
            faults.append(f"{where}.{key}=" + (wrong_value(None, str(wrong)) if hidden else f"{given!r}: {wrong}"))
    return values, faults


def _raw(given: object, joint: str) -> str:
    """A value of YAML or JSON as one would write it into the variable."""
    if isinstance(given, bool):
        return "1" if given else "0"
    if isinstance(given, str | int | float):
        return str(given)
    if isinstance(given, list):
        return joined(_raw(item, "") for item in given)
    if isinstance(given, dict) and joint:
        return joined(f"{key}{joint}{_raw(value, '')}" for key, value in given.items())
    raise ValueError("expected what one would write into the variable of that name")


def _derive(name: str, values: dict[str, Any]) -> None:
    if values["check"] is None:
        values["check"] = default_check(values["port"])
    if values["id"] is None:
        values["id"] = default_id(name, values["port"])
    if values["check"][0] == "exec":
        values["check_via"] = "ttl"
