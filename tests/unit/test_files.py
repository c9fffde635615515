"""Files as whoever reads them finds them: whole, old or new, with the mode and owner asked for."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from places import NOBODY, faults_of, mode_of, needs_root, put, state_of, without_times
from svcinit.agent.files.commit import commit, rollback, rollback_record
from svcinit.agent.templates.render import Rendered
from svcinit.errors import SvcinitError


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder


# what is written


def test_new_files_appear_with_their_directories_0644_and_0755_whatever_the_umask(etc: Path) -> None:
    before = os.umask(0o077)
    try:
        committed = commit([Rendered(f"{etc}/a/b/c.ini", b"x"), Rendered(f"{etc}/d.ini", b"y")])
    finally:
        os.umask(before)
    assert committed.changed == [f"{etc}/a/b/c.ini", f"{etc}/d.ini"]
    assert (etc / "a/b/c.ini").read_bytes() == b"x"
    assert [mode_of(etc / name) for name in ("a", "a/b", "a/b/c.ini")] == [0o755, 0o755, 0o644]
    assert sorted(os.listdir(etc)) == ["a", "d.ini"]


def test_new_directories_have_the_mode_that_the_template_asks_for(etc: Path) -> None:
    commit([Rendered(f"{etc}/a/b/c.ini", b"x", dirs=0o750)])
    assert [mode_of(etc / name) for name in ("a", "a/b", "a/b/c.ini")] == [0o750, 0o750, 0o644]
    commit([Rendered(f"{etc}/a/d.ini", b"x", dirs=0o700)])
    assert mode_of(etc / "a") == 0o750  # it exists


def test_the_file_of_before_is_kept_with_its_mode_and_comes_back_with_a_rollback(etc: Path) -> None:
    def write(content: bytes) -> bytes:
        made = commit([Rendered(f"{etc}/a", content, 0o640, backup=True), Rendered(f"{etc}/b", content)])
        assert made.changed == ([f"{etc}/a", f"{etc}/b"] if made.changed else [])
        return rollback_record(made)

    write(b"1")
    assert sorted(os.listdir(etc)) == ["a", "b"]  # there was no file before
    os.chmod(etc / "a", 0o600)
    write(b"2")
    assert ((etc / "a.bak").read_bytes(), mode_of(etc / "a.bak")) == (b"1", 0o600)
    before = without_times(state_of(etc))
    write(b"2")
    assert without_times(state_of(etc)) == before  # no change: the backup stays
    record = write(b"3")
    assert (etc / "a.bak").read_bytes() == b"2"
    rollback(record)
    assert without_times(state_of(etc)) == before
    rollback(record)
    assert without_times(state_of(etc)) == before


def test_a_refused_commit_writes_no_backup(etc: Path) -> None:
    put(etc / "a", b"1")
    before = state_of(etc)
    assert faults_of(Rendered(f"{etc}/a", b"2", check="false {}", backup=True))
    assert state_of(etc) == before
    assert faults_of(Rendered(f"{etc}/a", b"2", backup=True), Rendered(f"{etc}/a.bak", b"x"))
    assert state_of(etc) == before
    os.mkdir(etc / "a.bak")
    assert faults_of(Rendered(f"{etc}/a", b"2", backup=True))
    assert (etc / "a").read_bytes() == b"1"


def test_a_file_that_is_as_asked_is_not_touched(etc: Path) -> None:
    put(etc / "same", b"x", 0o600)
    put(etc / "other", b"x", 0o600)
    os.utime(etc / "same", (1, 1))
    before = state_of(etc)[f"{etc}/same"]
    committed = commit([Rendered(f"{etc}/same", b"x", 0o600), Rendered(f"{etc}/other", b"y")])
    assert committed.changed == [f"{etc}/other"]
    assert state_of(etc)[f"{etc}/same"] == before


@needs_root
def test_mode_and_owner_stay_where_nobody_asked_for_others(etc: Path) -> None:
    put(etc / "a", mode=0o604)
    os.chown(etc / "a", 7, 8)
    commit([Rendered(f"{etc}/a", b"new")])
    assert without_times(state_of(etc)) == {f"{etc}/a": (b"new", 0o604, 7, 8)}


@needs_root
def test_mode_and_owner_alone_are_corrected_too(etc: Path) -> None:
    put(etc / "mode")
    put(etc / "owner", mode=0o4755)
    committed = commit(
        [Rendered(f"{etc}/mode", b"old", 0o640), Rendered(f"{etc}/owner", b"old", None, (NOBODY, NOBODY))]
    )
    assert len(committed.changed) == 2
    assert without_times(state_of(etc)) == {
        f"{etc}/mode": (b"old", 0o640, os.getuid(), os.getgid()),
        f"{etc}/owner": (b"old", 0o4755, NOBODY, NOBODY),
    }


def test_a_target_that_is_a_link_stays_one_and_what_it_leads_to_is_written(etc: Path) -> None:
    put(etc / "real/a")
    (etc / "a").symlink_to("b")
    (etc / "b").symlink_to("real/a")
    (etc / "dangling").symlink_to("new/c")
    commit([Rendered(f"{etc}/a", b"x"), Rendered(f"{etc}/dangling", b"y")])
    assert os.readlink(etc / "a") == "b"
    assert (etc / "real/a").read_bytes() == b"x"
    assert (etc / "new/c").read_bytes() == b"y"
    assert os.readlink(etc / "dangling") == "new/c"


def test_names_as_long_as_they_may_be_or_not_utf8_can_be_written(etc: Path) -> None:
    targets = [f"{etc}/{'ü' * 127}", os.fsdecode(os.fsencode(etc) + b"/\xff"), f"{etc}/a b\n"]
    committed = commit([Rendered(target, b"x") for target in targets])
    assert sorted(os.listdir(etc)) == sorted(os.path.basename(target) for target in targets)
    rollback(rollback_record(committed))
    assert os.listdir(etc) == []


def test_a_secret_is_never_readable_by_others_on_its_way(etc: Path) -> None:
    target = put(etc / "secret", mode=0o644)
    modes = etc.parent / "modes"
    check = f"sh -c 'stat -c %a {{}} >{modes}; stat -c %a {target} >>{modes}'"
    commit([Rendered(str(target), b"hunter2", 0o600, check=check)])
    assert modes.read_text() == "600\n644\n"
    assert mode_of(target) == 0o600


def test_half_a_megabyte_of_any_bytes_arrives(etc: Path) -> None:
    content = bytes(range(256)) * 2000
    commit([Rendered(f"{etc}/a", content)])
    assert (etc / "a").read_bytes() == content


# checks


def test_a_check_sees_the_new_version_beside_the_old_one_under_a_name_with_the_same_end(etc: Path) -> None:
    put(etc / "app.ini")
    seen = etc.parent / "seen"
    check = f'sh -c "cat {{}} {etc}/app.ini >{seen}; echo {{}} $WHO >>{seen}"'
    commit([Rendered(f"{etc}/app.ini", b"new", check=check)], env={"WHO": "me", "PATH": os.environ["PATH"]})
    content, _, rest = seen.read_text().partition(str(etc))
    assert content == "newold"
    assert rest.endswith("app.ini me\n")


def test_what_a_check_refuses_is_not_written_nor_is_anything_else(etc: Path) -> None:
    put(etc / "a")
    put(etc / "c")
    before = state_of(etc)
    faults = faults_of(
        Rendered(f"{etc}/a", b"new"),
        Rendered(f"{etc}/new/b", b"new", check="sh -c 'echo reading {}; echo unknown directive >&2; exit 3' {}"),
        Rendered(f"{etc}/c", b"new", check="false {}"),
    )
    assert faults == (
        f"{etc}/new/b was not accepted by its check, "
        "`sh -c 'echo reading {}; echo unknown directive >&2; exit 3'"
        f" {{}}`: exit status 3; it said: reading {etc}/new/b / unknown directive",
        f"{etc}/c was not accepted by its check, `false {{}}`: exit status 1",
    )
    assert state_of(etc) == before


@pytest.mark.sentences
@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (
            "/no/such/command {}",
            "exit status 127; it said: svcinit: error: /no/such/command: command not found",
        ),
        ("' ' {}", "exit status 127; it said: svcinit: error:  : command not found"),
        ("sh -c 'kill -9 $$' {}", "killed by signal 9"),
        ("sh -c 'echo waiting; exec sleep 60' {}", "it took longer than 1.5 s; it said: waiting"),
        ("sh -c 'sleep 2 & exec sleep 60' {}", "it took longer than 1.5 s"),
        ("sh -c 'cat; test -t 0' {}", "exit status 1"),
        ("sh -c 'x {}", "a quote in the command is not closed"),
        (r"sh -c 'printf %1000s y; exit 1' {}", "exit status 1; it said: y"),
    ],
)
def test_it_is_said_how_a_check_failed(etc: Path, check: str, reason: str) -> None:
    start = time.monotonic()
    timeout = 1.5 if "took longer" in reason else 10.0
    (fault,) = faults_of(Rendered(f"{etc}/a", b"x", check=check), timeout=timeout)
    assert fault == f"{etc}/a was not accepted by its check, `{check}`: {reason}"
    assert time.monotonic() - start < 5
    assert os.listdir(etc) == []


def test_of_a_traceback_the_exception_is_shown(etc: Path) -> None:
    script = b"def f(n):\n    if n:\n        f(n - 1)\n    raise ValueError('bad port')\nf(50)\n"
    deep = put(etc.parent / "check.py", script)
    (fault,) = faults_of(Rendered(f"{etc}/a", b"x", check=f"{sys.executable} {deep} {{}}"))
    assert fault.endswith("ValueError: bad port")


def test_of_a_talkative_check_the_end_is_shown(etc: Path) -> None:
    (fault,) = faults_of(Rendered(f"{etc}/a", b"x", check="sh -c 'seq 100000; exit 1' {}"))
    said = fault.partition("it said: ")[2]
    assert len(said) == 300
    assert said.endswith("99999 / 100000")


def test_checks_can_be_left_out_and_a_script_can_be_its_own_check(etc: Path) -> None:
    commit([Rendered(f"{etc}/a", b"x", check="false {}")], checks=False)
    commit([Rendered(f"{etc}/b", b"#!/bin/sh\nexit 0\n", 0o755, check="{} --check")])
    assert sorted(os.listdir(etc)) == ["a", "b"]


# all or none


def test_when_a_rename_fails_the_earlier_ones_are_rolled_back(etc: Path) -> None:
    put(etc / "a", mode=0o640)
    put(etc / "c")
    files = [
        Rendered(f"{etc}/a", b"new"),
        Rendered(f"{etc}/new/b", b"new"),
        # Its check does what nobody should: the target becomes a directory after it was looked at.
        Rendered(f"{etc}/c", b"new", check=f"sh -c 'rm {etc}/c; mkdir {etc}/c' {{}}"),
        Rendered(f"{etc}/d", b"new"),
    ]
    faults = faults_of(*files)
    assert faults[0] == f"cannot write {etc}/c: is a directory; remove it, or rename the template"
    assert faults[1] == f"{etc}/c could not be rolled back: it is a directory"
    assert sorted(name for name in os.listdir(etc) if not name.endswith(".intent")) == ["a", "c", "new"]
    assert (etc / "a").read_bytes() == b"old"
    assert mode_of(etc / "a") == 0o640
    (etc / "c").rmdir()
    commit([Rendered(f"{etc}/{name}", b"new") for name in ("a", "new/b", "c", "d")])  # which removes the record
    assert sorted(os.listdir(etc)) == ["a", "c", "d", "new"]
    assert os.listdir(etc / "new") == ["b"]


@needs_root
def test_a_rollback_restores_content_mode_and_owner_and_removes_what_was_not_there(etc: Path) -> None:
    put(etc / "a", b"\x00old\r\n", 0o2751)
    os.chown(etc / "a", 7, 8)
    os.chmod(etc / "a", 0o2751)
    put(etc / "same")
    (etc / "link").symlink_to("far/b")
    before = without_times(state_of(etc))
    files = [Rendered(f"{etc}/{name}", b"new", 0o600, (9, 9)) for name in ("a", "link", "x/y/z", "x/w")]
    record = rollback_record(commit([*files, Rendered(f"{etc}/same", b"old")]))
    assert (etc / "far/b").read_bytes() == b"new"
    rollback(record)
    assert without_times(state_of(etc)) == before
    after = state_of(etc)
    rollback(record)  # by one who does not know that it was done already
    assert state_of(etc) == after


def test_a_rollback_leaves_a_directory_that_somebody_uses_by_now(etc: Path) -> None:
    record = rollback_record(commit([Rendered(f"{etc}/new/a", b"x")]))
    put(etc / "new/of-another")
    rollback(record)
    assert os.listdir(etc / "new") == ["of-another"]


def test_a_rollback_of_nothing_does_nothing_and_a_damaged_record_is_a_fault(etc: Path) -> None:
    rollback(b"")
    rollback(rollback_record(commit([])))
    record = rollback_record(commit([Rendered(f"{etc}/a", b"x")]))
    for damaged in (b"junk", record[:-5], b"i\x01\x00\x00\x00"):
        with pytest.raises(SvcinitError, match="is damaged: no file was rolled back"):
            rollback(damaged)
    assert os.listdir(etc) == ["a"]


def test_a_rollback_restores_all_it_can_and_names_the_rest(etc: Path) -> None:
    put(etc / "a")
    put(etc / "b")
    record = rollback_record(commit([Rendered(f"{etc}/a", b"new"), Rendered(f"{etc}/b", b"new")]))
    (etc / "b").unlink()
    (etc / "b").mkdir()
    with pytest.raises(SvcinitError) as caught:
        rollback(record)
    assert caught.value.faults == (f"{etc}/b could not be rolled back: it is a directory",)
    assert (etc / "a").read_bytes() == b"old"


# promises

FILES = st.dictionaries(st.sampled_from(["a", "b", "d/c", "d/e/f"]), st.binary(max_size=20), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(FILES, FILES, st.sampled_from(["check", "directory"]))
def test_a_commit_that_fails_changes_no_byte_and_one_that_does_not_is_repeatable_and_can_be_rolled_back(
    etc: Path, old: dict[str, bytes], new: dict[str, bytes], failure: str
) -> None:
    with tempfile.TemporaryDirectory(dir=etc) as name:
        folder = Path(name)
        for path, content in old.items():
            put(folder / path, content)
        (folder / "z").mkdir()
        files = [Rendered(str(folder / path), content) for path, content in new.items()]
        before = state_of(folder)
        bad = Rendered(f"{folder}/bad", b"x", check="false {}") if failure == "check" else Rendered(f"{folder}/z", b"x")
        assert len(faults_of(*files, bad)) == 1
        assert state_of(folder) == before

        committed = commit(files)
        assert {path: (folder / path).read_bytes() for path in new} == new
        after = state_of(folder)
        assert commit(files).changed == []
        assert state_of(folder) == after
        rollback(rollback_record(committed))
        assert without_times(state_of(folder)) == without_times(before)
