"""Who handles a signal: what the kernel says in /proc/PID (proc(5)). Imported when a reload is told.

A signal is handled by who catches it, ignores it, or blocks it and takes it by signalfd(2) or sigwait(3), as inits do.
Anybody else ends by it. Two things are not what they seem: shells and posix_spawn(3) block all signals for a moment
while they start a child; and who waits in sigwait has the signal unblocked meanwhile, so that it is looked up for what
it waits. What a program does with a signal that it catches cannot be seen.
"""

from __future__ import annotations

import _signal
import os

HARMLESS = _signal.SIGCHLD, _signal.SIGCONT, _signal.SIGURG, _signal.SIGWINCH  # ignored by default (signal(7))
MASKS = b"SigBlk", b"SigIgn", b"SigCgt"
MASK_BYTES = 8
GONE = b"Z", b"X"
ENDS, BLOCKS, HANDLES = "ends", "blocks", "handles"  # what becomes of a process by the signal


def look(main: int, number: int, *, group: bool) -> tuple[str, str]:
    """`NAME (pid N)` of a process that ends by a signal to main, or with `group` to all of its process group, and of
    one that blocks it just now; each empty where there is none, or where /proc does not tell."""
    found = {ENDS: "", BLOCKS: ""}
    if number not in HARMLESS and _is_ours():
        for pid in [main, *(_others(main) if group else ())]:
            status = _status(pid)
            fate = _fate(pid, number, status) if status else HANDLES
            found[fate] = f"{status.get(b'Name', b'?').decode('utf-8', 'replace')} (pid {pid})"
    return found[ENDS], found[BLOCKS]


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


def _fate(pid: int, number: int, status: dict[bytes, bytes]) -> str:
    blocked, ignored, caught = (_has(int(status[mask], 16), number) for mask in MASKS)
    if ignored or caught or status.get(b"State", b"Z")[:1] in GONE:
        return HANDLES
    if blocked:
        return BLOCKS
    return HANDLES if status.get(b"Threads") == b"1" and _has(_waited_for(pid), number) else ENDS


def _waited_for(pid: int) -> int:
    """The signals that a process without other threads, none of which could hold its memory, waits for in
    sigtimedwait(2); none where we may not look (another user's, without CAP_SYS_PTRACE)."""
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
    """Empty where it cannot be read, or says nothing of signals."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":\t", 1) for line in file.read().splitlines() if b":\t" in line)
    except OSError:
        return {}
    return {name: value.strip() for name, value in fields.items()} if all(mask in fields for mask in MASKS) else {}


def _has(mask: int, number: int) -> bool:
    return bool(mask >> (number - 1) & 1)
