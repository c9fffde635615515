"""State files: when they are written, and what is counted in them."""

from __future__ import annotations

import json
import pathlib
import resource
import signal

import pytest

from fake_crew import FakeCrew
from svcinit.errors import Outcome
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import RELOAD_OUTCOMES, Deadline, Event, Exited, Role, Signalled
from svcinit.settings import environment
from svcinit.state_files import PERIOD, StateFile, read_state, write_state

TERM, HUP = signal.SIGTERM, signal.SIGHUP
FULL = {"SVCINIT_SERVICE": "web", "SVCINIT_PORT": "8000", "SVCINIT_CACHE": ""}
UP: list[Event] = [Exited(Role.PREPARE, 0)]
END: list[Event] = [Signalled(TERM), Exited(Role.PRESENCE, 0), Deadline(), Exited(Role.MAIN, 143)]
PREPARED = Exited(Role.PREPARE, 0)


def read(folder: pathlib.Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "x.json").read_text())
    assert found.pop("home")
    return found


def test_what_happens_is_written_at_once_and_takes_the_figures_along(tmp_path: pathlib.Path) -> None:
    file = StateFile(str(tmp_path), "x")
    assert file.update(0.0, {"state": "a"}, {"count": 1}) is None
    assert file.update(0.1, {"state": "b"}, {"count": 2}) is None
    assert read(tmp_path) == {"state": "b", "count": 2}


def test_ten_thousand_changes_of_a_figure_are_one_write(tmp_path: pathlib.Path) -> None:
    file = StateFile(str(tmp_path), "x")
    file.update(0.0, {"state": "a"}, {"count": 0})
    before = (tmp_path / "x.json").stat().st_ino, (tmp_path / "x.json").stat().st_mtime_ns
    later = {file.update(PERIOD * number / 10001, {"state": "a"}, {"count": number}) for number in range(1, 10001)}
    assert ((tmp_path / "x.json").stat().st_ino, (tmp_path / "x.json").stat().st_mtime_ns) == before
    assert later == {PERIOD}, "it is not said when the figure can be written"
    assert file.update(PERIOD, {"state": "a"}, {"count": 10000}) is None
    assert read(tmp_path)["count"] == 10000
    assert file.update(PERIOD + 1, {"state": "a"}, {"count": 10000}) is None


def test_what_finds_no_room_leaves_neither_a_half_nor_what_was_true_before(tmp_path: pathlib.Path) -> None:
    write_state(str(tmp_path), "x", {"state": "a"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # longer files are cut off, as where a disk is full
    try:
        write_state(str(tmp_path), "x", {"state": "b" * 200})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "x.json").exists()
    write_state(str(tmp_path), "x", {"state": "c"})
    assert read(tmp_path) == {"state": "c"}


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"other": 1}', '{"life": "theirs"}', "7", "null"])
def test_a_file_that_is_not_ours_is_none(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    assert read_state(str(tmp_path), "x", lambda state: bool(state["life"] == "ours")) is None


def tally(env: dict[str, str], *events: Event) -> dict[str, object]:
    """What a life with these events has counted at its end."""
    crew = FakeCrew([*UP, *events])
    life = Lifecycle(environment.read({**FULL, **env}), crew)
    life.run()
    assert crew.events == []
    return life.history.facts()


HOOK, EXEC = {"SVCINIT_PRE_RELOAD": "migrate"}, {"SVCINIT_RELOAD": "exec:chain"}
VERIFY = {"SVCINIT_RELOAD_VERIFY": "5s"}


@pytest.mark.parametrize(
    ("outcome", "env", "events"),
    [
        ("done", {}, [PREPARED]),
        ("done", EXEC, [PREPARED, Exited(Role.ACTION, 0)]),
        ("in_place", {}, [Exited(Role.PREPARE, 75)]),
        ("in_place", EXEC, [Exited(Role.PREPARE, 75), Exited(Role.ACTION, 0)]),
        ("aborted", {}, [Exited(Role.PREPARE, 78)]),
        ("aborted", HOOK, [PREPARED, Exited(Role.HOOK, 3), Exited(Role.ROLLBACK, 0)]),
        ("aborted", HOOK, [PREPARED, Exited(Role.HOOK, 3), Exited(Role.ROLLBACK, 1)]),
        ("rolled_back", VERIFY, [PREPARED, Exited(Role.VERIFY, Outcome.NOT_PASSING), Exited(Role.ROLLBACK, 0)]),
        ("failed", EXEC, [PREPARED, Exited(Role.ACTION, 4)]),
        ("failed", VERIFY | EXEC, [PREPARED, Exited(Role.ACTION, 0), Exited(Role.VERIFY, Outcome.NOT_PASSING),
                                   Exited(Role.ROLLBACK, 0), Exited(Role.ACTION, 1)]),
        ("failed", VERIFY, [PREPARED, Exited(Role.VERIFY, 143)]),
    ],
)  # fmt: skip
def test_each_way_a_reload_ends_is_counted(outcome: str, env: dict[str, str], events: list[Event]) -> None:
    found = tally(env, Signalled(HUP), *events, *END)
    assert found["reload_outcomes"] == dict.fromkeys(RELOAD_OUTCOMES, 0) | {outcome: 1}
    last = found["last_reload"]
    assert isinstance(last, dict)
    assert (last["id"], last["outcome"], bool(last["reason"])) == (1, outcome, outcome != "done")


@pytest.mark.parametrize(("code", "outcome"), [(0, "done"), (75, "in_place")])
def test_a_restart_is_a_reload_that_ends_with_the_new_start(code: int, outcome: str) -> None:
    restart: list[Event] = [Signalled(HUP), Exited(Role.PREPARE, code), *END[1:]]
    found = tally({"SVCINIT_RELOAD": "restart"}, *restart, *END)
    assert found["reload_outcomes"] == dict.fromkeys(RELOAD_OUTCOMES, 0) | {outcome: 1}
    assert (found["main_starts"], found["main_exits"]) == (2, {"143": 2})


def test_a_stop_in_the_middle_of_a_reload_gives_it_up() -> None:
    given_up = Exited(Role.PREPARE, 143)
    found = tally({}, Signalled(HUP), END[0], given_up, *END[1:])
    assert found["reload_outcomes"] == dict.fromkeys(RELOAD_OUTCOMES, 0) | {"given_up": 1}
    assert found["degraded"] == ""


def test_how_long_reloads_took_is_summed_up() -> None:
    """The reload waits 0.5 s, on the lifecycle's own clock, to prepare again what crashed."""
    found = tally({}, Signalled(HUP), Exited(Role.PREPARE, 139), Deadline(), PREPARED, *END)
    assert found["reload_seconds"] == {"sum": 0.5, "count": 1}


def test_a_presence_that_dies_is_counted_and_the_one_that_ends_is_not() -> None:
    assert tally({}, Exited(Role.PRESENCE, 137), Deadline(), *END)["presence_restarts"] == 1
