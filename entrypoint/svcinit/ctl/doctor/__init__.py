"""svcinitctl doctor: check everything in the settings separately, and print each error with its place and advice.

It runs before the first start, or beside a running svcinit. A check that hangs or fails does not prevent the others. It
changes nothing: it removes every file that it writes.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from svcinit.ctl.doctor.catalogue import OK, WARNING, WRONG
from svcinit.ctl.doctor.report import Report
from svcinit.ctl.output import put
from svcinit.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from svcinit.ctl.doctor.report import Attempt
    from svcinit.settings.environment import Settings

TIME_LIMIT = 14.0  # seconds for all checks; with the start and the end of the interpreter less than 15
HERE, NETWORK = 4.0, 5.0  # seconds: for checks of this host, and for one query over the network
SHOWN = {OK: "ok", WARNING: "warning", WRONG: "WRONG"}
TIMED = "http", "dns"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "words", nargs="*", metavar="-- COMMAND", help="the command of the container, to be checked too"
    )


def run(options: argparse.Namespace) -> int:
    report, policy = examine(os.environ, tuple(options.words))
    if options.json:
        put(json.dumps({"ok": report.is_well, "checks": report.entries, "policy": policy}, indent=2), "\n")
        return 0 if report.is_well else 1
    for entry in report.entries:
        took = f" ({entry['milliseconds']:g} ms)" if entry["check"] in TIMED and entry["level"] == OK else ""
        name = f" [{entry['finding']}]" if entry["finding"] else ""
        put(f"{entry['check']:9}  {SHOWN[entry['level']]:7}  {entry['said']}{took}{name}\n")
        if entry["todo"]:
            put(f"{'':20}to do: {entry['todo']}\n")
    put(f"\n{policy}" if policy else "")
    return 0 if report.is_well else 1


def examine(environment: Mapping[str, str], words: tuple[str, ...]) -> tuple[Report, str]:
    """All findings, and the policy as HCL; "" if Consul is not needed, or SVCINIT_SERVICES is wrong."""
    from svcinit.ctl.doctor import process
    from svcinit.settings.environment import attempt

    report = Report(TIME_LIMIT)
    report.together(HERE, ("settings", lambda: process.given(environment)))
    if report.has("settings", "unfinished", "doctor-failed"):
        return report, ""
    return report, Examination(attempt(environment)[0], words, report).run()


class Examination:
    """Three rounds: local checks, then Consul and DNS, then the checks that depend on their answers."""

    def __init__(self, settings: Settings, words: tuple[str, ...], report: Report) -> None:
        from svcinit.ctl import state

        self.settings, self.report = settings, report
        self.running = state.read()
        self.command = words or tuple((self.running or {}).get("command", ()))
        self.used: set[str] = set()  # the names in templates that need a rule, a query or a package
        self.needs_consul = settings.uses_consul and bool(settings.service or settings.needs_prepare)

    def run(self) -> str:
        """Returns the policy."""
        from svcinit.ctl.doctor.policy import policy

        self.check_locally()
        if self.needs_consul:
            self.check_network()
        self.check_with_answers()
        try:
            return policy(self.settings, self.used) if self.needs_consul else ""
        except ConfigError:  # reported already
            return ""

    def check_locally(self) -> None:
        from svcinit.agent.prepare.rendering import template_dirs
        from svcinit.ctl.doctor import files, process

        settings, running = self.settings, self.running
        attempts: list[Attempt] = [
            ("init", lambda: process.init(running)),
            ("user", lambda: process.user(settings, running)),
            ("command", lambda: process.commands(settings, self.command)),
            ("stop", lambda: process.stop(settings)),
        ]
        if not settings.plain:
            attempts.append(("reload", lambda: process.reload(settings, running)))
            attempts.append(("run", lambda: files.run_folder(settings)))
        if settings.needs_prepare and settings.cache:
            attempts.append(("cache", lambda: files.cache(settings)))
        templates = template_dirs(settings)
        if templates:
            from svcinit.agent.templates import engine  # noqa: F401  here: once for all children

            attempts.append(("templates", lambda: files.syntax(settings)))
            attempts.append(("command", lambda: process.startable(settings, files.reload_commands(settings))))
        self.report.together(HERE, *attempts)
        if templates and not self.report.has("templates", "unfinished", "doctor-failed"):
            self.used = files.used(settings)

    def check_network(self) -> None:
        from svcinit.ctl.doctor import consul

        settings, asks = self.settings, self.asks_for_peers
        self.report.together(
            NETWORK,
            ("http", lambda: consul.http(settings)),
            *(("dns", lambda server=server: consul.dns(settings, server, asks)) for server in settings.dns_addr),
        )
        if asks and not self.dns_answers:
            self.report.together(NETWORK, ("dns", lambda: consul.no_dns(settings)))

    def check_with_answers(self) -> None:
        from svcinit.ctl.doctor import files, process, registration

        settings = self.settings
        answers = self.needs_consul and self.report.has("http", "")
        attempts: list[Attempt] = [("modules", lambda: process.modules(settings, self.used))]
        if answers:
            attempts += self.consul_checks()
        if {"secret", "secrets"} & self.used:
            from svcinit.ctl.doctor import vault

            attempts.append(("vault", lambda: vault.check(settings, self.used, running=self.running is not None)))
        if not settings.uses_consul:
            attempts.append(("source", lambda: files.source(settings)))
        if settings.wait_for and (self.dns_answers or not settings.uses_consul):
            attempts.append(("wait", lambda: files.peers(settings)))
        if settings.wait_for_keys and (answers or not settings.uses_consul):
            attempts.append(("wait", lambda: files.keys(settings)))
        if settings.needs_prepare:
            reached, named = answers or not settings.uses_consul, self.dns_answers
            attempts.append(("targets", lambda: files.targets(settings, self.command, reached=reached, named=named)))
        if settings.registers:
            attempts.append(("address", lambda: registration.address(settings, answers=answers)))
            attempts.append(("register", lambda: registration.state(settings, self.running, answers=answers)))
        self.report.together(TIME_LIMIT, *attempts)

    def consul_checks(self) -> list[Attempt]:
        from svcinit.ctl.doctor import consul

        settings, used = self.settings, self.used
        found: list[Attempt] = [
            ("clock", lambda: consul.clock(settings)),
            ("token", lambda: consul.token(settings, used)),
        ]
        for prefix, datacenter in settings.kv_prefix:
            found.append(("kv", lambda prefix=prefix, dc=datacenter: consul.keys(settings, prefix, dc)))  # type: ignore[misc]
        return found

    @property
    def asks_for_peers(self) -> bool:
        return bool(self.settings.wait_for) or "service" in self.used

    @property
    def dns_answers(self) -> bool:
        return self.report.has("dns", "", "dns-blind")
