"""metrics: answers Prometheus at SVCINIT_METRICS, out of the state files. A child of init's own, with one thread.

It talks to nobody else, so that no scrape can hold up init or presence, and it answers when presence is dead, hung or
not there yet: that is when it is asked. A client has so many seconds for all that it does, and of many clients the one
that came first makes room; the process ends itself, by SIGALRM, if a turn should never end.
"""

from __future__ import annotations

import _signal
import errno
import os
import selectors
import socket
import time

from svcinit import log
from svcinit.agent.consul.backoff import pause_before
from svcinit.errors import EX_OK, ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from svcinit.settings.environment import Settings

    Answer = Callable[[str], tuple[str, bytes]]  # of what is accepted (RFC 9110, Accept): the type and the body

MOST = 16  # connections
LONGEST = 10.0  # seconds for a connection, from its first byte to its last
REQUEST_LIMIT = 8192  # bytes
CHUNK = 1 << 16
LOOK = 1.0  # seconds between two looks at whether init is still there
LACKING = errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM  # of accept(2): it would fail again at once
STDERR = 2
WATCHDOG = 60  # seconds for one turn
BACKOFF = 0.5, 10.0  # seconds between two tries to have the address
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}
PATH, PLAIN = "/metrics", "text/plain; charset=utf-8"
END = b"\r\n\r\n"


def main(settings: Settings, life: str) -> int:
    """Serve until init is gone. Raises ConfigError where the library for it is not there."""
    assert settings.metrics
    close_inherited()
    try:
        from svcinit.agent.metrics.families import Exposition
    except ImportError as error:
        raise ConfigError(
            f"SVCINIT_METRICS needs {error.name}, which is not here: pip install 'svcinit[metrics]'; "
            "the service runs on without metrics",
            variable="SVCINIT_METRICS",
        ) from None
    parent = os.getppid()
    listener = bound(settings.metrics, lambda: os.getppid() == parent)
    if listener is None:
        return EX_OK
    server = Server(listener, Exposition(settings, life).answer)
    while os.getppid() == parent:
        _signal.alarm(WATCHDOG)
        server.turn(LOOK)
    return EX_OK


def close_inherited() -> None:
    """What init holds open is none of a scraper's business."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > STDERR:
            try:
                os.close(int(name))
            except OSError:  # that of the listing itself
                continue


def bound(address: tuple[str, int], wanted: Callable[[], bool]) -> socket.socket | None:
    """A socket that listens; tried again while somebody else has the address, as long as it is `wanted`."""
    attempt = 0
    shown = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    while wanted():
        try:
            family, *_, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            listener = socket.create_server((str(place[0]), int(place[1])), family=family, backlog=MOST)
        except OSError as error:
            if not attempt:
                log.warning(
                    "metrics_failed", "SVCINIT_METRICS={address} cannot be served: {error}; trying again",
                    address=shown, error=_why(error),
                )  # fmt: skip
            time.sleep(pause_before(attempt, BACKOFF))
            attempt += 1
            continue
        log.info("metrics_served", "metrics at {address}", address=f"{shown}{PATH}")
        return listener
    return None


def _why(error: OSError) -> str:
    """Without the address, which socket.create_server adds to it."""
    return str(error.strerror) if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)


class Server:
    """HTTP, as much of it as a scrape needs: one GET a connection."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self._listener, self._answer = listener, answer
        self._selector = selectors.DefaultSelector()
        self._open: list[Connection] = []  # the oldest first
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def turn(self, seconds: float) -> None:
        """What can be done now, or within `seconds`."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                self._accept()
            elif key.data in self._open:
                self._go_on(key.data)
        now = time.monotonic()
        for connection in [each for each in self._open if each.late <= now]:
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
            if error.errno in LACKING:
                self._make_room()
            return  # else the client is gone again
        if len(self._open) >= MOST:
            self._close(self._open[0])
        channel.setblocking(False)
        connection = Connection(channel)
        self._selector.register(channel, selectors.EVENT_READ, connection)
        self._open.append(connection)

    def _make_room(self) -> None:
        """The client that cannot be accepted stays in the queue: without this, each turn would end at once."""
        if self._open:
            self._close(self._open[0])
        else:
            time.sleep(LOOK)

    def _go_on(self, connection: Connection) -> None:
        try:
            over = connection.send() if connection.answer else self._read(connection)
        except BlockingIOError:
            return
        except OSError:
            over = True
        if over:
            self._close(connection)

    def _read(self, connection: Connection) -> bool:
        """True when the connection is over: the client left before it had asked."""
        data = connection.channel.recv(CHUNK)
        connection.request += data
        if not data:
            return True
        if END in connection.request or len(connection.request) > REQUEST_LIMIT:
            connection.answer = memoryview(response(bytes(connection.request), self._answer))
            self._selector.modify(connection.channel, selectors.EVENT_WRITE, connection)
        return False

    def _close(self, connection: Connection) -> None:
        self._open.remove(connection)
        self._selector.unregister(connection.channel)
        connection.channel.close()


class Connection:
    def __init__(self, channel: socket.socket) -> None:
        self.channel, self.late = channel, time.monotonic() + LONGEST
        self.request = bytearray()
        self.answer = memoryview(b"")

    def send(self) -> bool:
        """True when all of the answer is sent."""
        self.answer = self.answer[self.channel.send(self.answer) :]
        return not self.answer


def response(request: bytes, answer: Answer) -> bytes:
    """All that is sent for a request."""
    method, status, kind, body = "", 400, PLAIN, b"that is no request of HTTP\n"
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
    """The value of a header, all of them where there are several; empty where it has what no header may have."""
    pairs = (line.partition(":") for line in lines)
    text = ",".join(value.strip() for found, _, value in pairs if found.strip().lower() == name)
    return text if text.isascii() and text.isprintable() else ""


def _guarded(answer: Answer, accept: str) -> tuple[int, str, bytes]:
    try:
        return 200, *answer(accept)
    except Exception as error:  # a scrape that fails is told as one; the next may go well
        log.internal("metrics", error)
        return 500, PLAIN, b"internal error: see svcinit's log\n"
