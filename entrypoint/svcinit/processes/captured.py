"""A child whose output is read: a forked function, or a command. Probes, checks and the commands of a reload use it.

    child = Child(command(("nginx", "-t"), env), seconds=10.0)
    child.wait()
    child.code, child.output

The output comes through a pipe, and only its end stays in memory. A command has a warden: a process between the
command and us. The warden adopts all processes that the command leaves (prctl(2), PR_SET_CHILD_SUBREAPER). It kills
them when the command ends, at the deadline, or when we end, and only then exits with the status of the command.
With `may_leave`, the processes that the command has left when it ends are not killed.
"""

from __future__ import annotations

import _signal
import os
import select
import time

from svcinit import log
from svcinit.errors import EX_SOFTWARE, EX_TEMPFAIL
from svcinit.processes.child import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    become,
    descendants,
    execute,
    fork,
    kill,
    prctl,
    send,
    untrace,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.names import User

KEPT = 16 << 10  # bytes: the end of the output that stays in memory
CHUNK = 1 << 16
READS = 16  # chunks that one turn reads at most: a child that writes without end must not block its reader
GRACE = 1.0  # seconds that a child has to clean up after its deadline, before KILL
POLL = 0.05  # seconds between two checks whether the child has ended, if another process still holds its pipe
TERM_TIMEOUT = 0.5  # seconds that a command with `may_leave` has after TERM; less than GRACE
ROUNDS, PAUSE = 100, 0.01  # how often a warden sends KILL to the remaining processes, and the seconds between
_expected = False
FOREVER = 1e9  # seconds
TERMINATED = -1000  # no status of a command
WARDENS = _signal.SIGCHLD, _signal.SIGTERM
TERM_THEN_KILL = _signal.SIGTERM, _signal.SIGKILL


class Child:
    """Runs `body` for at most `seconds`; call `turn` repeatedly, or `wait`. `signals`: what a late child is sent, one
    after the other; KILL also goes to all processes that it started. `may_leave`: as for `command`.

    `code` is its exit status, or minus the number of the signal that ended it. It is None before the end, and if the
    deadline ended the child. `output` has the last `kept` bytes of stdout and stderr; `is_cut`: there was more before.
    Raises OSError if there can be no more processes or pipes.
    """

    def __init__(
        self, body: Callable[[], int], seconds: float, kept: int = KEPT, signals: tuple[int, ...] = TERM_THEN_KILL,
        *, may_leave: bool = False,
    ) -> None:  # fmt: skip
        self.code: int | None = None
        self.output, self.is_cut = b"", False
        self.late = time.monotonic() + seconds
        self._kept, self._signals = kept, [*signals]  # what it is still to be sent
        self._was_late, self._may_leave = False, may_leave
        self._pipe, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.pid = fork(lambda: _redirected(body, writing))
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(writing)

    def fileno(self) -> int:
        return self._pipe

    def turn(self, now: float) -> bool:
        """Read the output that there is, and end a child that is late; True when the child has ended."""
        self._read()
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._read()
            self._close()
            if not self._was_late:
                self.code = os.waitstatus_to_exitcode(status)
            return True
        return now >= self.late and self._end(now)

    def wait(self) -> None:
        """Wait until the child has ended."""
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        while not self.turn(time.monotonic()):
            ready = poll.poll(1000 * min(POLL, max(0.0, self.late - time.monotonic())))
            if ready and not ready[0][1] & select.POLLIN:
                time.sleep(PAUSE / 10)  # the pipe has no writer any more: the child ends soon

    def end(self) -> None:
        """End the child now, and wait for its end."""
        self.late = time.monotonic()
        self.wait()

    def _close(self) -> None:
        """If a process that the command left still has the pipe, a process of ours reads the pipe until that ends:
        without a reader, its next line would end it (SIGPIPE)."""
        poll = select.poll()
        poll.register(self._pipe, 0)
        if self._may_leave and not self._was_late and not poll.poll(0):
            try:
                fork(lambda: _discard(self._pipe), "reader")
            except OSError:
                pass
        os.close(self._pipe)

    def _end(self, now: float) -> bool:
        """Send the next signal; True after the last: the child hangs in the kernel, and nothing waits for it."""
        self._was_late = True
        if not self._signals:
            os.close(self._pipe)
            return True
        if self._signals.pop(0) == _signal.SIGTERM:
            send(self.pid, _signal.SIGTERM)
        else:
            kill(self.pid)
        self.late = now + GRACE
        return False

    def _read(self) -> None:
        for _ in range(READS):
            try:
                data = os.read(self._pipe, CHUNK)
            except BlockingIOError:
                return
            if not data:
                return
            whole = self.output + data
            self.is_cut = self.is_cut or len(whole) > self._kept
            self.output = whole[-self._kept :]


def _discard(pipe: int) -> int:
    os.set_blocking(pipe, True)
    while os.read(pipe, CHUNK):
        continue
    return 0


def _redirected(body: Callable[[], int], writing: int) -> int:
    os.set_blocking(writing, True)
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    return body()


def command(
    argv: tuple[str, ...], env: Mapping[str, str], user: User | None = None, *, may_leave: bool = False
) -> Callable[[], int]:
    """A body that runs a command as `user` and leaves no process of it behind.

    `may_leave`: the processes that the command has left when it ends are not killed; and TERM is passed on to the
    command, which has TERM_TIMEOUT seconds to clean up.
    """
    parent = os.getpid()
    _expect_subreaper()

    def body() -> int:
        log.configure("error", "text")  # the reason why a program cannot be executed goes to the output
        _signal.pthread_sigmask(_signal.SIG_BLOCK, WARDENS)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_PDEATHSIG, _signal.SIGTERM)
        if os.getppid() != parent:
            return EX_TEMPFAIL
        try:
            first = fork(lambda: _become(argv, env, user))
        except OSError as error:
            return say(f"no process for the command: {error.strerror}", EX_TEMPFAIL)
        code = _watch_over(first, TERM_TIMEOUT if may_leave else 0.0)
        if code == TERMINATED or not may_leave:
            _end_all(first)
        else:
            os.waitpid(first, 0)
        if code < 0:
            _end_by(_signal.SIGKILL if code == TERMINATED else -code)
        return code

    return body


def _expect_subreaper() -> None:
    """Log, once a process, that the kernel has no subreapers. The call changes nothing: we are none."""
    global _expected
    if not _expected and not prctl(PR_SET_CHILD_SUBREAPER, 0):
        log.warning(
            "subreaper_failed",
            "prctl(2) makes no subreaper: what a check command leaves in other process groups goes on",
        )
    _expected = True


def say(text: str, code: int) -> int:
    os.write(1, text.encode("utf-8", "replace"))
    return code


def _become(argv: tuple[str, ...], env: Mapping[str, str], user: User | None) -> int:
    try:
        become(user)
    except OSError as error:
        return say(f"cannot become SVCINIT_USER: {error.strerror}", EX_SOFTWARE)
    return execute(argv, env)


def _watch_over(first: int, grace: float) -> int:
    """The status of the command when it has ended (it is not reaped yet); TERMINATED if we got TERM before. `grace`:
    seconds between TERM to the command's group and this result; 0: no TERM is sent."""
    limit: float | None = None
    while True:
        dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if dead is None:
            left = FOREVER if limit is None else max(0.0, limit - time.monotonic())
            info = _signal.sigtimedwait(WARDENS, left)
            if info is None or (info.si_signo == _signal.SIGTERM and not grace):
                return TERMINATED
            if info.si_signo == _signal.SIGTERM and limit is None:
                limit = time.monotonic() + grace
                send(-first, _signal.SIGTERM)
        elif dead.si_code == os.CLD_TRAPPED:
            if not untrace(dead.si_pid, dead.si_status):
                send(dead.si_pid, _signal.SIGKILL)
        elif dead.si_pid == first:
            if limit is not None:
                return TERMINATED
            return dead.si_status if dead.si_code == os.CLD_EXITED else -dead.si_status
        else:
            os.waitpid(dead.si_pid, 0)


def _end_all(first: int) -> None:
    """Send KILL to the command's group and to all processes that it left, until none is left."""
    send(-first, _signal.SIGKILL)
    for _ in range(ROUNDS):
        for pid in descendants(os.getpid()):
            send(pid, _signal.SIGKILL)
        if _none_is_left():
            return
        _signal.sigtimedwait({_signal.SIGCHLD}, PAUSE)


def _none_is_left() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return True
    return False


def _end_by(number: int) -> None:
    """End by the same signal as the command, without a core dump."""
    prctl(PR_SET_DUMPABLE, 0)
    if number != _signal.SIGKILL:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.kill(os.getpid(), number)
