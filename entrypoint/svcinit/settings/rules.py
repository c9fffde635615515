"""The rules between variables: defaults that follow from other variables, and values that contradict each other."""

from __future__ import annotations

import posix  # not `os`: its import costs every container start 1 ms

from svcinit.errors import Fault
from svcinit.names import host_of
from svcinit.settings.parsers import Target
from svcinit.settings.table import TEMPLATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self

    from svcinit.settings.environment import Values

DEREGISTER_FLOOR = 60.0  # seconds: below it Consul silently uses its own minimum
LISTS = "SERVICES", "CHECKS"


class Contradiction(Fault):
    """Variables that cannot go together. The fault's field `variable` is the first one."""

    variables: tuple[str, ...]

    def __new__(cls, sentence: str, *variables: str) -> Self:
        fault = super().__new__(cls, sentence, variable=variables[0])
        fault.variables = variables
        return fault


def derive(values: Values) -> list[Contradiction]:
    """Fill in the defaults that depend on other variables. Returns the contradictions."""
    service = values["service"]
    if values["kv_prefix"] is None:
        values["kv_prefix"] = ((f"config/{service}", None),) if service else ()
    if values["dns_addr"] is None:
        values["dns_addr"] = ((host_of(str(values["consul_http_addr"])), 8600),)
    if values["roll_prefix"] is None:
        values["roll_prefix"] = f"svcinit/{service}"
    if values["source"]:
        values["cache"] = ""  # a cache would be no more available than the file
    derive_service(service, values)
    return check_faults(values) + _contradictions(values)


def _contradictions(values: Mapping[str, object]) -> list[Contradiction]:
    faults: list[Contradiction] = []
    ready: Target = values["ready"]  # type: ignore[assignment]
    service = values["service"]
    if service and ready.needs_port and not values["port"]:
        message = f"SVCINIT_READY={ready.kind} needs SVCINIT_PORT: the port to probe"
        faults.append(Contradiction(message, "SVCINIT_READY", "SVCINIT_PORT"))
    if values["reload_verify"] and values["check"].kind in ("none", "grpc", "grpcs"):  # type: ignore[attr-defined]
        message = "SVCINIT_RELOAD_VERIFY needs an SVCINIT_CHECK of tcp, http:, https: or exec:"
        faults.append(Contradiction(message, "SVCINIT_RELOAD_VERIFY", "SVCINIT_CHECK"))
    rolls = values["roll"] != "off"
    needing = ("READY", ready.kind != "none"), ("ROLL", rolls), *((each, values[each.lower()]) for each in LISTS)
    for name, given in needing:
        if given and not service:
            message = f"SVCINIT_{name} needs SVCINIT_SERVICE: the name to register"
            faults.append(Contradiction(message, f"SVCINIT_{name}", "SVCINIT_SERVICE"))
    waits_below_prefix = not all(name.startswith("/") for name in values["wait_for_keys"])  # type: ignore[attr-defined]
    if waits_below_prefix and not values["kv_prefix"]:
        message = "SVCINIT_WAIT_FOR_KEYS needs SVCINIT_KV_PREFIX: the prefix that the keys are below"
        faults.append(Contradiction(message, "SVCINIT_WAIT_FOR_KEYS", "SVCINIT_KV_PREFIX"))
    missing = [path for path in values["templates"] if path != TEMPLATES and not _is_folder(path)]  # type: ignore[attr-defined]
    if missing:
        message = f"SVCINIT_TEMPLATES: no directory at {', '.join(missing)}; expected directories with templates"
        faults.append(Contradiction(message, "SVCINIT_TEMPLATES"))
    if values["stop"].kind == "restart":  # type: ignore[attr-defined]
        message = "SVCINIT_STOP='restart': a stop cannot be a restart; expected signal:, write:, exec: or none"
        faults.append(Contradiction(message, "SVCINIT_STOP"))
    return faults + _roll_contradictions(values) if rolls else faults


def _roll_contradictions(values: Mapping[str, object]) -> list[Contradiction]:
    faults, root = [], f"{values['roll_prefix']}/"
    if values["source"]:
        message = "SVCINIT_ROLL needs SVCINIT_SOURCE=consul: a file is not rolled out"
        faults.append(Contradiction(message, "SVCINIT_ROLL", "SVCINIT_SOURCE"))
    for prefix, _ in values["kv_prefix"]:  # type: ignore[attr-defined]
        if root.startswith(f"{prefix}/") or f"{prefix}/".startswith(root):
            message = f"SVCINIT_ROLL_PREFIX={root[:-1]!r} and SVCINIT_KV_PREFIX={prefix!r}: one is below the other"
            faults.append(Contradiction(message, "SVCINIT_ROLL_PREFIX", "SVCINIT_KV_PREFIX"))
    return faults


def _is_folder(path: str) -> bool:
    from os.path import isdir  # the default pays for no import

    return isdir(path)


def default_id(name: object, port: object) -> str:
    return "-".join(str(part) for part in (name, posix.uname().nodename, port) if part)


def derive_service(name: object, values: dict[str, Any]) -> None:
    """Fill in the defaults of a service, be it SVCINIT_SERVICE or one of SVCINIT_SERVICES."""
    port = values["port"]
    if values["check"] is None:
        values["check"] = Target("tcp" if port else "none")
    if values["id"] is None:
        values["id"] = default_id(name, port)
    if values["check"].kind == "exec":
        values["check_via"] = "ttl"


def check_faults(values: Mapping[str, object]) -> list[Contradiction]:
    """The contradictions in the check of a service, be it SVCINIT_SERVICE or one of SVCINIT_SERVICES."""
    check: Target = values["check"]  # type: ignore[assignment]
    kind, faults = check.kind, []
    if values["service"] and check.needs_port and not values["port"]:
        message = f"SVCINIT_CHECK={kind} needs SVCINIT_PORT: the port to probe"
        faults.append(Contradiction(message, "SVCINIT_CHECK", "SVCINIT_PORT"))
    if kind.startswith("grpc") and values["check_via"] == "ttl":
        message = f"SVCINIT_CHECK={kind} needs SVCINIT_CHECK_VIA=consul: svcinit itself cannot probe gRPC"
        faults.append(Contradiction(message, "SVCINIT_CHECK", "SVCINIT_CHECK_VIA"))
    # not the default, which is no fault: a start that does not need it does not parse it
    if float(values.get("deregister_after", DEREGISTER_FLOOR)) < DEREGISTER_FLOOR:  # type: ignore[arg-type]
        message = "SVCINIT_DEREGISTER_AFTER is below 1m, the least that Consul takes"
        faults.append(Contradiction(message, "SVCINIT_DEREGISTER_AFTER"))
    return faults
