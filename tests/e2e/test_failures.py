"""Each failure of the start, of a reload and of the stop, on a real Consul: what is said, how it ends, what is left.

A failed start leaves no file and starts nothing; a failed reload leaves the old files and a service that runs on.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import Service
from tests.support.consul import LOOPBACK, ConsulAgent, free_ports
from tests.support.process import PATH, ROOT, Running, is_alive
from tests.support.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

MakeService = Callable[[ConsulAgent], Service]
ROOT_TOKEN, FOREIGN_TOKEN = "7f1c2d3e-0000-4000-8000-000000000001", "7f1c2d3e-0000-4000-8000-00000000dead"
AT_ONCE = 5.0  # seconds, well below any timeout of svcinit's that could have passed instead
WRONG = "svcinit: error: exit 78: the configuration is wrong; the service was not started\n"


def is_passing(service: Service) -> None:
    eventually(lambda: service.consul.passing("web"), "the service is passing in Consul")


def files_in(folder: pathlib.Path) -> list[str]:
    """All there is below `folder`, dot-files included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def source_of(service: Service, target: pathlib.Path) -> pathlib.Path:
    """The template that renders to `target`."""
    return service.templates / (str(target).lstrip("/") + ".j2")


def refuses_to_start(service: Service, *messages: str, code: int = 78) -> Running:
    """Start, and see it end with `code` and `messages`, no file written and nothing started or registered."""
    svcinit = service.start()
    assert svcinit.wait() == code, svcinit.err
    for message in messages:
        assert message in svcinit.err
    assert svcinit.err.endswith(WRONG if code == 78 else "\n")
    assert files_in(service.folder).count("app.log") == 0, "the service was started"
    assert not service.out.exists(), files_in(service.out)
    return svcinit


def has_state(svcinit: Running, **expected: object) -> None:
    """Wait until svcinit's state file says so."""

    def state() -> dict[str, object]:
        found: dict[str, object] = json.loads((svcinit.folder / "run" / "init.json").read_text())
        return {name: found[name] for name in expected}

    eventually(lambda: state() == expected, f"the state is {expected}; it was {state()}")


def ctl(svcinit: Running, command: str) -> tuple[int, str]:
    code = "from svcinit.ctl import main; main()"
    env = {**PATH, "SVCINIT_RUN": str(svcinit.folder / "run"), "PYTHONPATH": str(ROOT / "entrypoint")}
    done = subprocess.run(
        [sys.executable, "-c", code, command], env=env, capture_output=True, text=True, timeout=20, check=False
    )
    return done.returncode, done.stdout + done.stderr


def refuses_to_reload(svcinit: Running, service: Service, *messages: str) -> None:
    """HUP, and see the reload aborted: said, kept in the state, and the service left alone."""
    before = svcinit.err.count("reload ")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("error: reload 1: aborted: ")
    for message in messages:
        assert message in svcinit.err
    assert svcinit.err.count("reload ") > before
    has_state(svcinit, state="running", reloads=1)
    code, said = ctl(svcinit, "status")
    assert (code, "degraded  aborted: " in said) == (1, True), said
    assert ctl(svcinit, "health") == (0, "")
    is_passing(service)
    assert svcinit.stop() == 0
    assert service.notes == ["up", "SIGTERM"], "the service was told of a reload that was aborted"


# settings


def test_all_wrong_settings_are_told_together_before_anything_is_done(service: Service) -> None:
    service.template("app.ini", "never")
    service.env |= {"SVCINIT_PORT": "http", "SVCINIT_DRAIN": "soon", "SVCINIT_SERVCIE": "web", "SVCINIT_USER": "nosuch"}
    svcinit = service.start()
    assert svcinit.wait() == 78
    assert sorted(svcinit.err.splitlines()) == [
        "svcinit: error: SVCINIT_DRAIN='soon': expected a duration such as 500ms, 10s, 5m or 1h",
        "svcinit: error: SVCINIT_PORT='http': expected a port number from 1 to 65535",
        "svcinit: error: SVCINIT_SERVCIE is not a variable of svcinit; did you mean SVCINIT_SERVICE?",
        "svcinit: error: SVCINIT_USER='nosuch': there is no user 'nosuch' in this image",
    ]
    assert not service.out.exists()
    assert not (svcinit.folder / "run").exists()
    assert service.notes == []


def test_a_secret_in_a_file_that_is_not_there_is_told_without_any_secret(service: Service) -> None:
    service.env["CONSUL_HTTP_TOKEN_FILE"] = "/nosuch/token"
    svcinit = service.start()
    assert svcinit.wait() == 78
    told = "CONSUL_HTTP_TOKEN_FILE='/nosuch/token' cannot be read: No such file or directory"
    assert svcinit.err == f"svcinit: error: {told}\n"


# templates

KEY_MISSING = '\n\nworkers = {{ key("uwsgi/wrokers") }}\n'


def wrong_templates() -> dict[str, tuple[str, str]]:
    """What is wrong, by name: a template, and what is said after the name of its file."""
    return {
        "syntax": ("fine\n{% if %}\n", ", line 2, `{% if %}`: Expected an expression"),
        "key": (
            KEY_MISSING,
            ', line 3, `workers = {{ key("uwsgi/wrokers") }}`: there is no key uwsgi/wrokers; nearest: uwsgi/workers',
        ),
        "cfg": ("{{ cfg.uwsgi.wrokers }}", ", line 1, `{{ cfg.uwsgi.wrokers }}`: there is no key uwsgi/wrokers"),
        "name": ("{{ nosuch }}", ", line 1, `{{ nosuch }}`: nosuch is not defined"),
        "variable": ("{{ env.NOSUCH }}", ", line 1, `{{ env.NOSUCH }}`: environment variable NOSUCH is not set"),
        "include": (
            "{% include 'no.j2' %}",
            ", line 1, `{% include 'no.j2' %}`: there is no template no.j2 in the template directories",
        ),
        "option": ("{# svcinit: mod=0600 #}", ", line 1: unknown option 'mod' in the svcinit comment; nearest: mode"),
    }


@pytest.mark.parametrize("wrong", wrong_templates())
def test_a_wrong_template_is_told_with_file_line_and_fault_and_nothing_is_written(service: Service, wrong: str) -> None:
    service.consul.kv_put("config/web/uwsgi/workers", "4")
    text, fault = wrong_templates()[wrong]
    service.template("a-sound-one", "sound")
    source = source_of(service, service.template("app.ini", text))
    refuses_to_start(service, f"svcinit: error: {source}{fault}")


def test_the_faults_of_all_templates_are_told_at_once(service: Service) -> None:
    service.template("one", '{{ key("a") }}')
    service.template("two", '{{ key("b") }}')
    refuses_to_start(service, "there is no key a; there are no keys at all", "there is no key b; there are no keys")


def test_a_fault_does_not_show_what_the_other_keys_hold(service: Service) -> None:
    service.consul.kv_put("config/web/password", "hunter2")
    service.template("app.ini", '{{ key(key("password")) }}{{ 1 // (key("password")|int) }}')
    svcinit = refuses_to_start(service, "there is no key (computed)")
    assert "hunter2" not in svcinit.err


@pytest.mark.parametrize("wrong", wrong_templates())
def test_a_template_gone_wrong_aborts_the_reload_with_all_files_as_they_were(service: Service, wrong: str) -> None:
    service.consul.kv_put("config/web/uwsgi/workers", "4")
    first = service.template("a-first", "old")
    target = service.template("app.ini", "old")
    svcinit = service.start()
    is_passing(service)
    text, fault = wrong_templates()[wrong]
    service.template("a-first", "new")
    service.template("app.ini", text)
    refuses_to_reload(svcinit, service, f"svcinit: error: {source_of(service, target)}{fault}")
    assert (first.read_text(), target.read_text()) == ("old", "old")
    assert files_in(service.out) == ["a-first", "app.ini"]


# check commands

CHECKED = """{# svcinit: check="sh -c 'grep -q good $0 || { echo line 1: $(cat $0) is no good; exit 3; }' {}" #}\n"""


def test_a_file_that_its_check_refuses_is_not_written_nor_is_any_other(service: Service) -> None:
    target = service.template("app.ini", CHECKED + "evil")
    service.template("a-sound-one", "sound")
    refuses_to_start(
        service, f"error: {target} was not accepted by its check, `sh -c ", "exit status 3; it said: line 1: evil is no"
    )


def test_a_check_command_that_is_not_there_is_told(service: Service) -> None:
    target = service.template("app.ini", '{# svcinit: check="nosuch-checker {}" #}\nx')
    fault = "`nosuch-checker {}`: nosuch-checker cannot be run: no such file or directory"
    refuses_to_start(service, f"error: {target} was not accepted by its check, {fault}")


def test_a_file_that_its_check_refuses_aborts_the_reload(service: Service) -> None:
    first = service.template("a-first", "old")
    target = service.template("app.ini", CHECKED + "good")
    svcinit = service.start()
    is_passing(service)
    service.template("a-first", "new")
    service.template("app.ini", CHECKED + "evil")
    refuses_to_reload(svcinit, service, f"{target} was not accepted by its check", "line 1: evil is no good")
    assert (first.read_text(), target.read_text()) == ("old", "good")
    assert files_in(service.out) == ["a-first", "app.ini"]


# hooks


def test_a_failing_hook_before_the_start_gives_its_own_status(service: Service) -> None:
    service.env["SVCINIT_PRE_START"] = "sh -c 'echo the database is too old >&2; exit 9'"
    svcinit = service.start()
    assert svcinit.wait() == 9
    assert "the database is too old\n" in svcinit.err
    assert "error: exit 9: SVCINIT_PRE_START failed with status 9; the service was not started\n" in svcinit.err
    assert service.notes == []
    assert service.consul.instances("web") == []


def test_a_hook_before_the_start_that_is_not_there_is_127(service: Service) -> None:
    service.env["SVCINIT_PRE_START"] = "/nosuch/hook"
    svcinit = service.start()
    assert svcinit.wait() == 127
    assert "error: /nosuch/hook: command not found\n" in svcinit.err


def test_a_hook_before_the_start_that_hangs_is_killed_and_the_start_given_up(service: Service) -> None:
    service.env |= {"SVCINIT_PRE_START": "sleep 1000", "SVCINIT_START_TIMEOUT": "300ms"}
    svcinit = service.start()
    assert svcinit.wait(AT_ONCE) == 137
    assert "warning: hook took too long: killed\n" in svcinit.err
    assert service.notes == []


def test_a_failing_hook_before_the_reload_has_all_files_put_back(service: Service) -> None:
    old, new = b"old \xff\r\n", "new"
    raw = service.template("raw", "")
    raw_source = source_of(service, raw)
    service.env["SVCINIT_PRE_RELOAD"] = f"sh -c 'cat {raw} {service.out}/app.ini {service.out}/added; exit 3'"
    target = service.template("app.ini", "{# svcinit: mode=0640 #}\nold")
    raw_source.unlink()
    copied = raw_source.with_suffix("")
    copied.write_bytes(old)
    copied.chmod(0o700)
    svcinit = service.start()
    is_passing(service)
    copied.write_bytes(new.encode())
    copied.chmod(0o644)
    service.template("app.ini", "{# svcinit: mode=0600 #}\nnew")
    service.template("added", "new")
    refuses_to_reload(svcinit, service, "aborted: SVCINIT_PRE_RELOAD failed with status 3; the files were put back")
    assert "newnewnew" in svcinit.out, "the hook should have seen the new files"
    assert (raw.read_bytes(), raw.stat().st_mode & 0o777) == (old, 0o700)
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("old", 0o640)
    assert files_in(service.out) == ["app.ini", "raw"]


def test_after_an_aborted_reload_the_next_hup_ends_well_and_clears_the_state(service: Service) -> None:
    gate = service.folder / "gate"
    service.env["SVCINIT_PRE_RELOAD"] = f"test -e {gate}"
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)
    service.consul.kv_put("config/web/n", "2")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: aborted: SVCINIT_PRE_RELOAD failed with status 1; the files were put back")
    assert target.read_text() == "1"
    gate.touch()
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 2: done")
    assert target.read_text() == "2"
    has_state(svcinit, state="running", reloads=2, degraded="")
    assert ctl(svcinit, "status")[0] == 0
    eventually(lambda: service.notes == ["up", "SIGHUP", "up"], "the service got the HUP")


def test_a_failing_reload_command_is_told_and_the_service_stays_up(service: Service) -> None:
    service.env["SVCINIT_RELOAD"] = "exec:sh -c 'exit 4'"
    svcinit = service.start()
    is_passing(service)
    svcinit.signal(signal.SIGHUP)
    svcinit.says("error: reload 1: SVCINIT_RELOAD failed with status 4; the next HUP tries again")
    has_state(svcinit, state="running", degraded="SVCINIT_RELOAD failed with status 4; the next HUP tries again")
    assert service.notes == ["up"]


# files


def test_a_directory_in_the_place_of_a_file_is_told_and_nothing_else_is_written(service: Service) -> None:
    service.template("a-sound-one", "sound")
    target = service.template("app.ini", "text")
    (target / "kept").mkdir(parents=True)
    svcinit = service.start()
    assert svcinit.wait() == 78
    assert f"error: cannot write {target}: it is a directory; remove it, or rename the template\n{WRONG}" in svcinit.err
    assert files_in(service.out) == ["app.ini", "app.ini/kept"]


def test_a_file_in_the_place_of_a_directory_is_told(service: Service) -> None:
    service.template("a-sound-one", "sound")
    target = service.template("conf/app.ini", "text")
    service.out.mkdir()
    (service.out / "conf").write_text("I am a file")
    svcinit = service.start()
    assert svcinit.wait() == 78
    advice = f"a part of {service.out}/conf is a file: remove that, or rename the template"
    assert f"error: cannot write {target}: not a directory; {advice}\n{WRONG}" in svcinit.err
    assert files_in(service.out) == ["conf"]
    assert (service.out / "conf").read_text() == "I am a file"


@pytest.fixture
def mount() -> Iterator[Callable[[pathlib.Path, str], None]]:
    """mount(path, options): a tmpfs on `path`, gone after the test."""
    mounted: list[pathlib.Path] = []

    def on(path: pathlib.Path, options: str) -> None:
        remount = path in mounted
        where = ["-o", f"remount,{options}", str(path)] if remount else ["-o", options, "tmpfs", str(path)]
        subprocess.run(["mount", "-t", "tmpfs", *where], check=True, timeout=10)
        if not remount:
            mounted.append(path)

    yield on
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True, timeout=10)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_read_only_file_system_is_told_with_what_to_do(
    service: Service, mount: Callable[[pathlib.Path, str], None]
) -> None:
    target = service.template("app.ini", "text")
    service.out.mkdir()
    mount(service.out, "ro")
    svcinit = service.start()
    assert svcinit.wait() == 78
    advice = f"mount a tmpfs or a volume on {service.out}"
    assert f"error: cannot write {target}: read-only file system; {advice}\n{WRONG}" in svcinit.err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_a_full_disk_aborts_the_reload_with_the_old_files_in_place(
    service: Service, mount: Callable[[pathlib.Path, str], None]
) -> None:
    service.out.mkdir()
    mount(service.out, "size=256k")
    first, target = service.template("a-first", "old"), service.template("app.ini", "old")
    svcinit = service.start()
    is_passing(service)
    service.template("a-first", "new")
    service.template("app.ini", "x" * 500_000)
    advice = f"free space on the file system of {service.out}, or give it more"
    refuses_to_reload(svcinit, service, f"cannot write {target}: no space left on device; {advice}")
    assert (first.read_text(), target.read_text()) == ("old", "old")
    assert files_in(service.out) == ["a-first", "app.ini"]


# the environment from KV


@pytest.mark.parametrize("name", ["A=B", "A/B"])
def test_a_key_that_cannot_be_a_variable_is_told(service: Service, name: str) -> None:
    service.consul.kv_put(f"config/web/env/{name}", "1")
    service.template("app.ini", "text")
    refuses_to_start(service, f"error: KV key 'env/{name}' cannot be an environment variable: a '/', '=' or NUL byte")


# Consul away


def test_a_consul_that_refuses_at_the_start_is_named_and_given_up_in_time(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    own_consul.stop()
    service = make_service(own_consul)
    service.env["SVCINIT_START_TIMEOUT"] = "1s"
    service.template("app.ini", '{{ key("n") }}')
    began = time.monotonic()
    svcinit = refuses_to_start(
        service,
        f"warning: Consul at {own_consul.url}: GET /v1/kv/config/web/ failed: Connection refused; trying again\n",
        "error: exit 69: not ready within SVCINIT_START_TIMEOUT=1s\n",
        code=69,
    )
    assert time.monotonic() - began < AT_ONCE
    assert svcinit.err.count("trying again") == 1, "the same trouble was told more than once"


def test_a_consul_that_comes_up_during_the_wait_is_waited_for(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    own_consul.stop()
    service = make_service(own_consul)
    service.env["SVCINIT_START_TIMEOUT"] = "30s"
    target = service.template("app.ini", '{{ key_or_default("n", "none") }}')
    svcinit = service.start()
    svcinit.says("Connection refused; trying again")
    own_consul.start()
    is_passing(service)
    assert target.read_text() == "none"
    assert svcinit.stop() == 0


def test_a_stop_while_consul_is_waited_for_is_immediate(make_service: MakeService, own_consul: ConsulAgent) -> None:
    own_consul.stop()
    service = make_service(own_consul)
    service.env["SVCINIT_START_TIMEOUT"] = "60s"
    svcinit = service.start()
    svcinit.says("trying again")
    assert svcinit.stop(AT_ONCE) == 143
    assert "error: exit 143: TERM before the start\n" in svcinit.err
    assert service.notes == []


def test_a_reload_without_consul_goes_out_on_the_files_in_place_and_the_next_one_is_whole(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    own_consul.kv_put("config/web/n", "1")
    service = make_service(own_consul)
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)
    own_consul.stop()
    svcinit.signal(signal.SIGHUP)
    svcinit.says(f"warning: Consul at {own_consul.url}: GET /v1/kv/config/web/ failed: Connection refused")
    svcinit.says("warning: reload 1: Consul is away: reloading on the files in place")
    eventually(lambda: service.notes == ["up", "SIGHUP", "up"], "the service got the HUP")
    has_state(svcinit, state="running", degraded="Consul is away: reloading on the files in place")
    assert "degraded  Consul is away" in ctl(svcinit, "status")[1]
    assert target.read_text() == "1"
    assert files_in(service.out) == ["app.ini"]
    own_consul.start()
    own_consul.kv_put("config/web/n", "2")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 2: done")
    assert target.read_text() == "2"
    has_state(svcinit, state="running", degraded="")
    assert svcinit.stop() == 0


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_a_stop_without_consul_ends_within_its_time(
    make_service: MakeService, own_consul: ConsulAgent, how: str
) -> None:
    service = make_service(own_consul)
    service.env |= {"SVCINIT_STOP_TIMEOUT": "2s", "SVCINIT_DRAIN": "500ms"}
    leave_by_7 = 'trap "exit 7" TERM; echo ready; while :; do read -rt 100 <> <(:); done'
    service.env["SVCINIT_CHECK"] = "none"
    svcinit = service.start("bash", "-c", leave_by_7)
    svcinit.says("registered web")
    svcinit.says("ready")
    main = svcinit.child("main")
    own_consul.stop() if how == "stopped" else own_consul.pause()
    began = time.monotonic()
    assert svcinit.stop() == 7
    assert time.monotonic() - began < 2 + 0.5 + 1  # the stop, the drain, and what a busy machine may add
    assert "not deregistered: Consul drops the service itself when its check has failed for long enough" in svcinit.err
    assert not is_alive(main)


# prefixes that come back empty


def test_a_prefix_that_comes_back_empty_is_a_failed_fetch(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key_or_default("n", "none") }}')
    svcinit = service.start()
    is_passing(service)
    service.consul.kv_delete("config/web/")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("KV prefix config/web had 1 entries and now has none: taken as a failed fetch (SVCINIT_ALLOW_EMPTY=1")
    eventually(lambda: service.notes == ["up", "SIGHUP", "up"], "the service got the HUP")
    eventually(lambda: ctl(svcinit, "status")[0] == 1, "svcinit is degraded")
    assert target.read_text() == "1"
    assert svcinit.stop() == 0


def test_a_peer_set_that_comes_back_empty_is_a_failed_fetch(service: Service) -> None:
    service.consul.register("mysql", 3306, address="10.1.1.1")
    target = service.template("app.ini", '{{ service("mysql")|hostports|join(",") }}')
    svcinit = service.start()
    is_passing(service)
    service.consul.deregister("mysql")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("peers of mysql had 1 entries and now has none: taken as a failed fetch")
    svcinit.says("reload 1: Consul is away: reloading on the files in place")
    assert target.read_text() == "10.1.1.1:3306"


def test_where_empty_is_allowed_an_emptied_prefix_is_news(service: Service) -> None:
    service.env["SVCINIT_ALLOW_EMPTY"] = "1"
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key_or_default("n", "none") }}')
    svcinit = service.start()
    is_passing(service)
    service.consul.kv_delete("config/web/")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    assert target.read_text() == "none"
    has_state(svcinit, degraded="")


# peers that are waited for


def test_dns_that_gives_no_answer_is_named(service: Service) -> None:
    (port,) = free_ports(1)
    service.env |= {
        "SVCINIT_DNS_ADDR": f"{LOOPBACK}:{port}",
        "SVCINIT_WAIT_FOR": "mysql",
        "SVCINIT_START_TIMEOUT": "1s",
    }
    service.template("app.ini", "text")
    trouble = f"DNS gives no answer for mysql.service.consul: {LOOPBACK}:{port} Connection refused (SVCINIT_DNS_ADDR)"
    refuses_to_start(service, trouble, "error: exit 69: not ready within SVCINIT_START_TIMEOUT=1s\n", code=69)


def test_a_service_waited_for_in_vain_is_named_with_how_many_there_are(service: Service) -> None:
    service.consul.register("redis", 6379)
    service.env |= {"SVCINIT_WAIT_FOR": "mysql,redis:2", "SVCINIT_START_TIMEOUT": "1s"}
    service.template("app.ini", "text")
    missing = "SVCINIT_WAIT_FOR: mysql: 0 of 1 instances in DNS, redis: 1 of 2 instances in DNS"
    refuses_to_start(service, missing, "error: exit 69: not ready within SVCINIT_START_TIMEOUT=1s\n", code=69)


def test_a_service_that_is_registered_during_the_wait_is_taken(service: Service) -> None:
    service.env |= {"SVCINIT_WAIT_FOR": "mysql", "SVCINIT_START_TIMEOUT": "30s"}
    target = service.template("app.ini", '{{ service("mysql")|hostports|join(",") }}')
    svcinit = service.start()
    svcinit.says("SVCINIT_WAIT_FOR: mysql: 0 of 1 instances in DNS; trying again")
    assert service.notes == []
    service.consul.register("mysql", 3306, address="10.1.1.1")
    is_passing(service)
    assert target.read_text() == "10.1.1.1:3306"
    assert svcinit.stop() == 0


def test_a_template_that_asks_for_more_peers_than_there_are_waits_for_them(service: Service) -> None:
    service.env["SVCINIT_START_TIMEOUT"] = "30s"
    target = service.template("app.ini", '{{ service("mysql", min=2)|hostports|join(",") }}')
    service.consul.register("mysql", 3306, address="10.1.1.1", id="mysql-1")
    svcinit = service.start()
    svcinit.says("service mysql has 1 of the 2 peers needed; trying again")
    assert not target.exists()
    service.consul.register("mysql", 3306, address="10.1.1.2", id="mysql-2")
    is_passing(service)
    assert target.read_text() == "10.1.1.1:3306,10.1.1.2:3306"


# the advertised address


def test_an_interface_that_does_not_exist_is_told_with_those_that_do(service: Service) -> None:
    service.env["SVCINIT_ADVERTISE"] = "eth99"
    service.template("app.ini", "{{ this.address }}")
    refuses_to_start(service, "SVCINIT_ADVERTISE='eth99' matches no address here", "there are: ", f"lo {LOOPBACK}")


def test_an_interface_is_registered_as_its_address(service: Service) -> None:
    service.env["SVCINIT_ADVERTISE"] = "lo"
    target = service.template("app.ini", "{{ this.address }}")
    service.start()
    is_passing(service)
    (instance,) = service.consul.instances("web")
    assert (instance["Service"]["Address"], target.read_text()) == (LOOPBACK, LOOPBACK)


# ACL


@pytest.fixture(scope="module")
def guarded_consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """An agent that denies what no token allows."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": ROOT_TOKEN, "agent": ROOT_TOKEN}}
    agent = ConsulAgent(tmp_path_factory.mktemp("guarded"), config={"acl": acl})
    agent.token = ROOT_TOKEN
    with agent:
        yield agent


def test_a_token_that_consul_does_not_know_is_told_with_the_rule_that_it_needs(
    make_service: MakeService, guarded_consul: ConsulAgent
) -> None:
    service = make_service(guarded_consul)
    service.env["CONSUL_HTTP_TOKEN"] = FOREIGN_TOKEN
    service.template("app.ini", "text")
    denied = f"Consul at {guarded_consul.url}: GET /v1/kv/config/web/ is denied"
    rule = 'the token (CONSUL_HTTP_TOKEN) needs key_prefix "config/web/" { policy = "read" }'
    svcinit = refuses_to_start(service, f"error: {denied}: {rule}\n")
    assert FOREIGN_TOKEN not in svcinit.err


def test_without_a_token_a_key_that_consul_hides_is_a_missing_one(
    make_service: MakeService, guarded_consul: ConsulAgent
) -> None:
    guarded_consul.kv_put("config/web/n", "1")
    service = make_service(guarded_consul)
    service.template("app.ini", '{{ key("n") }}')
    refuses_to_start(service, "there is no key n; there are no keys at all")


def test_a_token_that_allows_it_starts_and_stays_out_of_the_service_and_the_log(
    make_service: MakeService, guarded_consul: ConsulAgent
) -> None:
    guarded_consul.kv_put("config/web/n", "1")
    service = make_service(guarded_consul)
    service.env["CONSUL_HTTP_TOKEN"] = ROOT_TOKEN
    service.env["SVCINIT_PRE_START"] = "env"
    svcinit = service.start()
    is_passing(service)
    assert svcinit.stop() == 0
    assert "SVCINIT_SERVICE=web" in svcinit.out
    assert ROOT_TOKEN not in svcinit.out + svcinit.err


def test_a_token_that_may_not_register_is_told_and_the_service_runs_on(
    make_service: MakeService, guarded_consul: ConsulAgent
) -> None:
    service = make_service(guarded_consul)
    service.env["SVCINIT_KV_PREFIX"] = ""
    svcinit = service.start()
    svcinit.says("warning: not registered yet: Consul at ")
    svcinit.says("is denied: the token (CONSUL_HTTP_TOKEN) needs service")
    eventually(lambda: service.notes == ["up"], "the service runs")
    assert ctl(svcinit, "health") == (0, "")
    assert svcinit.stop() == 0
