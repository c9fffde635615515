"""Peers over Consul's DNS (RFC 1035, 2782, 6891): SRV with its additional section, A where there is no SRV.

dnspython encodes and decodes the messages. The socket calls are here, because the import of dns.query takes 30 ms.

Consul trims its answers, and says so (TC) only with dns_config.enable_truncate. Over UDP it trims to 3 answers without
EDNS (dns_config.udp_answer_limit) and to the payload with EDNS (about 67 answers in 4096 bytes); so the question is
asked again over TCP if an answer over UDP is possibly trimmed. Over TCP Consul trims to 64 KiB, some 900 instances,
chosen at random. An answer that is possibly still trimmed is not used: the health API gives all instances.

A forwarder keeps a trimmed answer in its cache and returns it over TCP too. Therefore TCP comes first at port 53.
"""

from __future__ import annotations

import enum
import socket
import time
from typing import TYPE_CHECKING

from svcinit.agent.consul import dnspython  # noqa: F401

# isort: split
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from svcinit import log
from svcinit.agent.consul.stats import ERROR, RequestStats
from svcinit.errors import ConfigError, SvcinitError, Unavailable
from svcinit.names import LABEL, endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dns.message import Message
    from dns.name import Name
    from dns.rdatatype import RdataType
    from dns.rrset import RRset

    Question = tuple[str, str | None, str | None]
    Answer = tuple[Message, "Extent"]

PAYLOAD = 4096  # bytes that we accept over UDP (EDNS0)
UDP_LIMIT = 3  # Consul's own limit of answers over UDP (dns_config.udp_answer_limit): with so many, some may be missing
TCP_LIMIT = 60_000  # bytes: Consul trims to 65,523 (agent/dns.go), by whole answers; with so many, some may be missing
TCP_ANSWERS = 1024  # Consul's own limit of SRV records over TCP (agent/dns.go)
MAPPED = b"\0" * 10 + b"\xff\xff"  # how an IPv6 address begins that is an IPv4 address (RFC 4291, 2.5.5.2)
LENGTH = 2  # bytes of length before a message over TCP (RFC 1035, 4.2.2)
DOMAIN = "consul"  # of agents whose `domain` is not set
FORWARDER = 53  # the port of servers that are not Consul's agents
EDNS, NO_EDNS = 0, -1  # versions, as dnspython counts them
QUERY = ".query"  # the end of the name of a prepared query, as in Consul's DNS
TRIES = 2  # rounds over all servers
NO_SUCH_HOST = socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)
SRV, A, AAAA = dns.rdatatype.SRV, dns.rdatatype.A, dns.rdatatype.AAAA


class Peer:
    """One instance: `host` as DNS names it, IP `address`, `port` (0 if only an address is known), Consul `node`.

    `host` and `node` are in lower case: names in DNS have no case, and forwarders may change it. Cannot be changed.
    Sorts by address, port, host.
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


class Extent(enum.Enum):
    """Can instances be missing in an answer?"""

    WHOLE = enum.auto()
    MAYBE_WHOLE = enum.auto()  # over UDP, when TCP fails: 3 or more records can be all or a part
    TRIMMED = enum.auto()


class Trimmed(Exception):
    """An answer lacks instances, or possibly does: it has `count`. `peers`: these, if they are possibly all."""

    def __init__(self, count: int, peers: list[Peer] | None) -> None:
        super().__init__(count)
        self.count, self.peers = count, peers


class Resolver:
    """Asks `servers` (host, port), in order, about services in `domain`.

    `timeout`: seconds for one question over UDP, all servers together; TCP may take as long again. `health`: all
    instances of a question by the health API, for answers that DNS may have trimmed (as health.peers).
    """

    def __init__(
        self, servers: Sequence[tuple[str, int]], domain: str = "consul", timeout: float = 2.0,
        health: Callable[[Question], list[Peer]] | None = None,
    ) -> None:  # fmt: skip
        self._servers, self._domain, self.timeout = list(servers), domain.strip(".").lower(), timeout
        self._health = health
        self.stats = RequestStats()

    def peers(self, name: str, tag: str | None = None, dc: str | None = None) -> list[Peer]:
        """The healthy instances of a service, each once, sorted by address and port; possibly none.

        `name` may be TAG.NAME, as in consul-template, _NAME._TAG (RFC 2782), or QUERY.query for a prepared query. An
        instance that certainly has no address is left out.
        Raises Unavailable when no server answers usefully, or when an answer is trimmed and the health API does not
        answer; ConfigError for a name that DNS cannot have.
        """
        question = question_for(name, tag, dc, self._domain)
        try:
            found = self._services(question)
            if found is None:
                addresses = self._addresses(question)
                # once more: an instance that was registered between the two questions has a port
                found = self._services(question) if addresses else set()
                if found is None:
                    found = {Peer(address, address, 0, "") for address in addresses}
        except Trimmed as trimmed:
            return self._by_health((name, tag, dc), trimmed)
        return sorted(found)

    def _by_health(self, question: Question, trimmed: Trimmed) -> list[Peer]:
        """All instances by the health API, in place of an answer that has room for some of them only."""
        label, problem = ".".join(filter(None, (question[1], question[0]))), "there is no health API here"
        found: list[Peer] = []
        try:
            found = self._health(question) if self._health is not None else []
        except SvcinitError as error:
            problem = str(error)
        else:
            if self._health is not None:
                problem = f"the health API shows {len(found)}: may the token read the service and its nodes?"
        if len(found) >= trimmed.count:
            log.info("peers_by_health", "{service}: DNS gave {dns} instances, as many as fit into its answer; "
                     "the health API gave {health}", service=label, dns=trimmed.count, health=len(found))  # fmt: skip
            return found
        if trimmed.peers is None:
            raise Unavailable(
                f"DNS gave only {trimmed.count} instances of {label}, as many as fit into its answer, and {problem}"
            )
        log.warning("peers_maybe_missing", "{service}: DNS gave {dns} instances, and there may be more: TCP to the DNS "
                    "server fails, and {error}", service=label, dns=trimmed.count, error=problem)  # fmt: skip
        return trimmed.peers

    def _services(self, question: Name) -> set[Peer] | None:
        """The instances in SRV records; None where there is no such record. Raises Trimmed."""
        answer, extent = self._ask(question, SRV)
        found = self._instances(answer)
        if extent is not Extent.WHOLE and found:
            count = sum(map(len, _of_kind(answer.answer, SRV)))
            raise Trimmed(count, sorted(found) if extent is Extent.MAYBE_WHOLE else None)
        return found

    def _instances(self, answer: Message) -> set[Peer] | None:
        known = {
            rrset.name: sorted(canonical(rdata.address) for rdata in rrset)
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
            host, node = self._name_and_node(record.target)
            found |= {Peer(host, address, record.port, node) for address in known[record.target][:1]}
        return found

    def _name_and_node(self, target: Name) -> tuple[str, str]:
        """The host name of an SRV record's target in the domain that was asked, and its node ("": it names none).

        Targets are HEX.addr.DC.DOMAIN and NODE.node.DC.DOMAIN, or the host name of a service. Agents before 1.14 write
        their own domain where an alternative one (alt_domain) was asked.
        """
        host = _text(target)
        labels = host.split(".")
        if labels[1:2] == ["addr"] and _is_hex(labels[0]):
            return ".".join([*labels[:3], self._domain]), ""
        domain = next((each for each in (self._domain, DOMAIN) if host.endswith(f".{each}")), "")
        labels = labels[: -1 - domain.count(".")]
        kinds = [at for at, label in enumerate(labels) if label == "node" and at and len(labels) - at <= 2]
        if not domain or not kinds:
            return host, ""
        return ".".join([*labels, self._domain]), ".".join(labels[: kinds[-1]])

    def _target(self, target: Name) -> list[str]:
        """The addresses of an SRV record's target that came without one.

        A service may be registered by a host name, such as that of a hosted database. Consul without `recursors`
        answers REFUSED for that name; then this host's own resolver looks it up, as the service itself would.
        """
        if target == dns.name.root:  # "decidedly not available" (RFC 2782)
            return []
        host = _text(target)
        try:
            found = self._addresses(target)
        except Unavailable:
            if host.endswith(f".{self._domain}"):
                raise
            found = []
        return found if found or host.endswith(f".{self._domain}") else _by_this_host(host)

    def _addresses(self, name: Name) -> list[str]:
        for kind in (A, AAAA):
            answer, _ = self._ask(name, kind)
            found = {canonical(rdata.address) for rrset in _of_kind(answer.answer, kind) for rdata in rrset}
            if found:
                return sorted(found)
        return []

    def _ask(self, name: Name, kind: RdataType) -> Answer:
        """The first useful answer: NOERROR or NXDOMAIN. A dead server costs its share of the time, and only once."""
        share = self.timeout / (TRIES * len(self._servers))
        errors = []
        for _ in range(TRIES):
            for server in list(self._servers):
                try:
                    with self.stats.one(f"DNS {dns.rdatatype.to_text(kind)}") as request:
                        answer, extent = _answer(name, kind, server, share)
                        request.outcome = ERROR
                        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                            raise Unavailable(f"says {dns.rcode.to_text(answer.rcode())}")
                        return answer, extent
                except (OSError, EOFError, UnicodeError, dns.exception.DNSException, Unavailable) as error:
                    errors.append(f"{endpoint(*server)} {_why(error)}")
                    self._put_last(server)
        problems = ", ".join(dict.fromkeys(errors))
        raise Unavailable(
            f"DNS gives no answer for {name.to_text(True)}: {problems} (SVCINIT_DNS_ADDR)", variable="SVCINIT_DNS_ADDR"
        )

    def _put_last(self, server: tuple[str, int]) -> None:
        self._servers.remove(server)
        self._servers.append(server)


def packed(address: str) -> bytes | None:
    """The 4 or 16 bytes of an IP address, or None. An IPv4 address in IPv6 has 4, as in Consul's DNS."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, address).removeprefix(MAPPED)
        except (OSError, ValueError):  # ValueError: a NUL, or half of a surrogate pair
            continue
    return None


def _is_hex(text: str) -> bool:
    """Is this an IP address in the form that Consul uses in names?"""
    return len(text) in (8, 32) and all(digit in "0123456789abcdef" for digit in text)


def canonical(address: str) -> str:
    """An IP address in the one spelling that DNS gives (RFC 5952); any other text as it is."""
    found = packed(address)
    if found is None:
        return address
    return socket.inet_ntop(socket.AF_INET if len(found) == 4 else socket.AF_INET6, found)


def question_for(name: str, tag: str | None, dc: str | None, domain: str) -> Name:
    """The name to ask DNS for. Raises ConfigError for a name that cannot exist in DNS."""
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


def _text(name: Name) -> str:
    """In lower case and without the final dot, no byte of it escaped."""
    return b".".join(name.labels[:-1]).decode("utf-8", "replace").lower()


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
    """Addresses of a host, IPv4 first, from the system's resolver, with its timeouts. Raises Unavailable."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:
        return []
    except socket.gaierror as error:
        if error.errno in NO_SUCH_HOST:
            return []
        raise Unavailable(f"{host}, where an instance should be, cannot be looked up now: {error.strerror}") from None
    return sorted({str(entry[4][0]) for entry in found}, key=lambda address: (":" in address, address))


def _answer(name: Name, kind: RdataType, server: tuple[str, int], seconds: float) -> Answer:
    """The answer of one server; without EDNS if the server does not know it (RFC 6891, 7)."""
    exchange = _exchange_with_forwarder if server[1] == FORWARDER and kind == SRV else _exchange
    answer, extent = exchange(_question(name, kind, EDNS), server, seconds)
    if answer.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP):
        answer, extent = exchange(_question(name, kind, NO_EDNS), server, seconds)
    return answer, extent


def _question(name: Name, kind: RdataType, edns: int) -> Message:
    query = dns.message.make_query(name, kind, use_edns=edns, payload=PAYLOAD)
    query.flags |= dns.flags.RD
    return query


def _exchange(query: Message, server: tuple[str, int], seconds: float) -> Answer:
    """One question to one server, over TCP too if the answer over UDP may be trimmed."""
    deadline = time.monotonic() + seconds
    answer = _over_udp(query, server, deadline)
    extent = _extent_over_udp(answer)
    if extent is not Extent.WHOLE:
        try:
            return _over_tcp(query, server, deadline + seconds)
        except (OSError, EOFError):
            if extent is Extent.TRIMMED:
                raise
    return answer, extent


def _exchange_with_forwarder(query: Message, server: tuple[str, int], seconds: float) -> Answer:
    """Over TCP first, because our own question over UDP would fill the forwarder's cache with a trimmed answer."""
    try:
        return _over_tcp(query, server, time.monotonic() + seconds)
    except (OSError, EOFError, dns.exception.DNSException):
        answer = _over_udp(query, server, time.monotonic() + seconds)
        extent = _extent_over_udp(answer)
        if extent is Extent.TRIMMED:
            raise
        return answer, extent


def _extent_over_udp(answer: Message) -> Extent:
    if answer.flags & dns.flags.TC:
        return Extent.TRIMMED
    return Extent.WHOLE if _count(answer) < UDP_LIMIT else Extent.MAYBE_WHOLE


def _count(answer: Message) -> int:
    return sum(len(rrset) for rrset in answer.answer)


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
                continue  # not a DNS message: the answer can still come
            if query.is_response(answer):
                return answer


def _over_tcp(query: Message, server: tuple[str, int], deadline: float) -> Answer:
    with socket.create_connection(server, timeout=_left(deadline)) as channel:
        wire = query.to_wire()
        channel.sendall(len(wire).to_bytes(LENGTH, "big") + wire)
        length = int.from_bytes(_receive(channel, LENGTH, deadline), "big")
        answer = dns.message.from_wire(_receive(channel, length, deadline))
    if not query.is_response(answer):
        raise EOFError("not the answer to what was asked")
    is_full = answer.flags & dns.flags.TC or length >= TCP_LIMIT or _count(answer) >= TCP_ANSWERS
    return answer, Extent.TRIMMED if is_full else Extent.WHOLE


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
