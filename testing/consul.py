"""A real Consul agent of a test's own."""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil

from testing.process import stat_fields
from testing.waiting import eventually

LOOPBACK = "127.0.0.1"
ESTABLISHED = "01"
LOWEST_PORT, MOST_WORKERS = 10_000, 16
OUTGOING = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
QUESTION = re.compile(r"request served from client: name=(\S+) type=(\S+)")
REQUEST = re.compile(r'(\S+) \[DEBUG\] +agent\.http: Request finished: method=(\S+) url="?([^\s"]+)"? from=(\S+)')


class Request(NamedTuple):
    """A request that an agent answered, as its log has it."""

    when: str  # RFC 3339
    method: str
    url: str  # path and query
    client: str  # HOST:PORT


def requests_in(log: str) -> list[Request]:
    """The requests in an agent's log. Consul puts the URL in quotes from 1.12 on."""
    return [Request(*found) for found in REQUEST.findall(log)]


def questions_in(log: str) -> list[str]:
    """The DNS questions in an agent's log, as TYPE NAME."""
    return [f"{kind} {name}" for name, kind in QUESTION.findall(log)]


def binary() -> str:
    """The program that `tools/with-parts` found."""
    found = os.environ.get("CONSUL_BINARY")
    assert found, "CONSUL_BINARY names no consul: run the tests by `make test`"
    return found


@functools.cache
def version(program: str | None = None) -> tuple[int, ...]:
    """Of a Consul, by default the one at hand: (1, 8, 7)."""
    first = subprocess.run([program or binary(), "version"], check=True, capture_output=True, text=True).stdout.split()[
        1
    ]
    return tuple(int(part) for part in first.lstrip("v").split("+")[0].split("-")[0].split("."))


def ports(program: str | None = None, **given: int) -> dict[str, int]:
    """`ports` of an agent's configuration: without gRPC, whose TLS port every agent from 1.14 on opens by default."""
    return {"grpc": -1, **({"grpc_tls": -1} if version(program) >= (1, 14) else {}), **given}


def tokens(root: str, **given: str) -> dict[str, str]:
    """`acl.tokens` of a server's configuration, with `root` as the token that may do everything."""
    return {("initial_management" if version() >= (1, 11) else "master"): root, "agent": root, **given}


def worker() -> int:
    """The number of this process among those of pytest-xdist; 0 without it."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % MOST_WORKERS


def outgoing() -> int:
    """The lowest port that the kernel gives to outgoing connections."""
    return int(OUTGOING.read_text().split()[0])


@functools.cache
def _ports() -> Iterator[int]:
    own = list(range(LOWEST_PORT + worker(), outgoing(), MOST_WORKERS))
    random.shuffle(own)
    return itertools.cycle(own)


def free_ports(count: int, *, beside: int = 0) -> list[int]:
    """Ports free for TCP and UDP now, on all addresses; with `beside`, so is the port that far above each.

    None is of those that the kernel gives to outgoing connections (ip(7), ip_local_port_range): one of these may be
    taken again before its server listens, or be connected to itself. Each process of pytest-xdist has its own range,
    and gets no port again before it had all of them: a port may be bound long after it was chosen.
    """
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = next(_ports())
            if port + beside >= outgoing():
                continue
            with contextlib.suppress(OSError):
                for number in {port, port + beside}:
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                        stack.enter_context(socket.socket(socket.AF_INET, kind)).bind(("", number))
                ports.append(port)
        return ports


def thread_states(pid: int) -> list[str]:
    """The state of each thread of a process, as proc(5) letters."""
    states = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):  # a thread may end between two looks
            states.append(stat_fields(f"/proc/{pid}/task/{thread}/stat")[0])
    return states


def connections(port: int) -> int:
    """How many TCP connections to a local port are open (proc(5), /proc/net/tcp)."""
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == ESTABLISHED for row in rows)


class ConsulAgent:
    """`consul agent -dev`, on free ports of `address`; use as a context manager."""

    secrets: Mapping[str, str] = {}  # what svcinit is told besides, for it to keep to itself
    flags: tuple[str, ...] = ("-dev",)
    program: str | None = None  # by default the Consul at hand

    def __init__(
        self, folder: pathlib.Path, *, config: Mapping[str, Any] | None = None, address: str = LOOPBACK
    ) -> None:
        self.folder, self.config, self.address = folder, dict(config or {}), address
        self.http_port, self.dns_port, *self._others = free_ports(6)
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.http_port}"

    @property
    def dns(self) -> str:
        return f"{self.address}:{self.dns_port}"

    def join_wan(self, other: ConsulAgent) -> None:
        """Join the datacenter of another server, and wait until each can ask the other's catalog."""
        self.call("PUT", f"/v1/agent/join/{other.address}:{other.wan_port}?wan=1")
        for agent in (self, other):
            eventually(lambda agent=agent: len(agent.get("/v1/catalog/datacenters")) == 2, "both know both", 20)  # type: ignore[misc]
            eventually(lambda agent=agent: agent.reaches_all(), "each can ask the other", 20)  # type: ignore[misc]

    @property
    def server_port(self) -> int:
        return self._others[2]

    @property
    def lan_port(self) -> int:
        return self._others[0]

    @property
    def wan_port(self) -> int:
        return self._others[1]

    def reaches_all(self) -> bool:
        """Does every datacenter that it knows answer through it?"""
        try:
            known = self.get("/v1/catalog/datacenters")
            return all(self.get(f"/v1/catalog/nodes?dc={datacenter}") for datacenter in known)
        except OSError:
            return False

    @property
    def env(self) -> dict[str, str]:
        """What svcinit must be told to use this agent."""
        return {"CONSUL_HTTP_ADDR": self.url, "SVCINIT_DNS_ADDR": self.dns, **self.secrets}

    @property
    def log(self) -> pathlib.Path:
        return self.folder / "consul.log"

    def requests(self, start: int = 0) -> list[Request]:
        """The requests that its log has from byte `start` on."""
        return requests_in(self.log.read_bytes()[start:].decode())

    def start(self) -> None:
        serf_lan, serf_wan, server, _ = self._others
        settings = {
            "bind_addr": self.address,
            "client_addr": self.address,
            "disable_update_check": True,
            **self.config,
            "ports": ports(self.program, **{
                "http": self.http_port, "dns": self.dns_port, "serf_lan": serf_lan, "serf_wan": serf_wan,
                "server": server, **self.config.get("ports", {}),
            }),
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "agent.json"
        path.write_text(json.dumps(settings))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.program or binary(), "agent", *self.flags, "-config-file", str(path)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self.is_up, f"Consul is up; its log: {self.log}", 20)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def process(self) -> psutil.Process:
        assert self._process
        return psutil.Process(self._process.pid)

    def restart(self) -> None:
        """Start again on the same ports: -dev keeps nothing, so all its data are lost."""
        self.stop()
        self.start()

    def pause(self) -> None:
        assert self._process
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all(state == "T" for state in thread_states(pid)), "Consul is suspended")

    def resume(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def is_up(self) -> bool:
        """Does it answer, and has it a leader?"""
        assert self._process
        assert self._process.poll() is None, self.log.read_text()[-2000:]
        try:
            return bool(self.get("/v1/status/leader")) and bool(self.get("/v1/catalog/nodes"))
        except OSError:
            return False

    def call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, method=method)
        if self.token:
            request.add_header("X-Consul-Token", self.token)
        with urllib.request.urlopen(request, timeout=10) as answer:
            content: bytes = answer.read()
        return content

    def get(self, path: str) -> Any:
        return json.loads(self.call("GET", path))

    def kv_put(self, key: str, value: str | bytes) -> None:
        self.call("PUT", f"/v1/kv/{key}", value.encode() if isinstance(value, str) else value)

    def kv_get(self, key: str) -> bytes:
        return base64.b64decode(self.get(f"/v1/kv/{key}")[0]["Value"] or "")

    def kv_has(self, key: str) -> bool:
        try:
            return bool(self.get(f"/v1/kv/{key}"))
        except urllib.error.HTTPError:
            return False

    def kv_delete(self, prefix: str) -> None:
        self.call("DELETE", f"/v1/kv/{prefix}?recurse")

    def register(self, name: str, port: int, *, address: str = "", tags: Sequence[str] = (), id: str = "") -> None:
        definition = {"Name": name, "Port": port, "Address": address, "Tags": list(tags), "ID": id or name}
        self.call("PUT", "/v1/agent/service/register", json.dumps(definition).encode())

    def deregister(self, service_id: str) -> None:
        self.call("PUT", f"/v1/agent/service/deregister/{service_id}")

    def instances(self, name: str) -> list[dict[str, Any]]:
        """All instances in the catalog, whatever their health."""
        found: list[dict[str, Any]] = self.get(f"/v1/health/service/{name}")
        return found

    def has_no(self, *names: str) -> None:
        """Assert that no instance of these services is left: none in the agent now, and soon none in the catalog.

        The agent tells its servers at once, and again later where that failed.
        """
        known = [found["ID"] for found in self.get("/v1/agent/services").values() if found["Service"] in names]
        assert known == [], f"the agent still has {known}"
        eventually(lambda: not any(map(self.instances, names)), f"the catalog has none of {names}")

    def clear(self) -> None:
        """Remove all keys and all services of this agent, and wait until the catalog shows that."""
        self.kv_delete("")
        services = self.get("/v1/agent/services").values()
        for found in services:
            self.deregister(found["ID"])
        self.has_no(*{found["Service"] for found in services})

    def passing(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"/v1/health/service/{name}?passing")
        return found


class LoneServer(ConsulAgent):
    """One of two servers, without the other: it answers, and there is no leader."""

    flags = ()

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder, config={"server": True, "bootstrap_expect": 2, "data_dir": str(folder / "data")})

    def is_up(self) -> bool:
        try:
            return bool(self.get("/v1/status/leader") == "")
        except OSError:
            return False


class ExistingConsul(ConsulAgent):
    """An agent that somebody else runs, at `address` as CONSUL_HTTP_ADDR gives it."""

    def __init__(self, address: str, token: str = "", dns: str | None = None) -> None:
        self._url = (address if "://" in address else f"http://{address}").rstrip("/")
        self._dns = dns or f"{self._url.split('://')[1].rsplit(':', 1)[0]}:8600"
        self.token = token

    @property
    def url(self) -> str:
        return self._url

    @property
    def dns(self) -> str:
        return self._dns

    @property
    def env(self) -> dict[str, str]:
        return {**super().env, **({"CONSUL_HTTP_TOKEN": self.token} if self.token else {})}
