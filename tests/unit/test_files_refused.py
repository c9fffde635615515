"""Places that cannot be written, as they are met: another user, full, read-only, a mount, a directory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from places import NOBODY, faults_of, needs_root, put, state_of, without_times
from svcinit.agent.files.commit import commit, rollback, rollback_record
from svcinit.agent.templates.render import Rendered
from svcinit.errors import SvcinitError


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that other users may come to, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def in_child(run: Callable[[], str], uid: int | None = None) -> str:
    """Run in a forked process, as another user if told so; return what it returns or its faults."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if uid is not None and os.geteuid() == 0:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            text = run()
        except SvcinitError as error:
            text = "\n".join(error.faults)
        except BaseException as error:
            text = repr(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text


def in_own_mounts(script: str, *arguments: object) -> str:
    """Run a script of Python in a mount namespace of its own, root in it; return what it prints."""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=20,
    )
    return done.stdout


def test_a_directory_a_fifo_and_a_file_for_a_parent_are_reported_together_and_nothing_is_written(
    etc: Path,
) -> None:
    (etc / "dir").mkdir()
    os.mkfifo(etc / "fifo")
    put(etc / "file")
    before = state_of(etc)
    assert faults_of(
        Rendered(f"{etc}/ok", b"x"),
        Rendered(f"{etc}/dir", b"x"),
        Rendered(f"{etc}/fifo", b"x"),
        Rendered(f"{etc}/file/x", b"x"),
    ) == (
        f"cannot write {etc}/dir: it is a directory; remove it, or rename the template",
        f"cannot write {etc}/fifo: it is not a regular file; remove it, or rename the template",
        f"cannot write {etc}/file/x: not a directory; a part of {etc}/file is a file: remove that file, or rename"
        " the template",
    )
    assert state_of(etc) == before


def test_two_targets_that_are_one_file_are_a_fault(etc: Path) -> None:
    put(etc / "a")
    (etc / "b").symlink_to("a")
    assert faults_of(Rendered(f"{etc}/a", b"1"), Rendered(f"{etc}/b", b"2")) == (
        f"{etc}/a and {etc}/b are the same file: keep only one of the templates",
    )


def test_links_in_a_circle_are_a_fault(etc: Path) -> None:
    (etc / "a").symlink_to("b")
    (etc / "b").symlink_to("a")
    (fault,) = faults_of(Rendered(f"{etc}/a", b"1"))
    assert fault.startswith(f"cannot write {etc}/a")
    assert "too many levels of symbolic links" in fault


def test_a_destination_that_this_user_may_not_write_is_named_with_what_to_do(open_folder: Path) -> None:
    etc = open_folder / "etc"
    etc.mkdir()
    put(etc / "a")
    etc.chmod(0o555)
    own = open_folder / "own"
    own.mkdir()
    if os.geteuid() == 0:
        os.chown(own, NOBODY, NOBODY)
    before = state_of(open_folder)

    def run() -> str:
        commit([Rendered(f"{own}/new/b", b"x"), Rendered(f"{etc}/a", b"new"), Rendered(f"{etc}/d/e", b"new")])
        return "no fault"

    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    assert in_child(run, uid).splitlines() == [
        f"cannot write {etc}/{path}: permission denied; let uid {uid} write to {etc}{below}, or run svcinit"
        " as another user"
        for path, below in (("a", ""), ("d/e", "/d"))
    ]
    assert state_of(open_folder) == before


@needs_root
def test_a_user_who_may_not_give_files_away_is_told_so(open_folder: Path) -> None:
    os.chown(open_folder, NOBODY, NOBODY)
    put(open_folder / "roots")

    def run() -> str:
        files = [Rendered(f"{open_folder}/roots", b"new"), Rendered(f"{open_folder}/new", b"x", None, (0, 0))]
        commit(files)
        return "no fault"

    faults = in_child(run, NOBODY).splitlines()
    assert [fault.partition(":")[0] for fault in faults] == [
        f"cannot give {open_folder}/roots to uid 0 and gid 0",
        f"cannot give {open_folder}/new to uid 0 and gid 0",
    ]
    assert faults[0].endswith("change the owner in the image, or run svcinit as root with CAP_CHOWN")
    assert without_times(state_of(open_folder)) == {f"{open_folder}/roots": (b"old", 0o644, 0, 0)}


@needs_root
def test_any_user_can_write_what_is_theirs(open_folder: Path) -> None:
    os.chown(open_folder, NOBODY, NOBODY)

    def run() -> str:
        first = commit([Rendered(f"{open_folder}/a/b", b"1", 0o400)])
        second = commit([Rendered(f"{open_folder}/a/b", b"2", 0o440, (NOBODY, NOBODY))])
        rollback(rollback_record(second))
        rollback(rollback_record(first))
        return f"{first.changed == second.changed} {os.listdir(open_folder)}"

    assert in_child(run, NOBODY) == "True []"


@needs_root
def test_a_read_only_and_a_full_file_system_are_named_with_what_to_do(etc: Path) -> None:
    script = """
        import os, subprocess, sys
        from svcinit.agent.files.commit import commit
        from svcinit.agent.templates.render import Rendered
        from svcinit.errors import ConfigError
        etc = sys.argv[1]
        for name, options in (("ro", "ro"), ("full", "size=64k")):
            os.mkdir(f"{etc}/{name}")
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "x", f"{etc}/{name}"], check=True)
        try:
            names = ("ok", "ro/d/a", "ro/b", "full/a")
            commit(Rendered(f"{etc}/{name}", bytes(10**6)) for name in names)
        except ConfigError as error:
            print(*error.faults, sep="\\n")
        print(os.listdir(etc), os.listdir(f"{etc}/full"))
    """
    assert in_own_mounts(script, etc).splitlines() == [
        f"cannot write {etc}/ro/d/a: read-only file system; mount a tmpfs or a volume on {etc}/ro/d",
        f"cannot write {etc}/ro/b: read-only file system; mount a tmpfs or a volume on {etc}/ro",
        f"cannot write {etc}/full/a: no space left on device; free space on the file system of {etc}/full, or"
        " give it more",
        "['ro', 'full'] []",
    ]


@needs_root
@pytest.mark.parametrize("options", ["rw", "ro"])
def test_a_file_that_is_a_mount_is_written_in_place_with_a_warning_and_rolled_back(etc: Path, options: str) -> None:
    """`docker run -v /srv/app.conf:/etc/app.conf`, without and with `--read-only`."""
    put(etc.parent / "srv.conf", b"old, and longer", 0o640)
    script = """
        import os, subprocess, sys
        from svcinit.agent.files.commit import commit, rollback, rollback_record
        from svcinit.agent.templates.render import Rendered
        from svcinit.errors import ConfigError
        etc, source, options = sys.argv[1:]
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "x", etc], check=True)
        open(f"{etc}/app.conf", "w").close()
        subprocess.run(["mount", "--bind", source, f"{etc}/app.conf"], check=True)
        subprocess.run(["mount", "-o", f"remount,{options},bind", etc], check=True)
        def show():
            kind = os.stat(f"{etc}/app.conf")
            print(open(f"{etc}/app.conf").read(), oct(kind.st_mode), kind.st_uid, os.listdir(etc), flush=True)
        done = commit([Rendered(f"{etc}/app.conf", b"new", 0o600, (7, 8), "grep -q new {}")])
        show()
        rollback(rollback_record(done))
        show()
        try:
            commit([Rendered(f"{etc}/app.conf", b"newer", check="grep -q new$ {}")])
        except ConfigError as error:
            print(error)
        show()
    """
    warning = f"svcinit: warning: {etc}/app.conf is a mounted file: it was written in place, not atomically"
    old = f"old, and longer 0o100640 {os.getuid()} ['app.conf']"
    assert in_own_mounts(script, etc, etc.parent / "srv.conf", options).splitlines() == [
        warning,
        "new 0o100600 7 ['app.conf']",
        warning,
        old,
        f"{etc}/app.conf was not accepted by its check, `grep -q new$ {{}}`: exit status 1",
        old,
    ]
    assert (etc.parent / "srv.conf").read_bytes() == b"old, and longer"
