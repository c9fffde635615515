"""SVCINIT_ROLL: which configuration an instance takes at a start, at a HUP and in a turn. On a real Consul."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable

import pytest

from svcinit.agent.fleet import revision
from svcinit.agent.fleet.records import PlanState, Record, Turn, TurnOutcome, TurnState
from svcinit.agent.fleet.revision import Lost
from svcinit.agent.prepare import cache
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.prepare.source_rolled import RolledSource
from svcinit.agent.prepare.transaction import open_source
from svcinit.settings import environment
from svcinit.settings.environment import Settings
from testing.consul import ConsulAgent
from testing.fleet import Fleet

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]
OWN = InputId(Kind.KV, "config/web")
Open = Callable[..., RolledSource]


@pytest.fixture
def settings(consul: ConsulAgent, tmp_path: pathlib.Path) -> Settings:
    own = {"SVCINIT_SERVICE": "web", "SVCINIT_ID": "web-1", "SVCINIT_ROLL": "manual"}
    return environment.read({**consul.env, **own, "SVCINIT_CACHE": str(tmp_path / "svcinit" / "cache.json")})


@pytest.fixture
def fleet(consul: ConsulAgent) -> Fleet:
    consul.kv_put("config/web/n", "live")
    return Fleet(consul)


@pytest.fixture
def source(settings: Settings) -> Open:
    def opened(*, turn: str = "", in_place: str = "") -> RolledSource:
        made = open_source(settings, time.monotonic() + 10, turn=turn, in_place=in_place)
        assert isinstance(made, RolledSource)
        return made

    return opened


def value(source: RolledSource) -> str:
    found: bytes = source.read(OWN).content["config/web/n"]
    source.close()
    return found.decode()


def test_before_there_is_a_plan_the_live_prefixes_count_and_their_revision_is_known(fleet: Fleet, source: Open) -> None:
    for in_place in ("", "0123456789ab"):
        opened = source(in_place=in_place)
        assert (value(opened), opened.trouble) == ("live", "")
        assert opened.revision == fleet.live()


def test_a_start_takes_the_good_revision_and_a_hup_the_one_in_place(fleet: Fleet, source: Open) -> None:
    good, other = fleet.make(n="good"), fleet.make(n="other")
    fleet.plan(good)
    started = source()
    assert (value(started), started.revision, started.trouble) == ("good", good, "")
    reloaded = source(in_place=other)
    assert (value(reloaded), reloaded.revision) == ("other", other)


def test_a_start_in_the_middle_takes_the_target_only_after_a_turn_that_was_done(fleet: Fleet, source: Open) -> None:
    good, target = fleet.make(n="good"), fleet.make(n="target")
    fleet.plan(good, target, PlanState.ROLLING, n=7)
    turn = Turn(n=7, serial=1, rev=target, state=TurnState.ENDED, outcome=TurnOutcome.DONE)
    for outcome, wanted in ((TurnOutcome.DONE, "target"), (TurnOutcome.DIED, "good")):
        record = Record(life="x", turn=dataclasses.replace(turn, outcome=outcome))
        fleet.store.put(fleet.keys.at("web-1"), record.dump())
        assert value(source()) == wanted


def test_a_turn_takes_its_revision_and_fails_without_it(fleet: Fleet, source: Open) -> None:
    fleet.plan(fleet.make(n="good"))
    assert value(source(turn=fleet.make(n="turn"))) == "turn"
    with pytest.raises(Lost):
        source(turn="0123456789ab").read(OWN)


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_a_start_whose_revision_is_lost_is_degraded_and_takes_what_there_is(
    fleet: Fleet, source: Open, settings: Settings, damage: str
) -> None:
    good = fleet.make(n="good")
    fleet.plan(good)
    folder = f"{fleet.keys.prefix}/rev/{good}/"
    if damage == "gone":
        fleet.store.delete_below(folder)
    else:
        fleet.store.put(f"{folder}0", b"x")
    opened = source()
    assert (value(opened), "revision_missing" in opened.trouble) == ("live", True)
    assert opened.revision == revision.name_of({"config/web": {"config/web/n": b"live"}})
    with pytest.raises(Lost):  # at a HUP the files stay as they are
        source(in_place=good).read(OWN)
    cache.write(settings, {OWN: {"config/web/n": b"good"}}, {})
    for in_place in ("", good):
        opened = source(in_place=in_place)
        assert (value(opened), opened.trouble, opened.revision) == ("good", "", good)
