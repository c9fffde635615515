"""`svcinitctl doctor --json`, each answer held against its schema."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any
from unittest import mock

import jsonschema

from svcinit.ctl import cli
from testing.process import PATH, ROOT

SCHEMA = json.loads((ROOT / "docs" / "schemas" / "doctor.json").read_text(encoding="utf-8"))
CTL = "from svcinit.ctl.cli import main; main()"
LONGEST = 20.0  # seconds: the 15 that it promises, and what a busy machine takes to start it
OF_THE_MACHINE = {"pid-host", "not-pid-1"}  # who is PID 1 where the tests run is not theirs to say


class Diagnosis:
    """What the doctor found. `code`: its exit status."""

    def __init__(self, code: int, text: str) -> None:
        told = json.loads(text)
        jsonschema.Draft202012Validator(SCHEMA).validate(told)
        self.code, self.text = code, text
        self.entries: list[dict[str, Any]] = told["checks"]
        self.policy: str = told["policy"]
        assert told["ok"] == all(entry["ok"] for entry in self.entries) == (code == 0)

    @property
    def bad(self) -> set[str]:
        """All findings, but for those of the machine."""
        return {entry["finding"] for entry in self.entries} - {""} - OF_THE_MACHINE

    def all(self, finding: str) -> list[str]:
        """What was said with this finding."""
        return [entry["said"] for entry in self.entries if entry["finding"] == finding]

    def one(self, finding: str) -> str:
        """What was said and what there is to do, of a finding that is there once."""
        found = [f"{entry['said']} | {entry['todo']}" for entry in self.entries if entry["finding"] == finding]
        assert len(found) == 1, f"{finding}: {found}; {self.text}"
        return found[0]

    def well(self, check: str) -> list[str]:
        """What is well, of one check."""
        return [entry["said"] for entry in self.entries if entry["check"] == check and entry["level"] == "ok"]


def doctor(env: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The doctor as a plain process."""
    return subprocess.run(
        [sys.executable, "-c", CTL, "doctor", *words], check=False, capture_output=True, text=True,
        timeout=LONGEST, env={**PATH, "PYTHONPATH": str(ROOT / "entrypoint"), **env},
    )  # fmt: skip


def diagnosis(env: Mapping[str, str], *words: str) -> Diagnosis:
    """What the doctor finds as a plain process."""
    done = doctor(env, "--json", *words)
    assert not done.stderr, done.stderr
    return Diagnosis(done.returncode, done.stdout)


def examined(env: Mapping[str, str], *words: str) -> Diagnosis:
    """What the doctor finds in this process, which has loaded already what takes it long."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with mock.patch.dict(os.environ, {**PATH, **env}, clear=True), contextlib.redirect_stdout(out):
        code = cli.run(["doctor", "--json", *words])
    return Diagnosis(code, out.buffer.getvalue().decode())
