"""Is there room for a second process during a start? Two processes on one core, or within narrow limits, would make the
start longer or let it fail.

Sources: proc(5), cgroups(7), and the kernel's cgroup-v2.rst.
"""

from __future__ import annotations

import os

ROOT = "/"  # below which the files are; a test has its own
LEAST_FILES = LEAST_TASKS = 64  # of the limits of open files, and of processes
LEAST_MEMORY = 128 << 20  # bytes, of the container's limit
CGROUPS = "sys/fs/cgroup"
NO_LIMIT = "max", "unlimited", "-1"


def for_two() -> bool:
    """Is a core idle now, and are all limits wide? False if that cannot be read."""
    try:
        return _has_idle_core() and _files_and_tasks_suffice() and _cgroup_suffices()
    except (OSError, ValueError, LookupError):
        return False


def _has_idle_core() -> bool:
    """Are fewer threads runnable on this host than we may use cores? This one is among them."""
    runnable, _, _ = _read("proc/loadavg").split()[3].partition("/")
    return int(runnable) < len(os.sched_getaffinity(0))


def _files_and_tasks_suffice() -> bool:
    limits = {line[:25].rstrip(): line[25:].split()[0] for line in _read("proc/self/limits").splitlines()[1:]}
    return _is_least(limits["Max open files"], LEAST_FILES) and _is_least(limits["Max processes"], LEAST_TASKS)


def _cgroup_suffices() -> bool:
    """A file that does not exist limits nothing: the cgroup of the host's root has none of them."""
    lines = _read("proc/self/cgroup").splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    return all(map(_is_wide, dict.fromkeys((CGROUPS, os.path.join(CGROUPS, own).rstrip("/"))))) and _is_wide_v1()


def _is_wide(group: str) -> bool:
    """For version 2."""
    quota, period = (_read(f"{group}/cpu.max", "max 1")).split()
    return (
        _is_least(quota, 2 * int(period))
        and _is_least(_read(f"{group}/pids.max", "max"), LEAST_TASKS)
        and _is_least(_read(f"{group}/memory.max", "max"), LEAST_MEMORY)
    )


def _is_wide_v1() -> bool:
    period = int(_read(f"{CGROUPS}/cpu/cpu.cfs_period_us", "1"))
    return (
        _is_least(_read(f"{CGROUPS}/cpu/cpu.cfs_quota_us", "-1"), 2 * period)
        and _is_least(_read(f"{CGROUPS}/pids/pids.max", "max"), LEAST_TASKS)
        and _is_least(_read(f"{CGROUPS}/memory/memory.limit_in_bytes", "-1"), LEAST_MEMORY)
    )


def _is_least(limit: str, least: int) -> bool:
    return limit.strip() in NO_LIMIT or int(limit) >= least


def _read(path: str, absent: str | None = None) -> str:
    """The text of a file; `absent` if it does not exist. Raises OSError, ValueError."""
    try:
        with open(os.path.join(ROOT, path)) as file:
            return file.read()
    except FileNotFoundError:
        if absent is None:
            raise
        return absent
