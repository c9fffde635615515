"""What lies in KV, what a policy may say, and what a person may do to a plan."""

from __future__ import annotations

import calendar
import json
import pathlib
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcinit.agent.consul.store import BODY_LIMIT, OVERHEAD
from svcinit.agent.fleet import commands, policy
from svcinit.agent.fleet.commands import NotNow, Request, Why
from svcinit.agent.fleet.conduct import Fleet
from svcinit.agent.fleet.events import REASONS, TEXTS, text
from svcinit.agent.fleet.health import rows
from svcinit.agent.fleet.policy import OnFailure
from svcinit.agent.fleet.records import (
    FAILED_LIMIT,
    FOREIGN,
    LOG_LIMIT,
    PLAN_LIMIT,
    RECORD_ROOM,
    TRANSITIONS,
    Condition,
    Foreign,
    How,
    Keys,
    LogEntry,
    Phase,
    Plan,
    PlanState,
    Record,
    Rehearsal,
    RollOutcome,
    Turn,
    TurnOutcome,
    TurnState,
    Writer,
    allowed,
    is_own,
    shortened,
)
from svcinit.agent.fleet.view import Event, Reason
from svcinit.errors import ConfigError, Unavailable
from svcinit.model import RELOAD_OUTCOMES

# ---- values


@pytest.mark.parametrize("value", [Plan(), Record(), LogEntry()], ids=["plan", "record", "log"])
def test_a_value_is_read_as_it_was_written(value: Plan | Record | LogEntry) -> None:
    assert type(value).parse(value.dump()) == value


def test_the_same_value_has_the_same_bytes() -> None:
    one = Plan(refused={"a": "1", "b": "2"}, policy={"bake": "1m", "canary": "1"})
    other = Plan(refused={"b": "2", "a": "1"}, policy={"canary": "1", "bake": "1m"})
    assert one.dump() == other.dump()


def test_fields_of_a_newer_version_survive_a_write() -> None:
    record = Record.parse(b'{"v": 1, "life": "a", "weather": {"rain": true}, "turn": {"n": 3, "state": "claimed"}}')
    assert is_own(record)
    assert record.turn == Turn(n=3, state=TurnState.CLAIMED)
    assert json.loads(replace(record, left=True).dump())["weather"] == {"rain": True}


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b"7", b"{}", b'{"v": 2}', b'{"v": 1, "life": 7}', b'{"v": 1, "turn": []}', b"\xff\xfe",
        b'{"v": 1, "turn": {"state": "sleeping"}}', b'{"v": 1, "turn": {"n": -1}}', b'{"v": 1, "turn": {"n": true}}',
        b'{"v": 1, "turn": {"n": 1e400}}', b'{"v": 1, "left": 1}', b'{"v": 1, "paths": "config"}', b"[" * 100_000,
        b'{"v": 1, "every": NaN}', b'{"v": 1, "life": "' + b"x" * 9000 + b'"}', b'{"v": 1, "rev": "\\ud800"}',
        b'{"v": 1, "weather": ' + b"[" * 600 + b"]" * 600 + b"}",
        b'{"v": 1, "weather": ' + b'{"a":' * 400 + b"1" + b"}" * 401,
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_foreign_and_no_exception(raw: bytes) -> None:
    assert Record.parse(raw) is FOREIGN


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_nothing_that_lies_in_kv_is_an_exception(raw: bytes) -> None:
    for kind in (Plan, Record, LogEntry):
        kind.parse(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(("n", "state", "failed", "refused", "policy", "turn", "every", "paths")), JSON))
def test_a_value_is_valid_whole_or_not_at_all(data: dict[str, Any]) -> None:
    raw = json.dumps({"v": 1, **data}).encode()
    for kind in (Plan, Record, LogEntry):
        value = kind.parse(raw)
        if not isinstance(value, Foreign):
            assert kind.parse(value.dump()) == value


def test_the_largest_values_fit_their_limits() -> None:
    id = "x" * 80
    failed = tuple((f"{id}{number}", "rolled_back") for number in range(FAILED_LIMIT))
    refused = {f"{number:012}": "y" * 200 for number in range(10)}
    texts = dict.fromkeys(policy.POLICY, "z" * 60)
    plan = Plan(failed=failed, refused=refused, policy=texts, keys=("k" * 100,) * 20, reason="r" * 200)
    assert len(plan.dump()) < PLAN_LIMIT
    keys = ("\N{CYRILLIC SMALL LETTER ZHE}" * 200,) * 20
    assert len(LogEntry(failed=failed[:20], keys=keys).dump()) < LOG_LIMIT
    assert is_own(LogEntry.parse(LogEntry(failed=failed[:20], keys=keys).dump()))
    assert is_own(Plan.parse(replace(plan, keys=keys).dump()))


EMOJI = "\N{SNAKE}" * 200


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        (Record(turn=Turn(trouble="t" * 200), paths=("p" * 100,) * 10), True),
        (Record(turn=Turn(trouble=EMOJI), rehearsal=Rehearsal(trouble=EMOJI), paths=("p" * 100,) * 10), True),
        (Record(turn=Turn(trouble=EMOJI), rehearsal=Rehearsal(trouble=EMOJI), paths=("p" * 800,) * 3), False),
        (Record(paths=("p" * 800,) * 3, extra={"new": "x" * 3000}), True),
    ],
)
def test_a_record_is_one_that_its_instance_can_read_again(record: Record, kept: bool) -> None:
    """Texts for people are left out where there is no room, then fields of a newer svcinit."""
    raw = record.dump()
    found = Record.parse(raw)
    assert is_own(found)
    assert len(raw) <= RECORD_ROOM
    assert (found.paths, found.turn.state) == (record.paths, record.turn.state)
    assert (found.turn.trouble == record.turn.trouble) is kept
    assert found.dump() == raw


def test_a_record_that_the_conductor_writes_can_be_read() -> None:
    """It adds a turn to a record that is as large as an instance may write it."""
    record = Record(paths=("p" * 830,) * 4)
    assert RECORD_ROOM * 0.89 < len(record.dump()) <= RECORD_ROOM
    granted = replace(record, turn=Turn(n=2**53, serial=2**53, rev="r" * 12, owner=EMOJI, state=TurnState.GRANTED))
    assert is_own(Record.parse(granted.dump()))
    assert 62 * (len(granted.dump()) * 4 // 3 + OVERHEAD) < BODY_LIMIT  # in base64


@pytest.mark.parametrize("text", ["a\udc80b", "é" * 300, "\ud800"])
def test_a_text_for_people_is_one_that_can_be_read_again(text: str) -> None:
    assert is_own(Record.parse(Record(turn=Turn(trouble=shortened(text))).dump()))


@pytest.mark.parametrize("id", ["shop-h1-8000", "a/b", "..", ".", "é ü", "a%2Fb", "plan"])
def test_each_instance_has_a_key_of_its_own(id: str) -> None:
    keys = Keys("/svcinit/shop/")
    assert keys.at(id).startswith("svcinit/shop/at/")
    assert keys.at(id).count("/") == 3
    assert keys.at(id).rpartition("/")[2] not in (".", "..")
    assert keys.instance(keys.at(id)) == id


def test_only_the_conductor_grants_and_only_with_the_lock() -> None:
    for step in TRANSITIONS:
        if step.after == TurnState.GRANTED:
            assert step.writer == Writer.CONDUCTOR
            assert step.conditions == {Condition.LEAD, Condition.CAS, Condition.PLAN}
        if step.writer == Writer.CONDUCTOR:
            assert Condition.LEAD in step.conditions
        if step.before == TurnState.CLAIMED and step.after is not None:
            assert step.writer != Writer.CONDUCTOR, "nobody but its owner takes a claim back"
        assert step.conditions & {Condition.CAS, Condition.ABSENT}
    assert allowed(TurnState.IDLE, TurnState.CLAIMED, Writer.PARTICIPANT) is None


def test_a_turn_can_end_as_a_reload_can() -> None:
    assert {*RELOAD_OUTCOMES, "died", ""} == set(TurnOutcome)
    assert {*RELOAD_OUTCOMES, "died", *Reason} - {"done"} == set(REASONS)


# ---- policy


def test_the_defaults_are_a_policy() -> None:
    found = policy.read()
    assert (found.limit(200), found.limit(3), found.limit(0)) == (20, 1, 1)
    assert (found.budget(200), found.budget(1), found.budget(10**6)) == (2, 1, FAILED_LIMIT)
    assert found.healthy_for(10, 10) == 20
    assert found.healthy_for(2, 2) == 10
    assert found.texts == {}


def test_flags_win_over_the_stored_policy() -> None:
    assert policy.read({"bake": "5m", "canary": "3"}, {"bake": "0s"}).texts == {"bake": "0s", "canary": "3"}


def test_an_analysis_that_is_no_command_is_refused_before_the_roll_out() -> None:
    with pytest.raises(ConfigError, match="analysis="):
        policy.read({"analysis": "sh -c 'exit 0"})
    assert policy.read({"analysis": "sh -c 'exit 0'"}).analysis == "sh -c 'exit 0'"


def test_all_errors_of_a_policy_are_reported_at_once() -> None:
    texts = {
        "max_unavailable": "0", "healthy": "soon", "canary": "-1", "ramp": "fast", "max_failures": "101%",
        "on_failure": "cry", "spread": "rack", "groups": "blue", "window": "always", "keep": "0", "bakes": "1m",
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        policy.read(texts)
    assert {fault.fields["key"] for fault in caught.value.faults} == set(texts)
    assert any("did you mean bake?" in fault for fault in caught.value.faults)


def test_healthy_must_fit_into_the_deadline() -> None:
    with pytest.raises(ConfigError):
        policy.read({"healthy": "10m", "deadline": "5m"})


@pytest.mark.parametrize(
    ("texts", "whole", "limit"),
    [("10%", 19, 1), ("29%", 100, 29), ("100%", 7, 7), ("7", 100, 7), ("0.5%", 1000, 5), ("33.3%", 10, 3)],
)
def test_shares_are_rounded_down_and_are_at_least_one(texts: str, whole: int, limit: int) -> None:
    assert policy.read({"max_unavailable": texts}).limit(whole) == limit


@pytest.mark.parametrize(("whole", "budget"), [(0, 0), (1, 1), (100, 1), (101, 2), (200, 2), (201, 3)])
def test_the_error_budget_is_rounded_up(whole: int, budget: int) -> None:
    assert policy.read({"max_failures": "1%"}).budget(whole) == budget


@pytest.mark.parametrize(
    ("window", "when", "is_open"),
    [
        ("mon-fri 08:00-17:00 Europe/Berlin", (2026, 11, 30, 7, 0), True),  # 08:00 in Berlin, a Monday
        ("mon-fri 08:00-17:00 Europe/Berlin", (2026, 11, 30, 6, 59), False),
        ("mon-fri 08:00-17:00 Europe/Berlin", (2026, 11, 29, 9, 0), False),  # a Sunday
        ("mon-fri 08:00-17:00 Europe/Berlin", (2026, 7, 6, 6, 0), True),  # summer time
        ("sat 22:00-02:00 UTC", (2026, 11, 29, 1, 0), True),  # the night after Saturday
        ("sat 22:00-02:00 UTC", (2026, 11, 28, 1, 0), False),
        ("fri-mon 00:00-24:00 UTC", (2026, 11, 29, 1, 0), True),
        ("fri-mon 00:00-24:00 UTC", (2026, 12, 1, 1, 0), False),
    ],
)
def test_a_window_is_open_at_its_own_time_zone(window: str, when: tuple[int, ...], is_open: bool) -> None:
    found = policy.read({"window": window}).window
    assert found is not None
    assert found.is_open(calendar.timegm((*when, 0))) == is_open


@pytest.mark.parametrize(
    "window", ["mon 25:00-26:00 UTC", "mon 08:00-08:00 UTC", "someday 08:00-09:00 UTC", "mon 08:00-09:00 Mars/Base"]
)
def test_a_window_that_never_opens_is_an_error(window: str) -> None:
    with pytest.raises(ConfigError):
        policy.read({"window": window})


def test_a_policy_of_a_newer_version_in_a_plan_does_not_stop_the_roll_out() -> None:
    found = policy.of_plan({"max_unavailable": "7", "bake": "until noon", "weather": "fine"})
    assert (found.limit(100), found.bake) == (7, 60)
    assert found.on_failure is None


def test_on_failure_is_read() -> None:
    assert policy.read({"on_failure": "pause"}).on_failure == OnFailure.PAUSE


# ---- what a person does

IDLE = Plan(n=7, good="old", refused={"bad": "roll-out 3: a died"}, settled=7)
ROLLING = replace(IDLE, n=8, state=PlanState.ROLLING, target="new", phase=Phase.ALL, by="ops")
REVERTING = replace(ROLLING, state=PlanState.REVERTING)
APPLY = Request(How.APPLY, "new", by="ops")


def test_a_roll_out_that_changes_very_many_keys_has_a_plan_that_can_be_read() -> None:
    keys = tuple(f"{'k' * 500}{number}" for number in range(5000))
    plan, _ = commands.begin(IDLE, [], replace(APPLY, keys=keys, reason="r" * 10_000, by="b" * 10_000))
    assert is_own(Plan.parse(plan.dump()))


def test_a_roll_out_has_the_next_number_also_after_a_restore_of_consul() -> None:
    plan, _ = commands.begin(IDLE, [Record(turn=Turn(n=12))], APPLY)
    assert (plan.n, plan.state, plan.phase, plan.good, plan.target) == (
        13,
        PlanState.ROLLING,
        Phase.REHEARSAL,
        "old",
        "new",
    )
    assert plan.settled == 7


@pytest.mark.parametrize(
    ("plan", "request_", "why"),
    [
        (IDLE, replace(APPLY, target="old"), Why.NOTHING),
        (IDLE, replace(APPLY, target="bad"), Why.REFUSED),
        (ROLLING, replace(APPLY, target="newer"), Why.RUNNING),
        (replace(ROLLING, state=PlanState.PAUSED), APPLY, Why.RUNNING),
        (replace(ROLLING, state=PlanState.REVERTING), APPLY, Why.RUNNING),
    ],
)
def test_a_roll_out_that_may_not_begin_says_why(plan: Plan, request_: Request, why: Why) -> None:
    with pytest.raises(NotNow) as caught:
        commands.begin(plan, [], request_)
    assert caught.value.why == why


def test_a_newer_roll_out_may_take_the_place_of_one_that_runs_and_begins_at_the_start() -> None:
    plan, entry = commands.begin(ROLLING, [], replace(APPLY, target="newer"), supersede=True)
    assert (plan.n, plan.phase, plan.failed, plan.done) == (9, Phase.REHEARSAL, (), 0)
    assert entry is not None
    assert (entry.n, entry.outcome) == (8, RollOutcome.SUPERSEDED)


OF_TURNS = replace(ROLLING, how=How.TURN, target="", phase=Phase.CANARY)


@pytest.mark.parametrize(
    ("plan", "state", "how", "begins"),
    [
        (OF_TURNS, TurnState.ENDED, How.TURN, True),
        (OF_TURNS, TurnState.ASKED, How.TURN, False),
        (OF_TURNS, TurnState.GRANTED, How.TURN, False),
        (OF_TURNS, TurnState.CLAIMED, How.TURN, False),
        (OF_TURNS, TurnState.CLAIMED, How.APPLY, True),
        (replace(OF_TURNS, state=PlanState.PAUSED), TurnState.ENDED, How.TURN, False),
        (ROLLING, TurnState.ENDED, How.APPLY, False),
    ],
)
def test_a_roll_out_of_turns_is_in_the_way_only_while_a_host_waits(
    plan: Plan, state: TurnState, how: How, begins: bool
) -> None:
    records = [Record(turn=Turn(n=8, how=how, state=state))]
    if not begins:
        with pytest.raises(NotNow):
            commands.begin(plan, iter(records), replace(APPLY, target="newer"))
        return
    following, entry = commands.begin(plan, iter(records), replace(APPLY, target="newer"))
    assert entry is not None
    assert (following.n, entry.n, entry.outcome) == (9, 8, RollOutcome.DONE)


def test_a_roll_out_and_its_revert_say_which_revision_they_replace() -> None:
    """Also after their end, when the target is the good revision."""
    plan, _ = commands.begin(IDLE, [], APPLY)
    assert (plan.before, plan.target) == ("old", "new")
    assert replace(plan, state=PlanState.IDLE, good="new", previous="old").before == "old"
    back, entry = commands.revert(plan)
    assert (entry.source, entry.target) == ("old", "new")
    assert (back.before, back.target) == ("new", "old")
    assert replace(back, state=PlanState.IDLE).before == "new"
    settled, _ = commands.settle(IDLE, [], APPLY)
    assert (settled.before, settled.target) == ("", "old")


def test_a_plan_of_an_older_svcinit_says_it_too() -> None:
    assert Plan(good="old", target="new", state=PlanState.ROLLING).before == "old"
    assert Plan(good="new", target="new", previous="old").before == "old"


def test_a_refused_revision_is_taken_up_again_when_somebody_asks() -> None:
    plan, _ = commands.begin(IDLE, [], replace(APPLY, target="bad"), retry=True)
    assert plan.target == "bad"
    assert plan.refused == {}


@pytest.mark.parametrize(("how", "target"), [(How.APPLY, "new"), (How.RELOAD, "new"), (How.RELOAD, ""), (How.TURN, "")])
def test_each_revision_is_rehearsed_and_code_is_not(how: How, target: str) -> None:
    plan, _ = commands.begin(IDLE, [], Request(how, target))
    assert plan.phase == (Phase.REHEARSAL if target else Phase.CANARY)
    plan, _ = commands.begin(IDLE, [], Request(how, target, rehearse=False))
    assert plan.phase == Phase.CANARY


def test_after_a_halt_resume_forgives_the_failures_so_far() -> None:
    halted = replace(ROLLING, state=PlanState.HALTED, failed=(("a", "died"),))
    assert commands.resume(halted).forgiven == 1
    assert commands.resume(replace(halted, state=PlanState.PAUSED)).forgiven == 0


@pytest.mark.parametrize(("command", "plan"), [
    (commands.pause, IDLE), (commands.resume, ROLLING), (commands.abort, IDLE), (commands.revert, IDLE),
    (commands.pause, REVERTING), (commands.abort, REVERTING), (commands.revert, REVERTING),
])  # fmt: skip
def test_a_command_that_makes_no_sense_now_is_refused(command: Any, plan: Plan) -> None:
    with pytest.raises(NotNow):
        command(plan)


def test_abort_gives_the_good_revision_back_and_with_keep_it_touches_nobody() -> None:
    plan, entry = commands.abort(ROLLING)
    assert (plan.state, plan.target, plan.n) == (PlanState.REVERTING, "old", 9)
    assert (entry.n, entry.outcome) == (8, RollOutcome.ABORTED)
    kept, _ = commands.abort(ROLLING, keep=True)
    assert (kept.state, kept.n) == (PlanState.HALTED, 8)


def test_settle_gives_the_good_revision_to_those_that_are_not_on_it() -> None:
    plan, _ = commands.settle(IDLE, [], Request(How.APPLY))
    assert (plan.state, plan.target, plan.good, plan.n) == (PlanState.ROLLING, "old", "old", 8)


@pytest.mark.parametrize(
    ("running", "stored", "good", "previous"),
    [
        (["live", "live"], set(), "live", ""),
        ([], set(), "live", ""),
        (["live", "older", "older"], {"older"}, "older", ""),
        (["live", "older", "older"], set(), "", "older"),
    ],
    ids=["all run it", "no instances", "most run an older one", "an older one that is not stored"],
)
def test_the_first_plan_takes_what_all_run_as_good(
    running: list[str], stored: set[str], good: str, previous: str
) -> None:
    plan = commands.adopt([Record(rev=revision) for revision in running], "live", stored)
    assert (plan.good, plan.previous, plan.state) == (good, previous, PlanState.IDLE)


@pytest.mark.parametrize(
    ("state", "running", "good"),
    [
        (PlanState.ROLLING, ["old", "old"], "old"),  # the first `fleet turn` has no target
        (PlanState.HALTED, ["old", "bad", "bad"], "old"),
        (PlanState.IDLE, ["refused", "refused"], ""),
        (PlanState.HALTED, ["bad", "bad"], ""),
    ],
)
def test_a_plan_without_a_good_revision_gets_one_that_was_not_bad(
    state: PlanState, running: list[str], good: str
) -> None:
    target = "bad" if state is PlanState.HALTED else ""
    before = Plan(n=4, state=state, target=target, refused={"refused": "roll-out 2"})
    plan = commands.adopt([Record(rev=revision) for revision in running], "bad", {"old", "bad", "refused"}, before)
    assert (plan.good, plan.n, plan.state, plan.target) == (good, 4, state, target)
    assert commands.adopt([Record(rev="other")], "other", {"other"}, replace(plan, good="g")).good == "g"


# ---- health, texts


def entry(id: str, *statuses: str, check: str = "service:x", meta: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "Node": {"Node": "h1", "Address": "10.0.0.1", "Meta": None},
        "Service": {"ID": id, "Address": "", "Port": 8000, "Tags": ["blue"], "Meta": meta},
        "Checks": [{"CheckID": check, "Status": status} for status in statuses],
    }


@pytest.mark.parametrize(
    ("statuses", "passing"),
    [((), True), (("passing", "warning"), True), (("passing", "critical"), False), (("maintenance",), False)],
)
def test_an_instance_passes_as_in_dns(statuses: tuple[str, ...], passing: bool) -> None:
    assert rows([entry("a", *statuses)])["a"].passing == passing


def test_maintenance_and_the_life_of_an_instance_are_seen() -> None:
    row = rows([entry("a", "critical", check="_service_maintenance:a", meta={"svcinit": "9f-abc"})])["a"]
    assert (row.maintenance, row.life, row.address) == (True, "9f", "10.0.0.1")


def test_of_two_nodes_with_the_same_id_the_one_that_passes_counts() -> None:
    for order in ([entry("a", "critical"), entry("a", "passing")], [entry("a", "passing"), entry("a", "critical")]):
        assert rows(order)["a"].passing


@pytest.mark.parametrize("row", [{}, {"Node": None, "Service": {}, "Checks": []}, {"Node": {}, "Service": 3}])
def test_an_answer_that_is_no_list_of_instances_is_unavailable(row: dict[str, Any]) -> None:
    store = SimpleNamespace(health=lambda _service: [row])
    with pytest.raises(Unavailable):
        Fleet(store, Keys("svcinit/web"), "web").health()  # type: ignore[arg-type]


def test_each_failure_has_a_sentence() -> None:
    for reason in REASONS:
        word, sentence = text(Event("failed", {"id": "a", "reason": reason, "trouble": "key missing"}))
        assert (word, "key missing" in sentence) == ("FAILED", True)
    assert {"done", "reverted", "refused", "stuck"} <= set(TEXTS)


def test_the_page_has_each_key_of_a_policy_with_its_default() -> None:
    page = (pathlib.Path(__file__).parents[3] / "docs" / "fleet.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page.split("## The policy")[1], re.MULTILINE)
    assert [name for name, _ in rows] == list(policy.POLICY)
    for name, default in rows:
        wanted = policy.POLICY[name][0]
        assert not wanted or default == f"`{wanted}`", name
