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


class Clock:
    """A monotonic clock that stands still while the container is paused (docker pause, SIGSTOP): a process that could
    not run is not late.

    Two things show a pause: a wait that ends more than PAUSED seconds too late, and more than `work` + PAUSED seconds
    between two calls of `now` or `take`. `work`: for how many seconds, at most, the process works between two calls.
    """

    def __init__(self, work: float = 0.0, monotonic: Callable[[], float] | None = None) -> None:
        self._work, self._monotonic = work, monotonic or (lambda: time.monotonic())
        self._paused = 0.0  # seconds
        self._seen = self._monotonic()

    def now(self) -> float:
        """Seconds."""
        seen = self._monotonic()
        self._paused += max(0.0, seen - self._seen - self._work - PAUSED)
        self._seen = seen
        return seen - self._paused

    def take(self, signals: Collection[int], seconds: float | None) -> _signal.struct_siginfo | None:
        """The next of the signals (sigtimedwait(2)); None: there was none within `seconds`."""
        until = self.now() + (seconds or 0.0)
        taken = self.wait(signals, seconds)
        self._seen = self._monotonic()
        late = self._seen - self._paused - until
        if seconds is not None and late > PAUSED:
            self._paused += late
        return taken

    def wait(self, signals: Collection[int], seconds: float | None) -> _signal.struct_siginfo | None:
        """The wait itself."""
        return _signal.sigwaitinfo(signals) if seconds is None else _signal.sigtimedwait(signals, seconds)
