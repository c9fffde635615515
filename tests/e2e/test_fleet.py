"""A change rolls through all instances of a service, and takes itself back where it breaks one."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from svcinit.agent.consul.api import connect
from svcinit.agent.consul.blocking import Connections
from svcinit.agent.fleet.records import Record, RollOutcome
from svcinit.agent.fleet.turns import leaving
from svcinit.handover import Slots
from svcinit.settings import environment
from svcinit.state_files import write_state
from testing.consul import ConsulAgent, free_ports
from testing.ctl import CODE
from testing.fleet import Fleet
from testing.process import PATH, ROOT, Running, running
from testing.schemas import schema
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(180)]

STATUS = Draft202012Validator(schema("fleet"))
APP = pathlib.Path(__file__).parent / "fleet_app.py"
COUNT = 6
QUICK = ("--spread", "none", "--healthy", "1s", "--bake", "1s", "--max-unavailable", "2", "--deadline", "30s")


class Shop:
    """COUNT instances of the service `web`, and svcinitctl on a host beside them."""

    def __init__(self, folder: pathlib.Path, consul: ConsulAgent, stack: ExitStack, count: int = COUNT) -> None:
        self.folder, self.consul, self._stack = folder, consul, stack
        self.fleet = Fleet(consul, token=consul.token)
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
        STATUS.validate(found)
        return found


def until_over(shop: Shop, n: int, seconds: float = 90) -> str:
    """Wait for the entry of roll-out `n` in the history, and return its outcome."""
    entry = eventually(lambda: shop.fleet.store.get(shop.fleet.keys.log(n)), f"roll-out {n} is over", seconds)
    assert entry is not None
    return str(json.loads(entry.value)["outcome"])


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
    assert shop.status()["settled"] is True
    shop.put("slow bad 3")
    code, said = shop.run("apply", "web", *QUICK)
    assert code == 1, said
    assert shop.contents() == ["good 2"] * COUNT
    history = shop.fleet.store.below(shop.fleet.keys.logs)
    outcomes = [json.loads(entry.value)["outcome"] for entry in history]
    assert outcomes == [RollOutcome.DONE, RollOutcome.HALTED, RollOutcome.REVERTED], said
    assert json.loads(history[1].value)["done"] <= 1
    touched = [instance for instance in shop.instances if instance.err.count("this instance has its turn") > 1]
    assert len(touched) == 1, "only the canary"
    code, said = shop.run("apply", "web", *QUICK)
    assert (code, "was refused" in said) == (1, True), said


def test_a_conductor_that_is_killed_stops_the_roll_out_and_resume_goes_on(shop: Shop) -> None:
    assert shop.run("apply", "web", *QUICK)[0] == 0
    shop.put("good 2")
    conductor = shop.begin("apply", "web", *QUICK)
    eventually(lambda: "good 2" in shop.contents(), "the canary is changed", 30)
    conductor.kill()
    said, _ = conductor.communicate(timeout=10)
    time.sleep(8)
    stopped = shop.contents()
    time.sleep(3)
    assert shop.contents() == stopped, "without a conductor nobody gets a turn"
    assert stopped.count("good 2") < COUNT, said
    assert shop.status()["plan"]["state"] == "rolling"
    code, said = shop.run("resume", "web")
    assert code == 0, said
    assert shop.contents() == ["good 2"] * COUNT


def test_two_roll_outs_at_once_are_one_and_the_second_one_hears_of_it(shop: Shop) -> None:
    assert shop.run("apply", "web", *QUICK)[0] == 0
    shop.put("good 2")
    first = shop.begin("apply", "web", *QUICK)
    eventually(lambda: "good 2" in shop.contents(), "the canary is changed", 30)
    code, said = shop.run("apply", "web", *QUICK)
    assert (code, "is not over" in said) == (75, True), said
    assert first.wait(90) == 0
    first.communicate()


def test_a_paused_roll_out_grants_no_turn_until_it_is_resumed(shop: Shop) -> None:
    assert shop.run("apply", "web", *QUICK)[0] == 0
    shop.put("good 2")
    conductor = shop.begin("apply", "web", *QUICK)
    eventually(lambda: "good 2" in shop.contents(), "the canary is changed", 30)
    assert shop.run("pause", "web")[0] == 0
    assert conductor.wait(60) == 75
    conductor.communicate()
    changed = shop.contents().count("good 2")
    assert changed < COUNT
    code, said = shop.run("abort", "web")
    assert code == 0, said
    assert shop.contents() == ["good 1"] * COUNT, said


def test_a_revision_that_does_not_render_changes_no_instance(shop: Shop) -> None:
    assert shop.run("apply", "web", *QUICK)[0] == 0
    shop.consul.kv_delete("config/web/n")
    shop.consul.kv_put("config/web/other", "x")
    code, said = shop.run("apply", "web", *QUICK)
    assert (code, "does not render" in said) == (1, True), said
    assert shop.contents() == ["good 1"] * COUNT
    assert all("this instance has its turn" not in instance.err for instance in shop.instances)
    assert shop.run("undo", "web")[0] == 0
    assert shop.consul.kv_get("config/web/n") == b"good 1"


def test_a_revert_by_hand_says_that_the_keys_still_have_the_change(shop: Shop) -> None:
    assert shop.run("apply", "web", *QUICK)[0] == 0
    shop.put("good 2")
    assert shop.run("apply", "web", *QUICK)[0] == 0
    code, said = shop.run("revert", "web", *QUICK)
    assert (code, shop.contents()) == (0, ["good 1"] * COUNT)
    assert "config/web still has" in said, said
    assert shop.run("undo", "web")[0] == 0
    code, said = shop.run("revert", "web", *QUICK)
    assert (code, shop.contents()) == (0, ["good 2"] * COUNT)
    shop.put("good 2")
    code, said = shop.run("apply", "web", *QUICK)
    assert (code, "still has" in said) == (0, False), said


def test_with_auto_a_change_in_kv_rolls_by_itself_and_a_bad_one_takes_itself_back(
    tmp_path: pathlib.Path, own_consul: ConsulAgent
) -> None:
    with ExitStack() as stack:
        shop = Shop(tmp_path, own_consul, stack)
        shop.put("good 1")
        policy = "spread=none", "healthy=1s", "bake=1s", "max_unavailable=2"
        assert shop.run("policy", "web", *policy)[0] == 0
        shop.start(SVCINIT_ROLL="auto")
        eventually(lambda: shop.fleet.store.get(shop.fleet.keys.plan), "one conducts, and adopts what all run", 60)
        shop.put("good 2")
        assert until_over(shop, 1) == RollOutcome.DONE
        assert shop.contents() == ["good 2"] * COUNT
        shop.put("slow bad 3")
        assert until_over(shop, 2) == RollOutcome.HALTED
        assert until_over(shop, 3) == RollOutcome.REVERTED
        assert shop.contents() == ["good 2"] * COUNT
        touched = [instance for instance in shop.instances if instance.err.count("this instance has its turn") > 1]
        assert len(touched) == 1, "only the canary"


@pytest.mark.parametrize("how", ["presence-is-gone", "told-twice"])
def test_a_container_that_is_stopped_counts_as_stopped(
    tmp_path: pathlib.Path, own_consul: ConsulAgent, how: str
) -> None:
    """Otherwise a `docker stop` right after a turn would be a failure of the change."""
    with ExitStack() as stack:
        shop = Shop(tmp_path, own_consul, stack, count=1)
        shop.put("good 1")
        shop.start()
        (svcinit,), (entry,) = shop.instances, shop.fleet.store.below(shop.fleet.keys.records)
        if how == "presence-is-gone":
            os.kill(svcinit.child("presence"), signal.SIGSTOP)  # init replaces it by a process that only deregisters
        svcinit.signal(signal.SIGTERM)
        if how == "told-twice":  # the service may end before presence has written the record
            svcinit.says("stopping")
            svcinit.signal(signal.SIGTERM)
        assert svcinit.wait(20) == 128 + signal.SIGTERM
        assert has_left(shop.fleet, entry.key)


@pytest.mark.parametrize(("init", "left"), [
    ({"main": 1}, True), ({"main": None, "stops": True}, True), ({"main": None, "stops": False}, False),
    ({"main": 1, "stops": False}, False),
], ids=["not-told-yet", "told-twice", "ended-by-itself", "not-ready"])  # fmt: skip
def test_a_stop_is_noted_also_if_the_record_has_just_changed(
    consul: ConsulAgent, tmp_path: pathlib.Path, init: dict[str, object], left: bool
) -> None:
    """The end of a turn is such a change, and the record is read again only a moment later. A second TERM ends the
    service before the record is written."""
    fleet = Fleet(consul, "stopping")
    settings = environment.read({
        **consul.env, "SVCINIT_SERVICE": "stopping", "SVCINIT_ID": tmp_path.name, "SVCINIT_PORT": "80",
        "SVCINIT_ROLL": "manual", "SVCINIT_TEMPLATES": str(tmp_path), "SVCINIT_RUN": str(tmp_path / "run"),
    })  # fmt: skip
    write_state(settings.run, "init", {"life": "life", **init})
    client = connect(settings)
    with closing(client):
        turns = leaving(settings, client, Connections(client, 1), Slots(), "life")
        key = fleet.keys.at(tmp_path.name)
        assert fleet.store.put(key, Record(life="life").dump())
        turns.query.entry = fleet.store.get(key)
        assert fleet.store.put(key, Record(life="life", rev="0123456789ab").dump())
        turns.leave()
    assert has_left(fleet, key) is left


def has_left(fleet: Fleet, key: str) -> bool:
    found = fleet.store.get(key)
    assert found is not None
    record = Record.parse(found.value)
    assert isinstance(record, Record)
    return record.left
