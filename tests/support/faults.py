"""Faults that a real Consul cannot be made to show, between svcinit and a real one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

DRIBBLE = 0.05  # seconds between two bytes: any timeout for a single read is content with that


class Dribbler:
    """Passes connections on to `target`; while `dribbling`, answers byte by byte and never to an end."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.dribbling = threading.Event()
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closing.is_set():
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.dribbling.is_set():
                self._dribble(client)
                return
            with socket.create_connection(self.target) as server:
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join(5)

    def _dribble(self, client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not self._closing.wait(DRIBBLE):
            client.sendall(b" ")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def dribbler(target: tuple[str, int]) -> Iterator[Dribbler]:
    made = Dribbler(target)
    try:
        yield made
    finally:
        made.close()
