"""Users that a real Vault makes in a real MariaDB, for a service under svcinit."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from testing import planted
from testing.consul import LOOPBACK, free_ports
from testing.vault import VaultServer
from testing.waiting import eventually, stays
from tests.e2e.conftest import Service
from tests.e2e.failing import is_passing

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(120)]

ADMIN = planted.secret("admin")
CREATE = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'; GRANT SELECT ON *.* TO '{{name}}'@'%';"
TEMPLATE = "{{ secret('database/creds/shop').username }} {{ secret('database/creds/shop').password }}"
TTL, MOST = 6, 14  # seconds of a lease, and of all its renewals


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    assert found, f"there is no {name}: run the tests by `make test-parts`"
    return found


class MariaDb:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)

    def start(self) -> None:
        data = self.folder / "data"
        subprocess.run(
            [program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--user=root",
             "--auth-root-authentication-method=normal", "--skip-test-db"], check=True, capture_output=True,
        )  # fmt: skip
        (self.folder / "init.sql").write_text(
            f"CREATE USER 'vault'@'%' IDENTIFIED BY '{ADMIN}';\nGRANT ALL ON *.* TO 'vault'@'%' WITH GRANT OPTION;\n"
        )
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [program("mariadbd"), "--no-defaults", f"--datadir={data}", "--user=root", f"--port={self.port}",
                 f"--bind-address={LOOPBACK}", f"--socket={self.folder}/s", f"--init-file={self.folder}/init.sql",
                 "--skip-log-bin", "--innodb-buffer-pool-size=8M"], stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        eventually(lambda: self.accepts("vault", ADMIN), f"MariaDB answers; {self.folder}/log", 60, 0.2)

    def accepts(self, user: str, password: str) -> bool:
        done = subprocess.run(
            [program("mariadb"), "--no-defaults", "-h", LOOPBACK, "-P", str(self.port), "-u", user, "-e", "SELECT 1"],
            env={"MYSQL_PWD": password, "PATH": os.defpath}, capture_output=True, check=False, timeout=20,
        )  # fmt: skip
        return done.returncode == 0

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def database(tmp_path: pathlib.Path) -> Iterator[MariaDb]:
    (tmp_path / "db").mkdir()
    made = MariaDb(tmp_path / "db")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def vault(tmp_path: pathlib.Path, database: MariaDb) -> Iterator[VaultServer]:
    with VaultServer(tmp_path / "vault") as server:
        server.mount("database", "database")
        server.call("POST", "database/config/shop", {
            "plugin_name": "mysql-database-plugin", "allowed_roles": "shop", "username": "vault", "password": ADMIN,
            "connection_url": "{{username}}:{{password}}@tcp" + f"({LOOPBACK}:{database.port})/",
        })  # fmt: skip
        server.call("POST", "database/roles/shop", {
            "db_name": "shop", "creation_statements": CREATE, "default_ttl": f"{TTL}s", "max_ttl": f"{MOST}s",
        })  # fmt: skip
        server.policy("shop", 'path "database/creds/shop" { capabilities = ["read"] }')
        yield server


@pytest.fixture
def shop(service: Service, vault: VaultServer) -> Service:
    service.env |= {
        "VAULT_ADDR": vault.url, "VAULT_TOKEN": vault.token(policies=["shop"], ttl="1h"), "SVCINIT_WATCH": "1",
        "SVCINIT_SETTLE": "0s",
    }  # fmt: skip
    return service


def test_the_service_always_has_a_user_that_the_database_accepts(
    shop: Service, vault: VaultServer, database: MariaDb
) -> None:
    target = shop.template("db.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    began, seen = time.monotonic(), dict[str, float]()
    os.kill(svcinit.child("presence"), signal.SIGKILL)
    svcinit.says("presence died")
    svcinit.signal(signal.SIGHUP)
    while time.monotonic() < began + 2.5 * MOST:
        user, password = target.read_text().split()
        if user not in seen:
            seen[user] = time.monotonic() - began
        assert database.accepts(user, password), f"{user} after {time.monotonic() - began:.1f} s; {seen}"
        assert len(vault.leases("database/creds/shop")) <= 2
        time.sleep(0.2)
    assert len(seen) >= 3
    times = list(seen.values())
    assert times[1] > TTL, f"renewed beyond its first time: {times}"
    assert shop.notes.count("SIGHUP") >= 3
    assert svcinit.stop() == 0
    for file in (shop.folder / "svcinit").rglob("*"):
        assert not file.is_file() or password not in file.read_text(errors="replace"), file


def test_a_revoked_lease_is_replaced(shop: Service, vault: VaultServer, database: MariaDb) -> None:
    vault.call("POST", "database/roles/shop", {
        "db_name": "shop", "creation_statements": CREATE, "default_ttl": f"{TTL}s", "max_ttl": "1h",
    })  # fmt: skip
    target = shop.template("db.ini", TEMPLATE)
    svcinit = shop.start()
    is_passing(shop)
    first = target.read_text()
    (lease,) = vault.leases("database/creds/shop")
    vault.call("PUT", "sys/leases/revoke", {"lease_id": f"database/creds/shop/{lease}", "sync": True})
    eventually(lambda: target.read_text() != first, "another user", 20)
    assert database.accepts(*target.read_text().split())
    assert svcinit.stop() == 0


def test_a_database_that_is_away_at_a_start_is_waited_for(shop: Service, database: MariaDb) -> None:
    os.kill(database.process.pid, signal.SIGSTOP)
    target = shop.template("db.ini", TEMPLATE)
    svcinit = shop.start()
    stays(lambda: not target.exists(), "no file without a user")
    os.kill(database.process.pid, signal.SIGCONT)
    is_passing(shop)
    assert database.accepts(*target.read_text().split())
    assert svcinit.stop() == 0
