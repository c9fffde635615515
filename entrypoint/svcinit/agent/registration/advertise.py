"""The address to register: resolves SVCINIT_ADVERTISE on this host."""

from __future__ import annotations

import ipaddress

from svcinit.errors import ConfigError
from svcinit.names import is_label

HOST = "host:"
DEFAULT_ROUTE = "default-route"
ROUTES = "/proc/net/route"
ANYWHERE = "00000000"


def advertised(wanted: str | None) -> str | None:
    """The IP that `wanted` (an IP, an interface, a CIDR, `default-route`) means here, or the NAME of `host:NAME`.

    None for None. Raises ConfigError, with the interfaces there are, when it means none.
    """
    if not wanted:
        return None
    if wanted.startswith(HOST):
        try:
            return host(wanted.removeprefix(HOST))
        except ValueError as wrong:
            raise ConfigError(f"SVCINIT_ADVERTISE={wanted!r}: {wrong}", variable="SVCINIT_ADVERTISE") from None
    try:
        return str(ipaddress.ip_address(wanted))
    except ValueError:
        pass
    found = interfaces()
    if wanted == DEFAULT_ROUTE:
        chosen = found.get(_default_interface() or "", [])
    elif "/" in wanted:
        chosen = [address for addresses in found.values() for address in addresses if _within(address, wanted)]
    else:
        chosen = found.get(wanted, [])
    if not chosen:
        have = ", ".join(f"{name} {' '.join(addresses)}" for name, addresses in sorted(found.items()) if addresses)
        raise ConfigError(
            f"SVCINIT_ADVERTISE={wanted!r} matches no address here; expected an IP, an interface, a CIDR, "
            f"{DEFAULT_ROUTE} or {HOST}NAME; there are: {have or 'none'}",
            variable="SVCINIT_ADVERTISE",
        )
    return chosen[0]


def host(raw: str) -> str:
    """An IP address or a host name, as it is registered. Raises ValueError for what is neither."""
    try:
        return str(ipaddress.ip_address(raw))
    except ValueError:
        labels = raw.removesuffix(".").split(".")
        if all(is_label(label) for label in labels) and not labels[-1].isdigit():
            return raw.removesuffix(".")
    raise ValueError("expected a host name or an IP address, without a port")


def interfaces() -> dict[str, list[str]]:
    """Interface to its addresses, IPv4 before IPv6, link-local ones left out."""
    import socket

    import psutil

    found: dict[str, list[str]] = {}
    for name, entries in psutil.net_if_addrs().items():
        addresses = [entry.address for family in (socket.AF_INET, socket.AF_INET6) for entry in entries
                     if entry.family == family]  # fmt: skip
        found[name] = [a for a in addresses if not ipaddress.ip_address(a.partition("%")[0]).is_link_local]
    return found


def _within(address: str, cidr: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        raise ConfigError(
            f"SVCINIT_ADVERTISE={cidr!r} is no CIDR such as 10.0.0.0/8", variable="SVCINIT_ADVERTISE"
        ) from None


def _default_interface() -> str | None:
    """The interface of the IPv4 default route (proc(5), /proc/net/route)."""
    try:
        with open(ROUTES) as file:
            rows = [line.split() for line in file.readlines()[1:]]
    except OSError:
        return None
    routes = [(int(row[6]), row[0]) for row in rows if row[1] == ANYWHERE and row[7] == ANYWHERE]
    return min(routes)[1] if routes else None
