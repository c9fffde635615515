"""Secrets that tests give to svcinit, and a look for them in all that it says in the whole session.

Every planted secret holds MARK. What svcinit logs, answers and leaves in its state files goes through `look`, wherever
a test started it; a session in which MARK was found fails at its end, whatever its tests say.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator

import pytest

MARK = "5ec2e7a1"  # hexadecimal, so that a token of Consul's can begin with it
AROUND = 60  # characters shown beside a find


def secret(name: str) -> str:
    return f"{name}-{MARK}"


def token() -> str:
    """The id of a token, which Consul wants to be a UUID."""
    return f"{MARK}{str(uuid.uuid4())[len(MARK) :]}"


def _in_base64(text: str) -> Iterator[str]:
    """How it reads in base64 at each of three places in a whole: as Consul and HTTP's basic authentication send it."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + text.encode()).decode()
        start, end = (before * 8 + 5) // 6, (before + len(text)) * 8 // 6
        yield whole[start:end]


NEEDLES = MARK, *_in_base64(MARK)


class Search:
    """looked: how many texts were looked through; leaks: where a planted secret was found."""

    def __init__(self) -> None:
        self.looked = 0
        self.leaks: list[str] = []

    def look(self, what: str, text: str) -> None:
        self.looked += 1
        for needle in NEEDLES:
            at = text.find(needle)
            if at >= 0:
                test = os.environ.get("PYTEST_CURRENT_TEST", "")
                self.leaks.append(f"{what} in {test}: ...{text[max(0, at - AROUND) : at + AROUND]!r}...")


_searches = [Search()]


def look(what: str, text: str) -> None:
    _searches[-1].look(what, text)


def look_at_files(*paths: pathlib.Path) -> None:
    """Through those that there are, and all in those that are directories."""
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            with contextlib.suppress(OSError):  # replaced, or never written
                look(str(file), file.read_text(errors="replace"))


@contextlib.contextmanager
def searching() -> Iterator[Search]:
    """A search of its own, of which the session knows nothing."""
    _searches.append(Search())
    try:
        yield _searches[-1]
    finally:
        _searches.pop()


def found() -> Search:
    """By the whole session."""
    return _searches[0]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if found().leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def summary() -> list[str]:
    """For the end of the run."""
    search = found()
    if search.leaks:
        return [f"A PLANTED SECRET WAS FOUND in {leak}" for leak in search.leaks]
    return [f"secrecy: none of the planted secrets is in {search.looked} logs, answers and states of svcinit"]
