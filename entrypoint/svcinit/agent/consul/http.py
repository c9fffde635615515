"""Calls to a Consul agent over `requests`: one session, one connection, a timeout for every read.

agent/vault/client.py makes the client of Vault of it.

No error holds a token, a password or a value. Unavailable (as Away): worth another try. ConfigError: a person must
correct something. Source: Consul's "HTTP API Structure" page, and the answers of agents from 1.8 to 1.14.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import HTTPBasicAuth

from svcinit import regular_file
from svcinit.agent.consul.adapters import Adapter, Channel, UnixAdapter, tls_context, unreadable
from svcinit.agent.consul.answers import RETRIED, Away, Cause, Denied, Refused, Reply, TlsFailed
from svcinit.agent.consul.backoff import MIN_TIMEOUT
from svcinit.agent.consul.stats import UNREACHABLE, RequestStats, blocking, endpoint
from svcinit.errors import ConfigError, Fault

try:
    import ssl as tls
except ImportError:  # no address is https: see agent/imports.py
    TLS_ERRORS: tuple[type[OSError], ...] = ()
    CUT_OFF: tuple[type[OSError], ...] = ()
else:
    TLS_ERRORS = (tls.SSLError,)
    CUT_OFF = tls.SSLEOFError, tls.SSLZeroReturnError

BODY_LIMIT = 4 << 20  # bytes of an answer, where the caller names no other limit
LARGE_LIMIT = 64 << 20  # bytes of KV or of instances: far more than a configuration needs
CHUNK = 1 << 16
TOKEN_LIMIT = 1 << 16  # bytes
SCHEMES = ("http", "https")
# OpenSSL's names (ssl.SSLError.reason) of the alerts about a client certificate
CERTIFICATE_ALERTS = frozenset({
    "SSLV3_ALERT_NO_CERTIFICATE", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_REVOKED", "SSLV3_ALERT_CERTIFICATE_EXPIRED", "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "TLSV1_ALERT_UNKNOWN_CA", "TLSV13_ALERT_CERTIFICATE_REQUIRED",
})  # fmt: skip
PEM_LIB = 9  # ERR_R_PEM_LIB (openssl/err.h): for this fault ssl.SSLError.reason is None
BROKEN_PAIR = frozenset({"KEY_VALUES_MISMATCH", "NO_START_LINE", "PEM_LIB"})  # a client certificate and its key
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})  # the agent sent plain HTTP
REFUSED = {  # what no other try changes, whatever the status of the answer
    Cause.WRONG_FILTER: "the filter is wrong",
    Cause.CONNECT_OFF: "the agent has no service mesh (connect.enabled in its configuration)",
}


class Http:
    """A client of one agent at `address`, in any form that Consul's own CLI takes in CONSUL_HTTP_ADDR.

    `ssl`: use https for an address without a scheme. `verify`: True (the system's own CAs), False, or a CA file or
    directory. `auth`: USER:PASSWORD. `server_name`: the expected name in the certificate. `timeout`: (connect, read) in
    seconds, for each read. `token_file`: read again when the token is refused. Nothing is sent before the first call;
    that call also reports what is wrong with these.

    `system` and `server`: how messages name the two. `prefix`: of the variables for TLS.
    """

    system, server, prefix = "Consul", "the agent", "CONSUL_"
    address_variable, token_variable = "CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN"
    token_header, forms = "X-Consul-Token", "HOST:PORT, http://..., https://... or unix://PATH"

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
        namespace: str | None = None,
        partition: str | None = None,
        timeout: tuple[float, float] = (3.0, 10.0),
    ) -> None:
        self.address, self.timeout = address, timeout
        self.deadline = math.inf  # monotonic seconds: each call gets a timeout that ends about then
        self.reached = False  # the agent has answered at least once
        self.index = 0  # X-Consul-Index of the last answer to `call`; 0: it had none
        self.stats = RequestStats()
        self.beat: Callable[[], None] = lambda: None  # called before each step that can take as long as a timeout
        self.rotations = 0  # how often a new token was read from the token's file
        self._token, self._token_file = token, token_file
        self._secrets = [secret for secret in (token, auth and auth.partition(":")[2]) if secret]
        self._session = session = requests.Session()
        session.trust_env = False  # no proxy and no .netrc: the agent is on this host or next to it
        session.headers["Accept-Encoding"] = "identity"  # on one host, compressing costs more than it saves
        scope = {"ns": namespace, "partition": partition}  # Consul's own CLI sends them with each request, too
        self._scope = {name: value for name, value in scope.items() if value}
        session.params = self._scope
        if token:
            session.headers[self.token_header] = token
        if auth:
            user, _, password = os.fsencode(auth).partition(b":")
            session.auth = HTTPBasicAuth(user, password)
        self._base = _base(address, ssl)
        self._fault = self._fault_in(address, token)
        self._expects = ""
        self._socket = address.removeprefix("unix://") if address.startswith("unix://") else ""
        self._server_name, self._pair = server_name, (client_cert, client_key)
        if self._socket:
            self._adapter: UnixAdapter | Adapter = UnixAdapter(self._socket)
            session.mount("http://", self._adapter)
            return
        if self._base.startswith("https:"):
            unfit = unreadable(verify, client_cert, client_key)
            fault = Fault(f"{unfit}: see {self._tls_files}", variable=self.prefix + "CACERT") if unfit else None
            self._fault = self._fault or fault
        self._adapter = Adapter(server_name)
        session.mount(self._base, self._adapter)
        if verify is False:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # it was asked for
        session.verify = _system_cas() if verify is True and self._base.startswith("https:") else verify
        name = server_name or "the host in the address"
        self._expects = f"expected a certificate for {name}, signed by what is in {session.verify}"
        if client_cert:
            session.cert = (client_cert, client_key) if client_key else client_cert

    @property
    def timeout(self) -> tuple[float, float]:
        """(connect, read) in seconds. Another timeout holds from the next call on."""
        left = max(MIN_TIMEOUT, self.deadline - time.monotonic())
        return min(self._timeout[0], left), min(self._timeout[1], left)

    @timeout.setter
    def timeout(self, timeout: tuple[float, float]) -> None:
        self._timeout = timeout

    def close(self) -> None:
        """Close the connection. A later call opens another."""
        self._session.close()

    def is_hung_up(self) -> bool:
        """Has the agent closed the idle connection, as it does when it ends? False without a connection."""
        return any(is_readable(channel) for channel in self._idle())

    def idle_descriptors(self) -> list[int]:
        """Those of the idle connections: readable when the agent closes them."""
        return [channel.fileno() for channel in self._idle()]

    def _idle(self) -> list[socket.socket]:
        queues = [pool.pool.queue for pool in self._adapter.pools() if pool.pool is not None]
        return [idle.sock for queue in queues for idle in queue if idle is not None and idle.sock is not None]

    def call(
        self, method: str, path: str, rule: str, query: dict[str, str] | None = None, body: object = None,
        *, states: tuple[int, ...] = (), limit: int = BODY_LIMIT,
    ) -> Any:  # fmt: skip
        """One call: the decoded answer, or None where Consul has no such thing.

        `rule`: the ACL rule that the call needs. `states`: statuses that are answers here, not errors. `limit`: the
        largest answer, in bytes. Raises ConfigError, Unavailable.
        """
        title = self.title(method, path)
        with self.stats.one(f"{method} {endpoint(path)}") as request:
            reply = self._exchange(method, path, query, body, title, limit)
            if reply.status == 403 and self._token_changed():
                reply = self._exchange(method, path, query, body, title, limit)
            self.reached, self.index = True, reply.index
            request.answered(reply.status)
            return self._decoded(reply, title, rule, states)

    def clock_offset(self) -> float:
        """How many seconds the agent's clock is ahead of this host's, at least; 0.0 if they may be the same.

        Every answer has a Date, cut to whole seconds (RFC 9110, 6.6.1). Raises ConfigError, Unavailable.
        """
        path = "/v1/status/leader"
        title = self.title("GET", path)
        began = time.time()
        reply = self._exchange("GET", path, None, None, title, BODY_LIMIT)
        ended = time.time()
        try:
            date = parsedate_to_datetime(reply.headers.get("Date", "")).timestamp()
        except (ValueError, OverflowError):
            raise Away(f"{title}: the answer has no Date") from None
        return max(0.0, date - ended) or min(0.0, date + 1 - began)

    def open(self) -> Channel:
        """A connection of its own, for a query whose answer is awaited elsewhere; nothing is sent yet."""
        if self._fault:
            raise ConfigError(self._fault)
        if self._socket:
            return Channel("localhost", 0, self.timeout[0], path=self._socket)
        try:
            place = urlsplit(self._base)
            host, port, is_tls = place.hostname, place.port, place.scheme == "https"
        except ValueError:
            host = None
        if not host:
            raise ConfigError(self._not_an_address(self.address))
        if not is_tls:
            return Channel(host, port or 80, self.timeout[0])
        try:
            context = tls_context(self._session.verify or False, *self._pair)
        except OSError as error:
            raise self._tls_failed(self.title("GET", "/v1"), error) from None
        return Channel(host, port or 443, self.timeout[0], context=context, server_name=self._server_name)

    def send(self, channel: Channel, path: str, query: dict[str, str]) -> None:
        """Send a GET; `channel.sock` becomes readable when its answer comes. Raises ConfigError, Unavailable."""
        self.beat()
        try:
            prepared = self._session.prepare_request(requests.Request("GET", self._base + path, params=query))
            if channel.sock is None:
                channel.connect()
            channel.sock.settimeout(self.timeout[1])
            channel.request("GET", prepared.path_url, headers=dict(prepared.headers))
        except (OSError, HTTPException) as error:
            channel.close()
            self.lost(path)
            raise self._failed(self.title("GET", path), error) from None

    def receive(self, channel: Channel, path: str, rule: str, limit: int) -> tuple[Any, int]:
        """The answer to what was sent, as `call` returns it, and its X-Consul-Index (0 if there is none)."""
        title = self.title("GET", path)
        self.beat()
        with self.stats.one(blocking(path), timed=False) as request:
            try:
                answer = channel.getresponse()
                reply = Reply(answer.status, cast("Mapping[str, str]", answer.headers), answer.read(limit + 1))
                if len(reply.content) > limit or answer.headers.get("Connection", "").lower() == "close":
                    channel.close()
            except (OSError, HTTPException) as error:
                channel.close()
                raise self._failed(title, error) from None
            request.answered(reply.status)
            if len(reply.content) > limit:
                raise ConfigError(_too_much(title, limit))
            if reply.status == 403:
                self._token_changed()  # the next query sends the new token
            return self._decoded(reply, title, rule, ()), reply.index

    def lost(self, path: str) -> None:
        """Count a query that could not be sent, or whose answer is not awaited any more."""
        self.stats.note(blocking(path), UNREACHABLE)

    def _exchange(
        self, method: str, path: str, query: dict[str, str] | None, body: object, title: str, limit: int
    ) -> Reply:
        if self._fault:
            raise ConfigError(self._fault)
        self.beat()
        try:
            with self._send(method, path, query, body) as response:
                return Reply(response.status_code, response.headers, _read(response, title, limit))
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
            raise ConfigError(self._not_an_address(self.address)) from None
        except OSError as error:  # all exceptions of requests are OSErrors, and so is a CA or key file that is missing
            raise self._failed(title, error) from None

    def _token_changed(self) -> bool:
        """Read the token's file again; True if it has another token, as after a rotation."""
        if not self._token_file:
            return False
        try:
            token = regular_file.read(self._token_file, TOKEN_LIMIT).decode("utf-8", "surrogateescape").rstrip("\r\n")
        except OSError:
            return False
        if not token or token == self._token or not _can_be_sent(token):
            return False
        self._token = self._session.headers[self.token_header] = token
        self._secrets.append(token)
        self.rotations += 1
        return True

    @property
    def which_token(self) -> str:
        """Where the refused token came from, without the token."""
        if not self._token:
            return f"no token is given ({self.token_variable}): it"
        return f"the token in {self._token_file}" if self._token_file else f"the token of {self.token_variable}"

    def _send(self, method: str, path: str, query: dict[str, str] | None, body: object) -> requests.Response:
        """Send; once more if the agent had closed the kept connection. Every call here is idempotent. `body`: bytes as
        they are, anything else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        for last in (False, True):
            try:
                return self._session.request(
                    method, self._base + path, params=query, data=data, timeout=self.timeout,
                    stream=True, allow_redirects=False,
                )  # fmt: skip
            except requests.exceptions.ConnectionError as error:
                if last or not isinstance(_root(error), ConnectionResetError | BrokenPipeError):
                    raise
        raise AssertionError("unreachable")

    def _failed(self, title: str, error: Exception) -> ConfigError | Away:
        """The error to raise when there was no answer, or half of one."""
        root = _root(error)
        reason = _reason(root)
        if isinstance(root, PermissionError):
            return ConfigError(
                f"{title}: {reason}: svcinit's user may not open the file or socket in {self.address_variable}, or a "
                "key file",
                variable=self.address_variable,
            )
        cut_off = isinstance(root, CUT_OFF)
        if type(error) is OSError or (not cut_off and isinstance(root, TLS_ERRORS)):
            return self._tls_failed(title, root)
        if not cut_off and isinstance(error, requests.exceptions.SSLError):
            return self._tls_failed(title, error)
        # with TLS 1.3 the agent's alert comes after our handshake: it is lost if the connection ends earlier
        hint = f"; does {self.server} accept {self.prefix}CLIENT_CERT?" if cut_off and self._session.cert else ""
        return Away(f"{title} failed: {reason}{hint}")

    def _tls_failed(self, title: str, error: BaseException) -> TlsFailed:
        if not isinstance(error, (*TLS_ERRORS, requests.exceptions.SSLError)):  # a file that cannot be read
            return TlsFailed(f"{title}: {_reason(error)}: see {self._tls_files}", variable=self.prefix + "CACERT")
        root = _root(error)
        advice, variable = self._tls_advice(root if isinstance(root, TLS_ERRORS) else OSError())
        return TlsFailed(f"{title}: TLS failed: {_reason(root)}; {advice}", variable=variable)

    def _tls_advice(self, error: OSError) -> tuple[str, str]:
        """What to do about a failure of TLS, and the variable to look at."""
        reason, cert, key = getattr(error, "reason", None), self.prefix + "CLIENT_CERT", self.prefix + "CLIENT_KEY"
        if reason in CERTIFICATE_ALERTS:
            if not self._session.cert:
                return f"{self.server} requires a client certificate: see {cert}, {key}", cert
            return f"{self.server} refuses the client certificate: see {cert} and {self.server}'s own CA", cert
        if reason in BROKEN_PAIR or (reason is None and (error.errno or 0) & 0xFFF == PEM_LIB):
            return f"expected a certificate and its key, both PEM: see {cert}, {key}", cert
        if reason in NO_TLS:
            return f"does {self.address_variable} name {self.server}'s port for https?", self.address_variable
        ca = [self.prefix + name for name in ("CACERT", "CAPATH", "TLS_SERVER_NAME")]
        return f"{self._expects}; see {', '.join(ca)}", ca[0]

    @property
    def _tls_files(self) -> str:
        return ", ".join(self.prefix + name for name in ("CACERT", "CAPATH", "CLIENT_CERT", "CLIENT_KEY"))

    def _decoded(self, reply: Reply, title: str, rule: str, states: tuple[int, ...]) -> Any:
        if reply.status == 200 or (reply.status in states and reply.content.startswith(b"{")):
            try:
                return reply.value()
            except (ValueError, RecursionError):
                raise Away(f"{title}: the answer is not JSON: is that a Consul agent?") from None
        if reply.is_absence:
            return None
        raise self._refusal(reply, title, rule)

    def _refusal(self, reply: Reply, title: str, rule: str) -> Away | Refused:
        """The error for an answer that is none of what was asked."""
        words, cause = reply.quoted(self._secrets), reply.cause
        if reply.status == 403:
            fault = f"{title} is denied ({words}): {self.which_token} needs {rule}"
            return Denied(fault, cause, rule=rule, variable="CONSUL_HTTP_TOKEN", file=self._token_file)
        if cause in REFUSED:
            return Refused(f"{title}: {REFUSED[cause]}: {words}", cause)
        if reply.status in RETRIED:
            return Away(f"{title} answered {reply.status}: {words}", reply.retry_after, cause)
        advice, variable = "is CONSUL_HTTP_ADDR a Consul agent that takes this?", "CONSUL_HTTP_ADDR"
        if reply.status == 401:
            advice, variable = "see CONSUL_HTTP_AUTH", "CONSUL_HTTP_AUTH"
        elif reply.status == 400 and self._scope:
            variable = "CONSUL_NAMESPACE" if "ns" in self._scope else "CONSUL_PARTITION"
            advice = f"is it Consul Enterprise, which {variable} needs?"
        return Refused(f"{title} answered {reply.status}: {words}; {advice}", cause, variable=variable)

    def record(self, method: str, path: str, answer: object) -> dict[str, Any]:
        """`answer`, if it is a JSON object with something in it. Raises Away."""
        if not isinstance(answer, dict) or not answer:
            raise Away(f"{self.title(method, path)}: the answer is empty or no JSON object: is that a Consul agent?")
        return answer

    def title(self, method: str, path: str) -> str:
        """How a message names a call."""
        return f"{self.system} at {self.address}: {method} {path}"

    def _fault_in(self, address: str, token: str | None) -> Fault | None:
        """Why no request can be made with these, without the token in it; None if one can."""
        scheme, found, rest = address.partition("://")
        if "@" in (rest if found else address).partition("/")[0]:
            advice = f"{self.address_variable} has a user name in it"
            if self.prefix == "CONSUL_":
                advice += ": put user and password into CONSUL_HTTP_AUTH"
            return Fault(advice, variable=self.address_variable)
        if found and scheme not in (*SCHEMES, "unix"):
            return self._not_an_address(address)
        if not _can_be_sent(token or ""):
            message = f"{self.token_variable} has a space, line end or other character that a token cannot have"
            return Fault(message, variable=self.token_variable)
        return None

    def _not_an_address(self, address: str) -> Fault:
        message = f"{self.address_variable}={address!r}: expected {self.forms}"
        return Fault(message, variable=self.address_variable)


def _base(address: str, ssl: bool) -> str:
    if address.startswith("unix://"):
        return "http://localhost"
    scheme, found, rest = address.partition("://")
    if not found:
        scheme, rest = "http", address
    if ssl and scheme == "http":  # as Consul's CLI does
        scheme = "https"
    host = f"localhost{rest}" if rest.startswith(":") else rest
    return f"{scheme}://{host.rstrip('/')}"


def _can_be_sent(token: str) -> bool:
    return token.isascii() and token.isprintable() and token == token.strip()


def is_readable(channel: socket.socket) -> bool:
    """Is there something to read? On an idle connection that is its end."""
    poll = select.poll()  # select(2) takes no descriptor above 1023
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(0))


def _system_cas() -> bool | str:
    """The CAs that the system trusts, as Consul's CLI uses; otherwise those of requests."""
    paths = tls.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile
    return paths.capath if paths.capath and os.listdir(paths.capath) else True


def _read(response: requests.Response, title: str, limit: int) -> bytes:
    content = bytearray()
    for chunk in response.iter_content(CHUNK):
        content += chunk
        if len(content) > limit:
            raise ConfigError(_too_much(title, limit))
    return bytes(content)


def _too_much(title: str, limit: int) -> str:
    return f"{title}: the answer has more than {limit >> 20} MiB; for KV, name a narrower prefix"


def _reason(error: BaseException) -> str:
    """The system's or library's own words for an error, on one line, for people."""
    words = str(getattr(error, "strerror", None) or error or type(error).__name__)
    return " ".join(words.split(">: ", 1)[-1].split())


def _root(error: BaseException) -> BaseException:
    """The reason at the bottom of the wrapping by requests and urllib3."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        wrapped = (getattr(following, "reason", None), *following.args)
        inner = next((part for part in wrapped if isinstance(part, BaseException)), None)
        following = inner or following.__cause__ or following.__context__
    return seen[-1]
