"""Peers over Consul's DNS (RFC 1035, 2782, 6891): SRV with its additional section, A where there is no SRV.

dnspython encodes and decodes; the two socket calls around it are our own, since dns.query alone costs a start 30 ms
of imports. Consul trims what it sends over UDP, and unless dns_config.enable_truncate is set it does not say so: to 3
answers without EDNS (dns_config.udp_answer_limit), to what fits (about 67 in 4096 bytes) with it. So UDP is not
believed as soon as an answer may have been trimmed: then the question is asked again over TCP, which brings all up to
64 KiB, some 950 instances with an address each. A forwarder keeps trimmed answers that have a time to live, and gives
them over TCP, too: so at its port 53 TCP comes first. What others asked it over UDP only enable_truncate keeps whole.
"""

from __future__ import annotations

import socket
import time

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from svcinit.agent.consul.stats import ERROR, RequestStats
from svcinit.errors import ConfigError, Unavailable
from svcinit.names import LABEL, endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dns.message import Message
    from dns.name import Name
    from dns.rdatatype import RdataType
    from dns.rrset import RRset

PAYLOAD = 4096  # bytes we take over UDP (EDNS0)
UDP_LIMIT = 3  # Consul's own limit of answers over UDP (dns_config.udp_answer_limit): at it, some may be missing
LENGTH = 2  # bytes of length before a message over TCP (RFC 1035, 4.2.2)
FORWARDER = 53  # the port at which other servers than Consul's agents listen
EDNS, NO_EDNS = 0, -1  # versions, as dnspython counts them
QUERY = ".query"  # how the name of a prepared query ends, as in Consul's DNS
TRIES = 2  # rounds over all servers
NO_SUCH_HOST = socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)
SRV, A, AAAA = dns.rdatatype.SRV, dns.rdatatype.A, dns.rdatatype.AAAA


class Peer:
    """One instance: `host` as DNS names it, IP `address`, `port` (0 if only an address is known), Consul `node`.

    Cannot be changed. Sorts by address, port, host.
    """

    __slots__ = ("address", "host", "node", "port")
    host: str
    address: str
    port: int
    node: str

    def __init__(self, host: str, address: str, port: int, node: str) -> None:
        for name, value in (("host", host), ("address", address), ("port", port), ("node", node)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Peer cannot be changed: {name}")

    def __str__(self) -> str:
        return endpoint(self.address, self.port)

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

    `timeout`: seconds for one question over UDP, all servers together; TCP may take as long again.
    """

    def __init__(self, servers: Sequence[tuple[str, int]], domain: str = "consul", timeout: float = 2.0) -> None:
        self._servers, self._domain, self._timeout = list(servers), domain.strip("."), timeout
        self.stats = RequestStats()

    def peers(self, name: str, tag: str | None = None, dc: str | None = None) -> list[Peer]:
        """The healthy instances of a service, each once, sorted by address and port; none: an empty list.

        `name` may be TAG.NAME, as in consul-template, _NAME._TAG (RFC 2782), or QUERY.query for a prepared query. An
        instance that certainly has no address is left out.
        Raises Unavailable when no server answers usefully, ConfigError for what cannot be a name in DNS.
        """
        question = question_for(name, tag, dc, self._domain)
        found = self._services(question)
        if found is None:
            addresses = self._addresses(question)
            # once more: what was registered between the two questions has a port
            found = self._services(question) if addresses else set()
            if found is None:
                found = {Peer(address, address, 0, "") for address in addresses}
        return sorted(found)

    def _services(self, question: Name) -> set[Peer] | None:
        """The instances in SRV records; None where there is no such record."""
        answer = self._ask(question, SRV)
        known = {
            rrset.name: sorted(rdata.address for rdata in rrset)
            for kind in (AAAA, A)  # A last: it counts where a target has both
            for rrset in _of_kind(answer.additional, kind)
        }
        records = [rdata for rrset in _of_kind(answer.answer, SRV) for rdata in rrset]
        if not records:
            return None
        found: set[Peer] = set()
        for record in records:
            if record.target not in known:
                known[record.target] = self._target(record.target)
            host = record.target.to_text(omit_final_dot=True)
            found |= {Peer(host, address, record.port, self._node(host)) for address in known[record.target][:1]}
        return found

    def _node(self, host: str) -> str:
        """NODE of a target NODE.node[.DC].DOMAIN, else empty."""
        node, found, rest = host.removesuffix(f".{self._domain}").partition(".node")
        return node if found and host.endswith(f".{self._domain}") and rest.count(".") <= 1 else ""

    def _target(self, target: Name) -> list[str]:
        """The addresses of an SRV record's target that came without.

        A service may be registered by a host name (a hosted database, say). Consul without `recursors` answers
        REFUSED for that, so then it is looked up as the service itself would: by this host's own resolver.
        """
        if target == dns.name.root:  # "decidedly not available" (RFC 2782)
            return []
        host = target.to_text(omit_final_dot=True)
        try:
            found = self._addresses(target)
        except Unavailable:
            if host.endswith(f".{self._domain}"):
                raise
            found = []
        return found if found or host.endswith(f".{self._domain}") else _by_this_host(host)

    def _addresses(self, name: Name) -> list[str]:
        for kind in (A, AAAA):
            answer = self._ask(name, kind)
            found = {rdata.address for rrset in _of_kind(answer.answer, kind) for rdata in rrset}
            if found:
                return sorted(found)
        return []

    def _ask(self, name: Name, kind: RdataType) -> Message:
        """The first useful answer: NOERROR or NXDOMAIN. A dead server costs its share of the time, and only once."""
        share = self._timeout / (TRIES * len(self._servers))
        troubles = []
        for _ in range(TRIES):
            for server in list(self._servers):
                try:
                    with self.stats.one(f"DNS {dns.rdatatype.to_text(kind)}") as request:
                        answer = _answer(name, kind, server, share)
                        request.outcome = ERROR
                        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                            raise Unavailable(f"says {dns.rcode.to_text(answer.rcode())}")
                        return answer
                except (OSError, EOFError, UnicodeError, dns.exception.DNSException, Unavailable) as error:
                    troubles.append(f"{endpoint(*server)} {_why(error)}")
                    self._put_last(server)
        said = ", ".join(dict.fromkeys(troubles))
        told = f"DNS gives no answer for {name.to_text(True)}: {said} (SVCINIT_DNS_ADDR)"
        raise Unavailable(told, variable="SVCINIT_DNS_ADDR")

    def _put_last(self, server: tuple[str, int]) -> None:
        self._servers.remove(server)
        self._servers.append(server)


def question_for(name: str, tag: str | None, dc: str | None, domain: str) -> Name:
    """What to ask DNS for. Raises ConfigError for what cannot be asked."""
    stem = name.removesuffix(QUERY)
    if tag and (stem != name or name.startswith("_")):
        what = "a prepared query: it has tags of its own" if stem != name else "a name with its tag (RFC 2782)"
        raise ConfigError(f"{name!r} is {what}, so tag={tag!r} cannot be asked for")
    labels = [stem, "query", dc, domain] if stem != name else [tag, name, "service", dc, domain]
    return _name(".".join(label for label in labels if label))


def name_and_tag(name: str, tag: str | None) -> tuple[str, str]:
    """The service, and the tag (empty: any), of NAME or TAG.NAME and a tag beside it."""
    *tags, name = name.split(".")
    return name, ".".join([tag, *tags] if tag else tags)


def _name(text: str) -> Name:
    parts = text.split(".")
    for part in parts:
        if not 0 < len(part) <= LABEL or not part.isascii() or not part.isprintable() or " " in part:
            raise ConfigError(
                f"{text!r} cannot be a name in DNS: {part!r} has to be 1 to {LABEL} ASCII characters, no space"
            )
    try:
        return dns.name.Name([*(part.encode() for part in parts), b""])
    except dns.exception.DNSException as error:
        raise ConfigError(f"{text!r} cannot be a name in DNS: {error}") from None


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, OSError):
        return str(error.strerror or error)
    if isinstance(error, Unavailable):
        return str(error)
    return "is no host name" if isinstance(error, UnicodeError) else "sends what is no answer"


def _of_kind(section: Sequence[RRset], kind: RdataType) -> list[RRset]:
    return [rrset for rrset in section if rrset.rdtype == kind and rrset.rdclass == dns.rdataclass.IN]


def _by_this_host(host: str) -> list[str]:
    """Addresses of a host, IPv4 first, by the system's resolver and in its time. Raises Unavailable."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:
        return []
    except socket.gaierror as error:
        if error.errno in NO_SUCH_HOST:
            return []
        raise Unavailable(f"{host}, where an instance should be, cannot be looked up now: {error.strerror}") from None
    return sorted({str(entry[4][0]) for entry in found}, key=lambda address: (":" in address, address))


def _answer(name: Name, kind: RdataType, server: tuple[str, int], seconds: float) -> Message:
    """What one server says; without EDNS if it does not know that (RFC 6891, 7)."""
    exchange = _exchange_with_forwarder if server[1] == FORWARDER and kind == SRV else _exchange
    answer = exchange(_question(name, kind, EDNS), server, seconds)
    if answer.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP):
        answer = exchange(_question(name, kind, NO_EDNS), server, seconds)
    return answer


def _question(name: Name, kind: RdataType, edns: int) -> Message:
    query = dns.message.make_query(name, kind, use_edns=edns, payload=PAYLOAD)
    query.flags |= dns.flags.RD
    return query


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


def _exchange_with_forwarder(query: Message, server: tuple[str, int], seconds: float) -> Message:
    """Over TCP, since our own UDP would fill its cache with a trimmed answer; over UDP where TCP brings none."""
    try:
        return _over_tcp(query, server, time.monotonic() + seconds)
    except (OSError, EOFError, dns.exception.DNSException):
        answer = _over_udp(query, server, time.monotonic() + seconds)
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
