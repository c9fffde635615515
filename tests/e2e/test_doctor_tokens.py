"""svcinitctl doctor: what it says of the token, and that the policy it prints is the least."""

from __future__ import annotations

import json
import pathlib
import signal
from collections.abc import Callable, Iterator

import pytest

from testing.consul import LOOPBACK, ConsulAgent
from testing.doctor import Diagnosis, diagnosis, doctor
from testing.gate import gate
from testing.secured import GuardedConsul
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import comes_back, is_passing, refuses_to_start

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]

PEER_RULES = ['service_prefix "" { policy = "read" }', 'node_prefix "" { policy = "read" }']
FOR_DNS = " ".join(PEER_RULES)
KEY_RULES = [f'key_prefix "config/{name}/" {{ policy = "read" }}' for name in ("shared", "web")]
SERVICE_RULES = [f'service "{name}" {{ policy = "write" }}' for name in ("web", "admin")]
AGENT_RULE = 'agent_prefix "" { policy = "read" }'
ALL = [*KEY_RULES, *SERVICE_RULES, AGENT_RULE]
VALUE = "rosebud-rosebud"


def rules_of(found: Diagnosis) -> list[str]:
    """The rules of the policy, comments left out."""
    return [line for line in found.policy.splitlines() if line and not line.startswith("#")]


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


def test_the_token_is_told_by_accessor_and_policy_and_no_secret_is_shown(
    guarded: GuardedConsul, demanding: Service
) -> None:
    guarded.let_anonymous(FOR_DNS)
    guarded.kv_put("config/web/n", VALUE)
    token = guarded.grant(" ".join(ALL))
    demanding.env |= {"CONSUL_HTTP_TOKEN": token.secret, "SVCINIT_PRE_START": f"true {VALUE}", "DB_PASSWORD": VALUE}
    found = diagnosis(demanding.env, "--", "true", VALUE)
    assert (found.code, found.bad, rules_of(found)) == (0, set(), ALL), found.text
    assert found.well("token")[0].startswith(f"accessor {token.accessor}, policy policy-")
    shown = doctor(demanding.env).stdout + found.text
    assert [secret for secret in (token.secret, VALUE) if secret in shown] == []
    assert "config/shared: keys 2" in found.well("kv")


def test_a_token_that_is_missing_or_unknown_and_a_blind_dns_are_wrong(
    guarded: GuardedConsul, demanding: Service
) -> None:
    found = diagnosis(demanding.env)
    assert f"no token is given (CONSUL_HTTP_TOKEN), and these rules need one: {SERVICE_RULES[0]}" in found.one(
        "token-missing"
    )
    assert f"{guarded.dns} answers, and shows no service consul in domain consul" in found.one("dns-blind")
    assert [KEY_RULES[0] in found.all("rule-missing")[0], KEY_RULES[1] in found.all("rule-missing")[1]] == [True, True]
    demanding.env["CONSUL_HTTP_TOKEN"] = "7f1c2d3e-0000-4000-8000-00000000dead"
    found = diagnosis(demanding.env)
    unknown = [entry["check"] for entry in found.entries if entry["finding"] == "token-unknown"]
    assert sorted(unknown) == ["kv", "kv", "token"]
    assert "7f1c2d3e-0000-4000-8000-00000000dead" not in found.text


def test_where_what_needs_no_token_is_enough_none_is_missed(guarded: GuardedConsul, demanding: Service) -> None:
    guarded.let_anonymous(f"{FOR_DNS} {' '.join(ALL)}")
    found = diagnosis(demanding.env)
    assert (found.bad, found.well("token")) == (set(), ["no token is given, and anonymous access is enough"])


def test_each_rule_that_the_token_lacks_is_named_and_nothing_is_registered(
    guarded: GuardedConsul, demanding: Service
) -> None:
    guarded.let_anonymous(FOR_DNS)
    for rule in ALL:
        demanding.env["CONSUL_HTTP_TOKEN"] = guarded.grant(" ".join(each for each in ALL if each != rule)).secret
        found = diagnosis(demanding.env)
        told = {entry["todo"] for entry in found.entries if entry["finding"] == "rule-missing"}
        assert told == {f"add to a policy of the token: {rule}"}
    assert guarded.get("/v1/agent/services") == {}


def test_a_rule_that_only_helps_and_one_that_cannot_be_tried_are_warnings(
    guarded: GuardedConsul, demanding: Service
) -> None:
    guarded.let_anonymous(FOR_DNS)
    demanding.template("app.ini", '{{ key("n") }}')
    demanding.env["CONSUL_HTTP_TOKEN"] = guarded.grant(" ".join([*KEY_RULES, *SERVICE_RULES])).secret
    found = diagnosis(demanding.env)
    assert (found.code, found.bad) == (0, {"rule-advised"})
    assert f"add to a policy of the token: {AGENT_RULE}; or set SVCINIT_ADVERTISE" in found.one("rule-advised")
    target = guarded.address, guarded.http_port
    with gate(target, f"app:{VALUE}", hidden="/v1/internal/") as address:
        demanding.env |= {
            "CONSUL_HTTP_ADDR": address,
            "CONSUL_HTTP_AUTH": f"app:{VALUE}",
            "SVCINIT_ADVERTISE": LOOPBACK,
        }
        found = diagnosis(demanding.env)
    assert (found.code, found.bad) == (0, {"rule-untried"})
    assert f"make sure that the policy of the token has: {', '.join(SERVICE_RULES)}" in found.one("rule-untried")
    assert VALUE not in found.text


def test_a_policy_for_less_has_fewer_rules(service: Service) -> None:
    service.env["SVCINIT_KV_PREFIX"] = ""
    service.template("app.ini", "{{ this.port }} {{ env.HOME }}")
    assert rules_of(diagnosis(service.env)) == ['service "web" { policy = "write" }']
    service.template("app.ini", "{{ this.address }}")
    assert rules_of(diagnosis(service.env)) == ['service "web" { policy = "write" }', AGENT_RULE]
    service.env["SVCINIT_ADVERTISE"] = LOOPBACK
    assert rules_of(diagnosis(service.env)) == ['service "web" { policy = "write" }']


@pytest.mark.parametrize(
    ("template", "rules"),
    [
        ('{{ instances("db")|length }}', PEER_RULES),
        ("{{ services()|length }}", PEER_RULES),
        ("{{ nodes()|length }}", PEER_RULES),
        ("{{ datacenters()|join }} {{ connect_ca()|length }}", []),
        ('{{ key("/other/a") }}', ['key_prefix "other/a" { policy = "read" }']),
        ('{{ tree("/other")|length }}', ['key_prefix "other/" { policy = "read" }']),
    ],
)
def test_what_templates_read_of_the_catalog_and_of_other_keys_has_its_rule_which_is_enough(
    make_service: Callable[[ConsulAgent], Service], guarded: GuardedConsul, template: str, rules: list[str]
) -> None:
    guarded.kv_put("other/a", "1")
    service = make_service(guarded)
    service.env |= {"SVCINIT_KV_PREFIX": "", "SVCINIT_ADVERTISE": LOOPBACK}
    service.template("app.ini", template)
    found = rules_of(diagnosis(service.env))
    assert sorted(found) == sorted([SERVICE_RULES[0], *rules])
    service.env["CONSUL_HTTP_TOKEN"] = guarded.grant(" ".join(found)).secret
    assert "template-wrong" not in diagnosis(service.env).bad


def test_a_token_of_exactly_that_policy_is_enough_for_a_whole_life(guarded: GuardedConsul, demanding: Service) -> None:
    guarded.let_anonymous(FOR_DNS)
    demanding.env["CONSUL_HTTP_TOKEN"] = guarded.grant(" ".join(rules_of(diagnosis(demanding.env)))).secret
    svcinit = demanding.start()
    is_passing(demanding)
    assert (demanding.out / "app.ini").read_text() == f"True {LOOPBACK} 1 3 0"
    guarded.kv_put("config/web/n", "4")
    svcinit.signal(signal.SIGHUP)
    svcinit.says("reload 1: done")
    assert (demanding.out / "app.ini").read_text().startswith(f"True {LOOPBACK} 4 3")
    comes_back(guarded, "web", "admin")
    assert svcinit.stop() == 0
    guarded.has_no("web", "admin")
    assert "denied" not in svcinit.err


def test_a_policy_for_what_is_followed_lets_peers_be_read_too(
    make_service: Callable[[ConsulAgent], Service], guarded: GuardedConsul
) -> None:
    guarded.let_anonymous(FOR_DNS)
    guarded.register("mysql", 3306, address="10.1.1.1")
    following = make_service(guarded)
    following.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s"}
    target = following.template("app.ini", '{{ key("n") }} {{ service("mysql") | hostports | join }}')
    rules = rules_of(diagnosis(following.env))
    assert rules == [KEY_RULES[1], SERVICE_RULES[0], *PEER_RULES]
    following.env["CONSUL_HTTP_TOKEN"] = guarded.grant(" ".join(rules)).secret
    svcinit = following.start()
    is_passing(following)
    guarded.register("mysql", 3306, address="10.1.1.2")
    eventually(lambda: target.read_text() == "1 10.1.1.2:3306", f"it is followed; {svcinit.err}")
    assert svcinit.stop() == 0


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
    guarded.has_no("web", "admin")
