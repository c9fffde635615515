"""svcinitctl fleet turn: while Consul is unavailable, and after its process was killed."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from svcinit.agent.consul.store import Entry
from svcinit.agent.fleet.records import How, Keys, Phase, Plan, PlanState, Record, Turn, TurnState, is_own
from svcinit.ctl.fleet import owner, turn
from svcinit.ctl.fleet.place import Busy
from svcinit.ctl.fleet.turn import Host
from svcinit.errors import Unavailable
from svcinit.processes import child
from testing.process import PATH, ROOT
from testing.waiting import eventually


class Store:
    """One record. `loses_answers`: a write is applied, and its answer is lost."""

    def __init__(self, record: Record) -> None:
        self.value, self.index, self.loses_answers = record.dump(), 1, False

    def get(self, key: str) -> Entry:
        return Entry(key, self.value, self.index)

    def put(self, _key: str, value: bytes, *, index: int | None = None) -> bool:
        if index != self.index:
            return False
        self.value, self.index = value, self.index + 1
        if self.loses_answers:
            raise Unavailable("no leader")
        return True

    @property
    def record(self) -> Record:
        found = Record.parse(self.value)
        assert is_own(found)
        return found


class Lost:
    """A conductor that never reaches Consul."""

    lead = SimpleNamespace(is_ours=True)

    def look(self) -> Any:
        raise Unavailable("no leader")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "POLL_INTERVAL", 0.01)


def host_of(store: Store, *words: str) -> Host:
    place = SimpleNamespace(
        fleet=SimpleNamespace(
            store=store, keys=Keys("svcinit/web"), plan=lambda: (None, 0), health=lambda: {"web-0": None}
        ),
        name="web",
    )
    options, mine = argparse.Namespace(id="web-0", words=words, timeout=None), SimpleNamespace(text="me@here here 00")
    return Host(place, options, Lost(), mine)  # type: ignore[arg-type]


def test_the_command_is_waited_for_although_consul_is_unavailable() -> None:
    assert host_of(Store(Record()), "sh", "-c", "sleep 0.1; exit 7")._command() == 7


def test_a_claim_whose_answer_is_lost_is_a_claim() -> None:
    granted = Turn(n=1, serial=1, how=How.TURN, state=TurnState.GRANTED)
    store = Store(Record(turn=granted))
    host = host_of(store)
    store.loses_answers = True
    assert host._patiently(host._claim)
    assert (store.record.turn.state, store.record.turn.owner) == (TurnState.CLAIMED, host._owner)


def test_ctrl_c_ends_the_command_before_its_turn_ends() -> None:
    def interrupt() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # as in a process without another thread
        eventually(lambda: "sleep" in names_below(os.getpid()), "the command runs")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    assert host_of(Store(Record()), "sleep", "30")._command() == 128 + signal.SIGINT
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("state", "how", "status"),
    [
        (PlanState.ROLLING, How.TURN, None),
        (PlanState.PAUSED, How.TURN, None),
        (PlanState.HALTED, How.TURN, 1),
        (PlanState.HALTED, How.APPLY, 1),
        (PlanState.ROLLING, How.APPLY, 75),
        (PlanState.REVERTING, How.APPLY, 75),
    ],
)
def test_a_host_waits_only_while_the_roll_out_can_give_it_a_turn(
    state: PlanState, how: How, status: int | None
) -> None:
    store = Store(Record(turn=Turn(how=How.TURN, state=TurnState.ASKED)))
    host = host_of(store)
    if status is None:
        host._go_on(Plan(n=4, state=state, how=how))
        assert store.record.turn.state is TurnState.ASKED
        return
    with pytest.raises(Busy) as error:
        host._go_on(Plan(n=4, state=state, how=how))
    assert (error.value.status, store.record.turn.state) == (status, TurnState.IDLE)


def test_a_host_that_waits_in_a_roll_out_that_is_aborted_ends_and_begins_no_other_one() -> None:
    store = Store(Record(turn=Turn(how=How.TURN, state=TurnState.ASKED)))
    host = host_of(store)
    with pytest.raises(Busy, match="aborted") as error:
        host._go_on(Plan(n=4, state=PlanState.IDLE, how=How.TURN, phase=Phase.CANARY))
    assert (error.value.status, store.record.turn.state) == (1, TurnState.IDLE)


def test_one_error_of_consul_while_a_host_waits_does_not_end_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it begins a roll-out, and when it begins another one at the end of the one that it joined."""
    store = Store(Record())
    host = host_of(store, "true")
    answers = ["500", "", "500", "granted"]

    def begin() -> None:
        answer = answers.pop(0)
        if answer == "500":
            raise Unavailable(answer)
        if answer == "granted":
            store.value = Record(turn=Turn(n=5, serial=1, how=How.TURN, state=TurnState.GRANTED)).dump()

    monkeypatch.setattr(host, "_begin", begin)
    monkeypatch.setattr(host, "_follow", lambda **_: Plan(n=4, state=PlanState.IDLE, how=How.TURN))
    monkeypatch.setattr(host, "_await_health", lambda: 0)
    monkeypatch.setattr(host, "_end_if_last", lambda: None, raising=False)
    assert host.run() == 0
    assert not answers


def test_a_host_that_joins_a_roll_out_at_its_end_begins_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    host, begun = host_of(Store(Record(turn=Turn(how=How.TURN, state=TurnState.ASKED)))), []
    monkeypatch.setattr(host, "_begin", lambda: begun.append(True))
    host._go_on(Plan(n=4, state=PlanState.IDLE, how=How.TURN))
    assert begun == [True]
    monkeypatch.setattr(host._place.fleet, "health", dict)
    with pytest.raises(Busy):  # nobody gives a turn to an instance that the catalog does not have
        host._go_on(Plan(n=5, state=PlanState.IDLE, how=How.TURN))
    assert begun == [True]


HOLDER = """
import subprocess, time
from svcinit.ctl.fleet.owner import Owner
made = Owner("me@here")
subprocess.Popen(["sleep", "30"], close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(made.text, flush=True)
time.sleep(30)
"""


def claimed_by(text: str) -> Store:
    return Store(Record(turn=Turn(n=1, serial=1, how=How.TURN, state=TurnState.CLAIMED, owner=text)))


def test_a_claim_goes_to_the_next_host_only_after_its_owner_and_the_owners_command_have_ended() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env={**PATH, "PYTHONPATH": str(ROOT / "entrypoint")},
        stdout=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
    assert holder.stdout is not None
    try:
        store = claimed_by(holder.stdout.readline().strip())
        host = host_of(store)
        with pytest.raises(Busy):
            host._change(host._asked)
        holder.kill()
        holder.wait()
        with pytest.raises(Busy):  # the command still runs
            host._change(host._asked)
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()
        holder.wait()
    eventually(lambda: owner.has_ended(store.record.turn.owner), "the command has ended")
    host._change(host._asked)
    turn_after = store.record.turn
    assert (turn_after.state, turn_after.serial, turn_after.owner) == (TurnState.CLAIMED, 1, host._owner)
    assert host._claim()


@pytest.mark.parametrize("text", ["", "3f9a1c", "me@here", "me@here elsewhere:net:[1] 00ff00ff00ff00ff", "a b c d"])
def test_a_claim_of_an_owner_of_which_nothing_is_known_stays(text: str) -> None:
    host = host_of(claimed_by(text))
    with pytest.raises(Busy):
        host._change(host._asked)


def test_a_claim_that_is_taken_over_while_the_answer_is_lost_is_ours() -> None:
    ended = owner.Owner("me@here")
    store = claimed_by(ended.text)
    ended.close()
    host = host_of(store)
    store.loses_answers = True
    host._patiently(lambda: host._change(host._asked))
    assert store.record.turn.owner == host._owner


def test_the_last_host_ends_the_roll_out_although_another_one_conducted_a_moment_before() -> None:
    host, plans = host_of(Store(Record())), [Plan(n=4, state=PlanState.ROLLING, how=How.TURN)]
    counts = SimpleNamespace(needs=set(), in_turn=set(), unsettled=set(), done={"web-0"}, expected={"web-0"})
    leads = [False, True]

    class Led:
        lead = SimpleNamespace(is_ours=False)

        def look(self) -> Any:
            self.lead.is_ours = leads.pop(0)
            return SimpleNamespace(counts=counts)

        def write_plan(self, raw: bytes, _index: int, _log: object) -> bool:
            plans.append(Plan.parse(raw))  # type: ignore[arg-type]
            return True

    host._conductor = Led()  # type: ignore[assignment]
    host._place.fleet.plan = lambda: (plans[-1], 1)  # type: ignore[method-assign]
    host._end_if_last()
    assert plans[-1].state is PlanState.IDLE


def test_a_grant_that_was_not_claimed_is_taken_by_the_next_host() -> None:
    store = Store(Record(turn=Turn(n=1, serial=1, how=How.TURN, state=TurnState.GRANTED)))
    host = host_of(store)
    host._change(host._asked)
    assert host._claim()


@pytest.mark.parametrize(
    ("typed", "name", "words"),
    [
        ("--id x shop -- sh -c true", "shop", ["sh", "-c", "true"]),
        ("--id x -- sh -c true", None, ["sh", "-c", "true"]),
        ("--id x shop -- a -- b", "shop", ["a", "--", "b"]),
    ],
)
def test_the_command_is_run_as_it_was_typed(
    monkeypatch: pytest.MonkeyPatch, typed: str, name: str | None, words: list[str]
) -> None:
    given = typed.split()
    monkeypatch.setattr(sys, "argv", ["svcinitctl", "fleet", "turn", *given])
    parser = argparse.ArgumentParser()
    turn.arguments(parser, "turn")
    options = parser.parse_args(given)
    turn._separate(options)
    assert (options.name, options.words) == (name, words)


def test_a_claim_stays_while_a_command_runs_that_closes_what_it_inherits() -> None:
    """As ssh(1) and sudo(8) do."""
    closing = "import os, time; os.closerange(3, 256); print('closed', flush=True); time.sleep(60)"
    mine = owner.Owner("me@here")
    pid = child.fork(lambda: turn._held((sys.executable, "-c", closing)), "holder")
    try:
        mine.close()
        eventually(lambda: len(descendants(pid)) == 1, "the command runs")
        (command,) = descendants(pid)
        eventually(lambda: not sockets(command), "it has closed the socket")
        assert not owner.has_ended(mine.text)
        os.kill(command, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert owner.has_ended(mine.text)
    finally:
        child.kill(pid)


def descendants(pid: int) -> list[int]:
    return [found.pid for found in psutil.Process(pid).children()]


def names_below(pid: int) -> list[str]:
    names = []
    for each in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(each.name())
    return names


def sockets(pid: int) -> list[str]:
    found = []
    for each in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(os.readlink(each))
    return [text for text in found if text.startswith("socket:")]
