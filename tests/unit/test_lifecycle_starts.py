"""What the log says of a start, and when: tables of events."""

from __future__ import annotations

import pathlib

import pytest

from svcinit.lifecycle.start import EXEC_POLL_INTERVAL, EXEC_TIMEOUT
from svcinit.model import Event, Exited, Role
from test_lifecycle_times import DONE, LATER, PREPARED, TERM, UP, WEB, Clocked, live

UNTIL_TIMEOUT = round(EXEC_TIMEOUT / EXEC_POLL_INTERVAL) + 1  # polls: the clock's sums are below the exact ones


@pytest.mark.parametrize(
    ("executed", "polls", "is_logged"),
    [
        ([True], 0, True),
        ([None, True], 1, True),
        ([None, None, None, True], 3, True),
        ([False], 0, False),
        ([None, False], 1, False),
        ([None], UNTIL_TIMEOUT, True),
    ],
    ids=["at-once", "later", "much-later", "never", "later-never", "unknown"],
)
def test_a_start_is_in_the_log_once_the_program_was_executed_and_not_if_that_failed(
    capfd: pytest.CaptureFixture[str], executed: list[bool | None], polls: int, is_logged: bool
) -> None:
    """`started nosuch` before `command not found` would be wrong."""
    crew = Clocked(*UP, *[LATER] * polls, TERM, *DONE)
    crew.clock = 1000.0
    answers = list(executed)  # the last one stays
    crew.executed = lambda: answers.pop(0) if len(answers) > 1 else answers[0]  # type: ignore[method-assign]
    logged_at: list[float] = []
    pid = crew.pid
    crew.pid = lambda role: logged_at.append(crew.clock - 1000.0) or pid(role)  # type: ignore[func-returns-value, method-assign]
    live(WEB, crew)
    assert ("<started>" in capfd.readouterr().err) == is_logged
    if is_logged:
        assert logged_at[0] == pytest.approx(polls * EXEC_POLL_INTERVAL)


def test_a_service_that_ends_before_its_execution_was_seen_is_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    crew = Clocked(*UP, Exited(Role.MAIN, 0), LATER, Exited(Role.PRESENCE, 0))
    crew.executed = lambda: None  # type: ignore[method-assign]
    live(WEB, crew)
    assert "<started>" in capfd.readouterr().err


@pytest.mark.parametrize("away", [True, False])
def test_the_log_says_whether_a_start_used_the_cache(
    capfd: pytest.CaptureFixture[str], tmp_path: pathlib.Path, away: bool
) -> None:
    (tmp_path / "cache.json").touch()
    tries: list[Event] = [*[Exited(Role.PREPARE, 75)] * away, PREPARED]
    live({**WEB, "SVCINIT_CACHE": str(tmp_path / "cache.json")}, Clocked(*tries, TERM, *DONE))
    assert f"cached={away}" in capfd.readouterr().err
