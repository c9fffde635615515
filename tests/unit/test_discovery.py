"""What DNS servers do wrong, on loopback, and what comes of it. Consul's own answers are in tests/e2e."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from dns.message import Message

from svcinit import log
from svcinit.agent.consul.discovery import TRIES, Peer, Resolver
from svcinit.errors import ConfigError, Unavailable
from testing.consul import LOOPBACK, free_ports
from testing.hurry import hurried

LONG = 20.0  # seconds for one question, where a server is silent: `hurried` has it cost a moment
ENDLESS = 3600.0  # seconds, of which no test may see any share pass

Packets = Callable[[Message], list[bytes]]  # what a server sends back over UDP
Stream = Callable[[Message, socket.socket], None]  # what it does with a connection


class Server:
    """A DNS server on the same port for UDP and TCP; `over_tcp`: how many questions came by connection."""

    def __init__(self, packets: Packets, stream: Stream | None) -> None:
        self._packets, self._stream = packets, stream
        self.over_udp = self.over_tcp = 0
        self._udp, self._tcp = _pair_of_sockets()
        self.address = (LOOPBACK, int(self._udp.getsockname()[1]))
        if stream is None:
            self._tcp.close()
        else:
            threading.Thread(target=self._serve_tcp, daemon=True).start()
        threading.Thread(target=self._serve_udp, daemon=True).start()

    def close(self) -> None:
        for listener in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, client = self._udp.recvfrom(65535)
                if not wire:  # closed
                    return
                self.over_udp += 1
                for packet in self._packets(dns.message.from_wire(wire)):
                    self._udp.sendto(packet, client)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._tcp.accept()
                self.over_tcp += 1
                threading.Thread(target=self._converse, args=(client,), daemon=True).start()

    def _converse(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            length = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
            question = dns.message.from_wire(client.recv(length, socket.MSG_WAITALL))
            assert self._stream
            self._stream(question, client)


def _pair_of_sockets() -> tuple[socket.socket, socket.socket]:
    tcp = socket.create_server((LOOPBACK, *free_ports(1)))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(tcp.getsockname())
    return udp, tcp


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(packets, stream): a server that answers so; without `stream` it takes no connections."""
    with contextlib.ExitStack() as stack:

        def start(packets: Packets, stream: Stream | None = None) -> Server:
            server = Server(packets, stream)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """The address of a server that takes every question and answers none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((LOOPBACK, 0))
        yield listener.getsockname()


@pytest.fixture
def refusing() -> tuple[str, int]:
    """An address on which nobody listens."""
    (port,) = free_ports(1)
    return LOOPBACK, port


def answer(question: Message, count: int, *, flags: int = 0) -> Message:
    """SRV records for `count` instances, 10.0.0.1 and up, with their addresses."""
    made = dns.message.make_response(question)
    made.flags |= flags
    name = question.question[0].name
    for n in range(1, count + 1):
        host = f"host{n}.node.dc1.consul." if n < 100 else f"{n}.a.b."
        made.answer.append(dns.rrset.from_text(name, 0, "IN", "SRV", f"1 1 {8000 + n} {host}"))
        made.additional.append(dns.rrset.from_text(host, 0, "IN", "A", f"10.0.{n >> 8}.{n & 255}"))
    return made


def instances(count: int, *, flags: int = 0) -> Packets:
    return lambda question: [answer(question, count, flags=flags).to_wire()]


def failing(rcode: dns.rcode.Rcode) -> Packets:
    def packets(question: Message) -> list[bytes]:
        made = dns.message.make_response(question)
        made.set_rcode(rcode)
        return [made.to_wire()]

    return packets


def framed(wire: bytes) -> bytes:
    return len(wire).to_bytes(2, "big") + wire


def instances_over_tcp(count: int) -> Stream:
    return lambda question, client: client.sendall(framed(answer(question, count).to_wire(max_size=65535)))


def until_closed(client: socket.socket) -> None:
    """Keep the connection and say no more, until the other end gives up."""
    while client.recv(4096):
        pass


def ports(peers: list[Peer]) -> list[int]:
    return [peer.port for peer in peers]


def expected(count: int) -> list[int]:
    return [8000 + n for n in range(1, count + 1)]


# what UDP leaves out


def test_an_answer_marked_as_truncated_is_fetched_whole_over_tcp(serve: Serve) -> None:
    server = serve(instances(1, flags=dns.flags.TC), instances_over_tcp(5))
    assert ports(Resolver([server.address]).peers("web")) == expected(5)
    assert server.over_tcp == 1


def test_an_answer_of_three_is_fetched_whole_over_tcp_though_nothing_marks_it(serve: Serve) -> None:
    server = serve(instances(3), instances_over_tcp(9))
    assert ports(Resolver([server.address]).peers("web")) == expected(9)


def test_an_answer_of_two_needs_no_connection(serve: Serve) -> None:
    server = serve(instances(2), instances_over_tcp(9))
    assert ports(Resolver([server.address]).peers("web")) == expected(2)
    assert (server.over_udp, server.over_tcp) == (1, 0)


def test_where_tcp_is_closed_an_answer_of_three_counts_as_whole(serve: Serve) -> None:
    server = serve(instances(3))
    assert ports(Resolver([server.address]).peers("web")) == expected(3)


def test_where_tcp_is_closed_a_truncated_answer_is_no_answer(serve: Serve) -> None:
    server = serve(instances(2, flags=dns.flags.TC))
    with pytest.raises(Unavailable, match=rf"web\.service\.consul: {LOOPBACK}:{server.address[1]} Connection refused"):
        Resolver([server.address]).peers("web")


def test_a_truncated_answer_cut_within_a_record_is_fetched_whole_over_tcp(serve: Serve) -> None:
    server = serve(lambda question: [answer(question, 2, flags=dns.flags.TC).to_wire()[:-5]], instances_over_tcp(5))
    assert ports(Resolver([server.address]).peers("web")) == expected(5)


def test_a_server_name_that_cannot_be_one_is_told() -> None:
    with pytest.raises(Unavailable, match=r"a\.\.b:53 is no host name \(SVCINIT_DNS_ADDR\)"):
        Resolver([("a..b", 53)]).peers("web")


def test_a_tcp_answer_that_ends_in_the_middle_is_no_answer(serve: Serve) -> None:
    def half(question: Message, client: socket.socket) -> None:
        client.sendall(framed(answer(question, 5).to_wire())[:60])

    server = serve(instances(1, flags=dns.flags.TC), half)
    with pytest.raises(Unavailable, match="sends what is no answer"):
        Resolver([server.address]).peers("web")


def test_a_tcp_answer_that_stalls_in_the_middle_costs_bounded_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stall(question: Message, client: socket.socket) -> None:
        client.sendall(framed(answer(question, 5).to_wire())[:60])
        until_closed(client)

    server = serve(instances(1, flags=dns.flags.TC), stall)
    allowed = hurried(monkeypatch, "_over_tcp", server.address)
    with pytest.raises(Unavailable, match="does not answer"):
        Resolver([server.address], timeout=LONG).peers("web")
    assert max(allowed) <= LONG  # UDP's half, and as much again


def test_a_tcp_answer_that_dribbles_costs_bounded_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = threading.Event()

    def dribble(question: Message, client: socket.socket) -> None:
        for byte in framed(answer(question, 50).to_wire()):
            client.sendall(bytes([byte]))
            if gone.wait(0.01):
                return

    server = serve(instances(1, flags=dns.flags.TC), dribble)
    allowed = hurried(monkeypatch, "_over_tcp", server.address)
    with pytest.raises(Unavailable, match="does not answer"):
        Resolver([server.address], timeout=LONG).peers("web")
    gone.set()
    assert max(allowed) <= LONG


def test_a_tcp_answer_to_another_question_is_not_believed(serve: Serve) -> None:
    def other(question: Message, client: socket.socket) -> None:
        client.sendall(framed(answer(dns.message.make_query("db.service.consul", "SRV"), 5).to_wire()))

    server = serve(instances(1, flags=dns.flags.TC), other)
    with pytest.raises(Unavailable, match="sends what is no answer"):
        Resolver([server.address]).peers("web")


# what else arrives


def test_garbage_before_the_answer_is_passed_over(serve: Serve) -> None:
    garbage = [b"", b"\0", b"\xff" * 12, b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(range(256))]
    server = serve(lambda question: [*garbage, answer(question, 2).to_wire()])
    assert ports(Resolver([server.address]).peers("web")) == expected(2)
    assert server.over_udp == 1


def test_answers_with_a_foreign_id_or_question_are_passed_over(serve: Serve) -> None:
    def packets(question: Message) -> list[bytes]:
        stale = answer(question, 9)
        stale.id = question.id ^ 1
        foreign = answer(dns.message.make_query("db.service.consul", "SRV", id=question.id), 9)
        return [stale.to_wire(), foreign.to_wire(), question.to_wire(), answer(question, 1).to_wire()]

    server = serve(packets)
    assert ports(Resolver([server.address]).peers("web")) == expected(1)


def test_nothing_but_a_foreign_id_is_no_answer_after_bounded_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packets(question: Message) -> list[bytes]:
        stale = answer(question, 9)
        stale.id = question.id ^ 1
        return [stale.to_wire()]

    server = serve(packets)
    allowed = hurried(monkeypatch, "_over_udp", server.address)
    with pytest.raises(Unavailable, match=f"{LOOPBACK}:{server.address[1]} does not answer"):
        Resolver([server.address], timeout=LONG).peers("web")
    assert max(allowed) <= LONG / TRIES


# servers that are away


def test_a_silent_first_server_costs_its_share_of_the_time_and_no_more(
    serve: Serve, silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(instances(2))
    allowed = hurried(monkeypatch, "_over_udp", silent)
    assert ports(Resolver([silent, server.address], timeout=LONG).peers("web")) == expected(2)
    assert len(allowed) == 1
    assert max(allowed) <= LONG / (2 * TRIES)


def test_a_refusing_first_server_costs_nothing(serve: Serve, refusing: tuple[str, int]) -> None:
    server = serve(instances(2))
    assert ports(Resolver([refusing, server.address], timeout=ENDLESS).peers("web")) == expected(2)


def test_an_answer_is_taken_in_the_second_round_when_the_first_packet_was_lost(serve: Serve) -> None:
    lost: list[Message] = []

    def packets(question: Message) -> list[bytes]:
        lost.append(question)
        return instances(2)(question) if len(lost) > 1 else []

    assert ports(Resolver([serve(packets).address]).peers("web")) == expected(2)


def test_where_no_server_answers_each_is_named_once_with_what_ails_it(
    serve: Serve, silent: tuple[str, int], refusing: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = serve(failing(dns.rcode.SERVFAIL))
    allowed = hurried(monkeypatch, "_over_udp", silent)
    with pytest.raises(Unavailable) as caught:
        Resolver([silent, refusing, failed.address], timeout=LONG).peers("web", tag="blue", dc="dc2")
    assert max(allowed) <= LONG / (3 * TRIES)
    assert str(caught.value) == (
        f"DNS gives no answer for blue.web.service.dc2.consul: {LOOPBACK}:{silent[1]} does not answer, "
        f"{LOOPBACK}:{refusing[1]} Connection refused, {LOOPBACK}:{failed.address[1]} says SERVFAIL (SVCINIT_DNS_ADDR)"
    )


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_a_server_that_fails_is_no_empty_answer(serve: Serve, rcode: dns.rcode.Rcode) -> None:
    server = serve(failing(rcode))
    said = f"{LOOPBACK}:{server.address[1]} says {dns.rcode.to_text(rcode)}"
    with pytest.raises(Unavailable, match=said):
        Resolver([server.address]).peers("web")


def test_after_a_server_that_fails_the_next_is_asked(serve: Serve) -> None:
    first, second = serve(failing(dns.rcode.SERVFAIL)), serve(instances(2))
    assert ports(Resolver([first.address, second.address]).peers("web")) == expected(2)


def test_a_name_that_does_not_exist_has_no_instances(serve: Serve, silent: tuple[str, int]) -> None:
    server = serve(failing(dns.rcode.NXDOMAIN))
    assert Resolver([server.address, silent]).peers("web") == []


# odd but sound answers


def test_a_target_without_its_address_in_the_answer_is_asked_for(serve: Serve) -> None:
    def packets(question: Message) -> list[bytes]:
        made = dns.message.make_response(question)
        name, kind = question.question[0].name, question.question[0].rdtype
        if kind == dns.rdatatype.SRV:
            made.answer.append(dns.rrset.from_text(name, 0, "IN", "SRV", "1 1 8001 elsewhere.example."))
        elif kind == dns.rdatatype.A and name.to_text() == "elsewhere.example.":
            made.answer.append(dns.rrset.from_text(name, 0, "IN", "A", "192.0.2.7"))
        return [made.to_wire()]

    assert Resolver([serve(packets).address]).peers("web") == [Peer("elsewhere.example", "192.0.2.7", 8001, "")]


def test_where_there_is_no_srv_the_addresses_count_and_the_port_is_unknown(serve: Serve) -> None:
    def packets(question: Message) -> list[bytes]:
        made = dns.message.make_response(question)
        if question.question[0].rdtype == dns.rdatatype.A:
            made.answer.append(dns.rrset.from_text(question.question[0].name, 0, "IN", "A", "10.0.0.2", "10.0.0.1"))
        return [made.to_wire()]

    found = Resolver([serve(packets).address]).peers("web")
    assert [(peer.address, peer.port, peer.node) for peer in found] == [("10.0.0.1", 0, ""), ("10.0.0.2", 0, "")]


def test_an_ipv6_instance_is_written_with_brackets(serve: Serve) -> None:
    def packets(question: Message) -> list[bytes]:
        made = dns.message.make_response(question)
        name = question.question[0].name
        made.answer.append(dns.rrset.from_text(name, 0, "IN", "SRV", "1 1 8001 six.node.dc1.consul."))
        made.additional.append(dns.rrset.from_text("six.node.dc1.consul.", 0, "IN", "AAAA", "fd00::7"))
        return [made.to_wire()]

    (peer,) = Resolver([serve(packets).address]).peers("web")
    assert (str(peer), peer.node) == ("[fd00::7]:8001", "six")


@pytest.mark.parametrize("name", ["a" * 64, "a..b", ".", ".web", "web.", ".".join(["a" * 60] * 4)])
def test_what_cannot_be_a_name_is_told_before_any_server_is_asked(serve: Serve, name: str) -> None:
    server = serve(instances(1))
    with pytest.raises(ConfigError, match="cannot be a name in DNS"):
        Resolver([server.address]).peers(name)
    assert server.over_udp == 0


# answers that may lack instances


def by_health(count: int) -> Callable[[object], list[Peer]]:
    return lambda _question: [Peer(f"h{n}", f"10.0.0.{n % 250}", 8000 + n, "") for n in range(count)]


def test_where_tcp_is_closed_the_health_api_completes_an_answer_that_may_lack_instances(serve: Serve) -> None:
    resolver = Resolver([serve(instances(3)).address], health=by_health(9))
    assert len(resolver.peers("web")) == 9


def test_where_tcp_is_closed_and_the_health_api_shows_fewer_there_is_a_warning(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    log.configure("info", "json")
    assert len(Resolver([serve(instances(3)).address], health=by_health(0)).peers("web")) == 3
    line = json.loads(capfd.readouterr().err)
    assert (line["event"], line["level"], line["service"], line["dns"]) == ("peers_maybe_missing", "warning", "web", 3)


def test_a_full_answer_over_tcp_is_never_used(serve: Serve) -> None:
    server = serve(instances(3), instances_over_tcp(1024))
    assert len(Resolver([server.address], health=by_health(1500)).peers("web")) == 1500
    for health in (None, by_health(0), by_health(1023)):
        with pytest.raises(Unavailable, match="DNS gave only 1024 instances of web"):
            Resolver([server.address], health=health).peers("web")


def test_an_answer_over_tcp_with_room_left_is_all(serve: Serve) -> None:
    def never(_question: object) -> list[Peer]:
        raise AssertionError

    assert len(Resolver([serve(instances(3), instances_over_tcp(500)).address], health=never).peers("web")) == 500
