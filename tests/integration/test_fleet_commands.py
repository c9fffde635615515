"""svcinitctl fleet on a real Consul; the records and instances are the test's own: what each command says and does."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import random
import signal
import string
import subprocess
import sys
import time

import pytest
from jsonschema import Draft202012Validator

from svcinit.agent.fleet import commands
from svcinit.agent.fleet.records import (
    How,
    LogEntry,
    Phase,
    Plan,
    PlanState,
    RollOutcome,
    TurnOutcome,
    TurnState,
    is_own,
)
from testing.consul import ConsulAgent
from testing.ctl import CODE, svcinitctl
from testing.fleet import Commands
from testing.process import PATH, ROOT
from testing.schemas import schema
from testing.waiting import eventually

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
STATUS = Draft202012Validator(schema("fleet"))
LIST = {**schema("fleet-services"), "items": schema("fleet")}
SERVICES = Draft202012Validator(LIST)


def test_status_of_a_fleet_without_a_plan_and_with_one(web: Commands) -> None:
    web.start(2, "old")
    code, said = web.run("status", "web", "--json")
    found = json.loads(said)
    STATUS.validate(found)
    assert (code, found["plan"], len(found["instances"])) == (1, None, 2)
    web.plan(PlanState.IDLE, good="old", target="old")
    code, said = web.run("status", "web", "--json")
    STATUS.validate(json.loads(said))
    assert (code, json.loads(said)["settled"]) == (0, True), said
    code, said = web.run("status", "web", "--instances")
    assert (code, "web-1" in said, "2 passing" in said) == (0, True, True), said


def test_a_first_apply_adopts_what_all_run_and_has_nothing_to_do(web: Commands) -> None:
    web.consul.kv_put("config/web/n", "1")
    web.start(2, web.keep(n="1"))
    code, said = web.run("apply", "web")
    assert (code, "adopted" in said, "already" in said) == (0, True, True), said
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert plan.good == web.keep(n="1")


def test_a_dry_run_names_the_keys_and_writes_nothing(web: Commands) -> None:
    good = web.keep(n="1", same="x")
    web.start(2, good)
    web.plan(PlanState.IDLE, good, good)
    web.consul.kv_put("config/web/n", "2")
    web.consul.kv_put("config/web/same", "x")
    before = {entry.key: entry.modified for entry in web.fleet.store.below("svcinit/")}
    code, said = web.run("apply", "web", "--dry-run")
    assert (code, "config/web/n" in said, "same" in said) == (0, True, False), said
    batches = [line.split()[1:] for line in said.splitlines() if ". web-" in line]
    assert [(words[0], words[1]) for words in batches] == [("canary", "1."), ("all", "2.")], said
    assert {words[2] for words in batches} == {"web-0", "web-1"}
    assert {entry.key: entry.modified for entry in web.fleet.store.below("svcinit/")} == before
    assert web.run("diff", "web") == (0, " config/web/n\n")
    assert json.loads(web.run("diff", "web", "--json")[1]) == ["config/web/n"]


def test_a_prefix_that_lost_all_its_keys_is_not_rolled_out(web: Commands) -> None:
    good = web.keep(n="1")
    web.start(1, good)
    web.plan(PlanState.IDLE, good, good)
    code, said = web.run("apply", "web")
    assert (code, "--allow-empty" in said) == (78, True), said
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert plan.state is PlanState.IDLE
    assert web.run("undo", "web")[0] == 0
    assert web.consul.kv_get("config/web/n") == b"1"


def test_undo_restores_a_value_as_large_as_consul_takes(web: Commands) -> None:
    large = "".join(random.choices(string.printable, k=512 << 10))
    good = web.keep(n="1", large=large)
    web.start(1, good)
    web.plan(PlanState.IDLE, good, good)
    web.consul.kv_put("config/web/n", "2")
    code, said = web.run("undo", "web")
    assert (code, "2 keys are" in said) == (0, True), said
    assert (web.consul.kv_get("config/web/n"), web.consul.kv_get("config/web/large")) == (b"1", large.encode())


def test_a_plan_of_another_state_refuses_a_command_with_its_status(web: Commands) -> None:
    good, new = web.keep(n="1"), web.keep(n="2")
    web.start(1, good)
    web.consul.kv_put("config/web/n", "3")
    web.plan(PlanState.IDLE, good, good)
    for command in ("pause", "resume", "abort"):
        assert web.run(command, "web")[0] == 1, command
    web.plan(PlanState.ROLLING, good, new)
    assert web.run("apply", "web")[0] == 75
    assert web.run("pause", "web")[0] == 0
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert plan.state is PlanState.PAUSED


def test_the_policy_is_checked_before_it_is_written(web: Commands) -> None:
    code, said = web.run("policy", "web", "max_unavailable=lots", "healthy=5m")
    assert (code, "max_unavailable" in said) == (78, True), said
    assert web.run("policy", "web", "max_unavailable=5")[0] == 0
    assert web.document("policy", "web")["policy"]["max_unavailable"] == "5"
    assert web.run("policy", "web", "max_unavailable=")[0] == 0
    assert web.document("policy", "web")["policy"]["max_unavailable"] == "10%"


def test_the_history_says_who_and_how_it_ended(web: Commands) -> None:
    entry = LogEntry(
        n=16, outcome=RollOutcome.REVERTED, source="3f9a1c", target="81d0c7", by="ops@build1", reason="CHG-1234",
        began=int(time.time()) - 60, ended=int(time.time()), expected=200, done=1, failures=1,
        failed=(("web-3", "critical"),), most_out=1, keys=("config/web/n",),
    )  # fmt: skip
    web.fleet.store.put(web.fleet.keys.log(16), entry.dump())
    code, said = web.run("history", "web")
    assert code == 0
    for part in ("16", "reverted", "3f9a1c -> 81d0c7", "1 of 200", "ops@build1", "CHG-1234", "web-3: critical"):
        assert part in said, said
    assert json.loads(web.run("history", "web", "--json")[1])[0]["n"] == 16


def test_the_number_of_entries_of_the_history_stands_alone_in_a_container_and_is_no_zero(web: Commands) -> None:
    for n in (1, 2):
        web.fleet.store.put(web.fleet.keys.log(n), LogEntry(n=n, began=1).dump())
    container = {**web.consul.env, "SVCINIT_SERVICE": "web", "SVCINIT_PORT": "1"}
    said = svcinitctl("fleet", "history", "1", env=container).stdout
    assert [line.split()[0] for line in said.splitlines()] == ["2"], said
    assert svcinitctl("fleet", "history", "web", "1", env=container).stdout == said
    assert web.run("history", "web", "0")[0] == 2
    assert svcinitctl("fleet", "history", "0", env=container).returncode == 2
    code, said = web.run("history", "wed")
    assert (code, "wed has no roll-out yet" in said) == (0, True), said


def test_status_says_how_an_instance_that_left_is_forgotten(web: Commands) -> None:
    web.start(2, "good")
    web.plan(PlanState.IDLE, "good", "good")
    record = web.fleet.records()["web-1"].record
    assert is_own(record)
    web.fleet.store.put(web.fleet.keys.at("web-1"), dataclasses.replace(record, left=True).dump())
    assert "fleet forget" not in web.run("status", "web")[1]
    web.consul.call("PUT", "/v1/agent/service/deregister/web-1")
    eventually(lambda: set(web.fleet.health()) == {"web-0"}, "the catalog has one")
    code, said = web.run("status", "web")
    assert (code, "fleet forget web web-1" in said) == (1, True), said
    assert web.run("forget", "web", "web-1")[0] == 0
    assert web.run("status", "web")[0] == 0


def test_a_forgotten_instance_has_no_record(web: Commands) -> None:
    web.start(2, "old")
    assert web.run("forget", "web", "web-1")[0] == 0
    assert set(web.fleet.records()) == {"web-0"}
    assert web.run("forget", "web", "web-1")[0] == 1


def test_without_a_name_the_status_has_all_services_that_have_a_plan(web: Commands) -> None:
    web.start(2, "good")
    web.plan(PlanState.IDLE, "good", "good")
    web.fleet.store.put("svcinit/shop/plan", Plan(n=4, state=PlanState.ROLLING, good="good", target="new").dump())
    web.fleet.store.put("svcinit/torn/plan", b"{}")
    web.fleet.store.put("svcinit/unplanned/at/x", b"{}")
    code, said = web.run("status")
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert (code, list(lines)) == (1, ["shop", "torn", "web"]), said
    assert "rolling" in lines["shop"]
    assert "conductor none" in lines["shop"]
    assert "2 of 2 on good" in lines["web"]
    code, said = web.run("status", "--json")
    found = json.loads(said)
    SERVICES.validate(found)
    assert (code, [each["service"] for each in found]) == (1, ["shop", "torn", "web"])
    for key in ("shop", "torn"):
        web.fleet.store.delete(f"svcinit/{key}/plan")
    assert web.run("status")[0] == 0
    code, said = web.run("diff")
    assert (code, "in KV are: web" in said) == (2, True), said


def test_without_consul_or_a_name_the_status_says_so(consul: ConsulAgent) -> None:
    gone = svcinitctl("fleet", "status", "web", env={"CONSUL_HTTP_ADDR": "127.0.0.1:1"})
    assert gone.returncode == 69
    none = svcinitctl("fleet", "status", env=consul.env)
    assert (none.returncode, "no service" in none.stdout) == (0, True), none


def test_a_command_runs_in_the_turn_of_its_instance_and_the_others_wait(web: Commands, tmp_path: pathlib.Path) -> None:
    """Two hosts, one turn at a time: the second command begins after the first instance is healthy."""
    web.start(2, "old")
    noted = tmp_path / "noted"
    policy = ["--max-unavailable", "1", "--healthy", "1s", "--bake", "0s", "--spread", "none", "--canary", "0"]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, "fleet", "turn", "--id", f"web-{n}", *policy, "web", "--",
             "sh", "-c", f"echo begin {n} >>{noted}; sleep 0.5; echo end {n} >>{noted}"],
            env={**PATH, **web.consul.env, "PYTHONPATH": str(ROOT / "entrypoint")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for n in range(2)
    ]  # fmt: skip
    try:
        said = [host.communicate(timeout=50)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], said
    words = noted.read_text().split()
    assert words[0::2] == ["begin", "end"] * 2, words
    assert words[1] == words[3]
    assert {record.turn.state for record in web.fleet.own_records()} == {TurnState.ENDED}


QUICK = "--healthy", "1s", "--bake", "0s", "--spread", "none"


def test_a_command_that_fails_in_its_turn_halts_the_others(web: Commands) -> None:
    """The roll-out is halted when the command of the first host returns; no other host begins another one."""
    web.start(2, "old")
    code, said = web.run("turn", "--id", "web-0", *QUICK, "web", "--", "sh", "-c", "exit 3")
    assert code == 3, said
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert (plan.n, plan.state, dict(plan.failed)) == (1, PlanState.HALTED, {"web-0": "failed"})
    code, said = web.run("turn", "--id", "web-1", *QUICK, "web", "--", "true")
    assert (code, "has its turn" in said) == (1, False), said
    assert web.fleet.plan()[0] == plan
    assert web.run("abort", "web")[0] == 1
    code, said = web.run("turn", "--id", "web-1", *QUICK, "web", "--", "true")
    assert (code, "has its turn" in said) == (0, True), said


def test_the_first_apply_after_turns_has_a_good_revision_to_go_back_to(web: Commands) -> None:
    """And no instance takes a revision from the turns: `wanted` is the live prefix until then."""
    old = web.keep(n="1")
    web.start(2, old)
    web.consul.kv_put("config/web/n", "1")
    assert web.run("turn", "--id", "web-0", *QUICK, "web", "--", "true")[0] == 0
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert plan.good == ""
    code, said = web.run("diff", "web")
    assert (code, "no good revision yet" in said) == (78, True), said
    web.consul.kv_put("config/web/n", "2")
    code, said = web.run("apply", "web", "--dry-run")
    assert (code, f"{old[:6]} -> " in said) == (0, True), said
    assert web.fleet.plan()[0] == plan
    assert web.run("apply", "web", "--detach")[0] == 0
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert (plan.n, plan.good, plan.target, plan.state) == (2, old, web.keep(n="2"), PlanState.ROLLING)
    reverting, _ = commands.abort(plan)
    assert (reverting.state, reverting.target) == (PlanState.REVERTING, old)


def test_a_first_apply_without_a_change_after_turns_records_what_all_run(web: Commands) -> None:
    old = web.keep(n="1")
    web.start(2, old)
    web.consul.kv_put("config/web/n", "1")
    assert web.run("turn", "--id", "web-0", *QUICK, "web", "--", "true")[0] == 0
    code, said = web.run("apply", "web")
    assert (code, "adopted" in said, "already" in said) == (0, True, True), said
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert (plan.n, plan.good) == (1, old)


def test_a_roll_out_of_turns_that_no_host_waits_for_holds_up_no_other_one(web: Commands) -> None:
    web.start(1, web.keep(n="1"))
    web.consul.kv_put("config/web/n", "1")
    spent = Plan(n=1, state=PlanState.ROLLING, how=How.TURN, good=web.keep(n="1"), phase=Phase.ALL)
    web.fleet.store.put(web.fleet.keys.plan, spent.dump())
    web.step("web-0", TurnState.ENDED, n=1, serial=1, how=How.TURN, outcome=TurnOutcome.DONE)
    assert web.run("reload", "web", "--detach")[0] == 0
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert (plan.n, plan.how) == (2, How.RELOAD)
    assert web.fleet.entry(1).outcome is RollOutcome.DONE  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("state", "command"),
    [(PlanState.HALTED, "apply --detach web"), (PlanState.HALTED, "settle --detach web"),
     (PlanState.ROLLING, "abort --detach web")],
)  # fmt: skip
def test_a_roll_out_that_another_one_replaces_is_in_the_history_with_the_same_write(
    web: Commands, state: PlanState, command: str
) -> None:
    """A command that is killed between two writes would leave none."""
    good, new = web.keep(n="1"), web.keep(n="2")
    web.start(1, good)
    web.consul.kv_put("config/web/n", "3")
    web.plan(state, good, new)
    assert web.run(*command.split())[0] == 0
    plan, entry = (web.fleet.store.get(key) for key in (web.fleet.keys.plan, web.fleet.keys.log(1)))
    assert plan is not None
    assert entry is not None
    assert plan.modified == entry.modified


def test_a_roll_out_that_is_resumed_after_an_abort_ends_as_done(web: Commands) -> None:
    new = web.keep(n="2")
    web.start(2, new)
    web.plan(good=web.keep(n="1"), target=new)
    assert web.run("abort", "--keep", "web")[0] == 1
    assert web.fleet.entry(1).outcome is RollOutcome.ABORTED  # type: ignore[union-attr]
    code, said = web.run("resume", "web")
    assert (code, web.fleet.entry(1).outcome) == (0, RollOutcome.DONE), said  # type: ignore[union-attr]
    assert web.run("status", "web")[0] == 0


def test_a_roll_out_that_is_aborted_and_then_replaced_stays_aborted_in_the_history(web: Commands) -> None:
    good, new = web.keep(n="1"), web.keep(n="2")
    web.start(1, good)
    web.consul.kv_put("config/web/n", "3")
    web.plan(good=good, target=new)
    assert web.run("abort", "--keep", "--detach", "web")[0] == 0
    assert web.run("apply", "--detach", "web")[0] == 0
    assert web.fleet.entry(1).outcome is RollOutcome.ABORTED  # type: ignore[union-attr]


@pytest.mark.parametrize("is_killed", [False, True], ids=["all hosts have ended", "the last host was killed"])
def test_after_the_last_turn_the_roll_out_is_over_and_a_revert_goes_back(web: Commands, is_killed: bool) -> None:
    good, previous = web.keep(n="2"), web.keep(n="1")
    web.start(2, good)
    plan = Plan(n=1, state=PlanState.IDLE, good=good, previous=previous, target=good, paths=("config/web",))
    web.fleet.store.put(web.fleet.keys.plan, plan.dump())
    code, said = web.run("turn", "--id", "web-0", *QUICK, "web", "--", "true")
    found, index = web.fleet.plan()
    assert found is not None
    assert (code, found.n, found.state, web.fleet.is_led()) == (0, 2, PlanState.IDLE, False), said
    assert web.fleet.entry(2).outcome is RollOutcome.DONE  # type: ignore[union-attr]
    assert web.run("status", "web")[0] == 0
    if is_killed:
        spent = dataclasses.replace(found, state=PlanState.ROLLING, phase=Phase.ALL)
        assert web.fleet.store.put(web.fleet.keys.plan, spent.dump(), index=index)
    code, said = web.run("revert", "--detach", "web")
    found, _ = web.fleet.plan()
    assert found is not None
    assert (code, found.n, found.state, found.target) == (0, 3, PlanState.ROLLING, previous), said


def test_an_abort_without_a_good_revision_refuses_and_names_nothing_to_restore(web: Commands) -> None:
    web.start(1, "old")
    web.consul.kv_put("config/web/n", "2")
    web.plan(good="", target=web.keep(n="2"))
    code, said = web.run("abort", "web")
    assert (code, "is refused until" in said, "undo" in said) == (1, True, False), said
    code, said = web.run("apply", "web")
    assert (code, "was refused" in said) == (1, True), said


def test_an_instance_outside_the_catalog_gets_no_turn_and_the_command_ends_at_once(web: Commands) -> None:
    web.start(2, "old")
    web.consul.call("PUT", "/v1/agent/service/deregister/web-1")
    eventually(lambda: set(web.fleet.health()) == {"web-0"}, "the catalog has one")
    began = time.monotonic()
    code, said = web.run("turn", "--id", "web-1", *QUICK, "web", "--", "true")
    assert (code, "catalog" in said, "has its turn" in said) == (75, True, False), said
    assert time.monotonic() - began < 10, "a roll-out of turns waits for 30 s for further hosts"
    assert (web.fleet.plan()[0], web.turn_of("web-1").state) == (None, TurnState.IDLE)


def test_a_deployment_after_the_end_of_another_one_begins_with_a_canary_again(web: Commands) -> None:
    web.start(2, "old")
    policy = [*QUICK, "--bake", "3s"]
    assert web.run("turn", "--id", "web-0", *policy, "web", "--", "true")[0] == 0
    code, said = web.run("turn", "--id", "web-1", *policy, "web", "--", "true")
    plan, _ = web.fleet.plan()
    assert plan is not None
    assert (code, plan.n) == (0, 2), said
    assert web.fleet.entry(1).outcome is RollOutcome.DONE  # type: ignore[union-attr]


def test_a_turn_whose_host_is_killed_goes_on_with_the_next_command_there(web: Commands, tmp_path: pathlib.Path) -> None:
    """The instance is in its turn all the time: no other one gets a turn meanwhile."""
    web.start(2, "old")
    policy = [*QUICK, "--max-unavailable", "1", "--canary", "0"]
    noted = tmp_path / "noted"
    killed = subprocess.Popen(
        [sys.executable, "-c", CODE, "fleet", "turn", "--id", "web-0", *policy, "web", "--",
         "sh", "-c", f"echo $$ >{noted}; exec sleep 60"],
        env={**PATH, **web.consul.env, "PYTHONPATH": str(ROOT / "entrypoint")}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        command = int(eventually(lambda: noted.exists() and noted.read_text().strip(), "the command runs", 20))
        killed.kill()
        killed.wait()
        code, said = web.run("turn", "--id", "web-0", *policy, "web", "--", "true")
        assert (code, "has its turn" in said) == (75, False), said  # its command still runs
        assert "fleet forget web web-0" in web.run("status", "web")[1]
    finally:
        killed.kill()
        os.kill(command, signal.SIGKILL)
    eventually(lambda: not pathlib.Path(f"/proc/{command}").exists(), "the command has ended")
    serial = web.turn_of("web-0").serial
    assert web.turns(TurnState.CLAIMED) == ["web-0"]
    code, said = web.run("turn", "--id", "web-0", *policy, "web", "--", "true")
    assert (code, "has its turn" in said) == (0, True), said
    assert (web.turn_of("web-0").serial, web.turn_of("web-0").outcome) == (serial, TurnOutcome.DONE)
