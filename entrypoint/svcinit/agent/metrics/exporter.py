"""metrics: answers Prometheus at SVCINIT_METRICS from the state files. A child of init, with one thread.

It talks to no other process, so that no scrape can block init or presence, and it answers even if presence is dead or
hung, and at the container's limit of processes: a server with a thread for each connection (http.server) could not
start one then, and has no limits for connections, time and missing descriptors. If a turn never ends, SIGALRM ends the
process.
"""

from __future__ import annotations

import _signal
import errno
import os
import selectors
import socket
import time
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.consul.backoff import pause_before
from svcinit.errors import EX_OK, ConfigError
from svcinit.names import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.settings.environment import Settings

    Answer = Callable[[str], tuple[str, bytes]]  # from the Accept header (RFC 9110) to the content type and the body

MAX_CONNECTIONS = 16  # for a further one, the oldest is closed
TIME_LIMIT = 10.0  # seconds for a connection, from its first byte to its last
REQUEST_LIMIT = 8192  # bytes
CHUNK = 1 << 16
POLL_INTERVAL = 1.0  # seconds between two checks whether init still runs
OUT_OF_RESOURCES = errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM  # accept(2) would fail again at once
STDERR = 2
WATCHDOG = 60  # seconds for one turn
BIND_BACKOFF = 0.5, 10.0  # seconds between two tries to bind the address
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
PATH, PLAIN = "/metrics", "text/plain; charset=utf-8"
END = b"\r\n\r\n"


def main(settings: Settings, life: str) -> int:
    """Serve until init has ended. Raises ConfigError if prometheus-client is not installed."""
    assert settings.metrics
    close_inherited()
    try:
        from svcinit.agent.metrics.families import Exposition
    except ImportError as error:
        raise ConfigError(
            f"SVCINIT_METRICS needs {error.name}, which is not installed: pip install 'svcinit[metrics]'; "
            "the service runs without metrics",
            variable="SVCINIT_METRICS",
        ) from None
    parent = os.getppid()
    listener = bound(settings.metrics, lambda: os.getppid() == parent)
    if listener is None:
        return EX_OK
    server = Server(listener, Exposition(settings, life).answer)
    while os.getppid() == parent:
        _signal.alarm(WATCHDOG)
        server.turn(POLL_INTERVAL)
    return EX_OK


def close_inherited() -> None:
    """Close all descriptors that init holds open, except the standard streams."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > STDERR:
            try:
                os.close(int(name))
            except OSError:  # that of the listing itself
                continue


def bound(address: tuple[str, int], wanted: Callable[[], bool]) -> socket.socket | None:
    """A listening socket. While another process has the address it is tried again, as long as `wanted` returns True."""
    attempt = 0
    shown = endpoint(*address)
    while wanted():
        try:
            family, *_, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            listener = socket.create_server((str(place[0]), int(place[1])), family=family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            if not attempt:
                log.warning(
                    "metrics_failed", "SVCINIT_METRICS={address} cannot be served: {error}; trying again",
                    address=shown, error=_reason(error),
                )  # fmt: skip
            time.sleep(pause_before(attempt, BIND_BACKOFF))
            attempt += 1
            continue
        log.info("metrics_served", "metrics at {address}", address=f"{shown}{PATH}")
        return listener
    return None


def _reason(error: OSError) -> str:
    """Without the address, which socket.create_server adds."""
    return str(error.strerror) if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)


class Connection:
    def __init__(self, channel: socket.socket) -> None:
        self.channel, self.deadline = channel, time.monotonic() + TIME_LIMIT
        self.request = bytearray()
        self.answer = memoryview(b"")


class Server:
    """The part of HTTP that a scrape needs: one GET per connection."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self._listener, self._answer = listener, answer
        self._selector = selectors.DefaultSelector()
        self._open: list[Connection] = []  # the oldest first
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def turn(self, seconds: float) -> None:
        """Do all that can be done now; wait for it for at most `seconds`."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._accept()
            elif key.data in self._open:
                self._continue(key.data)
        now = time.monotonic()
        for connection in [each for each in self._open if each.deadline <= now]:
            self._close(connection)

    def close(self) -> None:
        for connection in list(self._open):
            self._close(connection)
        self._listener.close()
        self._selector.close()

    def _accept(self) -> None:
        try:
            channel, _ = self._listener.accept()
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:  # the client stays in the queue: without a pause this would spin
                self._close(self._open[0]) if self._open else time.sleep(POLL_INTERVAL)
            return
        if len(self._open) >= MAX_CONNECTIONS:
            self._close(self._open[0])
        channel.setblocking(False)
        self._open.append(Connection(channel))
        self._selector.register(channel, selectors.EVENT_READ, self._open[-1])

    def _continue(self, connection: Connection) -> None:
        try:
            is_over = self._send(connection) if connection.answer else self._read(connection)
        except BlockingIOError:
            return
        except OSError:
            is_over = True
        if is_over:
            self._close(connection)

    def _send(self, connection: Connection) -> bool:
        """True when the whole answer is sent."""
        connection.answer = connection.answer[connection.channel.send(connection.answer) :]
        return not connection.answer

    def _read(self, connection: Connection) -> bool:
        """True if the client has left before the end of its request."""
        data = connection.channel.recv(CHUNK)
        connection.request += data
        if END in connection.request or len(connection.request) > REQUEST_LIMIT:
            connection.answer = memoryview(response(bytes(connection.request), self._answer))
            self._selector.modify(connection.channel, selectors.EVENT_WRITE, connection)
        return not data

    def _close(self, connection: Connection) -> None:
        self._open.remove(connection)
        self._selector.unregister(connection.channel)
        connection.channel.close()


def response(request: bytes, answer: Answer) -> bytes:
    """The whole response to a request."""
    method, status, kind, body = "", 400, PLAIN, b"not an HTTP request\n"
    head, end, _ = request.partition(END)
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if end and len(words) == 3 and words[2].startswith("HTTP/1."):
        method, path = words[0], words[1].partition("?")[0]
        if method not in ("GET", "HEAD"):
            status, body = 405, b"GET or HEAD\n"
        elif path != PATH:
            status, body = 404, f"metrics are at {PATH}\n".encode()
        else:
            status, kind, body = _guarded(answer, header(lines, "accept"))
    fields = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close"
    top = f"HTTP/1.1 {status} {REASONS[status]}\r\n{fields}".encode() + END
    return top if method == "HEAD" else top + body


def header(lines: list[str], name: str) -> str:
    """The value of a header, of several ones joined; empty if it has characters that no header may have."""
    pairs = (line.partition(":") for line in lines)
    text = ",".join(value.strip() for found, _, value in pairs if found.strip().lower() == name)
    return text if text.isascii() and text.isprintable() else ""


def _guarded(answer: Answer, accept: str) -> tuple[int, str, bytes]:
    try:
        return 200, *answer(accept)
    except Exception as error:  # one failed scrape must not end the process
        log.internal("metrics", error)
        return 500, PLAIN, b"internal error: see svcinit's log\n"
