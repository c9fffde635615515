"""kill -9 at each act on a file, and at each system call."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate"}


def killed_at(count: int, run: Callable[[], object]) -> bool:
    """Run in a child that is killed at its count-th act on a file; False if it ended before."""
    child = os.fork()
    if child == 0:
        left = count

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in EVENTS and not (event == "open" and int(str(arguments[2])) & os.O_PATH):  # that changes nothing
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            run()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


TRACEME, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E  # ptrace(2)
OPTIONS = 0x100000 | 1  # EXITKILL, TRACESYSGOOD
ENTRY = 1
# what changes nothing that others see: read, pread64, close, fstat, newfstatat, lseek, fcntl, getdents64, readlinkat,
# mmap, munmap, brk, geteuid, and openat without O_CREAT
OPENAT, SILENT = {
    "x86_64": (257, {0, 17, 3, 5, 262, 8, 72, 217, 267, 9, 11, 12, 107}),
    "aarch64": (56, {63, 67, 57, 80, 79, 62, 25, 61, 78, 222, 215, 214, 175}),
}[platform.machine()]
_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p


def armed() -> None:
    """From here on system calls count."""
    _ptrace(TRACEME, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)


def killed_at_call(count: int, run: Callable[[], object]) -> int | None:
    """Run in a child that is killed just before its count-th system call: None; its exit status if it ended before.

    Those that change nothing do not count. What `run` returns is the exit status. It calls `armed`.
    """
    child = os.fork()
    if child == 0:
        code = 255
        try:
            code = int(run() or 0)  # type: ignore[call-overload]
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSTOPPED(status)
    _ptrace(SETOPTIONS, child, None, OPTIONS)
    while count:
        _ptrace(SYSCALL, child, None, None)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
        count -= _changes_something(child)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _changes_something(child: int) -> bool:
    """Does it stand before such a system call?"""
    info = ctypes.create_string_buffer(88)
    _ptrace(GET_SYSCALL_INFO, child, len(info), info)
    number, _, _, flags = struct.unpack_from("4Q", info, 24)
    return info.raw[0] == ENTRY and number not in SILENT and not (number == OPENAT and not flags & os.O_CREAT)
