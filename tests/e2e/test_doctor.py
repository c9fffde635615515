"""svcinitctl doctor: what it finds of a real Consul and of its DNS, and that it ends whatever hangs."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from testing.consul import LOOPBACK, ConsulAgent, LoneServer, free_ports
from testing.doctor import diagnosis, doctor
from testing.faults import FAKETIME, between
from testing.secured import Authority, TlsConsul
from tests.e2e.conftest import Service

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]


def at(offset: str) -> dict[str, str]:
    """The environment of a process whose clock is wrong by that."""
    return {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def test_where_all_is_right_it_says_so_with_the_time_that_consul_takes(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    service.template("app.ini", '{{ key("n") }} {{ service("consul") | length }}')
    done = doctor(service.env, "--", "sleep")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "WRONG" not in done.stdout
    assert "settings   ok       registers web\n" in done.stdout
    assert f"http       ok       {service.consul.url} answers; leader {LOOPBACK}:" in done.stdout
    assert f" ms)\ndns        ok       {service.consul.dns} answers (" in done.stdout
    assert (
        "token      ok       no token is needed: ACLs are off\nkv         ok       config/web: keys 1\n" in done.stdout
    )
    assert "clock      ok       the agent's and this host's differ by less than 5 s\n" in done.stdout
    assert f"address    ok       {LOOPBACK} would be registered (the agent's own)" in done.stdout
    assert 'service "web" { policy = "write" }\n' in done.stdout
    assert not service.out.exists()


def test_each_part_that_is_away_is_named_and_the_others_are_tried_all_the_same(service: Service) -> None:
    http, dead = free_ports(2)
    service.env |= {
        "CONSUL_HTTP_ADDR": f"{LOOPBACK}:{http}",
        "SVCINIT_DNS_ADDR": f"{LOOPBACK}:{dead},{service.consul.dns}",
    }
    done = doctor(service.env)
    assert done.returncode == 1
    refused = "GET /v1/status/leader failed: Connection refused"
    wrong = f"http       WRONG    Consul at {LOOPBACK}:{http}: {refused} [consul-away]\n"
    assert f"{wrong}{'':20}to do: start the agent" in done.stdout
    assert f"dns        warning  DNS gives no answer for consul.service.consul: {LOOPBACK}:{dead} " in done.stdout
    assert f"dns        ok       {service.consul.dns} answers" in done.stdout


def test_of_several_dns_servers_one_that_answers_is_enough(service: Service) -> None:
    (dead,) = free_ports(1)
    service.env |= {
        "SVCINIT_DNS_ADDR": f"{LOOPBACK}:{dead},{service.consul.dns}",
        "SVCINIT_WAIT_FOR": "consul,mysql:2,mysql@dc1",
    }
    service.template("app.ini", '{{ service("redis", min=1) }}')
    found = diagnosis(service.env)
    assert (found.code, found.bad) == (1, {"dns-server-away", "peers-missing", "template-waits", "kv-empty"}), (
        found.text
    )
    assert "mysql: 0 of 2 instances in DNS, mysql@dc1: 0 of 1 instances in DNS" in found.one("peers-missing")
    assert "service redis has 0 of the 1 peers needed" in found.one("template-waits")


def test_a_prefix_without_keys_is_a_warning_and_one_that_lost_them_is_wrong(
    service: Service, tmp_path: pathlib.Path
) -> None:
    service.env["SVCINIT_CACHE"] = str(tmp_path / "cache.json")
    found = diagnosis(service.env)
    assert (found.code, found.bad) == (0, {"kv-empty"})
    assert "config/web: no keys | consul kv put config/web/NAME VALUE" in found.one("kv-empty")
    service.consul.kv_put("config/web/n", "1")
    service.env |= {"SVCINIT_STOP_TIMEOUT": "1s", "SVCINIT_RUN": str(tmp_path / "run")}
    svcinit = service.start("true")
    assert svcinit.wait() == 0
    service.consul.kv_delete("config/web")
    found = diagnosis(service.env)
    assert (found.code, found.bad) == (1, {"kv-emptied"})
    assert "config/web: no keys, and SVCINIT_CACHE had 1 | restore the keys" in found.one("kv-emptied")
    assert diagnosis({**service.env, "SVCINIT_ALLOW_EMPTY": "1"}).bad == {"kv-empty"}


def test_what_is_no_consul_is_named_for_what_it_is(service: Service) -> None:
    with between((service.consul.address, service.consul.http_port)) as proxy:
        proxy.fault = "garbage"
        found = diagnosis({**service.env, "CONSUL_HTTP_ADDR": f"{LOOPBACK}:{proxy.port}"})
        assert "the answer is not JSON: is that a Consul agent?" in found.one("consul-away")
    found = diagnosis({**service.env, "CONSUL_HTTP_ADDR": f"{service.consul.address}:{service.consul.http_port}/v2"})
    assert "is CONSUL_HTTP_ADDR a Consul agent that takes this?" in found.one("consul-wrong")


def test_a_cluster_without_a_leader_is_told(tmp_path: pathlib.Path, make_service: Callable[..., Service]) -> None:
    with LoneServer(tmp_path / "lone") as agent:
        found = diagnosis(make_service(agent).env)
    assert f"{agent.url} answers, and its cluster has no leader" in found.one("consul-leaderless")


@pytest.mark.parametrize(("offset", "said"), [("+1h", "behind"), ("-1h", "ahead of")])
def test_a_clock_that_differs_from_the_agents_is_told_with_how_much(service: Service, offset: str, said: str) -> None:
    found = diagnosis({**service.env, **at(offset)})
    told = found.one("clock-skew").split()
    assert " ".join(told[:4]) == "the agent's clock is"
    assert 3590 <= int(told[4]) <= 3610
    assert f" s {said} this host's |" in found.one("clock-skew")
    assert found.code == 0


def test_a_certificate_that_has_ended_by_this_hosts_clock_is_told_with_that_clock(
    tmp_path: pathlib.Path, make_service: Callable[[ConsulAgent], Service]
) -> None:
    authority = Authority(tmp_path / "ca")
    server = authority.issue("server", f"IP:{LOOPBACK}")
    with TlsConsul(tmp_path / "tls", authority, server) as agent:
        service = make_service(agent)
        service.env["CONSUL_HTTP_TOKEN"] = agent.token
        found = diagnosis({**service.env, **at("+9d")})
        assert "certificate has expired" in found.one("consul-wrong")
        assert "s behind this host's" in found.one("clock-skew")
        assert "consul-wrong" not in diagnosis(service.env).bad


def test_it_ends_in_time_and_says_what_did_not_where_all_of_consul_hangs(
    own_consul: ConsulAgent, make_service: Callable[[ConsulAgent], Service]
) -> None:
    service = make_service(own_consul)
    service.template("app.ini", '{{ service("db") | length }}')
    service.template("other.ini", '{# svcinit: check="no-check {}" #}\n{{ key("n") }}')
    service.env["SVCINIT_DNS_ADDR"] = ",".join([own_consul.dns] * 5)
    own_consul.pause()
    found = diagnosis(service.env)  # which has to end
    own_consul.resume()
    assert "timed out" in found.one("consul-away")
    assert len(found.all("dns-server-away")) == 5
    assert {"dns-away", "template-unrendered", "command-missing"} <= found.bad


def test_a_server_that_answers_without_end_is_ended_and_hides_nothing(service: Service) -> None:
    with between((service.consul.address, service.consul.http_port)) as proxy:
        proxy.fault = "dribble"
        service.env["CONSUL_HTTP_ADDR"] = f"{LOOPBACK}:{proxy.port}"
        found = diagnosis(service.env, "--", "no-command")
    assert all(text.startswith("no end after ") for text in found.all("unfinished"))
    assert "http" in [entry["check"] for entry in found.entries if entry["finding"] == "unfinished"]
    assert found.well("dns") == [f"{service.consul.dns} answers"]
    assert "command-missing" in found.bad
