"""Is the service's port in use before the service is started? Then another process has it.

The service could not bind the port, or would share it with another instance. Its registration would replace that of the
instance that runs. The kernel lists the listening sockets of the network namespace (proc(5), /proc/net/tcp), which all
containers with --network=host share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svcinit.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from svcinit.settings.environment import Settings

TABLES = "/proc/net/tcp", "/proc/net/tcp6"
LISTEN, SYN_RECV = "0A", "03"  # states of sockets; kernels before 4.4 list a connection that opens with its listener
ANY = "0.0.0.0", "::"


def require_free_ports(settings: Settings) -> None:
    """Raises Unavailable if another process listens on a port that is to be registered. Raises ConfigError for wrong
    settings of services."""
    if not (settings.registers and settings.port_check):
        return
    wanted = None
    if settings.advertise:
        from svcinit.agent.registration.advertise import advertised

        wanted = advertised(settings.advertise)
    for port in _ports(settings):
        found = list(listeners(port))
        # an instance on another address of this host does not conflict, unless one of the two is on all addresses
        taken = next((each for each in found if each in ANY or wanted in (None, each) or not _is_local(wanted)), None)
        if taken is not None:
            raise Unavailable(
                f"port {port} is in use: another process listens on it at {taken}; does this service run twice?",
                variable="SVCINIT_PORT",
            )


def _ports(settings: Settings) -> Iterable[int]:
    if not settings.services:  # most starts pay for no further import
        return [settings.port] if settings.port else []
    from svcinit.agent.registration.services import services

    return dict.fromkeys(service.port for service in services(settings) if service.port)


def listeners(port: int) -> Iterator[str]:
    """The addresses at which a process of this network namespace listens on the port."""
    for table in TABLES:
        for place in _listening(table):
            address, _, number = place.rpartition(":")
            if int(number, 16) == port:
                yield _shown(address)


def _listening(table: str) -> Iterator[str]:
    """ADDRESS:PORT of the listening sockets, as the kernel prints them.

    The kernel lists them before all others (Documentation/networking/proc_net_tcp.rst): a host with --network=host has
    10,000 connections, whose lines take 20 ms.
    """
    try:
        with open(table) as file:
            next(file, None)  # the names of the columns
            for line in file:
                _, place, _, state, _ = line.split(None, 4)
                if state == LISTEN:
                    yield place
                elif state != SYN_RECV:
                    return
    except OSError:  # no IPv6, or no /proc
        return


def _shown(address: str) -> str:
    """The kernel prints an address as 32-bit words in the byte order of the machine."""
    import socket
    import sys

    words = [int(address[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(address), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))


def _is_local(address: str | None) -> bool:
    """Is it an address of this network namespace? The service then listens there; otherwise a proxy forwards to it."""
    from svcinit.agent.registration.advertise import interfaces

    return any(address == each.partition("%")[0] for addresses in interfaces().values() for each in addresses)
