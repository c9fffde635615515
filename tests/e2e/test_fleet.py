"""A change rolls through all instances of a service, and takes itself back where it breaks one."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from svcinit.agent.fleet.records import RollOutcome
from testing.consul import ConsulAgent, free_ports
from testing.ctl import CODE
from testing.fleet import Fleet
from testing.process import PATH, ROOT, Running, running
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.timeout(180)]

APP = pathlib.Path(__file__).parent / "fleet_app.py"
COUNT = 6
QUICK = ("--spread", "none", "--healthy", "1s", "--bake", "1s", "--max-unavailable", "2", "--deadline", "30s")


class Shop:
    """COUNT instances of the service `web`, and svcinitctl on a host beside them."""

    def __init__(self, folder: pathlib.Path, consul: ConsulAgent, stack: ExitStack, count: int = COUNT) -> None:
        self.folder, self.consul, self._stack = folder, consul, stack
        self.fleet = Fleet(consul)
        self.ports = free_ports(count)
        self.templates = folder / "templates"
        self.instances: list[Running] = []

    def start(self, **env: str) -> None:
        for n in range(len(self.ports)):
            self.add(n, **env)
        eventually(lambda: len(self.consul.passing("web")) == len(self.ports), "all pass", 60)
        eventually(lambda: len(self.fleet.store.below(self.fleet.keys.records)) == len(self.ports), "all have records")

    def add(self, n: int, **env: str) -> None:
        target = self.folder / f"out-{n}" / "app.ini"
        source = self.folder / f"templates-{n}" / str(target).lstrip("/")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.with_name("app.ini.j2").write_text('{{ key("n") }}')
        settings = {
            **self.consul.env, "SVCINIT_SERVICE": "web", "SVCINIT_ID": f"web-{n}", "SVCINIT_PORT": str(self.ports[n]),
            "SVCINIT_CHECK": "http:/health", "SVCINIT_CHECK_INTERVAL": "300ms", "SVCINIT_ROLL": "manual",
            "SVCINIT_TEMPLATES": str(self.folder / f"templates-{n}"), "SVCINIT_DRAIN": "0s", **env,
        }  # fmt: skip
        command = sys.executable, str(APP), str(self.ports[n]), str(target)
        self.instances.append(self._stack.enter_context(running(self.folder / f"svcinit-{n}", *command, env=settings)))

    def put(self, value: str) -> None:
        self.consul.kv_put("config/web/n", value)

    def contents(self) -> list[str]:
        return [(self.folder / f"out-{n}" / "app.ini").read_text() for n in range(len(self.ports))]

    def begin(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CODE, "fleet", *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**PATH, **self.consul.env, "PYTHONPATH": str(ROOT / "entrypoint")},
        )  # fmt: skip

    def run(self, *command: str, seconds: float = 120) -> tuple[int, str]:
        started = self.begin(*command)
        try:
            said, _ = started.communicate(timeout=seconds)
        finally:
            started.kill()
        return started.returncode, said

    def status(self) -> dict[str, Any]:
        _, said = self.run("status", "web", "--json")
        found: dict[str, Any] = json.loads(said)
        return found


@pytest.fixture
def shop(tmp_path: pathlib.Path, own_consul: ConsulAgent) -> Iterator[Shop]:
    with ExitStack() as stack:
        made = Shop(tmp_path, own_consul, stack)
        made.put("good 1")
        made.start()
        yield made


def test_a_good_change_reaches_all_and_a_bad_one_is_taken_back(shop: Shop) -> None:
    code, said = shop.run("apply", "web", *QUICK)
    assert (code, "already" in said) == (0, True), said
    shop.put("good 2")
    time.sleep(1)
    assert shop.contents() == ["good 1"] * COUNT
    code, said = shop.run("apply", "web", *QUICK, "--reason", "CHG-1234")
    assert code == 0, said
    assert shop.contents() == ["good 2"] * COUNT
    assert shop.run("status", "web")[0] == 0
    shop.put("slow bad 3")
    code, said = shop.run("apply", "web", *QUICK)
    assert code == 1, said
    assert shop.contents() == ["good 2"] * COUNT
    history = shop.fleet.store.below(shop.fleet.keys.logs)
    outcomes = [json.loads(entry.value)["outcome"] for entry in history]
    assert outcomes == [RollOutcome.DONE, RollOutcome.HALTED, RollOutcome.REVERTED], said
    assert json.loads(history[1].value)["done"] <= 1
    touched = [instance for instance in shop.instances if instance.err.count("has its turn") > 1]
    assert len(touched) == 1, "only the canary"
    code, said = shop.run("apply", "web", *QUICK)
    assert (code, "was refused" in said) == (1, True), said
