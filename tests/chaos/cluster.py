"""A Consul cluster of three servers and two client agents in containers, on a Docker network of the test's own."""

from __future__ import annotations

import json
import pathlib
import shutil
import threading
import time
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any

from svcinit.agent.consul.discovery import Resolver
from svcinit.errors import SvcinitError
from testing import planted
from testing.consul import tokens
from testing.docker import Container, Engine, build, docker
from testing.faults import FAKETIME
from testing.waiting import eventually

HTTP, DNS = 8500, 8600
PORT = 8000  # of the service
SERVERS = "server1", "server2", "server3"
SERVED = 10  # requests, before anything is done to a service
STABLE = 2.0  # seconds without a wrong answer from the catalog, to count as right
PATIENCE = 2.5  # seconds for a request: TCP sends a lost SYN again after one, and a changing bridge loses some
PAUSE = 0.05  # seconds between two requests of the client
DOCKERFILE = """ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY consul /usr/local/bin/consul
COPY libfaketime.so.1 /usr/lib/libfaketime.so.1
COPY app.py /app.py
CMD ["python3", "/app.py"]
"""


def chaos_image(folder: pathlib.Path, base: str, consul: str) -> str:
    """svcinit, Consul and the service in one image."""
    (folder / "Dockerfile").write_text(DOCKERFILE)
    shutil.copy(consul, folder / "consul")
    shutil.copy(FAKETIME, folder / "libfaketime.so.1")
    shutil.copy(pathlib.Path(__file__).parent / "app.py", folder / "app.py")
    return build(folder, "svcinit-chaos", BASE_IMAGE=base)


class Agent:
    """One Consul agent; killed and started again it keeps its data, `replace`d it has none."""

    def __init__(self, cluster: Cluster, name: str, address: str) -> None:
        self.cluster, self.name, self.address = cluster, name, address
        self.node_id = str(uuid.uuid4())  # or an agent without its data could not have its name back
        self.extra: dict[str, Any] = {}
        self.container: Container | None = None

    def configure(self) -> pathlib.Path:
        """Write the agent's configuration."""
        config = {
            "node_name": self.name, "node_id": self.node_id, "data_dir": "/consul", "bind_addr": self.address,
            "client_addr": "0.0.0.0", "retry_join": self.cluster.servers,
            "retry_interval": "1s", "disable_update_check": True, "performance": {"raft_multiplier": 1},
            "leave_on_terminate": False,
        }  # fmt: skip
        if self.name in SERVERS:
            config |= {"server": True, "bootstrap_expect": len(SERVERS)}
        config |= self.extra
        file = self.cluster.folder / f"{self.name}.json"
        file.write_text(json.dumps(config))
        return file

    def run(self) -> None:
        file = self.configure()
        self.container = self.cluster.engine.run(
            self.cluster.image, "agent", "-config-file=/consul.json",
            options=["--network", self.cluster.network, "--ip", self.address, "--entrypoint", "consul",
                     "--volume", f"{file}:/consul.json:ro"],
        )  # fmt: skip

    def kill(self) -> None:
        assert self.container
        self.container.kill("KILL")
        self.container.wait()

    def start(self) -> None:
        assert self.container
        self.container.start_again()

    def restart(self, **extra: Any) -> None:
        """Kill it and start it with its data, and with `extra` in its configuration."""
        self.extra = extra
        self.configure()
        self.kill()
        self.start()

    def replace(self) -> None:
        """A new container in place of this one, without its data."""
        assert self.container
        docker("rm", "--force", "--volumes", self.container.id)
        self.run()

    def pause(self) -> None:
        assert self.container
        docker("pause", self.container.id)

    def resume(self) -> None:
        assert self.container
        docker("unpause", self.container.id)

    def get(self, path: str, timeout: float = 2.0) -> Any:
        return self.call("GET", path, None, timeout)

    def put(self, path: str, body: bytes = b"") -> Any:
        return self.call("PUT", path, body)

    def call(self, method: str, path: str, body: bytes | None = None, timeout: float = 5.0) -> Any:
        request = urllib.request.Request(f"http://{self.address}:{HTTP}{path}", data=body, method=method)
        if self.cluster.master:
            request.add_header("X-Consul-Token", self.cluster.master)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            content = answer.read()
        return json.loads(content) if content else None


class Cluster:
    """Three servers, `local` that services register with, `far` that clients ask."""

    master = ""  # the token of whoever looks

    def __init__(self, folder: pathlib.Path, image: str) -> None:
        self.folder, self.image, self.engine = folder, image, Engine()
        network = self.engine.network()
        self.network, self.net, self.gateway = network.name, network.prefix, network.gateway
        names = (*SERVERS, "local", "far")
        self.addresses = {name: f"{self.net}.{10 + number}" for number, name in enumerate(names)}
        self.agents = {name: Agent(self, name, address) for name, address in self.addresses.items()}
        self.local, self.far = self.agents["local"], self.agents["far"]

    @property
    def servers(self) -> list[str]:
        """The addresses of the servers."""
        return [address for name, address in self.addresses.items() if name in SERVERS]

    def start(self) -> None:
        for agent in self.agents.values():
            agent.run()
        self.is_whole()

    def clean(self) -> None:
        self.engine.clean()

    def is_whole(self) -> None:
        """Wait until all five are alive, in everybody's eyes, and answer."""
        eventually(self._is_whole, "the cluster is whole", 60)

    def _is_whole(self) -> bool:
        try:
            for agent in self.agents.values():
                alive = [member["Name"] for member in agent.get("/v1/agent/members") if member["Status"] == 1]
                if len(alive) != len(self.agents) or not agent.get("/v1/status/leader"):
                    return False
            critical: list[Any] = self.far.get("/v1/health/state/critical")
            return not [check for check in critical if check["CheckID"] == "serfHealth"]
        except OSError:
            return False

    def leader(self) -> Agent:
        address = self.far.get("/v1/status/leader").partition(":")[0]
        return next(agent for agent in self.agents.values() if agent.address == address)

    def instances(self, name: str) -> list[dict[str, Any]] | None:
        """All instances in the catalog, as `far` has them from the leader; None while it cannot say."""
        try:
            found: list[dict[str, Any]] = self.far.get(f"/v1/health/service/{name}")
            return found
        except OSError:
            return None

    def outputs(self, name: str) -> list[str]:
        """What checks that do not pass say, as the catalog has it now."""
        checks = [check for found in self.instances(name) or [] for check in found["Checks"]]
        return [f"{check['CheckID']}: {check['Output']}" for check in checks if check["Status"] != "passing"]

    def passing(self, name: str) -> list[str]:
        """The ids of the instances that are given to clients."""
        found = self.instances(name) or []
        return [i["Service"]["ID"] for i in found if all(check["Status"] == "passing" for check in i["Checks"])]


class Guarded(Cluster):
    """One server that denies what no token allows, and is `local` and `far` too."""

    master = planted.token()

    def __init__(self, folder: pathlib.Path, image: str) -> None:
        super().__init__(folder, image)
        self.addresses = {SERVERS[0]: f"{self.net}.10"}
        self.local = self.far = Agent(self, SERVERS[0], self.addresses[SERVERS[0]])
        self.agents = {SERVERS[0]: self.local}
        acl = {
            "enabled": True, "default_policy": "deny", "token_ttl": "0s", "policy_ttl": "0s",
            "tokens": tokens(self.master, default=self.master),
        }  # fmt: skip
        self.local.extra = {"bootstrap_expect": 1, "retry_join": [], "acl": acl}
        self._rules = ""

    def _is_whole(self) -> bool:
        try:
            self.local.get("/v1/acl/policies")  # a new server still has the ACLs of old for a moment
        except OSError:
            return False
        return super()._is_whole()

    def token(self, rules: str) -> str:
        """The secret of a new token that may do what `rules` say."""
        self._rules = self.local.put("/v1/acl/policy", _json(Name="service", Rules=rules))["ID"]
        secret = planted.token()
        self.give_back(secret)
        return secret

    def give_back(self, secret: str) -> None:
        self.local.put("/v1/acl/token", _json(SecretID=secret, Policies=[{"ID": self._rules}]))

    def revoke(self, secret: str) -> None:
        tokens = self.local.get("/v1/acl/tokens")
        policies = [(token["AccessorID"], [policy["ID"] for policy in token.get("Policies") or []]) for token in tokens]
        for accessor in [accessor for accessor, found in policies if found == [self._rules]]:
            self.local.call("DELETE", f"/v1/acl/token/{accessor}")


def _json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


class Client:
    """Looks the service up in the DNS of `far` before each request, as a client without any cleverness does."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._resolver = Resolver([(cluster.far.address, DNS)], timeout=5.0)
        self._name = name
        self.good = 0
        self.unresolved: list[str] = []  # why there was no address
        self.failed: list[str] = []
        self.last_good = 0.0
        self.longest = 0.0  # seconds without a good answer
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.last_good = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._end.wait(PAUSE):
            began = time.time()
            try:
                peers, why = self._resolver.peers(self._name), "no instance is passing"
            except SvcinitError as error:
                peers, why = [], str(error)
            if not peers:
                self.unresolved.append(f"{began:.2f} to {time.time():.2f}: {why}; {self._cluster.outputs(self._name)}")
                continue
            try:
                url = f"http://{peers[0].address}:{peers[0].port}/"
                urllib.request.urlopen(url, timeout=PATIENCE).close()
            except OSError as error:
                self.failed.append(f"{url}: {error!r}")
                continue
            now = time.monotonic()
            self.longest = max(self.longest, now - self.last_good)
            self.last_good, self.good = now, self.good + 1


class Life:
    """A service container in the cluster, and what is true of it at all times."""

    def __init__(self, cluster: Cluster, env: Mapping[str, str], *options: str) -> None:
        self.cluster = cluster
        self.name = f"web{uuid.uuid4().hex[:6]}"
        self.id = f"{self.name}-1"
        self.env = {
            "CONSUL_HTTP_ADDR": f"http://{cluster.local.address}:{HTTP}", "SVCINIT_SERVICE": self.name,
            "SVCINIT_ID": self.id, "SVCINIT_PORT": str(PORT), "SVCINIT_ADVERTISE": "default-route",
            "SVCINIT_CHECK": "http:/", "SVCINIT_CHECK_INTERVAL": "500ms", "SVCINIT_CHECK_TIMEOUT": "500ms",
            "SVCINIT_SYNC_INTERVAL": "5s", "SVCINIT_RELOAD_TIMEOUT": "6s", "SVCINIT_DRAIN": "500ms",
            "CONSUL_HTTP_TOKEN": planted.token(), "PLANTED_PASSWORD": planted.secret("environment"), **env,
        }  # fmt: skip
        self.container = cluster.engine.run(
            cluster.image, env=self.env, options=["--network", cluster.network, *options]
        )
        try:
            eventually(lambda: cluster.passing(self.name) == [self.id], "the service is passing", 30)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.container.logs}") from None
        self.main = self.state()["main"]
        self.client = Client(cluster, self.name)
        self.client.start()
        eventually(lambda: self.client.good >= SERVED, "the client is served", 10)

    def state(self) -> dict[str, Any]:
        """Copied by the engine: at a limit of processes no program can read it in the container. The engine takes the
        size first: a file that is replaced at that moment comes cut off."""

        def read() -> dict[str, Any] | None:
            try:
                found: dict[str, Any] = json.loads(self.container.copy("/run/svcinit/init.json"))
            except ValueError:
                return None
            return found

        return eventually(read, "init.json is copied whole") or {}

    def is_right(self) -> bool:
        """Is exactly this instance in the catalog, and passing?"""
        found = self.cluster.instances(self.name)
        return found is not None and len(found) == 1 and self.cluster.passing(self.name) == [self.id]

    def right_after(self, timeout: float) -> float:
        """Seconds from now until the catalog is right, stays so, and the client is served.

        AssertionError with svcinit's log if it takes longer than `timeout`.
        """
        began = wrong = time.monotonic()

        def stays_right() -> bool:
            nonlocal wrong
            now = time.monotonic()
            if not self.is_right():
                wrong = now
            return now - wrong > STABLE and self.client.last_good > wrong

        try:
            eventually(stays_right, "the catalog is right", timeout + STABLE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.container.logs}") from None
        return wrong - began

    def reload(self) -> None:
        self.container.kill("HUP")

    def ends_well(self) -> None:
        """docker stop: main was never restarted, and nothing is left in the catalog."""
        assert self.state()["main"] == self.main, "main was restarted"
        assert self.container.stop() == 0, self.container.logs
        self.client.stop()
        eventually(lambda: self.cluster.instances(self.name) == [], "nothing is left in the catalog", 10)
