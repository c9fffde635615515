"""The checks of a service: what each one probes, how often, and who does it.

The first check of a service comes from SVCINIT_CHECK or `check` of an entry of SVCINIT_SERVICES, further ones from the
lists SVCINIT_CHECKS and `checks`. An option that a list does not give comes from the service's own check variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svcinit.errors import ConfigError
from svcinit.settings.parsers import Target, joined, wrong_value
from svcinit.settings.parsers import check as read_target
from svcinit.settings.table import row_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OPTIONS = {  # key of a list: attribute of Check, and the row of the settings that reads it
    "interval": ("interval", "check_interval"),
    "timeout": ("timeout", "check_timeout"),
    "success_before_passing": ("successes", "check_successes"),
    "failures_before_critical": ("failures", "check_failures"),
    "via": ("via", "check_via"),
    "method": ("method", "check_method"),
    "headers": ("headers", "check_headers"),
    "tls_verify": ("tls_verify", "check_tls_verify"),
}
EXAMPLE = '[{"name": "admin", "kind": "http://:8001/health", "interval": "30s"}]'
NAME_LIMIT = 128  # characters
PREFIX = "service:"


class Check:
    """One check. `interval` and `timeout` are seconds; `successes` and `failures` are the numbers of consecutive
    results after which its status changes; `via` is `consul` or `ttl`; `name` is empty for the first check of a
    service."""

    interval: float
    timeout: float
    successes: int
    failures: int
    via: str
    method: str
    headers: Mapping[str, str]
    tls_verify: bool

    def __init__(self, target: Target, service_port: int | None, name: str, options: Mapping[str, object]) -> None:
        self.__dict__.update(options)
        self.target, self.name = target, name
        self.port = target.port or service_port
        if target.kind == "exec":
            self.via = "ttl"

    @property
    def is_probed_here(self) -> bool:
        """Does svcinit itself run this check, and report the result to the agent?"""
        return self.via == "ttl"

    @property
    def change_interval(self) -> float:
        """Seconds of probes, apart from what they take, after which Consul shows that the service changed."""
        return self.interval * max(self.successes, self.failures)

    @property
    def ttl(self) -> float:
        """Seconds without a report until Consul makes a reported check critical: a probe may be late by half an
        interval."""
        return self.interval + self.timeout + max(1.0, self.interval / 2)

    def id(self, service_id: str) -> str:
        return check_id(service_id) + (f":{self.name}" if self.name else "")


def check_id(service_id: str) -> str:
    """The id of the first check of a service, as Consul forms it."""
    return PREFIX + service_id


def is_own_id(found: str, service_id: str) -> bool:
    """Is this the id of a check that svcinit gives to this service?"""
    return found == check_id(service_id) or found.startswith(check_id(service_id) + ":")


def first(values: Mapping[str, Any]) -> Iterator[Check]:
    """The check that the variables or the keys of an entry describe, if there is one."""
    if values["check"].kind != "none":
        yield Check(values["check"], values["port"], "", _shared(values))


def further(entries: object, values: Mapping[str, Any], where: str) -> list[Check]:
    """The checks of a list. Raises ConfigError with every fault in it."""
    variable = where.partition("[")[0]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{where} is no list of mappings; expected one such as {EXAMPLE}", variable=variable)
    found: list[Check] = []
    faults: list[str] = []
    for number, entry in enumerate(entries):
        try:
            found.append(_read(entry, values, f"{where}[{number}]"))
        except ConfigError as error:
            faults += error.faults
    names = [check.name for check in found]
    faults += [f"{where}: the name {name} is given twice" for name in sorted(set(names)) if names.count(name) > 1]
    if faults:
        raise ConfigError(*faults, variable=variable)
    return found


def _read(entry: Mapping[str, object], values: Mapping[str, Any], where: str) -> Check:
    options, faults = _shared(values), []
    target: Target | None = None
    name = ""
    for key, given in entry.items():
        try:
            if key == "name":
                name = _name(given)
            elif key == "kind":
                target = read_target(raw(given, ""))
            elif key in OPTIONS:
                attribute, row = OPTIONS[key]
                options[attribute] = row_of(row).parse(raw(given, ":" if key == "headers" else ""))
            else:
                faults.append(f"{where}.{key} is unknown; expected name, kind, {', '.join(OPTIONS)}")
        except ValueError as wrong:
            shown = wrong_value(None, str(wrong)) if key == "headers" else f"{given!r}: {wrong}"
            faults.append(f"{where}.{key}={shown}")
    if "name" not in entry or "kind" not in entry:
        faults.append(f"{where} needs a name and a kind, such as {EXAMPLE[1:-1]}")
    if target is not None:
        faults += [f"{where}: {fault}" for fault in target_faults(target, values["port"], str(options["via"]))]
    if faults or target is None:
        raise ConfigError(*faults)
    return Check(target, values["port"], name, options)


def target_faults(target: Target, service_port: object, via: str) -> Iterator[str]:
    """Contradictions between what a check probes and the rest."""
    if target.kind == "none":
        yield "a check of kind none is no check: leave the entry out"
    if target.needs_port and not service_port:
        yield f"a check of kind {target.kind} needs a port: the service has none, and the check names none"
    if target.kind.startswith("grpc") and via == "ttl":
        yield f"a check of kind {target.kind} needs via: consul, because svcinit itself cannot probe gRPC"


def raw(given: object, joint: str) -> str:
    """A value of YAML or JSON in the form that the variable of the same meaning takes. Raises ValueError."""
    if isinstance(given, bool):
        return "1" if given else "0"
    if isinstance(given, str | int | float):
        return str(given)
    if given is None:
        raise ValueError("it is null: leave it out, or write '' for an empty text")
    if isinstance(given, list):
        return joined(_item(item, f"item {number}") for number, item in enumerate(given, 1))
    if isinstance(given, dict) and joint:
        return joined(f"{key}{joint}{_item(value, f'the value of {key}')}" for key, value in given.items())
    raise ValueError("expected the same form as in the variable of that name")


def _item(given: object, which: str) -> str:
    """A value in a list or a mapping. Raises ValueError."""
    if isinstance(given, list | dict):
        raise ValueError(f"{which} is a list or a mapping: expected text or a number")
    try:
        return raw(given, "")
    except ValueError as wrong:
        raise ValueError(f"{which}: {wrong}") from None


def _name(given: object) -> str:
    text = raw(given, "")
    if not isinstance(given, str) or not 0 < len(text) <= NAME_LIMIT or not text.replace("-", "").replace(
        "_", ""
    ).isalnum() or not text.isascii():  # fmt: skip
        raise ValueError(f"expected a name of letters, digits, '-' and '_', at most {NAME_LIMIT} of them")
    return text


def _shared(values: Mapping[str, Any]) -> dict[str, Any]:
    return {attribute: values[row] for attribute, row in OPTIONS.values()}
