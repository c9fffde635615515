"""The process that owns the turn of `svcinitctl fleet turn`: is it known to have ended?

It binds a name in the abstract socket namespace (unix(7)), and its command inherits that socket. The kernel frees the
name when the last of these processes has ended, by whatever signal. Such names belong to one network namespace of one
boot, so only a process there can find out that the name is free.
"""

from __future__ import annotations

import os
import socket

from svcinit.agent.fleet.records import shortened

RANDOM_BYTES = 8
BOOT_ID, NAMESPACE = "/proc/sys/kernel/random/boot_id", "/proc/self/ns/net"


class Owner:
    """`text` names this process in a record: USER@HOST, where it runs, and a random value."""

    def __init__(self, who: str) -> None:
        name = os.urandom(RANDOM_BYTES).hex()
        self.text = f"{shortened(who)} {_here()} {name}"
        self._socket = _bound(name)
        if self._socket is not None:
            self._socket.set_inheritable(True)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def who(text: str) -> str:
    """USER@HOST of an owner."""
    return text.rsplit(" ", 2)[0]


def has_ended(text: str) -> bool:
    """Have the owner and all processes of its command ended? False if that is not known."""
    _, _, rest = text.rpartition("@")
    parts = rest.split(" ")
    if len(parts) != 3 or parts[1] != _here() or not _here():
        return False
    found = _bound(parts[2])
    if found is None:
        return False
    found.close()
    return True


def _here() -> str:
    """The boot and the network namespace of this process; empty without /proc."""
    try:
        with open(BOOT_ID, encoding="ascii") as file:
            return f"{file.read().strip()}:{os.readlink(NAMESPACE)}"
    except OSError:
        return ""


def _bound(name: str) -> socket.socket | None:
    """None: the name is in use, or there are no such sockets."""
    try:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        found.bind(f"\0svcinit-turn-{name}")
    except OSError:
        found.close()
        return None
    return found
