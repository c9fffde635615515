"""svcinitctl doctor in containers: users, capabilities, read-only roots, mounts, other inits, other networks."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator

import pytest

from testing.consul import ConsulAgent
from testing.docker import Container, Engine, docker
from testing.doctor import LONGEST, Diagnosis
from testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(180)]

UID = "1234"
Doctor = Callable[..., Diagnosis]


class Case:
    """What a container is given, and the doctor in it: `entrypoint` runs it there."""

    def __init__(self, folder: pathlib.Path, image: str, consul: ConsulAgent, engine: Engine) -> None:
        self.folder, self.image, self.consul, self.engine = folder, image, consul, engine
        self.templates = folder / "templates"
        self.templates.mkdir()
        self.template("etc/app.ini", '{{ key("n") }}\n')
        folder.chmod(0o755)
        consul.kv_put("config/web/n", "1")
        self.env = {**consul.env, "SVCINIT_SERVICE": "web", "SVCINIT_PORT": "8000", "SVCINIT_ADVERTISE": consul.address}
        self.mounts = ["--volume", f"{self.templates}:/etc/svcinit/templates:ro"]

    def template(self, name: str, text: str) -> None:
        path = self.templates / f"{name}.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o755)
        path.write_text(text)

    def doctor(self, *options: str, words: tuple[str, ...] = (), **env: str) -> Diagnosis:
        """`docker run --entrypoint svcinitctl OPTIONS IMAGE doctor`."""
        container = self.engine.run(
            self.image, "doctor", "--json", *words, env={**self.env, **env},
            options=["--entrypoint", "svcinitctl", *self.mounts, *options],
        )  # fmt: skip
        return Diagnosis(container.wait(LONGEST + 20), container.logs)

    def start(self, *options: str, command: tuple[str, ...] = ("sleep", "300"), **env: str) -> Container:
        container = self.engine.run(self.image, *command, env={**self.env, **env}, options=[*self.mounts, *options])
        container.says(f"started {command[0]}")
        return container


def beside(container: Container, *options: str) -> Diagnosis:
    """`docker exec CONTAINER svcinitctl doctor`."""
    script = "svcinitctl doctor --json; code=$?; echo; echo $code"
    told, _, code = docker("exec", *options, container.id, "sh", "-c", script).rpartition("\n")
    return Diagnosis(int(code), told)


@pytest.fixture
def case(tmp_path: pathlib.Path, bare_image: str, consul: ConsulAgent, engine: Engine) -> Case:
    return Case(tmp_path, bare_image, consul, engine)


def test_in_an_image_as_it_shall_run_nothing_is_wrong(case: Case) -> None:
    found = case.doctor(words=("--", "sleep", "60"))
    assert (found.code, found.bad) == (0, set()), found.text
    assert found.well("init") == ["a process that the container starts is PID 1"]
    assert found.well("targets") == ["/etc/app.ini can be put in place"]


def test_another_pid_1_is_named_with_what_it_changes(case: Case) -> None:
    assert "PID 1 is docker-init" in case.doctor("--init").one("not-pid-1")
    assert "not of this container" in case.doctor("--pid=host").one("pid-host")


def test_a_read_only_root_is_told_of_each_place_that_is_written_to(case: Case) -> None:
    found = case.doctor("--read-only", SVCINIT_RUN="/run/svcinit")
    assert "/run/svcinit cannot be written: read-only file system" in found.one("run-unwritable")
    assert "docker run -v NAME:/var/lib/svcinit for uid 0" in found.one("cache-unwritable")
    assert "read-only file system; mount a tmpfs or a volume on /etc" in found.one("target-wrong")
    assert found.bad == {"run-unwritable", "cache-unwritable", "target-wrong"}


def test_without_capabilities_a_user_and_an_owner_cannot_be_had(case: Case) -> None:
    case.template("etc/own.ini", f"{{# svcinit: owner={UID}:{UID} #}}\n")
    found = case.doctor("--cap-drop=SETUID", "--cap-drop=SETGID", "--cap-drop=CHOWN", SVCINIT_USER=UID)
    assert f"docker run --cap-add=SETGID --cap-add=SETUID, or --user {UID}:0" in found.one("capability-missing")
    assert f"cannot give /etc/own.ini to uid {UID} and gid {UID}" in found.one("target-owner")
    assert found.well("targets") == ["/etc/app.ini can be put in place"]
    found = case.doctor("--cap-drop=KILL", SVCINIT_USER=UID)
    assert "the container lacks CAP_KILL" in found.one("settings-wrong")


def test_for_a_user_who_may_less_commands_and_files_are_looked_at_as_that_user(case: Case) -> None:
    script = case.folder / "start"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    volume = "--volume", f"{script}:/start:ro"
    found = case.doctor(*volume, words=("--", "/start"), SVCINIT_USER=UID)
    assert f"the command: /start is not executable for uid {UID}" in found.one("command-not-executable")
    assert found.bad == {"command-not-executable"}
    found = case.doctor(*volume, "--user", UID, words=("--", "/start"))
    assert f"let uid {UID} write to /etc" in found.one("target-wrong")
    assert {"command-not-executable", "target-wrong", "cache-unwritable"} == found.bad
    (run,) = found.well("run")
    assert run.startswith("/dev/shm/svcinit-")
    found = case.doctor("--user", UID, SVCINIT_USER="root")
    assert "svcinit does not run as root here, so it cannot become another user" in found.one("settings-wrong")


def test_a_file_that_is_mounted_by_itself_is_told_and_one_that_is_read_only_is_wrong(case: Case) -> None:
    mounted = case.folder / "app.ini"
    mounted.write_text("what the host had\n")
    found = case.doctor("--volume", f"{mounted}:/etc/app.ini")
    assert "/etc/app.ini is a mount of its own | mount /etc instead of the file" in found.one("target-mounted")
    found = case.doctor("--volume", f"{mounted}:/etc/app.ini:ro")
    assert "cannot write /etc/app.ini: read-only file system; mount it without `ro`" in found.one("target-wrong")
    mounted.chmod(0o644)
    os.chown(mounted, 0, 0)
    found = case.doctor("--volume", f"{mounted}:/etc/app.ini", "--user", UID)
    assert f"let uid {UID} write to /etc/app.ini" in found.one("target-wrong")
    assert mounted.read_text() == "what the host had\n"


def test_it_says_when_it_is_not_the_user_that_svcinit_is(case: Case) -> None:
    container = case.start("--user", UID, SVCINIT_TEMPLATES="", SVCINIT_CHECK="none")
    eventually(lambda: case.consul.instances("web"), "it is registered")
    found = beside(container)
    assert (found.bad, found.code) == ({"cache-unwritable", "reload-unhandled"}, 0), found.text
    assert found.well("init") == ["svcinit runs as PID 1: running"]
    assert "the command: sleep can be started" in found.well("command")
    assert f"docker exec --user {UID}" in beside(container, "--user", "root").one("other-user")
    assert f"docker exec --user {UID}" in beside(container, "--user", "65534").one("other-user")


class Network:
    """A Docker network with an agent on its host, which containers on it reach at the gateway."""

    def __init__(self, engine: Engine) -> None:
        made = engine.network()
        self.name, self.gateway = made.name, made.gateway
        self.own, self.nobody = f"{made.prefix}.10", f"{made.prefix}.99"

    @property
    def options(self) -> tuple[str, ...]:
        return "--network", self.name, "--ip", self.own


@pytest.fixture
def network(engine: Engine) -> Network:
    return Network(engine)


@pytest.fixture
def apart(tmp_path: pathlib.Path, bare_image: str, engine: Engine, network: Network) -> Iterator[Case]:
    """A container on a network of its own, the agent outside of it."""
    with ConsulAgent(tmp_path / "consul", address=network.gateway) as agent:
        yield Case(tmp_path, bare_image, agent, engine)


def test_on_another_network_than_the_agents_the_address_is_told_with_what_it_takes(
    apart: Case, network: Network
) -> None:
    found = apart.doctor(*network.options, SVCINIT_ADVERTISE="")
    told = f"{network.gateway} would be registered (the agent's own); this container has {network.own}"
    assert told in found.one("address-agents")
    assert "docker run -p 8000:8000" in found.one("address-agents")
    found = apart.doctor(*network.options, SVCINIT_ADVERTISE="127.0.0.1")
    assert f"127.0.0.1), and the agent is at {apart.consul.url}" in found.one("address-loopback")
    found = apart.doctor(*network.options, SVCINIT_ADVERTISE="192.0.2.1")
    assert "docker run -p 192.0.2.1:8000:8000" in found.one("address-foreign")
    found = apart.doctor(*network.options, SVCINIT_ADVERTISE="default-route")
    (told,) = found.well("address")
    assert told.startswith(
        f"{network.own} would be registered (SVCINIT_ADVERTISE=default-route); the agent is on another host"
    )
    assert found.bad == set()


def test_an_agent_at_the_containers_own_loopback_is_away_and_that_is_told(apart: Case, network: Network) -> None:
    found = apart.doctor(*network.options, CONSUL_HTTP_ADDR="127.0.0.1:8500", SVCINIT_DNS_ADDR="")
    assert "without --network=host, 127.0.0.1 is the container itself" in found.one("consul-away")


def test_addresses_that_nobody_answers_at_are_told_in_time(apart: Case, network: Network) -> None:
    apart.template("etc/peers.ini", '{{ service("db") | length }}\n')
    http, dns = f"{network.nobody}:8500", f"{network.nobody},{network.nobody}:53"
    # awaited no longer than it may take
    found = apart.doctor(*network.options, CONSUL_HTTP_ADDR=http, SVCINIT_DNS_ADDR=dns)
    assert f"Consul at {network.nobody}:8500: GET /v1/status/leader failed: " in found.one("consul-away")
    assert len(found.all("dns-server-away")) == 2
    assert {"consul-away", "dns-away", "template-unrendered"} <= found.bad


def test_a_check_that_the_agent_cannot_make_pass_is_told_beside_the_service(apart: Case, network: Network) -> None:
    container = apart.start(*network.options, SVCINIT_ADVERTISE="default-route", SVCINIT_CHECK_INTERVAL="100ms")
    eventually(lambda: "refused" in str(apart.consul.get("/v1/agent/checks")), "its check has failed")
    told = beside(container).one("check-critical")
    assert f"web-{container.id[:12]}-8000 at {network.own}:8000: web tcp: dial tcp {network.own}:8000" in told
