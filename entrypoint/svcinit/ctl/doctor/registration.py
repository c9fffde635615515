"""The doctor's checks of the registration: the address to register, and the state in Consul."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING, Any

from svcinit.agent.consul.answers import CRITICAL
from svcinit.agent.consul.api import connect
from svcinit.agent.redact import redactor
from svcinit.agent.registration.advertise import advertised, interfaces
from svcinit.agent.registration.definition import MAINTENANCE, maintenance_of
from svcinit.agent.registration.services import services
from svcinit.ctl import state as states
from svcinit.ctl.doctor.consul import CALL, failed
from svcinit.ctl.doctor.report import found, well
from svcinit.errors import ConfigError, SvcinitError
from svcinit.names import host_of
from svcinit.state_files import read_of_life

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.registration.services import Service
    from svcinit.ctl.doctor.report import Entry
    from svcinit.settings.environment import Settings

OUTPUT = 300  # characters of the output of a check


def address(settings: Settings, *, answers: bool) -> Iterator[Entry]:
    """Which address would be registered, and can it be correct? `answers`: the agent answers."""
    try:
        own = advertised(settings.advertise)
    except ConfigError as error:
        yield from (found("address-unknown", fault) for fault in error.faults)
        return
    agents = _agents_address(settings) if answers and not own else ""
    shown = own or agents
    if not shown:
        yield well("the agent's own address would be registered, and the agent does not report it now")
        return
    mine, is_here = _mine(), _is_here(settings)
    by = f"SVCINIT_ADVERTISE={settings.advertise}" if own else "the agent's own"
    said = f"{shown} would be registered ({by})"
    port = settings.port or "PORT"
    if _is_loopback(shown) and not is_here:
        yield found("address-loopback", f"{said}, and the agent is at {settings.consul_http_addr}")
    elif own and own not in mine:
        yield found("address-foreign", f"{said}; this container has {', '.join(mine)}", address=own, port=port)
    elif not own and not is_here and agents not in mine:
        yield found("address-agents", f"{said}; this container has {', '.join(mine)}", port=port)
    elif _is_loopback(shown):
        yield well(f"{said}; only this host can reach it")
    else:
        yield well(said if is_here else f"{said}; the agent is on another host and must be able to reach this address")


def _agents_address(settings: Settings) -> str:
    try:
        with contextlib.closing(connect(settings, CALL)) as consul:
            return consul.agent()["address"]
    except SvcinitError:  # reported with the token
        return ""


def _mine() -> list[str]:
    """The addresses of this network namespace, loopback ones last."""
    found = [address for addresses in interfaces().values() for address in addresses]
    return sorted(found, key=_is_loopback)


def _is_here(settings: Settings) -> bool:
    """Is the agent in this network namespace?"""
    if settings.consul_http_addr.startswith("unix://"):
        return True
    try:
        places = socket.getaddrinfo(host_of(settings.consul_http_addr) or "localhost", None)
    except OSError:
        return False
    mine = _mine()
    return any(str(place[4][0]) in mine for place in places)


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:  # an agent can advertise a name
        return False


def state(settings: Settings, running: Mapping[str, Any] | None, *, answers: bool) -> Iterator[Entry]:
    """What the running svcinit and the agent report about each service. `answers`: the agent answers."""
    try:
        wanted = services(settings)
    except ConfigError:  # reported with the settings
        return
    if not running or not answers:
        names = ", ".join(service.id for service in wanted)
        yield well(f"{names}: only beside a running svcinit the doctor can see whether the agent reaches it")
        return
    presence = read_of_life(states.folder(), "presence", running["life"]) or {}
    known = presence.get("services", {})
    with contextlib.closing(connect(settings, CALL)) as consul:
        for service in wanted:
            said = known.get(service.id, {})
            if said.get("reason"):
                yield found("unregistered", f"{service.id}: {said['reason']}")
            elif not said.get("registered"):
                yield well(f"{service.id}: not registered yet")
            else:
                yield from _registered(settings, service, consul)


def _registered(settings: Settings, service: Service, consul: Consul) -> Iterator[Entry]:
    try:
        record = consul.instance(service.id, service.name) or {}
    except SvcinitError as error:
        yield from failed(error)
        return
    at = record.get("Service") or {}
    where = f"{service.id} at {at.get('Address') or 'the address of the agent'}:{at.get('Port') or '-'}"
    redact, reason = redactor(settings, {}), maintenance_of(record)
    if reason is not None:
        yield found("maintenance", f"{where}: {reason or 'no reason given'}")
    critical = [check for check in record.get("Checks") or [] if check.get("Status") == CRITICAL]
    for check in critical:
        if not str(check.get("CheckID")).startswith(MAINTENANCE):
            output = " ".join(redact(str(check.get("Output") or "it did not run yet, or has no output")).split())[
                :OUTPUT
            ]
            yield found("check-critical", f"{where}: {check.get('Name')}: {output}")
    if not critical:
        yield well(f"{where}: registered, and none of its checks fails")
