"""svcinitctl doctor: what it says of settings that are right or wrong, and that the policy it prints is the least."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Service
from tests.e2e.failing import is_passing, refuses_to_start
from tests.support import planted
from tests.support.consul import LOOPBACK, ConsulAgent, free_ports
from tests.support.ctl import svcinitctl
from tests.support.secured import GuardedConsul
from tests.support.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

FOR_DNS = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'
KEY_RULES = [f'key_prefix "config/{name}/" {{ policy = "read" }}' for name in ("shared", "web")]
SERVICE_RULES = [f'service "{name}" {{ policy = "write" }}' for name in ("web", "admin")]
AGENT_RULE = 'agent_prefix "" { policy = "read" }'
ALL = [*KEY_RULES, *SERVICE_RULES, AGENT_RULE]


def doctor(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    return svcinitctl("doctor", *arguments, env=service.env)


def examined(service: Service) -> tuple[int, dict[str, dict[str, Any]], list[str]]:
    """Exit status, the last finding of each kind, and the rules of the policy, comments left out."""
    done = doctor(service, "--json")
    assert not done.stderr
    found = json.loads(done.stdout)
    rules = [line for line in found["policy"].splitlines() if line and not line.startswith("#")]
    return done.returncode, {entry["check"]: entry for entry in found["checks"]}, rules


def test_where_all_is_right_it_says_so_with_the_time_that_consul_takes(service: Service) -> None:
    service.consul.kv_put("config/web/n", "1")
    done = doctor(service)
    assert (done.returncode, done.stderr) == (0, "")
    assert "settings   ok    registers web\n" in done.stdout
    assert f"http       ok    {service.consul.url} answers; leader {LOOPBACK}:" in done.stdout
    assert " ms)\ntoken      ok    none is needed: ACLs are off\nkv         ok    config/web: keys 1\n" in done.stdout
    assert f"dns        ok    {service.consul.dns} answers (" in done.stdout
    assert 'service "web" { policy = "write" }\n' in done.stdout


def test_all_faults_of_the_settings_are_told_and_no_policy(service: Service) -> None:
    service.env |= {"SVCINIT_PORT": "none", "SVCINIT_DRAIN": "soon"}
    done = doctor(service)
    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["settings", "WRONG"]] * 2


def test_each_part_that_is_away_is_named_and_the_others_are_tried_all_the_same(service: Service) -> None:
    http, dead = free_ports(2)
    service.env |= {
        "CONSUL_HTTP_ADDR": f"{LOOPBACK}:{http}",
        "SVCINIT_DNS_ADDR": f"{LOOPBACK}:{dead},{service.consul.dns}",
    }
    done = doctor(service)
    assert done.returncode == 1
    assert (
        f"http       WRONG Consul at {LOOPBACK}:{http}: GET /v1/status/leader failed: Connection refused" in done.stdout
    )
    assert f"dns        WRONG DNS gives no answer for consul.service.consul: {LOOPBACK}:{dead} " in done.stdout
    assert f"dns        ok    {service.consul.dns} answers" in done.stdout


def test_what_needs_no_consul_is_told_so(service: Service) -> None:
    service.env = {"SVCINIT_STOP": "signal:INT"}
    done = doctor(service)
    assert (done.returncode, done.stdout) == (0, "settings   ok    nothing is registered\n")


@pytest.fixture
def guarded(tmp_path: pathlib.Path) -> Iterator[GuardedConsul]:
    with GuardedConsul(tmp_path / "guarded") as agent:
        agent.kv_put("config/web/n", "1")
        agent.kv_put("config/shared/n", "2")
        agent.kv_put("config/shared/m", "3")
        yield agent


@pytest.fixture
def demanding(make_service: Callable[[ConsulAgent], Service], guarded: GuardedConsul) -> Service:
    """A service that uses all that takes a rule."""
    service = make_service(guarded)
    service.env |= {
        "SVCINIT_KV_PREFIX": "config/shared,config/web",
        "SVCINIT_SERVICES": json.dumps([{"name": "admin", "port": service.port, "check": "tcp"}]),
        "SVCINIT_SYNC_INTERVAL": "200ms",
    }
    service.template("app.ini", '{% include "_node.j2" %} {{ key("n") }} {{ key("m") }} {{ service("web") | length }}')
    (service.templates / "_node.j2").write_text("{{ node | length > 0 }} {{ this.address }}")
    return service


def test_the_token_is_told_by_accessor_and_policy_and_never_shown(guarded: GuardedConsul, demanding: Service) -> None:
    guarded.let_anonymous(FOR_DNS)
    token = guarded.grant(" ".join(ALL))
    demanding.env["CONSUL_HTTP_TOKEN"] = token.secret
    code, found, rules = examined(demanding)
    assert (code, rules) == (0, ALL)
    assert found["token"]["said"].startswith(f"accessor {token.accessor}, policy policy-")
    assert token.secret not in str(found)


def test_a_token_that_is_missing_or_unknown_and_a_blind_dns_are_wrong(
    guarded: GuardedConsul, demanding: Service
) -> None:
    code, found, _ = examined(demanding)
    assert (code, found["token"]["ok"], found["dns"]["ok"]) == (1, False, False)
    assert found["token"]["said"] == "ACLs are on, and no token is given (CONSUL_HTTP_TOKEN)"
    assert found["dns"]["said"].startswith(f"{guarded.dns} answers, and shows no service consul in domain consul")
    demanding.env["CONSUL_HTTP_TOKEN"] = planted.token()
    code, found, _ = examined(demanding)
    assert (code, found["kv"]["ok"]) == (1, False)
    assert "ACL not found" in found["token"]["said"]


def test_a_policy_for_less_has_fewer_rules(service: Service) -> None:
    service.env["SVCINIT_KV_PREFIX"] = ""
    service.template("app.ini", "{{ this.port }} {{ env.HOME }}")
    assert examined(service)[2] == ['service "web" { policy = "write" }']
    service.template("app.ini", "{{ this.address }}")
    assert examined(service)[2] == ['service "web" { policy = "write" }', AGENT_RULE]
    service.env["SVCINIT_ADVERTISE"] = LOOPBACK
    assert examined(service)[2] == ['service "web" { policy = "write" }']


def test_a_token_of_exactly_that_policy_is_enough_for_a_whole_life(guarded: GuardedConsul, demanding: Service) -> None:
    guarded.let_anonymous(FOR_DNS)
    demanding.env["CONSUL_HTTP_TOKEN"] = guarded.grant(" ".join(examined(demanding)[2])).secret
    svcinit = demanding.start()
    is_passing(demanding)
    assert (demanding.out / "app.ini").read_text() == f"True {LOOPBACK} 1 3 0"
    guarded.kv_put("config/web/n", "4")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    assert (demanding.out / "app.ini").read_text().startswith(f"True {LOOPBACK} 4 3")
    for instance in (*guarded.instances("web"), *guarded.instances("admin")):
        guarded.deregister(instance["Service"]["ID"])
    is_passing(demanding)
    eventually(lambda: guarded.passing("admin"), "admin is registered again, too")
    assert svcinit.stop() == 0
    assert guarded.instances("web") + guarded.instances("admin") == []
    assert "denied" not in svcinit.err


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (KEY_RULES[0], "there is no key m"),
        (KEY_RULES[1], "KV prefix config/web: there are none, or none that the token may read\n"),
        (AGENT_RULE, f"needs {AGENT_RULE}"),
    ],
    ids=["shared-keys", "own-keys", "agent"],
)
def test_without_a_rule_of_the_policy_the_start_fails_and_says_why(
    guarded: GuardedConsul, demanding: Service, rule: str, said: str
) -> None:
    guarded.let_anonymous(FOR_DNS)
    guarded.kv_delete("config/shared/n")
    demanding.env["CONSUL_HTTP_TOKEN"] = guarded.grant(" ".join(each for each in ALL if each != rule)).secret
    refuses_to_start(demanding, said)


@pytest.mark.parametrize("rule", SERVICE_RULES, ids=["web", "admin"])
def test_without_a_rule_for_a_service_the_log_says_which(guarded: GuardedConsul, demanding: Service, rule: str) -> None:
    guarded.let_anonymous(FOR_DNS)
    demanding.env["CONSUL_HTTP_TOKEN"] = guarded.grant(" ".join(each for each in ALL if each != rule)).secret
    svcinit = demanding.start()
    svcinit.says(f"needs {rule}")
    other = "admin" if '"web"' in rule else "web"
    eventually(lambda: guarded.passing(other), "the other is registered")
    assert svcinit.stop() == 0
    assert guarded.instances("web") + guarded.instances("admin") == []
