"""The lifecycle of a service on a real Consul: start, register, reload, stop, and what Consul is told when."""

from __future__ import annotations

import json
import os
import pathlib
import signal
from collections.abc import Callable

import pytest

from testing.consul import ConsulAgent
from testing.faults import between
from testing.process import descendants, is_alive
from testing.waiting import eventually
from tests.e2e.conftest import SHORT, Service
from tests.e2e.failing import ctl

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]


def is_passing(service: Service) -> None:
    eventually(lambda: service.consul.passing("web"), "the service is passing in Consul")


def test_a_service_is_rendered_started_registered_and_found_then_gone_after_a_stop(service: Service) -> None:
    service.consul.kv_put("config/web/greeting", "hello")
    service.consul.kv_put("config/web/env/FROM_KV", "yes")
    service.consul.register("mysql", 3306, address="10.1.1.1")
    service.env |= {"SVCINIT_WAIT_FOR": "mysql", "SVCINIT_TAGS": "blue", "SVCINIT_META": "team=a"}
    target = service.template(
        "app.ini", '{{ key("greeting") }} {{ service("mysql")|hostports|join(",") }} {{ this.id }}'
    )
    with_env = ["bash", "-c", 'echo "FROM_KV=$FROM_KV"; exec "$@"', "bash"]
    from tests.e2e.conftest import APP

    svcinit = service.start(*with_env, "python3", str(APP), str(service.log), str(service.port))
    is_passing(service)
    (instance,) = service.consul.instances("web")
    assert target.read_text() == f"hello 10.1.1.1:3306 {instance['Service']['ID']}"
    assert "FROM_KV=yes" in svcinit.out
    assert instance["Service"]["Tags"] == ["blue"]
    assert instance["Service"]["Meta"]["team"] == "a"
    below = descendants(svcinit.pid)
    assert svcinit.stop() == 0
    service.consul.has_no("web")
    assert service.notes == ["up", "SIGTERM"]
    assert not any(map(is_alive, below))


def test_it_is_deregistered_before_it_is_told_to_stop(service: Service) -> None:
    service.env["SVCINIT_DRAIN"] = "500ms"
    service.env["SVCINIT_STOP"] = f"exec:curl -s {service.consul.url}/v1/catalog/service/web -o {service.folder}/seen"
    service.env["SVCINIT_STOP_TIMEOUT"] = "2s"
    svcinit = service.start()
    is_passing(service)
    svcinit.signal(signal.SIGTERM)
    seen = service.folder / "seen"
    eventually(lambda: seen.exists() and seen.read_text(), "the stop action ran")
    assert json.loads(seen.read_text()) == []
    assert "SIGTERM" not in service.notes
    assert svcinit.wait() == 137


def test_a_hup_renders_anew_then_tells_the_service(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)
    service.consul.kv_put("config/web/n", "2")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    assert target.read_text() == "2"
    eventually(lambda: service.notes[:2] == ["up", "SIGHUP"], "the service got one HUP")
    assert svcinit.stop() == 0


def test_an_unchanged_file_is_not_touched_by_a_reload(service: Service) -> None:
    target = service.template("app.ini", "same")
    svcinit = service.start()
    is_passing(service)
    before = target.stat()
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    after = target.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_service_that_is_killed_is_deregistered_and_its_status_kept(service: Service) -> None:
    svcinit = service.start()
    is_passing(service)
    os.kill(svcinit.child("main"), signal.SIGKILL)
    assert svcinit.wait() == 137
    service.consul.has_no("web")


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_presence_that_is_killed_or_stopped_comes_back_and_the_service_notices_nothing(
    service: Service, blow: signal.Signals
) -> None:
    svcinit = service.start()
    is_passing(service)
    first, main = svcinit.child("presence"), svcinit.child("main")
    (before,) = service.consul.instances("web")
    os.kill(first, blow)
    eventually(lambda: svcinit.child("presence") != first, "another presence runs")
    svcinit.says("is registered already")
    (after,) = service.consul.instances("web")
    assert after["Service"]["ModifyIndex"] == before["Service"]["ModifyIndex"], "registered again without need"
    assert (svcinit.child("main"), is_alive(main), service.notes) == (main, True, ["up"])
    assert svcinit.stop() == 0
    service.consul.has_no("web")


def test_a_presence_stopped_at_the_very_end_does_not_leave_the_service_registered(service: Service) -> None:
    svcinit = service.start()
    is_passing(service)
    presence = svcinit.child("presence")
    os.kill(svcinit.pid, signal.SIGSTOP)  # so that init sees both at once
    os.kill(presence, signal.SIGSTOP)
    os.kill(svcinit.pid, signal.SIGTERM)
    os.kill(svcinit.pid, signal.SIGCONT)
    assert svcinit.wait() == 0
    service.consul.has_no("web")


def test_a_prepare_held_up_by_a_dribbling_consul_is_killed_and_the_reload_still_goes_out(
    make_service: Callable[[ConsulAgent], Service], consul: ConsulAgent
) -> None:
    service = make_service(consul)
    consul.kv_put("config/web/n", "1")
    with between((consul.address, consul.http_port)) as proxy:
        service.env |= {"CONSUL_HTTP_ADDR": f"http://127.0.0.1:{proxy.port}", **SHORT}
        target = service.template("app.ini", '{{ key("n") }}')
        svcinit = service.start()
        is_passing(service)
        main = svcinit.child("main")
        consul.kv_put("config/web/n", "2")
        proxy.fault = "dribble"
        svcinit.signal(signal.SIGHUP)
        svcinit.says("prepare took too long: killed")
        svcinit.says("reload 1: in_place: no usable answer from Consul; the files are unchanged")
        eventually(lambda: service.notes == ["up", "SIGHUP", "up"], "the service got the HUP")
        assert target.read_text() == "1"
        proxy.fault = ""
        svcinit.signal(signal.SIGHUP)
        svcinit.says("reload 2: done")
        assert target.read_text() == "2"
        assert (svcinit.child("main"), len(consul.instances("web"))) == (main, 1)
        assert svcinit.stop() == 0
    consul.has_no("web")


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_prepare_that_is_killed_or_stopped_in_a_reload_is_started_again(
    make_service: Callable[[ConsulAgent], Service], consul: ConsulAgent, blow: signal.Signals
) -> None:
    service = make_service(consul)
    consul.kv_put("config/web/n", "1")
    with between((consul.address, consul.http_port)) as proxy:
        service.env |= {"CONSUL_HTTP_ADDR": f"http://127.0.0.1:{proxy.port}", "SVCINIT_RELOAD_TIMEOUT": "10s"}
        service.template("app.ini", '{{ key("n") }}')
        svcinit = service.start()
        is_passing(service)
        known = set(descendants(svcinit.pid))
        proxy.fault = "dribble"
        svcinit.signal(signal.SIGHUP)
        prepare = eventually(lambda: set(descendants(svcinit.pid)) - known, "prepare runs").pop()
        proxy.fault = ""
        os.kill(prepare, blow)
        svcinit.says("reload 1: done")
        eventually(lambda: service.notes == ["up", "SIGHUP", "up"], "the service got one HUP")
        assert svcinit.stop() == 0


def test_hups_in_a_burst_end_in_the_newest_configuration(service: Service) -> None:
    service.consul.kv_put("config/web/n", "0")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)
    for n in range(1, 6):
        service.consul.kv_put("config/web/n", str(n))
        svcinit.signal(signal.SIGHUP)
    eventually(lambda: target.read_text() == "5" and svcinit.err.count(": done") >= 1, "the newest is rendered")
    assert svcinit.stop() == 0


def test_a_kv_value_arrives_byte_for_byte(service: Service) -> None:
    value = "say \"hi\" 'there'\n{{ not_a_template }} {% raw %}\r\n$HOME `id` \\n grüße ☃\n" + "x" * 500_000
    service.consul.kv_put("config/web/blob", value)
    target = service.template("blob", '{{ key("blob") }}')
    service.start()
    is_passing(service)
    assert target.read_bytes() == value.encode()


def test_restart_as_reload_stops_and_starts_the_service(service: Service) -> None:
    service.env["SVCINIT_RELOAD"] = "restart"
    svcinit = service.start()
    is_passing(service)
    svcinit.signal(signal.SIGHUP)
    eventually(lambda: service.notes == ["up", "SIGTERM", "up"], "it was stopped and started")
    is_passing(service)
    assert svcinit.stop() == 0


def test_hooks_run_where_they_should_and_see_what_changed(service: Service) -> None:
    note = 'sh -c \'echo {} "$SVCINIT_CHANGED" >> ' + str(service.folder / "hooks") + "'"
    service.env |= {
        "SVCINIT_PRE_START": note.format("pre-start"),
        "SVCINIT_PRE_RELOAD": note.format("pre-reload"),
        "SVCINIT_POST_STOP": note.format("post-stop"),
    }
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    service.consul.kv_put("config/web/n", "2")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 2: done")
    assert svcinit.stop() == 0
    lines = (service.folder / "hooks").read_text().splitlines()
    assert lines == [f"pre-start {target}", "pre-reload ", f"pre-reload {target}", "post-stop "]


def test_svcinitctl_waits_for_the_reload_and_tells_how_it_ended(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)

    assert ctl(svcinit, "reload") == (0, "reloaded\n")
    service.consul.kv_delete("config/web/n")
    service.consul.kv_put("config/web/other", "1")
    code, said = ctl(svcinit, "reload")
    first, *errors = said.splitlines()
    assert (code, first) == (1, "aborted: the files are unchanged; the service was not notified")
    assert ["there is no key n" in error for error in errors] == [True]
    assert ctl(svcinit, "health") == (0, "")
    assert ctl(svcinit, "status")[0] == 1
    assert svcinit.stop() == 0
    assert ctl(svcinit, "health")[0] == 1


def test_a_state_file_is_for_its_owner_only(service: Service) -> None:
    svcinit = service.start()
    is_passing(service)
    state: pathlib.Path = svcinit.folder / "run" / "init.json"
    assert state.stat().st_mode & 0o777 == 0o600
