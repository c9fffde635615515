"""The last-known-good cache: whole or refused, never half believed."""

from __future__ import annotations

import json
import os
import pathlib
import time
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from killing import killed_at
from places import mode_of
from svcinit.agent.consul.discovery import Peer
from svcinit.agent.prepare.cache import Snapshot, count, load, save
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.errors import Unavailable
from svcinit.settings import environment
from svcinit.settings.environment import Settings

PREFIX, DB = InputId(Kind.KV, "config/web"), InputId(Kind.PEERS, "db", "dc2")
KV = {"config/web/a": b"1", "config/web/deep/b": b"\xff\x00"}
PEERS: dict[InputId, Any] = {DB: [Peer("h", "10.0.0.1", 3306, "n")], InputId(Kind.PEERS, "web", None, "blue"): []}


def ours(folder: pathlib.Path, **env: str) -> Settings:
    return environment.read({"SVCINIT_SERVICE": "web", "SVCINIT_CACHE": str(folder / "sub" / "cache.json"), **env})


def snapshot(value: bytes = b"1", written: float | None = None) -> Snapshot:
    when = time.time() if written is None else written
    contents: dict[InputId, Any] = {PREFIX: {**KV, "config/web/a": value}, **PEERS}
    return Snapshot(contents, {"node": "n", "address": "10.0.0.9"}, when)


def refusal(mine: Settings) -> str:
    with pytest.raises(Unavailable) as caught:
        load(mine)
    assert f"SVCINIT_CACHE={mine.cache!r} is not used: " in str(caught.value)
    return str(caught.value)


def test_what_was_kept_comes_back(tmp_path: pathlib.Path) -> None:
    mine = ours(tmp_path)
    save(mine, snapshot())
    found = load(mine)
    assert found
    assert found.contents == {PREFIX: KV, **PEERS}
    assert [count(mine, each) for each in (PREFIX, DB, InputId(Kind.PEERS, "db"))] == [2, 1, 0]
    assert found.agent == {"node": "n", "address": "10.0.0.9"}


def test_nobody_else_can_read_it_whatever_the_umask(tmp_path: pathlib.Path) -> None:
    mine = ours(tmp_path)
    before = os.umask(0)
    try:
        save(mine, snapshot())
    finally:
        os.umask(before)
    assert mode_of(pathlib.Path(mine.cache)) == 0o600
    assert mode_of(pathlib.Path(mine.cache).parent) == 0o700


def test_without_one_there_is_none(tmp_path: pathlib.Path) -> None:
    assert load(ours(tmp_path)) is None


@hypothesis_settings(max_examples=300)
@given(st.data())
def test_one_changed_byte_anywhere_or_a_cut_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    mine = ours(folder)
    save(mine, snapshot(written=1.0))
    path = pathlib.Path(mine.cache)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        changed = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    else:
        changed = whole[:at]
    path.write_bytes(changed)
    try:
        found = load(mine)
    except Unavailable:
        return
    assert found
    assert json.loads(changed) == json.loads(whole), "a changed cache was believed"


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_cache_is_refused(tmp_path: pathlib.Path, content: bytes) -> None:
    mine = ours(tmp_path)
    save(mine, snapshot())
    pathlib.Path(mine.cache).write_bytes(content)
    assert "damaged" in refusal(mine)


@pytest.mark.parametrize(
    "env",
    [
        {"SVCINIT_SERVICE": "other"},
        {"SVCINIT_KV_PREFIX": "config/x"},
        {"SVCINIT_DOMAIN": "sbay"},
        {"CONSUL_NAMESPACE": "team"},
    ],
)
def test_that_of_another_service_prefix_or_domain_is_refused(tmp_path: pathlib.Path, env: dict[str, str]) -> None:
    save(ours(tmp_path, **env), snapshot())
    assert "another service, prefix or domain" in refusal(ours(tmp_path))


def test_another_version_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ours(tmp_path)
    monkeypatch.setattr("svcinit.agent.prepare.cache.VERSION", 3)
    save(mine, snapshot())
    monkeypatch.undo()
    assert "its version is 3, and this svcinit reads version 2" in refusal(mine)


def test_what_others_may_have_written_is_refused(tmp_path: pathlib.Path) -> None:
    mine = ours(tmp_path)
    save(mine, snapshot())
    path = pathlib.Path(mine.cache)
    path.chmod(0o620)
    assert "others can write to it" in refusal(mine)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert "symbolic" in refusal(mine)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "no regular file" in refusal(mine)


def test_killed_at_any_point_of_writing_the_old_or_the_new_one_is_there(tmp_path: pathlib.Path) -> None:
    mine = ours(tmp_path)
    save(mine, snapshot(b"old"))
    seen, at = set(), 1
    while killed_at(at, partial(save, mine, snapshot(b"new"))):
        found = load(mine)
        assert found
        seen.add(found.contents[PREFIX]["config/web/a"])
        save(mine, snapshot(b"old"))
        at += 1
    assert seen == {b"old", b"new"}
    assert os.listdir(pathlib.Path(mine.cache).parent) == ["cache.json"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s old"),
        (59, "59 s old"),
        (61, "1 min old"),
        (7300, "2 h old"),
        (200_000, "2 d old"),
        (-60, "from the future"),
    ],
)
def test_its_age_is_told_as_people_say_it(seconds: int, said: str) -> None:
    assert said in snapshot(written=time.time() - seconds - 0.5 * (seconds >= 0)).age
