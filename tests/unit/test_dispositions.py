"""Who handles a signal, as the kernel tells it of real processes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from svcinit.processes import dispositions, init
from svcinit.processes.crew import BLOCKED_LOOKS, Crew
from svcinit.settings import environment
from testing.calls import replace_call
from testing.waiting import eventually

HUP = signal.SIGHUP


def unhandled(main: int, number: int, *, group: bool) -> str:
    return dispositions.unhandled(main, number, group=group)[0]


BIG = signal.SIGRTMAX


@contextlib.contextmanager
def process(set_up: Callable[[], object], group: int = 0) -> Iterator[int]:
    """A child that has done `set_up`, in the process group of `group`, by default one of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, group)
            for number in (HUP, BIG):
                signal.signal(number, signal.SIG_DFL)
            set_up()
            os.write(writing, b"1")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(writing)
        assert os.read(reading, 1) == b"1"
        os.close(reading)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def nothing() -> None:
    pass


def block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {HUP})


def wait_in_a_thread() -> None:
    """As mysqld does."""
    block()
    threading.Thread(target=signal.sigwait, args=({HUP},), daemon=True).start()


@pytest.mark.parametrize(
    ("set_up", "handles"),
    [
        (nothing, False),
        (lambda: signal.signal(HUP, lambda *_: None), True),
        (lambda: signal.signal(HUP, signal.SIG_IGN), True),
        (block, True),  # as who takes it by signalfd(2)
        (lambda: signal.signal(signal.SIGUSR1, lambda *_: None), False),
        (wait_in_a_thread, True),
    ],
)
def test_who_catches_ignores_or_blocks_a_signal_handles_it(set_up: Callable[[], object], handles: bool) -> None:
    with process(set_up) as pid:
        found = unhandled(pid, HUP, group=False)
        assert (found == "") is handles
        assert handles or found.endswith(f"(pid {pid})")


@contextlib.contextmanager
def in_sigwait(waited: set[int], *, threads: bool = False) -> Iterator[int]:
    """A child that waits for these, and blocks HUP when it does not."""
    pid = os.fork()
    if pid == 0:
        block()
        if threads:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        signal.sigwait(waited)
        os._exit(0)
    try:
        eventually(lambda: "sigtimedwait" in pathlib.Path(f"/proc/{pid}/wchan").read_text(), "it waits")
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_who_waits_in_sigwait_handles_what_it_waits_for_though_that_is_not_blocked_then() -> None:
    """As tini, dumb-init and svcinit do."""
    with in_sigwait({HUP, signal.SIGTERM}) as pid:
        eventually(lambda: dispositions.unhandled(pid, HUP, group=False) == ("", ""), "it handles HUP")
        assert unhandled(pid, signal.SIGUSR1, group=False) != ""


def test_who_waits_for_other_signals_does_not_handle_this_one() -> None:
    with in_sigwait({signal.SIGTERM}) as pid:
        found = eventually(lambda: unhandled(pid, signal.SIGUSR2, group=False), "it does not handle USR2")
        assert found.endswith(f"(pid {pid})")


def test_memory_of_a_process_with_threads_is_not_read() -> None:
    """One of them could hold it, and init must not wait."""
    with in_sigwait({HUP}, threads=True) as pid:
        # awaited: whatever wakes the thread for a moment shows HUP as blocked then
        eventually(lambda: unhandled(pid, HUP, group=False), "it counts as a process that does not handle HUP")


def test_who_blocks_it_is_told_apart_from_who_handles_it() -> None:
    with process(block) as pid:
        assert dispositions.unhandled(pid, HUP, group=False)[1].endswith(f"(pid {pid})")


def test_a_shell_that_blocks_all_signals_for_a_moment_to_start_a_child_is_not_taken_for_one_that_handles_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(init, "_leave_folder", lambda: None)
    monkeypatch.setattr(init, "_become_subreaper", lambda: None)
    crew = Crew(environment.read({}), ("true",))
    ends, blocks = ("sh (pid 7)", ""), ("", "sh (pid 7)")
    looks = [ends, *[blocks] * (BLOCKED_LOOKS - 1), ends, *[blocks] * BLOCKED_LOOKS, blocks]
    monkeypatch.setattr(dispositions, "unhandled", lambda *_, **__: looks.pop(0))
    monkeypatch.setattr(crew, "pid", lambda _: 7)
    found = [crew.unhandled(HUP) == "" for _ in range(len(looks))]
    assert found == [False] * (len(found) - 2) + [True, False]


def test_the_highest_signal_is_told_apart_and_what_the_kernel_ignores_ends_nobody() -> None:
    with process(lambda: signal.signal(BIG, lambda *_: None)) as pid:
        assert unhandled(pid, BIG, group=False) == ""
        assert unhandled(pid, BIG - 1, group=False) != ""
        assert [unhandled(pid, number, group=False) for number in dispositions.HARMLESS] == [""] * 4
        assert unhandled(pid, signal.SIGKILL, group=False) != ""


def test_with_the_group_each_process_in_it_is_asked() -> None:
    with process(lambda: signal.signal(HUP, signal.SIG_IGN)) as main, process(nothing, group=main) as other:
        assert unhandled(main, HUP, group=False) == ""
        assert unhandled(main, HUP, group=True).endswith(f"(pid {other})")


def test_who_is_dead_or_gone_is_not_asked() -> None:
    with process(nothing) as pid:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert unhandled(pid, HUP, group=True) == "", "a zombie"
    assert unhandled(pid, HUP, group=True) == ""


def test_a_name_cannot_say_what_the_masks_are() -> None:
    def rename() -> None:
        with open("/proc/self/comm", "wb") as file:
            file.write(b"a\nSigCgt:\tf\xff")

    with process(rename) as pid:
        assert unhandled(pid, HUP, group=False).startswith("a\\nSigCgt:")


def test_where_proc_is_of_another_pid_namespace_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with process(nothing) as pid:
        replace_call(monkeypatch, "readlink", lambda _: "1")
        assert unhandled(pid, HUP, group=True) == ""
