"""Probes of svcinit's own: TCP, HTTP or a command, each in a child, so that none can hold up its presence.

A probe that passes its timeout is killed with all that it started. Statuses are Consul's: exit status 0 of a command is
passing, 1 warning, anything else critical, as in its script checks; 429 over HTTP is a warning.
"""

from __future__ import annotations

import socket

from svcinit.agent.redact import LONGEST, end_of, tail
from svcinit.processes.captured import Child, command, say
from svcinit.settings.parsers import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.agent.registration.services import Service
    from svcinit.settings.environment import Settings

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
STATUSES = {0: PASSING, 1: WARNING}
OUTPUT_LIMIT = 2048  # bytes of output that are kept; Consul's own limit is 4096
HOSTS = "127.0.0.1", "::1"
TOO_MANY = 429
NOT_DONE = 2


class Probe:
    """One way to find out whether a service serves, done again and again; `due` is when to call `turn` next.

    `status` and `output` are what `successes` or `failures` in a row made of the results, "" before any did.
    """

    def __init__(
        self, check: tuple[str, str], service: Service, redact: Callable[[str], str],
        run: Callable[[tuple[str, ...]], Callable[[], int]], *, interval: float, successes: int = 1, failures: int = 1,
    ) -> None:  # fmt: skip
        self.check, self.service, self._redact, self._run = check, service, redact, run
        self._interval, self._needed = interval, {True: successes, False: failures}
        self.due = self._began = 0.0
        self.status = self.output = ""
        self._child: Child | None = None
        self._row, self._good = 0, False  # how many results of that kind came in a row

    @property
    def is_running(self) -> bool:
        return self._child is not None

    def is_due(self, now: float) -> bool:
        return self.is_running or self.due <= now

    def turn(self, now: float) -> bool:
        """Start a probe, or look after the one that runs; True when a result came."""
        if self._child is None:
            return self._start(now)
        if not self._child.turn(now):
            self.due = self._child.late
            return False
        child, self._child = self._child, None
        self.due = max(now, self._began + self._interval)
        self._judge(CRITICAL if child.code is None else STATUSES.get(child.code, CRITICAL), self._text(child))
        return True

    def end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    def _text(self, child: Child) -> str:
        """What it said, cut only when no secret is in it any more: a cut one would not be found."""
        text = tail(child.output, child.is_cut, self._redact)
        late = "" if child.code is not None else f"no result within {self.service.check_timeout:g} s; "
        if self.check[0] == "exec":
            return late + end_of(text.strip(), OUTPUT_LIMIT - len(late), child.is_cut)
        text = late + " ".join(text.split())  # of an answer the beginning tells most
        return text.encode("utf-8", "replace")[:OUTPUT_LIMIT].decode("utf-8", "ignore")

    def _judge(self, status: str, output: str) -> None:
        good = status != CRITICAL
        self._row = self._row + 1 if good == self._good else 1
        self._good = good
        if self._row >= self._needed[good]:
            self.status, self.output = status, output
        elif not self.status:
            self.status, self.output = CRITICAL, output

    def _start(self, now: float) -> bool:
        """True where it cannot be started, for want of a process: that is a result, and it is tried again."""
        self._began = now
        try:
            self._child = Child(self._body(), self.service.check_timeout)
        except OSError as error:
            self.due = now + self._interval
            self._judge(CRITICAL, f"not probed: {error.strerror}")
            return True
        self.due = self._child.late
        return False

    def _body(self) -> Callable[[], int]:
        kind, rest = self.check
        if kind == "exec":
            return self._run(words(rest))
        return lambda: _asked(self.service, kind, rest)


def runner(settings: Settings, env: Mapping[str, str]) -> Callable[[tuple[str, ...]], Callable[[], int]]:
    """What makes the body of a child that runs a command of the user's: as SVCINIT_USER, with main's environment."""
    return lambda argv: command(argv, env, settings.user)


def _asked(service: Service, kind: str, path: str) -> int:
    try:
        return _tcp(service) if kind == "tcp" else _http(service, kind, path)
    except Exception as error:
        return say(str(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"), NOT_DONE)


def _tcp(service: Service) -> int:
    _connect(service).close()
    return say(f"TCP connect to port {service.port}: success", 0)


def _http(service: Service, kind: str, path: str) -> int:
    import http.client

    if kind == "https":
        import ssl

        context = ssl.create_default_context() if service.check_tls_verify else ssl._create_unverified_context()
        channel: socket.socket = context.wrap_socket(_connect(service), server_hostname=_host(service))
    else:
        channel = _connect(service)
    connection = http.client.HTTPConnection(HOSTS[0], service.port)
    connection.sock = channel
    connection.request(service.check_method, path, headers=dict(service.check_headers))
    answer = connection.getresponse()
    good = 200 <= answer.status < 300
    told = f"HTTP {service.check_method} {path}: {answer.status} {answer.reason}"
    # what passes says the same each time: a changed output is news to Consul's servers
    if good:
        return say(told, 0)
    body = answer.read(OUTPUT_LIMIT + LONGEST).decode("utf-8", "replace")
    return say(f"{told}: {body}", 1 if answer.status == TOO_MANY else NOT_DONE)


def _host(service: Service) -> str:
    return next((value for name, value in service.check_headers.items() if name.lower() == "host"), "localhost")


def _connect(service: Service) -> socket.socket:
    assert service.port
    try:
        return socket.create_connection((HOSTS[0], service.port), service.check_timeout)
    except OSError as refused:
        try:
            return socket.create_connection((HOSTS[1], service.port), service.check_timeout)
        except OSError:
            raise refused from None
