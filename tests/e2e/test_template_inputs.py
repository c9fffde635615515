"""What templates use besides the service's own prefix and peers: read at a start, followed, and in the cache."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import pytest

from testing.consul import ConsulAgent, connections
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import is_passing

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

MakeService = Callable[[ConsulAgent], Service]


@pytest.fixture
def followed(service: Service) -> Service:
    """A service whose changes are taken over at once."""
    service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s"}
    return service


def reads(target: pathlib.Path, text: str) -> None:
    eventually(lambda: target.read_text() == text, f"{text}: {target.read_text()}")


KEYS = '{{ key("/config/other/x") }} {{ key_or_default("/flags/on", "off") }} '
KEYS += '{% for k, v in tree("/config/all") %}{{ k }}={{ v }},{% endfor %}'


def test_keys_anywhere_are_followed_over_the_same_connections(followed: Service) -> None:
    consul = followed.consul
    consul.kv_put("config/other/x", "1")
    consul.kv_put("config/all/a", "1")
    target = followed.template("app.ini", KEYS)
    svcinit = followed.start()
    is_passing(followed)
    assert target.read_text() == "1 off a=1,"
    consul.kv_put("config/other/x", "2")
    reads(target, "2 off a=1,")
    consul.kv_put("flags/on", "yes")
    reads(target, "2 yes a=1,")
    consul.kv_put("config/all/b/c", "3")
    reads(target, "2 yes a=1,b/c=3,")
    consul.kv_delete("flags/on")
    reads(target, "2 off a=1,b/c=3,")
    assert connections(int(consul.url.rpartition(":")[2])) <= 5
    assert svcinit.stop() == 0


@pytest.fixture
def restarted(own_consul: ConsulAgent, make_service: MakeService) -> Service:
    """A service that starts a second time soon, when its Consul has ended."""
    service = make_service(own_consul)
    service.env |= {"SVCINIT_CHECK": "none", "SVCINIT_START_TIMEOUT": "2s"}
    return service


def test_a_start_without_consul_has_keys_anywhere_from_the_cache(own_consul: ConsulAgent, restarted: Service) -> None:
    service = restarted
    own_consul.kv_put("config/other/x", "1")
    target = service.template("app.ini", KEYS)
    svcinit = service.start()
    is_passing(service)
    assert svcinit.stop() == 0
    target.unlink()
    own_consul.stop()
    svcinit = service.start()
    eventually(lambda: target.exists() and target.read_text() == "1 off ", f"it is there; {svcinit.err}")
    svcinit.stop()


CATALOG = (
    '{% for i in instances("db") %}{{ i.id }}:{{ i.weight }}:{{ i.tags|join("+") }} {% endfor %}'
    '/{% for s in services(tag="blue") %}{{ s.name }} {% endfor %}'
    '/{{ instances("db", status="any", filter="Service.Port != 1")|length }}'
)


def weighted(consul: ConsulAgent, id: str, port: int, weight: int, *tags: str) -> None:
    definition = {
        "Name": "db", "ID": id, "Port": port, "Address": "10.1.0.1", "Tags": tags,
        "Weights": {"Passing": weight, "Warning": 1},
    }  # fmt: skip
    consul.call("PUT", "/v1/agent/service/register", json.dumps(definition).encode())


def test_instances_and_services_are_followed_over_the_same_connections(followed: Service) -> None:
    consul = followed.consul
    weighted(consul, "db-1", 3306, 5, "blue")
    target = followed.template("app.ini", CATALOG)
    svcinit = followed.start()
    is_passing(followed)
    assert target.read_text() == "db-1:5:blue /db /1"
    weighted(consul, "db-1", 3306, 7, "blue")
    reads(target, "db-1:7:blue /db /1")
    weighted(consul, "db-2", 3307, 1, "green")
    reads(target, "db-1:7:blue db-2:1:green /db /2")
    weighted(consul, "db-1", 3306, 7)
    reads(target, "db-1:7: db-2:1:green //2")
    assert connections(int(consul.url.rpartition(":")[2])) <= 5
    assert svcinit.stop() == 0


def test_instances_that_all_vanish_leave_the_file_as_it_was(followed: Service) -> None:
    consul = followed.consul
    weighted(consul, "db-1", 3306, 5)
    target = followed.template("app.ini", '{{ instances("db")|map(attribute="id")|join }}')
    svcinit = followed.start()
    is_passing(followed)
    consul.deregister("db-1")
    svcinit.says("instances of db?passing=1 had 1 entries and now has none", 20)
    assert target.read_text() == "db-1"
    weighted(consul, "db-2", 3306, 5)
    reads(target, "db-2")
    assert svcinit.stop() == 0


def test_a_start_without_consul_has_the_catalog_from_the_cache(own_consul: ConsulAgent, restarted: Service) -> None:
    service = restarted
    weighted(own_consul, "db-1", 3306, 5, "blue")
    text = '{{ instances("db")|to_json }}{{ services(tag="blue")|to_json }}{{ datacenters() }}{{ node("none") }}'
    target = service.template("app.ini", text)
    svcinit = service.start()
    is_passing(service)
    assert svcinit.stop() == 0
    before = target.read_text()
    assert '"weight": 5' in before
    target.unlink()
    own_consul.stop()
    svcinit = service.start()
    eventually(target.exists, f"it is there; {svcinit.err}")
    assert target.read_text() == before
    svcinit.stop()
