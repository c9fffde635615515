"""Faults that a real Consul cannot be made to show, put between svcinit and a real one."""

from __future__ import annotations

import contextlib
import pathlib
import platform
import socket
import threading
from collections.abc import Iterator

FAKETIME = pathlib.Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketime.so.1")
DRIBBLE = 0.05  # seconds between two bytes: any timeout for a single read is content with that
LATE = 10.0  # seconds
HUGE = 50 << 20  # bytes
FAULTS = "dribble", "half", "garbage", "other", "huge", "late"


class Between:
    """Passes connections on to `target`; with a `fault` it answers each request with that instead.

    dribble: byte by byte and never to an end; half: the beginning of an answer; garbage: what is no JSON; other: JSON
    of another shape; huge: 50 MB; late: the real answer after 10 s.
    """

    def __init__(self, target: tuple[str, int], address: str = "127.0.0.1") -> None:
        self.target = target
        self._fault = ""
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((address, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def fault(self) -> str:
        return self._fault

    @fault.setter
    def fault(self, name: str) -> None:
        """From now on, on connections that are open too: those are cut."""
        assert name in ("", *FAULTS)
        self._fault = name
        for channel in list(self._open):
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closing.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closing.is_set():
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        try:
            with client, contextlib.suppress(OSError):
                if self._fault == "late":
                    self._closing.wait(LATE)
                if self._fault in ("", "late"):
                    self._pass_on(client)
                else:
                    self._spoil(client)
        finally:
            self._open.discard(client)

    def _pass_on(self, client: socket.socket) -> None:
        with socket.create_connection(self.target) as server:
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join(5)

    def _spoil(self, client: socket.socket) -> None:
        client.recv(65536)
        if self._fault == "dribble":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not self._closing.wait(DRIBBLE):
                client.sendall(b" ")
        elif self._fault == "half":
            client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{"Key": "con')
        elif self._fault == "garbage":
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>...")
        elif self._fault == "other":
            client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n{"Service": [7], "Checks": 42}')
        elif self._fault == "huge":
            client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {HUGE + 2}\r\n\r\n[".encode())
            for _ in range(HUGE >> 16):
                client.sendall(b" " * (1 << 16))
            client.sendall(b"]")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def between(target: tuple[str, int], address: str = "127.0.0.1") -> Iterator[Between]:
    made = Between(target, address)
    try:
        yield made
    finally:
        made.close()
