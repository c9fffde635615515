"""The client of Consul for the settings."""

from __future__ import annotations

from svcinit.agent.consul.api import Consul

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.settings.environment import Settings

CONNECT_TIMEOUT, READ_TIMEOUT = 3.0, 10.0  # seconds; Consul's agent is on this host or next to it


def connect(settings: Settings, longest: float = READ_TIMEOUT, *, trusting: bool = False) -> Consul:
    """A client of the local Consul agent; nothing is sent yet. `longest`: seconds for one call.

    `trusting`: accept any certificate; such a client sends no secret.
    """
    verify: bool | str = settings.consul_http_ssl_verify and not trusting
    if verify:
        verify = settings.consul_cacert or settings.consul_capath or True
    consul = Consul(
        settings.consul_http_addr,
        token=None if trusting else settings.consul_http_token,
        token_file=None if trusting else settings.environment.get("CONSUL_HTTP_TOKEN_FILE"),
        auth=None if trusting else settings.consul_http_auth,
        ssl=settings.consul_http_ssl,
        verify=verify,
        client_cert=settings.consul_client_cert,
        client_key=settings.consul_client_key,
        server_name=settings.consul_tls_server_name,
        timeout=(min(CONNECT_TIMEOUT, longest), min(READ_TIMEOUT, longest)),
    )
    consul.consistency = settings.consistency
    return consul
