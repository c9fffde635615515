"""A DNS server on loopback, over UDP, for answers that a real Consul cannot be made to give."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import dns.message
import dns.rdatatype
import dns.rrset
from dns.message import Message

from testing.consul import LOOPBACK, free_ports

Reply = Callable[[Message], Sequence[bytes]]


def answer(query: Message, *lines: str, additional: Sequence[str] = ()) -> bytes:
    """An answer with those of `lines` ("NAME TYPE DATA") that the question is about."""
    made, asked = dns.message.make_response(query), query.question[0]
    for line in lines:
        rrset = _rrset(line)
        if (rrset.name, rrset.rdtype) == (asked.name, asked.rdtype):
            made.answer.append(rrset)
    made.additional += [_rrset(line) for line in additional]
    return made.to_wire()


def _rrset(line: str) -> dns.rrset.RRset:
    name, kind, data = line.split(" ", 2)
    return dns.rrset.from_text(name, 0, "IN", kind, data)


def records(*lines: str, additional: Sequence[str] = ()) -> Reply:
    return lambda query: [answer(query, *lines, additional=additional)]


def silent(query: Message) -> Sequence[bytes]:
    return []


class Server:
    """Answers by `reply`, at the address `at`; `asked`: the types of record that were asked for."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.asked = reply, list[str]()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((LOOPBACK, *free_ports(1)))  # its number has to be free for TCP, too
        self.at: tuple[str, int] = self.socket.getsockname()

    def serve(self) -> None:
        while packet := self.socket.recvfrom(65535):
            wire, client = packet
            if not wire:
                return
            query = dns.message.from_wire(wire)
            self.asked.append(dns.rdatatype.to_text(query.question[0].rdtype))
            for reply in self.reply(query):
                self.socket.sendto(reply, client)


@contextlib.contextmanager
def serving(reply: Reply) -> Iterator[Server]:
    server = Server(reply)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", server.at)
        thread.join(5)
        server.socket.close()
