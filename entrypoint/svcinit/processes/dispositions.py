"""Which processes handle a signal, from the kernel's files in /proc/PID (proc(5)). Imported when a reload is notified.

A process handles a signal if it catches or ignores it, or if it blocks it and takes it by signalfd(2) or sigwait(3), as
inits do. Otherwise the signal ends the process. There are two special cases. Shells and posix_spawn(3) block all
signals for a moment while they start a child. And a process in sigwait(3) has the signal unblocked meanwhile, so the
signals that it waits for are read from its memory. What a program does with a signal that it catches is not visible.
"""

from __future__ import annotations

import _signal
import os

from svcinit.processes.child import proc_is_ours

HARMLESS = _signal.SIGCHLD, _signal.SIGCONT, _signal.SIGURG, _signal.SIGWINCH  # ignored by default (signal(7))
MASKS = b"SigBlk", b"SigIgn", b"SigCgt"
MASK_BYTES = 8
GONE = b"Z", b"X"
ENDS, BLOCKS, HANDLES = "ends", "blocks", "handles"  # the effect of the signal on a process


def unhandled(main: int, number: int, *, group: bool) -> tuple[str, str]:
    """`NAME (pid N)` of a process that the signal would end, and of one that blocks it now. Each is empty if there is
    none, or if /proc does not show it. `group`: all processes in the group of `main` get the signal."""
    found = {ENDS: "", BLOCKS: ""}
    if number not in HARMLESS and proc_is_ours():
        for pid in [main, *(_others(main) if group else ())]:
            status = _status(pid)
            fate = _fate(pid, number, status) if status else HANDLES
            found[fate] = f"{status.get(b'Name', b'?').decode('utf-8', 'replace')} (pid {pid})"
    return found[ENDS], found[BLOCKS]


def is_job() -> bool:
    """Is this process a job of a shell, which notices that it stops, and can continue it? A shell with job control
    ignores or catches TSTP itself. An init such as tini does not, and could not continue anybody."""
    if not proc_is_ours():
        return False
    try:
        group, parent = os.getpgrp(), os.getppid()
        while parent and os.getpgid(parent) == group:  # the other processes of the job
            parent = int(_status(parent).get(b"PPid", b"0"))
        if not parent or os.getsid(parent) != os.getsid(0):
            return False
    except OSError:  # it ended meanwhile
        return False
    status = _status(parent)
    return any(_has(int(status.get(mask, b"0"), 16), _signal.SIGTSTP) for mask in (b"SigIgn", b"SigCgt"))


def _others(main: int) -> list[int]:
    """The other processes in the process group of `main`."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(name) != main and os.getpgid(int(name)) == main:
                found.append(int(name))
        except OSError:  # the process ended meanwhile
            continue
    return found


def _fate(pid: int, number: int, status: dict[bytes, bytes]) -> str:
    blocked, ignored, caught = (_has(int(status[mask], 16), number) for mask in MASKS)
    if ignored or caught or status.get(b"State", b"Z")[:1] in GONE:
        return HANDLES
    if blocked:
        return BLOCKS
    return HANDLES if status.get(b"Threads") == b"1" and _has(_waited_for(pid), number) else ENDS


def _waited_for(pid: int) -> int:
    """The mask of signals that a process with one thread waits for in sigtimedwait(2). 0 if we may not read that: the
    process of another user, without CAP_SYS_PTRACE."""
    try:
        with open(f"/proc/{pid}/wchan", "rb") as file:
            if b"sigtimedwait" not in file.read():
                return 0
        with open(f"/proc/{pid}/syscall", "rb") as file:
            address = int(file.read().split()[1], 16)
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
            file.seek(address)
            return int.from_bytes(file.read(MASK_BYTES), "little")
    except (OSError, ValueError, LookupError, OverflowError):
        return 0


def _status(pid: int) -> dict[bytes, bytes]:
    """The fields of /proc/PID/status; empty if it cannot be read or has no signal masks."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":\t", 1) for line in file.read().splitlines() if b":\t" in line)
    except OSError:
        return {}
    return {name: value.strip() for name, value in fields.items()} if all(mask in fields for mask in MASKS) else {}


def _has(mask: int, number: int) -> bool:
    return bool(mask >> (number - 1) & 1)
