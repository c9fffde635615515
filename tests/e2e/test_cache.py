"""A start without Consul, on what it said last."""

from __future__ import annotations

import json
import pathlib
import signal
from collections.abc import Callable

import pytest

from testing.consul import LOOPBACK, ConsulAgent, connections
from testing.faults import between
from testing.process import Running
from testing.waiting import eventually, stays
from tests.e2e.conftest import LONG, Service
from tests.e2e.failing import AT_ONCE, ctl, has_state, is_passing

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]

MakeService = Callable[[ConsulAgent], Service]
REGISTRATION = {"SVCINIT_SERVICE", "SVCINIT_PORT", "SVCINIT_CHECK_INTERVAL"}
DEGRADED = "started from SVCINIT_CACHE, without Consul; the next HUP tries again"


@pytest.fixture
def known(make_service: MakeService, own_consul: ConsulAgent) -> Service:
    """A service that ran once: what Consul said is in its cache, what it rendered is gone, as with a new container."""
    own_consul.kv_put("config/web/n", "1")
    own_consul.kv_put("config/web/env/COLOUR", "blue")
    own_consul.register("mysql", 3306, address="10.1.1.1")
    service = make_service(own_consul)
    service.env["SVCINIT_WAIT_FOR"] = "mysql"
    service.env["SVCINIT_CACHE"] = str(service.folder / "volume" / "cache.json")
    text = '{{ key("n") }} {{ service("mysql")|hostports|join(",") }} {{ node }} {{ this.address }}\n'
    service.template("app.ini", text)
    first = service.start()
    is_passing(service)
    assert first.stop() == 0
    (service.out / "app.ini").rename(service.folder / "before")
    service.log.unlink()
    service.env["SVCINIT_START_TIMEOUT"] = "1s"
    return service


def starts_from_it(service: Service) -> Running:
    svcinit = service.start()
    eventually(lambda: service.notes == ["up"], "the service is up")
    assert f"warning: starting without Consul, from SVCINIT_CACHE={service.env['SVCINIT_CACHE']!r}, " in svcinit.err
    assert (service.out / "app.ini").read_text() == (service.folder / "before").read_text()
    has_state(svcinit, state="running", degraded=DEGRADED)
    assert f"degraded  {DEGRADED}" in ctl(svcinit, "status")[1]
    return svcinit


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_without_consul_a_new_container_starts_as_the_last_one_did_and_a_reload_mends_it(
    known: Service, how: str
) -> None:
    known.consul.stop() if how == "stopped" else known.consul.pause()
    known.env["SVCINIT_PRE_START"] = "sh -c 'echo colour=$COLOUR'"
    svcinit = starts_from_it(known)
    assert "colour=blue" in svcinit.out
    known.consul.start() if how == "stopped" else known.consul.resume()
    known.consul.kv_put("config/web/n", "2")
    known.consul.register("mysql", 3306, address="10.1.1.1")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    has_state(svcinit, state="running", degraded="")
    assert (known.out / "app.ini").read_text().startswith("2 10.1.1.1:3306 ")
    is_passing(known)
    assert svcinit.stop() == 0


def test_a_consul_that_answers_byte_by_byte_and_never_to_an_end_does_not_prevent_the_start(known: Service) -> None:
    with between((LOOPBACK, known.consul.http_port)) as proxy:
        proxy.fault = "dribble"
        known.env["CONSUL_HTTP_ADDR"] = f"{LOOPBACK}:{proxy.port}"
        starts_from_it(known)


def test_peers_that_do_not_come_are_taken_from_it(known: Service) -> None:
    known.consul.deregister("mysql")
    starts_from_it(known)


def test_a_prefix_that_had_keys_and_is_empty_is_taken_from_it_unless_that_is_allowed(known: Service) -> None:
    known.consul.kv_delete("config/web/")
    svcinit = starts_from_it(known)
    assert "KV prefix config/web had 2 entries and now has none: this counts as a failed fetch" in svcinit.err
    svcinit.stop()
    known.env |= {"SVCINIT_ALLOW_EMPTY": "1", "SVCINIT_START_TIMEOUT": LONG}
    known.template("app.ini", "none")
    known.start().says("started")
    assert (known.out / "app.ini").read_text() == "none"


def test_a_template_that_is_wrong_never_starts_from_it(known: Service) -> None:
    known.template("app.ini", '{{ key("nosuch") }}')
    known.env["SVCINIT_START_TIMEOUT"] = LONG
    svcinit = known.start()
    assert svcinit.wait() == 78
    assert "SVCINIT_CACHE" not in svcinit.err


def test_a_cache_that_is_damaged_is_said_to_be_and_not_used(known: Service) -> None:
    path = pathlib.Path(known.env["SVCINIT_CACHE"])
    path.write_text(path.read_text().replace("10.1.1.1", "10.1.1.2"))
    known.consul.stop()
    svcinit = known.start()
    assert svcinit.wait() == 69
    assert "is not used: it is damaged: its checksum is wrong" in svcinit.err
    assert " s (SVCINIT_START_TIMEOUT=1s)\n" in svcinit.err
    assert known.notes == []


def test_switched_off_nothing_is_kept(known: Service) -> None:
    path = pathlib.Path(known.env["SVCINIT_CACHE"])
    path.unlink()
    known.env |= {"SVCINIT_CACHE": "", "SVCINIT_START_TIMEOUT": LONG}
    svcinit = known.start()
    is_passing(known)
    assert svcinit.stop() == 0
    assert not path.exists()


def test_a_stop_while_it_starts_from_it_is_immediate(known: Service) -> None:
    known.template("slow.ini", "{# svcinit: check=\"sh -c 'echo checking; sleep 100 #{}'\" #}")
    known.consul.stop()
    svcinit = known.start()
    svcinit.says("starting without Consul")
    assert svcinit.stop(AT_ONCE) == 143


def test_a_question_that_the_cache_has_no_answer_to_is_named(known: Service) -> None:
    known.template("more.ini", '{{ service("redis")|length }}')
    known.consul.stop()
    svcinit = known.start()
    assert svcinit.wait() == 69
    assert "does not contain the peers of redis" in svcinit.err
    assert not (known.out / "more.ini").exists()


def test_a_place_that_cannot_be_written_is_told_and_nothing_else_suffers(known: Service) -> None:
    known.env |= {"SVCINIT_CACHE": "/proc/svcinit/cache.json", "SVCINIT_START_TIMEOUT": LONG}
    svcinit = known.start()
    is_passing(known)
    assert "warning: SVCINIT_CACHE='/proc/svcinit/cache.json' cannot be written: " in svcinit.err
    assert svcinit.stop() == 0


@pytest.mark.parametrize("watch", ["0", "1"])
@pytest.mark.parametrize("registered", [True, False])
def test_without_consul_and_cache_a_start_with_defaults_is_degraded_until_consul_answers(
    known: Service, tmp_path: pathlib.Path, watch: str, registered: bool
) -> None:
    known.env |= {
        "SVCINIT_CACHE": str(tmp_path / "none" / "cache.json"),
        "SVCINIT_START_WITHOUT": "defaults",
        "SVCINIT_WATCH": watch,
        "SVCINIT_SETTLE": "0s",
        "SVCINIT_KV_PREFIX": "config/web",
    }
    if not registered:
        known.env = {name: value for name, value in known.env.items() if name not in REGISTRATION}
    known.template("app.ini", '{{ key_or_default("n", "none") }} {{ service("mysql") | length }}')
    known.consul.stop()
    svcinit = known.start()
    svcinit.says("started")
    assert (known.out / "app.ini").read_text() == "none 0"
    assert json.loads(ctl(svcinit, "status", "--json")[1])["degraded"]
    known.consul.start()
    known.consul.kv_put("config/web/n", "2")
    known.consul.register("mysql", 3306, address="10.1.1.1")
    svcinit.says("reload 1: begins")
    has_state(svcinit, state="running", degraded="")
    if watch == "1":
        eventually(lambda: (known.out / "app.ini").read_text() == "2 1", "the answers are followed")
    first = (known.out / "app.ini").read_text()  # without a watch Consul may have answered before it had the key
    known.consul.kv_put("config/web/n", "3")
    if watch == "1":
        eventually(lambda: (known.out / "app.ini").read_text() == "3 1", "it is followed")
    else:
        stays(lambda: (known.out / "app.ini").read_text() == first, "only the first answer is a reload")
        eventually(lambda: connections(known.consul.http_port) <= 1, "nothing is followed any more")
    assert svcinit.stop() == 0


def test_a_start_with_defaults_ends_with_69_where_a_template_has_none(known: Service, tmp_path: pathlib.Path) -> None:
    known.env |= {
        "SVCINIT_CACHE": str(tmp_path / "none" / "cache.json"),
        "SVCINIT_START_WITHOUT": "defaults",
        "SVCINIT_WATCH": "1",
    }
    known.template("app.ini", '{{ key("n") }}')
    known.consul.stop()
    svcinit = known.start()
    assert svcinit.wait() == 69
    assert "there is no key n" in svcinit.err
