"""svcinitctl doctor: try all that the settings name, one after the other, and say which ACL policy they need."""

from __future__ import annotations

import json
import os
import time

from svcinit.errors import ConfigError, SvcinitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from svcinit.agent.consul import Consul
    from svcinit.settings import Settings

DNS_TIMEOUT = 3.0  # seconds for each server
ANY_SERVICE = "consul"  # the servers' own: it is there wherever DNS may show services


class Findings:
    """What was tried: `tried` holds what, whether it is well, and what there is to say."""

    def __init__(self) -> None:
        self.tried: list[dict[str, object]] = []

    @property
    def well(self) -> bool:
        return all(entry["ok"] for entry in self.tried)

    def attempt(self, what: str, act: Callable[[], str]) -> None:
        """Note what `act` says, with how long it took, or why it fails."""
        began = time.monotonic()
        try:
            said, ok = [act()], True
        except SvcinitError as error:
            said, ok = list(error.faults), False
        took = round((time.monotonic() - began) * 1000, 1)
        self.tried += [{"check": what, "ok": ok, "said": each, "milliseconds": took} for each in said]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    findings, policy = examine(os.environ)
    if options.json:
        print(json.dumps({"ok": findings.well, "checks": findings.tried, "policy": policy}, indent=2))
    else:
        for entry in findings.tried:
            took = f" ({entry['milliseconds']:g} ms)" if entry["check"] in ("http", "dns") else ""
            print(f"{entry['check']:9}  {'ok   ' if entry['ok'] else 'WRONG'} {entry['said']}{took}")
        print(f"\n{policy}" if policy else "", end="")
    return 0 if findings.well else 1


def examine(environment: Mapping[str, str]) -> tuple[Findings, str]:
    """All findings, and the policy as HCL; that is empty where the settings are wrong or need no Consul."""
    from svcinit.agent.services import services
    from svcinit.settings import read

    findings = Findings()
    found: list[Settings] = []

    def settings_are_right() -> str:
        settings = read(environment)
        registered = ", ".join(service.name for service in services(settings))
        found.append(settings)
        return f"registers {registered}" if registered else "nothing is registered"

    findings.attempt("settings", settings_are_right)
    if not found or not (found[0].service or found[0].needs_prepare):
        return findings, ""
    if found[0].source is not None:
        return findings, _examine_source(found[0], findings)
    return findings, _examine_consul(found[0], findings)


def _examine_source(settings: Settings, findings: Findings) -> str:
    """There is no policy: Consul is not asked."""
    from svcinit.agent.source_file import read

    def source() -> str:
        kv, services = read(settings.source or "")
        below = [sum(key.startswith(f"{prefix}/") for key in kv) for prefix, _ in settings.kv_prefix]
        prefixes = (f"{count} below {prefix}" for count, (prefix, _) in zip(below, settings.kv_prefix, strict=True))
        return f"{settings.source}: keys {', '.join([str(len(kv)), *prefixes])}; services {len(services)}"

    findings.attempt("templates", lambda: _templates(settings, set()))
    findings.attempt("source", source)
    return ""


def _examine_consul(settings: Settings, findings: Findings) -> str:
    from svcinit.agent.connect import connect
    from svcinit.agent.policy import policy

    used: set[str] = set()
    findings.attempt("templates", lambda: _templates(settings, used))
    consul = connect(settings)
    findings.attempt("http", lambda: _leader(settings, consul))
    if findings.tried[-1]["ok"]:
        findings.attempt("token", lambda: _token(settings, consul))
        for prefix in settings.kv_prefix:
            findings.attempt("kv", lambda prefix=prefix: _keys(consul, *prefix))  # type: ignore[misc]
    consul.close()
    needs_dns = bool(settings.wait_for) or "service" in used
    for server in settings.dns_addr:
        findings.attempt("dns", lambda server=server: _dns(settings, server, needs_dns))  # type: ignore[misc]
    return policy(settings, used)


def _templates(settings: Settings, used: set[str]) -> str:
    dirs = [folder for folder in settings.templates if os.path.isdir(folder)]
    if not dirs:
        return "none"
    from svcinit.agent.prepare import SHARED
    from svcinit.agent.template_uses import uses

    used |= uses(dirs, [SHARED])
    return f"in {', '.join(dirs)}"


def _leader(settings: Settings, consul: Consul) -> str:
    leader = consul.leader()
    if not leader:
        raise ConfigError(f"{settings.consul_http_addr} answers, and its cluster has no leader")
    return f"{settings.consul_http_addr} answers; leader {leader}"


def _token(settings: Settings, consul: Consul) -> str:
    try:
        token = consul.token_self()
    except ConfigError:
        if settings.consul_http_token:
            raise
        raise ConfigError("ACLs are on, and no token is given (CONSUL_HTTP_TOKEN)") from None
    if token is None:
        return "none is needed: ACLs are off"
    held = [f"policy {name}" for name in token["Policies"]] + [f"role {name}" for name in token["Roles"]]
    return f"accessor {token['AccessorID']}, {', '.join(held) or 'no policy'}"


def _keys(consul: Consul, prefix: str, dc: str | None) -> str:
    from svcinit.agent.prepare import called

    count, what = len(consul.kv(prefix, dc)), called(prefix, dc=dc)
    return f"{what}: keys {count}" if count else f"{what}: no keys, or none that the token may read"


def _dns(settings: Settings, server: tuple[str, int], needed: bool) -> str:
    from svcinit.agent.discovery import Resolver

    host, port = server
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if Resolver([server], settings.domain, DNS_TIMEOUT).peers(ANY_SERVICE):
        return f"{where} answers"
    blind = f"{where} answers, and shows no service {ANY_SERVICE} in domain {settings.domain}"
    if needed:
        raise ConfigError(f"{blind}: see SVCINIT_DOMAIN, and the rules of the agent's own token below")
    return blind
