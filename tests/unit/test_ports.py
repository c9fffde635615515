"""The ports that tests and the bench give to servers are free."""

from __future__ import annotations

import contextlib
import socket

import pytest

from testing import consul


def bound(port: int, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.bind(("127.0.0.1", port))
    return made


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("beside", [0, 101])
def test_a_port_is_not_given_while_the_port_itself_or_the_one_beside_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, kind: socket.SocketKind, beside: int
) -> None:
    taken, free = consul.free_ports(2, beside=101)
    tried = iter([taken, free])
    monkeypatch.setattr(consul, "_ports", lambda: tried)
    with contextlib.closing(bound(taken + beside, kind)):
        assert consul.free_ports(1, beside=beside) == [free]
    assert list(tried) == []


def test_no_port_is_given_twice_before_all_were_given() -> None:
    first = consul.free_ports(20)
    assert not set(first) & set(consul.free_ports(20))
    assert len(set(first)) == 20
