"""The signal dispositions of our own code in a child, and how a child becomes a program.

A write without a reader raises SIGPIPE, a write beyond the limit of file sizes SIGXFSZ, and a write to a terminal with
`stty tostop` SIGTTOU. Each of them would end or stop a child because of a line of its log. So they are ignored until
just before execve(2).
"""

from __future__ import annotations

import _signal
import errno
import os

from svcinit import log
from svcinit.errors import NOT_EXECUTABLE, NOT_FOUND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

OF_WRITES = _signal.SIGPIPE, _signal.SIGXFSZ  # the kernel sends them to the writer, in addition to the error
IGNORED = *OF_WRITES, _signal.SIGTTOU


def own_signals(*, blocked: bool) -> None:
    """Set default dispositions, except for IGNORED, and an empty mask unless `blocked`."""
    for number in _signal.valid_signals():
        wanted = _signal.SIG_IGN if number in IGNORED else _signal.SIG_DFL
        if _signal.getsignal(number) not in (wanted, None):
            _signal.signal(number, wanted)
    if not blocked:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def become(user: tuple[int, int, tuple[int, ...], Mapping[str, str]] | None) -> None:
    """Become SVCINIT_USER. Raises PermissionError."""
    if user is None:
        return
    uid, gid, groups, _ = user
    if (os.getuid(), os.getgid()) == (uid, gid) and uid != 0:
        return  # nothing to change, and only root may call setgroups(2)
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)


def execute(argv: tuple[str, ...], env: Mapping[str, str]) -> int:
    """execvp(3) with the PATH of `env`. Returns only on failure: 127 if there is no such command, otherwise 126."""
    name = argv[0]
    if not name:
        log.error("exec_failed", "the command is empty")
        return NOT_FOUND
    found: OSError | None = None
    for folder in [""] if "/" in name else env.get("PATH", os.defpath).split(":"):
        path = os.path.join(folder or ".", name) if "/" not in name else name
        try:
            try:
                _execve(path, argv, env)
            except OSError as error:
                if error.errno != errno.ENOEXEC:  # a script without #!: execvp(3) runs it in the shell
                    raise
                _execve("/bin/sh", ("/bin/sh", path, *argv[1:]), env)
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.exists(path):
                found = error  # the file exists, but its interpreter does not
        except OSError as error:
            found = error
    if found is None:
        log.error("exec_failed", "{command}: command not found", command=name)
        return NOT_FOUND
    log.error("exec_failed", "{command}: cannot be executed: {error}", command=name, error=found.strerror)
    return NOT_EXECUTABLE


def _execve(path: str, argv: tuple[str, ...], env: Mapping[str, str]) -> None:
    """execve(2) with default dispositions and with the `odd` entries of `env`, which os.execve does not take."""
    odd = getattr(env, "odd", ())
    _dispose(_signal.SIG_DFL)
    try:
        if odd:
            try:
                from svcinit.processes.raw_exec import execve

                execve(path, argv, [*(f"{name}={value}" for name, value in env.items()), *odd])
            except (ImportError, AttributeError, TypeError):
                pass  # this Python cannot do it: a service without these entries is better than none
        os.execve(path, argv, env)
    finally:
        _dispose(_signal.SIG_IGN)  # execve(2) failed: our own code logs that


def _dispose(disposition: int) -> None:
    for number in IGNORED:
        _signal.signal(number, disposition)
