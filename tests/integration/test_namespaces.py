"""CONSUL_NAMESPACE and CONSUL_PARTITION are sent with each request.

A real Consul Enterprise is not available here. A real Consul without Enterprise refuses requests that have them: this
shows that they arrive.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from svcinit.agent.consul.answers import Refused
from svcinit.agent.consul.api import Consul, connect
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.prepare.source_consul import ConsulSource
from svcinit.settings import environment
from svcinit.settings.environment import Settings
from testing.consul import ConsulAgent

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

CALLS: dict[str, Callable[[Consul], object]] = {
    "keys": lambda consul: consul.kv("config/web"),
    "the registration": lambda consul: consul.instance("web", "web"),
    "register": lambda consul: consul.register({"ID": "web", "Name": "web", "Port": 1}),
    "deregister": lambda consul: consul.deregister("web", "web"),
    "maintenance": lambda consul: consul.maintenance("web", "web", on=True, reason="x"),
    "report": lambda consul: consul.report("service:web", "web", "passing", ""),
}
INPUTS = [
    InputId(Kind.KV, "config/web"),
    InputId(Kind.KEY, "config/other"),
    InputId(Kind.PEERS, "web"),
    InputId(Kind.INSTANCES, "web"),
    InputId(Kind.SERVICES, ""),
]


def settings_of(consul: ConsulAgent, **env: str) -> Settings:
    return environment.read({**consul.env, "SVCINIT_CACHE": "", **env})


@pytest.mark.parametrize("call", CALLS)
def test_each_call_to_the_agent_has_the_namespace(consul: ConsulAgent, call: str) -> None:
    client = connect(settings_of(consul, CONSUL_NAMESPACE="team"))
    with pytest.raises(Refused) as caught:
        CALLS[call](client)
    assert caught.value.fields["variable"] == "CONSUL_NAMESPACE"
    client.close()


@pytest.mark.parametrize("wanted", INPUTS, ids=str)
def test_each_input_of_templates_is_read_in_the_namespace(consul: ConsulAgent, wanted: InputId) -> None:
    source = ConsulSource(settings_of(consul, CONSUL_NAMESPACE="team"), time.monotonic() + 10)
    with pytest.raises(Refused) as caught:  # peers too: the names of DNS have no namespace
        source.read(wanted)
    assert caught.value.fields["variable"] == "CONSUL_NAMESPACE"
    source.close()


def test_what_is_followed_is_followed_in_the_namespace(consul: ConsulAgent) -> None:
    client = connect(settings_of(consul, CONSUL_NAMESPACE="team"))
    channel = client.open()
    client.send(channel, "/v1/kv/config/web", {"recurse": ""})
    with pytest.raises(Refused) as caught:
        client.receive(channel, "/v1/kv/config/web", "", 1000)
    assert caught.value.fields["variable"] == "CONSUL_NAMESPACE"
    channel.close()
    client.close()


def test_the_partition_is_sent_too_and_neither_without_the_variables(consul: ConsulAgent) -> None:
    for env, sent in (({"CONSUL_PARTITION": "p1"}, "partition=p1"), ({}, "")):
        start = consul.log.stat().st_size
        client = connect(settings_of(consul, **env))
        with contextlib.suppress(Refused):  # by Consul 1.14; 1.8 knows no partitions
            client.kv("config/web")
        client.close()
        mine = [each for each in consul.requests(start) if "/kv/config/web/" in each.url and "index=" not in each.url]
        (request,) = mine  # without the blocking queries of others, which end some time later
        assert sent in request.url
        assert ("partition=" in request.url) == bool(sent)
        assert "ns=" not in request.url
