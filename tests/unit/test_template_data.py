"""What a preparation reads: each input once, from a source; an input that loses all its entries is a failed fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from svcinit.agent.consul.discovery import Peer
from svcinit.agent.prepare import cache
from svcinit.agent.prepare.inputs import Answer, InputId, Kind, from_json, to_json
from svcinit.agent.prepare.source import Source
from svcinit.agent.prepare.source_cache import CacheSource
from svcinit.agent.prepare.source_watch import WatchSource
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.errors import Unavailable
from svcinit.settings import environment
from svcinit.settings.environment import Settings

FIRST, SECOND = InputId(Kind.KV, "config/all"), InputId(Kind.KV, "config/web", "dc2")
DB = InputId(Kind.PEERS, "db")


class Fixed(Source):
    """Has some inputs, and notes which were read."""

    def __init__(self, contents: dict[InputId, Any]) -> None:
        self.contents, self.asked = contents, list[InputId]()

    def read(self, wanted: InputId) -> Answer:
        self.asked.append(wanted)
        return Answer(self.contents[wanted], 1000.0, 3)

    def agent(self) -> dict[str, str]:
        return {"node": "n1", "address": "10.0.0.9"}


CONTENTS: dict[InputId, Any] = {
    FIRST: {"config/all/a": b"1", "config/all/b": b"1"},
    SECOND: {"config/web/b": b"2"},
    DB: [Peer("h", "10.0.0.1", 3306, "")],
}


def ours(folder: Path, **env: str) -> Settings:
    prefixes = "config/all,config/web@dc2"
    return environment.read({"SVCINIT_KV_PREFIX": prefixes, "SVCINIT_CACHE": str(folder / "cache.json"), **env})


def emptied(wanted: InputId) -> Fixed:
    return Fixed({**CONTENTS, wanted: type(CONTENTS[wanted])()})


def test_an_input_is_its_kind_name_datacenter_and_tag_and_survives_json() -> None:
    known = {DB: 1, DB._replace(tag="blue"): 2, DB._replace(dc="dc2"): 3, InputId(Kind.KV, "db"): 4}
    assert from_json(to_json(known)) == known
    assert str(InputId(Kind.PEERS, "db", "dc2", "blue")) == "peers of blue.db@dc2"
    assert str(SECOND) == "KV prefix config/web@dc2"


def test_each_input_is_read_once_and_later_prefixes_override_earlier_ones(tmp_path: Path) -> None:
    source = Fixed(CONTENTS)
    data = TemplateData(ours(tmp_path, SVCINIT_WAIT_FOR="db"), source)
    data.fetch()
    data.wait()
    assert data.peers("db") == data.peers("db")
    assert data.kv == {"a": b"1", "b": b"2"}
    assert source.asked == [FIRST, SECOND, DB]
    assert data.counts() == {FIRST: 2, SECOND: 1, DB: 1}


@pytest.mark.parametrize("wanted", [FIRST, SECOND])
def test_a_prefix_that_had_keys_and_has_none_is_a_failed_fetch(tmp_path: Path, wanted: InputId) -> None:
    earlier = {wanted: 2}
    with pytest.raises(Unavailable):
        TemplateData(ours(tmp_path), emptied(wanted), earlier).fetch()
    TemplateData(ours(tmp_path), emptied(wanted), {wanted._replace(dc="dc3"): 2}).fetch()
    TemplateData(ours(tmp_path, SVCINIT_ALLOW_EMPTY="1"), emptied(wanted), earlier).fetch()


def test_at_the_first_preparation_of_a_run_the_cache_says_what_had_keys_but_peers_may_be_gone(tmp_path: Path) -> None:
    mine = ours(tmp_path)
    cache.keep(mine, CONTENTS, {})
    with pytest.raises(Unavailable):
        TemplateData(mine, emptied(FIRST)).fetch()
    assert TemplateData(mine, emptied(DB)).peers("db") == []
    TemplateData(mine, emptied(FIRST), {}).fetch()  # this run has seen it empty before


def test_what_a_preparation_did_not_read_counts_as_before(tmp_path: Path) -> None:
    data = TemplateData(ours(tmp_path), Fixed(CONTENTS), {DB: 5, FIRST: 9})
    data.fetch()
    assert data.counts() == {DB: 5, FIRST: 2, SECOND: 1}


def test_the_cache_stands_in_for_all_that_was_read_and_for_nothing_else(tmp_path: Path) -> None:
    mine = ours(tmp_path, SVCINIT_WAIT_FOR="other")
    cache.keep(mine, CONTENTS, {"node": "n1", "address": "10.0.0.9"})
    data = TemplateData(mine, CacheSource(mine))
    data.fetch()
    data.wait()
    assert (data.kv, data.node, data.this.address) == ({"a": b"1", "b": b"2"}, "n1", "10.0.0.9")
    assert data.peers("db") == CONTENTS[DB]
    with pytest.raises(Unavailable) as raised:
        data.peers("db", "blue")
    assert raised.value.fields == {"variable": "SVCINIT_CACHE", "file": mine.cache}


def test_a_watch_stands_in_for_what_it_knows_and_another_source_for_the_rest(tmp_path: Path) -> None:
    fallback = Fixed(CONTENTS)
    data = TemplateData(ours(tmp_path), WatchSource({FIRST: Answer({"config/all/a": b"new"}, 2000.0, 9)}, fallback))
    data.fetch()
    assert data.kv == {"a": b"new", "b": b"2"}
    assert fallback.asked == [SECOND]
    assert (data.answers[FIRST].fetched_at, data.answers[SECOND].fetched_at) == (2000.0, 1000.0)
