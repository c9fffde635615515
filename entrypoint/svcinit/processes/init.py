"""The one place that forks, waits, signals and kills. Standard library only, one thread, no signal handlers.

Every signal was blocked before anything else happened (__main__.py) and is taken here, one at a time, by
sigtimedwait(2): none is lost and none interrupts. Whatever wakes `wait`, all that has died is reaped first; nobody
else ever calls wait(2), so no status can be lost to another waiter, and a child is registered before its status can
be looked at.
"""

from __future__ import annotations

import _signal  # not `signal`: its enums cost every container start 5 ms
import errno
import os
import sys
import time

from svcinit import log
from svcinit.errors import EX_CONFIG, EX_OK, EX_SOFTWARE
from svcinit.model import Deadline, Event, Exited, News, Role, Signalled, Stopped
from svcinit.processes.execution import OF_WRITES, become, execute, own_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from svcinit.settings.environment import Settings

PR_SET_CHILD_SUBREAPER = 36
NEWS = _signal.SIGRTMIN  # from presence: it has prepared a change; from anybody else it is a signal as any other
FETCHING = b"fetching"  # what stands in place of the verdict until prepare has what it needs
SI_KERNEL = 0x80  # sigaction(2)
TICK = 5.0  # seconds: a wait with a deadline is made of shorter ones, so that a pause of the container is noticed
LATE = 1.0  # a wait that lasts so much longer than it should was one: nothing ran


class Init:
    """The processes of one container, by role."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_pid1 = os.getpid() == 1
        self._roles: dict[int, str] = {}
        self._pids: dict[str, int] = {}  # until reaped: from then on the number may be another's
        self._alive: set[str] = set()  # until the death was told by `wait`
        self.orphans = 0  # how many were reaped
        self._paused = 0.0  # for how many seconds nothing ran
        self._events: list[Event] = []
        self._signals = _signal.valid_signals()
        self._folder = _leave_folder()
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # inherited as ignored, the kernel would reap for us
        if not self.is_pid1:
            _become_subreaper()
        self._unprotect: Callable[[], object] = int  # in each child, before all else

    def now(self) -> float:
        """Seconds on the monotonic clock, less those in which the whole container was paused (docker pause, SIGSTOP):
        what every deadline is measured on. Who could not run is not late."""
        return time.monotonic() - self._paused

    def alive(self, role: str) -> bool:
        """Does a child have this role, as far as `wait` has told?"""
        return role in self._alive

    def pid(self, role: str) -> int | None:
        return self._pids.get(role)

    def wait(self, until: float | None) -> Event:
        """The next event: deaths first, then the deadline `until` (monotonic seconds, None: never), then signals."""
        while True:
            self._reap()
            if self._events:
                event = self._events.pop(0)
                if isinstance(event, Exited):
                    self._alive.discard(event.role)
                return event
            left = 0.0 if until is None else until - self.now()
            if until is None:
                info: _signal.struct_siginfo | None = _signal.sigwaitinfo(self._signals)
            else:
                info, paused = take_signal(self._signals, min(left, TICK)) if left > 0 else (None, 0.0)
                self._paused += paused
            if info is None:
                if left > TICK:
                    continue
                return Deadline()
            if info.si_signo in OF_WRITES and info.si_pid == os.getpid():
                continue  # a write of ours failed: the kernel names the writer as the sender
            if info.si_signo == NEWS and info.si_pid == self._pids.get(Role.PRESENCE):
                return News()
            if info.si_signo != _signal.SIGCHLD:
                return Signalled(info.si_signo, info.si_signo == _signal.SIGHUP and info.si_code == SI_KERNEL)

    def _reap(self) -> None:
        orphans = self.orphans
        while (child := _dead_or_stopped()) is not None:
            role = self._roles.get(child.si_pid, Role.ORPHAN)
            if child.si_code == os.CLD_STOPPED:
                self._events.append(Stopped(role, child.si_status))
                continue
            self._roles.pop(child.si_pid, None)
            if self._pids.get(role) == child.si_pid:
                del self._pids[role]
            if role == Role.ORPHAN:
                self.orphans += 1
                continue
            code = child.si_status if child.si_code == os.CLD_EXITED else 128 + child.si_status
            self._events.append(Exited(role, code))
        if self.orphans > orphans:  # one event for all: a fork storm is not to be thousands of them
            self._events.append(Exited(Role.ORPHAN, EX_OK))

    def fork(self, role: str, body: Callable[[], int]) -> None:
        """Start a child, leader of its own process group, that runs `body` and exits with what it returns.

        It has the signals of `own_signals`. Nothing is blocked, but for presence: that takes its signals as init does.
        """
        group = os.getpgrp()
        try:
            pid = os.fork()
        except OSError as error:  # the container's limit of processes or memory
            if role == Role.MAIN:
                raise
            self.not_started(role, error)
            return
        if pid == 0:
            code = EX_SOFTWARE
            try:
                log.context(role=role)
                self._unprotect()
                os.setpgid(0, 0)
                _return_to(self._folder)
                if role == Role.MAIN:
                    _pass_terminal(group, os.getpid())
                own_signals(blocked=role == Role.PRESENCE)
                sys.stderr = None  # what a library says there would wait for its reader; log.py does not use it
                code = body()
            except Exception as error:
                log.internal(role, error)
            finally:
                os._exit(code)
        former = self._pids.get(role)
        if former is not None:  # given up, and even KILL did not end it yet
            self._roles[former] = Role.ORPHAN
        self._roles[pid], self._pids[role] = role, pid
        self._alive.add(role)
        try:
            os.setpgid(pid, pid)  # here too: whoever comes first, the group exists when `kill` needs it
        except OSError:
            pass

    def not_started(self, role: str, error: Exception) -> None:
        """What the child needs could not be had: it counts as one that died at once."""
        tell_not_started(role, error)
        self._alive.add(role)
        self._events.append(Exited(role, EX_SOFTWARE))

    def exec(self, role: str, argv: tuple[str, ...], env: Mapping[str, str]) -> None:
        """Start a child that becomes the program `argv`, as SVCINIT_USER."""

        self.fork_as_user(role, lambda: execute(argv, env))

    def fork_as_user(self, role: str, body: Callable[[], int]) -> None:
        """As `fork`, with `body` run as SVCINIT_USER."""

        def run() -> int:
            try:
                become(self.settings.user)
            except PermissionError:
                log.error(
                    "not_executed",
                    "SVCINIT_USER: not permitted to become that user: the container lacks CAP_SETUID or CAP_SETGID",
                    variable="SVCINIT_USER",
                )
                return EX_CONFIG
            return body()

        self.fork(role, run)

    def signal(self, role: str, number: int, *, group: bool = False) -> None:
        """Send a signal to the child of `role`, or to its whole process group; no such child: nothing happens."""
        pid = self._pids.get(role)
        if pid is None:
            return
        try:
            os.kill(-pid if group else pid, number)
        except OSError as error:
            if error.errno == errno.EAGAIN:  # the queue of real-time signals is full: all is tried again
                raise
            log.warning("signal_failed", "signal {signal} to {child} failed: {error} pid={child_pid}",
                        signal=number, child=role, error=error.strerror, child_pid=pid)  # fmt: skip

    def kill(self, role: str) -> None:
        """KILL the child of `role` and all of its process group."""
        self.signal(role, _signal.SIGKILL, group=True)

    def suspend(self) -> None:
        """Stop as a job under a shell does, with the terminal back in the shell's reach, until somebody sends CONT.

        PID 1 goes on: the kernel does not let it stop, and nobody there could wake it.
        """
        if not self.is_pid1:
            _pass_terminal(self._pids.get(Role.MAIN), os.getpgrp())
            os.kill(os.getpid(), _signal.SIGSTOP)

    def resume(self) -> None:
        """CONT to main and its group, which get the terminal back if it was given to us."""
        main = self._pids.get(Role.MAIN)
        if main is not None:
            _pass_terminal(os.getpgrp(), main)
            self.signal(Role.MAIN, _signal.SIGCONT, group=True)

    def strays(self) -> int:
        """The number of processes that the service left: our children without a role, and their descendants.

        The descendants of a child with a role belong to that child: presence, for example, has a worker and probes.
        """
        return len(descendants(os.getpid(), without=self._roles))

    def sweep(self, number: int, *, exec_sessions: bool) -> None:
        """Send a signal to all processes that descend from us. `exec_sessions`: if we are PID 1, also to the processes
        that `docker exec` started."""
        # Outside a PID namespace of our own kill(-1) would reach processes far beyond us.
        for pid in [-1] if exec_sessions and self.is_pid1 else descendants(os.getpid()):
            try:
                os.kill(pid, number)
            except OSError:  # gone already
                continue

    def no_children(self) -> bool:
        """Is there no child left, dead or alive?"""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False


def take_signal(signals: Collection[int], seconds: float) -> tuple[_signal.struct_siginfo | None, float]:
    """sigtimedwait(2), and for how many seconds the process was paused meanwhile: it woke up so much too late."""
    until = time.monotonic() + seconds
    taken = _signal.sigtimedwait(signals, seconds)
    late = time.monotonic() - until
    return taken, late if late > LATE else 0.0


def tell_not_started(role: str, error: Exception) -> None:
    why = error.strerror if isinstance(error, OSError) else type(error).__name__
    log.error("not_started", "{child} cannot be started: {error}", child=role, error=why)


def _dead_or_stopped() -> os.waitid_result | None:
    """The next child to reap, or to know suspended; None: there is none now."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG)
    except ChildProcessError:
        return None


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


def _become_subreaper() -> None:
    """Have orphans below us reparent to us (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    if not prctl(PR_SET_CHILD_SUBREAPER, 1):
        log.warning("no_subreaper", "not PID 1 and cannot become a subreaper: orphans will not be reaped here")


def prctl(option: int, value: int) -> bool:
    """prctl(2); False where it fails. By way of the C module under `ctypes`, whose own import costs 3 ms."""
    try:
        import _ctypes

        libc = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
        function = _ctypes.dlsym(libc, "prctl")
        return bool(_ctypes.call_function(function, (option, value, 0, 0, 0)) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _pass_terminal(owner: int | None, heir: int) -> None:
    """Make process group `heir` the terminal's foreground one, if `owner` was: else the terminal is another's."""
    try:
        if os.tcgetpgrp(0) == owner:
            os.tcsetpgrp(0, heir)
    except OSError:  # no terminal
        pass


def _leave_folder() -> str | None:
    """Move to /, so that a PID 1 pins no mount; the working directory that children return to."""
    try:
        folder = os.getcwd()
    except OSError:  # it is gone: there is nothing to return to
        folder = None
    try:
        os.chdir("/")
    except OSError:  # then it stays
        pass
    return folder


def _return_to(folder: str | None) -> None:
    if folder is None:
        return
    try:
        os.chdir(folder)
    except OSError as error:
        log.warning("no_folder", "the working directory {file} cannot be entered any more: {error}; staying in /",
                    file=folder, error=error.strerror)  # fmt: skip


def refill(descriptor: int, data: bytes) -> None:
    """Give a memfd another content."""
    os.ftruncate(descriptor, 0)
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], done)


def content(descriptor: int, limit: int = 1 << 40) -> bytes:
    """All that a memfd holds, `limit` bytes at most."""
    return os.pread(descriptor, min(os.fstat(descriptor).st_size, limit), 0)


def filled(descriptor: int) -> bool:
    """Does a memfd (or -1 for none) hold something?"""
    return descriptor >= 0 and os.fstat(descriptor).st_size > 0


def memfd(name: str) -> int:
    """An anonymous file that forked children share and programs do not (memfd_create(2))."""
    return os.memfd_create(f"svcinit-{name}", os.MFD_CLOEXEC)
