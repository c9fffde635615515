"""svcinitctl render beside a real Consul: what would be rendered now, and that nothing in place changes by it."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

from testing import planted
from testing.ctl import svcinitctl
from tests.e2e.conftest import Service
from tests.e2e.failing import is_passing

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

SECRET = planted.secret("hunter2")


def render(service: Service, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return svcinitctl("render", *arguments, env={**service.env, **env})


def rendered(service: Service, *arguments: str, **env: str) -> str:
    done = render(service, *arguments, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_prints_each_file_with_what_is_asked_for_it_and_the_arguments(service: Service) -> None:
    target = service.template("app.ini", '{# svcinit: mode=0640 owner=7:8 #}\nworkers = {{ key("workers") }}')
    service.consul.kv_put("config/web/workers", "4")
    words = ("--", "run", "--workers={{ key('workers') }}")
    assert rendered(service, *words, SVCINIT_RENDER_ARGS="1").splitlines() == [
        f"==> {target} (mode=0640 owner=7:8)",
        "workers = 4",
        "argument 0: run",
        "argument 1: --workers=4",
    ]
    assert not target.exists()


def test_the_diff_of_a_running_service_shows_what_a_reload_would_change_and_after_it_nothing(service: Service) -> None:
    target = service.template("app.ini", '{# svcinit: mode=0640 #}\n[web]\nworkers = {{ key("workers") }}\nlast')
    other = service.template("same.ini", "no keys here\n")
    service.consul.kv_put("config/web/workers", "4")
    service.start()
    is_passing(service)
    assert rendered(service, "--diff") == ""

    before = {path: path.stat() for path in (target, other)}
    service.consul.kv_put("config/web/workers", "5")
    target.chmod(0o644)
    assert rendered(service, "--diff").splitlines() == [
        f"--- {target}",
        f"+++ {target}",
        "old mode 0644",
        "new mode 0640",
        "@@ -1,3 +1,3 @@",
        " [web]",
        "-workers = 4",
        "+workers = 5",
        " last",
        "\\ No newline at end of file",
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == {p: kind.st_mtime_ns for p, kind in before.items()}


def test_the_diff_says_what_each_check_command_says_to_the_new_file(service: Service) -> None:
    check = "sh -c 'grep -n evil {} && exit 3; exit 0'"
    good = service.template("good.ini", f'{{# svcinit: check="{check}" #}}\ngood\n')
    bad = service.template("bad.ini", f'{{# svcinit: check="{check}" #}}\nevil {{{{ key("n") }}}}\n')
    service.consul.kv_put("config/web/n", "hunter2-secret")
    lines = rendered(service, "--diff").splitlines()
    verdict = f"check `{check}` of {bad}: not accepted: exit status 3"
    assert [line for line in lines if line.startswith("check ")] == [
        f"{verdict}; it said: 1:evil ***", f"check `{check}` of {good}: accepted",
    ]  # fmt: skip
    assert verdict in rendered(service, "--diff", "--mask").splitlines()
    assert not good.exists()
    assert not bad.exists()


def test_the_diff_can_be_applied_by_patch(service: Service, tmp_path: pathlib.Path) -> None:
    check = '{# svcinit: check="true {}" #}\n'
    target = service.template("list", check + '{% for n in range(60) %}{{ key_or_default("n" ~ n, n) }}\n{% endfor %}')
    target.parent.mkdir()
    target.write_text("".join(f"{n}\n" for n in range(60)))
    for name in ("n3", "n30", "n31", "n59"):
        service.consul.kv_put(f"config/web/{name}", f"new {name}")
    diff = rendered(service, "--diff")
    assert diff.count("@@ -") == 3
    subprocess.run(["patch", "--silent", str(target)], input=diff, text=True, check=True, timeout=10)
    assert rendered(service, "--diff") == ""


def test_masked_output_holds_no_value_old_or_new_however_a_template_prints_it(service: Service) -> None:
    target = service.template(
        "app.ini",
        "{% macro row(name, value) %}{{ name }} = {{ value }}{% endmacro %}"
        '{{ row("password", key("password")) }}\n'
        'inner = {{ (key("json")|from_json).inner }} {{ key("password")|upper }} {{ key("b64")|b64decode }}\n'
        '{{ key("certificate") }}\n'
        'port = {{ this.port }} peers = {{ service("consul")|hostports(9300)|join(",") }} home = {{ env.HOME }}\n',
    )
    values = {
        "password": SECRET,
        "json": '{"inner": "inside-json"}',
        "b64": "ZGVjb2RlZA==",
        "certificate": "--begin\nline\n--end",
    }
    for name, value in values.items():
        service.consul.kv_put(f"config/web/{name}", value)
    target.parent.mkdir()
    target.write_text(f"password = former-secret\nport = {service.port} peers = none\nthis was static\n")
    for arguments in (["--mask"], ["--diff", "--mask"], ["--mask", "--out", f"{service.folder}/masked"]):
        text = rendered(service, *arguments, HOME="/home/of-the-app")
        if "--out" in arguments:
            text = pathlib.Path(text.strip()).read_text()
        lines = [line.lstrip("+") for line in text.splitlines()]
        assert "password = ***" in lines
        assert "inner = *** *** ***" in lines
        assert lines.count("***") == 3  # the certificate has as many lines as it has
        assert f"port = {service.port} peers = 127.0.0.1:9300 home = ***" in lines
        for secret in (SECRET, SECRET.upper(), "inside-json", "decoded", "begin", "former", "static", "of-the-app"):
            assert secret not in text
    assert {"-password = ***", f"-port = {service.port} peers = ***", "-*** *** ***"} <= set(
        rendered(service, "--diff", "--mask", HOME="/").splitlines()
    )


def test_what_cannot_be_rendered_with_masks_is_masked_whole(service: Service) -> None:
    service.template("a", '{% set n %}{{ key("n") }}{% endset %}{{ {"4": "four"}[n] }} of\nsecond\n')
    service.consul.kv_put("config/web/n", "4")
    assert "four of\nsecond\n" in rendered(service)
    assert rendered(service, "--mask").splitlines()[1:] == ["***", "***"]


def test_a_tree_is_written_elsewhere_with_its_modes_and_nothing_where_it_belongs(service: Service) -> None:
    target = service.template("app.ini", '{# svcinit: mode=0600 check="false {}" #}\n{{ key("n") }}')
    script = service.templates / "usr/bin/run"
    script.parent.mkdir(parents=True)
    script.write_bytes(b"#!/bin/sh\n\xff")
    script.chmod(0o755)
    service.consul.kv_put("config/web/n", "4")
    below = service.folder / "elsewhere"
    lines = rendered(service, "--out", str(below)).splitlines()
    assert lines == sorted([f"{below}{target}", f"{below}/usr/bin/run"])
    written = pathlib.Path(f"{below}{target}")
    assert (written.read_text(), oct(written.stat().st_mode)) == ("4", "0o100600")
    assert (below / "usr/bin/run").read_bytes() == b"#!/bin/sh\n\xff"
    assert os.access(below / "usr/bin/run", os.X_OK)
    assert not target.exists()


def test_a_link_in_the_tree_written_elsewhere_cannot_lead_out_of_it(service: Service) -> None:
    target = service.template("app.ini", "x")
    service.consul.kv_put("config/web/n", "4")
    below = service.folder / "elsewhere"
    below.mkdir()
    (below / str(target).split("/")[1]).symlink_to(f"/{str(target).split('/')[1]}")
    done = render(service, "--out", str(below))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{below}{target} is a link that leads out of {below}\n"
    assert not target.exists()


def test_all_that_is_wrong_is_told_with_exit_1(service: Service) -> None:
    service.template("a", "{{ key('worker') }}")
    service.template("b", "\n{{ nod }}")
    service.consul.kv_put("config/web/workers", "4")
    done = render(service, "--diff")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no key worker; nearest: workers" in done.stderr
    assert "b.j2, line 2, `{{ nod }}`: nod is not defined; nearest: node" in done.stderr
    away = render(service, CONSUL_HTTP_ADDR="127.0.0.1:1")
    assert away.returncode == 1
    assert "127.0.0.1:1" in away.stderr
