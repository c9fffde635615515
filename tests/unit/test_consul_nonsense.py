"""Whatever Consul, or what stands in its place, answers in well-formed JSON: an error that is told, never a crash."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svcinit.agent.consul import health
from svcinit.agent.consul.api import Consul
from svcinit.agent.consul.blocking import Connections
from svcinit.agent.prepare.source import InputId, Kind, digest
from svcinit.agent.registration import definition
from svcinit.agent.registration.services import services
from svcinit.agent.templates.faults import WrongError
from svcinit.agent.templates.formats import from_json, from_yaml
from svcinit.agent.watch import queries
from svcinit.errors import ConfigError, SvcinitError
from svcinit.settings.environment import read

ODD = "²", "\ud800", "a\0b", "10.0.0.1", "::1", "9" * 5000, 10**400, -1, 65536, 1e308, "critical", "x" * 300
NAMES = ("Node", "Service", "Checks", "Address", "Port", "Meta", "Tags", "Config", "Member", "Addr", "NodeName", "Key",
         "Value", "Status", "CheckID", "svcinit", "Output", "Segment", "Allow", "Datacenter")  # fmt: skip
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(ODD))
ANYTHING = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=25,
)  # fmt: skip
ENTRY = st.fixed_dictionaries(
    {
        "Node": st.fixed_dictionaries({"Node": LEAF, "Address": LEAF}, optional={"Datacenter": LEAF}),
        "Service": st.fixed_dictionaries(
            {"Address": LEAF, "Port": LEAF}, optional={"Meta": st.dictionaries(st.just("svcinit"), LEAF), "Tags": LEAF}
        ),
        "Checks": st.one_of(LEAF, st.lists(st.fixed_dictionaries({"Status": LEAF, "CheckID": LEAF}), max_size=2)),
    }
)
WANTED = {"ID": "a", "Name": "b", "Port": 1, "Address": "", "Tags": [], "Meta": {}, "EnableTagOverride": False}


class Answering(Consul):
    answer: Any = None

    def call(self, *_: Any, **__: Any) -> Any:
        return self.answer


CONSUL = Answering("127.0.0.1:1")
CONSUL._only_passing = False  # known already


def peers() -> None:
    found = queries.Peers(CONSUL, Connections(CONSUL, 1), InputId(Kind.PEERS, "web"), "consul").read(CONSUL.answer)
    assert digest(found)
    assert all(type(peer.port) is int and peer.port <= health.PORTS for peer in found)
    assert all(str(peer) for peer in found)


def instance() -> None:
    record = CONSUL.instance("a", "b")
    if record is not None:
        json.dumps(definition.statuses(record))
        definition.maintenance_of(record)
        definition.life_of(record["Service"])
        definition.differences(record, WANTED)


def all_services() -> None:
    for record in CONSUL.services("b").values():
        definition.life_of(record)


CALLS = (
    peers, instance, all_services, lambda: CONSUL.kv("a"), CONSUL.agent, CONSUL.leader, CONSUL.token_self,
    lambda: CONSUL.may_register(["a"]), lambda: CONSUL.report("a", "b", "passing", "x"), lambda: CONSUL.node("n"),
    lambda: CONSUL.external_instances("n"), lambda: CONSUL.node_checks("n"),
)  # fmt: skip


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.one_of(ANYTHING, st.lists(st.one_of(ENTRY, ANYTHING), max_size=4), ENTRY, st.dictionaries(st.text(), ENTRY)))
def test_no_answer_is_a_crash(answer: Any) -> None:
    CONSUL.answer = answer
    for call in CALLS:
        try:
            call()
        except SvcinitError:
            continue


@pytest.mark.parametrize("place", ["Node", "Service"])
@pytest.mark.parametrize("address", ["a\0b", "\ud800", "²", None, 7, ["10.0.0.1"]])
def test_an_address_that_is_none_is_no_crash(place: str, address: object) -> None:
    entry: Any = {"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": {"Address": "", "Port": 80}, "Checks": []}
    entry[place]["Address"] = address
    CONSUL.answer = [entry]
    try:
        peers()
    except SvcinitError:
        pass


@pytest.mark.parametrize("port", ["80", 80.0, True, -1, 65536, 10**400, None])
def test_a_port_that_is_none_is_told(port: object) -> None:
    entry = {"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": {"Address": "", "Port": port}, "Checks": []}
    CONSUL.answer = [entry]
    with pytest.raises(SvcinitError, match="no list of instances"):
        peers()


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, '{"a": ' * 20_000, "{", "[1,"])
def test_a_value_that_no_parser_takes_is_told(text: str) -> None:
    with pytest.raises(WrongError, match="the value is not JSON"):
        from_json(text)


@pytest.mark.parametrize("text", ["[" * 5_000, "9" * 5000, "!!timestamp 2026-02-30", "{", "!!int x"])
def test_a_value_that_is_no_yaml_is_told(text: str) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(WrongError, match="the value is not YAML"):
        from_yaml(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"port": ' + "9" * 5000 + "}]", "[{port: 2026-02-30}]"])
def test_services_that_no_parser_takes_are_a_fault(text: str) -> None:
    with pytest.raises(ConfigError, match="SVCINIT_SERVICES"):
        services(read({"SVCINIT_SERVICE": "web", "SVCINIT_SERVICES": text}))
