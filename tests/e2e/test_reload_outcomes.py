"""What `svcinitctl reload` says is what became of the service: an exit soon after the signal, a restart that fails."""

from __future__ import annotations

import json

import pytest

from testing.process import Running
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import ctl, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.timeout(90)]

EXITS_LATE = 'trap "sleep 2; exit 3" HUP; while :; do sleep 0.1; done'


def counted(svcinit: Running, **fields: object) -> bool:
    """Does the log have a last line with these fields?"""
    lines = [json.loads(line) for line in svcinit.err.splitlines() if line.startswith("{")]
    return any(line["event"] == "ended" and fields.items() <= line.items() for line in lines)


def test_a_reload_that_ends_the_service_has_failed_in_log_and_exit_status(service: Service) -> None:
    service.env |= {"SVCINIT_LOG_FORMAT": "json", "SVCINIT_CHECK": "none"}
    svcinit = service.start("sh", "-c", EXITS_LATE)
    eventually(lambda: '"registered"' in svcinit.err, "it is registered")
    code, said = ctl(svcinit, "reload")
    assert code == 1
    assert "exited with status 3" in said, "the reason, and not only that the service is being stopped"
    assert svcinit.wait() == 3
    assert '"outcome": "failed"' in svcinit.err
    assert counted(svcinit, reloads=0, reloads_failed=1, code=3)


def test_a_restart_is_reloaded_when_it_is_passing_again(service: Service) -> None:
    service.env |= {"SVCINIT_RELOAD": "restart", "SVCINIT_READY": "tcp"}
    svcinit = service.start()
    is_passing(service)
    assert ctl(svcinit, "reload") == (0, "reloaded\n")
    assert service.consul.passing("web"), "the next instance may be restarted now"
    assert svcinit.stop() == 0


def test_a_restart_into_a_service_that_is_broken_has_failed(service: Service) -> None:
    service.env |= {"SVCINIT_RELOAD": "restart", "SVCINIT_LOG_FORMAT": "json", "SVCINIT_CHECK": "none"}
    broken = service.folder / "broken"
    svcinit = service.start("sh", "-c", f"test ! -e {broken} || exit 4; while :; do sleep 0.1; done")
    eventually(lambda: '"registered"' in svcinit.err, "it is registered")
    broken.touch()
    code, said = ctl(svcinit, "reload")
    assert code == 1
    assert "exited with status 4" in said
    assert svcinit.wait() == 4
    assert counted(svcinit, reloads=0, reloads_failed=1)


def test_a_command_that_is_not_found_was_not_started(service: Service) -> None:
    svcinit = service.start("nosuch-command")
    assert svcinit.wait() == 127
    assert "command not found" in svcinit.err
    assert "started nosuch-command" not in svcinit.err
