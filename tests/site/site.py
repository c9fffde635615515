"""The example site as a user has it: its compose file, on a project name, a port and a copy of the code of its own."""

from __future__ import annotations

import http.client
import json
import pathlib
import random
import re
import shutil
import uuid
from collections.abc import Mapping
from typing import Any

from testing.consul import free_ports
from testing.docker import Container, docker
from testing.load import Load
from testing.waiting import eventually
from tools import site as tool

PATIENCE = 240.0  # seconds for the whole site to come up on two cores
LOOK = 0.2  # seconds between two looks that cost the machine more than a file's
SERVERS = "server1", "server2", "server3"
INSTANCES = {
    "front": 1, "log-collector": 1, "mysql": 1, "rabbitmq": 1, "redis": 2, "shop": 2, "twemproxy": 1, "worker": 1,
}  # fmt: skip


class Site:
    def __init__(self, folder: pathlib.Path, images: Mapping[str, str]) -> None:
        self.project = f"svcinit-site-{uuid.uuid4().hex[:8]}"
        self.port = free_ports(1)[0]
        self.code = folder / "code"
        shutil.copytree(tool.SITE / "code", self.code, ignore=shutil.ignore_patterns("__pycache__"))
        self._env = {**images, "SITE_PORT": str(self.port), "SHOP_CODE": str(self.code)}

    def compose(self, *arguments: str) -> str:
        return tool.compose(*arguments, project=self.project, env=self._env)

    def start_in_any_order(self) -> None:
        """Each container by itself, shuffled."""
        self.compose("up", "--no-start", "--no-build")
        names = self.compose("config", "--services").split()
        random.shuffle(names)
        for name in names:
            docker("start", self.container(name).id)
        try:
            self.is_whole()
        except AssertionError as error:
            raise AssertionError(f"started as {names}: {error}\n{self.compose('logs', '--tail=20')}") from None

    def clean(self) -> None:
        self.compose("down", "--volumes", "--timeout=5")

    def container(self, name: str) -> Container:
        labels = [f"label=com.docker.compose.project={self.project}", f"label=com.docker.compose.service={name}"]
        filters = [word for label in labels for word in ("--filter", label)]
        return Container(docker("ps", "--all", "--quiet", "--no-trunc", *filters))

    def is_whole(self) -> None:
        """Wait until every service has all its instances, passing, and the balancer knows both Djangos."""
        eventually(lambda: self.passing() == INSTANCES, "all services are passing", PATIENCE, every=LOOK)
        eventually(lambda: self.upstreams() == INSTANCES["shop"], "nginx has both", 30, every=LOOK)
        eventually(lambda: self.page()["order"], "the page answers", 30)

    def passing(self) -> dict[str, int]:
        """Name to passing instances, as the first host has them from the leader."""
        try:
            names = self.consul("/v1/catalog/services")
            found = {name: len(self.consul(f"/v1/health/service/{name}?passing")) for name in names if name != "consul"}
        except (OSError, ValueError):
            return {}
        return {name: count for name, count in found.items() if count}

    def consul(self, path: str) -> Any:
        return get(self.address("host-a"), 8500, path)

    def leader(self) -> str:
        """The name of the server that leads."""
        leader = self.consul("/v1/status/leader").partition(":")[0]
        return next(name for name in SERVERS if self.address(name) == leader)

    def address(self, name: str) -> str:
        networks = self.container(name).inspect()["NetworkSettings"]["Networks"].values()
        return next(str(network["IPAddress"]) for network in networks)

    def upstreams(self) -> int:
        """How many Djangos nginx knows."""
        conf = self.container("nginx").read("/etc/nginx/svcinit.conf").decode()
        return len(re.findall(r"server \S+:\d+;", conf))

    def page(self, path: str = "/") -> dict[str, Any]:
        """The page, once; empty while it does not answer with success."""
        try:
            found: dict[str, Any] = get("127.0.0.1", self.port, path)
        except (OSError, ValueError, http.client.HTTPException):
            return {"order": 0}
        return found

    def load(self) -> Load:
        return Load(self.port, clients=4, pause=0.02, keep_alive=False)


def get(host: str, port: int, path: str) -> Any:
    """The JSON at `path`. OSError, HTTPException; ValueError for any other status than 200 and for no JSON."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"status {answer.status}")
    return json.loads(body)
