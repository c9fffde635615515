"""`--json` of svcinitctl fleet: standard output has one document with a schema, whatever happened."""

from __future__ import annotations

import json
from typing import Any

import pytest

from svcinit.agent.fleet.records import LogEntry, PlanState
from svcinit.ctl.fleet import COMMANDS
from testing.ctl import svcinitctl
from testing.fleet import Commands
from testing.schemas import fleet_validator

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
RESULT = fleet_validator("fleet-result")
HISTORY = fleet_validator("fleet-history")
QUICK = "--healthy 1s --bake 0s --spread none --deadline 20s"
OTHERS = "status", "history", "diff"  # they change nothing


def document(web: Commands, *command: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    done = svcinitctl("fleet", *command, env=env or web.consul.env)
    found: dict[str, Any] = json.loads(done.stdout)
    RESULT.validate(found)
    assert (found["command"], found["exit_status"]) == (command[0], done.returncode), done.stderr
    return found


IDLE, ROLLING, PAUSED, HALTED = PlanState.IDLE, PlanState.ROLLING, PlanState.PAUSED, PlanState.HALTED
TABLE: list[tuple[PlanState | None, str, int, dict[str, object]]] = [
    # plan; command; exit status; what the document has
    (None, "apply web", 0, {"roll_out": None, "why": "nothing"}),
    (IDLE, "apply web", 0, {"roll_out": None, "why": "nothing"}),
    (ROLLING, "apply --set web", 75, {"roll_out": None, "why": "running"}),
    (IDLE, "apply --set --dry-run web", 0, {"roll_out": None}),
    (IDLE, "apply --set --detach web", 0, {"roll_out": 2}),
    (IDLE, "apply --set --timeout 1 web", 75, {"roll_out": 2}),
    (IDLE, "retry --set --detach web", 0, {"roll_out": 2}),
    (IDLE, "reload --detach web", 0, {"roll_out": 2}),
    (IDLE, "restart --detach web", 0, {"roll_out": 2}),
    (IDLE, "settle --detach web", 0, {"roll_out": 2}),
    (ROLLING, "revert --detach web", 0, {"roll_out": 2}),
    (ROLLING, "pause web", 0, {"roll_out": 1}),
    (IDLE, "pause web", 1, {"why": "not_rolling"}),
    (PAUSED, "resume --detach web", 0, {"roll_out": 1}),
    (IDLE, "resume web", 1, {"why": "not_paused"}),
    (HALTED, "abort web", 0, {"roll_out": 2}),
    (IDLE, "abort web", 1, {"why": "over"}),
    (IDLE, "undo --set web", 0, {"keys": ["config/web/n"]}),
    (IDLE, "policy web bake=5s", 0, {}),
    (IDLE, "policy web bake=soon", 78, {"policy": None}),
    (IDLE, "forget web web-1", 0, {}),
    (IDLE, "forget web web-7", 1, {}),
    (IDLE, f"turn --id web-0 {QUICK} web -- echo said", 0, {"roll_out": 2}),
    (IDLE, f"turn --id web-0 {QUICK} web -- sh -c 'exit 3'", 3, {"roll_out": 2}),
    (IDLE, f"turn --id web-9 {QUICK} web -- true", 78, {"roll_out": None}),
    (IDLE, "settle", 2, {"service": ""}),
]


@pytest.mark.parametrize(("state", "command", "status", "has"), TABLE, ids=[row[1] for row in TABLE])
def test_a_command_that_changes_something_prints_one_document(
    web: Commands, state: PlanState | None, command: str, status: int, has: dict[str, object]
) -> None:
    """`--set`: the live key was changed before."""
    good, new = web.keep(n="1"), web.keep(n="2")
    web.consul.kv_put("config/web/n", "2" if "--set" in command else "1")
    web.start(2, good)
    if state is not None:
        web.plan(state, good, good if state is IDLE else new, healthy="1s")
    action, _, rest = command.replace("--set ", "").partition(" ")
    shell = rest.rpartition("sh -c ")
    words = [*shell[0].split(), "sh", "-c", shell[2].strip("'")] if shell[1] else rest.split()
    found = document(web, action, "--json", *words)
    assert found["exit_status"] == status, found
    assert {name: found[name] for name in has} == has
    assert bool(found["faults"]) == (status in (78, 2) or bool(found["why"] and status) or command.endswith("web-7"))
    if "--dry-run" in command:
        assert {id for batch in found["order"] for id in batch["ids"]} == {"web-0", "web-1"}
    if action == "policy" and not status:
        assert found["policy"]["bake"] == "5s"


def test_the_table_has_all_commands_that_change_something() -> None:
    assert {row[1].split()[0] for row in TABLE} == set(COMMANDS) - set(OTHERS)


def test_without_consul_there_is_a_document_too(web: Commands) -> None:
    found = document(web, "pause", "--json", "web", env={"CONSUL_HTTP_ADDR": "127.0.0.1:1"})
    assert (found["exit_status"], found["plan"], found["service"]) == (69, None, "web")
    assert found["faults"]


def test_the_lines_for_people_are_on_standard_error(web: Commands) -> None:
    web.start(1, web.keep(n="1"))
    web.consul.kv_put("config/web/n", "1")
    command = f"turn --json --id web-0 {QUICK} web -- echo said by the command"
    done = svcinitctl("fleet", *command.split(), env=web.consul.env)
    RESULT.validate(json.loads(done.stdout))
    assert ("said by the command" in done.stderr, "has its turn" in done.stderr) == (True, True), done


def test_the_history_has_a_schema(web: Commands) -> None:
    web.fleet.store.put(web.fleet.keys.log(1), LogEntry(n=1, failed=(("web-0", "critical"),), keys=("n",)).dump())
    HISTORY.validate(json.loads(web.run("history", "--json", "web")[1]))
