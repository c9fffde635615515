"""SVCINIT_USER can open the standard streams by name: nginx, php-fpm and apache open /dev/stdout and /dev/stderr.

Such an open(2) checks the owner of the pipe or the terminal, which is the user that the container started as. So that
the service may open them, they are given to SVCINIT_USER; runc does this for `docker run --user`
(libcontainer/init_linux.go, fixStdioPermissions), login(1) for a terminal.

All other files keep their owner: regular files, devices such as /dev/null and named pipes exist outside this container
too. A socket cannot be opened by name (unix(7)).
"""

from __future__ import annotations

import os
import stat


def give(uid: int) -> None:
    """Make `uid` the owner of our anonymous pipes and of our terminal. A refusal is ignored: without CAP_CHOWN, or if
    the owner is not known in this user namespace, the service can only use the descriptors."""
    for descriptor in range(3):
        try:
            status = os.fstat(descriptor)
            if status.st_uid == os.geteuid() != uid and (_is_pipe(status) or _is_terminal(descriptor, status)):
                os.fchown(descriptor, uid, -1)
        except OSError:
            continue


def _is_pipe(status: os.stat_result) -> bool:
    """An anonymous pipe: it is in the same file system as a new one. A named one is in another file system."""
    if not stat.S_ISFIFO(status.st_mode):
        return False
    ends = os.pipe()
    try:
        return os.fstat(ends[0]).st_dev == status.st_dev
    finally:
        for end in ends:
            os.close(end)


def _is_terminal(descriptor: int, status: os.stat_result) -> bool:
    """The terminal of the session that we lead, as in `docker run -t`. In a shell's session the terminal is the
    shell's."""
    if not stat.S_ISCHR(status.st_mode) or os.getsid(0) != os.getpid():
        return False
    os.tcgetpgrp(descriptor)  # raises OSError if this is not the controlling terminal
    return True
