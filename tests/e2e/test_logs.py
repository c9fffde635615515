"""What is logged in real lives: every line as docs/schemas/log.json says, and with the reload that it belongs to."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from svcinit import __version__
from testing import planted
from testing.consul import ConsulAgent
from testing.process import PATH, Running, svcinit_command
from testing.schemas import is_log_line
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import has_state, is_passing, source_of

MakeService = Callable[[ConsulAgent], Service]
TEMPLATE, BROKEN = '{{ key("n") }}', '{{ key("m") }}'
AGAIN = 40.0  # seconds: longer than the longest pause between two tries
consul = pytest.mark.consul


def lines(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
    for line in found:
        is_log_line(line)
    return found


def told(svcinit: Running, **wanted: object) -> list[dict[str, Any]]:
    """The lines that have these fields."""
    return [line for line in lines(svcinit.err) if wanted.items() <= line.items()]


def tells(svcinit: Running, timeout: float = 20.0, **wanted: object) -> dict[str, Any]:
    """Wait for such a line; the first one."""
    eventually(lambda: told(svcinit, **wanted), f"it tells {wanted}", timeout)
    return told(svcinit, **wanted)[0]


@pytest.fixture
def followed(make_service: MakeService, own_consul: ConsulAgent) -> Service:
    own_consul.kv_put("config/web/n", planted.secret("n"))
    service = make_service(own_consul)
    service.env |= {
        "SVCINIT_LOG_FORMAT": "json", "SVCINIT_LOG_LEVEL": "debug", "SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s",
        "SVCINIT_SYNC_INTERVAL": "200ms", "SVCINIT_RELOAD_TIMEOUT": "4s", "SVCINIT_ID": "web-1",
    }  # fmt: skip
    return service


@consul
@pytest.mark.timeout(150)
def test_every_line_of_a_life_is_as_the_schema_says_and_belongs_to_its_reload(
    followed: Service, own_consul: ConsulAgent
) -> None:
    target = followed.template("app.ini", TEMPLATE)
    svcinit = followed.start()
    is_passing(followed)
    own_consul.kv_put("config/web/n", planted.secret("n2"))
    tells(svcinit, event="reload_ended", reload=1, outcome="done")
    source_of(followed, target).write_text(BROKEN)
    svcinit.signal(signal.SIGHUP)
    tells(svcinit, event="reload_ended", reload=2, outcome="aborted")
    own_consul.stop()
    tells(svcinit, event="consul_unavailable", role="presence", id="web-1")
    svcinit.signal(signal.SIGHUP)
    tells(svcinit, event="reload_ended", reload=3, outcome="in_place")
    own_consul.start()
    own_consul.kv_put("config/web/m", planted.secret("m"))
    tells(svcinit, AGAIN, event="consul_available", role="presence")

    def last_done() -> int:
        return max(int(line["reload"]) for line in told(svcinit, event="reload_ended", outcome="done"))

    # it is the fifth if it saw the empty KV first
    last = eventually(lambda: (last_done() > 3) * last_done(), "the new key is rendered", AGAIN)
    is_passing(followed)
    assert svcinit.stop() == 0

    for number in range(1, last + 1):
        events = [line["event"] for line in told(svcinit, reload=number)]
        assert (events[0], events[-1]) == ("reload_started", "reload_ended"), number
    (rendered,) = told(svcinit, reload=1, event="rendered")
    assert (rendered["role"], rendered["file"]) == ("worker", str(target))
    (fault,) = told(svcinit, reload=2, event="fault")
    assert (fault["role"], fault["file"], fault["line"], fault["key"]) == (
        "prepare", str(source_of(followed, target)), 1, "m",
    )  # fmt: skip
    assert told(svcinit, reload=3, event="reload_ended", level="warning", role="init")
    assert told(svcinit, reload=3, role="prepare")


@consul
@pytest.mark.timeout(60)
def test_a_start_and_an_end_are_one_line_each(followed: Service) -> None:
    followed.env["SVCINIT_DRAIN"] = "200ms"
    followed.template("app.ini", TEMPLATE)
    svcinit = followed.start()
    is_passing(followed)
    main = svcinit.child("main")
    for number, key in enumerate(("m", "n"), 1):
        source_of(followed, followed.out / "app.ini").write_text(f'{{{{ key("{key}") }}}}')
        svcinit.signal(signal.SIGHUP)
        has_state(svcinit, state="running", reloads=number)
    assert svcinit.stop() == 0
    (started,) = told(svcinit, event="started")
    expected = {
        "version": __version__, "service": "web", "id": "web-1", "main_pid": main, "files": 1, "keys": 1,
        "cached": False,
    }  # fmt: skip
    assert expected.items() <= started.items()
    assert started["prepare_seconds"] > 0
    assert "degraded" not in started
    ended = lines(svcinit.err)[-1]
    expected = {"event": "ended", "code": 0, "reason": "TERM", "reloads": 1, "reloads_failed": 1, "killed": False}
    assert expected.items() <= ended.items()
    assert ended["drain_seconds"] >= 0.2
    parts = sum(ended[f"{part}_seconds"] for part in ("deregister", "drain", "stop"))
    assert parts <= ended["uptime_seconds"] + 0.01


@consul
@pytest.mark.timeout(60)
def test_a_start_from_the_cache_and_an_end_by_kill_are_told_as_such(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    service = make_service(own_consul)
    service.template("app.ini", "text")
    first = service.start()
    is_passing(service)
    eventually((first.folder / "cache.json").exists, "the cache is written")
    assert first.stop() == 0
    own_consul.stop()
    service.env |= {"SVCINIT_START_TIMEOUT": "1s", "SVCINIT_STOP_TIMEOUT": "500ms", "SVCINIT_LOG_FORMAT": "json"}
    svcinit = service.start("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
    started = tells(svcinit, event="started")
    assert (started["cached"], started["degraded"].startswith("started from SVCINIT_CACHE")) == (True, True)
    assert told(svcinit, event="degraded", role="prepare", variable="SVCINIT_CACHE")
    assert svcinit.stop() == 137
    ended = lines(svcinit.err)[-1]
    assert (ended["event"], ended["code"], ended["killed"]) == ("ended", 137, True)


@consul
@pytest.mark.timeout(60)
def test_a_hook_that_cannot_be_executed_tells_its_reload_and_its_role(service: Service) -> None:
    service.env |= {"SVCINIT_LOG_FORMAT": "json", "SVCINIT_PRE_RELOAD": "/nosuch/hook"}
    svcinit = service.start()
    is_passing(service)
    svcinit.signal(signal.SIGHUP)
    line = tells(svcinit, event="exec_failed")
    assert (line["role"], line["reload"], line["command"]) == ("hook", 1, "/nosuch/hook")
    assert svcinit.stop() == 0


@consul
@pytest.mark.timeout(60)
def test_a_restart_is_the_reloads_to_its_last_line(service: Service) -> None:
    service.env |= {"SVCINIT_LOG_FORMAT": "json", "SVCINIT_RELOAD": "restart"}
    svcinit = service.start()
    is_passing(service)
    svcinit.signal(signal.SIGHUP)
    tells(svcinit, event="reload_ended", reload=1, outcome="done")
    assert svcinit.stop() == 0
    assert [line["event"] for line in told(svcinit, reload=1)] == [
        "reload_started", "stopping", "deregistered", "exited", "started", "reload_ended",
    ]  # fmt: skip


@consul
@pytest.mark.timeout(60)
def test_a_check_that_cannot_be_executed_says_so_in_words_whatever_the_log_is(service: Service) -> None:
    service.env |= {"SVCINIT_LOG_FORMAT": "json", "SVCINIT_CHECK": "exec:/nosuch/check"}
    service.start()
    told = "svcinit: error: /nosuch/check: command not found"

    def output() -> list[str]:
        return [check["Output"] for check in service.consul.get("/v1/agent/checks").values()]

    eventually(lambda: output() == [told], "Consul has the words")


def run(*command: str, **env: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        svcinit_command(*command), env={**PATH, "SVCINIT_LOG_FORMAT": "json", **env}, capture_output=True, text=True,
        timeout=10, check=False,
    )  # fmt: skip
    return done.returncode, lines(done.stderr)


def test_faults_of_the_environment_are_told_in_the_format_that_it_asks_for(tmp_path: pathlib.Path) -> None:
    code, found = run("true", SVCINIT_PORT="http", SVCINIT_SERVCIE="web", CONSUL_HTTP_TOKEN_FILE=f"{tmp_path}/nosuch")
    assert code == 78
    named = {(line["variable"], line.get("file")) for line in found}
    assert named == {
        ("SVCINIT_PORT", None), ("SVCINIT_SERVCIE", None), ("CONSUL_HTTP_TOKEN_FILE", f"{tmp_path}/nosuch"),
    }  # fmt: skip
    code, found = run("true", SVCINIT_PORT="http", SVCINIT_LOG_LEVEL="loud")
    assert sorted(line["variable"] for line in found) == ["SVCINIT_LOG_LEVEL", "SVCINIT_PORT"]
    code, (usage,) = run("--nosuch")
    assert (code, usage["event"], usage["error"]) == (64, "usage", "unknown option --nosuch")


def test_a_plain_init_says_nothing_unless_something_is_wrong() -> None:
    assert run("true") == (0, [])
    assert run("sh", "-c", "exit 3") == (3, [])
    code, (line,) = run("/nosuch")
    assert (code, line["event"], line["role"], line["command"]) == (127, "exec_failed", "main", "/nosuch")
