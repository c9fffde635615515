"""The fleet that a command is about, and who gives the command."""

from __future__ import annotations

import getpass
import os
import socket
import time

from svcinit.ctl.output import complain, drop, put
from svcinit.errors import EX_CONFIG, EX_TEMPFAIL, EX_UNAVAILABLE, ConfigError, SvcinitError
from svcinit.settings.parsers import folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping

    from svcinit.agent.consul.store import Store
    from svcinit.agent.fleet.commands import NotNow
    from svcinit.agent.fleet.conduct import Fleet
    from svcinit.agent.fleet.records import LogEntry, Plan, Record
    from svcinit.agent.fleet.revision import Content
    from svcinit.agent.fleet.view import Health

__all__ = ["EX_CONFIG", "EX_TEMPFAIL", "EX_UNAVAILABLE"]
ACCESSOR_DIGITS = 6
EX_USAGE = 2  # as argparse has it
READ_ANYWHERE = "status", "history"  # the others take a lock, or the keys, of the agent's own datacenter
SHOWN_DIGITS = 6  # of a revision
TRIES = 5  # of writing the plan, which others may write at the same time


class Busy(SvcinitError):
    """A command that is not possible now. `status`: the exit status. `why`: the value of `commands.py: Why`, if the
    plan does not allow the command."""

    def __init__(self, fault: str, status: int = EX_TEMPFAIL, why: str = "") -> None:
        super().__init__(fault)
        self.status, self.why = status, why


def names(options: argparse.Namespace) -> list[str] | None:
    """All services that have a plan; None if the command is about one service, by its NAME or in its container."""
    from svcinit.agent.consul.api import connect
    from svcinit.agent.consul.store import Store
    from svcinit.settings.environment import read

    settings = read(os.environ)
    if options.name or options.prefix or settings.service:
        return None
    consul = connect(settings)
    try:
        return services(Store(consul, options.dc))
    finally:
        consul.close()


class Usage(Busy):
    """A wrong or missing word that argparse does not notice."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault, EX_USAGE)


class Place:
    """`name`: of the service; `who`: of the person, as USER@HOST."""

    def __init__(self, options: argparse.Namespace) -> None:
        from svcinit.agent.consul.api import connect
        from svcinit.agent.consul.store import Store
        from svcinit.agent.fleet.conduct import Fleet
        from svcinit.agent.fleet.records import Keys
        from svcinit.settings.environment import read

        self.settings = read(os.environ)
        own = self.settings.service
        self.name = options.name or own or ""
        self.consul = connect(self.settings)
        if options.dc and options.action not in READ_ANYWHERE and options.dc != self.consul.datacenter():
            raise ConfigError(
                f"--dc {options.dc}: {options.action} needs an agent of that datacenter: see CONSUL_HTTP_ADDR"
            )
        if not self.name:
            known = services(Store(self.consul, options.dc))
            raise Usage(f"name a service: svcinitctl fleet COMMAND NAME; in KV are: {', '.join(known) or 'none'}")
        self.is_own = self.name == own
        prefix = options.prefix or (self.settings.roll_prefix if self.is_own else f"svcinit/{self.name}")
        self.fleet: Fleet = Fleet(Store(self.consul, options.dc), Keys(_folder(prefix)), self.name)
        self.who = f"{_user()}@{socket.gethostname()}"

    @property
    def token(self) -> str:
        """The beginning of the token's accessor id; empty without ACLs."""
        try:
            found = self.consul.token_self() if self.settings.consul_http_token else None
        except SvcinitError:
            return ""
        return "" if found is None else str(found["AccessorID"])[:ACCESSOR_DIGITS]

    @property
    def datacenter(self) -> str:
        """Empty if the token may not read the agent."""
        try:
            return self.fleet.store.dc or self.consul.datacenter()
        except SvcinitError:
            return ""

    def check_session(self) -> None:
        """Raises ConfigError if the token may not take the lock: nobody would conduct what was begun."""
        from svcinit.agent.fleet.conduct import LOCK_DELAY, TTL

        store = self.fleet.store
        store.destroy(store.create_session(f"svcinitctl of {self.who}", TTL, LOCK_DELAY))

    def check_catalog(self, health: Mapping[str, Health], records: Iterable[Record]) -> None:
        """Raises ConfigError if no instance is visible.

        Consul leaves out, without an error, what a token may not read.
        """
        from svcinit.agent.consul.api import service_rule
        from svcinit.agent.consul.store import NODES_RULE

        live = sum(not record.left for record in records)
        if live and not health:
            raise ConfigError(
                f"{live} instances of {self.name} have records, and the catalog has none of them. If ACLs are on, the "
                f"token needs {service_rule(self.name, 'read')} and {NODES_RULE}. If the instances do not come back: "
                "`svcinitctl fleet forget`"
            )

    def plan(self) -> tuple[Plan | None, int]:
        """As Fleet.plan. Raises ConfigError if there is one that cannot be read: a plan in its place could make a
        revision good that is not proven yet."""
        plan, index = self.fleet.plan()
        if plan is None and index:
            raise ConfigError(
                f"{self.fleet.keys.plan} in KV cannot be read: this svcinitctl may be too old. If the value is "
                "damaged, delete the key"
            )
        return plan, index

    def prefixes(self, records: Mapping[str, Record] | list[Record], plan: Plan | None) -> tuple[str, ...]:
        """Those of all instances; without one, those of the last plan, of this container, or of the service's name."""
        from svcinit.agent.fleet.revision import text_of

        found = records.values() if isinstance(records, dict) else records
        paths = sorted({path for record in found for path in record.paths})  # type: ignore[union-attr]
        if paths:
            return tuple(paths)
        if plan is not None and plan.paths:
            return plan.paths
        if self.is_own:
            return tuple(text_of(*prefix) for prefix in self.settings.kv_prefix)
        return (f"config/{self.name}",)

    def live(self, records: list[Record], plan: Plan | None) -> Content:
        """What the prefixes have now. Raises Unavailable, ConfigError."""
        from svcinit.agent.fleet.revision import read_live

        return read_live(self.consul, self.prefixes(records, plan))


def services(store: Store) -> list[str]:
    """Those that have a plan below the default of SVCINIT_ROLL_PREFIX."""
    found = [key.split("/") for key in store.names_below("svcinit/")]
    return sorted({parts[1] for parts in found if len(parts) == 3 and parts[2] == "plan"})


def _folder(prefix: str) -> str:
    try:
        return folder(prefix)
    except ValueError as wrong:
        raise ConfigError(f"--prefix={prefix!r}: {wrong}") from None


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the service; by default that of this container")
    parser.add_argument("--prefix", metavar="PREFIX", help="SVCINIT_ROLL_PREFIX of the instances [svcinit/NAME]")
    parser.add_argument("--dc", type=str.lower, metavar="DATACENTER", help="by default the agent's own")
    parser.add_argument("--json", action="store_true", help="for programs: one document on standard output at the end")


def refusal(not_now: NotNow) -> Busy:
    """The exit status of a command that the plan does not allow."""
    from svcinit.agent.fleet.commands import Why

    return Busy(str(not_now), EX_TEMPFAIL if not_now.why in (Why.RUNNING, Why.REVERTING) else 1, not_now.why)


def changed(place: Place, step: Callable[[Plan], tuple[Plan, LogEntry | None]]) -> Plan:
    """The plan as `step` returns it, written. Raises NotNow, Busy, ConfigError, Unavailable."""
    for _ in range(TRIES):
        plan, index = place.plan()
        if plan is None:
            raise Busy(f"{place.name} has no roll-out yet", 1)
        following, entry = step(plan)
        if place.fleet.write_plan(following.dump(), index, entry):
            return following
    raise Busy("the plan is written by others all the time: try again")


def line(word: str, sentence: str) -> str:
    return f"{time.strftime('%H:%M:%S')} {word:<8} {sentence}".rstrip()


def say(word: str, sentence: str) -> None:
    """A line of progress. That it cannot be written, such as on a full disk, must not leave a turn or a lock behind."""
    try:
        put(line(word, sentence), "\n")
    except OSError:
        drop()


def warn(sentence: str) -> None:
    complain(line("warning", sentence))


def short(revision: str) -> str:
    return revision[:SHOWN_DIGITS] or "none"


def change(source: str, target: str) -> str:
    """`3f9a1c -> 81d0c7`; empty if each instance keeps its revision."""
    if not target:
        return ""
    return f"{short(source)} -> {short(target)}" if source else f"-> {short(target)}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in /etc/passwd: containers
        return str(os.geteuid())
