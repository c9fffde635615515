"""Killed between the renames of a reload and its end: by a slow disk, by an OOM killer, with the whole container.

A disk that stalls is simulated in svcinit's children: fsync(2) or rename(2) waits at its n-th call in one process while
a file exists. Init is left out: it can rename its status file at any time.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from testing.process import LAUNCH, Running, descendants, end_session, running
from testing.waiting import eventually
from tests.e2e.failing import ctl, has_state

pytestmark = pytest.mark.timeout(60)

APP = 'trap \'echo hup $(cat "$0"/*) >>"$1"\' HUP; echo up $(cat "$0"/*) >>"$1"; while :; do sleep 0.02; done'
HOOK = 'echo "$SVCINIT_CHANGED" >"$0/changed"; test ! -e "$0/refuse"'
STALL = """
import collections, os, time
init = os.getpid()
def stalling(name):
    real, calls = getattr(os, name), collections.Counter()
    def act(*arguments, **options):
        pid = os.getpid()
        try:
            with open({file!r}) as file:
                which, number = file.read().split()
        except (OSError, ValueError):
            return real(*arguments, **options)
        calls[pid] += which == name
        if which == name and pid != init and calls[pid] == int(number):
            with open({file!r} + ".pid", "w") as file:
                file.write(str(pid))
            while os.path.exists({file!r}):
                time.sleep(0.01)
        return real(*arguments, **options)
    setattr(os, name, act)
stalling("fsync")
stalling("rename")
"""
NAMES = "a", "b", "c"
OLD, NEW = "1 1 1", "2 2 2"
# a commit of three files has a fsync(2) of each, of the record and of the directory; and of the directory in the end
LAST_FSYNC = "fsync 6"
ROLLBACK_FSYNC = "fsync 3"  # of the last file that is put back: the others are back
SECOND_FILE = "rename 3"  # the first one is the record's


class Disk:
    """A service with three files in one directory, and the disk that they lie on."""

    def __init__(self, folder: pathlib.Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.out, self.log, self.source = folder / "out", folder / "app.log", folder / "source.yaml"
        self._stall = folder / "stall"
        self.value("1")
        for name in NAMES:
            self.template(name)
        self.env = {
            "SVCINIT_SOURCE": f"file:{self.source}", "SVCINIT_KV_PREFIX": "config/web", "SVCINIT_RELOAD_TIMEOUT": "20s",
            "SVCINIT_TEMPLATES": str(folder / "templates"), "SVCINIT_START_TIMEOUT": "20s", "SVCINIT_SETTLE": "0s",
            "SVCINIT_PRE_RELOAD": f"sh -c '{HOOK}' {folder}",
        }  # fmt: skip

    def template(self, name: str, options: str = "") -> None:
        source = self.folder / "templates" / f"{str(self.out / name).lstrip('/')}.j2"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(f'{options}{{{{ key("n") }}}}\n')

    def value(self, value: str) -> None:
        self.source.write_text(f"kv: {{config/web: {{n: {value}}}}}")

    def start(self) -> Running:
        launch = STALL.format(file=str(self._stall)) + LAUNCH
        return self._stack.enter_context(
            running(
                self.folder / "svcinit", "sh", "-c", APP, str(self.out), str(self.log), env=self.env,
                launch=lambda *command: [sys.executable, "-I", "-S", "-c", launch, *command],
            )
        )  # fmt: skip

    def up(self) -> Running:
        svcinit = self.start()
        eventually(lambda: self.notes == [f"up {OLD}"], f"the service is up: {svcinit.err}")
        return svcinit

    def stall(self, at: str) -> None:
        self._stall.with_suffix(".new").write_text(at)
        self._stall.with_suffix(".new").rename(self._stall)

    def stalled(self) -> int:
        """The pid of who waits for the disk."""
        pid = self._stall.with_suffix(".pid")
        return int(eventually(lambda: pid.exists() and pid.read_text(), "somebody waits for the disk"))

    def goes_on(self) -> None:
        self._stall.unlink()

    @property
    def files(self) -> str:
        return " ".join((self.out / name).read_text().strip() for name in NAMES)

    @property
    def notes(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def changed(self) -> list[str]:
        return sorted((self.folder / "changed").read_text().split())

    def is_clean(self) -> bool:
        return sorted(os.listdir(self.out)) == list(NAMES)


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> Iterator[Disk]:
    with ExitStack() as stack:
        yield Disk(tmp_path, stack)


def all_of(disk: Disk) -> list[str]:
    return [str(disk.out / name) for name in NAMES]


def test_a_disk_that_is_too_slow_aborts_the_reload_and_the_files_are_the_former_ones(disk: Disk) -> None:
    disk.env["SVCINIT_RELOAD_TIMEOUT"] = "2s"
    svcinit = disk.up()
    disk.value("2")
    disk.stall(LAST_FSYNC)
    svcinit.signal(signal.SIGHUP)
    disk.stalled()
    assert disk.files == NEW
    svcinit.says("prepare took too long: killed")
    disk.goes_on()
    svcinit.says("reload 1: aborted: the files are unchanged; the service was not notified")
    assert disk.files == OLD
    assert disk.is_clean()
    eventually(lambda: "degraded  aborted" in ctl(svcinit, "status")[1], "the status says so")
    assert disk.notes == [f"up {OLD}"]

    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 2: done")
    eventually(lambda: disk.notes == [f"up {OLD}", f"hup {NEW}"], "it is told once")
    assert disk.changed == all_of(disk)


def test_a_disk_that_is_too_slow_to_put_back_either_is_told_so_and_the_next_reload_mends_it(disk: Disk) -> None:
    disk.env["SVCINIT_RELOAD_TIMEOUT"] = "2s"
    svcinit = disk.up()
    disk.value("2")
    disk.stall(LAST_FSYNC)
    svcinit.signal(signal.SIGHUP)
    disk.stalled()
    disk.stall(ROLLBACK_FSYNC)
    svcinit.says("reload 1: aborted: the service was not notified; the rollback of the files failed with status 137")
    assert disk.files == "2 1 1"
    disk.goes_on()
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 2: done")
    eventually(lambda: disk.notes == [f"up {OLD}", f"hup {NEW}"], "it is told once")
    assert disk.changed == all_of(disk)
    assert disk.is_clean()


@pytest.mark.parametrize("point", [LAST_FSYNC, SECOND_FILE])
def test_killed_before_it_told_a_reload_is_tried_again_with_all_that_changed(disk: Disk, point: str) -> None:
    disk.template("b", "{# svcinit: reload=restart #}\n")
    svcinit = disk.up()
    disk.value("2")
    disk.stall(point)
    svcinit.signal(signal.SIGHUP)
    os.kill(disk.stalled(), signal.SIGKILL)
    disk.goes_on()
    eventually(lambda: disk.notes == [f"up {OLD}", f"up {NEW}"], f"it was restarted: {svcinit.err}")
    has_state(svcinit, state="running", degraded="", main_starts=2)
    assert disk.changed == all_of(disk)
    assert disk.is_clean()


def test_a_hook_that_fails_after_such_a_retry_has_the_files_of_before_the_first_try_put_back(disk: Disk) -> None:
    svcinit = disk.up()
    (disk.folder / "refuse").touch()
    disk.value("2")
    disk.stall(LAST_FSYNC)
    svcinit.signal(signal.SIGHUP)
    os.kill(disk.stalled(), signal.SIGKILL)
    disk.goes_on()
    svcinit.says("reload 1: aborted: SVCINIT_PRE_RELOAD failed with status 1; the files were rolled back")
    assert disk.files == OLD
    assert disk.is_clean()
    assert disk.changed == all_of(disk)


def test_a_container_that_is_killed_between_two_renames_never_leaves_some_of_each(disk: Disk) -> None:
    svcinit = disk.up()
    disk.value("2")
    disk.stall(SECOND_FILE)
    svcinit.signal(signal.SIGHUP)
    disk.stalled()
    assert disk.files == "2 1 1"
    os.kill(svcinit.pid, signal.SIGKILL)
    end_session(svcinit.process)
    disk.goes_on()

    disk.source.rename(disk.folder / "away")
    again = disk.start()
    assert again.wait() == 78
    assert f"rolled back the files of a commit that was killed: {disk.out / 'a'}" in again.err
    assert disk.files == OLD
    assert disk.is_clean()

    (disk.folder / "away").rename(disk.source)
    again = disk.start()
    eventually(lambda: disk.notes[-1] == f"up {NEW}", f"it started: {again.err}")
    assert again.stop() == 143


@pytest.mark.parametrize("point", [LAST_FSYNC, SECOND_FILE])
def test_a_worker_that_is_killed_with_a_change_is_as_if_it_had_not_begun(disk: Disk, point: str) -> None:
    disk.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SERVICE": "web", "SVCINIT_PORT": "1", "CONSUL_HTTP_ADDR": "127.0.0.1:1"}
    disk.template("b", "{# svcinit: reload=restart #}\n")
    svcinit = disk.up()
    presence = svcinit.child("presence")
    disk.stall(point)
    disk.value("2")
    pid = disk.stalled()
    assert pid in descendants(presence)
    os.kill(pid, signal.SIGKILL)
    disk.goes_on()
    eventually(lambda: disk.notes == [f"up {OLD}", f"up {NEW}"], f"it was restarted: {svcinit.err}")
    has_state(svcinit, state="running", degraded="", main_starts=2)
    assert disk.changed == all_of(disk)
    assert disk.is_clean()


def test_a_worker_whose_disk_is_too_slow_says_nothing_that_is_not_so(disk: Disk) -> None:
    disk.env["SVCINIT_RELOAD_TIMEOUT"] = "2s"
    disk.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SERVICE": "web", "SVCINIT_PORT": "1", "CONSUL_HTTP_ADDR": "127.0.0.1:1"}
    svcinit = disk.up()
    disk.stall(LAST_FSYNC)
    disk.value("2")
    disk.stalled()
    svcinit.says("prepare took too long: killed")
    disk.goes_on()
    svcinit.says("reload 1: done")
    eventually(lambda: disk.notes == [f"up {OLD}", f"hup {NEW}"], "it is told once")
    assert disk.changed == all_of(disk)
    assert disk.is_clean()
