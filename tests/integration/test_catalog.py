"""What templates see of Consul's catalog, on a real Consul: the same on 1.8 and on newer ones."""

from __future__ import annotations

import json
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from svcinit.agent.prepare.source_consul import ConsulSource
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.templates.render import render_arguments
from svcinit.errors import ConfigError, Unavailable
from svcinit.settings import environment
from testing.consul import ConsulAgent
from testing.secured import GuardedConsul

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

Render = Callable[[str], str]


def put(consul: ConsulAgent, entry: dict[str, Any]) -> None:
    consul.call("PUT", "/v1/catalog/register", json.dumps(entry).encode())


def instance(number: int, status: str, **service: Any) -> dict[str, Any]:
    node = f"n{number}"
    return {
        "Node": node, "Address": f"10.0.0.{number}", "NodeMeta": {"rack": "r1"},
        "Service": {"ID": f"web-{number}", "Service": "web", "Port": 8000 + number, **service},
        "Checks": [
            {"Node": node, "CheckID": f"c{number}", "Name": "alive", "Status": status, "ServiceID": f"web-{number}"},
        ],
    }  # fmt: skip


CATALOG = [
    instance(1, "passing", Tags=["blue", "v2"], Meta={"zone": "a"}, Weights={"Passing": 7, "Warning": 2}),
    instance(2, "warning", Tags=["green"], Weights={"Passing": 7, "Warning": 2}),
    instance(3, "critical", Meta={"zone": "b"}),
    instance(4, "passing", Address="fd00::4", Port=0, Meta={"zone": "a"}),
]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    with ConsulAgent(tmp_path_factory.mktemp("agent"), config={"node_name": "here"}) as made:
        for entry in CATALOG:
            put(made, entry)
        yield made


def renders(consul: ConsulAgent, template: str, **env: str) -> str:
    settings = environment.read({**consul.env, "SVCINIT_KV_PREFIX": "", "SVCINIT_CACHE": "", **env})
    source = ConsulSource(settings, time.monotonic() + 30)
    try:
        return render_arguments([template], TemplateData(settings, source))[0]
    finally:
        source.close()


EACH = "{% for i in "
IDS = "|map(attribute='id')|join(' ') }}"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ instances('web')" + IDS, "web-1 web-4"),
        ("{{ instances('web', status='warning')" + IDS, "web-1 web-2 web-4"),
        ("{{ instances('web', status='any')" + IDS, "web-1 web-2 web-3 web-4"),
        ("{{ instances('web', tag='blue')" + IDS, "web-1"),
        ("{{ instances('web', dc='dc1')" + IDS, "web-1 web-4"),
        ("{{ instances('web', filter='Service.Meta.zone == a and Service.Port != 0')" + IDS, "web-1"),
        ("{{ instances('web', near='_agent')|length }} {{ instances('none') }}", "2 []"),
        (EACH + "instances('web', tag='v2') %}{{ i.name }} {{ i.address }}:{{ i.port }} {{ i.node }} "
         "{{ i.node_address }} {{ i.tags }} {{ i.meta.zone }} {{ i.node_meta.rack }} {{ i.status }} {{ i.weight }} "
         "{{ i.dc }} {{ i.checks[0].name }}{% endfor %}",
         "web 10.0.0.1:8001 n1 10.0.0.1 ['blue', 'v2'] a r1 passing 7 dc1 alive"),
        (EACH + "instances('web', status='any') %}{{ i.status }}={{ i.weight }} {% endfor %}",
         "passing=7 warning=2 critical=1 passing=1 "),
        (EACH + "instances('web') if not i.port %}{{ i.address }} {{ i.port }} {{ i.node_address }}{% endfor %}",
         "fd00::4 0 10.0.0.4"),
        ("{{ instances('web')|hostports(80)|join(',') }}", "10.0.0.1:80,[fd00::4]:80"),
        ("{% for zone, some in (instances('web', status='any')|by_meta('zone')).items() %}"
         "{{ zone }}:{{ some|map(attribute='id')|join('+') }} {% endfor %}", ":web-2 a:web-1+web-4 b:web-3 "),
        ("{% for t, some in (instances('web')|by_tag).items() %}{{ t }}:{{ some|length }},{% endfor %}",
         "blue:1,v2:1,"),
        ("{{ instances('web')|by_node|list }}", "['n1', 'n4']"),
        ("{{ services()|map(attribute='name')|join(' ') }} {{ services(tag='green')|to_json }}",
         'consul web [{"name": "web", "tags": ["blue", "green", "v2"]}]'),
        ("{{ nodes()|map(attribute='name')|join(' ') }} {{ (nodes()|last).address }}", "here n1 n2 n3 n4 10.0.0.4"),
        ("{{ node('n1').address }} {{ node('n1').services[0].id }} {{ node('n1').meta.rack }} "
         "{{ node('none') }} {{ node }}",
         "10.0.0.1 web-1 r1 None here"),
        ("{{ datacenters() }}", "['dc1']"),
        ("{{ instances('web')|to_json == instances('web')|to_json }} {{ (instances('web')[0]).tags.append('x') }}"
         "{{ instances('web')[0].tags|length }}", "True None2"),
    ],
)  # fmt: skip
def test_templates_see_the_catalog(agent: ConsulAgent, template: str, text: str) -> None:
    assert renders(agent, template) == text


PAGE = (pathlib.Path(__file__).parent.parent.parent / "docs" / "templates.md").read_text()
RECIPE = re.compile(r"\n([^\n]+):\n\n```jinja\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
RECIPES = {title: (template, text) for title, template, text in RECIPE.findall(PAGE.partition("## Recipes")[2])}


@pytest.mark.parametrize("title", [title for title, (template, _) in RECIPES.items() if "secret(" not in template])
def test_a_recipe_of_the_page_gives_what_the_page_says(agent: ConsulAgent, title: str) -> None:
    agent.kv_put("config/team/name", "search")
    agent.kv_put("config/team/limits/rate", "20")
    for key, value in {"one/domain": "one.example", "one/port": "8080", "two/domain": "two.example"}.items():
        agent.kv_put(f"config/sites/{key}", value)
    agent.kv_put("config/shop.json", '{"hosts": ["a.example", "b.example"]}')
    template, text = RECIPES[title]
    assert renders(agent, template).strip() == text.strip()
    assert len(RECIPES) == 8


def test_maintenance_is_a_status_of_its_own(consul: ConsulAgent) -> None:
    consul.register("api", 1)
    consul.call("PUT", "/v1/agent/service/maintenance/api?enable=true")
    template = "{{ instances('api', status='any')|map(attribute='status')|join }} {{ instances('api')|length }}"
    assert renders(consul, template) == "maintenance 0"


def test_a_wrong_filter_and_too_few_instances_are_explained(agent: ConsulAgent) -> None:
    for wrong in ("Service.Port is 1", "Nothing == 1"):
        with pytest.raises(ConfigError, match="the filter is wrong: Failed to create"):
            renders(agent, f"{{{{ instances('web', filter='{wrong}') }}}}")
    with pytest.raises(Unavailable, match="there are 2 of the 3 instances of web needed"):
        renders(agent, "{{ instances('web', min=3) }}")
    with pytest.raises(ConfigError, match="status must be one of passing, warning, any"):
        renders(agent, "{{ instances('web', status='critical') }}")
    with pytest.raises((ConfigError, Unavailable), match="datacenter"):
        renders(agent, "{{ services(dc='mars') }}")


def test_records_outside_the_catalog_are_looked_up(agent: ConsulAgent) -> None:
    server = f"server='{agent.address}:{agent.dns_port}'"
    name = "web.service.consul"
    assert renders(agent, f"{{{{ lookup('{name}', {server}) }}}}") == "['10.0.0.1', '10.0.0.2']"
    assert renders(agent, f"{{{{ lookup('{name}', 'AAAA', {server}) }}}}") == "['fd00::4']"
    template = (
        f"{{% for r in lookup('blue.{name}', 'SRV', {server}) %}}{{{{ r.host }}}} {{{{ r.port }}}} {{{{ r.weight }}}}"
    )
    assert renders(agent, template + "{% endfor %}") == "n1.node.dc1.consul 8001 7"
    assert renders(agent, f"{{{{ lookup('none.{name}', {server}) }}}}") == "[]"
    assert "rack=r1" in renders(agent, f"{{{{ lookup('n1.node.consul', 'TXT', {server}) }}}}")
    with pytest.raises(Unavailable, match="DNS does not answer for x"):
        renders(agent, "{{ lookup('x.example', server='127.0.0.1:1') }}")
    with pytest.raises(ConfigError, match="DNS cannot be asked"):
        renders(agent, "{{ lookup('x..example', " + server + ") }}")
    with pytest.raises(ConfigError, match="the type must be one of"):
        renders(agent, "{{ lookup('x', 'ANY') }}")


def test_a_token_without_the_rule_gets_no_list_that_looks_complete(tmp_path: pathlib.Path) -> None:
    with GuardedConsul(tmp_path / "guarded") as consul:
        token = consul.grant('key "config/other/x" { policy = "read" }').secret
        consul.kv_put("config/other/x", "1")
        env = {"CONSUL_HTTP_TOKEN": token}
        assert renders(consul, "{{ key('/config/other/x') }}", **env) == "1"
        with pytest.raises(ConfigError, match='key_prefix "config/other/y"'):
            renders(consul, "{{ key('/config/other/y') }}", **env)
        assert renders(consul, "{{ instances('consul') }}{{ services() }}", **env) == "[][]"


def test_the_root_certificates_of_the_mesh_are_those_of_consul(agent: ConsulAgent) -> None:
    (root,) = agent.get("/v1/connect/ca/roots")["Roots"]
    template = "{% for r in connect_ca() %}{{ r.id }} {{ r.name }} {{ r.active }} {{ r.cert }}{% endfor %}"
    assert renders(agent, template) == f"{root['ID']} {root['Name']} True {root['RootCert']}"


def test_where_connect_is_off_the_certificates_are_an_error_that_says_so(tmp_path: pathlib.Path) -> None:
    off = {"connect": {"enabled": False}}
    with ConsulAgent(tmp_path / "agent", config=off) as consul, pytest.raises(ConfigError, match=r"connect\.enabled"):
        renders(consul, "{{ connect_ca()|length }}")
