"""What a token may, how TLS is set up, and values of all kinds, on real agents."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from svcinit.agent.consul.answers import TlsFailed
from svcinit.agent.consul.api import Consul
from svcinit.errors import ConfigError, Unavailable
from svcinit.settings.parsers import instance_id, pairs
from testing.consul import ConsulAgent, binary, free_ports, ports, tokens

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

MASTER = "11111111-2222-3333-4444-555555555555"


def deny() -> dict[str, Any]:
    return {"acl": {"enabled": True, "default_policy": "deny", "tokens": tokens(MASTER)}}


WEB = {"ID": "web-1", "Name": "web", "Port": 8000, "Tags": ["a"], "Meta": {"k": "v"}}


@pytest.fixture
def client(consul: ConsulAgent) -> Iterator[Consul]:
    with contextlib.closing(Consul(consul.url)) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """An agent that denies everything that no token allows."""
    agent = ConsulAgent(tmp_path_factory.mktemp("guarded"), config=deny())
    agent.token = MASTER
    with agent:
        agent.kv_put("config/web/a", "1")
        agent.register("db", 3306)
        yield agent


def token(agent: ConsulAgent, rules: str) -> str:
    policy: dict[str, Any] = {"Name": f"p{time.monotonic_ns()}", "Rules": rules}
    made = json.loads(agent.call("PUT", "/v1/acl/policy", json.dumps(policy).encode()))
    answer = agent.call("PUT", "/v1/acl/token", json.dumps({"Policies": [{"ID": made["ID"]}]}).encode())
    return str(json.loads(answer)["SecretID"])


@pytest.mark.parametrize(
    "value",
    [
        b"a \"quoted\" 'value'",
        b"two\r\nlines\n",
        b"{{ not.a.template }} {% nor this %} $HOME `id`",
        "Grüße, 世界 🎈".encode(),
        bytes(range(256)),
        b"",
        os.urandom(500_000),
    ],
    ids=["quotes", "newlines", "braces", "utf-8", "all-bytes", "empty", "500-KB"],
)
def test_a_value_arrives_byte_for_byte(consul: ConsulAgent, client: Consul, value: bytes) -> None:
    consul.kv_put("config/web/key", value)
    assert client.kv("config/web") == {"config/web/key": value}


def test_a_prefix_is_a_folder_and_brings_all_below_it(consul: ConsulAgent, client: Consul) -> None:
    for key in ("config/app/a", "config/app/b/c", "config/app2/no", "config/app.no", "config/app/sub/"):
        consul.kv_put(key, "x")
    wanted = {"config/app/a": b"x", "config/app/b/c": b"x"}
    assert client.kv("config/app") == client.kv("/config/app/") == wanted
    assert client.kv("config/app", dc="dc1") == wanted
    assert len(client.kv("")) == 4


def test_fifty_megabytes_arrive(consul: ConsulAgent, client: Consul) -> None:
    value = b"v" * 500_000
    for number in range(100):
        consul.kv_put(f"big/{number}", value)
    found = client.kv("big")
    assert len(found) == 100
    assert set(found.values()) == {value}


def test_an_unknown_datacenter_is_tried_again(client: Consul) -> None:
    with pytest.raises(Unavailable, match="No path to datacenter"):
        client.kv("config", dc="mars")


def test_the_agent_tells_its_node_and_address(client: Consul) -> None:
    own = client.agent()
    assert own["node"]
    assert own["address"] == "127.0.0.1"


def test_an_agent_that_is_down_is_said_to_be_and_works_when_it_is_back(own_consul: ConsulAgent) -> None:
    with contextlib.closing(Consul(own_consul.url)) as client:
        client.agent()
        own_consul.stop()
        with pytest.raises(Unavailable, match="Connection refused"):
            client.agent()
        own_consul.start()
        assert client.agent()


def test_a_proxy_in_the_environment_is_not_asked(consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with contextlib.closing(Consul(consul.url)) as client:
        assert client.agent()


@pytest.mark.parametrize("with_token", [False, True], ids=["anonymous", "token-of-another"])
@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda client: client.agent(), 'agent_prefix "" { policy = "read" }'),
        (lambda client: client.instance("db", "db"), 'service "db" { policy = "read" }'),
        (lambda client: client.register(WEB), 'service "web" { policy = "write" }'),
    ],
    ids=["agent", "service", "register"],
)
def test_a_token_that_may_not_is_told_the_rule_it_needs(
    guarded: ConsulAgent, call: Any, rule: str, with_token: bool
) -> None:
    mine = token(guarded, 'key_prefix "other/" { policy = "read" }') if with_token else None
    with contextlib.closing(Consul(guarded.url, token=mine)) as client, pytest.raises(ConfigError) as caught:
        call(client)
    assert rule in str(caught.value)
    assert "is denied" in str(caught.value)
    assert not mine or mine not in str(caught.value)


def test_a_token_with_exactly_the_rules_that_are_told_works(guarded: ConsulAgent) -> None:
    rules = 'key_prefix "config/web/" { policy = "read" } service "web" { policy = "write" }'
    with contextlib.closing(Consul(guarded.url, token=token(guarded, rules))) as client:
        assert client.kv("config/web") == {"config/web/a": b"1"}
        assert client.kv("config/web/none") == {}
        client.register(WEB)
        assert client.instance("web-1", "web")
        assert list(client.services("web")) == ["web-1"]
        client.deregister("web-1", "web")
        assert client.instance("web-1", "web") is None


def test_a_token_that_may_only_read_cannot_deregister(guarded: ConsulAgent) -> None:
    mine = token(guarded, 'service "db" { policy = "read" }')
    with contextlib.closing(Consul(guarded.url, token=mine)) as client, pytest.raises(ConfigError) as caught:
        client.deregister("db", "db")
    assert 'needs service "db" { policy = "write" }' in str(caught.value)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, pathlib.Path]]:
    """HOST:PORT of an agent that speaks HTTPS and asks for client certificates, and where the certificates are."""
    folder = tmp_path_factory.mktemp("tls")
    for what in (["ca", "create"], ["cert", "create", "-server"], ["cert", "create", "-client"]):
        subprocess.run([binary(), "tls", *what], cwd=folder, check=True, capture_output=True)
    http, dns, https, serf_lan, serf_wan, server = free_ports(6)
    files = {"ca_file": "consul-agent-ca", "cert_file": "dc1-server-consul-0", "key_file": "dc1-server-consul-0-key"}
    config: dict[str, Any] = {name: str(folder / f"{file}.pem") for name, file in files.items()}
    config |= {
        "verify_incoming_https": True,
        "ports": ports(http=http, dns=dns, https=https, serf_lan=serf_lan, serf_wan=serf_wan, server=server),
    }
    agent = ConsulAgent(folder / "agent", config=config)
    agent.http_port = http
    with agent:
        yield f"127.0.0.1:{https}", folder


def over_tls(tls: tuple[str, pathlib.Path], **options: Any) -> Consul:
    address, folder = tls
    mine = {
        "verify": str(folder / "consul-agent-ca.pem"),
        "client_cert": str(folder / "dc1-client-consul-0.pem"),
        "client_key": str(folder / "dc1-client-consul-0-key.pem"),
    }
    return Consul(address, **{"ssl": True, **mine, **options})


@pytest.mark.parametrize("name", [None, "server.dc1.consul"])
def test_tls_with_a_private_ca_and_a_client_certificate_works(tls: tuple[str, pathlib.Path], name: str | None) -> None:
    with contextlib.closing(over_tls(tls, server_name=name)) as client:
        assert client.agent()


def test_plain_http_to_the_https_port_is_told_in_the_agents_words(tls: tuple[str, pathlib.Path]) -> None:
    with contextlib.closing(Consul(tls[0])) as client, pytest.raises(ConfigError) as caught:
        client.agent()
    assert "answered 400: Client sent an HTTP request to an HTTPS server" in str(caught.value)


def test_https_to_a_plain_port_is_told_as_a_fault_of_tls(consul: ConsulAgent) -> None:
    with contextlib.closing(Consul(consul.url, ssl=True)) as client, pytest.raises(ConfigError) as caught:
        client.agent()
    assert "TLS failed: " in str(caught.value)
    assert "does CONSUL_HTTP_ADDR name the agent's port for https?" in str(caught.value)


def test_tls_is_not_verified_when_told_so(tls: tuple[str, pathlib.Path]) -> None:
    with contextlib.closing(over_tls(tls, verify=False, server_name="other.example")) as client:
        assert client.kv("config") == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"verify": True}, "CONSUL_CACERT"),
        ({"server_name": "other.example"}, "other.example"),
        ({"verify": "/nonexistent"}, "/nonexistent"),
        ({"client_cert": "/nonexistent"}, "/nonexistent"),
        ({"client_cert": None, "client_key": None}, "CONSUL_CLIENT_CERT"),
        ({"client_key": __file__}, "CONSUL_CLIENT_CERT"),
        ({"verify": __file__}, "CONSUL_CACERT"),
    ],
    ids=["unknown-ca", "other-name", "no-ca-file", "no-cert-file", "no-client-cert", "no-key", "no-ca-in-file"],
)
def test_tls_that_fails_says_what_to_look_at(tls: tuple[str, pathlib.Path], options: dict[str, Any], said: str) -> None:
    with contextlib.closing(over_tls(tls, **options)) as client, pytest.raises(ConfigError) as caught:
        client.agent()
    assert said in str(caught.value)
    assert tls[0] in str(caught.value)


def followed(client: Consul) -> object:
    """The answer to one query that is awaited elsewhere, as a watch makes it."""
    channel = client.open()
    try:
        client.send(channel, "/v1/status/leader", {})
        return client.receive(channel, "/v1/status/leader", "no rule", 1 << 20)[0]
    finally:
        channel.close()


@pytest.mark.parametrize("name", [None, "server.dc1.consul"])
def test_a_watch_has_the_same_tls(tls: tuple[str, pathlib.Path], name: str | None) -> None:
    with contextlib.closing(over_tls(tls, server_name=name)) as client:
        assert followed(client) == client.leader()
    with contextlib.closing(over_tls(tls, verify=False, server_name="other.example")) as client:
        assert followed(client)


@pytest.mark.parametrize(
    "options",
    [{"verify": True}, {"server_name": "other.example"}, {"client_key": __file__}, {"verify": __file__},
     {"client_cert": None, "client_key": None}, {"client_cert": "/nonexistent"}, {"verify": "/nonexistent"}],
)  # fmt: skip
def test_a_watch_whose_tls_fails_says_the_same_as_a_call(
    tls: tuple[str, pathlib.Path], options: dict[str, Any]
) -> None:
    with contextlib.closing(over_tls(tls, **options)) as client:
        with pytest.raises(TlsFailed) as watch:
            followed(client)
        with pytest.raises(TlsFailed) as call:
            client.leader()
    assert watch.value.fields == call.value.fields


def test_a_watch_goes_over_a_unix_socket_too(consul: ConsulAgent, tmp_path: pathlib.Path) -> None:
    agent = ConsulAgent(tmp_path / "agent", config={"addresses": {"http": f"127.0.0.1 unix://{tmp_path}/http.sock"}})
    with agent, contextlib.closing(Consul(f"unix://{tmp_path}/http.sock")) as client:
        assert followed(client) == client.leader()


@pytest.mark.parametrize("service_id", ["a/b", 'a"b', "a?b#c", "a%2Fb", "a%b", "...", "{a}", "http:/h"])
def test_an_id_that_settings_accept_can_be_registered_and_removed(consul: ConsulAgent, service_id: str) -> None:
    assert instance_id(service_id)
    check = {"CheckID": f"c:{service_id}", "TTL": "1m"}
    with contextlib.closing(Consul(consul.url)) as client:
        client.register({"ID": service_id, "Name": "odd", "Port": 1, "Check": check})
        assert client.report(f"c:{service_id}", "odd", "passing", "")
        assert client.maintenance(service_id, "odd", on=True, reason="x")
        assert client.instance(service_id, "odd")
        client.deregister(service_id, "odd")
        assert client.services("odd") == {}


def test_metadata_that_settings_accept_can_be_registered(consul: ConsulAgent) -> None:
    meta = pairs(",".join(["k" * 128 + "=v", "long=" + "v" * 512, *(f"k{n}=" for n in range(61))]))
    with contextlib.closing(Consul(consul.url)) as client:
        client.register({"ID": "m", "Name": "odd", "Port": 1, "Meta": {**meta, "svcinit": "x"}})
        client.deregister("m", "odd")
