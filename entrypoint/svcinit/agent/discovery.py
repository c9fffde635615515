"""Peers over Consul's DNS (RFC 1035, 2782, 6891): SRV with its additional section, A where there is no SRV.

dnspython encodes and decodes; the two socket calls around it are our own, since dns.query alone costs a start 30 ms
of imports. Consul trims what it sends over UDP, historically without saying so, so UDP is not believed as soon as an
answer may have been trimmed: then the question is asked again over TCP.
"""

from __future__ import annotations

import socket
import time

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from svcinit.errors import ConfigError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dns.message import Message
    from dns.name import Name

PAYLOAD = 4096  # bytes we take over UDP (EDNS0)
UDP_LIMIT = 3  # Consul's own limit of answers over UDP (dns_config.udp_answer_limit): at it, some may be missing
LENGTH = 2  # bytes of length before a message over TCP (RFC 1035, 4.2.2)
TRIES = 2  # rounds over all servers
SRV, A, AAAA = dns.rdatatype.SRV, dns.rdatatype.A, dns.rdatatype.AAAA


class Peer:
    """One instance: `host` as DNS names it, IP `address`, `port` (0 if only an address is known), Consul `node`."""

    __slots__ = ("address", "host", "node", "port")

    def __init__(self, host: str, address: str, port: int, node: str) -> None:
        self.host, self.address, self.port, self.node = host, address, port, node

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def __repr__(self) -> str:
        return f"Peer({self.host!r}, {self.address!r}, {self.port}, {self.node!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Peer) and self._key() == other._key()

    def __lt__(self, other: Peer) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, int, str]:
        return self.address, self.port, self.host


class Resolver:
    """Asks `servers` (host, port), in order, about services in `domain`.

    `timeout`: seconds for one question over UDP, all servers together; what needs TCP may take as long again.
    """

    def __init__(self, servers: Sequence[tuple[str, int]], domain: str = "consul", timeout: float = 2.0) -> None:
        self._servers, self._domain, self._timeout = list(servers), domain.strip("."), timeout

    def peers(self, name: str, tag: str | None = None, dc: str | None = None) -> list[Peer]:
        """The healthy instances of a service, sorted; none: an empty list.

        Raises Unavailable when no server answers usefully, ConfigError for what cannot be a name in DNS.
        """
        labels = [tag, name, "service", dc, self._domain]
        question = _name(".".join(label for label in labels if label))
        answer = self._ask(question, SRV)
        found = [
            peer for rrset in answer.answer if rrset.rdtype == SRV for rdata in rrset
            for peer in self._targets(rdata.target, rdata.port, answer)
        ]  # fmt: skip
        if not found:
            found = [Peer(address, address, 0, "") for address in self._addresses(question)]
        return sorted(set(found))

    def _targets(self, target: Name, port: int, answer: Message) -> list[Peer]:
        addresses = [
            rdata.address for kind in (A, AAAA) for rrset in answer.additional
            if rrset.rdtype == kind and rrset.name == target for rdata in rrset
        ]  # fmt: skip
        host = target.to_text(omit_final_dot=True)
        node = host.partition(".node.")[0] if ".node." in host else ""
        if not addresses and not host.endswith(self._domain):  # a service registered under a name of the outside world
            addresses = _outside(host)
        return [Peer(host, address, port, node) for address in addresses[:1] or self._addresses(target)[:1]]

    def _addresses(self, name: Name) -> list[str]:
        for kind in (A, AAAA):
            answer = self._ask(name, kind)
            found = [rdata.address for rrset in answer.answer if rrset.rdtype == kind for rdata in rrset]
            if found:
                return sorted(found)
        return []

    def _ask(self, name: Name, kind: dns.rdatatype.RdataType) -> Message:
        """The first useful answer: NOERROR or NXDOMAIN. A dead server costs its share of the time, no more."""
        query = dns.message.make_query(name, kind, use_edns=0, payload=PAYLOAD)
        query.flags |= dns.flags.RD
        share = self._timeout / (TRIES * len(self._servers))
        troubles = []
        for _ in range(TRIES):
            for server in self._servers:
                try:
                    answer = _exchange(query, server, share)
                except (OSError, EOFError, UnicodeError, dns.exception.DNSException) as error:
                    troubles.append(f"{server[0]}:{server[1]} {_why(error)}")
                    continue
                if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    return answer
                troubles.append(f"{server[0]}:{server[1]} says {dns.rcode.to_text(answer.rcode())}")
        said = ", ".join(dict.fromkeys(troubles))
        raise Unavailable(f"DNS gives no answer for {name.to_text(True)}: {said} (SVCINIT_DNS_ADDR)")


def _outside(host: str) -> list[str]:
    """The addresses of a name that is not Consul's, by the machine's own resolver."""
    try:
        return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"the instance registered as {host} has no address: {error}") from None


def _name(text: str) -> Name:
    try:
        return dns.name.from_text(text + ".")
    except dns.exception.DNSException as error:
        raise ConfigError(f"{text!r} cannot be a name in DNS: {error}") from None


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, OSError):
        return str(error.strerror or error)
    if isinstance(error, UnicodeError):  # what getaddrinfo says of a label that is empty or too long
        return "is no host name"
    return "sends what is no answer"


def _exchange(query: Message, server: tuple[str, int], seconds: float) -> Message:
    """One question to one server, over TCP too if UDP may not have told all."""
    deadline = time.monotonic() + seconds
    answer = _over_udp(query, server, deadline)
    if answer.flags & dns.flags.TC or sum(len(rrset) for rrset in answer.answer) >= UDP_LIMIT:
        try:
            answer = _over_tcp(query, server, deadline + seconds)
        except (OSError, EOFError):
            if answer.flags & dns.flags.TC:
                raise
    return answer


def _over_udp(query: Message, server: tuple[str, int], deadline: float) -> Message:
    family, *_, address = socket.getaddrinfo(*server, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        channel.connect(address)  # from here on only this server's packets arrive
        channel.send(query.to_wire())
        while True:
            channel.settimeout(_left(deadline))
            try:
                answer = dns.message.from_wire(channel.recv(65535), ignore_trailing=True, raise_on_truncation=True)
            except dns.message.Truncated as cut:
                answer = cut.message()  # type: ignore[no-untyped-call]
            except dns.exception.DNSException:
                continue  # garbage: the answer may still come
            if query.is_response(answer):
                return answer


def _over_tcp(query: Message, server: tuple[str, int], deadline: float) -> Message:
    with socket.create_connection(server, timeout=_left(deadline)) as channel:
        wire = query.to_wire()
        channel.sendall(len(wire).to_bytes(LENGTH, "big") + wire)
        length = int.from_bytes(_receive(channel, LENGTH, deadline), "big")
        answer = dns.message.from_wire(_receive(channel, length, deadline))
    if not query.is_response(answer):
        raise EOFError("not the answer to what was asked")
    return answer


def _receive(channel: socket.socket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        channel.settimeout(_left(deadline))
        more = channel.recv(count - len(data))
        if not more:
            raise EOFError("the connection ended in the middle of an answer")
        data += more
    return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
