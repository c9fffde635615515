"""Child processes: how one is forked, becomes a program, is found, signalled and killed. Init and the network half use
the same recipe.

A child leads its own process group, has the signal dispositions of `own_signals`, runs its body, and exits with the
status that the body returns. It never returns into the code of its parent.

A write without a reader raises SIGPIPE, a write beyond the limit of file sizes SIGXFSZ, and a write to a terminal with
`stty tostop` SIGTTOU. Each of them would end or stop a child because of a line of its log. Therefore a child ignores
them until just before execve(2).
"""

from __future__ import annotations

import _signal
import posix  # not `os`: its import costs every container start 1 ms
import time

from svcinit import log
from svcinit.errors import EX_SOFTWARE, NOT_EXECUTABLE, NOT_FOUND, SvcinitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from svcinit.names import User

OF_WRITES = _signal.SIGPIPE, _signal.SIGXFSZ  # the kernel sends them to the writer, in addition to the error
IGNORED = *OF_WRITES, _signal.SIGTTOU
DEFAULT_PATH = "/bin:/usr/bin"  # where execvp(3) looks without a PATH
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36  # prctl(2)
# errno(3), the same on each architecture; the import of `errno` costs every container start 0.05 ms
ENOEXEC = 8
NO_ROOM = 11, 12  # EAGAIN: the user's limit of processes (RLIMIT_NPROC); ENOMEM
ROOM_TIMEOUT, ROOM_PAUSE = 3.0, 0.1  # seconds in which execve(2) is tried again without room; between two tries
PTRACE_DETACH = 17  # ptrace(2)
_missed: str | None = None  # the working directory that this process could not enter yet
PAUSED = 1.0  # seconds: a wait that lasts so much longer than requested means that the process was paused


def fork(body: Callable[[], int], name: str = "child", *, blocked: bool = False) -> int:
    """Start a process that runs `body`; return its process ID. Raises OSError.

    `name`: what the log calls the process if `body` fails. `blocked`: all signals stay blocked, as they are in init.
    """
    pid = posix.fork()
    if pid == 0:
        code = EX_SOFTWARE
        try:
            posix.setpgid(0, 0)
            own_signals(blocked=blocked)
            code = body()
        except SvcinitError as error:
            log.faults(error)
            code = error.code
        except Exception as error:
            log.internal(name, error)
        finally:
            posix._exit(code)
    try:
        posix.setpgid(pid, pid)  # in both processes, so that the group exists when the parent signals it
    except OSError:  # the child has ended or has called execve(2) already
        pass
    return pid


def own_signals(*, blocked: bool) -> None:
    """Set default dispositions, except for IGNORED, and an empty mask unless `blocked`."""
    for number in _signal.valid_signals():
        wanted = _signal.SIG_IGN if number in IGNORED else _signal.SIG_DFL
        if _signal.getsignal(number) not in (wanted, None):
            _signal.signal(number, wanted)
    if not blocked:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def enter(folder: str | None, *, is_last: bool = True) -> None:
    """Change to the working directory. `is_last`: False if `become` is to try it again: perhaps only SVCINIT_USER may
    enter it."""
    global _missed
    _missed = None
    if folder is None:
        return
    try:
        posix.chdir(folder)
    except OSError as error:
        if not is_last:
            _missed = folder
            return
        log.warning("run_dir_failed", "cannot change to the working directory {file}: {error}; using / instead",
                    file=folder, error=error.strerror)  # fmt: skip


def become(user: User | None) -> None:
    """Become SVCINIT_USER. Raises OSError."""
    if user is None:
        return
    uid, gid, groups, _ = user
    if (posix.getuid(), posix.getgid()) != (uid, gid) or uid == 0:  # only root may call setgroups(2)
        posix.setgroups(groups)
        posix.setgid(gid)
        posix.setuid(uid)
    enter(_missed)


def execute(argv: tuple[str, ...], env: Mapping[str, str]) -> int:
    """execvp(3) with the PATH of `env`. Returns only on failure: 127 if there is no such command, 70 if there is no
    room for it within ROOM_TIMEOUT, otherwise 126."""
    name = argv[0]
    if not name:
        log.error("exec_failed", "the command is empty")
        return NOT_FOUND
    until = time.monotonic() + ROOM_TIMEOUT
    while (found := _execvp(name, argv, env)) is not None and found.errno in NO_ROOM and time.monotonic() < until:
        time.sleep(ROOM_PAUSE)
    if found is None:
        log.error("exec_failed", "{command}: command not found", command=name)
        return NOT_FOUND
    log.error("exec_failed", "{command}: cannot be executed: {error}", command=name, error=found.strerror)
    return EX_SOFTWARE if found.errno in NO_ROOM else NOT_EXECUTABLE


def _execvp(name: str, argv: tuple[str, ...], env: Mapping[str, str]) -> OSError | None:
    """The error of the file that was found; None: there is none."""
    found: OSError | None = None
    for folder in [""] if "/" in name else env.get("PATH", DEFAULT_PATH).split(":"):
        path = f"{folder or '.'}/{name}" if "/" not in name else name
        try:
            try:
                _execve(path, argv, env)
            except OSError as error:
                if error.errno != ENOEXEC:  # a script without #!: execvp(3) runs it in the shell
                    raise
                _execve("/bin/sh", ("/bin/sh", path, *argv[1:]), env)
        except (FileNotFoundError, NotADirectoryError) as error:
            if _exists(path):
                found = error  # the file exists, but its interpreter does not
        except OSError as error:
            found = error
    return found


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def shell_status(code: int) -> int:
    """The exit status of a child as a shell has it: 128+N where `code` is minus the number of a signal."""
    return code if code >= 0 else 128 - code


def _execve(path: str, argv: tuple[str, ...], env: Mapping[str, str]) -> None:
    """execve(2) with default dispositions and with the `odd` entries of `env`, which posix.execve does not take."""
    odd = getattr(env, "odd", ())
    _dispose(_signal.SIG_DFL)
    try:
        if odd:
            try:
                from svcinit.processes.raw_exec import execve

                execve(path, argv, [*(f"{name}={value}" for name, value in env.items()), *odd])
            except (ImportError, AttributeError, TypeError):
                pass  # this Python cannot do it: a service without these entries is better than none
        posix.execve(path, argv, env)
    finally:
        _dispose(_signal.SIG_IGN)  # execve(2) failed: our own code logs that


def _dispose(disposition: int) -> None:
    for number in IGNORED:
        _signal.signal(number, disposition)


def kill(pid: int) -> None:
    """Send KILL to a child, to its process group, and to all its descendants."""
    for target in (-pid, *descendants(pid), pid):
        send(target, _signal.SIGKILL)


def send(pid: int, number: int) -> None:
    """kill(2); a process that is gone or belongs to another user is ignored."""
    try:
        posix.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def descendants(pid: int, without: Collection[int] = ()) -> list[int]:
    """The children of process `pid`, their children and so on, parents first (proc(5), /proc/pid/task/tid/children).

    `without`: these processes are left out, and their descendants too. Empty if /proc is not that of our processes.
    """
    found = [pid] if proc_is_ours() else []
    for each in found:  # the list grows during the loop
        try:
            for thread in posix.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{thread}/children") as file:
                    found += [child for child in map(int, file.read().split()) if child not in without]
        except OSError:  # the process ended meanwhile
            continue
    return found[1:]


def proc_is_ours() -> bool:
    """Does /proc show the process IDs of our own PID namespace?"""
    try:
        return posix.readlink("/proc/self") == str(posix.getpid())
    except OSError:
        return False


def prctl(option: int, value: int) -> bool:
    """prctl(2); False if it fails."""
    return _libc("prctl", option, value, 0, 0, 0)


def untrace(pid: int, number: int) -> bool:
    """A child that called ptrace(2) with PTRACE_TRACEME stops at each signal, until its parent lets it go on. Nobody
    debugs it here: give it the signal, and end the tracing. The stop after its execve(2) is SIGTRAP: no signal. False
    if that fails."""
    return _libc("ptrace", PTRACE_DETACH, pid, 0, 0 if number == _signal.SIGTRAP else number)


def _libc(name: str, *numbers: int) -> bool:
    """Call a function; False if it fails. Through the C module under `ctypes`: the import of ctypes costs 3 ms."""
    try:
        import _ctypes

        libc = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
        return bool(_ctypes.call_function(_ctypes.dlsym(libc, name), numbers) == 0)
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
