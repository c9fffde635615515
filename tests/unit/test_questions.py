"""What templates ask the catalog: answers of a Consul that lies, other sources, the mask, what is followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rendering import Data, fault_of, text_of
from svcinit.agent.consul.answers import Away
from svcinit.agent.consul.api import Consul
from svcinit.agent.consul.blocking import Connections
from svcinit.agent.consul.questions import QUESTIONS, question
from svcinit.agent.prepare.source import Answer, InputId, Kind, Source
from svcinit.agent.prepare.source_defaults import DefaultsSource
from svcinit.agent.prepare.source_file import FileSource
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.templates.mask import Mask
from svcinit.agent.templates.render import render_arguments
from svcinit.agent.watch.queries import follow
from svcinit.errors import ConfigError, Unavailable
from svcinit.settings import environment

CONSUL = Consul("127.0.0.1:1")
WEB = InputId(Kind.INSTANCES, "web")
NODE = {"Node": "n", "Address": "10.0.0.1"}
SERVICE = {"ID": "i", "Service": "web"}
NONSENSE: list[Any] = [
    3, "text", [1], [None], [{}], {"a": 3}, [{"Node": 3}], {"Node": None, "Services": {}}, True,
    [{"Node": NODE, "Service": SERVICE, "Checks": [{"CheckID": 1}]}],
    [{"Node": NODE, "Service": {**SERVICE, "Port": "x"}, "Checks": None}],
    [{"Node": NODE, "Service": {**SERVICE, "Tags": [{}]}, "Checks": []}],
    [{"Node": {"Node": "n"}, "Service": SERVICE, "Checks": []}],
    {"Roots": [{"ID": "a", "Name": "b", "RootCert": 3, "Active": True}]},
]  # fmt: skip


@pytest.mark.parametrize("kind", QUESTIONS)
@pytest.mark.parametrize("answer", NONSENSE, ids=repr)
def test_an_answer_of_another_form_is_no_answer(kind: str, answer: Any) -> None:
    try:
        found = question(InputId(kind, "web")).read(CONSUL, answer)
    except Away:
        return
    assert isinstance(found, list | dict)
    assert not (kind == Kind.INSTANCES and found)


def test_an_instance_with_nothing_but_its_name_has_all_fields() -> None:
    (found,) = question(WEB).read(
        CONSUL, [{"Node": NODE, "Service": {**SERVICE, "Tags": None, "Meta": None}, "Checks": None}]
    )
    assert found == {
        "id": "i", "name": "web", "address": "10.0.0.1", "port": 0, "tags": [], "meta": {}, "node": "n", "node_id": "",
        "node_meta": {}, "node_address": "10.0.0.1", "dc": "", "status": "passing", "weight": 1, "checks": [],
    }  # fmt: skip


def test_with_near_the_order_is_that_of_consul() -> None:
    answer = [
        {"Node": {**NODE, "Address": f"10.0.0.{number}"}, "Service": SERVICE, "Checks": []} for number in (3, 1, 2)
    ]
    near = [each["address"] for each in question(WEB._replace(query="near=_agent")).read(CONSUL, answer)]
    assert near == ["10.0.0.3", "10.0.0.1", "10.0.0.2"]
    assert [each["address"] for each in question(WEB).read(CONSUL, answer)] == sorted(near)


def test_two_questions_about_a_service_are_two_inputs() -> None:
    one, two = WEB._replace(query="passing=1"), WEB._replace(query="near=_agent&passing=1")
    assert len({str(each) for each in (WEB, one, two, WEB._replace(tag="a"))}) == 4
    assert question(two).query(CONSUL) == {"near": "_agent", "passing": "1"}
    assert question(WEB._replace(query="filter=a+%3D%3D+%22b%26c%22")).query(CONSUL) == {"filter": 'a == "b&c"'}


def test_what_has_no_index_is_not_followed() -> None:
    limits = Connections(CONSUL, 3)
    followed = {kind for kind in (*QUESTIONS, Kind.LOOKUP, Kind.KV, Kind.PEERS)
                if follow(CONSUL, limits, InputId(kind, "x"), "consul")}  # fmt: skip
    catalog = {Kind.INSTANCES, Kind.SERVICES, Kind.NODES, Kind.NODE, Kind.CONNECT_CA}
    assert followed == {Kind.KEY, Kind.KV, Kind.PEERS, *catalog}


def test_where_queries_take_turns_the_agents_cache_answers_for_instances() -> None:
    shared = Connections(CONSUL, 1)
    watch, other = (follow(CONSUL, shared, InputId(kind, "x"), "consul") for kind in ("instances", "nodes"))
    assert watch is not None
    assert other is not None
    assert (watch.query(), other.query()) == ({"cached": ""}, {})


class Fixed(Source):
    def __init__(self, contents: dict[str, Any]) -> None:
        self.contents = contents

    def read(self, wanted: InputId) -> Answer:
        if wanted.kind not in self.contents:
            raise Unavailable("away")
        return Answer(self.contents[wanted.kind], 1000.0)


def data_of(tmp_path: Path, source: Source, earlier: dict[InputId, int] | None = None, **env: str) -> TemplateData:
    settings = environment.read({"SVCINIT_KV_PREFIX": "", "SVCINIT_CACHE": str(tmp_path / "cache"), **env})
    return TemplateData(settings, source, earlier)


@pytest.mark.parametrize("template", ["{{ instances('web') }}", "{{ services() }}", "{{ nodes() }}"])
def test_a_list_that_had_members_and_has_none_is_a_failed_fetch(tmp_path: Path, template: str) -> None:
    before = {WEB._replace(query="passing=1"): 2, InputId(Kind.SERVICES, ""): 1, InputId(Kind.NODES, ""): 3}
    source = Fixed({kind: [] for kind in (Kind.INSTANCES, Kind.SERVICES, Kind.NODES)})
    with pytest.raises(Unavailable, match=r"had \d entries and now has none"):
        render_arguments([template], data_of(tmp_path, source, before))
    assert render_arguments([template], data_of(tmp_path, source, before, SVCINIT_ALLOW_EMPTY="1")) == ["[]"]


def test_the_catalog_is_no_secret_for_the_mask(tmp_path: Path) -> None:
    service = {"name": "web", "tags": ["blue"]}
    data = data_of(tmp_path, Fixed({Kind.SERVICES: [service], Kind.KEY: {"k": b"s3cret"}}))
    template = "{% for s in services() %}{{ s.name }} {{ s.tags[0] }} {% endfor %}{{ key('/k') }}"
    assert render_arguments([template], data, mask=Mask(data)) == ["web blue ***"]


def test_a_file_has_instances_and_services(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "services: {db: [], "
        "web: [{address: 10.0.0.2, port: 80, tags: [Blue], meta: {zone: a, n: 1.10}, weight: 7}, "
        "'10.0.0.1:81', {address: 10.0.0.3, dc: dc2}]}"
    )
    settings = environment.read({"SVCINIT_SOURCE": f"file:{tmp_path}/s.yaml", "SVCINIT_KV_PREFIX": ""})
    data = TemplateData(settings, FileSource(settings))

    def rendered(template: str) -> str:
        return render_arguments([template], data)[0]

    assert rendered("{{ instances('web')|hostports|join(' ') }}") == "10.0.0.1:81 10.0.0.2:80"
    assert rendered("{{ instances('WEB', tag='blue')|length }} {{ instances('web', dc='dc2')|hostports(1) }}") == (
        "1 ['10.0.0.3:1']"
    )
    assert rendered("{{ services()|to_json }}") == '[{"name": "db", "tags": []}, {"name": "web", "tags": ["Blue"]}]'
    each = "{% for i in instances('web') %}{{ i.weight }} {{ i.meta|to_json }} {{ i.tags }};{% endfor %}"
    assert rendered(each) == """1 {} [];7 {"n": "1.10", "zone": "a"} ['Blue'];"""
    for template in ("{{ nodes() }}", "{{ instances('web', filter='a == b') }}", "{{ lookup('x') }}"):
        with pytest.raises(ConfigError, match="SVCINIT_SOURCE has no"):
            rendered(template)


def test_without_consul_the_catalog_is_empty_where_defaults_are_wanted(tmp_path: Path) -> None:
    data = data_of(tmp_path, DefaultsSource(Fixed({})))
    assert render_arguments(["{{ instances('web') }}{{ services() }}{{ node_or(1) if false else '' }}"], data) == [
        "[][]"
    ]


def test_peers_have_no_tags_to_group_by() -> None:
    from rendering import Peer

    data = Data(peers={"web": [Peer("h", "10.0.0.1", 80, "n")]})
    assert "expected the result of instances()" in fault_of("{{ service('web')|by_tag }}", data)


def test_the_name_of_this_node_is_still_a_text() -> None:
    assert text_of("{{ node }} {{ node|upper }} {{ node == 'host1' }} {{ [node]|to_json }} {{ node('x') }}") == (
        'host1 HOST1 True ["host1"] None'
    )
