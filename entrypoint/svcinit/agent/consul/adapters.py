"""How `requests` reaches an agent: one kept connection, a name of our own in the certificate, a unix socket."""

from __future__ import annotations

import os
import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import NewConnectionError

from svcinit import regular_file


def unfit(*paths: object) -> str:
    """Why certificates and keys are none that OpenSSL may open: it would wait at a fifo. The rest it tells itself."""
    for path in paths:
        try:
            if isinstance(path, str) and not os.path.isdir(path):
                regular_file.read(path)
        except regular_file.UnfitError as error:
            return f"{path} cannot be read: {error.strerror}: see CONSUL_CACERT, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY"
        except OSError:
            continue
    return ""


class Adapter(HTTPAdapter):
    """requests' own, keeping one connection, that can expect another name in the certificate than in the address."""

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
            pool.close()  # else it stays open until the garbage collector comes by
        super().close()


class _UnixConnection(HTTPConnection):
    """urllib3's own, on another kind of socket."""

    path = ""

    def _new_conn(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            channel.settimeout(self.timeout)
            channel.connect(self.path)
        except OSError as error:
            channel.close()
            raise NewConnectionError(self, str(error)) from error
        return channel


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
