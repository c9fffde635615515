"""`make demo-fleet` does what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from svcinit.agent.fleet.records import RollOutcome
from testing.process import ROOT

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(180)]


def test_the_demo_of_roll_outs_runs_and_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo_fleet"], check=False, cwd=ROOT, capture_output=True, text=True, timeout=150,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert re.findall(r"^(\d)\. ", said, re.MULTILINE) == list("12345")
    outcomes = re.findall(r"^   \| +\d+  \S+ \S+  (\w+) ", said, re.MULTILINE)
    assert outcomes == [RollOutcome.REVERTED, RollOutcome.HALTED, RollOutcome.DONE], said
    assert " requests to all instances meanwhile, 0 failed" in said
    assert "1 of 12 instances had the bad value" in said
    assert list(tmp_path.iterdir()) == []
    assert done.stderr == ""
