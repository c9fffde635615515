"""The local Consul agent's HTTP API, over `requests`: one session, one connection, a timeout on every call.

Nothing that it raises holds a token or a value. What is worth another try is Unavailable, the rest ConfigError.
Source: Consul's "HTTP API Structure", "KV Store", "Agent" and "Service - Agent" pages.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from svcinit.errors import ConfigError, Unavailable

BODY_LIMIT = 64 << 20  # bytes; a KV value is at most 512 KiB, so this is a prefix with far too much below it
CHUNK = 1 << 16
QUOTE_LIMIT = 200  # characters of an agent's own words in a message
JUST_AWAY = (429, 500, 502, 503, 504)  # "No cluster leader" and "rpc error" come as 500


class Away(Unavailable):
    """The agent cannot serve now; `retry_after` is how many seconds it asked to be left alone, or None."""

    def __init__(self, fault: str, retry_after: float | None = None) -> None:
        super().__init__(fault)
        self.retry_after = retry_after


class Consul:
    """A client of one agent at `address`, in any form that Consul's own CLI takes in CONSUL_HTTP_ADDR.

    `ssl` makes https of an address without a scheme; `verify` is True, False, or a CA file or directory; `auth` is
    USER:PASSWORD; `timeout` is (connect, read) in seconds, for each read.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        auth: str | None = None,
        ssl: bool = False,
        verify: bool | str = True,
        client_cert: str | None = None,
        client_key: str | None = None,
        server_name: str | None = None,
        timeout: tuple[float, float] = (3.0, 10.0),
    ) -> None:
        self.address, self._timeout = address, timeout
        self._session = session = requests.Session()
        session.trust_env = False  # no proxy and no .netrc stands between us and the agent next door
        session.verify = verify
        if client_cert:
            session.cert = (client_cert, client_key) if client_key else client_cert
        if token:
            session.headers["X-Consul-Token"] = token
        if auth:
            user, _, password = auth.partition(":")
            session.auth = (user, password)
        if address.startswith("unix://"):
            self._base = "http://localhost"
            session.mount("http://", _UnixAdapter(address.removeprefix("unix://")))
        else:
            self._base = (address if "://" in address else f"http{'s' if ssl else ''}://{address}").rstrip("/")
            session.mount(self._base, _Adapter(server_name))

    def close(self) -> None:
        self._session.close()

    def kv(self, prefix: str) -> dict[str, bytes]:
        """All keys below the folder `prefix`, by full name, in one recursive GET; none: an empty mapping.

        Raises ConfigError (denied), Unavailable.
        """
        folder = prefix.strip("/") + "/"
        path = "/v1/kv/" + urllib.parse.quote(folder)
        entries = self._call("GET", path, f'key_prefix "{folder}" {{ policy = "read" }}', {"recurse": ""})
        try:
            return {
                entry["Key"]: base64.b64decode(entry["Value"] or "", validate=True)
                for entry in entries or ()
                if not entry["Key"].endswith("/")
            }
        except (TypeError, KeyError, ValueError, AttributeError):
            raise Away(f"{self._told('GET', path)} answered something that is no list of keys") from None

    def agent_self(self) -> dict[str, Any]:
        """The agent's own configuration (`Config`) and membership (`Member`): GET /v1/agent/self."""
        answer = self._call("GET", "/v1/agent/self", 'agent_prefix "" { policy = "read" }')
        if not isinstance(answer, dict):
            raise Away(f"{self._told('GET', '/v1/agent/self')} answered nothing useful")
        return answer

    def service(self, service_id: str) -> dict[str, Any] | None:
        """The agent's record of a local service, or None: GET /v1/agent/service/:service_id."""
        path = "/v1/agent/service/" + urllib.parse.quote(service_id, safe="")
        answer = self._call("GET", path, 'service_prefix "" { policy = "read" }')
        return answer if isinstance(answer, dict) else None

    def register(self, definition: dict[str, Any]) -> None:
        """Register, or replace, a service with its checks: PUT /v1/agent/service/register."""
        rule = f'service "{definition["Name"]}" {{ policy = "write" }}'
        self._call("PUT", "/v1/agent/service/register", rule, {"replace-existing-checks": "true"}, definition)

    def deregister(self, service_id: str) -> bool:
        """Deregister; False when the agent did not know the service: PUT /v1/agent/service/deregister/:service_id.

        Asks first, since agents before 1.12 answer an unknown id with the 500 that stands for any trouble.
        """
        if self.service(service_id) is None:
            return False
        path = "/v1/agent/service/deregister/" + urllib.parse.quote(service_id, safe="")
        self._call("PUT", path, 'the service\'s own: service "NAME" { policy = "write" }')
        return True

    def _call(self, method: str, path: str, rule: str, query: dict[str, str] | None = None, body: object = None) -> Any:
        """One call: the decoded answer, None for 404 or an empty one. `rule` is the ACL rule that it takes."""
        told = self._told(method, path)
        try:
            with self._send(method, path, query, body) as response:
                content = _read(response, told)
        except requests.exceptions.SSLError as error:
            raise ConfigError(
                f"{told}: TLS failed: {_root(error)}; see CONSUL_CACERT, CONSUL_TLS_SERVER_NAME"
            ) from None
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
            raise ConfigError(
                f"CONSUL_HTTP_ADDR={self.address!r}: expected HOST:PORT, http(s)://… or unix://…"
            ) from None
        except OSError as error:  # every one of requests' own is one; a CA file that is not there is one, too
            if isinstance(error, requests.exceptions.RequestException):
                raise Away(f"{told} failed: {_root(error)}") from None
            raise ConfigError(f"{told}: {error}") from None
        return self._decoded(response, content, told, rule)

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
                if last or not _was_reset(error):
                    raise
        raise AssertionError("unreachable")

    def _decoded(self, response: requests.Response, content: bytes, told: str, rule: str) -> Any:
        status, words = response.status_code, content[:QUOTE_LIMIT].decode("utf-8", "replace").strip()
        if status == 200:
            if not content:
                return None
            try:
                return json.loads(content)
            except ValueError:
                raise Away(f"{told} answered something that is not JSON") from None
        if status == 404:
            return None
        if status == 403:
            raise ConfigError(f"{told} is denied: the token (CONSUL_HTTP_TOKEN) needs {rule}")
        if status in JUST_AWAY:
            raise Away(f"{told} answered {status}: {words}", _seconds(response.headers.get("Retry-After")))
        raise ConfigError(f"{told} answered {status}: {words}")

    def _told(self, method: str, path: str) -> str:
        return f"Consul at {self.address}: {method} {path}"


def _read(response: requests.Response, told: str) -> bytes:
    content = bytearray()
    for chunk in response.iter_content(CHUNK):
        content += chunk
        if len(content) > BODY_LIMIT:
            raise ConfigError(f"{told} answered more than {BODY_LIMIT >> 20} MiB: name a narrower prefix")
    return bytes(content)


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isascii() and header.isdigit() else None


def _was_reset(error: BaseException) -> bool:
    return any(isinstance(cause, ConnectionResetError | BrokenPipeError) for cause in _causes(error)) or (
        "RemoteDisconnected" in repr(error)
    )


def _root(error: BaseException) -> str:
    """The reason at the bottom of requests' and urllib3's wrapping, in a few words."""
    cause = list(_causes(error))[-1]
    words = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return str(words).split(">: ", 1)[-1]


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        inner = getattr(following, "reason", None) or next(
            (a for a in following.args if isinstance(a, BaseException)), None
        )
        following = inner if isinstance(inner, BaseException) else following.__cause__ or following.__context__
    return found


class _Adapter(HTTPAdapter):
    """requests' own, keeping one connection, that can expect another name in the certificate than in the address."""

    def __init__(self, server_name: str | None) -> None:
        self._server_name = server_name
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        if self._server_name:
            options["server_hostname"] = options["assert_hostname"] = self._server_name
        super().init_poolmanager(*args, **options)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, timeout: Any) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def _new_conn(self) -> Any:
        import socket

        from urllib3.exceptions import NewConnectionError

        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(3.0)
        try:
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            raise NewConnectionError(self, f"{error.strerror}: {self._path}") from error
        return connection


class _UnixPool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", maxsize=1)
        self._path = path

    def _new_conn(self) -> Any:
        return _UnixConnection(self._path, self.timeout.connect_timeout)


class _UnixAdapter(HTTPAdapter):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        self._pool = _UnixPool(path)
        super().__init__()

    def get_connection_with_tls_context(self, *_args: Any, **_options: Any) -> Any:
        return self._pool

    def close(self) -> None:
        self._pool.close()
