"""The look for planted secrets finds them, and a session in which it did fails, whatever its tests say."""

from __future__ import annotations

import base64
import os
import pathlib
import subprocess
import sys

import pytest

from testing import planted
from testing.process import ROOT

LEAKY = """
from testing.process import running


def test_that_passes(tmp_path):
    with running(tmp_path, "sh", "-c", {script!r}) as svcinit:
        assert svcinit.wait() == 0
"""
TELLS = 'echo "my password is $PLANTED_PASSWORD" >&2'
LEAVES = 'mkdir -p "$SVCINIT_RUN" && echo "$PLANTED_PASSWORD" > "$SVCINIT_RUN/presence.json"'


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_a_secret_is_found_plain_and_in_base64(before: str) -> None:
    for text in (before + planted.secret("db"), base64.b64encode((before + planted.token()).encode()).decode()):
        with planted.searching() as search:
            planted.look("a log", f"some text, {text}, and more")
            planted.look("another", "some text")
        assert (len(search.leaks), search.looked) == (1, 2)
        assert search.leaks[0].startswith("a log in tests/unit/test_planted.py::test_a_secret_is_found")


def test_files_and_all_in_directories_are_looked_through(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run" / "below").mkdir(parents=True)
    (tmp_path / "err").write_bytes(b"\xff" + planted.MARK.encode())
    (tmp_path / "run" / "below" / "init.json").write_text(planted.token())
    with planted.searching() as search:
        planted.look_at_files(tmp_path / "err", tmp_path / "run", tmp_path / "nosuch")
    assert [leak.split(" in ")[0] for leak in search.leaks] == [f"{tmp_path}/err", f"{tmp_path}/run/below/init.json"]


@pytest.mark.parametrize(("script", "where"), [(TELLS, "/err in"), (LEAVES, "/run/presence.json in")])
def test_a_session_whose_svcinit_told_a_secret_fails_although_its_tests_pass(
    tmp_path: pathlib.Path, script: str, where: str
) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_leaky.py").write_text(LEAKY.format(script=script))
    pytest_of_its_own = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        f"{tmp_path}/made",
    ]
    done = subprocess.run(
        [*pytest_of_its_own, str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'entrypoint'}"},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "A PLANTED SECRET WAS FOUND in " in done.stdout
    assert where in done.stdout
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
