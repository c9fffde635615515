"""Starting a contender with the clock running, and never leaving one behind."""

from __future__ import annotations

import os
import pathlib
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from bench.probe import STAY, Probe
from testing.process import descendants

DEADLINE = 20.0  # seconds for one contender to start the service, and again to end
QUOTED = 1500  # characters of a failed contender's log


def _nothing() -> None:
    """What most contenders need before and after a run."""


class Contender:
    """A way to start the service: `argv` goes before the service's own.

    `missing` names a program that is not installed here: then it takes no part. `before` and `after` run outside the
    measured time, before each start and after each end.
    """

    def __init__(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, *, missing: str = "",
        before: Callable[[], None] = _nothing, after: Callable[[], None] = _nothing,
    ) -> None:  # fmt: skip
        self.name, self.argv, self.missing = name, list(argv), missing
        self.env = {"PATH": os.environ.get("PATH", os.defpath), **(env or {})}
        self.before, self.after = before, after


def by_launcher(launcher: pathlib.Path) -> Callable[..., list[str]]:
    """For testing.process.running: svcinit as it ships in place of its sources."""
    return lambda *command: [str(launcher), "--", *command]


class Stage:
    """Where contenders run: one at a time, each in a session of its own, its output in a file."""

    def __init__(self, folder: pathlib.Path, probe: Probe, deadline: float = DEADLINE) -> None:
        self.probe, self.log, self._deadline = probe, folder / "log", deadline
        self._spawned = 0  # when the last contender was started, on the probe's clock

    def time(self, contender: Contender) -> float:
        """Milliseconds from just before the contender's exec to the service's first instruction."""
        contender.before()
        pid = self._spawn([*contender.argv, *self.probe.argv], contender.env)
        try:
            began = self.probe.began(self._deadline)
            code = _wait(pid, self._deadline)
        except TimeoutError as error:
            raise self._failed(contender, str(error)) from None
        finally:
            _end(pid)
        if code:
            raise self._failed(contender, f"exit status {code}")
        assert began > self._spawned, "the probe told of an earlier run"
        contender.after()
        return (began - self._spawned) / 1e6

    def until(self, contender: Contender, wait: Callable[[], object]) -> float:
        """Milliseconds from just before the contender's exec until `wait` returns, which a thread calls. `wait` must
        have a deadline of its own."""
        contender.before()
        with ThreadPoolExecutor(1) as thread:
            happened = thread.submit(lambda: (wait(), self.probe.clock())[1])
            with self.staying(contender):
                try:
                    at = happened.result()
                except TimeoutError as error:
                    raise self._failed(contender, str(error)) from None
        assert at > self._spawned, "what was waited for was there before the start"
        return (at - self._spawned) / 1e6

    def deaf(self, contender: Contender) -> float:
        """Milliseconds from just before exec until SIGTERM is blocked: a PID 1 loses what comes sooner."""
        contender.before()
        started = time.monotonic()
        pid = self._spawn([*contender.argv, *self.probe.argv], contender.env)
        try:
            status = f"/proc/{pid}/status"
            while not _blocks(status, signal.SIGTERM):
                if time.monotonic() > started + self._deadline:
                    raise self._failed(contender, "it never blocked SIGTERM")
            took = time.monotonic() - started
            self.probe.began(self._deadline)
            _wait(pid, self._deadline)
        except TimeoutError as error:
            raise self._failed(contender, str(error)) from None
        finally:
            _end(pid)
        contender.after()
        return took * 1000

    @contextmanager
    def staying(self, contender: Contender) -> Iterator[int]:
        """The contender's pid while the service runs; both are told to stop at the end."""
        contender.before()
        pid = self._spawn([*contender.argv, *self.probe.argv, STAY], contender.env)
        try:
            try:
                self.probe.began(self._deadline)
            except TimeoutError as error:
                raise self._failed(contender, str(error)) from None
            yield pid
            os.kill(pid, signal.SIGTERM)
            _wait(pid, self._deadline)
        finally:
            _end(pid)
        contender.after()

    def _spawn(self, argv: list[str], env: Mapping[str, str]) -> int:
        write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._spawned = self.probe.clock()
        return os.posix_spawn(
            argv[0], argv, env, setsid=True, setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log), write, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )  # fmt: skip

    def _failed(self, contender: Contender, why: str) -> RuntimeError:
        return RuntimeError(f"{contender.name}: {why}\n{self.log.read_text(errors='replace')[-QUOTED:]}")


def _blocks(status: str, number: int) -> bool:
    with open(status) as file:
        mask = next((line for line in file if line.startswith("SigBlk:")), "SigBlk: 0")
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def _wait(pid: int, seconds: float) -> int:
    """The exit status; the child stays a zombie until _end. Raises TimeoutError."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise TimeoutError(f"it did not end within {seconds:g} s")
    finally:
        os.close(descriptor)
    state = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert state is not None
    return state.si_status if state.si_code == os.CLD_EXITED else 128 + state.si_status


def _end(pid: int) -> None:
    """Bury the child, having killed it and all below it if it still runs."""
    if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        for each in [pid, *descendants(pid)]:
            try:
                os.kill(each, signal.SIGKILL)
            except ProcessLookupError:
                continue
    os.waitpid(pid, 0)
