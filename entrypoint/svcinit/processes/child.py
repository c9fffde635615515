"""Child processes: how one is forked, found, signalled and killed. Init and the network half use the same recipe.

A child leads its own process group, has the signal dispositions of `own_signals`, runs its body, and exits with the
status that the body returns. It never returns into the code of its parent.
"""

from __future__ import annotations

import _signal
import os
import time

from svcinit import log
from svcinit.errors import EX_SOFTWARE, SvcinitError
from svcinit.processes.execution import own_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36  # prctl(2)
PAUSED = 1.0  # seconds: a wait that lasts so much longer than requested means that the process was paused


def fork(body: Callable[[], int], name: str = "child", *, blocked: bool = False) -> int:
    """Start a process that runs `body`; return its process ID. Raises OSError.

    `name`: what the log calls the process if `body` fails. `blocked`: all signals stay blocked, as they are in init.
    """
    pid = os.fork()
    if pid == 0:
        code = EX_SOFTWARE
        try:
            os.setpgid(0, 0)
            own_signals(blocked=blocked)
            code = body()
        except SvcinitError as error:
            log.faults(error)
            code = error.code
        except Exception as error:
            log.internal(name, error)
        finally:
            os._exit(code)
    try:
        os.setpgid(pid, pid)  # in both processes, so that the group exists when the parent signals it
    except OSError:  # the child has ended or has called execve(2) already
        pass
    return pid


def kill(pid: int) -> None:
    """Send KILL to a child, to its process group, and to all its descendants."""
    for target in (-pid, *descendants(pid), pid):
        send(target, _signal.SIGKILL)


def send(pid: int, number: int) -> None:
    """kill(2); a process that is gone or belongs to another user is ignored."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def descendants(pid: int, without: Collection[int] = ()) -> list[int]:
    """The children of process `pid`, their children and so on, parents first (proc(5), /proc/pid/task/tid/children).

    `without`: these processes are left out, and their descendants too.
    """
    found = [pid]
    for each in found:  # the list grows during the loop
        try:
            for thread in os.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{thread}/children") as file:
                    found += [child for child in map(int, file.read().split()) if child not in without]
        except OSError:  # the process ended meanwhile
            continue
    return found[1:]


def prctl(option: int, value: int) -> bool:
    """prctl(2); False if it fails. Called through the C module under `ctypes`: the import of ctypes costs 3 ms."""
    try:
        import _ctypes

        libc = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
        function = _ctypes.dlsym(libc, "prctl")
        return bool(_ctypes.call_function(function, (option, value, 0, 0, 0)) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def take_signal(signals: Collection[int], seconds: float) -> tuple[_signal.struct_siginfo | None, float]:
    """sigtimedwait(2): the signal, or None. Also for how many seconds the process was paused during the wait (docker
    pause, SIGSTOP): by so much the wait ended too late."""
    until = time.monotonic() + seconds
    taken = _signal.sigtimedwait(signals, seconds)
    late = time.monotonic() - until
    return taken, late if late > PAUSED else 0.0
