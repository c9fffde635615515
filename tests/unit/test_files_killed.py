"""kill -9 in the middle of it."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from killing import killed_at
from places import mode_of, put
from svcinit.agent.files.commit import commit, rollback, rollback_record
from svcinit.agent.templates.render import Rendered


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder


def test_killed_at_any_point_every_target_is_whole_and_the_next_commit_cleans_up(etc: Path) -> None:
    names = ("a", "b", "sub/c", "sub/d")
    old = {name: f"old {name}".encode() * 1000 for name in names}
    new = {name: f"new {name}".encode() * 2000 for name in names}
    files = [Rendered(str(etc / name), content, 0o640) for name, content in new.items()]
    seen: set[tuple[bool, ...]] = set()
    leftovers = 0
    count = 1
    while True:
        for name, content in old.items():
            put(etc / name, content, 0o600)
        if not killed_at(count, lambda: commit(files)):
            break
        now = {name: ((etc / name).read_bytes(), mode_of(etc / name)) for name in names}
        assert all(now[name] in ((old[name], 0o600), (new[name], 0o640)) for name in names)
        seen.add(tuple(now[name][0] == new[name] for name in names))
        leftovers += any(path.name.startswith(".svcinit-") for path in etc.rglob(".*"))
        commit(files)
        assert {str(path.relative_to(etc)) for path in etc.rglob("*")} == {*names, "sub"}
        assert all((etc / name).read_bytes() == new[name] for name in names)
        count += 1
    assert seen == {tuple(index < done for index in range(4)) for done in range(5)}  # killed between all renames
    assert leftovers > 10


def test_killed_at_any_point_of_a_rollback_every_target_is_whole_and_it_can_be_repeated(etc: Path) -> None:
    files = [Rendered(f"{etc}/a", b"new" * 1000), Rendered(f"{etc}/sub/b", b"new" * 1000)]
    put(etc / "a", b"old" * 2000)
    count = 1
    record = rollback_record(commit(files))
    while killed_at(count, partial(rollback, record)):
        assert (etc / "a").read_bytes() in (b"old" * 2000, b"new" * 1000)
        assert not (etc / "sub/b").exists() or (etc / "sub/b").read_bytes() == b"new" * 1000
        rollback(record)
        assert (etc / "a").read_bytes() == b"old" * 2000
        assert not (etc / "sub").exists()
        record = rollback_record(commit(files))
        count += 1
    assert count > 5


def test_the_staged_files_of_one_who_is_still_at_work_are_left_alone(etc: Path) -> None:
    """Two containers may share a directory."""
    ready = etc.parent / "ready"
    check = f"sh -c 'touch {ready}; while test -e {ready}; do sleep 0.02; done' {{}}"
    child = os.fork()
    if child == 0:
        commit([Rendered(f"{etc}/a", b"by the slow one", check=check)])
        os._exit(0)
    while not ready.exists():
        time.sleep(0.01)
    put(etc / ".svcinit-0123456789abcdef-b")
    put(etc / ".svcinit-of-another-make")
    commit([Rendered(f"{etc}/b", b"by the quick one")])
    assert not (etc / ".svcinit-0123456789abcdef-b").exists()
    ready.unlink()
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(os.listdir(etc)) == [".svcinit-of-another-make", "a", "b"]
    assert (etc / "a").read_bytes() == b"by the slow one"
