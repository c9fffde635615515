"""A real Vault of a test's own, with its data on disk: it can be killed, started again, sealed and unsealed."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from testing import planted
from testing.consul import LOOPBACK, free_ports
from testing.secured import Pair
from testing.waiting import eventually


def binary() -> str:
    """The program that `make test-parts` built."""
    found = os.environ.get("VAULT_BINARY")
    assert found, "VAULT_BINARY names no vault: run the tests by `make test-parts`"
    return found


class VaultServer:
    """`vault server` on a free port, initialized and unsealed; use as a context manager. `tls`: its certificate."""

    def __init__(self, folder: pathlib.Path, tls: Pair | None = None) -> None:
        self.folder, self.tls = folder, tls
        self.port, self._cluster_port = free_ports(2)
        self.root = self.unseal_key = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._plain_port = free_ports(1)[0]  # of the test itself

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> pathlib.Path:
        return self.folder / "vault.log"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        plain = {"tcp": {"address": f"{LOOPBACK}:{self._plain_port}", "tls_disable": True}}
        given: dict[str, Any] = {
            "address": f"{LOOPBACK}:{self.port}",
            "cluster_address": f"{LOOPBACK}:{self._cluster_port}",
        }
        if self.tls:
            given |= {"tls_cert_file": self.tls.certificate, "tls_key_file": self.tls.key}
        else:
            given["tls_disable"] = True
        settings = {
            "storage": {"file": {"path": str(self.folder / "data")}},
            "listener": [plain, {"tcp": given}],
            "disable_mlock": True,
            "api_addr": self.url,
            "default_lease_ttl": "1h",
        }
        config = self.folder / "vault.json"
        config.write_text(json.dumps(settings))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary(), "server", "-config", str(config)], stdout=log, stderr=log, start_new_session=True
            )
        eventually(self._answers, f"Vault answers; its log: {self.log}", 30)
        if not self.root:
            made = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
            self.root, self.unseal_key = made["root_token"], made["keys"][0]
        self.unseal()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def seal(self) -> None:
        self.call("PUT", "sys/seal", {})

    def unseal(self) -> None:
        self.call("PUT", "sys/unseal", {"key": self.unseal_key})
        eventually(self._is_active, "Vault is unsealed", 20)

    def call(
        self, method: str, path: str, body: object = None, token: str = "", headers: Mapping[str, str] | None = None
    ) -> Any:
        """The decoded answer. Raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{LOOPBACK}:{self._plain_port}/v1/{path}", data=data, method=method)
        for name, value in {"X-Vault-Token": token or self.root, **(headers or {})}.items():
            request.add_header(name, value)
        with urllib.request.urlopen(request, timeout=20) as answer:
            content = answer.read()
        return json.loads(content) if content else {}

    def mount(self, path: str, kind: str, **more: object) -> None:
        self.call("POST", f"sys/mounts/{path}", {"type": kind, **more})

    def put(self, path: str, **fields: object) -> None:
        """A secret, by its API path."""
        is_second = "/data/" in path
        self.call("POST", path, {"data": fields} if is_second else fields)

    def policy(self, name: str, *rules: str) -> None:
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": "\n".join(rules)})

    def token(self, **how: object) -> str:
        """A new token, by the fields of auth/token/create."""
        made = self.call("POST", "auth/token/create", {"id": planted.token(), **how})
        found: str = made["auth"]["client_token"]
        return found

    def leases(self, prefix: str) -> list[str]:
        """The ids of all leases below a prefix, by their last part."""
        try:
            found: list[str] = self.call("LIST", f"sys/leases/lookup/{prefix}")["data"]["keys"]
        except urllib.error.HTTPError:
            return []
        return found

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log.read_text()[-2000:]
        try:
            self.call("GET", "sys/seal-status")
        except OSError:
            return False
        return True

    def _is_active(self) -> bool:
        try:
            self.call("GET", "sys/leader")
            return bool(self.call("GET", "sys/health"))
        except OSError:
            return False
