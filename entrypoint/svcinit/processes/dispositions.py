"""Who handles a signal: what the kernel says in /proc/PID/status (proc(5)). Imported when a reload is told.

A signal is handled by who catches it, ignores it, or blocks it and takes it by signalfd(2) or sigwait(3), as inits do.
Anybody else ends by it. Who waits in sigwait has the signal unblocked just then (SigBlk says so): that is seen by
/proc/PID/wchan, where we may read it. What a program does with a signal that it catches cannot be seen.
"""

from __future__ import annotations

import _signal
import os

MASKS = b"SigBlk", b"SigIgn", b"SigCgt"
HARMLESS = _signal.SIGCHLD, _signal.SIGCONT, _signal.SIGURG, _signal.SIGWINCH  # ignored by default (signal(7))
GONE = b"Z", b"X"


def unhandled(main: int, number: int, *, group: bool) -> str:
    """`NAME (pid N)` of a process that does not handle a signal to main, or with `group` to all of its process group;
    empty where there is none, or where /proc does not tell."""
    if number in HARMLESS or not _is_ours():
        return ""
    for pid in [main, *(_others(main) if group else ())]:
        name = _unhandled(pid, number)
        if name:
            return f"{name} (pid {pid})"
    return ""


def _is_ours() -> bool:
    """Has /proc the process IDs of our own PID namespace?"""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _others(main: int) -> list[int]:
    """All of main's process group but main."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(name) != main and os.getpgid(int(name)) == main:
                found.append(int(name))
        except OSError:  # it ended meanwhile
            continue
    return found


def _unhandled(pid: int, number: int) -> str:
    """Its name, if it does not handle the signal."""
    status = _status(pid)
    if not status or status.get(b"State", b"Z")[:1] in GONE:
        return ""
    if any(int(status[mask], 16) >> (number - 1) & 1 for mask in MASKS) or _is_in_sigwait(pid):
        return ""
    return status.get(b"Name", b"?").decode("utf-8", "replace")


def _is_in_sigwait(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/wchan", "rb") as file:
            return b"sigtimedwait" in file.read()
    except OSError:
        return False


def _status(pid: int) -> dict[bytes, bytes]:
    """Empty where it cannot be read, or says nothing of signals."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":\t", 1) for line in file.read().splitlines() if b":\t" in line)
    except OSError:
        return {}
    return {name: value.strip() for name, value in fields.items()} if all(mask in fields for mask in MASKS) else {}
