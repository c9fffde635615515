"""svcinitctl doctor: what it finds without Consul and without Docker."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable

import pytest

from svcinit.ctl.doctor.catalogue import FINDINGS
from svcinit.ctl.doctor.commands import fault_of
from testing.consul import LOOPBACK, free_ports
from testing.doctor import Diagnosis, examined
from testing.process import PATH, ROOT
from tools.doctor_page import PAGE, SCHEMA, page, schema

SECRET = "rosebud-rosebud"
Template = Callable[[str, str], pathlib.Path]


@pytest.fixture
def env(tmp_path: pathlib.Path) -> dict[str, str]:
    """A service configured from a file, whose files all have a place."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "source.json").write_text(json.dumps({"kv": {"config/web": {"n": "1"}}, "services": {"db": []}}))
    return {
        "SVCINIT_SERVICE": "web",
        "SVCINIT_SOURCE": f"file:{tmp_path}/source.json",
        "SVCINIT_TEMPLATES": str(tmp_path / "templates"),
        "SVCINIT_RUN": str(tmp_path / "run"),
    }


@pytest.fixture
def away(env: dict[str, str], tmp_path: pathlib.Path) -> dict[str, str]:
    """The same, of a Consul that is not there."""
    http, dns = free_ports(2)
    del env["SVCINIT_SOURCE"]
    where = {"CONSUL_HTTP_ADDR": f"{LOOPBACK}:{http}", "SVCINIT_DNS_ADDR": f"{LOOPBACK}:{dns}"}
    return {**env, **where, "SVCINIT_CACHE": str(tmp_path / "cache.json")}


@pytest.fixture
def template(tmp_path: pathlib.Path) -> Template:
    """template(name, text): a template that renders to the returned path."""

    def write(name: str, text: str) -> pathlib.Path:
        target = tmp_path / "out" / name
        source = tmp_path / "templates" / str(target).lstrip("/")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.with_name(source.name + ".j2").write_text(text)
        return target

    return write


@pytest.fixture
def script(tmp_path: pathlib.Path) -> Callable[..., str]:
    def write(name: str, content: bytes, mode: int = 0o755) -> str:
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(mode)
        return str(path)

    return write


def test_the_page_the_schema_and_the_tables_agree() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == schema(), "run `make docs`"


def test_every_finding_is_provoked_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_doctor*.py"))
    assert [name for name in FINDINGS if f'"{name}"' not in tests] == []


def test_where_all_is_right_nothing_is_found_and_nothing_is_left(
    env: dict[str, str], template: Template, tmp_path: pathlib.Path
) -> None:
    target = template("app.ini", '{# svcinit: mode=0600 check="grep -q 1 {}" #}\n{{ key("n") }}\n')
    before = sorted(tmp_path.rglob("*"))
    found = examined(env, "--", "sleep", "60")
    assert (found.code, found.bad) == (0, set()), found.text
    assert "the command: sleep can be started" in found.well("command")
    assert found.well("targets") == [f"{target} can be put in place", f"{target} is accepted by its check"]
    assert found.well("source") == [f"{tmp_path}/source.json: keys 1, 1 below config/web; services 1"]
    assert "a --stop-timeout cannot be seen from inside" in found.well("stop")[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_all_faults_of_the_settings_are_told_and_the_rest_is_looked_at_all_the_same(env: dict[str, str]) -> None:
    env |= {
        "SVCINIT_PORT": "none", "SVCINIT_USER": "nobody-here", "SVCINIT_SERVICES": "{}", "SVCINIT_DRIAN": "1s",
        "SVCINIT_STOP_TIMEOUT": "30s", "SVCINIT_STOP": "restart", "CONSUL_HTTP_TOKEN_FILE": "/no/token",
    }  # fmt: skip
    found = examined(env, "--", "no-such-command")
    assert found.code == 1
    assert [text.partition("=")[0] for text in found.all("settings-wrong")] == [
        "CONSUL_HTTP_TOKEN_FILE", "SVCINIT_PORT", "SVCINIT_USER", "SVCINIT_STOP",
    ]  # fmt: skip
    assert "there is no user 'nobody-here' in this image" in found.all("settings-wrong")[2]
    assert "SVCINIT_DRIAN is not a variable of svcinit; did you mean SVCINIT_DRAIN?" in found.one("variable-unknown")
    assert {"stop-too-long", "command-missing"} <= found.bad


def test_services_that_are_no_list_are_told_with_the_settings(away: dict[str, str]) -> None:
    found = examined({**away, "SVCINIT_SERVICES": "{}"})
    assert "SVCINIT_SERVICES is no list of mappings" in found.one("settings-wrong")
    assert found.policy == ""


def test_a_package_that_a_setting_or_a_template_needs_is_named(
    env: dict[str, str], template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    template("app.yaml", "{{ {'a': 1} | to_yaml }}")
    assert not examined(env).all("module-missing")
    monkeypatch.setitem(sys.modules, "yaml", None)  # what makes an import fail
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    found = examined({**env, "SVCINIT_METRICS": "127.0.0.1:9000"})
    assert found.all("module-missing") == [
        "there is no package yaml, for a template's to_yaml",
        "there is no package prometheus_client, for SVCINIT_METRICS",
    ]
    assert "pip install 'svcinit[yaml]'" in found.text
    found = examined({**env, "SVCINIT_SERVICES": "- {port: 8001}", "SVCINIT_SOURCE": "file:/no/source.yaml"})
    assert "yaml, for SVCINIT_SERVICES, SVCINIT_SOURCE, a template's to_yaml |" in found.one("module-missing")


def test_every_template_with_a_fault_is_told_with_file_and_line(
    env: dict[str, str], template: Template, tmp_path: pathlib.Path
) -> None:
    template("a.ini", "fine\n{% if %}\n")
    template("b.ini", "{{ one }\n")
    template("c.ini", "{# svcinit: mode=99 owner=nobody-here #}\n{{ 1 }}\n")
    template("_part", "\n\n{% endfor %}")
    found = examined(env).all("template-wrong")
    told = {text.replace(f"{tmp_path}/templates{tmp_path}/out/", "").split(",")[0]: text for text in found}
    assert sorted(told) == ["_part.j2", "a.ini.j2", "b.ini.j2", "c.ini.j2"]
    assert ", line 2, " in told["a.ini.j2"]
    assert ", line 3, " in told["_part.j2"]
    assert [text for text in found if "mode=99 is not an octal mode" in text or "no user nobody-here" in text]


def test_a_template_that_cannot_be_rendered_does_not_hide_the_next(
    env: dict[str, str], template: Template, tmp_path: pathlib.Path
) -> None:
    template("a.ini", '{{ key("m") }}')
    template("b.ini", "{{ env.NONE }}")
    template("c.ini", '{{ service("db", min=1) | length }}')
    fine = template("d.ini", '{{ key("n") }}')
    found = examined(
        {**env, "SVCINIT_RENDER_ARGS": "1", "SVCINIT_WAIT_FOR": "db:2", "SVCINIT_WAIT_FOR_KEYS": "n,o"},
        "--",
        "true",
        '{{ key("o") }}',
    )
    told = found.all("template-fails")
    expected = ("there is no key m", "environment variable NONE is not set", "there is no key o")
    assert [words for words, text in zip(expected, told, strict=True) if words not in text] == []
    assert "service db has 0 of the 1 peers needed" in found.one("template-waits")
    assert "db: 0 of 2 instances in SVCINIT_SOURCE" in found.one("peers-missing")
    assert "o" in found.one("keys-missing").split(": ")[-1]
    assert f"{fine} can be put in place" in found.well("targets")
    assert not (tmp_path / "out").exists()


def test_all_that_one_template_misses_is_reported_and_would_stop_the_start(
    env: dict[str, str], template: Template
) -> None:
    template(
        "a.ini",
        """{{ key("one") | int }}
{{ service("db", min=2)[1].address }}
{{ key("two") | from_json }}
{{ service("cache", dc="dc2", min=1)[0].address }} {{ key("n") }}
{{ cfg.three }}
{{ service("db", min=1)[0].port }}""",
    )
    found = examined(env)
    assert found.code == 1
    assert [text.partition("there is no key ")[2].partition(";")[0] for text in found.all("template-fails")] == [
        "one", "two", "three",
    ]  # fmt: skip
    assert [text.partition(": service ")[2] for text in found.all("template-waits")] == [
        "db has 0 of the 2 peers needed", "cache in dc2 has 0 of the 1 peers needed",
    ]  # fmt: skip
    assert len(found.all("template-fails") + found.all("template-waits")) == 5, "nothing that comes from stand-ins"


@pytest.mark.parametrize("name", ["nosuch", "nosuch('x')", "nosuch.field", "env.NOSUCH"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_name_that_does_not_exist_is_reported_beside_a_missing_key(
    env: dict[str, str], template: Template, name: str, is_first: bool
) -> None:
    parts = [f"{{{{ {name} }}}}", '{{ key("gone") }}', '{{ service("db", min=1)|length }}']
    template("a.ini", "\n".join(parts if is_first else parts[::-1]))
    found = examined(env)
    assert found.code == 1
    wrong = sorted(text.rpartition("`: ")[2].partition(";")[0] for text in found.all("template-fails"))
    named = "environment variable NOSUCH is not set" if name.startswith("env") else "nosuch is not defined"
    assert wrong == sorted([named, "there is no key gone"])
    assert "service db has 0 of the 1 peers needed" in found.one("template-waits")


def test_too_few_peers_alone_are_an_exit_status_of_1(env: dict[str, str], template: Template) -> None:
    template("a.ini", '{{ service("db", min=1) | length }}')
    found = examined(env)
    assert (found.code, found.bad) == (1, {"template-waits"})


def test_a_key_that_cannot_be_a_variable_and_a_source_that_is_wrong_are_told(
    env: dict[str, str], template: Template, tmp_path: pathlib.Path
) -> None:
    template("app.ini", "1")
    source = tmp_path / "source.json"
    source.write_text(json.dumps({"kv": {"config/web/env": {"a=b": SECRET}}}))
    found = examined(env)
    assert "KV key 'env/a=b' cannot be an environment variable" in found.one("env-wrong")
    assert SECRET not in found.text
    source.write_text('{"kv":\n1}')
    found = examined(env)
    assert "line 1: kv: expected a mapping" in found.one("source-wrong")
    assert "kv: expected a mapping" in found.one("template-unrendered")


def test_a_check_command_that_refuses_is_told_without_values(env: dict[str, str], template: Template) -> None:
    (pathlib.Path(env["SVCINIT_SOURCE"].removeprefix("file:"))).write_text(json.dumps({"kv": {"config/web/n": SECRET}}))
    target = template("app.ini", '{# svcinit: check="sh -c \'cat {}; exit 3\'" #}\n{{ key("n") }}\n')
    other = template("b.ini", '{# svcinit: check="no-such-check {}" #}\n{{ key("none") }}\n')
    found = examined(env)
    assert f"{target} was not accepted by its check" in found.one("check-refuses")
    assert "exit status 3; it said: ***" in found.one("check-refuses")
    assert f"`check=` for {other}: there is no no-such-check in PATH=" in found.one("command-missing")
    assert SECRET not in found.text


def test_a_target_without_a_place_is_told_and_the_others_are_tried(
    env: dict[str, str], tmp_path: pathlib.Path, template: Template
) -> None:
    nowhere = tmp_path / "templates" / "proc" / "nowhere"
    nowhere.mkdir(parents=True)
    (nowhere / "a.ini.j2").write_text("a")
    template("folder", "b").mkdir(parents=True)
    fine = template("fine", "c")
    found = examined(env)
    told = [text.split(":")[0].removeprefix("cannot write ") for text in found.all("target-wrong")]
    assert sorted(told) == ["/proc/nowhere/a.ini", f"{tmp_path}/out/folder"]
    assert found.well("targets") == [f"{fine} can be put in place"]
    (tmp_path / "out" / "folder").rmdir()
    (tmp_path / "out" / "folder").symlink_to("fine")
    assert "are the same file: keep only one" in "".join(examined(env).all("target-wrong"))


def test_whatever_starts_a_command_is_named_where_the_command_is_not_there(
    env: dict[str, str], away: dict[str, str], template: Template
) -> None:
    target = template("app.ini", "{# svcinit: reload=exec:no-reload #}\n1\n")
    commands = {
        "SVCINIT_PRE_START": "no-hook", "SVCINIT_PRE_RELOAD": "no-hook", "SVCINIT_POST_STOP": "no-hook",
        "SVCINIT_STOP": "exec:no-stop now", "SVCINIT_RELOAD": "exec:no-reload", "SVCINIT_READY": "exec:no-ready",
        "SVCINIT_CHECK": "exec:no-check -v",
        "SVCINIT_SERVICES": json.dumps([{"name": "admin", "port": 1, "check": "exec:no-check"}]),
    }  # fmt: skip
    told = examined({**away, **commands}, "--", "no-command").all("command-missing")
    names = [*commands][:-1]
    where = ["the command", *names, "SVCINIT_SERVICES[0].check", f"`reload=` for {target}"]
    assert [text.partition(": there is no no-")[0] for text in told] == where


def test_what_execve_would_refuse_is_told_without_starting_it(
    script: Callable[..., str], tmp_path: pathlib.Path
) -> None:
    real = pathlib.Path(os.path.realpath(shutil.which("true") or "")).read_bytes()
    (loader,) = re.findall(rb"/lib\S*/ld-linux\S*\.so\.[12]", real)
    commands = {
        script("plain", b"#!/bin/sh\ntouch started\n", 0o644): ("command-not-executable", "is not executable for uid"),
        script("dos", b"#!/bin/sh\r\ntrue\r\n"): ("command-missing", "its lines end in CR LF"),
        script("gone", b"#!/no/interpreter -x\n"): ("command-missing", "is a script for '/no/interpreter'"),
        script("env", b"#!/usr/bin/env no-python\n"): ("command-missing", "there is no no-python in PATH="),
        script("libc", real.replace(loader, loader.replace(b"linux", b"gone!"))): (
            "command-missing", "it was built for another libc",
        ),
        script("locked", b"#!/bin/sh\n", 0o600): ("command-not-executable", "is not executable for uid"),
        str(tmp_path): ("command-not-executable", "is a directory"),
        "": ("command-missing", "it is empty"),
    }  # fmt: skip
    for command, (finding, said) in commands.items():
        fault = fault_of(command, PATH)
        assert fault, command
        assert (fault[0], said in fault[1]) == (finding, True), fault
    fine = script("fine", b"#!/bin/sh\ntouch started\n"), script("cut", b"\x7fELF\x02\x01"), sys.executable, "true"
    assert [fault_of(command, PATH) for command in fine] == [None] * len(fine)
    assert not (tmp_path / "started").exists()


def test_a_command_that_a_template_makes_is_left_alone(env: dict[str, str]) -> None:
    found = examined({**env, "SVCINIT_RENDER_ARGS": "1"}, "--", '{{ key("n") }}')
    assert (found.code, found.well("command")) == (0, ['{{ key("n") }} comes from a template'])


def test_a_stop_that_docker_would_cut_short_or_not_start_is_told_with_the_number_to_give(away: dict[str, str]) -> None:
    found = examined({**away, "SVCINIT_DRAIN": "2500ms", "SVCINIT_STOP_TIMEOUT": "20s", "SVCINIT_STOP_ON": "QUIT,USR1"})
    assert "docker stop -t 24, docker run --stop-timeout 24" in found.one("stop-too-long")
    assert "add TERM to SVCINIT_STOP_ON, or set STOPSIGNAL QUIT or USR1 in the image" in found.one("stop-signal")
    assert not {"stop-too-long", "stop-signal"} & examined({**away, "SVCINIT_DRAIN": "1s"}).bad
    found = examined({**away, "SVCINIT_STOP_ON": "QUIT", "SVCINIT_SIGNALS": "TERM:QUIT"})
    assert "stop-signal" not in found.bad
    assert "a plain init passes TERM on" in examined({}).well("stop")[0]


def test_state_and_cache_that_cannot_be_written_or_used_are_warnings(
    away: dict[str, str], tmp_path: pathlib.Path
) -> None:
    found = examined({**away, "SVCINIT_RUN": "/proc/nowhere", "SVCINIT_CACHE": "/proc/nowhere/cache.json"})
    assert "/proc/nowhere cannot be written: no such file or directory" in found.one("run-unwritable")
    assert "SVCINIT_CACHE='/proc/nowhere/cache.json': /proc/nowhere cannot be written" in found.one("cache-unwritable")
    (tmp_path / "cache.json").write_text("{")
    assert "it is damaged: not the JSON that svcinit writes" in examined(away).one("cache-refused")


def test_a_consul_that_is_away_hides_nothing_that_can_be_known_without_it(
    away: dict[str, str], template: Template
) -> None:
    template("app.ini", '{{ service("db") | length }}')
    found = examined({**away, "SVCINIT_ADVERTISE": "no-interface"}, "--", "no-command")
    refused = "GET /v1/status/leader failed: Connection refused"
    assert f"Consul at {away['CONSUL_HTTP_ADDR']}: {refused}" in found.one("consul-away")
    assert f"{away['SVCINIT_DNS_ADDR']} Connection refused" in found.one("dns-server-away")
    assert f"no server gives a usable answer: {away['SVCINIT_DNS_ADDR']}" in found.one("dns-away")
    assert "'no-interface' matches no address here; expected an IP" in found.one("address-unknown")
    assert "Consul does not answer" in found.one("template-unrendered")
    assert 'service "web" { policy = "write" }' in found.policy
    told = {"consul-away", "dns-server-away", "dns-away", "address-unknown", "template-unrendered", "command-missing"}
    assert found.bad == told


def test_a_plain_init_is_told_so_and_asks_nobody() -> None:
    found: Diagnosis = examined({"SVCINIT_STOP": "signal:TERM"})
    assert (found.code, found.bad, found.policy) == (0, set(), "")
    assert found.well("settings") == ["nothing is registered"]
    assert {entry["check"] for entry in found.entries} == {"settings", "init", "user", "command", "stop"}


def test_a_plain_init_has_no_reload_and_a_command_that_does_not_run_yet_cannot_be_asked(env: dict[str, str]) -> None:
    assert examined(env).well("reload") == [
        "by HUP: whether the command handles it can be seen only while it runs under svcinit"
    ]
    assert examined({**env, "SVCINIT_RELOAD": "restart"}).well("reload") == ["by restart"]
    assert examined({}).well("reload") == []
