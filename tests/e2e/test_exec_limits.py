"""What the kernel would not take as environment or arguments never ends a service, nor is a start with it tried."""

from __future__ import annotations

import json
import pathlib
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from svcinit.processes import limits
from testing.process import Running, running
from testing.waiting import eventually
from tests.e2e.failing import has_state

BIG = "x" * 140_000
TOLD = "KV key 'env/BIG' cannot be an environment variable: it takes 140004 bytes, and the kernel takes at most 131071"
ABORTED = "aborted: the files are unchanged; the service was not notified"
UP = ("sh", "-c", 'trap "echo hup" HUP; echo up ${#BIG}; while :; do sleep 0.05; done', "sh")

Start = Callable[..., Running]


class Source:
    """KV in a file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.put({"env/BIG": "small", "word": "short"})

    def put(self, kv: dict[str, Any]) -> None:
        self.path.write_text(json.dumps({"kv": {f"config/web/{key}": value for key, value in kv.items()}}))


@pytest.fixture
def source(tmp_path: pathlib.Path) -> Source:
    return Source(tmp_path / "source.json")


@pytest.fixture
def start(source: Source, tmp_path: pathlib.Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(*command: str, **env: str) -> Running:
            own = {"SVCINIT_SERVICE": "web", "SVCINIT_SOURCE": f"file:{source.path}", "SVCINIT_TEMPLATES": "", **env}
            return stack.enter_context(running(tmp_path / "svcinit", *(command or UP), env=own))

        yield begin


def test_a_value_that_is_too_large_is_told_at_the_start_and_the_service_is_not_started(
    source: Source, start: Start
) -> None:
    source.put({"env/BIG": BIG, "env/A\0": "x", "env/B=": "x"})
    svcinit = start()
    assert svcinit.wait() == 78
    assert TOLD in svcinit.err
    assert svcinit.err.count("cannot be an environment variable") == 3
    assert svcinit.out == ""


@pytest.mark.parametrize("reload", ["signal:HUP", "restart"])
def test_at_a_reload_it_aborts_that_and_the_service_stays_until_it_is_mended(
    source: Source, start: Start, reload: str
) -> None:
    svcinit = start(SVCINIT_RELOAD=reload)
    svcinit.says("up 5")
    main = svcinit.child("main")
    source.put({"env/BIG": BIG})
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: aborted")
    assert TOLD in svcinit.err
    has_state(svcinit, state="running", degraded=ABORTED)
    assert svcinit.child("main") == main
    source.put({"env/BIG": BIG[:131_067]})
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 2: done")
    if reload == "restart":
        svcinit.says("up 131067")
        assert svcinit.child("main") != main
    svcinit.stop()


def test_many_values_that_are_too_much_together_abort_a_restart(source: Source, start: Start) -> None:
    svcinit = start(SVCINIT_RELOAD="restart")
    svcinit.says("up")
    source.put({f"env/V{number}": BIG[:130_000] for number in range(60)})  # more than the kernel's 6 MiB
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: aborted")
    assert "the largest are KV key env/V0 (130000)" in svcinit.err
    has_state(svcinit, state="running", degraded=ABORTED)
    svcinit.stop()


def test_a_rendered_argument_that_is_too_large_aborts_a_restart(source: Source, start: Start) -> None:
    script = 'echo given "$1"; exec sleep 30'
    svcinit = start("sh", "-c", script, "sh", "{{ cfg.word }}", SVCINIT_RELOAD="restart", SVCINIT_RENDER_ARGS="1")
    svcinit.says("given short")
    source.put({"word": BIG})
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: aborted")
    assert "argument 4 of the command, `{{ cfg.word }}`: it takes 140000 bytes" in svcinit.err
    svcinit.stop()


def test_a_followed_change_that_is_too_large_is_not_taken_and_the_next_one_is(source: Source, start: Start) -> None:
    svcinit = start(SVCINIT_WATCH="1", SVCINIT_SETTLE="0s", SVCINIT_RELOAD="restart")
    svcinit.says("up 5")
    source.put({"env/BIG": BIG})
    svcinit.says(TOLD)
    source.put({"env/BIG": "mended"})
    svcinit.says("up 6")
    svcinit.stop()


@pytest.mark.timeout(60)
def test_a_hook_runs_however_many_files_changed_and_is_told_how_many_are_not_named(
    source: Source, start: Start, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "templates" / str(tmp_path / "out").lstrip("/")
    folder.mkdir(parents=True)
    names = [f"{number:03}{'x' * 240}" for number in range(500)]  # 140 kB and more with their folder
    for name in names:
        (folder / name).write_text("old")
    noted = tmp_path / "noted"
    hook = f'sh -c \'printf "%s\\\\n" "$SVCINIT_CHANGED" "$SVCINIT_CHANGED_OMITTED" > {noted}\''
    svcinit = start(SVCINIT_TEMPLATES=str(tmp_path / "templates"), SVCINIT_PRE_RELOAD=hook)
    svcinit.says("up")
    for name in names:
        (folder / name).write_text("new")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done", timeout=30)
    *lines, omitted = noted.read_text().splitlines()
    assert lines == [str(tmp_path / "out" / name) for name in names[: len(lines)]]
    assert len(lines) + int(omitted) == len(names)
    assert 63 << 10 < len("\n".join(lines)) <= 64 << 10
    (folder / names[0]).write_text("newer")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 2: done", timeout=30)
    eventually(
        lambda: noted.read_text() == f"{tmp_path / 'out' / names[0]}\n\n", "one file is named, and nothing omitted"
    )
    svcinit.stop()


def test_where_the_container_itself_was_given_nearly_all_a_hook_still_runs(
    source: Source, start: Start, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "out" / "app"
    template = tmp_path / "templates" / str(target).lstrip("/")
    template.parent.mkdir(parents=True)
    template.write_text("old")
    source.put({})
    full = {f"V{number}": BIG[:100_000] for number in range((limits.max_total() - 8000) // 100_018)}
    left = limits.max_total() - 8000 - limits.size(f"{name}={value}" for name, value in full.items())
    full["LAST"] = "x" * min(100_000, left)
    hook = "sh -c 'echo omitted $SVCINIT_CHANGED_OMITTED'"
    svcinit = start(SVCINIT_TEMPLATES=str(tmp_path / "templates"), SVCINIT_PRE_RELOAD=hook, **full)
    svcinit.says("up")
    template.write_text("new")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    assert "omitted 1\n" in svcinit.out
    svcinit.stop()
