"""The record of what a commit is about to do: two containers on one volume, a full disk, a planted record."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from killing import armed, killed_at_call
from places import NOBODY, faults_of, needs_root, put, state_of
from svcinit.agent.files import journal
from svcinit.agent.files.commit import commit, rollback
from svcinit.agent.files.replacement import FileState, Replacement
from svcinit.agent.templates.render import Rendered
from test_files_refused import in_own_mounts


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    put(tmp_path / "etc/a")
    put(tmp_path / "etc/b")
    return tmp_path / "etc"


def new(etc: Path, *names: str) -> list[Rendered]:
    return [Rendered(f"{etc}/{name}", b"new") for name in names or ("a", "b")]


def records(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.intent"))


def is_record(path: str, folder: Path) -> bool:
    return os.path.dirname(path) == str(folder) and path.endswith(".intent")


def half(etc: Path, asked: list[Rendered]) -> None:
    """A commit that is killed after its first rename."""
    child = os.fork()
    if child == 0:
        install, left = Replacement.install, len(asked)

        def act(file: Replacement) -> None:
            nonlocal left
            if not file.path.endswith(".intent"):
                left -= 1
                if left == len(asked) - 2:
                    os.kill(os.getpid(), signal.SIGKILL)
            install(file)

        Replacement.install = act  # type: ignore[method-assign,assignment]
        try:
            commit(asked)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert records(etc)


def test_who_comes_next_in_the_directory_puts_back_what_it_knows_nothing_of(etc: Path) -> None:
    half(etc, new(etc))
    commit(new(etc, "c"))
    assert {path.name: path.read_bytes() for path in etc.iterdir()} == {"a": b"old", "b": b"old", "c": b"new"}


def test_a_rollback_writes_no_second_record_of_files_that_are_back_already(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow disk its fsync(2) took the rest of the time, and a rollback that was done was said to have failed."""
    now = os.stat(etc / "a")
    owner, mode = (now.st_uid, now.st_gid), now.st_mode & 0o7777
    old = FileState(b"old", mode, owner)
    originals = [journal.Original(f"{etc}/{name}", old, journal.digest(b"new")) for name in "ab"]
    half(etc, new(etc))
    staged: list[str] = []
    stage = Replacement.stage

    def seen(file: Replacement) -> None:
        staged.append(file.path)
        stage(file)

    monkeypatch.setattr(Replacement, "stage", seen)
    rollback(journal.Record(originals, []).dump())
    assert staged == [f"{etc}/a"]
    assert {path.name: path.read_bytes() for path in etc.iterdir()} == {"a": b"old", "b": b"old"}


def test_a_file_that_was_changed_since_stays_as_it_is(etc: Path) -> None:
    half(etc, new(etc))
    put(etc / "a", b"by hand")
    commit(new(etc, "c"))
    assert {path.name: path.read_bytes() for path in etc.iterdir()} == {"a": b"by hand", "b": b"old", "c": b"new"}


def test_the_record_is_found_where_the_volume_is_mounted_elsewhere(etc: Path) -> None:
    (etc / "other").mkdir()
    half(etc, [*new(etc), *new(etc, "other/c")])
    moved = etc.rename(etc.parent / "srv")
    commit(new(moved, "d"))
    assert (moved / "a").read_bytes() == b"old"
    assert records(moved) == records(moved / "other") != []
    commit(new(moved, "other/d"))
    assert not records(moved)


def test_of_two_that_died_the_later_one_is_put_back_first(etc: Path) -> None:
    put(etc / "c")
    half(etc, new(etc))
    (first,) = records(etc)
    kept = first.read_bytes()
    first.unlink()
    half(etc, [Rendered(f"{etc}/a", b"newer"), Rendered(f"{etc}/c", b"newer")])
    put(first, kept, 0o600)
    os.utime(first, (1, 1))
    assert journal.recover([f"{etc}/a"])
    assert {path.name: path.read_bytes() for path in etc.iterdir()} == dict.fromkeys("abc", b"old")


def test_the_commit_of_a_living_container_is_never_put_back(etc: Path) -> None:
    """It is suspended between its renames: the other one waits for a while, and then lets it be."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        install = Replacement.install

        def slow(file: Replacement) -> None:
            if file.path.endswith("/b"):
                os.write(writer, b"x")
                os.kill(os.getpid(), signal.SIGSTOP)
            install(file)

        Replacement.install = slow  # type: ignore[method-assign,assignment]
        commit(new(etc))
        os._exit(0)
    os.read(reader, 1)
    began = time.monotonic()
    commit(new(etc, "c"))
    assert journal.WAIT <= time.monotonic() - began < journal.WAIT + 3
    assert ((etc / "a").read_bytes(), (etc / "b").read_bytes()) == (b"new", b"old")
    os.kill(child, signal.SIGCONT)
    assert os.waitpid(child, 0)[1] == 0
    assert {path.name: path.read_bytes() for path in etc.iterdir()} == dict.fromkeys("abc", b"new")


def test_two_processes_on_one_volume_that_are_killed_again_and_again_leave_whole_sets(etc: Path) -> None:
    """Each has files of its own; who is not killed finds those of the dead all of one version."""
    put(etc / "volume/c")
    sets = [("a", "volume/c"), ("b", "volume/d")]
    for count in range(1, 50):
        which = sets[count % 2]
        for name in ("a", "b", "volume/c", "volume/d"):
            put(etc / name)

        def run(names: tuple[str, ...] = which) -> int:
            armed()
            commit(new(etc, *names))
            return 0

        killed_at_call(count, run)
        commit([Rendered(f"{etc}/{name}", b"other") for name in sets[1 - count % 2]])
        assert len({(etc / name).read_bytes() for name in which}) == 1
        assert not records(etc)


@needs_root
def test_a_full_disk_or_one_without_room_for_the_record_is_a_fault_before_any_rename(etc: Path) -> None:
    script = """
        import os, subprocess, sys
        from svcinit.agent.files.commit import commit
        from svcinit.agent.templates.render import Rendered
        from svcinit.errors import ConfigError
        etc = sys.argv[1]
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=64k", "x", etc], check=True)
        for name in "ab":
            with open(f"{etc}/{name}", "wb") as file:
                file.write(bytes(20000))
        try:
            commit(Rendered(f"{etc}/{name}", b"new") for name in "ab")
        except ConfigError as error:
            print(*error.faults, sep="\\n")
        print(os.listdir(etc), [os.stat(f"{etc}/{name}").st_size for name in "ab"])
    """
    fault, left = in_own_mounts(script, etc).splitlines()
    assert fault.startswith(f"cannot write {etc}/.svcinit-")
    assert fault.endswith(f".intent: no space left on device; free space on the file system of {etc}, or give it more")
    assert left in ("['a', 'b'] [20000, 20000]", "['b', 'a'] [20000, 20000]")


def test_a_record_that_cannot_be_written_is_a_fault_and_leaves_nothing(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Replacement.stage

    def full(file: Replacement) -> None:
        if file.path.endswith(".intent"):
            raise OSError(5, os.strerror(5))
        stage(file)

    monkeypatch.setattr(Replacement, "stage", full)
    before = state_of(etc)
    (fault,) = faults_of(*new(etc))
    assert fault.startswith(f"cannot write {etc}/.svcinit-")
    assert state_of(etc) == before


@needs_root
def test_the_records_of_all_directories_are_on_the_disk_before_the_first_file_is_replaced(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(etc / "volume/c")
    seen: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def synced(fd: int) -> None:
        seen.append(("fsync", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def renamed(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        seen.append(("rename", f"{os.readlink(f'/proc/self/fd/{dst_dir_fd}')}/{target}"))
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    commit(new(etc, "a", "b", "volume/c"))
    first = min(seen.index(("rename", f"{etc}/{name}")) for name in ("a", "b", "volume/c"))
    before = seen[:first]
    for folder in (etc, etc / "volume"):
        record = next(at for at, (what, path) in enumerate(before) if what == "rename" and is_record(path, folder))
        assert any(what == "fsync" and path.startswith(f"{folder}/.svcinit-") for what, path in before[:record])
        assert ("fsync", str(folder)) in before[record:]


@pytest.mark.parametrize(("number", "refused"), [(5, True), (28, True), (22, False)])
def test_a_record_that_the_disk_does_not_confirm_is_a_fault_before_any_rename(
    etc: Path, monkeypatch: pytest.MonkeyPatch, number: int, refused: bool
) -> None:
    """An error of the disk is a fault; a file system that cannot synchronize directories (EINVAL) is none."""
    fsync = os.fsync

    def fails(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fails)
    before = state_of(etc)
    if not refused:
        commit(new(etc))
        assert [(etc / name).read_bytes() for name in "ab"] == [b"new", b"new"]
        return
    (fault,) = faults_of(*new(etc))
    assert fault.startswith(f"cannot write {etc}/.svcinit-")
    assert os.strerror(number).lower() in fault
    assert state_of(etc) == before


@pytest.mark.parametrize("how", ["of another user", "readable by others", "a link", "a fifo"])
def test_a_record_that_somebody_planted_is_not_believed(etc: Path, how: str) -> None:
    half(etc, new(etc))
    (record,) = records(etc)
    if how == "of another user":
        os.chown(record, NOBODY, NOBODY)
    elif how == "readable by others":
        record.chmod(0o640)
    elif how == "a link":
        record.rename(etc.parent / "elsewhere")
        record.symlink_to(etc.parent / "elsewhere")
    else:
        record.unlink()
        os.mkfifo(record)
    commit(new(etc, "c"))
    assert (etc / "a").read_bytes() == b"new"
    assert os.path.lexists(record)


def test_a_record_reaches_only_files_of_its_own_directory(etc: Path) -> None:
    half(etc, new(etc))
    (record,) = records(etc)
    victim = put(etc.parent / "shadow/a", b"new")
    record.write_bytes(record.read_bytes().replace(f"{etc}/a".encode(), f"{victim}".encode()))
    commit(new(etc, "c"))
    assert victim.read_bytes() == b"new"


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda _: b"null\n",
        lambda _: b"[" * 100_000,
        lambda data: data.replace(b"intent 2", b"intent 1"),
        lambda _: json.dumps({"format": journal.FORMAT, "files": [[1]], "created": [], "folders": []}).encode() + b"\n",
    ],
)
def test_a_damaged_record_changes_nothing(etc: Path, damage: object) -> None:
    half(etc, new(etc))
    (record,) = records(etc)
    record.write_bytes(damage(record.read_bytes()))  # type: ignore[operator]
    commit(new(etc, "c"))
    assert ((etc / "a").read_bytes(), (etc / "b").read_bytes()) == (b"new", b"old")
    assert record.exists()


def test_one_file_alone_needs_no_record(etc: Path) -> None:
    assert not records(etc)
    seen = etc.parent / "seen"
    commit([Rendered(f"{etc}/a", b"new", check=f"sh -c 'ls -a {etc} >{seen}' {{}}")])
    assert ".intent" not in seen.read_text()


def test_a_secret_that_a_record_holds_is_for_svcinit_alone(etc: Path) -> None:
    put(etc / "a", b"hunter2", 0o600)
    half(etc, new(etc))
    (record,) = records(etc)
    assert record.stat().st_mode & 0o777 == 0o600
    assert b"hunter2" in record.read_bytes()
    commit(new(etc))
    assert not records(etc)
