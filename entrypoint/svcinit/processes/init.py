"""The children of PID 1 by role: the only code that waits for them, signals them and kills them. Standard library only,
one thread, no signal handlers.

__main__.py blocked all signals before anything else. `wait` takes them one at a time with sigtimedwait(2), so none is
lost and none interrupts a transition. Each wake-up first reaps all children that ended. No other code of init calls
wait(2), so no other waiter can take a status; and a child is registered before its status is read.
"""

from __future__ import annotations

import _signal  # not `signal`: its enums cost every container start 5 ms
import posix  # not `os`: its import costs every container start 1 ms
import sys

from svcinit import log
from svcinit.errors import EX_CONFIG, EX_OK, EX_SOFTWARE
from svcinit.model import NEWS, Deadline, Event, Exited, News, NotStarted, Role, Signalled, Stopped
from svcinit.processes.child import (
    OF_WRITES,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    Clock,
    become,
    descendants,
    enter,
    execute,
    fork,
    prctl,
    proc_is_ours,
    send,
    untrace,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import ParamSpec

    Given = ParamSpec("Given")

    from svcinit.settings.environment import Settings

SI_KERNEL = 0x80  # sigaction(2): the kernel sent the signal
OF_TERMINAL = _signal.SIGTTIN, _signal.SIGTTOU  # for a process outside the foreground group that uses the terminal
REAPS = "reaps"  # option -X of the interpreter: the launcher has made this process a subreaper
TICK = 5.0  # seconds: a longer wait is split into waits of this length, so that a pause of the container is noticed


class Init:
    """The processes of one container, by role."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_pid1 = posix.getpid() == 1
        self._roles: dict[int, str] = {}
        self._pids: dict[str, int] = {}  # until the child is reaped: then the kernel may use the number again
        self._alive: set[str] = set()  # until `wait` has returned the end of the child
        self.orphans = 0  # the number of orphans that were reaped
        self._clock = Clock()
        self._events: list[Event] = []
        self._group = self._own_group = 0  # the process groups of the last service and, when that was started, of init
        self._exec, self._executed = -1, True  # a pipe, until it is known whether the service was executed
        self._signals = _signal.valid_signals()
        self._folder = _leave_folder()
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # if it stayed ignored, the kernel would reap
        # Ctrl-C at the terminal of a service goes to svcinit: it starts a stop, as TERM does.
        self._has_foreground = settings.plain or settings.foreground
        if not self.is_pid1 and REAPS not in sys._xoptions:
            _become_subreaper()
        if settings.pdeathsig is not None:
            _end_with_parent(settings.pdeathsig)
        if settings.user is not None:
            from svcinit.processes import standard_streams

            standard_streams.give(settings.user[0])
        self._unprotect: Callable[[], object] = int  # each child calls this first

    def now(self) -> float:
        """Seconds on the clock of the container, which all deadlines use."""
        return self._clock.now()

    def alive(self, role: str) -> bool:
        """Does a child have this role? True until `wait` has returned its end."""
        return role in self._alive

    def pid(self, role: str) -> int | None:
        return self._pids.get(role)

    def wait(self, until: float | None) -> Event:
        """The next event: first the ends of children, then the deadline, then signals. `until`: the deadline in seconds
        of `now`; None: there is no deadline."""
        while True:
            self._reap()
            if self._events:
                event = self._events.pop(0)
                if isinstance(event, Exited):
                    self._alive.discard(event.role)
                return event
            left = 0.0 if until is None else until - self.now()
            info = None
            if until is None or left > 0:
                info = self._clock.take(self._signals, None if until is None else min(left, TICK))
            if info is None:
                if left > TICK:
                    continue
                return Deadline()
            if _is_about_us(info):
                continue
            if info.si_signo == NEWS and self._is_of_presence(info):
                return News()
            if info.si_signo != _signal.SIGCHLD:
                return Signalled(info.si_signo, info.si_signo == _signal.SIGHUP and info.si_code == SI_KERNEL)

    def _is_of_presence(self, info: _signal.struct_siginfo) -> bool:
        """The kernel drops the sender of a signal if the user has too many pending ones (RLIMIT_SIGPENDING)."""
        presence = self._pids.get(Role.PRESENCE)
        return presence is not None and (info.si_pid == presence or (info.si_pid == 0 and self.has_news()))

    def has_news(self) -> bool:
        """Has presence prepared a change?"""
        return False

    def _reap(self) -> None:
        orphans = self.orphans
        while (child := _dead_or_stopped()) is not None:
            role = self._roles.get(child.si_pid, Role.ORPHAN)
            if child.si_code == posix.CLD_TRAPPED:
                untrace(child.si_pid, child.si_status)
                continue
            if child.si_code == posix.CLD_STOPPED:
                self._events.append(Stopped(role, child.si_status))
                continue
            self._roles.pop(child.si_pid, None)
            if self._pids.get(role) == child.si_pid:
                del self._pids[role]
            if role == Role.MAIN and self._has_foreground:
                _pass_terminal((child.si_pid,), self._own_group)  # for our parent
            if role == Role.ORPHAN:
                self.orphans += 1
                continue
            code = child.si_status if child.si_code == posix.CLD_EXITED else 128 + child.si_status
            self._events.append(Exited(role, code))
        if self.orphans > orphans:  # one event for all: thousands of orphans must not become thousands of events
            self._events.append(Exited(Role.ORPHAN, EX_OK))

    def fork(self, role: str, body: Callable[[], int]) -> None:
        """Start a child that runs `body` (see child.fork). Raises OSError for the service; any other child that cannot
        be started counts as one that failed at once.

        No signal is blocked in the child, except in presence, which takes its signals as init does.
        """
        group = posix.getpgrp()

        def run() -> int:
            log.context(role=role)
            self._unprotect()
            enter(self._folder, is_last=self.settings.user is None)
            if role == Role.MAIN and self._has_foreground:
                _pass_terminal((group, self._group), posix.getpid())
            sys.stderr = None  # a library that writes there could block; log.py does not use it
            return body()

        try:
            pid = fork(run, role, blocked=role == Role.PRESENCE)
        except OSError as error:  # the container's limit of processes or memory
            if role == Role.MAIN:
                raise
            self.not_started(role, error)
            return
        former = self._pids.get(role)
        if former is not None:  # even KILL has not ended it yet: nothing waits for it any more
            self._roles[former] = Role.ORPHAN
        self._roles[pid], self._pids[role] = role, pid
        if role == Role.MAIN:
            self._group, self._own_group = pid, group
        self._alive.add(role)

    def fork_noted(self, run: Callable[[], int]) -> None:
        """Fork the service. Raises OSError. execve(2) closes the pipe; a child that fails writes to it before."""
        self._close_exec()
        self._exec, failed = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)

        def noted() -> int:
            try:
                return run()
            finally:
                posix.write(failed, b"f")

        try:
            self.fork(Role.MAIN, noted)
        finally:
            posix.close(failed)

    def executed(self) -> bool | None:
        """Was the program of the service executed? None: that is not known yet."""
        if self._exec >= 0:
            try:
                self._executed = posix.read(self._exec, 1) == b""
            except BlockingIOError:
                return None
            except OSError:
                self._executed = True
            self._close_exec()
        return self._executed

    def _close_exec(self) -> None:
        if self._exec >= 0:
            posix.close(self._exec)
        self._exec = -1

    def not_started(self, role: str, error: Exception) -> None:
        """Something that the child needs is missing: it counts as one that failed at once."""
        log_not_started(role, error)
        self._alive.add(role)
        self._events.append(NotStarted(role, EX_SOFTWARE))

    def exec(self, role: str, argv: tuple[str, ...], env: Mapping[str, str]) -> None:
        """Start a child that executes the program `argv` as SVCINIT_USER."""
        self.fork_as_user(role, lambda: execute(argv, env))

    def fork_as_user(self, role: str, body: Callable[[], int]) -> None:
        """As `fork`; `body` runs as SVCINIT_USER."""
        self.fork(role, self.as_user(body))

    def as_user(self, body: Callable[[], int]) -> Callable[[], int]:
        """`body`, preceded by the change to SVCINIT_USER."""

        def run() -> int:
            try:
                become(self.settings.user)
            except OSError as error:
                log.error("exec_failed", "{variable}: cannot become this user: {error}; that needs CAP_SETUID and "
                          "CAP_SETGID, and a user namespace that has these IDs",
                          variable="SVCINIT_USER", error=error.strerror)  # fmt: skip
                return EX_CONFIG
            return body()

        return run

    def signal(self, role: str, number: int, *, group: bool = False) -> None:
        """Send a signal to the child of `role`, or to its whole process group. Without such a child nothing happens."""
        pid = self._pids.get(role)
        if pid is None:
            return
        if group and _has_moved(pid):
            send(-pid, number)
            group = False
        try:
            posix.kill(-pid if group else pid, number)
        except BlockingIOError:  # EAGAIN: the queue of real-time signals is full: the transition is tried again
            raise
        except OSError as error:
            log.warning("signal_failed", "signal {signal} to {child} failed: {error} pid={child_pid}",
                        signal=number, child=role, error=error.strerror, child_pid=pid)  # fmt: skip

    def kill(self, role: str) -> None:
        """Send KILL to the child of `role` and to its process group."""
        self.signal(role, _signal.SIGKILL, group=True)

    def suspend(self, number: int) -> None:
        """The service was suspended by signal `number`. If we are a job of a shell, stop until a CONT arrives, and let
        the shell take the terminal back. Otherwise nobody would continue us.

        A CONT that came meanwhile is obeyed: a stop would discard it (signal(7)), and nothing would send another one.
        """
        if number in OF_TERMINAL and not self._has_foreground:
            log.warning("suspended", "signal {signal} suspended the service: it uses the terminal; set {variable}=1",
                        signal=number, variable="SVCINIT_FOREGROUND")  # fmt: skip
        from svcinit.processes import dispositions

        if self.is_pid1 or not dispositions.is_job():
            return
        _pass_terminal((self._pids.get(Role.MAIN),), posix.getpgrp())
        if _signal.SIGCONT not in _signal.sigpending():
            posix.kill(posix.getpid(), _signal.SIGSTOP)

    def resume(self) -> None:
        """Send CONT to the service and its group. They get the terminal back if the shell gave it to us."""
        main = self._pids.get(Role.MAIN)
        if main is not None:
            if self._has_foreground:
                _pass_terminal((posix.getpgrp(),), main)
            self.signal(Role.MAIN, _signal.SIGCONT, group=True)

    def strays(self) -> int:
        """The number of processes that the service left: our children without a role, and their descendants.

        The descendants of a child with a role belong to that child: presence, for example, has a worker and probes.
        """
        return len(descendants(posix.getpid(), without=self._roles))

    def sweep(self, number: int, *, exec_sessions: bool) -> None:
        """Send a signal to all processes that descend from us. `exec_sessions`: if we are PID 1, also to the processes
        that `docker exec` started. Without a /proc of ours, PID 1 cannot spare them, and another process can find only
        the process group of the service."""
        # Outside a PID namespace of our own kill(-1) would reach processes far beyond us.
        if self.is_pid1 and exec_sessions:
            found = [-1]
        elif proc_is_ours():
            found = descendants(posix.getpid())
        else:
            found = [-1] if self.is_pid1 else [-self._group] * bool(self._group)
        for pid in found:
            try:
                posix.kill(pid, number)
            except OSError:  # the process is gone
                continue

    def no_children(self) -> bool:
        """Is no child left, neither running nor waiting to be reaped?"""
        try:
            posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
        except ChildProcessError:
            return True
        return False


def or_failed(role: str) -> Callable[[Callable[Given, None]], Callable[Given, None]]:
    """For a method that starts a child: if something that the child needs is missing, it counts as one that failed."""

    def decorate(start: Callable[Given, None]) -> Callable[Given, None]:
        def run(*given: Given.args, **named: Given.kwargs) -> None:
            try:
                start(*given, **named)
            except (OSError, ImportError, MemoryError) as error:
                init = given[0]
                assert isinstance(init, Init)
                init.not_started(role, error)

        return run

    return decorate


def log_not_started(role: str, error: Exception) -> None:
    why = error.strerror if isinstance(error, OSError) else type(error).__name__
    log.error("fork_failed", "{child} cannot be started: {error}", child=role, error=why)


def _is_about_us(info: _signal.struct_siginfo) -> bool:
    """A write of ours failed: the kernel gives the writer as the sender. Or it is our own limit of CPU time."""
    if info.si_signo == _signal.SIGXCPU:
        return info.si_code == SI_KERNEL
    return info.si_signo in OF_WRITES and info.si_pid == posix.getpid()


def _dead_or_stopped() -> posix.waitid_result | None:
    """Reap the next child that ended, or return one that was suspended; None: there is no such child now."""
    try:
        return posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WSTOPPED | posix.WNOHANG)
    except ChildProcessError:
        return None


def _become_subreaper() -> None:
    """Become the parent of all orphans that descend from us (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    if not prctl(PR_SET_CHILD_SUBREAPER, 1):
        log.warning("subreaper_failed", "not PID 1 and cannot become a subreaper: orphans will not be reaped here")


def _end_with_parent(number: int) -> None:
    """Have the kernel send us signal `number` when our parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    parent = posix.getppid()
    if not prctl(PR_SET_PDEATHSIG, number):
        log.warning("pdeathsig_failed", "{variable} has no effect: prctl(2) failed", variable="SVCINIT_PDEATHSIG")
    elif posix.getppid() != parent:  # the parent ended before the call
        posix.kill(posix.getpid(), number)


def _has_moved(pid: int) -> bool:
    """Has a child left its own process group?"""
    try:
        return posix.getpgid(pid) != pid
    except OSError:
        return False


def _pass_terminal(owners: tuple[int | None, ...], heir: int) -> None:
    """Make process group `heir` the foreground group of the terminal, if one of `owners` is that now."""
    try:
        if posix.tcgetpgrp(0) in owners:
            posix.tcsetpgrp(0, heir)
    except OSError:  # no terminal
        pass


def _leave_folder() -> str | None:
    """Change to /, so that PID 1 keeps no mount busy. Returns the working directory, to which children return."""
    try:
        folder = posix.getcwd()
    except OSError:  # it was removed
        folder = None
    try:
        posix.chdir("/")
    except OSError:  # init stays where it is
        pass
    return folder
