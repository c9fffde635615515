"""svcinitctl fleet turn, while Consul is unavailable."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from svcinit.agent.consul.store import Entry
from svcinit.agent.fleet.records import How, Keys, Record, Turn, TurnState, is_own
from svcinit.ctl.fleet import turn
from svcinit.ctl.fleet.turn import Host
from svcinit.errors import Unavailable


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
    place = SimpleNamespace(fleet=SimpleNamespace(store=store, keys=Keys("svcinit/web")))
    return Host(place, argparse.Namespace(id="web-0", words=words), Lost())  # type: ignore[arg-type]


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
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    assert host_of(Store(Record()), "sleep", "30")._command() == 128 + signal.SIGINT
    assert time.monotonic() - began < 10
