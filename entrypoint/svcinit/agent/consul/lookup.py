"""DNS records of names outside Consul, by dnspython: what `lookup` in templates gives."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from svcinit.errors import ConfigError, Unavailable
from svcinit.settings.parsers import host_port

if TYPE_CHECKING:
    from typing import Any

    from svcinit.agent.prepare.source import InputId


def records(wanted: InputId, seconds: float) -> list[Any]:
    """The sorted records; none where the name does not exist.

    `wanted.query`: the `type` of the records, and a DNS `server` if it is not one of resolv.conf(5). SRV records are
    mappings of host, port, priority, weight; all others are texts. Raises Unavailable without an answer, and
    ConfigError for a name that cannot be asked for.
    """
    import dns.exception
    import dns.resolver

    more = {name: values[0] for name, values in parse_qs(wanted.query or "").items()}
    try:
        resolver = dns.resolver.Resolver(configure="server" not in more)
        if "server" in more:
            host, resolver.port = host_port(more["server"], 53)
            resolver.nameservers = [host]
        found = resolver.resolve(wanted.name, more["type"], lifetime=seconds, search=False, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return []
    except (dns.resolver.NoNameservers, dns.exception.Timeout, dns.resolver.NoResolverConfiguration, OSError):
        raise Unavailable(f"DNS does not answer for {wanted.name}") from None
    except (dns.exception.DNSException, ValueError):
        raise ConfigError(f"DNS cannot be asked for {wanted.name}") from None
    return _content(found, more["type"])


def _content(found: Any, kind: str) -> list[Any]:
    if kind == "SRV":
        rows = sorted((each.priority, -each.weight, _name(each.target), each.port) for each in found)
        return [{"host": host, "port": port, "priority": first, "weight": -rest} for first, rest, host, port in rows]
    if kind == "TXT":
        return sorted(b"".join(each.strings).decode("utf-8", "replace") for each in found)
    return sorted(_name(each.target) if kind == "CNAME" else each.address for each in found)


def _name(target: Any) -> str:
    return str(target.to_text(omit_final_dot=True))
