"""What is registered of a service: its checks, weights and addresses; and whether its port is free before its start."""

from __future__ import annotations

import pathlib
import socket
from typing import Any

import pytest

from svcinit.agent.registration import port as ports
from svcinit.agent.registration.definition import definition, differences
from svcinit.agent.registration.probes import Probe
from svcinit.agent.registration.services import services
from svcinit.errors import ConfigError, SvcinitError, Unavailable
from svcinit.settings.environment import Settings, read

WEB = {"SVCINIT_SERVICE": "web", "SVCINIT_ID": "web", "SVCINIT_PORT": "8000", "SVCINIT_ADVERTISE": "10.0.0.1"}


def settings_of(**more: str) -> Settings:
    return read({**WEB, **more}, "/nosuch")


CHECKS = """[{"name": "admin", "kind": "http://:8001/health", "interval": "30s", "timeout": "2s",
 "success_before_passing": 2, "failures_before_critical": 3},
 {"name": "local", "kind": "tcp:127.0.0.1:9000"}, {"name": "inside", "kind": "exec:true"}]"""


def wanted(**more: str) -> dict[str, Any]:
    return definition(services(settings_of(**more))[0], "10.0.0.1", "", "life")


def test_each_check_has_its_own_place_and_options() -> None:
    first, admin, local, inside = wanted(SVCINIT_CHECK="http://:8080/", SVCINIT_CHECKS=CHECKS)["Checks"]
    assert (first["CheckID"], first["HTTP"], first["Interval"]) == ("service:web", "http://10.0.0.1:8080/", "10000ms")
    assert admin == {
        "CheckID": "service:web:admin", "Name": "admin", "HTTP": "http://10.0.0.1:8001/health", "Method": "GET",
        "Header": {}, "TLSSkipVerify": False, "Interval": "30000ms", "Timeout": "2000ms", "SuccessBeforePassing": 2,
        "FailuresBeforeCritical": 3, "DeregisterCriticalServiceAfter": "1800000ms",
    }  # fmt: skip
    assert local["TCP"] == "127.0.0.1:9000"
    assert inside["TTL"] == "20000ms"


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({}, 10),
        ({"SVCINIT_CHECK_FAILURES": "3"}, 30),
        ({"SVCINIT_CHECK_SUCCESSES": "2"}, 20),
        ({"SVCINIT_CHECKS": CHECKS}, 90),
    ],
)
def test_a_check_that_needs_several_results_shows_a_change_so_many_intervals_later(
    more: dict[str, str], seconds: float
) -> None:
    (service,) = services(settings_of(**more))
    assert max(check.change_interval for check in service.checks) == seconds


@pytest.mark.parametrize(
    ("check", "field", "place"),
    [
        ("http:/health", "HTTP", "http://10.0.0.1:8000/health"),
        ("http://127.0.0.1:8001/health", "HTTP", "http://127.0.0.1:8001/health"),
        ("https://shop.example/health", "HTTP", "https://shop.example:443/health"),
        ("http://[fd00::1]:8001", "HTTP", "http://[fd00::1]:8001"),
        ("tcp", "TCP", "10.0.0.1:8000"),
        ("tcp::8001", "TCP", "10.0.0.1:8001"),
        ("tcp:[::1]:8001", "TCP", "[::1]:8001"),
        ("grpc://:8001/shop", "GRPC", "10.0.0.1:8001/shop"),
        ("grpc:/shop", "GRPC", "10.0.0.1:8000/shop"),
    ],
)
def test_a_check_may_be_at_another_place(check: str, field: str, place: str) -> None:
    (found,) = wanted(SVCINIT_CHECK=check)["Checks"]
    assert found[field] == place


@pytest.mark.parametrize(
    "check",
    [
        "http://",
        "http://:0/",
        "http://a b:80/",
        "http://u@h:80/",
        "tcp:",
        "tcp:host",
        "tcp:host:x",
        "tcp://h:1",
        "none:x",
    ],
)
def test_a_place_that_is_none_is_refused(check: str) -> None:
    with pytest.raises(ConfigError, match="SVCINIT_CHECK="):
        settings_of(SVCINIT_CHECK=check)


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ("{", "neither JSON nor YAML"),
        ('{"name": "a"}', "is no list of mappings"),
        ('[{"kind": "tcp"}]', "needs a name and a kind"),
        ('[{"name": "a", "kind": "tcp"}, {"name": "a", "kind": "tcp"}]', "the name a is given twice"),
        ('[{"name": "a/b", "kind": "tcp"}]', "expected a name"),
        ('[{"name": "a", "kind": "grpc", "via": "ttl"}]', "svcinit itself cannot probe gRPC"),
        ('[{"name": "a", "kind": "tcp", "interval": "0s"}]', "interval='0s'"),
        ('[{"name": "a", "kind": "tcp", "often": 1}]', "often is unknown"),
        ('[{"name": "a", "kind": "none"}]', "leave the entry out"),
    ],
)
def test_what_is_wrong_with_a_list_of_checks_is_said(checks: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        services(settings_of(SVCINIT_CHECKS=checks))
    assert said in str(caught.value)
    assert caught.value.fields["variable"] == "SVCINIT_CHECKS"


def test_an_entry_of_services_may_have_several_checks_and_no_port_of_its_own() -> None:
    listed = '[{"name": "admin", "check": "none", "checks": [{"name": "up", "kind": "tcp::9000"}], "weights": "5,1"}]'
    _, admin = services(settings_of(SVCINIT_SERVICES=listed))
    found = definition(admin, "10.0.0.1", "", "life")
    assert [check["TCP"] for check in found["Checks"]] == ["10.0.0.1:9000"]
    assert found["Weights"] == {"Passing": 5, "Warning": 1}


def test_weights_and_tagged_addresses_are_registered_and_repaired() -> None:
    made = wanted(SVCINIT_WEIGHTS="10,2", SVCINIT_TAGGED_ADDRESSES="lan=10.0.0.5,wan=198.51.100.7:80")
    assert made["Weights"] == {"Passing": 10, "Warning": 2}
    lan, wan = {"Address": "10.0.0.5", "Port": 8000}, {"Address": "198.51.100.7", "Port": 80}
    assert made["TaggedAddresses"] == {"lan": lan, "wan": wan}
    record = {
        **made, "Service": "web", "TaggedAddresses": {"lan": lan, "wan": wan, "lan_ipv4": {"Address": "10.0.0.1"}}
    }  # fmt: skip
    actual = {"Service": record, "Checks": [{"CheckID": "service:web"}]}
    assert differences(actual, made) == []
    record["Weights"] = {"Passing": 1, "Warning": 1}
    record["TaggedAddresses"] = {"lan": lan}
    assert differences(actual, made) == ["weights", "tagged addresses"]


def test_a_connect_native_service_is_registered_as_one_and_repaired() -> None:
    listed = '[{"name": "admin", "port": 8001, "connect_native": true}, {"name": "plain", "port": 8002}]'
    own, admin, plain = services(settings_of(SVCINIT_CONNECT_NATIVE="1", SVCINIT_SERVICES=listed))
    made = definition(own, "10.0.0.1", "", "life")
    assert made["Connect"] == definition(admin, "10.0.0.1", "", "life")["Connect"] == {"Native": True}
    assert "Connect" not in definition(plain, "10.0.0.1", "", "life")  # an entry does not inherit it
    record: dict[str, Any] = {**made, "Service": "web"}
    actual = {"Service": record, "Checks": [{"CheckID": "service:web"}]}
    assert differences(actual, made) == []
    others: list[dict[str, Any]] = [{}, {"Connect": None}, {"Connect": {}}, {"Connect": {"Native": False}}]
    for changed in others:
        actual["Service"] = {name: value for name, value in record.items() if name != "Connect"} | changed
        assert differences(actual, made) == ["connect"]


@pytest.mark.parametrize("value", ["0", "1,2,3", "x", "70000", "-1"])
def test_weights_that_consul_refuses_are_a_fault(value: str) -> None:
    with pytest.raises(ConfigError, match="SVCINIT_WEIGHTS"):
        settings_of(SVCINIT_WEIGHTS=value)


@pytest.mark.parametrize(
    "value", ["lan=0.0.0.0", "wan=[::]:80", "lan=10.0.0.5,wan=0.0.0.0:80", "wan=[0:0:0:0:0:0:0:0]"]
)
def test_an_unspecified_tagged_address_is_a_fault(value: str) -> None:
    with pytest.raises(ConfigError, match="unspecified address"):
        settings_of(SVCINIT_TAGGED_ADDRESSES=value)


# the port


def test_a_port_that_another_process_listens_on_is_refused_and_a_free_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        settings = settings_of(SVCINIT_PORT=str(number), SVCINIT_ADVERTISE="")
        with pytest.raises(Unavailable, match=f"port {number} is in use") as caught:
            ports.require_free_ports(settings)
        assert caught.value.fields["variable"] == "SVCINIT_PORT"
        ports.require_free_ports(settings_of(SVCINIT_PORT=str(number), SVCINIT_PORT_CHECK="0"))
    ports.require_free_ports(settings)


def test_of_a_host_with_many_connections_only_the_listening_sockets_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    # the columns of /proc/net/tcp; kernels before 4.4 list a connection that opens (03) with its listener
    rows = [(":1F90", "0A"), (":1F91", "03"), (":1F92", "0A"), (":1F93", "01")]
    lines = [f"   {number}: 0100007F{port} 00000000:0000 {state} 0 0" for number, (port, state) in enumerate(rows)]
    table = tmp_path / "tcp"
    table.write_text("\n".join(["  sl  local_address rem_address   st", *lines, "connection"]))
    monkeypatch.setattr(ports, "TABLES", (str(table), str(tmp_path / "missing")))
    assert [port for port in (0x1F90, 0x1F91, 0x1F92, 0x1F93) if list(ports.listeners(port))] == [0x1F90, 0x1F92]


def test_an_instance_at_another_address_of_this_host_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_is_local", lambda _: True)
    monkeypatch.setattr(ports, "listeners", lambda _: iter(["10.0.0.2"]))
    ports.require_free_ports(settings_of())
    for taken in ("0.0.0.0", "::", "10.0.0.1"):
        monkeypatch.setattr(ports, "listeners", lambda _, taken=taken: iter([taken]))
        with pytest.raises(Unavailable):
            ports.require_free_ports(settings_of())


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6_is_looked_at_too(host: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6) as other:
        assert host in ports.listeners(other.getsockname()[1])


@pytest.mark.parametrize(
    "text",
    [
        "- {name: admin, port: 8001, tags: [1.10, 12:30, 'yes', 010, 1e3, 2026-01-02, on, ~x], meta: {version: 1.20}}",
        '[{"name": "admin", "port": 8001, "tags": ["1.10", "12:30", "yes", "010", "1e3", "2026-01-02", "on", "~x"],'
        ' "meta": {"version": 1.20}}]',
    ],
)
def test_values_of_services_are_registered_as_they_are_written(text: str) -> None:
    """YAML's own idea of them is 1.1, 750, true, 8 and 1000.0."""
    admin = services(settings_of(SVCINIT_PORT="8000", SVCINIT_SERVICES=text))[1]
    assert admin.tags == ("1.10", "12:30", "yes", "010", "1e3", "2026-01-02", "on", "~x")
    assert (admin.port, admin.meta) == (8001, {"version": "1.20"})


def test_a_key_of_a_service_that_is_given_twice_is_an_error_with_its_line() -> None:
    with pytest.raises(ConfigError, match="SVCINIT_SERVICES, line 2: 'port' is set twice"):
        services(settings_of(SVCINIT_PORT="8000", SVCINIT_SERVICES="- {name: admin,\n   port: 8001, port: 8002}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tags: [a, null]", ".tags=['a', None]: item 2: it is null"),
        ("port: ~", ".port=None: it is null"),
        ("tags: [~]", "item 1: it is null"),
        ("meta: {a: 1, b: }", "the value of b: it is null"),
        ("tags: [[a, b], c]", "item 1 is a list or a mapping"),
        ("meta: {a: {b: c}}", "the value of a is a list or a mapping"),
        ("check_headers: {X: null}", "SVCINIT_SERVICES[0].check_headers="),
        ("checks: [{name: null, kind: tcp}]", ".checks[0].name=None: it is null"),
        ("checks: [{name: a, kind: null}]", ".checks[0].kind=None: it is null"),
        ("checks: [{name: a, kind: tcp, interval: null}]", ".checks[0].interval=None: it is null"),
        ("name: null", ".name=None: it is null"),
    ],
)
def test_a_null_in_a_service_is_an_error_that_says_where_it_is(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        services(settings_of(SVCINIT_SERVICES=f"- {text}"))
    assert any(expected in fault for fault in caught.value.faults), caught.value.faults


def test_a_kind_that_nothing_can_run_is_an_error_and_no_other_check() -> None:
    (service,) = services(settings_of(SVCINIT_CHECK="http:/health"))
    (check,) = service.checks
    check.target.kind = "udp"
    with pytest.raises(SvcinitError):
        definition(service, "10.0.0.1", "", "life")
    with pytest.raises(SvcinitError):
        Probe(check, str, lambda _argv: int).turn(0.0)


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ("http:/", "HTTP"),
        ("https:/", "HTTP"),
        ("tcp", "TCP"),
        ("grpc", "GRPC"),
        ("grpcs", "GRPC"),
        ("exec:true", "TTL"),
    ],
)
def test_each_kind_of_check_is_run_by_consul_or_by_svcinit(form: str, field: str) -> None:
    (found,) = wanted(SVCINIT_CHECK=form)["Checks"]
    assert {"HTTP", "TCP", "GRPC", "TTL"} & found.keys() == {field}
