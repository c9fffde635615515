"""The service's user tries to lead svcinit's root to other files (docs/security.md). A real second user, no mocks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from places import NOBODY, faults_of, put, state_of, without_times
from svcinit.agent.files.commit import Committed, commit, rollback, rollback_record
from svcinit.agent.files.journal import Original
from svcinit.agent.prepare import cache
from svcinit.agent.templates.render import Rendered, find
from svcinit.errors import ConfigError, SvcinitError, Unavailable
from svcinit.settings.environment import read

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 1000
USER: tuple[int, int, tuple[int, ...], dict[str, str]] = (NOBODY, NOBODY, (), {})


@pytest.fixture(autouse=True)
def _root() -> None:
    assert os.geteuid() == 0, "run these tests as root: they need a second user"


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory of root's that other users can enter, unlike pytest's own; in memory, where fsync costs nothing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def victim(top: Path) -> Path:
    """What belongs to root alone, in a directory with files of the names that are attacked."""
    for name in ("passwd", "conf", "cache.json"):
        put(top / "victim" / name, b"root's", 0o600)
    (top / "victim").chmod(0o711)
    return top / "victim"


@pytest.fixture
def home(top: Path) -> Path:
    """The service's user's own directory."""
    return folder(top / "home", 0o755, NOBODY)


@pytest.fixture
def shared(top: Path) -> Path:
    """A directory such as /tmp."""
    return folder(top / "shared", 0o1777, 0)


def folder(path: Path, mode: int, uid: int) -> Path:
    path.mkdir()
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def link(path: Path, to: Path | str, uid: int = NOBODY) -> Path:
    path.symlink_to(to)
    os.lchown(path, uid, uid)
    return path


@contextmanager
def attacker(steps: Sequence[Callable[[], object]]) -> Iterator[None]:
    """A process of the service's user that takes these steps again and again."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            while os.getppid() != 1:
                for step in steps:
                    with suppress(OSError):
                        step()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def swaps(path: Path, victim: Path) -> list[Callable[[], object]]:
    """A directory, a link to root's directory and a link to root's file, in turn."""
    return [
        lambda: os.mkdir(path),
        lambda: os.rmdir(path),
        lambda: os.symlink(victim, path),
        lambda: os.unlink(path),
        lambda: os.symlink(victim / "passwd", path),
        lambda: os.unlink(path),
    ]


def test_the_page_names_tests_that_there_are() -> None:
    page = (ROOT / "docs/security.md").read_text()
    tests = "".join(
        (ROOT / path).read_text() for path in ("tests/unit/test_hostile_user.py", "tests/e2e/test_write_action.py")
    )
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 9
    assert [name for name in named if f"def {name}(" not in tests] == []


# what stands there already


@pytest.mark.parametrize("owner", [None, (NOBODY, NOBODY)])
def test_a_link_that_the_user_put_in_place_of_the_target_is_not_followed(
    home: Path, victim: Path, owner: tuple[int, int] | None
) -> None:
    link(home / "app.conf", victim / "passwd")
    before = state_of(victim)
    assert faults_of(Rendered(f"{home}/app.conf", b"new", 0o644, owner)) == (
        f"cannot use {home}/app.conf: {home} is a directory that belongs to uid {NOBODY}, so another user could"
        " redirect svcinit (uid 0) to another file; change its owner to root, or use a directory that only root can"
        " change",
    )
    assert state_of(victim) == before


def test_a_link_of_the_user_in_a_directory_of_root_is_refused_and_one_of_root_is_followed(
    top: Path, victim: Path
) -> None:
    etc = folder(top / "etc", 0o755, 0)
    link(etc / "users", victim)
    link(etc / "roots", victim, 0)
    (fault,) = faults_of(Rendered(f"{etc}/users/conf", b"new"))
    assert fault.startswith(f"cannot use {etc}/users/conf: {etc}/users is a link that belongs to uid {NOBODY}, so")
    commit([Rendered(f"{etc}/roots/conf", b"new")])
    assert (victim / "conf").read_bytes() == b"new"
    link(etc / "dots", "roots/../victim/./conf", 0)
    commit([Rendered(f"{etc}/dots", b"newer")])
    assert (victim / "conf").read_bytes() == b"newer"


def test_a_link_of_root_that_leads_into_a_directory_of_the_user_is_refused(top: Path, home: Path) -> None:
    link(top / "app.conf", home / "app.conf", 0)
    (fault,) = faults_of(Rendered(f"{top}/app.conf", b"new"))
    assert f"{home} is a directory that belongs to uid {NOBODY}" in fault
    assert os.listdir(home) == []


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_directory_in_which_others_can_rename_is_refused_with_what_to_do(top: Path, mode: int) -> None:
    folder(top / "open", mode, 0)
    (fault,) = faults_of(Rendered(f"{top}/open/new/conf", b"new"))
    assert f"{top}/open is a directory that others can write to (mode {mode:04o})" in fault
    assert "run chmod go-w on it" in fault
    assert os.listdir(top / "open") == []


def test_below_tmp_only_what_root_made_is_used(shared: Path, victim: Path) -> None:
    commit([Rendered(f"{shared}/own/conf", b"x"), Rendered(f"{shared}/own.conf", b"x")])
    folder(shared / "dir", 0o755, NOBODY)
    os.chown(put(shared / "file"), NOBODY, NOBODY)
    os.link(victim / "passwd", shared / "second")
    link(shared / "link", victim)
    os.link(link(victim / "roots", victim, 0), shared / "second-link", follow_symlinks=False)
    before = state_of(victim)
    faults = faults_of(
        Rendered(f"{shared}/own.conf", b"new", None, (NOBODY, NOBODY)),
        *(
            Rendered(f"{shared}/{name}", b"x")
            for name in ("dir/conf", "file", "second", "link/conf", "second-link/conf")
        ),
    )
    assert [fault.partition(": ")[2].partition(", so")[0] for fault in faults] == [
        f"{shared}/own.conf would belong to uid {NOBODY} and lies in a directory that others can write to",
        f"{shared}/dir is a directory that belongs to uid {NOBODY}",
        f"{shared}/file lies in a directory that others can write to and belongs to uid {NOBODY}",
        f"{shared}/second lies in a directory that others can write to and has several hard links",
        f"{shared}/link is a link that belongs to uid {NOBODY}",
        f"{shared}/second-link lies in a directory that others can write to and has several hard links",
    ]
    assert state_of(victim) == before


def test_a_file_that_belongs_to_the_user_in_a_directory_of_root_is_replaced(top: Path) -> None:
    target = put(top / "etc/app.conf")
    os.chown(target, NOBODY, NOBODY)
    commit([Rendered(str(target), b"new", 0o600, (NOBODY, NOBODY))])
    assert without_times(state_of(top))[str(target)] == (b"new", 0o600, NOBODY, NOBODY)


def test_the_cache_is_neither_read_nor_written_where_the_user_can_change_it(home: Path, victim: Path) -> None:
    link(home / "state", victim)
    settings = read({"SVCINIT_CACHE": f"{home}/state/cache.json"})
    before = state_of(victim)
    with pytest.raises(Unavailable, match=f"{home} is a directory that belongs to uid {NOBODY}"):
        cache.load(settings)
    with pytest.raises(ConfigError, match=f"{home} is a directory that belongs to uid {NOBODY}"):
        cache.save(settings, cache.Snapshot({}, {}, 0.0))
    assert state_of(victim) == before


def test_templates_that_the_user_can_change_are_not_run_as_root(top: Path) -> None:
    tree = folder(top / "templates", 0o755, 0)
    put(tree / "etc/fine.j2")
    assert [source.target for source in find([str(tree)], user=USER)] == ["/etc/fine"]
    os.chown(put(tree / "etc/a.j2"), NOBODY, NOBODY)
    put(tree / "etc/b.j2", mode=0o666)
    folder(tree / "etc/c", 0o775, NOBODY)
    os.chown(tree / "etc/c", 0, NOBODY)
    link(tree / "etc/d", "c")
    for uid in (NOBODY, 0):  # who can change the way to the tree can change all of it
        os.chown(top, uid, uid)
        with pytest.raises(ConfigError) as caught:
            find([str(tree)], user=USER)
        changeable = [top] if uid else []
        changeable += [tree / "etc" / name for name in ("a.j2", "b.j2", "c", "d")]
        assert [fault.partition(" contains templates, and SVCINIT_USER (uid 65534) can change it")[0]
                for fault in caught.value.faults] == [str(path) for path in changeable]  # fmt: skip
    assert len(find([str(tree)])) == 3  # there is no other user


# races


def committed(target: Path) -> None:
    commit([Rendered(str(target), b"new", 0o644)])


def undone(target: Path) -> None:
    """By the record of a commit that made the target and its directory."""
    rollback(rollback_record(Committed([], [Original(str(target), None, "")], [str(target.parent)])))
    committed(target)


def cached(target: Path) -> None:
    cache.save(read({"SVCINIT_CACHE": str(target.with_name("cache.json"))}), cache.Snapshot({}, {}, 0.0))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("act", [committed, undone, cached])
def test_a_directory_swapped_for_a_link_a_thousand_times_leads_nothing_astray(
    shared: Path, victim: Path, act: Callable[[Path], None], report: Callable[[str], None]
) -> None:
    before = state_of(victim), victim.stat().st_mode
    written = 0
    with attacker(swaps(shared / "app", victim)):
        for _ in range(ROUNDS):
            with suppress(SvcinitError, OSError):
                act(shared / "app" / "conf")
                written += 1
                shutil.rmtree(shared / "app")
            assert (state_of(victim), victim.stat().st_mode) == before
    report(
        f"a hostile user against {act.__name__}: {written} of {ROUNDS} written, {ROUNDS - written} refused, 0 astray"
    )
    assert 0 < written < ROUNDS


@pytest.mark.timeout(60)
@pytest.mark.parametrize("owner", [None, (NOBODY, NOBODY)])
def test_in_a_directory_of_the_user_nothing_is_written_a_thousand_times(
    home: Path, victim: Path, owner: tuple[int, int] | None
) -> None:
    before = state_of(victim), victim.stat().st_mode
    with attacker(swaps(home / "app", victim)):
        for _ in range(ROUNDS):
            for target in (home / "app", home / "app" / "conf"):
                with pytest.raises(ConfigError, match=f"belongs to uid {NOBODY}"):
                    commit([Rendered(str(target), b"new", None, owner)])
            assert (state_of(victim), victim.stat().st_mode) == before


def test_a_staged_file_of_root_is_out_of_the_users_reach(shared: Path, victim: Path) -> None:
    """Between the write and the rename the check command runs: it waits until the user has tried."""
    tried = shared / "tried"

    def attack() -> None:
        for name in os.listdir(shared):
            if name.startswith(".svcinit-"):
                for act in (os.unlink, lambda path: os.rename(path, shared / "taken"), lambda path: open(path).close()):
                    with suppress(OSError):
                        act(shared / name)
                        (shared / "reached").touch()
                tried.touch()

    with attacker([attack]):
        check = f"sh -c 'for i in $(seq 500); do test -e {tried} && exit 0; sleep 0.01; done; exit 1' {{}}"
        commit([Rendered(f"{shared}/conf", b"secret", 0o600, check=check)])
    assert sorted(os.listdir(shared)) == ["conf", "tried"]
    assert without_times(state_of(shared))[f"{shared}/conf"] == (b"secret", 0o600, 0, 0)
