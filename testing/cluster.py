"""A real Consul cluster of processes: three servers and client agents that keep their data, restarted and upgraded."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from testing.consul import LOOPBACK, ConsulAgent
from testing.waiting import Repeatedly, eventually

SERVERS = 3
PATIENCE = 60.0  # seconds for a server to be a healthy part of the cluster again


class Member(ConsulAgent):
    """A server, or an agent, that keeps its data; `program`: which Consul runs it."""

    flags = ()

    def __init__(self, folder: pathlib.Path, program: str, *, server: bool, address: str = LOOPBACK) -> None:
        own = {"server": True, "bootstrap_expect": SERVERS, "performance": {"raft_multiplier": 1}} if server else {}
        config = {
            "data_dir": str(folder / "data"),
            "node_name": folder.name,
            "retry_interval": "1s",
            "leave_on_terminate": False,
            **own,
        }
        super().__init__(folder, config=config, address=address)
        self.program = program
        self._spent = 0.0

    def restart(self) -> None:
        """As an operator does it: TERM, without a leave, and the program again on the same data.

        An agent that leaves takes its node out of the catalog; without leave_on_terminate=false it does so at TERM.
        """
        self._spent = self.cpu
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.stop()
        self.start()

    @property
    def cpu(self) -> float:
        """CPU seconds that it has taken, over its restarts; without that of each end."""
        return self._spent + sum(self.process.cpu_times()[:2])

    def upgrade(self, program: str) -> None:
        """Restart it as another Consul."""
        self.program = program
        self.restart()

    def is_up(self) -> bool:
        assert self.process.is_running(), self.log.read_text()[-2000:]
        try:
            return bool(self.get("/v1/status/leader"))
        except OSError:
            return False


class Cluster:
    """Three servers, and a client agent at each of `addresses` with `more` in its configuration. `stack` stops all."""

    def __init__(
        self, folder: pathlib.Path, program: str, stack: ExitStack, addresses: Sequence[str], **more: Any
    ) -> None:  # fmt: skip
        self.servers = [Member(folder / f"server{number}", program, server=True) for number in range(SERVERS)]
        self.agents = [
            Member(folder / f"agent{number}", program, server=False, address=address)
            for number, address in enumerate(addresses)
        ]
        for each in self.agents:
            each.config.update(more)
        for each in self.members:
            each.config["retry_join"] = [f"{LOOPBACK}:{other.lan_port}" for other in self.servers]
        threads = [threading.Thread(target=each.start) for each in self.servers]
        for thread in threads:
            thread.start()
        for each, thread in zip(self.servers, threads, strict=True):
            thread.join(PATIENCE)
            stack.callback(each.stop)
        self.is_healthy()
        for each in self.agents:
            stack.enter_context(each)

    @property
    def members(self) -> list[Member]:
        return [*self.servers, *self.agents]

    def is_healthy(self) -> None:
        """Wait until one of the three servers may be lost."""

        def asked() -> bool:
            try:
                return all(each.get("/v1/operator/autopilot/health")["FailureTolerance"] == 1 for each in self.servers)
            except OSError:
                return False

        eventually(asked, "all three servers are healthy", PATIENCE)

    def leader(self) -> Member:
        address = self.servers[0].get("/v1/status/leader")
        (found,) = [each for each in self.servers if address.endswith(f":{each.server_port}")]
        return found

    def upgrade(self, program: str) -> None:
        """Server by server, the leader last, and then the agents, as Consul's manual has it."""
        last = self.leader()
        for server in [*(each for each in self.servers if each is not last), last]:
            server.upgrade(program)
            self.is_healthy()
        for agent in self.agents:
            agent.upgrade(program)


class Watcher(Repeatedly):
    """Looks for each instance in the catalog, with so many seconds in between, until the end of the block."""

    def __init__(self, cluster: Cluster, ids: set[str], pause: float) -> None:
        super().__init__(pause)
        self._cluster, self._ids = cluster, ids
        self.looks = 0
        self.lost: dict[str, str] = {}  # by id: when it was missing for the first time, UTC as in Consul's log

    def look(self) -> None:
        now = time.strftime("%H:%M:%S", time.gmtime())
        try:
            found = registered(self._cluster)
        except OSError:  # no leader, or that server is restarted
            return
        self.looks += 1
        self.lost |= dict.fromkeys(self._ids - found - self.lost.keys(), now)


def registered(cluster: Cluster) -> set[str]:
    """The ids of all services at the agents. Raises OSError.

    A leader that was just started may answer before it has read its whole log, unless it is asked for consistency.
    """
    names = [each.config["node_name"] for each in cluster.agents]
    nodes = [cluster.servers[0].get(f"/v1/catalog/node/{name}?consistent") for name in names]
    return {service for node in nodes for service in (node or {"Services": {}})["Services"]}
