"""A whole life over each way to Consul: TLS with client certificates, a unix socket, HTTP basic authentication."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest

from testing.consul import LOOPBACK, ConsulAgent
from testing.gate import gate
from testing.secured import SERVER_NAME, Authority, GuardedConsul, Pair, TlsConsul
from testing.waiting import eventually
from tests.e2e.conftest import Service
from tests.e2e.failing import has_state, is_passing, refuses_to_start

pytestmark = [pytest.mark.consul, pytest.mark.timeout(60)]

LEAST = 'key_prefix "config/web/" { policy = "read" } service "web" { policy = "write" }'
LOCAL = f"DNS:{SERVER_NAME}", f"IP:{LOOPBACK}"
SEE = "see CONSUL_CACERT, CONSUL_CAPATH, CONSUL_TLS_SERVER_NAME"
MakeService = Callable[[ConsulAgent], Service]
MakeTls = Callable[[Pair], TlsConsul]


def lives(service: Service) -> str:
    """See it start on what is in KV, be registered, stop and be gone; its log."""
    service.consul.kv_put("config/web/n", "1")
    target = service.template("app.ini", '{{ key("n") }}')
    svcinit = service.start()
    is_passing(service)
    assert target.read_text() == "1"
    assert svcinit.stop() == 0
    assert service.notes == ["up", "SIGTERM"]
    service.consul.has_no("web")
    return svcinit.err


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def make_tls(tmp_path: pathlib.Path, authority: Authority) -> Iterator[MakeTls]:
    """make_tls(certificate and key of the server): a started Consul."""
    made: list[TlsConsul] = []

    def make(server: Pair) -> TlsConsul:
        made.append(TlsConsul(tmp_path / "tls-consul", authority, server))
        made[-1].start()
        return made[-1]

    yield make
    for agent in made:
        agent.stop()


@pytest.fixture
def tls_service(make_tls: MakeTls, make_service: MakeService, authority: Authority) -> Service:
    """A service whose Consul takes TLS only from whom it knows."""
    service = make_service(make_tls(authority.issue("server", *LOCAL)))
    service.template("app.ini", "text")
    return service


def test_a_service_lives_over_tls_with_a_client_certificate_and_a_token_that_may_the_least(
    tls_service: Service,
) -> None:
    consul = tls_service.consul
    assert isinstance(consul, TlsConsul)
    tls_service.env["CONSUL_HTTP_TOKEN"] = consul.grant(LEAST).secret
    assert "warning" not in lives(tls_service)


def test_changes_are_followed_over_tls_on_connections_that_last(tls_service: Service) -> None:
    consul = tls_service.consul
    assert isinstance(consul, TlsConsul)
    token = consul.grant(LEAST).secret
    tls_service.env |= {"SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s", "CONSUL_HTTP_TOKEN": token}
    tls_service.consul.kv_put("config/web/n", "0")
    target = tls_service.template("app.ini", '{{ key("n") }}')
    svcinit = tls_service.start()
    is_passing(tls_service)
    for value in "123":
        tls_service.consul.kv_put("config/web/n", value)
        eventually(lambda value=value: target.read_text() == value, f"the change arrives; {svcinit.err}")  # type: ignore[misc]
        has_state(svcinit, state="running")
    assert "cannot be followed" not in svcinit.err
    assert svcinit.stop() == 0


def test_an_agent_signed_by_another_authority_is_refused(tls_service: Service, tmp_path: pathlib.Path) -> None:
    foreign = Authority(tmp_path / "foreign", "foreign").certificate
    tls_service.env["CONSUL_CACERT"] = foreign
    refuses_to_start(tls_service, "TLS failed: ", "certificate verify failed", f"signed by what is in {foreign}; {SEE}")


def test_a_certificate_that_has_expired_is_called_that(
    make_tls: MakeTls, make_service: MakeService, authority: Authority
) -> None:
    service = make_service(make_tls(authority.issue("expired", *LOCAL, days=-1)))
    service.template("app.ini", "text")
    refuses_to_start(service, "TLS failed: ", "certificate has expired", SEE)


def test_a_certificate_for_another_host_is_refused_until_its_name_is_given(
    make_tls: MakeTls, make_service: MakeService, authority: Authority
) -> None:
    consul = make_tls(authority.issue("named", f"DNS:{SERVER_NAME}"))
    service = make_service(consul)
    service.template("app.ini", "text")
    refuses_to_start(
        service, "TLS failed: ", f"'{LOOPBACK}'", "expected a certificate for the host in the address", SEE
    )
    service.env |= {"CONSUL_TLS_SERVER_NAME": SERVER_NAME, "CONSUL_HTTP_TOKEN": consul.grant(LEAST).secret}
    lives(service)


def test_an_agent_that_asks_for_a_client_certificate_in_vain_is_told_as_that(tls_service: Service) -> None:
    del tls_service.env["CONSUL_CLIENT_CERT"], tls_service.env["CONSUL_CLIENT_KEY"]
    refuses_to_start(tls_service, "TLS failed: ", "the agent requires a client certificate: see CONSUL_CLIENT_CERT")


def test_a_client_certificate_of_another_authority_is_told_as_refused(
    tls_service: Service, tmp_path: pathlib.Path
) -> None:
    foreign = Authority(tmp_path / "foreign", "foreign").issue("client")
    tls_service.env |= {"CONSUL_CLIENT_CERT": foreign.certificate, "CONSUL_CLIENT_KEY": foreign.key}
    tls_service.env["SVCINIT_START_TIMEOUT"] = "30s"  # now and then the refusal is lost with its connection
    refuses_to_start(tls_service, "TLS failed: ", "the agent refuses the client certificate: see")


# unix socket


def test_a_service_lives_over_a_unix_socket(make_service: MakeService, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "consul.sock"
    config = {"addresses": {"http": f"{LOOPBACK} unix://{path}"}}
    with GuardedConsul(tmp_path / "consul", config=config) as consul:
        service = make_service(consul)
        service.env |= {"CONSUL_HTTP_ADDR": f"unix://{path}", "CONSUL_HTTP_TOKEN": consul.grant(LEAST).secret}
        lives(service)


# HTTP basic authentication


def test_a_service_lives_behind_basic_authentication(service: Service) -> None:
    with gate((LOOPBACK, service.consul.http_port), "svc:pässword:1") as address:
        service.env |= {"CONSUL_HTTP_ADDR": address, "CONSUL_HTTP_AUTH": "svc:pässword:1"}
        lives(service)


def test_a_password_that_is_refused_is_told_without_showing_it(service: Service) -> None:
    service.template("app.ini", "text")
    with gate((LOOPBACK, service.consul.http_port), "svc:right") as address:
        service.env |= {"CONSUL_HTTP_ADDR": address, "CONSUL_HTTP_AUTH": "svc:hunter2"}
        svcinit = refuses_to_start(service, "answered 401: Unauthorized; see CONSUL_HTTP_AUTH")
    assert "hunter2" not in svcinit.err
