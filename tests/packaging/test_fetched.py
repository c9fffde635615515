"""What tools/ fetches on a machine that has nothing of it yet."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

from testing.process import ROOT

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("tool", ["consul", "debian11-root"])
def test_the_first_run_of_a_tool_on_a_new_machine_succeeds(tool: str, tmp_path: pathlib.Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(scratch), "PATH": os.defpath}
    done = subprocess.run([ROOT / "tools" / tool], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(done.stdout.strip()).exists()
    assert not list(scratch.iterdir()), "nothing temporary is left"
