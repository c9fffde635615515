"""Connections to an agent: adapters for `requests`, and a channel for a blocking query."""

from __future__ import annotations

import http.client
import os
import re
import socket
from typing import TYPE_CHECKING, Any

from requests import certs
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import NewConnectionError
from urllib3.util import create_urllib3_context

from svcinit import regular_file

if TYPE_CHECKING:
    import ssl

# the names of the files that OpenSSL opens in a directory of CA certificates (X509_LOOKUP_hash_dir(3))
HASHED = re.compile(r"[0-9a-f]{8}\.r?[0-9]+")


def unreadable(*paths: object) -> str:
    """Why a certificate or key file cannot be used, or "". Only files that are not regular or too large count: OpenSSL
    would block on a fifo. OpenSSL reports all other faults itself."""
    for path in paths:
        for file in _files(path) if isinstance(path, str) else ():
            try:
                regular_file.read(file)
            except regular_file.UnfitError as error:
                return f"{file} cannot be read: {error.strerror}"
            except OSError:
                continue
    return ""


def _files(path: str) -> list[str]:
    """The file, or the files that OpenSSL opens in the directory."""
    try:
        return [os.path.join(path, name) for name in os.listdir(path) if HASHED.fullmatch(name)]
    except OSError:  # it is not a directory
        return [path]


class Adapter(HTTPAdapter):
    """Keeps one connection. `server_name`: the expected name in the certificate, where the address has another."""

    def __init__(self, server_name: str | None) -> None:
        self._server_name = server_name
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        if self._server_name:
            options["server_hostname"] = options["assert_hostname"] = self._server_name
        super().init_poolmanager(*args, **options)

    def pools(self) -> list[HTTPConnectionPool]:
        return [self.poolmanager.pools[key] for key in self.poolmanager.pools.keys()]  # noqa: SIM118 (no mapping)

    def close(self) -> None:
        for pool in self.pools():
            pool.close()  # otherwise the connection stays open until the garbage collector runs
        super().close()


class _UnixConnection(HTTPConnection):
    path = ""

    def connect(self) -> None:
        timeout = self.timeout if isinstance(self.timeout, float | int) else None
        try:
            self.sock = _unix_socket(self.path, timeout)
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error


class UnixAdapter(HTTPAdapter):
    """HTTP over the unix socket at `path`."""

    def __init__(self, path: str) -> None:
        self._pool = HTTPConnectionPool("localhost", maxsize=1)
        self._pool.ConnectionCls = type("_Connection", (_UnixConnection,), {"path": path})
        super().__init__()

    def get_connection_with_tls_context(self, *_args: Any, **_options: Any) -> HTTPConnectionPool:
        return self._pool

    def pools(self) -> list[HTTPConnectionPool]:
        return [self._pool]

    def close(self) -> None:
        self._pool.close()


class Channel(http.client.HTTPConnection):
    """A connection of its own, by the standard library: `sock` becomes readable when the answer comes.

    `path`: of a unix socket; otherwise TCP to `host`, with TLS where `context` is given.
    """

    def __init__(
        self, host: str, port: int, timeout: float,
        *, path: str = "", context: ssl.SSLContext | None = None, server_name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(host, port, timeout=timeout)
        self._path, self._context, self._server_name = path, context, server_name or host

    def connect(self) -> None:
        if self._path:
            self.sock = _unix_socket(self._path, self.timeout)
            return
        self.sock = socket.create_connection((self.host, self.port), self.timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            try:
                self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server_name)
            except OSError:
                self.close()
                raise


def tls_context(verify: bool | str, client_cert: str | None, client_key: str | None) -> ssl.SSLContext:
    """As `requests` makes it. `verify`: a file or directory of CA certificates, True for those of requests, or False.

    Raises OSError, which ssl.SSLError is.
    """
    import ssl

    context = create_urllib3_context()
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        places = certs.where() if verify is True else str(verify)  # type: ignore[attr-defined]
        context.check_hostname = True  # create_urllib3_context leaves it to urllib3
        context.load_verify_locations(**{"capath" if os.path.isdir(places) else "cafile": places})
    if client_cert:
        context.load_cert_chain(client_cert, client_key)
    return context


def _unix_socket(path: str, timeout: float | None) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.settimeout(timeout)
        channel.connect(path)
    except OSError:
        channel.close()
        raise
    return channel
