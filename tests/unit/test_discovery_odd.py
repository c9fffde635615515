"""Answers that no Consul gives but a resolver between may, names that DNS cannot carry, and peers as values."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

import dns.flags
import dns.message
import dns.rcode
import pytest
from dns.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from dns_server import Reply, Server, answer, records, serving, silent
from svcinit.agent.consul import discovery
from svcinit.agent.consul.discovery import Peer, Resolver
from svcinit.errors import ConfigError, Unavailable
from testing.hurry import hurried

NAME = "web.service.consul."
SRV = f"{NAME} SRV 1 1 8000 h1.node.dc1.consul."
A = "h1.node.dc1.consul. A 10.0.0.1"
FOUND = Peer("h1.node.dc1.consul", "10.0.0.1", 8000, "h1")
WHOLE = records(SRV, additional=[A])
LONG, SHARE = 20.0, 5.0  # seconds for a question, and what each of two servers may take of them in each of two rounds


def peers(*servers: Server, timeout: float = LONG) -> list[Peer]:
    return Resolver([server.at for server in servers], timeout=timeout).peers("web")


def test_a_dead_server_costs_its_share_of_the_first_question_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(silent) as dead, serving(WHOLE) as alive:
        allowed = hurried(monkeypatch, "_over_udp", dead.at)
        resolver = Resolver([dead.at, alive.at], timeout=LONG)
        assert resolver.peers("web") == [FOUND]
        assert resolver.peers("web") == [FOUND]
    assert dead.asked == ["SRV"]
    assert max(allowed) <= SHARE


def test_an_instance_that_is_registered_between_two_questions_has_its_port() -> None:
    asked: list[Message] = []

    def reply(query: Message) -> Sequence[bytes]:
        asked.append(query)
        if len(asked) == 1:
            return records()(query)
        return records(SRV, f"{NAME} A 10.0.0.1", additional=[A])(query)

    with serving(reply) as server:
        assert peers(server) == [FOUND]


def test_a_server_named_by_something_impossible_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="is no host name"):
        Resolver([("a" * 70 + ".example", 53)]).peers("web")


def without_edns(rcode: dns.rcode.Rcode) -> Reply:
    """A server, or a firewall before it, that knows DNS as of 1987 only."""

    def reply(query: Message) -> Sequence[bytes]:
        if query.edns < 0:
            return WHOLE(query)
        refusal = dns.message.make_response(query)
        refusal.use_edns(-1)
        refusal.set_rcode(rcode)
        return [refusal.to_wire()]

    return reply


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_a_forwarder_that_knows_no_edns_is_asked_without(rcode: dns.rcode.Rcode) -> None:
    with serving(without_edns(rcode)) as server:
        assert peers(server) == [FOUND]
        assert server.asked == ["SRV", "SRV"]


def test_a_forwarder_that_takes_no_connections_is_asked_over_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(WHOLE) as server:
        monkeypatch.setattr(discovery, "FORWARDER", server.at[1])
        assert peers(server) == [FOUND]


def test_a_forwarder_that_is_silent_over_tcp_costs_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(WHOLE) as server, socket.create_server(server.at):  # connects, and never reads
        monkeypatch.setattr(discovery, "FORWARDER", server.at[1])
        allowed = hurried(monkeypatch, "_over_tcp", server.at)
        assert peers(server) == [FOUND]
    assert max(allowed) <= 2 * SHARE  # there is one server only


def test_what_a_forwarder_trims_and_does_not_give_over_tcp_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    def trimmed(query: Message) -> Sequence[bytes]:
        made = dns.message.make_response(query)
        made.flags |= dns.flags.TC
        return [made.to_wire()]

    with serving(trimmed) as server:
        monkeypatch.setattr(discovery, "FORWARDER", server.at[1])
        with pytest.raises(Unavailable, match="Connection refused"):
            peers(server)


def test_an_address_that_did_not_come_along_is_asked_for_once() -> None:
    with serving(records(SRV, f"{NAME} SRV 1 1 8001 h1.node.dc1.consul.", A)) as server:
        assert [str(peer) for peer in peers(server)] == ["10.0.0.1:8000", "10.0.0.1:8001"]
        assert server.asked == ["SRV", "A"]


def test_an_instance_with_ipv6_only_that_did_not_come_along_is_found() -> None:
    with serving(records(SRV, "h1.node.dc1.consul. AAAA fd00::1")) as server:
        assert [str(peer) for peer in peers(server)] == ["[fd00::1]:8000"]


def test_ipv4_is_preferred() -> None:
    with serving(records(SRV, additional=["h1.node.dc1.consul. AAAA fd00::1", A])) as server:
        assert peers(server) == [FOUND]


@pytest.mark.parametrize("target", ["gone.node.dc1.consul.", "gone.invalid.", "."])
def test_an_instance_without_an_address_is_left_out(target: str) -> None:
    with serving(lambda query: [both(query, f"1 1 1 {target}")]) as server:
        assert peers(server) == [FOUND]


def both(query: Message, other: str) -> bytes:
    """One instance as it should be, and one with the SRV data `other`."""
    made = dns.message.from_wire(answer(query, SRV, additional=[A]))
    if made.answer:
        made.answer[0].add(dns.rrset.from_text(NAME, 0, "IN", "SRV", other)[0])
    return made.to_wire()


def test_an_instance_registered_by_a_host_name_is_found_as_this_host_sees_it() -> None:
    with serving(records(f"{NAME} SRV 1 1 5432 localhost.")) as server:
        assert peers(server) == [Peer("localhost", "127.0.0.1", 5432, "")]


def test_the_order_of_the_answer_does_not_matter() -> None:
    lines = [f"1 1 {port} h{host}.node.dc1.consul." for port in (80, 443) for host in range(9)]
    where = [f"h{host}.node.dc1.consul. A 10.0.0.{host}" for host in range(9)]

    def shuffled(query: Message) -> Sequence[bytes]:
        random.shuffle(lines)
        made = dns.message.make_response(query)
        made.answer.append(dns.rrset.from_text(NAME, 0, "IN", "SRV", *lines))
        made.additional += dns.message.from_wire(answer(query, additional=where)).additional
        return [made.to_wire()]

    with serving(shuffled) as server:
        first = peers(server)
        assert len(first) == 18
        assert all(peers(server) == first for _ in range(3))


@pytest.mark.parametrize(
    ("host", "node"),
    [
        ("a.node.dc1.consul", "a"),
        ("a.node.consul", "a"),
        ("a.b.node.dc1.consul", "a.b"),
        ("0a000001.addr.dc1.consul", ""),
        ("a.node.example", ""),
    ],
)
def test_the_node_is_told_where_the_name_has_it(host: str, node: str) -> None:
    with serving(records(f"{NAME} SRV 1 1 1 {host}.", additional=[f"{host}. A 10.0.0.1"])) as server:
        assert [peer.node for peer in peers(server)] == [node]


@pytest.mark.parametrize(
    ("tag", "name", "dc", "named"),
    [
        (None, "a b", None, "'a b'"),
        (None, "wëb", None, "'wëb'"),
        (None, "a" * 64, None, "a" * 64),
        ("x..y", "web", None, "''"),
        ("\n", "web", None, r"'\\n'"),
        (None, "web", "d" * 64, "d" * 64),
        (".".join(["t" * 60] * 5), "web", None, "255"),
        ("blue", "geo.query", "dc2", r"'geo\.query' is a prepared query.*tag='blue'"),
        ("blue", "_web._tcp", None, r"'_web\._tcp' is a name with its tag.*tag='blue'"),
    ],
)
def test_what_cannot_be_in_a_name_is_pointed_out(tag: str | None, name: str, dc: str | None, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Resolver([("127.0.0.1", 1)]).peers(name, tag, dc)


def test_a_peer_cannot_be_changed_and_reads_as_address_and_port() -> None:
    with pytest.raises(AttributeError):
        FOUND.port = 1
    assert str(FOUND) == "10.0.0.1:8000"
    assert len({FOUND, Peer("h1.node.dc1.consul", "10.0.0.1", 8000, "h1")}) == 1


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(2, 150), st.integers(0, 255)), max_size=4), st.integers(0, 60))
def test_no_answer_however_broken_is_a_crash(changes: list[tuple[int, int]], cut: int) -> None:
    def broken(query: Message) -> Sequence[bytes]:
        wire = bytearray(answer(query, SRV, additional=[A]))
        for place, value in changes:
            wire[2 + (place - 2) % (len(wire) - 2)] = value
        return [bytes(wire[: len(wire) - cut])]

    with serving(broken) as server:
        try:
            peers(server, timeout=0.02)
        except Unavailable:
            pass


def test_a_record_of_another_class_is_no_instance() -> None:
    def chaos(query: Message) -> Sequence[bytes]:
        wire = answer(query, SRV, additional=[A])
        question, rest = wire[:36], wire[36:]
        return [question + rest.replace(b"\x00\x21\x00\x01", b"\x00\x21\x00\x03")]

    with serving(chaos) as server:
        assert peers(server) == []
