"""svcinitctl status: what it says is true, is as its schema has it, and comes in a form for whoever reads it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from testing.consul import ConsulAgent
from testing.ctl import CODE
from testing.process import PATH, ROOT, Running, running
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import ctl, has_state, is_passing
from tools.tables import SCHEMA

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
VALIDATOR = Draft202012Validator(json.loads(SCHEMA.read_text()))
ESCAPE = b"\x1b"


def status(svcinit: Running) -> dict[str, Any]:
    """`status --json`, which is as its schema says whatever the state."""
    _, said = ctl(svcinit, "status", "--json")
    found: dict[str, Any] = json.loads(said)
    VALIDATOR.validate(found)
    return found


def up(service: Service, **env: str) -> Running:
    service.env |= env
    svcinit = service.start()
    is_passing(service)
    eventually(lambda: service.notes == ["up"], "the service is up")
    return svcinit


def test_all_that_is_known_of_a_service_that_is_well(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    service.consul.register("db", 3306, address="10.1.0.1", tags=["blue"])
    target = service.template("app.ini", '{{ key("n") }} {{ service("blue.db")|hostports|join }}')
    service.templates.joinpath(str(service.out).lstrip("/"), "plain").write_text("as it is")
    svcinit = up(service, SVCINIT_TAGS="a,b", SVCINIT_WATCH="1", SVCINIT_SYNC_INTERVAL="200ms")
    eventually(lambda: set(_own(status(svcinit))["checks"].values()) == {"passing"}, "it has seen its check")
    found = status(svcinit)
    index = service.consul.get("/v1/kv/config/web/n")[0]["ModifyIndex"]
    assert (found["state"], found["degraded"], found["main_starts"], found["presence_restarts"]) == (
        "running",
        "",
        1,
        0,
    )
    assert (found["pid"], found["main"]) == (svcinit.pid, svcinit.child("main"))
    assert 0 < found["uptime_seconds"] <= time.time() - found["started"] + 1
    own = _own(found)
    assert (own["registered"], own["registrations"], own["differs"], own["tags"]) == (True, 1, [], ["a", "b"])
    assert own["checks"] == {f"service:{found['id']}": "passing"}
    prepared = found["preparation"]
    prefix = prepared["prefixes"]["config/web"]
    assert (prefix["entries"], prefix["index"]) == (1, index)
    assert found["started"] < prefix["fetched"] <= prepared["ended"]
    assert prepared["peers"]["blue.db"]["entries"] == 1
    (rendered, copied) = prepared["templates"]
    assert rendered == {
        "source": f"{service.templates}{target}.j2",
        "target": str(target),
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "changed": target.stat().st_mtime,
        "error": None,
    }
    assert copied["sha256"] == hashlib.sha256(b"as it is").hexdigest()
    assert {(each["kind"], each["name"]) for each in found["watch"]["followed"]} == {
        ("kv", "config/web"),
        ("peers", "blue.db"),
    }
    assert found["watch"]["lag_seconds"] == 0
    assert found["consul_requests"]["GET kv"]["outcomes"]["ok"] >= 1
    assert set(found["processes"]) == {"init", "presence", "main"}
    assert all(role["proportional_bytes"] > 1 << 20 for role in found["processes"].values())
    assert svcinit.stop() == 0


def _own(found: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = found["services"][found["id"]]
    return known


def test_a_change_that_is_followed_is_in_the_same_record(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = up(service, SVCINIT_WATCH="1", SVCINIT_SETTLE="0s")
    first = status(svcinit)["preparation"]
    service.consul.kv_put("config/web/m", "2")
    service.consul.kv_put("config/web/n", "2")
    eventually(lambda: target.read_text() == "2", "the change is in the file")
    second = eventually(lambda: _at(status(svcinit), entries=2), "the record tells of it")
    assert second
    assert second["prefixes"]["config/web"]["index"] > first["prefixes"]["config/web"]["index"]
    assert second["templates"][0]["sha256"] == hashlib.sha256(b"2").hexdigest()
    assert second["render_seconds"]["count"] > first["render_seconds"]["count"]
    eventually(lambda: status(svcinit)["reload_outcomes"]["done"] >= 1, "the reload has ended")


def _at(found: dict[str, Any], entries: int) -> dict[str, Any] | None:
    prepared: dict[str, Any] = found["preparation"]
    return prepared if prepared["prefixes"]["config/web"]["entries"] == entries else None


def test_each_template_that_fails_is_told_and_the_others_stay_known(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    good, bad = service.template("good.ini", '{{ key("n") }}'), service.template("bad.ini", '{{ key("n") }}')
    svcinit = up(service)
    service.template("bad.ini", '{{ key("n") }}\n{{ key("none") }}')
    svcinit.signal(signal.SIGHUP)
    has_state(svcinit, state="running", reloads=1)
    found = status(svcinit)
    assert found["last_reload"]["outcome"] == "aborted"
    known = {entry["target"]: entry for entry in found["preparation"]["templates"]}
    assert known[str(good)]["error"] is None
    fault = f'{service.templates}{bad}.j2, line 2, `{{{{ key("none") }}}}`: there is no key none'
    assert known[str(bad)]["error"].startswith(fault)
    assert known[str(bad)]["sha256"] == hashlib.sha256(b"1").hexdigest(), "that of the file in place"
    code, said = ctl(svcinit, "status")
    assert code == 1
    assert said.count("there is no key none") == 1


def test_files_that_were_put_back_are_known_as_they_are(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    added = service.template("added.ini", '{{ key_or_default("new", "") }}')
    source = service.templates.joinpath(str(added).lstrip("/") + ".j2")
    source.unlink()
    svcinit = up(service, SVCINIT_PRE_RELOAD="false")
    service.consul.kv_put("config/web/n", "2")
    source.write_text("new")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("the files were rolled back")
    known = {entry["target"]: entry for entry in status(svcinit)["preparation"]["templates"]}
    assert known[str(target)]["sha256"] == hashlib.sha256(b"1").hexdigest()
    assert known[str(target)]["changed"] == target.stat().st_mtime
    assert (known[str(added)]["sha256"], known[str(added)]["changed"]) == (None, None)


def test_a_start_that_waits_is_starting_and_says_why(
    make_service: Callable[[ConsulAgent], Service], own_consul: ConsulAgent
) -> None:
    own_consul.stop()
    service = make_service(own_consul)
    service.env["SVCINIT_START_TIMEOUT"] = "40s"
    service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    svcinit.says("trying again")
    found = eventually(lambda: _troubled(status(svcinit)), "it says why")
    assert found
    assert found["state"] == "starting"
    assert "GET /v1/kv/config/web/ failed: Connection refused" in found["preparation"]["errors"][0]
    assert found["consul_requests"]["GET kv"]["outcomes"]["unreachable"] >= 1
    assert (found["main"], found["services"], found["ready"]) == (None, {}, None)
    assert ctl(svcinit, "status")[0] == 1
    svcinit.stop()


def _troubled(found: dict[str, Any]) -> dict[str, Any] | None:
    return found if found["preparation"]["errors"] else None


def test_a_start_from_the_cache_says_how_old_its_data_are(
    make_service: Callable[[ConsulAgent], Service], own_consul: ConsulAgent
) -> None:
    service = make_service(own_consul)
    own_consul.kv_put("config/web/n", "1")
    service.template("app.ini", '{{ key("n") }}')
    first = up(service)
    fetched = status(first)["preparation"]["prefixes"]["config/web"]["fetched"]
    first.stop()
    own_consul.stop()
    service.env["SVCINIT_START_TIMEOUT"] = "500ms"
    second = service.start()
    second.says("started ")
    found = status(second)
    assert "SVCINIT_CACHE" in found["degraded"]
    kept = found["preparation"]["prefixes"]["config/web"]
    assert (kept["entries"], kept["index"]) == (1, None)
    assert abs(kept["fetched"] - fetched) < 5, "not when it was fetched but when it was read"
    assert found["life"] != "", "a former life's record is not taken for this one's"


def test_what_a_former_life_left_is_not_this_ones(service: Service) -> None:
    """As after a restart of the container: the same folder, and often the same pids."""
    service.consul.kv_put("config/web/n", "1")
    service.template("app.ini", '{{ key("n") }}')
    first = up(service)
    first.signal(signal.SIGHUP)
    first.says("reload 1: done")
    before = status(first)
    first.stop()
    service.log.unlink()
    after = status(up(service))
    assert before["life"] != after["life"]
    assert after["preparation"]["fetch_seconds"]["count"] == 1
    assert after["last_reload"] is None


def test_a_registration_that_cannot_be_set_right_says_what_differs(
    make_service: Callable[[ConsulAgent], Service], own_consul: ConsulAgent
) -> None:
    service = make_service(own_consul)
    svcinit = up(service, SVCINIT_SYNC_INTERVAL="200ms")
    own_consul.stop()
    eventually(lambda: _own(status(svcinit))["reason"], "the reason is shown")
    assert "Connection refused" in _own(status(svcinit))["reason"]
    assert re.search(r"^  consul    \S+ registered at \S+; Consul at ", ctl(svcinit, "status")[1], re.MULTILINE)


def test_a_service_without_consul_has_a_status_too(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, "sleep", "100", env={"SVCINIT_STOP_TIMEOUT": "5s"}) as svcinit:
        svcinit.child("main")
        found = status(svcinit)
        assert (found["state"], found["service"], found["services"], found["watch"]) == ("running", None, {}, None)
        assert ctl(svcinit, "status")[1].startswith("service: running\n")


def test_a_file_in_place_of_consul_shows_as_what_is_followed(tmp_path: pathlib.Path) -> None:
    source, templates = tmp_path / "source.json", tmp_path / "templates"
    source.write_text('{"kv": {"config/web/n": "1"}, "services": {"db": ["10.0.0.1:3306"]}}')
    target = tmp_path / "etc" / "app.ini"
    template = templates / f"{str(target).lstrip('/')}.j2"
    template.parent.mkdir(parents=True)
    template.write_text('{{ key("n") }} {{ service("db")|length }}')
    env = {"SVCINIT_SERVICE": "web", "SVCINIT_SOURCE": f"file:{source}", "SVCINIT_TEMPLATES": str(templates)}
    with running(tmp_path, "sleep", "100", env={**env, "SVCINIT_WATCH": "1"}) as svcinit:
        svcinit.child("presence")
        found = eventually(lambda: _followed(status(svcinit)), "presence follows it")
        assert found
        assert [(each["kind"], each["name"]) for each in found["watch"]["followed"]] == [("file", str(source))]
        assert (found["services"], found["consul_requests"]) == ({}, {})
        assert found["preparation"]["prefixes"]["config/web"]["entries"] == 1
        assert found["preparation"]["peers"]["db"]["entries"] == 1
        assert re.search(r"^  KV prefix config/web: keys 1, \d+ s ago$", ctl(svcinit, "status")[1], re.MULTILINE)


def _followed(found: dict[str, Any]) -> dict[str, Any] | None:
    return found if found["watch"] else None


def test_it_is_found_where_a_file_says_that_the_state_is(service: Service) -> None:
    svcinit = up(service)
    path = service.folder / "where"
    path.write_text(f"{svcinit.folder / 'run'}\n")
    assert ctl(svcinit, "health", env={"SVCINIT_RUN": "", "SVCINIT_RUN_FILE": str(path)}) == (0, "")


# --watch


@contextlib.contextmanager
def watching(svcinit: Running, output: int) -> Iterator[subprocess.Popen[bytes]]:
    env = {**PATH, "SVCINIT_RUN": str(svcinit.folder / "run"), "PYTHONPATH": str(ROOT / "entrypoint")}
    command = [sys.executable, "-c", "from svcinit.ctl.cli import main; main()", "status", "--watch"]
    process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_a_pipe_gets_plain_lines_when_something_happened_and_ctrl_c_ends_it(service: Service) -> None:
    svcinit = up(service, SVCINIT_SYNC_INTERVAL="200ms")
    path = service.folder / "watched"
    with path.open("wb") as file, watching(svcinit, file.fileno()) as process:
        eventually(lambda: b"web: running\n" in path.read_bytes(), "the first picture")
        svcinit.signal(signal.SIGHUP)
        eventually(lambda: b"number 1 done" in path.read_bytes(), "the reload shows")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    said = path.read_bytes()
    assert ESCAPE not in said
    assert b"Traceback" not in said


def test_a_terminal_gets_one_picture_that_changes(service: Service) -> None:
    svcinit = up(service)
    ours, theirs = pty.openpty()
    try:
        with watching(svcinit, theirs) as process:
            said = _read_until(ours, b"web: running", b"")
            said = _read_until(ours, ESCAPE + b"[J", said)
            svcinit.signal(signal.SIGHUP)
            said = _read_until(ours, b"number 1 done", said)
            assert said.count(ESCAPE + b"[H") >= 2
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_in_a_narrow_terminal_no_line_goes_on_in_the_next_one(service: Service) -> None:
    svcinit = up(service)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 40))
    try:
        with watching(svcinit, theirs):
            said = _read_until(ours, ESCAPE + b"[J", b"")
    finally:
        os.close(ours)
        os.close(theirs)
    lines = said.partition(ESCAPE + b"[H")[2].partition(ESCAPE + b"[J")[0].split(ESCAPE + b"[K\r\n")
    assert max(map(len, lines)) == 39


def test_the_first_lines_are_what_an_operator_needs(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    service.template("app.ini", '{{ key("n") }}')
    svcinit = up(service)
    (instance,) = service.consul.instances("web")
    service_id, where = instance["Service"]["ID"], f"127.0.0.1:{service.port}"
    code, said = ctl(svcinit, "status", env=service.env)
    lines = said.splitlines()
    assert (code, lines[0]) == (0, "web: running")
    assert lines[1] == f"  check     service:{service_id} passing", (
        "as the agent has it now, not as presence last saw it"
    )
    assert lines[2] == f"  consul    {service_id} registered at {where}, in sync"
    assert lines[3] == "log"
    assert 1 <= lines.index("processes") - 4 <= 3
    assert "memory" not in said
    assert "requests to Consul" not in said
    _, said = ctl(svcinit, "status", "--verbose", env=service.env)
    assert {"requests to Consul", "files (rendered in"} <= {line[:18] for line in said.splitlines()}
    assert "memory" in said


def test_maintenance_shows_at_the_call(service: Service) -> None:
    svcinit = up(service)  # the next comparison with the agent is up to 30 s away
    (instance,) = service.consul.instances("web")
    service_id = instance["Service"]["ID"]
    service.consul.call("PUT", f"/v1/agent/service/maintenance/{service_id}?enable=true&reason=disk")
    assert "in maintenance (disk)" in ctl(svcinit, "status", env=service.env)[1].splitlines()[1]


def test_a_reload_that_is_aborted_prints_why_and_status_keeps_the_files(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = up(service)
    service.template("app.ini", '{{ key("none") }}')
    code, said = ctl(svcinit, "reload")
    assert code == 1
    assert "there is no key none" in said
    _, said = ctl(svcinit, "status", env=service.env)
    lines = said.splitlines()
    assert lines[1].startswith("  degraded  aborted")
    assert "there is no key none" in lines[1], "the line has the error itself"
    assert f"  {target}: sha256 {hashlib.sha256(b'1').hexdigest()[:12]}, changed" in said
    assert "files" in lines


def test_a_fetch_that_fails_leaves_the_files_in_the_status(
    make_service: Callable[[ConsulAgent], Service], own_consul: ConsulAgent
) -> None:
    service = make_service(own_consul)
    own_consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = up(service, SVCINIT_RELOAD_TIMEOUT="2s")
    own_consul.stop()
    code, said = ctl(svcinit, "reload")
    assert code == 1
    assert "Connection refused" in said
    _, said = ctl(svcinit, "status", env=service.env)
    assert ": Consul at " in said.splitlines()[1], "the error itself is in the degraded line"
    assert f"  {target}: sha256 " in said


def test_what_others_wrote_does_nothing_to_the_terminal(service: Service) -> None:
    svcinit = up(service, SVCINIT_SYNC_INTERVAL="200ms")
    assert ctl(svcinit, "maintenance", "on", "--reason", "disk\n\x1b[2J", env=service.env)[0] == 0
    _, said = eventually(lambda: _with(ctl(svcinit, "status"), "in maintenance"), "it has seen it") or (1, "")
    assert "in maintenance (disk\\n\\x1b[2J)" in said
    _, said = ctl(svcinit, "doctor", env=service.env)
    assert "disk\n\\x1b[2J [maintenance]\n" in said


def _with(answer: tuple[int, str], text: str) -> tuple[int, str] | None:
    return answer if text in answer[1] else None


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("render",), ("doctor",), ("doctor", "--json")])
def test_who_has_read_enough_may_go(service: Service, command: tuple[str, ...]) -> None:
    service.template("app.ini", "of a line\n" * 10000)
    svcinit = up(service)
    reading, writing = os.pipe()
    os.close(reading)
    env = {**PATH, **service.env, "SVCINIT_RUN": str(svcinit.folder / "run"), "PYTHONPATH": str(ROOT / "entrypoint")}
    with open(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *command], env=env, stdout=pipe, stderr=subprocess.PIPE,
            check=False, timeout=30,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def _read_until(terminal: int, text: bytes, said: bytes) -> bytes:
    deadline = time.monotonic() + 15
    while text not in said:
        assert time.monotonic() < deadline, said[-3000:]
        said += os.read(terminal, 65536)
    return said


def test_it_ends_with_svcinit_and_with_whoever_reads_it(service: Service) -> None:
    svcinit = up(service)
    reading, writing = os.pipe()
    with watching(svcinit, writing) as process:
        os.close(writing)
        assert os.read(reading, 10) == b"web: runni"
        os.close(reading)
        svcinit.signal(signal.SIGHUP)
        assert process.wait(15) in (0, 1)
    path = service.folder / "watched"
    with path.open("wb") as file, watching(svcinit, file.fileno()) as process:
        eventually(lambda: b"web: running\n" in path.read_bytes(), "the first picture")
        svcinit.stop()
        assert process.wait(10) == 1
    assert b"no running svcinit found" in path.read_bytes()
    assert b"Traceback" not in path.read_bytes()


def test_the_status_of_a_stop_is_as_its_schema_says(service: Service) -> None:
    svcinit = up(service, SVCINIT_DRAIN="3s")
    svcinit.signal(signal.SIGTERM)
    eventually(lambda: status(svcinit)["state"] == "draining", "it drains")
    assert svcinit.wait(20) == 0
