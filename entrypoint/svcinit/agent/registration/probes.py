"""The probes that svcinit itself runs: TCP, HTTP or a command, each in a child process, so that none can block
presence.

A probe that exceeds its timeout is killed with all processes that it started. The statuses are Consul's: exit status 0
of a command is passing, 1 warning, any other critical, as in Consul's script checks; HTTP status 429 is a warning.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from svcinit.agent.consul.answers import CRITICAL, PASSING, WARNING
from svcinit.agent.redact import MAX_SECRET, end_of, tail
from svcinit.errors import SvcinitError
from svcinit.processes.captured import Child, command, say
from svcinit.settings.parsers import words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.agent.registration.checks import Check
    from svcinit.settings.environment import Settings

    Body = Callable[[], int]  # what runs in the child; its result is the exit status

STATUSES = {0: PASSING, 1: WARNING}
OUTPUT_LIMIT = 2048  # bytes of output that are kept; Consul's own limit is 4096
HOSTS = "127.0.0.1", "::1"
TOO_MANY = 429
FAILED = 2


class Probe:
    """Runs a check again and again; `due` (monotonic seconds) is when to call `turn` next.

    `status` and `output` are those of the last `check.successes` or `check.failures` consecutive results; both are
    empty before the first result.
    """

    def __init__(
        self, check: Check, redact: Callable[[str], str], run: Callable[[tuple[str, ...]], Body],
        start: Callable[[Body, float], Child] = Child,
    ) -> None:  # fmt: skip
        if check.target.kind == "https":
            _load_openssl()
        self.check, self._redact, self._run, self._start_child = check, redact, run, start
        self._needed = {True: check.successes, False: check.failures}
        self.due = self._started_at = 0.0
        self.status = self.output = ""
        self._child: Child | None = None
        self._count, self._last_succeeded = 0, False  # consecutive results of the same kind

    @property
    def is_running(self) -> bool:
        return self._child is not None

    def is_due(self, now: float) -> bool:
        return self.is_running or self.due <= now

    def turn(self, now: float) -> bool:
        """Start a probe, or check on the running one; True when there is a result."""
        if self._child is None:
            return self._start(now)
        if not self._child.turn(now):
            self.due = self._child.late
            return False
        child, self._child = self._child, None
        self.due = max(now, self._started_at + self.check.interval)
        self._judge(CRITICAL if child.code is None else STATUSES.get(child.code, CRITICAL), self._text(child))
        return True

    def accept_readiness(self, readiness: Probe, now: float) -> None:
        """SVCINIT_READY has succeeded. Where it is the same check, its success is the first result of this one; another
        check is passing after one success."""
        self._count, self._last_succeeded = max(0, self._needed[True] - 1), True
        if readiness.check.target.key == self.check.target.key:
            self._judge(PASSING, readiness.output)
            self.due = now + self.check.interval

    def end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    def _text(self, child: Child) -> str:
        """The output, cut after the secrets were removed: a part of a secret would not be recognized."""
        text = tail(child.output, child.is_cut, self._redact)
        late = "" if child.code is not None else f"no result within {self.check.timeout:g} s; "
        if self.check.target.kind == "exec":
            return late + end_of(text.strip(), OUTPUT_LIMIT - len(late), child.is_cut)
        text = late + " ".join(text.split())  # the beginning of an HTTP response is the useful part
        return text.encode("utf-8", "replace")[:OUTPUT_LIMIT].decode("utf-8", "ignore")

    def _judge(self, status: str, output: str) -> None:
        succeeded = status != CRITICAL
        self._count = self._count + 1 if succeeded == self._last_succeeded else 1
        self._last_succeeded = succeeded
        if self._count >= self._needed[succeeded]:
            self.status, self.output = status, output
        elif not self.status:
            self.status, self.output = CRITICAL, output

    def _start(self, now: float) -> bool:
        """True where no process can be started: that is a failed result, and the probe is repeated."""
        self._started_at = now
        try:
            self._child = self._start_child(self._body(), self.check.timeout)
        except OSError as error:
            self.due = now + self.check.interval
            self._judge(CRITICAL, f"not probed: {error.strerror}")
            return True
        self.due = self._child.late
        return False

    def _body(self) -> Body:
        target = self.check.target
        if target.kind == "exec":
            return self._run(words(target.rest))
        if target.kind not in PROBES:
            raise SvcinitError(f"svcinit cannot run a check of kind {target.kind}")
        return lambda: _probed(self.check)


def runner(settings: Settings, env: Mapping[str, str]) -> Callable[[tuple[str, ...]], Body]:
    """Makes the body of a child that runs a user's command: as SVCINIT_USER, with the service's environment."""
    return lambda argv: command(argv, env, settings.user)


def _probed(check: Check) -> int:
    try:
        return PROBES[check.target.kind](check)
    except Exception as error:
        return say(str(getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"), FAILED)


def _load_openssl() -> None:
    """Once here, and not in the child of each probe."""
    from svcinit.agent import imports

    imports.allow_openssl()
    import ssl  # noqa: F401


def _tcp(check: Check) -> int:
    _connect(check).close()
    place = f"{check.target.host}:{check.port}" if check.target.host else f"port {check.port}"
    return say(f"TCP connect to {place}: success", 0)


def _http(check: Check) -> int:
    import http.client

    target = check.target
    if target.kind == "https":
        import ssl

        context = ssl.create_default_context() if check.tls_verify else ssl._create_unverified_context()
        channel: socket.socket = context.wrap_socket(_connect(check), server_hostname=_host(check))
    else:
        channel = _connect(check)
    connection = http.client.HTTPConnection(target.host or HOSTS[0], check.port)
    connection.sock = channel
    connection.request(check.method, target.rest, headers=dict(check.headers))
    answer = connection.getresponse()
    said = f"HTTP {check.method} {target.rest or '/'}: {answer.status} {answer.reason}"
    # a passing check always has the same output: Consul's servers store each change of it
    if 200 <= answer.status < 300:
        return say(said, 0)
    body = answer.read(OUTPUT_LIMIT + MAX_SECRET).decode("utf-8", "replace")
    return say(f"{said}: {body}", 1 if answer.status == TOO_MANY else FAILED)


PROBES = {"tcp": _tcp, "http": _http, "https": _http}


def _host(check: Check) -> str:
    """The name that the certificate must have."""
    given = next((value for name, value in check.headers.items() if name.lower() == "host"), "")
    return given or check.target.host or "localhost"


def _connect(check: Check) -> socket.socket:
    assert check.port
    if check.target.host:
        return socket.create_connection((check.target.host, check.port), check.timeout)
    try:
        return socket.create_connection((HOSTS[0], check.port), check.timeout)
    except OSError as refused:
        try:
            return socket.create_connection((HOSTS[1], check.port), check.timeout)
        except OSError:
            raise refused from None
