"""The limits of execve(2) for arguments and environment (fs/exec.c: bprm_stack_limits), checked beforehand.

One string may have 32 pages. All strings together, with a pointer for each, may have a quarter of the stack limit, at
least 128 KiB and at most 6 MiB. RESERVE is for the path of the program and the interpreter of a script.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from svcinit.settings.environment import Settings

MAX_STRING = 32 * os.sysconf("SC_PAGE_SIZE") - 1  # bytes of one string, without its NUL (MAX_ARG_STRLEN)
MIN_TOTAL, MAX_TOTAL = 128 << 10, 6 << 20  # bytes of all strings together, whatever the stack limit
POINTER = 8  # bytes
RESERVE = 16 << 10  # bytes
CHANGED = 64 << 10  # bytes of SVCINIT_CHANGED


def max_total() -> int:
    """The limit for all strings together, in bytes."""
    import resource

    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return max(MIN_TOTAL, MAX_TOTAL if stack == resource.RLIM_INFINITY else min(MAX_TOTAL, stack // 4))


def length(text: str) -> int:
    """The length of a string in bytes, as a program gets it."""
    return len(text) if text.isascii() else len(os.fsencode(text))


def size(strings: Iterable[str]) -> int:
    return sum(length(each) + 1 + POINTER for each in strings)


def used(settings: Settings, argv: Iterable[str], env: Mapping[str, str]) -> int:
    """Bytes of the environment and of the longest command (`argv`, a hook or an action) that gets it."""
    hooks = settings.pre_start, settings.pre_reload, settings.post_stop, settings.stop.argv, settings.reload.argv
    commands = max(size(argv), *(size(hook or ()) for hook in hooks))
    return commands + size(f"{name}={value}" for name, value in env.items()) + size(getattr(env, "odd", ()))


def changed(paths: Iterable[str], room: int) -> dict[str, str]:
    """SVCINIT_CHANGED with as many paths as fit into `room` bytes, one on each line, and the number of the others."""
    left, named, omitted = min(room, CHANGED), list[str](), 0
    for path in paths:
        left -= length(path) + 1
        if left >= 0:
            named.append(path)
        else:
            omitted += 1
    found = {"SVCINIT_CHANGED": "\n".join(named)}
    return {**found, "SVCINIT_CHANGED_OMITTED": str(omitted)} if omitted else found
