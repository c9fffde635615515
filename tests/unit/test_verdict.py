"""What prepare leaves for init, when it is not what it should be."""

from __future__ import annotations

import json
import os

import pytest

from svcinit.processes.crew import VERDICT_LIMIT, Crew
from svcinit.processes.init import memfd
from svcinit.settings import environment

GOOD = {"argv": ["main"], "env": {"A": "1"}, "changed": ["/etc/app"], "reloads": ["HUP"]}


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    monkeypatch.chdir(os.getcwd())  # init moves to /
    made = Crew(environment.read({}), ("command",))
    made._verdict, made._fresh = memfd("verdict"), memfd("fresh")
    return made


def leave(crew: Crew, content: bytes) -> bool:
    os.ftruncate(crew._verdict, 0)
    os.pwrite(crew._verdict, content, 0)
    crew._verdict_taken = False
    return crew.take_verdict()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\0",
        json.dumps(GOOD).encode()[:-3],
        b"[" * 100_000,
        b"null",
        b"{}",
        json.dumps({**GOOD, "argv": []}).encode(),
        json.dumps({**GOOD, "argv": "main"}).encode(),
        json.dumps({**GOOD, "argv": [1]}).encode(),
        json.dumps({**GOOD, "env": {"A": 1}}).encode(),
        json.dumps({**GOOD, "env": ["A"]}).encode(),
        json.dumps({**GOOD, "changed": None}).encode(),
        json.dumps({**GOOD, "reloads": [1]}).encode(),
        json.dumps({**GOOD, "argv": ["x" * VERDICT_LIMIT]}).encode(),
    ],
    ids=[
        "missing",
        "zeros",
        "half",
        "deep",
        "null",
        "empty",
        "no-argv",
        "text",
        "number",
        "env",
        "list",
        "none",
        "way",
        "huge",
    ],
)
def test_a_verdict_that_is_none_never_disturbs_init(crew: Crew, content: bytes) -> None:
    assert not leave(crew, content)
    assert (crew.argv, crew.extra_env, crew.changed) == (("command",), {}, [])


def test_a_good_verdict_is_taken(crew: Crew) -> None:
    assert leave(crew, json.dumps(GOOD).encode())
    assert (crew.argv, crew.extra_env, crew.changed) == (("main",), {"A": "1"}, ["/etc/app"])


def test_what_main_was_not_told_yet_is_kept(crew: Crew) -> None:
    leave(crew, json.dumps(GOOD).encode())
    leave(crew, json.dumps({**GOOD, "changed": ["/etc/other"]}).encode())
    assert crew.changed == ["/etc/app", "/etc/other"]
    crew.notified()
    assert crew.changed == []
