"""What a preparation reads: each input once, from a source; an input that loses all its entries is a failed fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rendering import tree
from svcinit import log
from svcinit.agent.consul.discovery import Peer
from svcinit.agent.prepare import cache
from svcinit.agent.prepare.source import Answer, InputId, Kind, Source, from_json, to_json
from svcinit.agent.prepare.source_cache import CacheSource
from svcinit.agent.prepare.source_defaults import DefaultsSource
from svcinit.agent.prepare.source_watch import WatchSource
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.prepare.transaction import Transaction
from svcinit.agent.templates.render import render_arguments
from svcinit.errors import Unavailable
from svcinit.handover import Slots
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


@pytest.mark.parametrize(("name", "before", "is_lost"), [("peer", 1, False), ("peer", 2, True), ("db", 1, True)])
def test_an_instance_that_is_its_only_own_peer_is_no_loss_when_it_restarts(
    tmp_path: Path, name: str, before: int, is_lost: bool
) -> None:
    mine = ours(tmp_path, SVCINIT_SERVICE="web", SVCINIT_SERVICES='[{"name": "peer", "port": 9300}]')
    wanted = InputId(Kind.PEERS, name)
    data = TemplateData(mine, Fixed({wanted: []}), {wanted: before})
    if is_lost:
        with pytest.raises(Unavailable):
            data.read(wanted)
    else:
        assert data.read(wanted) == []


def test_at_the_first_preparation_of_a_run_the_cache_says_what_had_keys_but_peers_may_be_gone(tmp_path: Path) -> None:
    mine = ours(tmp_path)
    cache.write(mine, CONTENTS, {})
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
    cache.write(mine, CONTENTS, {"node": "n1", "address": "10.0.0.9"})
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


def missing(data: TemplateData) -> dict[object, str]:
    """The faults, by variable."""
    data.fetch()
    with pytest.raises(Unavailable) as raised:
        data.wait()
    return {fault.fields["variable"]: fault for fault in raised.value.faults}


def test_keys_and_services_that_are_waited_for_are_named_together(tmp_path: Path) -> None:
    asked = {"SVCINIT_WAIT_FOR_KEYS": "a,x/y,b,c,d/", "SVCINIT_WAIT_FOR": "db:2"}
    found = missing(TemplateData(ours(tmp_path, **asked), Fixed(CONTENTS)))
    assert found["SVCINIT_WAIT_FOR_KEYS"].endswith(": x/y, c, d/")
    assert found["SVCINIT_WAIT_FOR"].endswith("db: 1 of 2 instances in DNS")


def test_a_folder_is_there_when_it_has_a_key(tmp_path: Path) -> None:
    source = Fixed({**CONTENTS, SECOND: {"config/web/d/e": b""}})
    data = TemplateData(ours(tmp_path, SVCINIT_WAIT_FOR_KEYS="d/,d/e,a"), source)
    data.fetch()
    data.wait()


def test_keys_anywhere_can_be_waited_for_without_a_prefix(tmp_path: Path) -> None:
    key, folder = InputId(Kind.KEY, "other/x"), InputId(Kind.KV, "all")
    asked = {"SVCINIT_KV_PREFIX": "", "SVCINIT_WAIT_FOR_KEYS": "/other/x,/all/"}
    missing_both = TemplateData(ours(tmp_path, **asked), Fixed({key: {}, folder: {}}))
    assert missing(missing_both)["SVCINIT_WAIT_FOR_KEYS"].endswith("not below KV: /other/x, /all/")
    there = TemplateData(ours(tmp_path, **asked), Fixed({key: {"other/x": b""}, folder: {"all/a": b""}}))
    there.fetch()
    there.wait()
    assert ours(tmp_path, **asked).needs_prepare


@pytest.mark.parametrize(("token", "count", "hints"), [("t", 0, True), ("t", 1, False), ("", 0, False)])
def test_no_peers_and_a_token_hint_at_the_one_that_dns_answers_with(
    tmp_path: Path, token: str, count: int, hints: bool
) -> None:
    source = Fixed({**CONTENTS, DB: CONTENTS[DB][:count]})
    found = missing(TemplateData(ours(tmp_path, CONSUL_HTTP_TOKEN=token, SVCINIT_WAIT_FOR="db:2"), source))
    assert (Source.token_hint in found["SVCINIT_WAIT_FOR"]) is hints
    message = "{{ service('db', min=2) | list }}"
    with pytest.raises(Unavailable) as raised:
        render_arguments([message], TemplateData(ours(tmp_path, CONSUL_HTTP_TOKEN=token), source))
    assert (Source.token_hint in str(raised.value)) is hints


class Away(Fixed):
    """Does not answer for some kinds of inputs."""

    def __init__(self, *kinds: str) -> None:
        super().__init__(CONTENTS)
        self.kinds = kinds

    def read(self, wanted: InputId) -> Answer:
        answer = super().read(wanted)
        if wanted.kind in self.kinds:
            raise Unavailable("no answer")
        return answer


def test_a_start_with_defaults_takes_what_consul_answers_and_nothing_for_the_rest(tmp_path: Path) -> None:
    live = Away(Kind.PEERS)
    source = DefaultsSource(live)
    data = TemplateData(ours(tmp_path), source)
    data.fetch()
    assert (data.kv, data.peers("db"), data.peers("web")) == ({"a": b"1", "b": b"2"}, [], [])
    assert live.asked == [FIRST, SECOND, DB], "DNS is not asked twice"
    versions = source.versions(data.answers)
    assert [wanted for wanted, version in versions.items() if not version] == [DB, InputId(Kind.PEERS, "web")]


def test_a_start_with_defaults_waits_for_nothing_only_where_nothing_answers(tmp_path: Path) -> None:
    asked = {"SVCINIT_WAIT_FOR": "db", "SVCINIT_WAIT_FOR_KEYS": "a"}
    data = TemplateData(ours(tmp_path, **asked), DefaultsSource(Away(Kind.KV, Kind.PEERS)))
    data.fetch()
    data.wait()
    assert set(missing(TemplateData(ours(tmp_path, **asked), DefaultsSource(Away(Kind.PEERS))))) == {"SVCINIT_WAIT_FOR"}


@pytest.mark.parametrize(
    ("files", "env", "warns"),
    [
        ({"a.j2": "{{ service('web')|length }}"}, {}, True),
        ({"a.j2": "{# svcinit: reload=restart #}{{ instances('web')|length }}"}, {}, True),
        ({}, {"SVCINIT_RENDER_ARGS": "1"}, True),
        ({"a.j2": "{{ service('db')|length }}"}, {}, False),
        ({"a.j2": "{# svcinit: reload=none #}{{ service('web')|length }}"}, {}, False),
        ({"a.j2": "{# svcinit: reload=HUP #}{{ service('web')|length }}"}, {}, False),
        ({"a.j2": "{# svcinit: wait=30s,5m #}{{ service('web')|length }}"}, {}, False),
        ({"a.j2": "{{ service('web')|length }}"}, {"SVCINIT_RELOAD": "signal:HUP"}, False),
        ({"a.j2": "{{ service('web')|length }}"}, {"SVCINIT_WATCH": "0"}, False),
        ({"a.j2": "x"}, {"SVCINIT_WAIT_FOR": "web"}, False),
    ],
)
def test_a_start_warns_of_instances_that_would_restart_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], env: dict[str, str], warns: bool
) -> None:
    """A restart deregisters the instance, and so changes what the templates of the others list."""
    folder = tree(tmp_path, {f"{tmp_path}/etc/{name}".lstrip("/"): text for name, text in files.items()})
    given = {"SVCINIT_SERVICE": "web", "SVCINIT_WATCH": "1", "SVCINIT_RELOAD": "restart", "SVCINIT_TEMPLATES": folder}
    mine = ours(tmp_path, **{**given, **env})
    web = Peer("h", "10.0.0.1", 80, "")
    peers = {InputId(Kind.PEERS, "web"): [web], InputId(Kind.INSTANCES, "web", query="passing=1"): []}
    logged = list[str]()
    monkeypatch.setattr(log, "warning", lambda event, *_, **__: logged.append(event))
    done = Transaction(mine, ("run", "{{ service('web')|length }}"), Fixed({**CONTENTS, **peers}))
    slots = Slots()
    slots.verdict.open()
    slots.fresh.open()
    done.run(slots.verdict, slots.fresh)
    assert ("own_peers" in logged) == warns
