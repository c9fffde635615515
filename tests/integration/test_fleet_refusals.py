"""What svcinitctl fleet refuses, on a real Consul, before it has changed anything."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest

from svcinit.agent.fleet.records import Plan, PlanState, Record
from testing.consul import ConsulAgent
from testing.ctl import svcinitctl
from testing.fleet import Commands
from testing.secured import GuardedConsul

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
PLAN = "svcinit/web/plan"


@pytest.fixture
def web(consul: ConsulAgent) -> Iterator[Commands]:
    with Commands(consul) as made:
        yield made


@pytest.mark.parametrize("value", ['{"v": 2, "n": 7}', "damaged"])
def test_a_plan_that_cannot_be_read_is_not_replaced(web: Commands, value: str) -> None:
    web.start(2, web.keep(n="1"))
    web.consul.kv_put("config/web/n", "1")
    web.consul.kv_put(PLAN, value)
    for command in ("apply", "reload", "revert", "settle", "pause", "resume", "abort", "undo", "diff"):
        code, said = web.run(command, "web")
        assert (code, PLAN in said) == (78, True), f"{command}: {said}"
    assert web.consul.kv_get(PLAN) == value.encode()


def test_status_does_not_say_that_there_is_no_roll_out_if_it_cannot_read_the_plan(web: Commands) -> None:
    web.start(1, "old")
    web.consul.kv_put(PLAN, '{"v": 2}')
    code, said = web.run("status", "web")
    assert (code, "cannot be read" in said, "no roll-out" in said) == (1, True, False), said
    found = web.document("status", "web")
    assert (found["plan"], found["has_plan"]) == (None, True)


@pytest.fixture
def guarded(tmp_path: pathlib.Path) -> Iterator[GuardedConsul]:
    """With an instance, and a roll-out that has changed it."""
    with GuardedConsul(tmp_path / "guarded") as agent:
        definition = {"Name": "web", "ID": "web-0", "Port": 8000, "Meta": {"svcinit": "life0-x"}}
        agent.call("PUT", "/v1/agent/service/register", json.dumps(definition).encode())
        agent.kv_put("svcinit/web/at/web-0", Record(life="life0", rev="new", paths=("config/web",)).dump())
        yield agent


@pytest.mark.parametrize(("command", "state"), [("abort", PlanState.ROLLING), ("resume", PlanState.PAUSED)])
def test_without_a_rule_for_the_catalog_abort_and_resume_name_it_and_change_nothing(
    guarded: GuardedConsul, command: str, state: PlanState
) -> None:
    plan = Plan(n=1, state=state, good="old", target="new", paths=("config/web",)).dump()
    guarded.kv_put(PLAN, plan)
    rules = ['key_prefix "svcinit/web/" { policy = "write" }', 'session_prefix "" { policy = "write" }']
    catalog = ['service "web" { policy = "read" }', 'node_prefix "" { policy = "read" }']
    for rule, other in (catalog, reversed(catalog)):
        guarded.secrets = {"CONSUL_HTTP_TOKEN": guarded.grant(" ".join([*rules, other])).secret}
        done = svcinitctl("fleet", command, "web", "--timeout", "3", env=guarded.env)
        assert (done.returncode, rule in done.stderr) == (78, True), done
        assert guarded.kv_get(PLAN) == plan
