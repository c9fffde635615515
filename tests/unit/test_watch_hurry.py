"""A change without settling: what else could be done waits until its files are there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from places import put
from svcinit.agent.files import commit, paths
from svcinit.agent.registration import presence
from svcinit.agent.templates.render import Rendered
from svcinit.agent.watch.follower import HURRY
from svcinit.handover import Heartbeat, Slot
from test_watch_turns import FakeWorker, Following, changed, follow, no_signal

__all__ = ["follow", "no_signal"]  # fixtures


@pytest.mark.parametrize(("settle", "woken"), [((0.0, 0.0), 1), ((0.1, 0.1), 0)])
def test_the_worker_wakes_before_the_answer_is_read_where_it_is_prepared_at_once(
    follow: Callable[[int], Following], settle: tuple[float, float], woken: int
) -> None:
    made = follow(0)
    vars(made.follower.settings)["settle"] = settle
    worker = FakeWorker(lambda: None, None)
    made.follower._worker = worker  # type: ignore[assignment]
    made.follower.turn(made.clock.now)
    (channel,) = made.consul.open_channels
    seen: list[int] = []
    receive = made.consul.receive
    made.consul.receive = lambda *all: seen.append(worker.woken) or receive(*all)  # type: ignore[func-returns-value,method-assign]
    made.answer(channel)
    made.follower.turn(made.clock.now)
    assert seen == [woken]


def test_nothing_is_asked_and_no_state_written_in_the_moment_in_which_the_files_are(
    follow: Callable[[int], Following],
) -> None:
    made = follow(2)
    changed(made)
    now = made.follower._hurries_until - HURRY
    for channel in list(made.consul.open_channels):
        made.answer(channel)
    made.consul.sent.clear()
    made.follower.turn(now + HURRY / 2)
    assert made.follower.hurries(now + HURRY / 2)
    assert made.consul.sent == []
    assert made.follower.descriptors() == [FakeWorker.made[0].done]
    assert made.follower.due == now + HURRY
    for _ in range(2):  # it reads the answers, and asks again
        made.follower.turn(now + HURRY)
    assert not made.follower.hurries(now + HURRY)
    assert made.consul.sent, "a slow preparation holds nothing up"


def test_the_result_of_the_worker_ends_the_moment_and_is_passed_on_before_the_next_query_is_sent(
    follow: Callable[[int], Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(os, "kill", lambda _pid, _number: done.append("init"))
    made = follow(0)
    made.follower.turn(made.clock.now)
    (channel,) = made.consul.open_channels
    made.answer(channel)
    made.follower.turn(made.clock.now)
    assert made.follower.hurries(made.clock.now)
    monkeypatch.setattr(made.consul, "send", lambda *_: done.append("query"))
    made.verdict(made.slots.news, ("/etc/a",))
    made.follower.turn(made.clock.now)
    assert done == ["init", "query"]


def test_a_commit_walks_to_each_directory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks = 0
    real = os.open

    def opened(path: str, *args: int, **options: int) -> int:
        nonlocal walks
        walks += path == "/"
        return real(path, *args, **options)

    files = [Rendered(str(put(tmp_path / folder / name)), b"new") for folder in "xy" for name in "abc"]
    monkeypatch.setattr(os, "open", opened)
    commit.commit(files)
    assert walks == 2
    assert [Path(file.target).read_bytes() for file in files] == [b"new"] * 6


def test_more_directories_than_are_kept_open_are_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_MOST_KEPT", 2)
    before = os.listdir("/proc/self/fd")
    files = [Rendered(str(tmp_path / f"d{number}" / "f"), b"new") for number in range(5)]
    commit.commit(files)
    assert [Path(file.target).read_bytes() for file in files] == [b"new"] * 5
    assert os.listdir("/proc/self/fd") == before


def test_a_check_that_moves_the_directory_does_not_take_the_file_with_it(tmp_path: Path) -> None:
    target = put(tmp_path / "etc/app")
    old = tmp_path / "old"
    check = f"sh -c 'test -e {old} || {{ cp -a {target.parent} {old}.new && mv {target.parent} {old} && mv {old}.new"
    check += f" {target.parent}; }}; : {{}}'"
    commit.commit([Rendered(str(target), b"new", check=check)])
    assert target.read_bytes() == b"new"
    assert (old / "app").read_bytes() != b"new"


def test_signs_of_life_before_each_request_are_written_after_a_pause_only(monkeypatch: pytest.MonkeyPatch) -> None:
    slot, now = Slot("heartbeat").open(), 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    beat = presence._beating(slot)
    seen = []
    for _ in range(16):
        beat()
        if slot.read(Heartbeat) is not None:
            seen.append(now)
        slot.clear()
        now += presence.BEAT_PAUSE / 4 + 0.001
    slot.close()
    assert len(seen) == 4
