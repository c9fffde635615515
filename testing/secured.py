"""A Consul that denies what no token allows, or speaks TLS with a certificate authority of the test's own."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any, NamedTuple

from testing import planted
from testing.consul import LOOPBACK, ConsulAgent, free_ports, tokens

ROOT_TOKEN = planted.token()
SERVER_NAME = "server.dc1.consul"


class Token(NamedTuple):
    accessor: str
    secret: str


class GuardedConsul(ConsulAgent):
    """ACLs on, default_policy deny; `token` may all."""

    def __init__(self, folder: pathlib.Path, *, config: dict[str, Any] | None = None, address: str = LOOPBACK) -> None:
        acl = {"enabled": True, "default_policy": "deny", "tokens": tokens(ROOT_TOKEN)}
        super().__init__(folder, config={"acl": acl, **(config or {})}, address=address)
        self.token = ROOT_TOKEN
        self._policies = 0

    def grant(self, rules: str, secret: str = "") -> Token:
        """A new token that may what `rules` say; `secret`: its id, so that a revoked one can be given back."""
        self._policies += 1
        policy = self._put("/v1/acl/policy", {"Name": f"policy-{self._policies}", "Rules": rules})
        wanted = {"Policies": [{"ID": policy["ID"]}], "SecretID": secret or planted.token()}
        made = self._put("/v1/acl/token", wanted)
        return Token(made["AccessorID"], made["SecretID"])

    def let_anonymous(self, rules: str) -> None:
        """What needs no token from now on; DNS asks with none."""
        self._policies += 1
        policy = self._put("/v1/acl/policy", {"Name": f"policy-{self._policies}", "Rules": rules})
        self._put("/v1/acl/token/00000000-0000-0000-0000-000000000002", {"Policies": [{"ID": policy["ID"]}]})

    def revoke(self, token: Token) -> None:
        self.call("DELETE", f"/v1/acl/token/{token.accessor}")

    def _put(self, path: str, body: object) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.call("PUT", path, json.dumps(body).encode()))
        return answer


class Pair(NamedTuple):
    """A certificate and its key, by path."""

    certificate: str
    key: str


class Authority:
    """Signs certificates, by openssl."""

    def __init__(self, folder: pathlib.Path, name: str = "ca") -> None:
        self.folder, self.name = folder, name
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = str(folder / f"{name}.pem")
        self._openssl(
            "req", "-x509", *_new_key(folder / f"{name}-key.pem"), "-out", self.certificate, "-days", "2",
            "-subj", f"/CN={name} of the tests",
        )  # fmt: skip

    def issue(self, name: str, *alternatives: str, days: int = 2) -> Pair:
        """A certificate for `alternatives` (DNS:..., IP:...); below 0 `days` it has expired."""
        key, request, extensions, certificate = (
            self.folder / f"{name}{end}" for end in ("-key.pem", ".csr", ".ext", ".pem")
        )
        self._openssl("req", "-new", *_new_key(key), "-out", str(request), "-subj", f"/CN={name}")
        extensions.write_text(f"subjectAltName={','.join(alternatives)}\n" if alternatives else "")
        self._openssl(
            "x509", "-req", "-in", str(request), "-CA", self.certificate, "-CAkey",
            str(self.folder / f"{self.name}-key.pem"), "-CAcreateserial", "-days", str(days),
            "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        return Pair(str(certificate), str(key))

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


def _new_key(path: pathlib.Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path)]


class TlsConsul(GuardedConsul):
    """Speaks HTTPS too, and there only with those who have a certificate of the authority's. Tests use plain HTTP."""

    def __init__(self, folder: pathlib.Path, authority: Authority, server: Pair) -> None:
        (self.https_port,) = free_ports(1)
        config = {
            "ca_file": authority.certificate,
            "cert_file": server.certificate,
            "key_file": server.key,
            "verify_incoming": True,
            "ports": {"https": self.https_port},
        }
        super().__init__(folder, config=config)
        self.authority = authority
        self.client = authority.issue("client")

    @property
    def env(self) -> dict[str, str]:
        return {
            **super().env,
            "CONSUL_HTTP_ADDR": f"https://{self.address}:{self.https_port}",
            "CONSUL_CACERT": self.authority.certificate,
            "CONSUL_CLIENT_CERT": self.client.certificate,
            "CONSUL_CLIENT_KEY": self.client.key,
        }
