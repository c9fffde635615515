"""SVCINIT_RELOAD_VERIFY: does the service's own check succeed with the new files?"""

from __future__ import annotations

import pathlib

import pytest

from svcinit.agent.registration import verify
from svcinit.errors import EX_OK, Outcome
from svcinit.handover import CLOSED
from svcinit.settings.environment import read


@pytest.mark.parametrize(("command", "code"), [("true", EX_OK), ("false", Outcome.NOT_PASSING)])
def test_a_service_that_is_not_registered_is_checked_too(tmp_path: pathlib.Path, command: str, code: int) -> None:
    (tmp_path / "source.yaml").write_text("kv: {}\n")
    given = {
        "SVCINIT_SERVICE": "web",
        "SVCINIT_SOURCE": f"file:{tmp_path / 'source.yaml'}",
        "SVCINIT_CHECK": f"exec:{command}",
        "SVCINIT_RELOAD_VERIFY": "300ms",
    }
    assert verify.main(read(given, "/nosuch"), {"PATH": "/usr/bin:/bin"}, CLOSED) == code
