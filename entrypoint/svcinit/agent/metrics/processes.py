"""Memory and CPU time of svcinit's own processes and of the service, by role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil

from svcinit.model import Role
from svcinit.processes.child import descendants

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

INIT, OTHER = "init", "other"
OWN = INIT, Role.PRESENCE, Role.METRICS
ROLES = (*OWN, Role.MAIN, OTHER)


def figures(init: Mapping[str, Any], proportional: Collection[str] = ROLES) -> dict[str, dict[str, Any]]:
    """By role: the number of `processes`, `resident_bytes`, `proportional_bytes` and `cpu_seconds`.

    `init`: the content of init.json. Shared memory counts in full in the resident memory of each process, and in shares
    in the proportional memory. The latter is None if it may not be read, and for roles that are not in `proportional`:
    for it, the kernel reads the page tables of the whole process. CPU time includes that of ended children, except for
    init, which reaps the children of all.
    """
    found = {}
    for role, pids in _by_role(init).items():
        figure = _figure(pids, children=role != INIT, proportional=role in proportional)
        if figure["processes"]:
            found[role] = figure
    return found


def _by_role(init: Mapping[str, Any]) -> dict[str, list[int]]:
    """Descendants of init without a role, such as hooks and orphans, are OTHER."""
    roles = {INIT: [int(init["pid"])]}
    rest = set(descendants(init["pid"]))
    for role in (Role.PRESENCE, Role.METRICS, Role.MAIN):
        if init[role] is not None:
            roles[role] = [init[role], *descendants(init[role])]
            rest.difference_update(roles[role])
    return {**roles, OTHER: sorted(rest)}


def _figure(pids: Iterable[int], *, children: bool, proportional: bool) -> dict[str, Any]:
    count = resident = 0
    share: int | None = 0 if proportional else None
    cpu = 0.0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times, memory = process.cpu_times(), process.memory_info().rss
        except psutil.Error:  # it has ended, or belongs to another user
            continue
        count += 1
        resident += memory
        cpu += times.user + times.system + (times.children_user + times.children_system) * children
        share = _added(share, process)
    return {"processes": count, "resident_bytes": resident, "proportional_bytes": share, "cpu_seconds": cpu}


def _added(share: int | None, process: psutil.Process) -> int | None:
    if share is None:
        return None
    try:
        return share + int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return share
    except psutil.Error:
        return None
