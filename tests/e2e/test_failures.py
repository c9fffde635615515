"""What a person can get wrong, at the start and at a reload: what is said, how it ends, what is left.

A failed start leaves no file and starts nothing; a failed reload leaves the old files and a service that runs on.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import (
    AT_ONCE,
    WRONG,
    ctl,
    files_in,
    has_state,
    is_passing,
    refuses_to_reload,
    refuses_to_start,
    source_of,
)

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]


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
    del service.env["CONSUL_HTTP_TOKEN"]
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
    fault = "`nosuch-checker {}`: exit status 127; it said: svcinit: error: nosuch-checker: command not found"
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
    service.env |= {"SVCINIT_PRE_START": "sleep 1000", "SVCINIT_START_TIMEOUT": "3s"}
    svcinit = service.start()
    assert svcinit.wait(3 + AT_ONCE) == 137
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
    refuses_to_reload(svcinit, service, "aborted: SVCINIT_PRE_RELOAD failed with status 3; the files were rolled back")
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
    svcinit.says("reload 1: aborted: SVCINIT_PRE_RELOAD failed with status 1; the files were rolled back")
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
    svcinit.says("error: reload 1: failed: SVCINIT_RELOAD failed with status 4; the next HUP tries again")
    reason = "SVCINIT_RELOAD failed with status 4; the next HUP tries again"
    has_state(svcinit, state="running", degraded=f"failed: {reason}")
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
    advice = f"a part of {service.out}/conf is a file: remove that file, or rename the template"
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


def test_a_value_that_cannot_be_that_of_a_variable_is_told(service: Service) -> None:
    service.consul.kv_put("config/web/env/A", "x\0y")
    service.template("app.ini", "text")
    refuses_to_start(service, "error: KV key 'env/A' cannot be an environment variable: a NUL byte in its value")
