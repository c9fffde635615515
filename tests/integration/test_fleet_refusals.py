"""What svcinitctl fleet refuses, on a real Consul, before it has changed anything."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest

from svcinit.agent.fleet.records import How, Plan, PlanState, Record
from testing.ctl import svcinitctl
from testing.fleet import Commands
from testing.secured import GuardedConsul

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
PLAN = "svcinit/web/plan"


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


def test_a_deployment_whose_only_container_is_gone_can_be_aborted(web: Commands) -> None:
    web.fleet.store.put(web.fleet.keys.at("web-0"), Record(life="life0", rev="old", paths=("config/web",)).dump())
    web.consul.kv_put(PLAN, Plan(n=1, state=PlanState.HALTED, how=How.TURN, good="old", paths=("config/web",)).dump())
    code, said = web.run("abort", "web", "--detach")
    assert code == 0, said
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert plan.state is PlanState.IDLE


def test_a_canary_that_is_no_instance_is_an_error_and_no_other_one_goes_first(web: Commands) -> None:
    good = web.keep(n="1")
    web.start(2, good)
    web.plan(PlanState.IDLE, good, good)
    web.consul.kv_put("config/web/n", "2")
    before = web.consul.kv_get(PLAN)
    code, said = web.run("apply", "web", "--canary-id", "web-7", "--detach")
    assert (code, "--canary-id web-7" in said) == (78, True), said
    assert web.consul.kv_get(PLAN) == before
    assert web.run("apply", "web", "--canary-id", "web-1", "--detach")[0] == 0


def test_a_key_of_the_policy_without_a_value_is_wrong_usage_and_keeps_what_is_stored(web: Commands) -> None:
    assert web.run("policy", "web", "bake=5m")[0] == 0
    code, said = web.run("policy", "web", "keep=5", "bake")
    assert (code, "KEY=VALUE" in said) == (2, True), said
    assert web.document("policy", "web")["policy"]["bake"] == "5m"


def test_apply_says_why_no_instance_takes_turns_also_if_none_does(web: Commands) -> None:
    web.consul.kv_put("config/web/n", "1")
    web.consul.register("web", 8000)
    code, said = web.run("apply", "web")
    assert (code, "no turns: web" in said, "SVCINIT_ROLL" in said) == (0, True, True), said


def test_a_missing_word_is_wrong_usage(web: Commands) -> None:
    web.start(1, "old")
    for command in (["apply"], ["turn", "web", "--", "true"], ["turn", "--id", "web-0", "web"]):
        assert web.run(*command)[0] == 2, command
