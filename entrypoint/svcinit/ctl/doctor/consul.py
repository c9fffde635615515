"""The doctor's checks of Consul: the agent, the clock, the token and its rules, the KV prefixes, DNS."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from svcinit.agent.consul.answers import Denied, TlsFailed
from svcinit.agent.consul.api import AGENT_RULE, connect, service_rule
from svcinit.agent.consul.discovery import Resolver
from svcinit.agent.prepare import cache
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.registration.services import services
from svcinit.ctl.doctor.policy import needs_agent
from svcinit.ctl.doctor.report import found, well
from svcinit.errors import ConfigError, SvcinitError, Unavailable
from svcinit.names import endpoint

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from svcinit.agent.consul.api import Consul
    from svcinit.ctl.doctor.report import Entry
    from svcinit.settings.environment import Settings

CALL = 2.5  # seconds, at most, for one call
DNS_TIMEOUT = 2.5  # seconds for each server
ANY_SERVICE = "consul"  # the servers' own: DNS shows it if DNS shows services at all
SKEW = 5.0  # seconds that two clocks may differ


def http(settings: Settings) -> Iterator[Entry]:
    try:
        with contextlib.closing(connect(settings, CALL)) as consul:
            leader = consul.leader()
    except SvcinitError as error:
        yield from failed(error)
        if isinstance(error, TlsFailed):
            yield from clock(settings, trusting=True)
        return
    if leader:
        yield well(f"{settings.consul_http_addr} answers; leader {leader}")
    else:
        yield found("consul-leaderless", f"{settings.consul_http_addr} answers, and its cluster has no leader")


def failed(error: SvcinitError) -> Iterator[Entry]:
    """The finding for an error of a call to the agent."""
    finding = "consul-away" if isinstance(error, Unavailable) else "consul-wrong"
    if isinstance(error, Denied):
        finding = "token-unknown" if error.unknown else "rule-missing"
    rule = error.rule if isinstance(error, Denied) else ""
    yield from (found(finding, fault, rule=rule) for fault in error.faults)


def clock(settings: Settings, *, trusting: bool = False) -> Iterator[Entry]:
    """`trusting`: accept any certificate. A wrong clock can be the reason why a certificate was refused."""
    try:
        with contextlib.closing(connect(settings, CALL, trusting=trusting)) as consul:
            ahead = consul.clock_offset()
    except SvcinitError as error:
        yield from () if trusting else failed(error)
        return
    if abs(ahead) > SKEW:
        where = "ahead of" if ahead > 0 else "behind"
        yield found("clock-skew", f"the agent's clock is {abs(ahead):.0f} s {where} this host's", check="clock")
    else:
        yield well(f"the agent's and this host's differ by less than {SKEW:g} s", check="clock")


def token(settings: Settings, used: Collection[str]) -> Iterator[Entry]:
    """The identity of the token, and whether it has the rules that the settings need besides KV."""
    with contextlib.closing(connect(settings, CALL)) as consul:
        try:
            identity = _identity(settings, consul)
            denied, untried = _denied_services(settings, consul)
            agent_fault = _agent_fault(consul)
        except SvcinitError as error:
            yield from failed(error)
            return
    needed = needs_agent(settings, used)
    if not identity:
        yield well("no token is needed: ACLs are off")
        return
    denied += [AGENT_RULE] * bool(agent_fault and needed)
    if denied and not settings.consul_http_token:
        rules = ", ".join(denied)
        yield found(
            "token-missing",
            f"ACLs are on, and no token is given (CONSUL_HTTP_TOKEN), and these rules need one: {rules}",
        )
        return
    yield well(identity)
    yield from (found("rule-missing", f"the token lacks {rule}", rule=rule) for rule in denied)
    if untried:
        rules = ", ".join(untried)
        yield found("rule-untried", f"the agent does not report whether the token has {rules}", rules=rules)
    if agent_fault and not needed and settings.registers and not settings.advertise:
        yield found("rule-advised", agent_fault, rule=AGENT_RULE)


def _identity(settings: Settings, consul: Consul) -> str:
    """The identity of the token, for people; "" without ACLs."""
    try:
        known = consul.token_self()
    except Denied:
        if settings.consul_http_token:
            raise
        return "no token is given, and anonymous access is enough"
    if known is None:
        return ""
    held = [f"policy {name}" for name in known["Policies"]] + [f"role {name}" for name in known["Roles"]]
    return f"accessor {known['AccessorID']}, {', '.join(held) or 'no policy'}"


def _denied_services(settings: Settings, consul: Consul) -> tuple[list[str], list[str]]:
    """The rules for registration that are denied, and those that the agent does not report."""
    try:
        names = list(dict.fromkeys(service.name for service in services(settings)))
    except ConfigError:  # reported with the settings
        return [], []
    allowed = consul.may_register(names) if names else {}
    if allowed is None:
        return [], [service_rule(name) for name in names]
    return [service_rule(name) for name in names if not allowed.get(name)], []


def _agent_fault(consul: Consul) -> str:
    try:
        consul.agent()
    except Denied as denied:
        return str(denied)
    return ""


def keys(settings: Settings, prefix: str, datacenter: str | None) -> Iterator[Entry]:
    wanted = InputId(Kind.KV, prefix, datacenter)
    what = wanted.text
    try:
        with contextlib.closing(connect(settings, CALL)) as consul:
            consul.look_up(f"{prefix}/", datacenter)
            count = len(consul.kv(prefix, datacenter))
    except SvcinitError as error:
        yield from failed(error)
        return
    before = 0 if count or settings.allow_empty else cache.count(settings, wanted)
    if count:
        yield well(f"{what}: keys {count}")
    elif before:
        yield found("kv-emptied", f"{what}: no keys, and SVCINIT_CACHE had {before}")
    else:
        yield found("kv-empty", f"{what}: no keys", prefix=prefix)


def dns(settings: Settings, server: tuple[str, int], needed: bool) -> Iterator[Entry]:
    """`needed`: templates or SVCINIT_WAIT_FOR ask for peers."""
    where = endpoint(*server)
    try:
        shown = Resolver([server], settings.domain, DNS_TIMEOUT).peers(ANY_SERVICE)
    except SvcinitError as error:
        yield from (found("dns-server-away", fault) for fault in error.faults)
        return
    blind = f"{where} answers, and shows no service {ANY_SERVICE} in domain {settings.domain}"
    if shown:
        yield well(f"{where} answers")
    elif needed:
        yield found("dns-blind", blind)
    else:
        yield well(f"{blind}; no template and no SVCINIT_WAIT_FOR asks for peers")


def no_dns(settings: Settings) -> Iterator[Entry]:
    yield found(
        "dns-away", f"no server gives a usable answer: {', '.join(endpoint(*server) for server in settings.dns_addr)}"
    )
