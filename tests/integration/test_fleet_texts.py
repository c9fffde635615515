"""What anybody who may write to KV can write there: no command of svcinitctl fleet prints its control characters."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest

from svcinit.agent.fleet.records import LogEntry, Plan, PlanState, RollOutcome, is_own
from testing.fleet import Commands

pytestmark = [pytest.mark.consul, pytest.mark.long, pytest.mark.timeout(60)]
EVIL = "x\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202ey"


def plant(web: Commands) -> None:
    good = web.keep(**{"n": EVIL, f"key{EVIL}": "1"})
    web.consul.kv_put("config/web/n", f"{EVIL}2")
    web.start(2, good)
    seen = web.fleet.records()["web-0"]
    assert is_own(seen.record)
    record = dataclasses.replace(seen.record, node=EVIL, svcinit=EVIL, rev=EVIL)
    web.fleet.store.put(web.fleet.keys.at("web-0"), record.dump())
    web.fleet.store.put(web.fleet.keys.at(f"gone{EVIL}"), record.dump())
    plan = Plan(
        n=1, state=PlanState.HALTED, good=good, target=EVIL, by=EVIL, reason=EVIL, token=EVIL, keys=(EVIL,),
        failed=((EVIL, EVIL),), refused={EVIL: EVIL}, paths=("config/web",), began=int(time.time()),
    )  # fmt: skip
    web.fleet.store.put(web.fleet.keys.plan, plan.dump())
    web.fleet.store.put(web.fleet.keys.policy, json.dumps({"max_unavailable": "1", EVIL: EVIL}).encode())
    entry = LogEntry(
        n=1, outcome=RollOutcome.HALTED, source=EVIL, target=EVIL, by=EVIL, reason=EVIL, token=EVIL, keys=(EVIL,),
        failed=((EVIL, EVIL),),
    )  # fmt: skip
    web.fleet.store.put(web.fleet.keys.log(1), entry.dump())


@pytest.mark.parametrize(
    "command",
    [
        "status web", "status web --instances", "status web --json", "status", "history web", "history web --json",
        "diff web", "diff web --values", "diff web --json", "policy web", "apply web --dry-run", "pause web",
        "undo web --dry-run", "apply web --detach",
    ],
)  # fmt: skip
def test_no_command_prints_control_characters_from_kv(web: Commands, command: str) -> None:
    plant(web)
    _, said = web.run(*command.split())
    odd = {each for each in said if not each.isprintable()} - {"\n", "\t"}
    assert not odd, said
