"""A hosted MySQL, which knows nothing of Consul: in DNS for as long as it answers, at whatever address its name has."""

from __future__ import annotations

import pathlib
import socket
import time
from collections.abc import Callable, Iterator

import dns.message
import dns.query
import pytest

from testing.consul import ConsulAgent, free_ports
from testing.docker import Container, Engine, build, docker
from testing.waiting import eventually
from tests.docker.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(300)]
NAME = "shop.rds.example"
PATIENCE = 60.0  # seconds
FEW_ERRORS = "--max-connect-errors=2"  # with so many probes that break off the handshake it would block their host


class Place:
    """A network with a Consul, where the database may be."""

    def __init__(self, folder: pathlib.Path, engine: Engine, images: dict[str, str]) -> None:
        self.engine, self.images = engine, images
        self.network = engine.network()
        self.consul = ConsulAgent(folder / "consul", address=self.network.gateway)

    def run(self, image: str, *command: str, options: tuple[str, ...] = (), **settings: str) -> Container:
        env = {**self.consul.env, "SVCINIT_START_TIMEOUT": f"{PATIENCE:g}s", **settings}
        network = "--network", self.network.name
        return self.engine.run(self.images[image], *command, env=env, options=[*network, *options])

    def database(self, number: int) -> Container:
        """Started, with this last byte of its address; PREFIX.NUMBER is what NAME resolves to then."""
        options = "--ip", f"{self.network.prefix}.{number}", "--network-alias", NAME
        return self.run("database", "mariadbd", "--bind-address=0.0.0.0", "--init-file=/init.sql", FEW_ERRORS,
                        "--innodb-buffer-pool-size=32M", options=options)  # fmt: skip

    def keeper(self) -> Container:
        return self.run(
            "mysql-external", SVCINIT_ADVERTISE=f"host:{NAME}", SVCINIT_TAGS="primary", SVCINIT_SYNC_INTERVAL="1s",
            SVCINIT_CHECK_INTERVAL="300ms", SVCINIT_CHECK_TIMEOUT="5s",
        )  # fmt: skip

    def found(self) -> list[str]:
        """What Consul's DNS says."""
        question = dns.message.make_query("primary.mysql.service.consul", "SRV")
        answer = dns.query.udp(question, self.consul.address, timeout=5, port=self.consul.dns_port)
        return [str(record.target) for rrset in answer.answer for record in rrset]

    def output(self) -> str:
        """What the checks found, as the agent has it: its servers hear of it only now and then."""
        return str([check["Output"] for check in self.consul.get("/v1/agent/checks").values()])

    def is_found(self, *names: str) -> None:
        try:
            eventually(lambda: self.found() == list(names), f"DNS has {names}", PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.output()}") from None

    def is_gone(self) -> None:
        eventually(lambda: not self.consul.instances("mysql"), "nothing of it is left in the catalog")


@pytest.fixture
def place(
    tmp_path: pathlib.Path, engine: Engine, image: Callable[[str], str], base_image: str, bare_image: str
) -> Iterator[Place]:
    database = build(ROOT / "examples" / "site" / "mariadb", "svcinit-site-mariadb", BASE_IMAGE=base_image)
    images = {"mysql-external": image("mysql-external"), "database": database, "app": bare_image}
    made = Place(tmp_path, engine, images)
    with made.consul:
        yield made


def test_it_is_in_dns_while_it_answers_and_where_its_name_leads_to(
    place: Place, tmp_path: pathlib.Path, report: Callable[[str], None]
) -> None:
    (tmp_path / "templates" / "etc").mkdir(parents=True)
    (tmp_path / "templates" / "etc" / "app.ini.j2").write_text('{{ service("primary.mysql") | hostports | join(",") }}')
    app = place.run(
        "app", "sleep", "infinity", options=("--volume", f"{tmp_path}/templates:/etc/svcinit/templates:ro"),
        SVCINIT_WAIT_FOR="mysql", SVCINIT_RELOAD="none",
    )  # fmt: skip
    app.says("mysql: 0 of 1 instances in DNS", PATIENCE)
    keeper = place.keeper()
    eventually(lambda: place.consul.instances("mysql"), f"it is registered: {keeper.logs}", PATIENCE)
    assert place.found() == []

    first = place.database(21)
    place.is_found(f"{NAME}.")
    app.says("started sleep", PATIENCE)
    assert app.read("/etc/app.ini").decode() == f"{place.network.prefix}.21:3306"

    began = time.monotonic()
    docker("rm", "--force", "--volumes", first.id)
    place.is_found()
    report(f"a hosted database killed: out of DNS after {time.monotonic() - began:.1f} s, 3 checks of 5 s at most")
    place.database(22)
    place.is_found(f"{NAME}.")
    app.kill("HUP")
    app.says("reload 1: done", PATIENCE)
    assert app.read("/etc/app.ini").decode() == f"{place.network.prefix}.22:3306"

    assert keeper.stop() == 0
    place.is_gone()


def test_another_server_at_the_port_of_the_database_is_no_obstacle(place: Place) -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        settings = {"SVCINIT_ADVERTISE": f"host:{NAME}", "SVCINIT_PORT": str(port), "SVCINIT_CHECK": "none"}
        keeper = place.engine.run(place.images["mysql-external"], env={**place.consul.env, **settings})
        eventually(lambda: place.consul.instances("mysql"), f"it is registered: {keeper.logs}", 20)


def test_when_one_of_two_keepers_stops_the_other_one_keeps_it(place: Place) -> None:
    place.database(21)
    first, second = place.keeper(), place.keeper()
    eventually(lambda: len(place.consul.passing("mysql")) == 2, "both have registered it", PATIENCE)
    assert place.found() == [f"{NAME}."]
    assert first.stop() == 0
    eventually(lambda: len(place.consul.instances("mysql")) == 1, "the first one has taken its own out")
    assert place.found() == [f"{NAME}."]
    assert second.stop() == 0
    place.is_gone()


def test_where_a_user_is_given_it_has_to_be_let_in_and_its_password_is_seen_nowhere(place: Place) -> None:
    password = 'p#a "s\\s\n[x]\r'
    database = place.database(21)
    place.consul.kv_put("config/mysql/user", "probe")
    place.consul.kv_put("config/mysql/password", password)
    keeper = place.keeper()
    eventually(lambda: "Access denied for user '***'@" in place.output(), "it is not let in", PATIENCE)
    assert place.found() == []
    quoted = password.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    database.exec("mariadb", "--execute", f"CREATE USER probe IDENTIFIED BY '{quoted}'")
    place.is_found(f"{NAME}.")
    assert keeper.exec("stat", "-c", "%U %a", "/run/mysql-external/client.cnf") == "nobody 400"
    place.consul.kv_put("config/mysql/password", "wrong")
    keeper.kill("HUP")
    place.is_found()
    assert not [part for part in password.split("\n") if part in place.output() + keeper.logs]
    assert keeper.stop() == 0
