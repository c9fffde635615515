"""A second process starts only where a core is idle and no limit is near; what cannot be read counts as narrow."""

from __future__ import annotations

import os
import pathlib

import pytest

from svcinit.processes import room
from testing import host


@pytest.fixture
def root(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(room, "ROOT", str(tmp_path / "host"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    return tmp_path / "host"


def limited(root: pathlib.Path, path: str, text: str) -> bool:
    file = root / "sys/fs/cgroup" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")
    return not room.for_two()


@pytest.mark.parametrize(("runnable", "cores", "fits"), [(1, 2, True), (2, 2, False), (1, 1, False), (7, 8, True)])
def test_a_core_is_idle_if_fewer_threads_are_runnable_than_there_are_cores(
    root: pathlib.Path, monkeypatch: pytest.MonkeyPatch, runnable: int, cores: int, fits: bool
) -> None:
    host.make(root, runnable)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert room.for_two() == fits


@pytest.mark.parametrize(
    ("files", "tasks", "fits"),
    [("63", "unlimited", False), ("64", "64", True), ("unlimited", "63", False), ("x", "64", False)],
)
def test_few_descriptors_or_processes_are_no_room(root: pathlib.Path, files: str, tasks: str, fits: bool) -> None:
    host.make(root, files=files, tasks=tasks)
    assert room.for_two() == fits


@pytest.mark.parametrize(
    ("path", "wide", "narrow"),
    [
        ("cpu.max", "max 100000", "150000 100000"), ("cpu.max", "200000 100000", "0 100000"),
        ("cpu.max", "max 100000", "nonsense"), ("pids.max", "max", "63"), ("pids.max", "64", "10"),
        ("memory.max", "max", "134217727"), ("memory.max", "134217728", "1000"), ("pids/pids.max", "max", "10"),
        ("memory/memory.limit_in_bytes", "9223372036854771712", "1000"),
    ],
)  # fmt: skip
def test_a_narrow_limit_of_the_container_is_no_room(root: pathlib.Path, path: str, wide: str, narrow: str) -> None:
    host.make(root)
    assert not limited(root, path, wide)
    assert limited(root, path, narrow)


def test_a_quota_of_less_than_two_cores_is_no_room_with_cgroups_of_version_1(root: pathlib.Path) -> None:
    host.make(root)
    assert not limited(root, "cpu/cpu.cfs_period_us", "100000")
    assert not limited(root, "cpu/cpu.cfs_quota_us", "-1")
    assert not limited(root, "cpu/cpu.cfs_quota_us", "200000")
    assert limited(root, "cpu/cpu.cfs_quota_us", "50000")


def test_the_limits_of_its_own_cgroup_count_where_the_container_sees_those_of_the_host(root: pathlib.Path) -> None:
    host.make(root)
    (root / "proc/self/cgroup").write_text("0::/docker/abc\n")
    assert not limited(root, "docker/abc/cpu.max", "max 100000")
    assert limited(root, "docker/abc/cpu.max", "50000 100000")


@pytest.mark.parametrize("gone", ["proc/loadavg", "proc/self/limits", "proc/self/cgroup"])
def test_what_cannot_be_read_is_no_room(root: pathlib.Path, gone: str) -> None:
    host.make(root)
    assert room.for_two()
    (root / gone).write_text("")
    assert room.for_two() == (gone == "proc/self/cgroup")  # a kernel without cgroups
    (root / gone).unlink()
    assert not room.for_two()
    (root / gone).mkdir()
    assert not room.for_two()


def test_this_host_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files have the form that is expected: a host with many cores has an idle one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1 << 30))
    for name in ("LEAST_FILES", "LEAST_TASKS", "LEAST_MEMORY"):
        monkeypatch.setattr(room, name, 1)
    assert room.for_two()
