"""Calls to a Consul agent over `requests`: one session, one connection, a timeout on every read.

Nothing that it raises holds a token, a password or a value. What is worth another try is Unavailable (as Away), what
a person must set right is ConfigError. Source: Consul's "HTTP API Structure" page, and what agents from 1.8 on were
seen to answer.
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl as tls
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any

import requests
import urllib3
from requests.auth import HTTPBasicAuth
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError

from svcinit import regular_file
from svcinit.agent.consul.adapters import Adapter, UnixAdapter, unfit
from svcinit.agent.consul.backoff import number, retry_after
from svcinit.agent.consul.stats import UNREACHABLE, RequestStats, blocking, endpoint
from svcinit.errors import ConfigError, Unavailable

BODY_LIMIT = 4 << 20  # bytes of an answer, where the caller names no other limit
CHUNK = 1 << 16
QUOTE_LIMIT = 200  # characters of an agent's own words in a message
NO_SUCH_TOKEN = "ACL not found"
JUST_AWAY = (429, 500, 502, 503, 504)  # "No cluster leader" and "rpc error" come as 500
ABSENT = b"unknown service", b"no service registered", b"unknown check", b'"aggregatedstatus"'
TOKEN_LIMIT = 1 << 16  # bytes
SCHEMES = ("http", "https")
OURS_REFUSED = "CERTIFICATE", "UNKNOWN_CA"  # in OpenSSL's names of the alerts that are about a client certificate
OURS_BROKEN = "PEM lib", "KEY_VALUES_MISMATCH"  # the same, of a client certificate or key that cannot be used
NO_TLS = "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"  # what OpenSSL makes of plain HTTP


class Away(Unavailable):
    """The agent cannot serve now; `retry_after` is how many seconds it asked to be left alone, or None."""

    def __init__(self, fault: str, retry_after: float | None = None) -> None:
        super().__init__(fault)
        self.retry_after = retry_after


class Denied(ConfigError):
    """The token may not do this, for which it needs `rule`; `unknown`: Consul does not know the token at all."""

    def __init__(self, *faults: str, rule: str = "", unknown: bool = False, **named: object) -> None:
        super().__init__(*faults, **named)
        self.rule, self.unknown = rule, unknown


class Http:
    """The way to one agent at `address`, in any form that Consul's own CLI takes in CONSUL_HTTP_ADDR.

    `ssl` makes https of an address that does not say so itself; `verify` is True (the system's own CAs), False, or a
    CA file or directory; `auth` is USER:PASSWORD; `server_name` is the name expected in the certificate; `timeout` is
    (connect, read) in seconds, for each read. Where the token came from `token_file`, the file is read again when the
    token is refused. Nothing is sent before the first call, which also tells what is wrong with these.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        token_file: str | None = None,
        auth: str | None = None,
        ssl: bool = False,
        verify: bool | str = True,
        client_cert: str | None = None,
        client_key: str | None = None,
        server_name: str | None = None,
        timeout: tuple[float, float] = (3.0, 10.0),
    ) -> None:
        self.address, self._timeout = address, timeout
        self.reached = False  # has the agent ever answered?
        self.index = 0  # X-Consul-Index of the last answer of `call`, 0 where it had none
        self.stats = RequestStats()
        self.beat: Callable[[], None] = lambda: None  # called before whatever may take a timeout's time
        self.rotations = 0  # how often the token was replaced by another from its file
        self._token, self._token_file = token, token_file
        self._secrets = [secret for secret in (token, auth and auth.partition(":")[2]) if secret]
        self._session = session = requests.Session()
        session.trust_env = False  # no proxy and no .netrc stands between us and the agent next door
        session.headers["Accept-Encoding"] = "identity"  # on one host, compressing costs more than it saves
        if token:
            session.headers["X-Consul-Token"] = token
        if auth:
            user, _, password = os.fsencode(auth).partition(b":")
            session.auth = HTTPBasicAuth(user, password)
        self._base = _base(address, ssl)
        self._fault = _fault(address, token)
        self._expects = ""
        if address.startswith("unix://"):
            self._adapter: UnixAdapter | Adapter = UnixAdapter(address.removeprefix("unix://"))
            session.mount("http://", self._adapter)
            return
        if self._base.startswith("https:"):
            self._fault = self._fault or unfit(verify, client_cert, client_key)
        self._adapter = Adapter(server_name)
        session.mount(self._base, self._adapter)
        if verify is False:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # it was asked for
        session.verify = _system_cas() if verify is True and self._base.startswith("https:") else verify
        name = server_name or "the host in the address"
        self._expects = f"expected a certificate for {name}, signed by what is in {session.verify}"
        if client_cert:
            session.cert = (client_cert, client_key) if client_key else client_cert

    def close(self) -> None:
        """Close the connection; the next call would open another."""
        self._session.close()

    def is_hung_up(self) -> bool:
        """Has the agent closed the idle connection, as it does when it ends? False where there is none."""
        queues = [pool.pool.queue for pool in self._adapter.pools() if pool.pool is not None]
        return any(idle is not None and _is_readable(idle.sock) for queue in queues for idle in queue)

    def call(
        self, method: str, path: str, rule: str, query: dict[str, str] | None = None, body: object = None,
        *, states: tuple[int, ...] = (), limit: int = BODY_LIMIT,
    ) -> Any:  # fmt: skip
        """One call: the decoded answer, None for what is not there.

        `rule` is the ACL rule that it takes; `states` are statuses that stand for an answer here, not for trouble;
        `limit` is how many bytes the answer may have.
        """
        told = self.told(method, path)
        with self.stats.one(f"{method} {endpoint(path)}") as request:
            response, content = self._exchange(method, path, query, body, told, limit)
            if response.status_code == 403 and self._token_changed():
                response, content = self._exchange(method, path, query, body, told, limit)
            self.reached, self.index = True, _index(response.headers)
            request.answered(response.status_code)
            return self._decoded(response.status_code, response.headers, content, told, rule, states)

    def ahead(self) -> float:
        """How many seconds the agent's clock is ahead of this host's, at least; 0 where they may be the same.

        Every answer has a Date, cut to whole seconds (RFC 9110, 6.6.1). Raises ConfigError, Unavailable.
        """
        path = "/v1/status/leader"
        told = self.told("GET", path)
        began = time.time()
        response, _ = self._exchange("GET", path, None, None, told, BODY_LIMIT)
        ended = time.time()
        try:
            date = parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
        except (ValueError, OverflowError):
            raise Away(f"{told} is answered without a Date") from None
        return max(0.0, date - ended) or min(0.0, date + 1 - began)

    def open(self) -> HTTPConnection:
        """A connection of its own, for a call whose answer is waited for elsewhere; nothing is sent yet."""
        if self._fault:
            raise ConfigError(self._fault)
        request = self._session.prepare_request(requests.Request("GET", self._base))
        pool = self._adapter.get_connection_with_tls_context(request, self._session.verify, None, self._session.cert)
        assert isinstance(pool, HTTPConnectionPool)
        channel = pool._new_conn()
        assert isinstance(channel, HTTPConnection)
        channel.timeout = self._timeout[0]
        return channel

    def send(self, channel: HTTPConnection, path: str, query: dict[str, str]) -> None:
        """Send a GET; `channel.sock` becomes readable when its answer comes. Raises ConfigError, Unavailable."""
        self.beat()
        try:
            prepared = self._session.prepare_request(requests.Request("GET", self._base + path, params=query))
            if channel.sock is None:
                channel.connect()
            channel.sock.settimeout(self._timeout[1])
            channel.request("GET", prepared.path_url, headers=dict(prepared.headers), preload_content=False)
        except (OSError, HTTPError, HTTPException) as error:
            channel.close()
            self.lost(path)
            raise self._failed(self.told("GET", path), _as_os_error(error)) from None

    def receive(self, channel: HTTPConnection, path: str, rule: str, limit: int) -> tuple[Any, int]:
        """The answer to what was sent, as `call` has it, and its X-Consul-Index (0 where there is none)."""
        told = self.told("GET", path)
        self.beat()
        with self.stats.one(blocking(path), timed=False) as request:
            try:
                answer = channel.getresponse()
                content = answer.read(limit + 1)
                if len(content) > limit or answer.headers.get("Connection", "").lower() == "close":
                    channel.close()
            except (OSError, HTTPError, HTTPException) as error:
                channel.close()
                raise self._failed(told, _as_os_error(error)) from None
            request.answered(answer.status)
            if len(content) > limit:
                raise ConfigError(_too_much(told, limit))
            if answer.status == 403:
                self._token_changed()  # the next try has it
            return self._decoded(answer.status, answer.headers, content, told, rule, ()), _index(answer.headers)

    def lost(self, path: str) -> None:
        """Count a query that was sent, or should have been, and that nobody will receive an answer to."""
        self.stats.note(blocking(path), UNREACHABLE)

    def _exchange(
        self, method: str, path: str, query: dict[str, str] | None, body: object, told: str, limit: int
    ) -> tuple[requests.Response, bytes]:
        if self._fault:
            raise ConfigError(self._fault)
        self.beat()
        try:
            with self._send(method, path, query, body) as response:
                return response, _read(response, told, limit)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
            raise ConfigError(_not_an_address(self.address)) from None
        except OSError as error:  # each of requests' own is one; so is a CA or key file that is not there
            raise self._failed(told, error) from None

    def _token_changed(self) -> bool:
        """Take the token of a file that was replaced since it was read, as secret stores do."""
        if not self._token_file:
            return False
        try:
            token = regular_file.read(self._token_file, TOKEN_LIMIT).decode("utf-8", "surrogateescape").rstrip("\r\n")
        except OSError:
            return False
        if not token or token == self._token or _token_fault(token):
            return False
        self._token = self._session.headers["X-Consul-Token"] = token
        self._secrets.append(token)
        self.rotations += 1
        return True

    @property
    def which_token(self) -> str:
        """Which token it is that was refused, never what it is."""
        if not self._token:
            return "no token was given (CONSUL_HTTP_TOKEN): it"
        return f"the token in {self._token_file}" if self._token_file else "the token of CONSUL_HTTP_TOKEN"

    def _send(self, method: str, path: str, query: dict[str, str] | None, body: object) -> requests.Response:
        """Send, once more when a kept connection turns out to have been closed: every call here is idempotent."""
        data = None if body is None else json.dumps(body)
        for last in (False, True):
            try:
                return self._session.request(
                    method, self._base + path, params=query, data=data, timeout=self._timeout,
                    stream=True, allow_redirects=False,
                )  # fmt: skip
            except requests.exceptions.ConnectionError as error:
                if last or not isinstance(_root(error), ConnectionResetError | BrokenPipeError):
                    raise
        raise AssertionError("unreachable")

    def _failed(self, told: str, error: OSError) -> ConfigError | Away:
        """What to raise when there was no answer, or half of one."""
        root = _root(error)
        reason = _words(root)
        if isinstance(root, PermissionError):
            return ConfigError(
                f"{told}: {reason}: svcinit's user may not open what CONSUL_HTTP_ADDR or a key file names",
                variable="CONSUL_HTTP_ADDR",
            )
        if not isinstance(error, requests.exceptions.RequestException):
            return ConfigError(
                f"{told}: {reason}: see CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY"
            )
        cut_off = isinstance(root, tls.SSLEOFError | tls.SSLZeroReturnError)
        if isinstance(error, requests.exceptions.SSLError) and not cut_off:
            return ConfigError(f"{told}: TLS failed: {reason}; {self._tls_advice(reason)}")
        # with TLS 1.3 the agent's refusal comes after our handshake: it is lost where the connection ends before
        hint = "; does the agent take CONSUL_CLIENT_CERT?" if cut_off and self._session.cert else ""
        return Away(f"{told} failed: {reason}{hint}")

    def _tls_advice(self, reason: str) -> str:
        """What to do about OpenSSL's own words: which side did not take the other's certificate?"""
        if "ALERT" in reason and any(words in reason for words in OURS_REFUSED):
            if not self._session.cert:
                return "the agent asks for a client certificate: see CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY"
            return "the agent does not take the client certificate: see CONSUL_CLIENT_CERT and the agent's own CA"
        if any(words in reason for words in OURS_BROKEN):
            return "expected a certificate and its key, both PEM: see CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY"
        if any(words in reason for words in NO_TLS):
            return "does CONSUL_HTTP_ADDR name the agent's port for https?"
        return f"{self._expects}; see CONSUL_CACERT, CONSUL_CAPATH, CONSUL_TLS_SERVER_NAME"

    def _decoded(
        self, status: int, headers: Mapping[str, str], content: bytes, told: str, rule: str, states: tuple[int, ...]
    ) -> Any:
        if status == 200 or (status in states and content.startswith(b"{")):
            try:
                return json.loads(content, parse_constant=_refused) if content else True  # as to PUTs
            except (ValueError, RecursionError):
                raise Away(f"{told} answered something that is not JSON: is that a Consul agent?") from None
        if status == 404 and _is_absence(headers, content):
            return None
        words = self._quoted(content)
        if status == 403:
            fault = f"{told} is denied ({words}): {self.which_token} needs {rule}"
            named = {"variable": "CONSUL_HTTP_TOKEN", "file": self._token_file}
            raise Denied(fault, rule=rule, unknown=NO_SUCH_TOKEN in words, **named)
        if status in JUST_AWAY:
            wait = retry_after(headers.get("Retry-After"))
            raise Away(f"{told} answered {status}: {words}", wait)
        todo = "see CONSUL_HTTP_AUTH" if status == 401 else "is CONSUL_HTTP_ADDR a Consul agent that takes this?"
        variable = "CONSUL_HTTP_AUTH" if status == 401 else "CONSUL_HTTP_ADDR"
        raise ConfigError(f"{told} answered {status}: {words}; {todo}", variable=variable)

    def record(self, method: str, path: str, answer: object) -> dict[str, Any]:
        if not isinstance(answer, dict) or not answer:
            raise Away(f"{self.told(method, path)} answered nothing useful: is that a Consul agent?")
        return answer

    def _quoted(self, content: bytes) -> str:
        """The agent's own words, cut short, and without any secret that they might repeat."""
        words = content.decode("utf-8", "replace")
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return " ".join(words[:QUOTE_LIMIT].split())

    def told(self, method: str, path: str) -> str:
        return f"Consul at {self.address}: {method} {path}"


def _base(address: str, ssl: bool) -> str:
    if address.startswith("unix://"):
        return "http://localhost"
    scheme, found, rest = address.partition("://")
    if not found:
        scheme, rest = "http", address
    if ssl and scheme == "http":  # so does Consul's CLI: once TLS is asked for, no address takes it back
        scheme = "https"
    host = f"localhost{rest}" if rest.startswith(":") else rest
    return f"{scheme}://{host.rstrip('/')}"


def _fault(address: str, token: str | None) -> str:
    """What no request can be made with, without the secret in it; empty if there is nothing."""
    scheme, found, rest = address.partition("://")
    if "@" in (rest if found else address).partition("/")[0]:
        return "CONSUL_HTTP_ADDR has a user name in it: user and password go into CONSUL_HTTP_AUTH"
    if found and scheme not in (*SCHEMES, "unix"):
        return _not_an_address(address)
    return _token_fault(token or "")


def _token_fault(token: str) -> str:
    if token.isascii() and token.isprintable() and token == token.strip():
        return ""
    return "CONSUL_HTTP_TOKEN has a space, line end or other character that no token has"


def _as_os_error(error: Exception) -> OSError:
    """urllib3's and http.client's own, as what `requests` makes of them."""
    if isinstance(error, OSError):
        return error
    cut_off = isinstance(error, HTTPException | ProtocolError)
    made = requests.exceptions.ConnectionError(error) if cut_off else requests.exceptions.RequestException(error)
    made.__cause__ = error
    return made


def _is_readable(channel: socket.socket | None) -> bool:
    """Is there something to read: on an idle connection, its end."""
    return channel is not None and bool(select.select([channel], [], [], 0)[0])


def _not_an_address(address: str) -> str:
    return f"CONSUL_HTTP_ADDR={address!r}: expected HOST:PORT, http://..., https://... or unix://PATH"


def _is_absence(headers: Mapping[str, str], content: bytes) -> bool:
    """Is this 404 a Consul agent's own "there is none", not that of a web server or proxy that is no agent?"""
    return "X-Consul-Index" in headers or any(words in content.lower() for words in ABSENT)


def _system_cas() -> bool | str:
    """The CAs that the system trusts, as Consul's CLI has it; else those that come with requests."""
    paths = tls.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile
    return paths.capath if paths.capath and os.listdir(paths.capath) else True


def _read(response: requests.Response, told: str, limit: int) -> bytes:
    content = bytearray()
    for chunk in response.iter_content(CHUNK):
        content += chunk
        if len(content) > limit:
            raise ConfigError(_too_much(told, limit))
    return bytes(content)


def _too_much(told: str, limit: int) -> str:
    return f"{told} answered more than {limit >> 20} MiB; where it is KV, name a narrower prefix"


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _index(headers: Mapping[str, str]) -> int:
    return number(headers.get("X-Consul-Index", "")) or 0


def _words(cause: BaseException) -> str:
    words = str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
    return " ".join(words.split(">: ", 1)[-1].split())


def _root(error: BaseException) -> BaseException:
    """The reason at the bottom of requests' and urllib3's wrapping."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        wrapped = (getattr(following, "reason", None), *following.args)
        inner = next((part for part in wrapped if isinstance(part, BaseException)), None)
        following = inner or following.__cause__ or following.__context__
    return seen[-1]
