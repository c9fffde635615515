"""The client of Consul's HTTP API and DNS on a real agent, and on servers that do what no agent can be made to do."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from svcinit.agent.consul import Consul
from svcinit.agent.discovery import Resolver
from svcinit.agent.http import Away
from svcinit.errors import ConfigError, Unavailable
from tests.support.consul import LOOPBACK, ConsulAgent, free_ports
from tests.support.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

ROOT_TOKEN, FOREIGN_TOKEN = "7f1c2d3e-0000-4000-8000-000000000001", "7f1c2d3e-0000-4000-8000-00000000dead"
Connect = Callable[..., Consul]
Answering = Callable[[bytes], str]
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture
def connect() -> Iterator[Connect]:
    """connect(address, ...): a client, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *where, **options: stack.enter_context(contextlib.closing(Consul(*where, **options)))


@pytest.fixture
def client(consul: ConsulAgent, connect: Connect) -> Consul:
    return connect(consul.url)


@pytest.fixture
def resolver(consul: ConsulAgent) -> Resolver:
    return Resolver([(consul.address, consul.dns_port)])


@pytest.fixture
def answering() -> Iterator[Answering]:
    """answering(bytes): the address of a server that sends those to whatever it is asked, and hangs up."""
    with contextlib.ExitStack() as stack:

        def start(content: bytes) -> str:
            listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        client, _ = listener.accept()
                        with client:
                            client.recv(65536)
                            client.sendall(content)

            threading.Thread(target=serve, daemon=True).start()
            return f"http://{LOOPBACK}:{listener.getsockname()[1]}"

        yield start


def http(status: str, body: bytes, headers: bytes = JSON) -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status.encode(), headers, len(body), body)


# DNS


def test_all_of_a_hundred_instances_are_found_and_sorted(consul: ConsulAgent, resolver: Resolver) -> None:
    for n in range(100):
        consul.register("many", 9000 + n, address=f"10.9.0.{n + 1}", id=f"many-{n}")
    eventually(lambda: len(resolver.peers("many")) == 100, "all are found")
    found = resolver.peers("many")
    assert found == sorted(found)
    assert {(peer.address, peer.port) for peer in found} == {(f"10.9.0.{n + 1}", 9000 + n) for n in range(100)}


def test_a_tag_picks_the_instances_that_have_it(consul: ConsulAgent, resolver: Resolver) -> None:
    consul.register("web", 8001, address="10.9.1.1", tags=["blue", "old"], id="web-1")
    consul.register("web", 8002, address="10.9.1.2", tags=["green"], id="web-2")
    assert [peer.port for peer in resolver.peers("web", tag="blue")] == [8001]
    assert [peer.port for peer in resolver.peers("web")] == [8001, 8002]
    assert resolver.peers("web", tag="red") == []


def test_an_instance_registered_without_an_address_has_its_nodes(consul: ConsulAgent, resolver: Resolver) -> None:
    consul.register("bare", 8001)
    node = consul.get("/v1/agent/self")["Config"]["NodeName"]
    found = resolver.peers("bare")
    assert [(peer.address, peer.port, peer.node) for peer in found] == [(consul.address, 8001, node.lower())]


def test_an_instance_that_fails_its_check_is_not_found(consul: ConsulAgent, resolver: Resolver) -> None:
    definition = {"Name": "sick", "Port": 8001, "Check": {"TTL": "1h", "Status": "critical"}}
    consul.call("PUT", "/v1/agent/service/register", json.dumps(definition).encode())
    eventually(lambda: consul.instances("sick"), "it is in the catalog")
    assert resolver.peers("sick") == []


def test_a_service_that_nobody_registered_has_no_instances(resolver: Resolver) -> None:
    assert resolver.peers("nosuch") == []


def test_a_datacenter_that_does_not_exist_is_no_crash(resolver: Resolver) -> None:
    with contextlib.suppress(Unavailable):  # which of the two Consul makes of it differs between its versions
        assert resolver.peers("web", dc="nosuch") == []


def test_an_ipv6_address_is_found_and_written_with_brackets(consul: ConsulAgent, resolver: Resolver) -> None:
    consul.register("v6", 8001, address="fd00::7")
    assert [(peer.address, str(peer)) for peer in resolver.peers("v6")] == [("fd00::7", "[fd00::7]:8001")]


# KV


def test_a_prefix_is_a_folder_and_its_namesake_is_not_in_it(consul: ConsulAgent, client: Consul) -> None:
    for key in ("config/app/a", "config/app/deep/b", "config/app2/c", "config/app", "config/apple"):
        consul.kv_put(key, key)
    found = client.kv("config/app")
    assert found == {"config/app/a": b"config/app/a", "config/app/deep/b": b"config/app/deep/b"}
    assert client.kv("/config/app/") == found


def test_a_prefix_without_keys_is_empty(client: Consul) -> None:
    assert client.kv("config/nosuch") == {}


def test_the_folders_that_consuls_own_pages_make_are_no_keys(consul: ConsulAgent, client: Consul) -> None:
    consul.kv_put("config/app/", "")
    consul.kv_put("config/app/deep/", "")
    consul.kv_put("config/app/a", "1")
    assert client.kv("config/app") == {"config/app/a": b"1"}


@pytest.mark.parametrize("value", [b"", b"\0\xff\r\n", b"x" * 512 * 1024], ids=["empty", "binary", "largest"])
def test_a_value_comes_back_byte_for_byte(consul: ConsulAgent, client: Consul, value: bytes) -> None:
    consul.kv_put("config/app/value", value)
    assert client.kv("config/app") == {"config/app/value": value}


def test_odd_names_of_keys_come_back_as_they_are(consul: ConsulAgent, client: Consul) -> None:
    consul.kv_put("config/a%20b%3F/gr%C3%BC%C3%9Fe%23%25", "1")
    assert client.kv("config/a b?") == {"config/a b?/grüße#%": b"1"}


# the agent's services


def test_a_service_is_registered_known_and_deregistered(consul: ConsulAgent, client: Consul) -> None:
    client.register({"ID": "web/1 ü", "Name": "web", "Port": 8001, "Meta": {"team": "a"}})
    known = client.services("web")["web/1 ü"]
    assert (known["Service"], known["Port"], known["Meta"]) == ("web", 8001, {"team": "a"})
    client.deregister("web/1 ü", "web")
    assert client.instance("web/1 ü", "web") is None
    assert consul.get("/v1/agent/services") == {}


def test_a_report_to_a_check_that_the_agent_lost_says_so(consul: ConsulAgent, client: Consul) -> None:
    client.register({"ID": "web", "Name": "web", "Check": {"CheckID": "probe", "TTL": "1h"}})
    assert client.report("probe", "web", "passing", "fine") is True
    assert consul.get("/v1/agent/checks")["probe"]["Output"] == "fine"
    client.deregister("web", "web")
    assert client.report("probe", "web", "passing", "fine") is False


def test_registering_again_keeps_maintenance(consul: ConsulAgent, client: Consul) -> None:
    client.register({"ID": "web", "Name": "web"})
    assert client.maintenance("web", "web", on=True, reason="disk swap") is True
    client.register({"ID": "web", "Name": "web", "Port": 8000})
    assert consul.get("/v1/agent/checks")["_service_maintenance:web"]["Notes"] == "disk swap"
    assert client.maintenance("web", "web", on=False) is True
    assert consul.get("/v1/agent/checks") == {}
    client.deregister("web", "web")
    assert client.maintenance("web", "web", on=True) is False


def test_what_consul_calls_a_wrong_definition_is_told_in_its_words(client: Consul) -> None:
    with pytest.raises(ConfigError, match=r"PUT /v1/agent/service/register answered 400: .*[Mm]issing service name"):
        client.register({"ID": "web", "Name": ""})


# connections


def test_ten_calls_use_one_connection(consul: ConsulAgent, client: Consul) -> None:
    before = ends_towards(consul.http_port)
    for _ in range(5):
        client.kv("config/app")
        client.instance("nosuch", "no")
    assert len(ends_towards(consul.http_port) - before) == 1


def ends_towards(port: int) -> set[str]:
    """The other ends of all connections with a local port, those just closed included (proc(5), /proc/net/tcp)."""
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = f":{port:04X}"
    return {row[1] for row in rows if row[2].endswith(mine)} | {
        row[2] for row in rows if row[1].endswith(mine) and int(row[2].rpartition(":")[2], 16)
    }


def test_an_agent_that_was_restarted_between_two_calls_is_no_error(own_consul: ConsulAgent, connect: Connect) -> None:
    client = connect(own_consul.url)
    own_consul.kv_put("config/app/n", "1")
    assert client.kv("config/app") == {"config/app/n": b"1"}
    own_consul.restart()
    own_consul.kv_put("config/app/n", "2")
    assert client.kv("config/app") == {"config/app/n": b"2"}


def test_a_unix_socket_works_as_an_address(tmp_path: pathlib.Path, connect: Connect) -> None:
    path = tmp_path / "consul.sock"
    addresses = {"http": f"{LOOPBACK} unix://{path}"}
    with ConsulAgent(tmp_path / "consul", config={"addresses": addresses}) as agent:
        client = connect(f"unix://{path}")
        agent.kv_put("config/app/n", "1")
        assert client.kv("config/app") == {"config/app/n": b"1"}
        client.register({"ID": "web", "Name": "web"})
        client.deregister("web", "web")
        agent.stop()
        with pytest.raises(Unavailable, match=rf"Consul at unix://{path}: GET /v1/kv/config/app/ failed: "):
            client.kv("config/app")


def test_a_unix_socket_that_is_not_there_is_named(tmp_path: pathlib.Path, connect: Connect) -> None:
    client = connect(f"unix://{tmp_path}/nosuch.sock")
    with pytest.raises(Unavailable, match=rf"unix://{tmp_path}/nosuch\.sock: .* No such file or directory"):
        client.kv("config/app")


def test_an_agent_that_is_not_there_is_named_with_what_was_asked(connect: Connect) -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unavailable) as caught:
        connect(f"{LOOPBACK}:{port}").kv("config/app")
    assert str(caught.value) == f"Consul at {LOOPBACK}:{port}: GET /v1/kv/config/app/ failed: Connection refused"


def test_an_agent_that_hangs_costs_bounded_time_and_works_again_when_it_wakes(
    own_consul: ConsulAgent, connect: Connect
) -> None:
    client = connect(own_consul.url, timeout=(1.0, 0.3))
    own_consul.kv_put("config/app/n", "1")
    assert client.kv("config/app")
    own_consul.pause()
    with pytest.raises(Unavailable, match=r"[Tt]imed out"):
        client.kv("config/app")
    own_consul.resume()
    own_consul.kv_put("config/app/n", "2")
    assert client.kv("config/app") == {"config/app/n": b"2"}


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "http://", "http://[::1", "host name:8500"])
def test_an_address_that_is_none_is_told_as_a_setting(address: str, connect: Connect) -> None:
    with pytest.raises(ConfigError, match="CONSUL_HTTP_ADDR="):
        connect(address).kv("config/app")


# answers that a sound agent does not give


def test_an_answer_cut_in_the_middle_is_no_answer(answering: Answering, connect: Connect) -> None:
    body = json.dumps([{"Key": "config/app/n", "Value": "MQ=="}]).encode()
    client = connect(answering(http("200 OK", body)[:-10]))
    with pytest.raises(Unavailable, match="GET /v1/kv/config/app/ failed: "):
        client.kv("config/app")


def test_a_chunked_answer_cut_in_the_middle_is_no_answer(answering: Answering, connect: Connect) -> None:
    client = connect(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n"))
    with pytest.raises(Unavailable, match="GET /v1/kv/config/app/ failed: "):
        client.kv("config/app")


@pytest.mark.parametrize("sent", [b"", b"\0\0\0", b"220 mail ready\r\n"], ids=["nothing", "zeros", "mail"])
def test_what_is_no_http_is_no_answer(answering: Answering, sent: bytes, connect: Connect) -> None:
    with pytest.raises(Unavailable, match="GET /v1/kv/config/app/ failed: "):
        connect(answering(sent)).kv("config/app")


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"[{", b"\xff\xfe"])
def test_an_answer_that_is_no_json_is_told(answering: Answering, body: bytes, connect: Connect) -> None:
    with pytest.raises(Unavailable, match="answered something that is not JSON"):
        connect(answering(http("200 OK", body))).kv("config/app")


@pytest.mark.parametrize("body", [b'{"a": 1}', b'["a"]', b'[{"Key": 1}]', b'[{"Key": "a", "Value": "*"}]', b"3"])
def test_json_that_is_no_list_of_keys_is_told(answering: Answering, body: bytes, connect: Connect) -> None:
    with pytest.raises(Unavailable, match="answered something that is no list of keys"):
        connect(answering(http("200 OK", body))).kv("config/app")


def test_an_agent_that_asks_to_be_left_alone_says_for_how_long(answering: Answering, connect: Connect) -> None:
    answer = http("429 Too Many Requests", b"Your IP is issuing too many concurrent connections", b"Retry-After: 7\r\n")
    with pytest.raises(Away, match="answered 429: Your IP is issuing") as caught:
        connect(answering(answer)).kv("config/app")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("header", [b"", b"Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n", b"Retry-After: -1\r\n"])
def test_without_a_number_of_seconds_there_is_no_such_wish(
    answering: Answering, header: bytes, connect: Connect
) -> None:
    with pytest.raises(Away) as caught:
        connect(answering(http("503 Service Unavailable", b"", header))).kv("config/app")
    assert caught.value.retry_after is None


def test_a_cluster_without_a_leader_is_worth_another_try(answering: Answering, connect: Connect) -> None:
    with pytest.raises(Unavailable, match="answered 500: No cluster leader"):
        connect(answering(http("500 Internal Server Error", b"No cluster leader"))).kv("config/app")


def test_a_redirect_is_not_followed(answering: Answering, consul: ConsulAgent, connect: Connect) -> None:
    to = f"Location: {consul.url}/v1/kv/config/app/?recurse=\r\n".encode()
    with pytest.raises(ConfigError, match="answered 302"):
        connect(answering(http("302 Found", b"", to)), token=FOREIGN_TOKEN).kv("config/app")


def test_more_than_any_prefix_should_hold_is_refused(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    monkeypatch.setattr("svcinit.agent.http.BODY_LIMIT", 1 << 20)
    with pytest.raises(ConfigError, match="answered more than 1 MiB: name a narrower prefix"):
        connect(answering(http("200 OK", b" " * (2 << 20)))).kv("config/app")


# ACL


@pytest.fixture(scope="module")
def guarded_consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """An agent that denies what no token allows."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": ROOT_TOKEN, "agent": ROOT_TOKEN}}
    agent = ConsulAgent(tmp_path_factory.mktemp("guarded"), config={"acl": acl})
    agent.token = ROOT_TOKEN
    with agent:
        yield agent


def test_a_token_is_sent_and_allows_what_it_should(guarded_consul: ConsulAgent, connect: Connect) -> None:
    guarded_consul.kv_put("config/app/n", "1")
    assert connect(guarded_consul.url, token=ROOT_TOKEN).kv("config/app") == {"config/app/n": b"1"}


def test_a_token_that_consul_does_not_know_is_told_without_showing_it(
    guarded_consul: ConsulAgent, connect: Connect
) -> None:
    with pytest.raises(
        ConfigError, match=r"GET /v1/kv/config/app/ is denied \(ACL not found\): the token of CONSUL_HTTP_TOKEN"
    ) as caught:
        connect(guarded_consul.url, token=FOREIGN_TOKEN).kv("config/app")
    assert FOREIGN_TOKEN not in str(caught.value)


def test_a_registration_without_a_token_names_the_rule_that_it_needs(
    guarded_consul: ConsulAgent, connect: Connect
) -> None:
    with pytest.raises(ConfigError, match=r'needs service "web" { policy = "write" }'):
        connect(guarded_consul.url).register({"ID": "web", "Name": "web"})


# TLS


def test_https_to_a_plain_port_is_told_as_a_fault_of_tls(consul: ConsulAgent, connect: Connect) -> None:
    with pytest.raises(ConfigError, match=r"TLS failed: .*; see CONSUL_CACERT, CONSUL_TLS_SERVER_NAME"):
        connect(f"https://{consul.address}:{consul.http_port}").kv("config/app")


class Secured:
    """An agent that speaks HTTPS too, with a certificate for `server.dc1.consul` from a CA of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        for command in (["ca", "create"], ["cert", "create", "-server"]):
            consul = [os.environ["CONSUL_BINARY"], "tls", *command]
            subprocess.run(consul, cwd=folder, check=True, capture_output=True, timeout=30)
        self.authority = str(folder / "consul-agent-ca.pem")
        self.port, serf_lan, serf_wan, server = free_ports(4)
        self.agent = ConsulAgent(folder / "consul")
        self.agent.config = {
            "ports": {
                "http": self.agent.http_port, "dns": self.agent.dns_port, "https": self.port, "grpc": -1,
                "serf_lan": serf_lan, "serf_wan": serf_wan, "server": server,
            },
            "cert_file": str(folder / "dc1-server-consul-0.pem"),
            "key_file": str(folder / "dc1-server-consul-0-key.pem"),
            "ca_file": self.authority,
        }  # fmt: skip


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("tls"))
    with made.agent:
        yield made


@pytest.mark.parametrize("options", [{}, {"server_name": "server.dc1.consul"}, {"ssl": True}])
def test_https_works_with_the_authority_that_signed(
    secured: Secured, connect: Connect, options: dict[str, Any]
) -> None:
    secured.agent.kv_put("config/app/n", "1")
    address = f"{'' if 'ssl' in options else 'https://'}{LOOPBACK}:{secured.port}"
    assert connect(address, verify=secured.authority, **options).kv("config/app") == {"config/app/n": b"1"}


def test_https_without_the_authority_or_with_another_name_is_refused(secured: Secured, connect: Connect) -> None:
    address = f"https://{LOOPBACK}:{secured.port}"
    with pytest.raises(ConfigError, match=r"TLS failed: .*certificate verify failed.*; see CONSUL_CACERT"):
        connect(address).kv("config/app")
    with pytest.raises(ConfigError, match=r"TLS failed: .*other\.example.*; see CONSUL_CACERT, CONSUL_TLS_SERVER_NAME"):
        connect(address, verify=secured.authority, server_name="other.example").kv("config/app")


def test_plain_http_to_the_https_port_is_told_in_the_agents_words(secured: Secured, connect: Connect) -> None:
    with pytest.raises(ConfigError, match="answered 400: Client sent an HTTP request to an HTTPS server"):
        connect(f"{LOOPBACK}:{secured.port}").kv("config/app")


def test_an_authority_that_is_not_there_is_named(secured: Secured, connect: Connect) -> None:
    with pytest.raises(ConfigError, match=r"/nosuch/ca\.pem"):
        connect(f"https://{LOOPBACK}:{secured.port}", verify="/nosuch/ca.pem").kv("config/app")
