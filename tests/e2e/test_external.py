"""svcinitctl external: what has no agent is found as any other peer, and gone when it is taken out."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator

import pytest

from testing.consul import LOOPBACK, ConsulAgent, free_ports
from testing.ctl import svcinitctl
from testing.secured import GuardedConsul
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import is_passing

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

RDS = "shop.c9a.eu-west-1.rds.example"
REGISTER = "register", "mysql", "--address", RDS, "--port", "3306"


def external(consul: ConsulAgent, *arguments: str, **env: str) -> tuple[int, str]:
    """Exit status of svcinitctl, and all that it printed."""
    done = svcinitctl("external", *arguments, env={**consul.env, **env})
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def catalog(consul: ConsulAgent) -> Iterator[ConsulAgent]:
    """A Consul in whose catalog no external node is left."""
    yield consul
    for node in consul.get("/v1/catalog/nodes?node-meta=external-node:true"):
        consul.call("PUT", "/v1/catalog/deregister", f'{{"Node": "{node["Node"]}"}}'.encode())


def nodes(consul: ConsulAgent) -> list[str]:
    return [node["Node"] for node in consul.get("/v1/catalog/nodes?node-meta=external-node:true")]


@pytest.mark.parametrize(("address", "found"), [("10.1.2.3", "10.1.2.3"), ("localhost", LOOPBACK)])
def test_a_service_waits_for_an_external_one_and_finds_it_by_address_or_host_name(
    catalog: ConsulAgent, service: Service, address: str, found: str
) -> None:
    service.env |= {"SVCINIT_WAIT_FOR": "mysql", "SVCINIT_START_TIMEOUT": "15s"}
    target = service.template("app.ini", '{{ service("mysql") | hostports | join(",") }}')
    svcinit = service.start()
    svcinit.says("mysql: 0 of 1 instances in DNS")
    code, said = external(catalog, "register", "mysql", "--address", address, "--port", "3306")
    node = address.replace(".", "-")
    assert (code, said) == (0, f"mysql on node {node}: registered at {address}:3306\n")
    is_passing(service)
    assert target.read_text() == f"{found}:3306"
    assert svcinit.stop() == 0


def test_consul_esm_finds_all_that_it_needs_to_check_it(catalog: ConsulAgent) -> None:
    tags = "--tag", "primary", "--tag", "eu", "--meta", "team=a,b", "--meta", "engine=8.0"
    assert external(catalog, *REGISTER, *tags, "--check", "tcp", "--interval", "30s", "--dc", "dc1")[0] == 0
    (instance,) = catalog.passing("mysql")
    node, service, (check,) = instance["Node"], instance["Service"], instance["Checks"]
    assert (node["Node"], node["Address"]) == ("shop-c9a-eu-west-1-rds-example", RDS)
    assert node["Meta"] == {"external-node": "true", "external-probe": "false"}
    assert (service["ID"], service["Address"], service["Port"]) == ("mysql", RDS, 3306)
    assert (service["Tags"], service["Meta"]) == (["primary", "eu"], {"team": "a,b", "engine": "8.0"})
    assert (check["ServiceID"], check["Definition"]["TCP"], check["Definition"]["Interval"]) == (
        "mysql", f"{RDS}:3306", "30s",
    )  # fmt: skip
    url = "https://db.example:9000/health"
    assert external(catalog, *REGISTER, "--check", f"http:{url}", "--ping")[0] == 0
    (instance,) = catalog.passing("mysql")
    assert (instance["Checks"][0]["Definition"]["HTTP"], len(instance["Checks"])) == (url, 1)
    assert instance["Node"]["Meta"]["external-probe"] == "true"


def test_registered_again_it_is_there_once_and_as_last_said(catalog: ConsulAgent) -> None:
    assert external(catalog, *REGISTER)[0] == 0
    assert external(catalog, "register", "mysql", "--address", RDS, "--port", "3307")[0] == 0
    assert [instance["Service"]["Port"] for instance in catalog.instances("mysql")] == [3307]


def test_registered_again_its_check_keeps_what_was_found_and_goes_where_none_is_wanted(catalog: ConsulAgent) -> None:
    external(catalog, *REGISTER, "--check", "tcp", "--node", "rds")
    found = {"CheckID": "service:mysql", "ServiceID": "mysql", "Name": "mysql tcp", "Status": "critical"}
    by_esm = {"Node": "rds", "SkipNodeUpdate": True, "Address": RDS, "Check": {"Node": "rds", **found}}
    catalog.call("PUT", "/v1/catalog/register", json.dumps(by_esm).encode())
    assert external(catalog, *REGISTER, "--check", "tcp", "--node", "rds")[0] == 0
    assert (len(catalog.instances("mysql")), catalog.passing("mysql")) == (1, [])
    assert external(catalog, *REGISTER, "--node", "rds")[0] == 0
    assert catalog.passing("mysql")[0]["Checks"] == []


def test_taken_out_its_node_goes_only_with_the_last_service_on_it(catalog: ConsulAgent) -> None:
    for name in ("mysql", "replica"):
        external(catalog, "register", name, "--address", "10.1.2.3", "--port", "3306", "--node", "rds")
    assert external(catalog, "deregister", "mysql") == (0, "mysql on node rds: deregistered\n")
    assert (catalog.instances("mysql"), nodes(catalog)) == ([], ["rds"])
    assert external(catalog, "deregister", "replica", "--node", "rds", "--id", "replica")[0] == 0
    assert nodes(catalog) == []
    code, said = external(catalog, "deregister", "mysql")
    assert (code, said) == (1, "there is no external mysql of that node and id in the catalog\n")


def test_of_two_of_a_name_it_is_to_be_said_which(catalog: ConsulAgent) -> None:
    for node in ("rds-1", "rds-2"):
        external(catalog, *REGISTER, "--node", node)
    code, said = external(catalog, "deregister", "mysql")
    assert (code, said.count("mysql is there 2 times; say which: ")) == (1, 1)
    assert external(catalog, "deregister", "mysql", "--node", "rds-2")[0] == 0
    assert nodes(catalog) == ["rds-1"]


def test_a_node_with_an_agent_and_a_service_of_an_agent_are_left_alone(catalog: ConsulAgent) -> None:
    own = catalog.get("/v1/agent/self")["Config"]["NodeName"]
    code, said = external(catalog, *REGISTER, "--node", own)
    assert (code, said) == (1, f"node {own} has an agent, which would remove the service again: use another --node\n")
    catalog.register("mysql", 3306)
    eventually(lambda: catalog.instances("mysql"), "it is in the catalog")
    assert external(catalog, "deregister", "mysql")[0] == 1
    assert catalog.instances("mysql")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--address", "db:3306"), "--address: 'db:3306': expected a host name or an IP address, without a port"),
        (("--address", "10.1.2"), "--address: '10.1.2': expected a host name or an IP"),
        (("--address", "a..b"), "--address: 'a..b': expected a host name or an IP"),
        (("--port", "0"), "--port: '0': expected a port number from 1 to 65535"),
        (("--node", "a b"), "--node: 'a b': expected letters"),
        (("--meta", "team"), "--meta: 'team': expected k=v"),
        (("--check", "ping"), "--check: 'ping': expected tcp, or http: and a URL"),
        (("--interval", "soon"), "--interval: 'soon': expected a duration"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_sent(
    catalog: ConsulAgent, arguments: tuple[str, str], said: str
) -> None:
    code, told = external(catalog, *REGISTER, *arguments)
    assert (code, said in told, catalog.instances("mysql")) == (2, True, []), told


def test_a_consul_that_is_away_is_told(consul: ConsulAgent) -> None:
    (port,) = free_ports(1)
    code, said = external(consul, *REGISTER, CONSUL_HTTP_ADDR=f"{LOOPBACK}:{port}")
    assert (code, said.count("\n")) == (1, 1)
    assert "failed: Connection refused" in said


def test_a_token_that_may_not_is_told_the_rules_and_one_that_has_them_may(tmp_path: pathlib.Path) -> None:
    rules = 'node "rds" { policy = "write" } service "mysql" { policy = "write" }'
    with GuardedConsul(tmp_path / "guarded") as consul:
        code, said = external(consul, *REGISTER, "--node", "rds")
        assert (code, rules in said) == (1, True), said
        token = consul.grant(rules).secret
        assert external(consul, *REGISTER, "--node", "rds", CONSUL_HTTP_TOKEN=token)[0] == 0
        assert external(consul, "deregister", "mysql", CONSUL_HTTP_TOKEN=token)[0] == 0
        assert nodes(consul) == []
