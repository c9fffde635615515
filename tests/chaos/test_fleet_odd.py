"""Fleets in which instances differ: in their svcinit, clocks, tokens; and one whose keys are damaged."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from svcinit.agent.fleet.records import Keys, Phase
from testing.faults import FAKETIME
from testing.process import LAUNCH, ROOT, svcinit_command
from testing.rollout import Group, Instance, Site
from testing.secured import GuardedConsul, Token
from testing.waiting import eventually
from tests.chaos.fleet import ODD_COUNT as COUNT
from tests.chaos.fleet import ODD_LIMIT as LIMIT
from tests.chaos.fleet import POLICY, Row, next_value

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(240)]

Rolls = Callable[..., AbstractContextManager[Row]]
DAY = 86_400
OWN_POLICY = {**POLICY, "max_unavailable": str(LIMIT), "deadline": "30s", "healthy": "1s", "bake": "1s"}
BEFORE_ROLL = "6533f8d21b02"  # the last commit of a svcinit that knows no roll-outs


def made(site: Site, stack: ExitStack, name: str, **more: Any) -> Group:
    group = Group(site, stack, COUNT, name=name, policy=OWN_POLICY, interval="300ms", **more)
    code, said = group.run("apply")
    assert code == 0, said
    return group


def half(number: int) -> bool:
    return number % 2 == 1


def older(folder: pathlib.Path) -> list[str]:
    """The argv that runs the svcinit before SVCINIT_ROLL, out of the history of this repository; this one if there is
    no history."""
    folder.mkdir()
    packed = subprocess.run(
        ["git", "archive", BEFORE_ROLL, "entrypoint"], cwd=ROOT, capture_output=True, check=False
    )  # fmt: skip
    if packed.returncode:
        return svcinit_command()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return [sys.executable, "-I", "-S", "-c", LAUNCH.replace(str(ROOT / "entrypoint"), str(folder / "entrypoint"))]


def test_half_of_the_instances_are_of_an_older_build(site: Site, rolls: Rolls, tmp_path: pathlib.Path) -> None:
    old = older(tmp_path / "older")

    def launch(*command: str) -> list[str]:
        return [*old, *command] if half(int(command[-1])) else svcinit_command(*command)

    def env(number: int) -> Mapping[str, str]:
        return {"SVCINIT_ROLL": ""} if half(number) else {}  # an older one refuses a variable that it does not know

    with ExitStack() as stack:
        group = made(site, stack, "older", launch=launch, envs=env)
        value = next_value()
        with rolls(group, LIMIT) as row:
            code, said, _ = group.apply(value)
            assert code == 0, said
            olds = [each for each in group.instances if half(each.number)]
            assert group.touched(value) == [each.id for each in group.instances if each not in olds]
            listed = {each["id"] for each in group.status()["instances"]}
            assert listed == {each.id for each in group.instances}, "all are listed and counted"
            assert not {
                group.fleet.keys.instance(entry.key) for entry in group.fleet.store.below(group.fleet.keys.records)
            } & {each.id for each in olds}, "an older one has no record, and so no grant"
            build = "built before roll-outs" if old != svcinit_command() else "without SVCINIT_ROLL"
            row.ends("done", f"{COUNT // 2} {build}: listed, counted, never granted a turn")


def test_the_clocks_of_half_of_the_instances_are_a_day_off(site: Site, rolls: Rolls) -> None:
    def env(number: int) -> Mapping[str, str]:
        faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return {**faked, "FAKETIME": f"{'+' if number % 4 == 1 else '-'}{DAY}"} if half(number) else {}

    with ExitStack() as stack:
        group = made(site, stack, "clocks", envs=env)
        value = next_value()
        with rolls(group, LIMIT) as row:
            code, said, _ = group.apply(value)
            assert code == 0, said
            assert group.all_have(value)
            off = {each.id: abs(clock_of(each) - time.time()) > DAY / 2 for each in group.instances}
            assert off == {each.id: half(each.number) for each in group.instances}, "their clocks are off"
            row.ends("done", f"{COUNT // 2} of {COUNT} off, to both sides")


def clock_of(instance: Instance) -> float:
    """When its last reload ended, by its own clock."""
    return float(instance.state()["last_reload"]["ended"])


class Guarded:
    """One Consul with ACLs, in place of a cluster."""

    def __init__(self, folder: pathlib.Path, consul: GuardedConsul) -> None:
        self.folder, self.agents, self.servers = folder, [consul] * 4, [consul]
        self.cluster = self


def phase_of(group: Group) -> Phase | None:
    plan = group.plan()
    return None if plan is None else plan.phase


PARTICIPANT = """
key_prefix "svcinit/guarded/" {{ policy = "read" }}
key_prefix "svcinit/guarded/at/" {{ policy = "write" }}
key_prefix "config/guarded/" {{ policy = "read" }}
service "guarded" {{ policy = "write" }}
node_prefix "" {{ policy = "read" }}
agent_prefix "" {{ policy = "read" }}
""".replace("{{", "{").replace("}}", "}")


@pytest.mark.chaos
def test_the_token_of_the_instances_is_revoked_and_restored(
    rolls: Rolls, tmp_path: pathlib.Path
) -> None:  # fmt: skip
    with ExitStack() as stack:
        consul = stack.enter_context(
            GuardedConsul(tmp_path / "consul", config={"limits": {"http_max_conns_per_client": 1000}})
        )
        consul.let_anonymous('node_prefix "" { policy = "read" } service_prefix "" { policy = "read" }')
        token: Token = consul.grant(PARTICIPANT)
        site: Any = Guarded(tmp_path, consul)
        group = made(
            site, stack, "guarded", token=consul.token, envs=lambda _: {"CONSUL_HTTP_TOKEN": token.secret}
        )  # fmt: skip
        value = next_value()
        group.put(value)
        # in the bake no instance has a turn: one with a claim would have to end it, and needs the token for that
        with rolls(group, LIMIT) as row, group.begin("apply", "--deadline", "90s", "--bake", "5s") as conductor:
            eventually(lambda: phase_of(group) is Phase.BAKE, "the canary is healthy", 60)
            consul.revoke(token)
            eventually(lambda: "did not claim its turn" in conductor.said, "a grant is not claimed", 90)
            touched = len(group.touched(value))
            assert touched == 1, "the canary"
            consul.grant(PARTICIPANT, token.secret)
            assert conductor.wait(200) == 0, conductor.said
            assert group.all_have(value)
            row.ends("done", f"{touched} were changed when it was revoked; unclaimed turns are no failures")


@pytest.mark.chaos
def test_the_keys_of_the_fleet_are_damaged_and_an_instance_starts(site: Site, rolls: Rolls) -> None:
    with ExitStack() as stack:
        group = made(site, stack, "damaged")
        keys: Keys = group.fleet.keys
        good = group.instances[0].content
        with rolls(group, LIMIT) as row:
            for entry in group.fleet.store.below(keys.revisions):
                group.fleet.store.put(entry.key, b"\xff damaged")
            began = time.monotonic()
            (new,) = group.grow(1)
            took = time.monotonic() - began
            assert new.content == good
            assert "revision_missing" in new.run.err or "degraded" in new.run.err
            for key in (keys.plan, keys.lead):
                group.fleet.store.put(key, b"\xff damaged")
            (other,) = group.grow(1)
            assert other.content == good
            for prefix in (keys.plan, keys.revisions):
                group.site.agents[0].kv_delete(prefix)
            code, said = group.run("apply")
            assert code == 0, said
            value = next_value()
            code, said, _ = group.apply(value)
            assert code == 0, said
            eventually(lambda: group.all_have(value), "all have it", 30)
            row.ends(
                "done",
                f"a start beside damaged keys took {took:.1f} s; when they were deleted, `fleet apply` adopts again",
            )
