"""SVCINIT_RUN holds what others put there: nothing is waited for, believed, or written through."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import tempfile
from collections.abc import Callable

import pytest

from svcinit import state_files as state
from svcinit.agent.consul.api import connect
from svcinit.agent.metrics import overview
from svcinit.agent.registration import presence
from svcinit.settings import environment
from svcinit.state_files import clear, directories, home, read_of_life, write_state

root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
NOBODY = 65534
LIFE = {"life": "ours", "pid": 7}


def all_of(folder: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def written(folder: pathlib.Path) -> bool:
    write_state(str(folder), "init", LIFE)
    return read_of_life(str(folder), "init", "ours") == LIFE


def big(path: pathlib.Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 << 20)


def linked(path: pathlib.Path) -> None:
    other = path.with_name("other")
    other.write_text(json.dumps(LIFE))
    path.symlink_to(other)


PLANTS: dict[str, Callable[[pathlib.Path], object]] = {
    "a fifo": os.mkfifo,
    "a directory": os.mkdir,
    "a link": linked,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a terminal": lambda path: path.symlink_to("/dev/tty"),
    "100 MB": big,
    "nonsense": lambda path: path.write_bytes(b"\xff{"),
    "too deep": lambda path: path.write_text(100000 * "["),
    "a list": lambda path: path.write_text("[1]"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_as_a_state_file_is_read_by_nobody_and_holds_nobody_up(
    tmp_path: pathlib.Path, plant: str
) -> None:
    PLANTS[plant](tmp_path / "init.json")
    assert read_of_life(str(tmp_path), "init", "ours") is None
    assert written(tmp_path)


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_where_a_new_file_is_made_is_replaced_and_nothing_is_written_through_it(
    tmp_path: pathlib.Path, plant: str
) -> None:
    PLANTS[plant](tmp_path / ".init.json.new")
    before = (tmp_path / "other").read_text() if plant == "a link" else ""
    assert written(tmp_path)
    assert (tmp_path / "init.json").exists() or plant == "a directory"
    assert before == ((tmp_path / "other").read_text() if plant == "a link" else "")


@root
def test_a_file_of_another_user_is_not_believed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "init.json").write_text(json.dumps(LIFE))
    assert read_of_life(str(tmp_path), "init", "ours") == LIFE
    os.chown(tmp_path / "init.json", NOBODY, NOBODY)
    assert read_of_life(str(tmp_path), "init", "ours") is None
    assert written(tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_in_a_directory_that_others_can_write_to_svcinit_has_one_of_its_own(tmp_path: pathlib.Path, mode: int) -> None:
    tmp_path.chmod(mode)
    assert written(tmp_path)
    (own,) = tmp_path.iterdir()
    assert own.name == f"svcinit-{home()}"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode, "what is not ours is left as it is"
    clear(str(tmp_path))
    assert all_of(tmp_path) == []


@root
def test_so_it_has_in_a_directory_of_another_user_and_its_name_may_be_taken(tmp_path: pathlib.Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    own = tmp_path / f"svcinit-{home()}"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    assert not written(tmp_path)
    own.rmdir()
    own.symlink_to("/tmp")
    assert not written(tmp_path)
    own.unlink()
    assert written(tmp_path)


def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    write_state(str(tmp_path / "run"), "init", LIFE)
    assert not (tmp_path / "real" / "init.json").exists()


def test_state_of_another_container_in_the_same_directory_is_not_taken_for_ours(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert written(tmp_path)
    monkeypatch.setattr(state, "home", lambda: "1-2")
    assert read_of_life(str(tmp_path), "init", "ours") is None


def test_without_proc_there_is_one_place_and_no_directory_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "home", lambda: "")
    assert list(directories(None)) == ["/run/svcinit"]
    assert list(directories("/a")) == ["/a"]


def test_a_directory_that_svcinit_was_given_keeps_its_files_at_the_end(tmp_path: pathlib.Path) -> None:
    assert written(tmp_path)
    clear(str(tmp_path))
    assert all_of(tmp_path) == ["init.json"]


MISSHAPEN = [
    {},
    {"requests": 7},
    {"requests": {"GET kv": 7}, "services": {}},
    {"requests": {"GET kv": {"outcomes": {"ok": "x"}, "seconds": {}}}, "services": {}},
    {"requests": {}, "services": [1]},
    {"requests": {}, "services": {"web": {"registrations": "many"}}},
    {"requests": {}, "services": {"web": 7}},
    {"services": {"web": 7}, "watch": 7},
]


@pytest.mark.parametrize("planted", MISSHAPEN)
def test_a_presence_whose_file_was_replaced_begins_all_the_same(
    tmp_path: pathlib.Path, planted: dict[str, object]
) -> None:
    env = {
        "SVCINIT_SERVICE": "web",
        "SVCINIT_ID": "web",
        "SVCINIT_RUN": str(tmp_path),
        "CONSUL_HTTP_ADDR": "127.0.0.1:1",
    }
    (tmp_path / "presence.json").write_text(json.dumps({"life": "ours", **planted}))
    settings = environment.read(env)
    made = presence.Presence(settings, connect(settings), lambda: None, life="ours")
    made.write_state()
    assert json.loads((tmp_path / "presence.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("planted", MISSHAPEN)
def test_a_status_is_told_all_the_same(tmp_path: pathlib.Path, planted: dict[str, object]) -> None:
    for name in ("presence", "prepare"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"life": "ours", **planted}))
    assert overview.overview({"life": "ours", "started_monotonic": 0.0}, str(tmp_path))["life"] == "ours"


@root
def test_another_user_of_the_container_reads_and_writes_nothing(tmp_path: pathlib.Path) -> None:
    """`docker exec --user` may come as anybody."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        assert written(pathlib.Path(folder))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setuid(NOBODY)
                write_state(folder, "init", {})
                code = 0 if read_of_life(folder, "init", "ours") is None else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert all_of(pathlib.Path(folder)) == ["init.json"]
        assert read_of_life(folder, "init", "ours") == LIFE
