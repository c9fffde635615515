"""Consul or DNS away, empty or unwilling, at the start, at a reload and at the stop: what is said, how it ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from svcinit.agent.consul.discovery import Resolver
from testing import planted
from testing.consul import LOOPBACK, ConsulAgent, free_ports, tokens
from testing.process import is_alive
from testing.waiting import eventually
from tests.e2e.conftest import SHORT, Service
from tests.e2e.failing import AT_ONCE, ctl, files_in, has_state, is_passing, refuses_to_start

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]

MakeService = Callable[[ConsulAgent], Service]
ROOT_TOKEN, FOREIGN_TOKEN = planted.token(), planted.token()


GAVE_UP = " s (SVCINIT_START_TIMEOUT=1s)\n"  # "not ready within 1.1"


# Consul away


def test_a_consul_that_refuses_at_the_start_is_named_and_given_up_in_time(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    own_consul.stop()
    service = make_service(own_consul)
    service.env["SVCINIT_START_TIMEOUT"] = "2s"
    service.template("app.ini", '{{ key("n") }}')
    began = time.monotonic()
    svcinit = refuses_to_start(
        service,
        f"warning: Consul at {own_consul.url}: GET /v1/kv/config/web/ failed: Connection refused; trying again for ",
        " s (SVCINIT_START_TIMEOUT=2s)\n",
        code=69,
    )
    assert time.monotonic() - began < AT_ONCE
    assert svcinit.err.count("trying again") == 1, "the same trouble was told more than once"


def test_a_consul_that_hangs_is_named_even_where_the_wait_is_shorter_than_one_call(
    make_service: MakeService, own_consul: ConsulAgent
) -> None:
    own_consul.pause()
    service = make_service(own_consul)
    service.env["SVCINIT_START_TIMEOUT"] = "1s"
    trouble = f"error: Consul at {own_consul.url}: GET /v1/kv/config/web/ failed: timed out\n"
    refuses_to_start(service, trouble, GAVE_UP, code=69)


def test_a_service_that_consul_forgot_is_registered_again(make_service: MakeService, own_consul: ConsulAgent) -> None:
    service = make_service(own_consul)
    svcinit = service.start()
    is_passing(service)
    own_consul.restart()
    eventually(lambda: own_consul.passing("web"), "it is registered again", 40)
    assert "warning: the Consul agent no longer has web: registering it again" in svcinit.err
    assert service.notes == ["up"]


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
    service.env |= SHORT
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)
    own_consul.stop()
    svcinit.signal(signal.SIGHUP)
    svcinit.says(f"warning: Consul at {own_consul.url}: GET /v1/kv/config/web/ failed: Connection refused")
    svcinit.says("warning: reload 1: in_place: no usable answer from Consul; the files are unchanged")
    eventually(lambda: service.notes == ["up", "SIGHUP", "up"], "the service got the HUP")
    has_state(svcinit, state="running", degraded="in_place: no usable answer from Consul; the files are unchanged")
    assert "degraded  in_place: no usable answer from Consul" in ctl(svcinit, "status")[1]
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
    assert "not deregistered yet: the service has no check, so Consul never removes it" in svcinit.err
    assert not is_alive(main)


# prefixes that come back empty


def test_a_prefix_that_comes_back_empty_is_a_failed_fetch(service: Service) -> None:
    service.env |= SHORT
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key_or_default("n", "none") }}')
    svcinit = service.start()
    is_passing(service)
    service.consul.kv_delete("config/web/")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("KV prefix config/web had 1 entries and now has none: this counts as a failed fetch")
    eventually(lambda: service.notes == ["up", "SIGHUP", "up"], "the service got the HUP")
    eventually(lambda: ctl(svcinit, "status")[0] == 1, "svcinit is degraded")
    assert target.read_text() == "1"
    assert svcinit.stop() == 0


def test_a_peer_set_that_comes_back_empty_is_a_failed_fetch(service: Service) -> None:
    service.env |= SHORT
    service.consul.register("mysql", 3306, address="10.1.1.1")
    target = service.template("app.ini", '{{ service("mysql")|hostports|join(",") }}')
    svcinit = service.start()
    is_passing(service)
    service.consul.deregister("mysql")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("peers of mysql had 1 entries and now has none: this counts as a failed fetch")
    svcinit.says("reload 1: in_place: no usable answer from Consul; the files are unchanged")
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
    refuses_to_start(service, trouble, GAVE_UP, code=69)


def test_a_service_waited_for_in_vain_is_named_with_how_many_there_are(service: Service) -> None:
    service.consul.register("redis", 6379)
    service.env |= {"SVCINIT_WAIT_FOR": "mysql,redis:2", "SVCINIT_START_TIMEOUT": "1s"}
    service.template("app.ini", "text")
    missing = "SVCINIT_WAIT_FOR: mysql: 0 of 1 instances in DNS, redis: 1 of 2 instances in DNS"
    refuses_to_start(service, missing, GAVE_UP, code=69)


def test_a_service_that_is_registered_during_the_wait_is_taken(service: Service) -> None:
    service.env |= {"SVCINIT_WAIT_FOR": "mysql", "SVCINIT_START_TIMEOUT": "30s"}
    target = service.template("app.ini", '{{ service("mysql")|hostports|join(",") }}')
    svcinit = service.start()
    svcinit.says("SVCINIT_WAIT_FOR: mysql: 0 of 1 instances in DNS")
    assert service.notes == []
    service.consul.register("mysql", 3306, address="10.1.1.1")
    is_passing(service)
    assert target.read_text() == "10.1.1.1:3306"
    assert svcinit.stop() == 0


def test_keys_that_are_waited_for_are_named_and_taken_when_they_come(service: Service) -> None:
    service.env |= {"SVCINIT_WAIT_FOR_KEYS": "db/url,features/,/shared/x", "SVCINIT_START_TIMEOUT": "30s"}
    target = service.template("app.ini", '{{ key("db/url") }}')
    svcinit = service.start()
    svcinit.says("SVCINIT_WAIT_FOR_KEYS: not below config/web: db/url, features/, /shared/x; trying again for up to ")
    service.consul.kv_put("config/web/features/a", "1")
    svcinit.says("SVCINIT_WAIT_FOR_KEYS: not below config/web: db/url, /shared/x; trying again")
    service.consul.kv_put("shared/x", "1")
    svcinit.says("SVCINIT_WAIT_FOR_KEYS: not below config/web: db/url; trying again")
    assert service.notes == []
    service.consul.kv_put("config/web/db/url", "there")
    is_passing(service)
    assert target.read_text() == "there"
    assert svcinit.stop() == 0


def test_a_key_that_does_not_come_ends_the_start_with_its_name(service: Service) -> None:
    service.env |= {"SVCINIT_WAIT_FOR_KEYS": "n", "SVCINIT_START_TIMEOUT": "1s"}
    service.template("app.ini", "text")
    refuses_to_start(service, "error: SVCINIT_WAIT_FOR_KEYS: not below config/web: n", GAVE_UP, code=69)


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


def test_an_interface_that_does_not_exist_is_told_though_no_template_asks_for_it(service: Service) -> None:
    service.env["SVCINIT_ADVERTISE"] = "eth99"
    refuses_to_start(service, "SVCINIT_ADVERTISE='eth99' matches no address here", f"lo {LOOPBACK}")


def test_an_interface_is_registered_as_its_address(service: Service) -> None:
    service.env["SVCINIT_ADVERTISE"] = "lo"
    target = service.template("app.ini", "{{ this.address }}")
    service.start()
    is_passing(service)
    (instance,) = service.consul.instances("web")
    assert (instance["Service"]["Address"], target.read_text()) == (LOOPBACK, LOOPBACK)


def test_a_host_name_is_registered_as_such_probed_there_and_found_by_who_resolves_it(service: Service) -> None:
    service.env["SVCINIT_ADVERTISE"] = "host:localhost"
    target = service.template("app.ini", "{{ this.address }}")
    service.start()
    is_passing(service)
    (instance,) = service.consul.instances("web")
    assert (instance["Service"]["Address"], target.read_text()) == ("localhost", "localhost")
    (peer,) = Resolver([(LOOPBACK, service.consul.dns_port)]).peers("web")
    assert (peer.address, peer.port) == (LOOPBACK, service.port)


def test_what_cannot_be_a_host_name_is_told(service: Service) -> None:
    service.env["SVCINIT_ADVERTISE"] = "host:db:3306"
    refuses_to_start(service, "SVCINIT_ADVERTISE='host:db:3306': expected a host name or an IP address, without a port")


# ACL


@pytest.fixture(scope="module")
def guarded_consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """An agent that denies what no token allows."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": tokens(ROOT_TOKEN)}
    agent = ConsulAgent(tmp_path_factory.mktemp("guarded"), config={"acl": acl})
    agent.token = ROOT_TOKEN
    with agent:
        yield agent


def test_a_token_that_consul_does_not_know_is_told_with_the_rule_that_it_needs(
    make_service: MakeService, guarded_consul: ConsulAgent
) -> None:
    service = make_service(guarded_consul)
    service.env |= {"CONSUL_HTTP_TOKEN": FOREIGN_TOKEN, "SVCINIT_START_TIMEOUT": "1s"}
    service.template("app.ini", "text")
    denied = f"Consul at {guarded_consul.url}: GET /v1/kv/config/web/ is denied (ACL not found)"
    rule = 'the token of CONSUL_HTTP_TOKEN needs key_prefix "config/web/" { policy = "read" }'
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
    svcinit.says('): no token is given (CONSUL_HTTP_TOKEN): it needs service "web" { policy = "write" }')
    eventually(lambda: service.notes == ["up"], "the service runs")
    assert ctl(svcinit, "health") == (0, "")
    assert svcinit.stop() == 0
