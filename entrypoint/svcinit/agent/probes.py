"""Probes of svcinit's own: TCP, HTTP or a command, each in a child, so that none can hold up its presence.

A probe that passes its timeout is killed with its whole process group. Statuses are Consul's: exit status 0 of a
command is passing, 1 warning, anything else critical, as in its script checks; 429 over HTTP is a warning.
"""

from __future__ import annotations

import os
import signal
import socket

from svcinit import log
from svcinit.agent.redact import redactor as redactor
from svcinit.init import become, default_signals, execute
from svcinit.values import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.agent.services import Service
    from svcinit.settings import Settings

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
STATUSES = {0: PASSING, 1: WARNING}
OUTPUT_LIMIT = 2048  # bytes of output that are kept; Consul's own limit is 4096
CHUNK = 1 << 16
HOSTS = "127.0.0.1", "::1"
TOO_MANY = 429
NOT_DONE = 2


class Probe:
    """One way to find out whether a service serves, done again and again; `due` is when to call `turn` next.

    `status` and `output` are what `successes` or `failures` in a row made of the results, "" before any did.
    """

    def __init__(
        self, check: tuple[str, str], service: Service, redact: Callable[[str], str],
        run: Callable[[tuple[str, ...]], int], *, interval: float, successes: int = 1, failures: int = 1,
    ) -> None:  # fmt: skip
        self.check, self.service, self._redact, self._run = check, service, redact, run
        self._interval, self._needed = interval, {True: successes, False: failures}
        self.due = 0.0
        self.status = self.output = ""
        self._pid = self._pipe = -1
        self._late = 0.0
        self._text = b""
        self._row, self._good = 0, False  # how many results of that kind came in a row

    @property
    def is_running(self) -> bool:
        return self._pid > 0

    def is_due(self, now: float) -> bool:
        return self.is_running or self.due <= now

    def turn(self, now: float) -> bool:
        """Start a probe, or look after the one that runs; True when a result came."""
        if not self.is_running:
            self._start(now)
            return False
        self._drain()
        code = self._reaped()
        if code is None and now < self._late:
            return False
        timed_out = code is None
        if timed_out:
            self._kill()
        os.close(self._pipe)
        self._pid = self._pipe = -1
        self.due = max(now, self._began + self._interval)
        status = CRITICAL if code is None else STATUSES.get(code, CRITICAL)
        text = self._text.decode("utf-8", "replace")
        if timed_out:
            text = f"no result within {self.service.check_timeout:g} s; {text}"
        self._judge(status, self._redact(" ".join(text.split()) if self.check[0] != "exec" else text.strip()))
        return True

    def end(self) -> None:
        if self.is_running:
            self._kill()

    def _judge(self, status: str, output: str) -> None:
        good = status != CRITICAL
        self._row = self._row + 1 if good == self._good else 1
        self._good = good
        if self._row >= self._needed[good]:
            self.status, self.output = status, output
        elif not self.status:
            self.status, self.output = CRITICAL, output

    def _start(self, now: float) -> None:
        self._text, self._began, self._late = b"", now, now + self.service.check_timeout
        self.due = self._late
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        pid = os.fork()
        if pid == 0:
            code = NOT_DONE
            try:
                os.setpgid(0, 0)
                os.set_blocking(writing, True)
                os.dup2(writing, 1)
                os.dup2(writing, 2)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                default_signals(blocked=False)
                code = self._body()
            except Exception as error:
                _say(str(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"))
            finally:
                os._exit(code)
        os.close(writing)
        self._pid, self._pipe = pid, reading

    def _body(self) -> int:
        kind, rest = self.check
        if kind == "exec":
            return self._run(words(rest))
        if kind == "tcp":
            return _tcp(self.service)
        return _http(self.service, kind, rest)

    def _drain(self) -> None:
        try:
            while data := os.read(self._pipe, CHUNK):
                self._text = (self._text + data)[:OUTPUT_LIMIT]
        except BlockingIOError:
            pass

    def _reaped(self) -> int | None:
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return None
        self._drain()
        return os.waitstatus_to_exitcode(status)

    def _kill(self) -> None:
        for target in (-self._pid, self._pid):  # its group may not exist yet
            try:
                os.kill(target, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os.waitpid(self._pid, 0)


def runner(settings: Settings, env: Mapping[str, str]) -> Callable[[tuple[str, ...]], int]:
    """What becomes of a child that shall run a command of the user's: as SVCINIT_USER, with main's environment."""

    def run(argv: tuple[str, ...]) -> int:
        log.configure("error", "text")  # what cannot be executed says so in the check's output: the same each time
        become(settings.user)
        return execute(argv, env)

    return run


def _tcp(service: Service) -> int:
    _connect(service).close()
    _say(f"TCP connect to port {service.port}: success")
    return 0


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
    _say(told if good else f"{told}: {answer.read(OUTPUT_LIMIT).decode('utf-8', 'replace')}")
    return 0 if good else 1 if answer.status == TOO_MANY else NOT_DONE


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


def _say(text: str) -> None:
    os.write(1, text.encode("utf-8", "replace"))
