"""`write:PATH:TEXT`: as SVCINIT_USER, and to a fifo that has no room. Real processes, no Consul."""

from __future__ import annotations

import os
import pathlib
import pwd
import signal
import tempfile
from collections.abc import Iterator

import pytest

from testing.process import running
from testing.waiting import eventually

USER = "nobody"
TEXT = "c" * 100_000  # a fifo holds 65,536 bytes; what is longer than PIPE_BUF, 4,096, goes in piece by piece
SERVICE = "sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done"
ANY = {"SVCINIT_RELOAD_TIMEOUT": "5s", "SVCINIT_STOP_TIMEOUT": "5s"}


@pytest.fixture
def fifo(tmp_path: pathlib.Path) -> pathlib.Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


@pytest.fixture
def home() -> Iterator[pathlib.Path]:
    """A directory of SVCINIT_USER, which other users can enter."""
    assert os.geteuid() == 0, "run these tests as root: they need a second user"
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        home = pathlib.Path(folder) / "home"
        home.mkdir()
        entry = pwd.getpwnam(USER)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        yield home


def test_a_full_fifo_is_waited_for_and_a_text_longer_than_it_arrives_whole(
    tmp_path: pathlib.Path, fifo: pathlib.Path
) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    full = 0
    try:
        while True:
            full += os.write(writer, bytes(4096))
    except BlockingIOError:
        os.close(writer)
    with running(tmp_path / "s", *SERVICE, env={**ANY, "SVCINIT_RELOAD": f"write:{fifo}:{TEXT}"}) as it:
        it.says("up")
        it.signal(signal.SIGHUP)
        it.says("reload 1")
        got = bytearray()

        def whole() -> bool:
            try:
                got.extend(os.read(reader, 10_000))
            except BlockingIOError:
                pass
            return len(got) == full + len(TEXT)

        eventually(whole, "all of it arrives", every=0.002)
        assert bytes(got[full:]) == TEXT.encode()
        it.says("reload 1: done")
        assert it.stop() == 3
    os.close(reader)


def test_a_fifo_that_stays_full_fails_the_reload_and_no_more(tmp_path: pathlib.Path, fifo: pathlib.Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    env = {**ANY, "SVCINIT_RELOAD_TIMEOUT": "1s", "SVCINIT_RELOAD": f"write:{fifo}:{TEXT}"}
    with running(tmp_path / "s", *SERVICE, env=env) as it:
        it.says("up")
        it.signal(signal.SIGHUP)
        it.says("reload 1: failed: SVCINIT_RELOAD failed")
        assert "BlockingIOError" not in it.err
        assert it.stop() == 3
    os.close(reader)


def test_it_is_written_as_the_services_user_who_leads_it_to_no_file_of_root(
    tmp_path: pathlib.Path, home: pathlib.Path
) -> None:
    victim = home.parent / "victim"
    victim.write_text("root's")
    victim.chmod(0o600)
    (home / "told").symlink_to(victim)
    env = {**ANY, "SVCINIT_USER": USER, "SVCINIT_RELOAD": f"write:{home}/told:chain"}
    with running(tmp_path / "s", *SERVICE, env=env) as it:
        it.says("up")
        it.signal(signal.SIGHUP)
        it.says(f"write to {home}/told failed: Permission denied")
        it.says("reload 1: failed: SVCINIT_RELOAD failed")
        assert victim.read_text() == "root's"

        (home / "told").unlink()
        (home / "told").touch()
        os.chown(home / "told", pwd.getpwnam(USER).pw_uid, -1)
        it.signal(signal.SIGHUP)
        it.says("reload 2: done")
        assert (home / "told").read_text() == "chain"
        assert it.stop() == 3
