"""Writing a line of the log waits for nobody, whatever stderr is: real pipes, terminals, sockets that nobody reads."""

from __future__ import annotations

import builtins
import contextlib
import errno
import fcntl
import os
import pathlib
import posix
import re
import select
import socket
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from places import NOBODY, needs_root
from svcinit import log
from svcinit.processes.child import become
from testing.calls import replace_call
from testing.waiting import eventually

pytestmark = pytest.mark.sentences

PAGE = 4096
PIPES = "pipe", "fifo"
KINDS = *PIPES, "terminal", "socket"


class Reader:
    """The other end of a stderr of this kind."""

    def __init__(self, kind: str, folder: pathlib.Path) -> None:
        self.kind = kind
        if kind == "pipe":
            self.end, self.stderr = os.pipe()
        elif kind == "fifo":
            os.mkfifo(folder / "fifo", 0o600)
            self.end = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
            self.stderr = os.open(folder / "fifo", os.O_WRONLY)
        elif kind == "terminal":
            self.end, self.stderr = os.openpty()
        else:
            self.end, self.stderr = (each.detach() for each in socket.socketpair())
        os.set_blocking(self.end, False)

    def read(self, most: int = 1 << 20) -> bytes:
        """All that was written."""
        found = b""
        with contextlib.suppress(BlockingIOError, OSError):
            while len(found) < most and (part := os.read(self.end, most - len(found))):
                found += part
        return found.replace(b"\r\n", b"\n")  # as a terminal ends its lines

    def fill(self) -> None:
        """To the last byte."""
        flags = fcntl.fcntl(self.stderr, fcntl.F_GETFL)
        os.set_blocking(self.stderr, False)
        for size in (PAGE, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(self.stderr, b"x" * size)
        fcntl.fcntl(self.stderr, fcntl.F_SETFL, flags)

    def hang_up(self) -> None:
        os.close(self.end)
        self.end = -1

    def close(self) -> None:
        for descriptor in {self.end, self.stderr} - {-1}:
            os.close(descriptor)


Make = Callable[[str], Reader]


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """Where another user may come to, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield pathlib.Path(name)


@pytest.fixture
def stderr_is(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """stderr_is(kind): stderr is such a thing until the end of the test."""
    for name in ("_dropped", "_torn"):
        monkeypatch.setattr(log, name, 0)
    former, made = os.dup(2), list[Reader]()

    def make(kind: str) -> Reader:
        made.append(Reader(kind, folder))
        os.dup2(made[0].stderr, 2)
        return made[0]

    try:
        yield make
    finally:
        os.dup2(former, 2)
        os.close(former)
        for reader in made:
            reader.close()


def say(text: str = "hello") -> None:
    log.warning("fault", "{error}", error=text)


def line(text: str = "hello") -> bytes:
    return f"svcinit: warning: {text}\n".encode()


def flags() -> int:
    return fcntl.fcntl(2, fcntl.F_GETFL)


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_gets_through_and_the_shared_descriptor_is_left_as_it_is(kind: str, stderr_is: Make) -> None:
    reader = stderr_is(kind)
    before = flags(), open_files()
    say()
    assert eventually(reader.read, "it is written") == line()
    assert (flags(), open_files()) == before


@pytest.mark.parametrize("kind", [*PIPES, "socket"])
def test_what_nobody_reads_is_dropped_counted_and_told_with_the_next_line(kind: str, stderr_is: Make) -> None:
    reader = stderr_is(kind)
    reader.fill()
    for _ in range(3):
        say()
    assert set(eventually(reader.read, "what fills it")) == {ord("x")}
    eventually(lambda: reader.read() == b"", "it is empty")
    say("again")
    told = eventually(reader.read, "it is written").decode()
    assert told.strip() == "svcinit: warning: again lines_dropped=3"
    say()
    assert eventually(reader.read, "it is written") == line()


class SaysReady:
    """What poll(2) said of a pipe that another writer filled before anything else could be written to it."""

    def register(self, descriptor: int, _: int) -> None:
        self.ready = [(descriptor, select.POLLOUT)]

    def poll(self, _: float) -> list[tuple[int, int]]:
        return self.ready


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_that_fills_what_was_said_to_be_ready_holds_nobody_up(
    kind: str, stderr_is: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "poll", SaysReady)
    stderr_is(kind).fill()
    for _ in range(1000):
        say()


@pytest.mark.parametrize("size", [30, 100, 1000, 3000])
def test_a_terminal_takes_a_part_of_the_line_that_fills_it_and_the_next_line_begins_a_line(
    size: int, stderr_is: Make
) -> None:
    reader, found, said = stderr_is("terminal"), b"", 200_000 // size
    for _ in range(said):
        say("y" * size)

    def all_are_told() -> bool:
        nonlocal found, said
        found += reader.read()
        if not re.search(rb"end lines_dropped=\d+\n", found):
            say("end")
            said += 1
        whole = re.findall(rb"^svcinit: warning: (?:y{%d}|end)(?: lines_dropped=(\d+))?$" % size, found, re.MULTILINE)
        return len(whole) + sum(int(dropped or 0) for dropped in whole) == said

    eventually(all_are_told, "each line is written whole or counted")
    assert found.count(b"lines_dropped=") >= 1
    assert max(row.count(b"svcinit") for row in found.split(b"\n")) == 1, "each begins a line"


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_is_gone_is_no_error(kind: str, stderr_is: Make) -> None:
    reader = stderr_is(kind)
    say()
    reader.hang_up()
    say()
    say()


def refused(*_: Any) -> int:
    raise OSError(errno.EOPNOTSUPP, "not supported")


@pytest.mark.parametrize("kind", PIPES)
@pytest.mark.parametrize("fault", ["before Linux 6.4", "a filter of system calls", "a libc without it"])
def test_an_older_kernel_or_libc_changes_nothing(
    kind: str, fault: str, stderr_is: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "a libc without it":
        monkeypatch.delattr(posix, "RWF_NOWAIT")
    else:
        number = errno.EOPNOTSUPP if fault == "before Linux 6.4" else errno.EPERM

        def refuse(*_: Any) -> int:
            raise OSError(number, os.strerror(number))

        replace_call(monkeypatch, "pwritev", refuse)
    reader = stderr_is(kind)
    for _ in range(100):  # more than the pipe has pages
        say()
    assert reader.read() == 100 * line()
    reader.fill()
    say()
    assert set(reader.read()) == {ord("x")}


def as_nobody(act: Callable[[], None]) -> int:
    """Do it in a child, as another user; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            become((NOBODY, NOBODY, (), {}))
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_root
@pytest.mark.parametrize("kind", PIPES)
def test_a_user_who_may_not_open_the_pipe_writes_to_it_all_the_same(
    kind: str, stderr_is: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_call(monkeypatch, "pwritev", refused)
    reader = stderr_is(kind)
    assert as_nobody(say) == 0
    assert reader.read() == line()
    reader.fill()
    assert as_nobody(say) == 0
    assert set(reader.read()) == {ord("x")}


@needs_root
def test_a_user_who_may_not_open_the_terminal_writes_to_it_if_it_is_his_session_s(stderr_is: Make) -> None:
    reader = stderr_is("terminal")

    def in_session() -> None:
        say("not ours")
        os.setsid()
        fcntl.ioctl(2, termios.TIOCSCTTY, 0)
        say()

    assert as_nobody(in_session) == 0
    assert eventually(reader.read, "it is written") == line()[:-1] + b" lines_dropped=1\n"


def test_a_file_gets_every_line_after_what_is_in_it(folder: pathlib.Path, stderr_is: Make) -> None:
    stderr_is("pipe")
    path = folder / "log"
    path.write_text("before\n")
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
        for _ in range(3):
            say()
    assert path.read_bytes() == b"before\n" + 3 * line()


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null", "/"])
def test_what_takes_nothing_is_no_error(path: str, stderr_is: Make) -> None:
    stderr_is("pipe")
    descriptor = os.open(path, os.O_PATH if path == "/" else os.O_WRONLY)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    say()


def test_a_closed_stderr_is_no_error(stderr_is: Make) -> None:
    stderr_is("pipe")
    os.close(2)
    say()


def test_a_line_that_needs_an_import_is_dropped_where_no_file_can_be_opened(
    stderr_is: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def out_of_files(name: str, *rest: Any) -> Any:
        if name == "json":
            raise OSError(errno.EMFILE, "Too many open files")
        return real(name, *rest)

    reader = stderr_is("pipe")
    log.configure("info", "json")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "__import__", out_of_files)
            say()
        say()
    finally:
        log.configure("info", "text")
    assert b'"lines_dropped": 1' in reader.read()


def test_a_fault_of_ours_is_told_where_nothing_can_be_imported(
    stderr_is: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = stderr_is("pipe")
    monkeypatch.delitem(sys.modules, "traceback", raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    try:
        os.stat("/nosuch")
    except OSError as error:
        log.internal("init", error)
    found = reader.read().decode()
    assert found.startswith("svcinit: error: init: internal error, FileNotFoundError at test_log_never_waits.py:")
    assert found.endswith(", test_a_fault_of_ours_is_told_where_nothing_can_be_imported\n")
