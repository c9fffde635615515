"""prepare: fetch, wait, render, check, commit; all of it or nothing. The short-lived child of start and reload.

Its exit status is its verdict: 0 done, 75 try again (Consul or DNS away, peers missing), 78 wrong (template, key,
token, target). What it found for init (arguments, environment, changed files) is left as JSON in one memfd; what the
next prepare and a rollback need (how full each prefix was, how to put files back) in another.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

import svcinit
from svcinit import log
from svcinit.agent.consul.backoff import pause_before
from svcinit.agent.consul.stats import RequestStats
from svcinit.agent.prepare.lock import locked
from svcinit.errors import EX_OK, ConfigError, SvcinitError, Unavailable
from svcinit.processes.init import FETCHING, content, refill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.consul.discovery import Peer, Resolver
    from svcinit.agent.prepare.rollback import Intents
    from svcinit.agent.templates.mask import Mask
    from svcinit.agent.templates.render import Rendered, Source
    from svcinit.settings.environment import Settings

BACKOFF = 0.1, 5.0  # seconds: the first try again comes within the first, no pause is longer than the second
DNS_TIMEOUT = 2.0  # seconds for one question, all servers together
LEAST = 0.2  # seconds: no call gets less
LENGTH_BYTES = 8
PREPARING = b"preparing"  # what stands in place of a verdict that is not whole yet
PREFIX, PEERS = "KV prefix ", "peers of "
# what images share: /opt/svcinit/templates, beside the lib/ that this package is in
SHARED = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(svcinit.__file__))), "templates")


def main(
    settings: Settings, command: tuple[str, ...], *, seconds: float, out: int, memory: int, fresh: int, secrets: int,
    lock: int, cached: bool, life: str, intents: Intents,
) -> int:  # fmt: skip
    """One preparation, tried again for `seconds` as long as what it needs is away.

    `out` takes the verdict, `memory` (or -1) is what the last successful one left, `fresh` takes what this one leaves;
    `secrets` (or -1) takes the values of all keys; `lock` is held meanwhile, since presence prepares too where it
    follows changes; `cached`: from SVCINIT_CACHE, without any network; `life`: whose record it goes into;
    `intents`: see `rollback`. Raises ConfigError, Unavailable.
    """
    with locked(lock):
        from svcinit.agent.prepare import rollback

        rollback.settle(settings, life, intents)
        if not cached:
            return _main(settings, command, seconds, out, memory, fresh, secrets, intents.own, life)
        from svcinit.agent.prepare.source_cache import LastKnown

        known = LastKnown(settings, command)
        known.secrets, known.intent = secrets, intents.own
        known.run_and_keep(out, fresh, life)
        return EX_OK


def _main(
    settings: Settings, command: tuple[str, ...], seconds: float, out: int, memory: int, fresh: int, secrets: int,
    intent: int, life: str,
) -> int:  # fmt: skip
    deadline = time.monotonic() + seconds
    told = ""
    for attempt in range(1 << 30):
        try:
            refill(out, FETCHING)
            done = kind_of(settings)(settings, command, memory, deadline)
            done.secrets, done.intent = secrets, intent
            done.run_and_keep(out, fresh, life)
            return EX_OK
        except Unavailable as away:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            pause = min(left, pause_before(attempt, BACKOFF, getattr(away, "retry_after", None)))
            if str(away) != told:
                told = str(away)
                log.warning("unavailable", "{error}; trying again", error=told, **away.fields)
            time.sleep(pause)
    return EX_OK


def kind_of(settings: Settings) -> type[Preparation]:
    """What prepares where SVCINIT_SOURCE says so."""
    if settings.source is None:
        return Preparation
    from svcinit.agent.prepare.source_file import FromFile

    return FromFile


class Preparation:
    """One try. What it did not ask for costs nothing: no import, no request."""

    looked_in = "in DNS"
    none_found = "there are none, or none that the token may read"

    def __init__(self, settings: Settings, command: tuple[str, ...], memory: int, deadline: float) -> None:
        self.settings, self.command, self.deadline = settings, command, deadline
        self._is_first = memory < 0 or not os.fstat(memory).st_size
        self.earlier: Mapping[str, int] = {} if self._is_first else load(memory)[0]
        self.seen: dict[str, int] = {}  # how many entries each prefix and peer set had
        self.kv: dict[str, bytes] = {}  # layered, relative to the prefix
        self.intent = -1  # a memfd for how to put back what it has begun
        self.secrets = -1  # a memfd for their values, for whoever must not tell them
        self._redactor: Callable[[str], str] | None = None
        self.found: dict[tuple[str, str | None, str | None], list[Peer]] = {}
        self._consul: Consul | None = None
        self._resolver: Resolver | None = None
        self.told_by_agent: dict[str, str] = {}
        self.digests: list[str] = []  # of the keys of each prefix
        self.files: list[Rendered] = []
        self.stats = RequestStats()
        self.took: dict[str, float] = {}  # seconds, by phase
        self.dated = time.time(), 0  # when what was last asked for was so, and at which of Consul's indexes (0: none)
        self.as_of: dict[str, tuple[float, int]] = {}  # the same, of all that is in `seen`

    def run_and_keep(self, out: int, fresh: int, life: str, then: Callable[[], None] = lambda: None) -> None:
        """`run`, `then`, and, since nobody waits for that but init, `keep` and leave a record."""
        from svcinit.agent.prepare import record

        try:
            self.run(out, fresh)
        except SvcinitError as error:
            record.keep(self, life, error.faults)
            raise
        then()
        record.keep(self, life, ())  # first: the cache is synchronized, which may take long
        self.keep()

    def keep(self) -> None:
        """What was found, into SVCINIT_CACHE."""
        if self.settings.cache:
            from svcinit.agent.prepare import source_cache

            source_cache.keep(self)

    def run(self, out: int, fresh: int) -> None:
        """Nothing is done before the verdict is whole and the intent is empty: until then all of it is put back."""
        try:
            with self.timed("fetch"):
                self.registration()
                self.fetch()
                self.wait()
            refill(out, PREPARING)  # from here on whatever hangs is not Consul
            with self.timed("render"):
                argv, env, changed, undo_record, reloads = self.render()
        except ConfigError:
            self.tell_empty()  # it may be why
            raise
        finally:
            self.close()
        self.tell_empty()
        _store(fresh, {**self.earlier, **self.seen}, undo_record)
        self.keep_secrets()
        verdict = {
            "argv": argv, "env": env, "changed": changed, "reloads": reloads, "inputs": self.inputs(),
            "files": len(self.files), "keys": len(self.kv), "said": log.held(),
        }  # fmt: skip
        refill(out, json.dumps(verdict).encode())
        self.intend(b"")

    def intend(self, record: bytes) -> None:
        """See `commit.commit`: begin."""
        if self.intent >= 0:
            refill(self.intent, record)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.took[phase] = time.monotonic() - began

    def close(self) -> None:
        if self._consul is not None:
            self._consul.close()

    def registration(self) -> None:
        """Tell now what presence, which registers, could only trip over again and again."""
        if self.settings.services:
            from svcinit.agent.registration.services import services

            services(self.settings)
        if self.settings.advertise:
            from svcinit.agent.registration.advertise import advertised

            advertised(self.settings.advertise)

    def fetch(self) -> None:
        """KV, one recursive GET a prefix; later prefixes override earlier ones."""
        for prefix, datacenter in self.settings.kv_prefix:
            found = self.keys(prefix, datacenter)
            self.remember(f"{PREFIX}{prefix}{'@' + datacenter if datacenter else ''}", len(found))
            if self.settings.watch:
                self.digests.append(digest(found))
            start = len(prefix) + 1
            self.kv.update({key[start:]: value for key, value in found.items()})

    def keys(self, prefix: str, datacenter: str | None) -> dict[str, bytes]:
        """All keys below a prefix, by full name."""
        found = self.consul.kv(prefix, datacenter)
        self.dated = time.time(), self.consul.index
        return found

    def inputs(self) -> dict[str, object]:
        """What of Consul this was made from: a digest for each prefix, and for each question about peers, and how many
        entries each had."""
        if not self.settings.watch:
            return {}
        peers = [[*question, digest(found)] for question, found in self.found.items()]
        return {"kv": self.digests, "peers": peers, "seen": {**self.earlier, **self.seen}}

    def wait(self) -> None:
        missing = []
        for name, count, datacenter in self.settings.wait_for:
            have = len(self.peers(name, None, datacenter))
            if have < count:
                missing.append(f"{called(name, dc=datacenter)}: {have} of {count} instances {self.looked_in}")
        if missing:
            raise Unavailable("SVCINIT_WAIT_FOR: " + ", ".join(missing), variable="SVCINIT_WAIT_FOR")

    def environment(self) -> dict[str, str]:
        """The keys under SVCINIT_ENV_PREFIX, as main's environment. Raises ConfigError for what cannot be one."""
        from svcinit.agent.prepare import program

        return program.environment(self.kv, self.settings.env_prefix)

    def render(self) -> tuple[list[str], dict[str, str], list[str], bytes, list[str]]:
        """Arguments, environment, changed files, the undo record, how main hears of the changes; on an error nothing is
        written."""
        from svcinit.agent.prepare import program

        (argv, env), self.files = program.together(self.program, self.rendered)
        if not self.files:
            return argv, env, [], b"", []
        from svcinit.agent.files import commit

        committed = commit.commit(self.files, env=self.env, redact=self.redact, begin=self.intend)
        for target in committed.changed:
            log.info("rendered", "rendered {file}", file=target)
        how = {file.target: file.reload or "" for file in self.files}
        reloads = list(dict.fromkeys(how[target] for target in committed.changed))
        return argv, env, committed.changed, commit.dump_undo(committed), reloads

    @property
    def dirs(self) -> list[str]:
        """The template directories that there are."""
        return [folder for folder in self.settings.templates if os.path.isdir(folder)]

    @property
    def libraries(self) -> list[str]:
        """Where templates find each other: what images share, then their own."""
        return [*([SHARED] if os.path.isdir(SHARED) else []), *self.dirs]

    def arguments(self, mask: Mask | None = None) -> list[str]:
        """The command's, rendered; mask: as for `render.attempt`."""
        if not self.settings.render_args:
            return list(self.command)
        from svcinit.agent.templates import render

        return render.render_arguments(self.command, self, self.libraries, mask)

    def program(self) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment, which the kernel takes together. Raises as both do."""
        from svcinit.agent.prepare import program

        argv, env = program.together(self.arguments, self.environment)
        program.check_sum(self.settings, self.command, argv, env)
        return argv, env

    def rendered(self, root: str = "/") -> list[Rendered]:
        """All files, in memory; root: directory that they shall lie under."""
        if not self.dirs:
            return []
        from svcinit.agent.templates import render

        return render.render(self.sources(root), self, self.libraries)

    def sources(self, root: str = "/") -> list[Source]:
        """What the template directories hold. Raises ConfigError."""
        from svcinit.agent.templates import render

        return render.find(self.dirs, root, self.settings.user)

    def redact(self, text: str) -> str:
        """What a check command said, without the values of keys and other secrets that it was given."""
        if self._redactor is None:
            from svcinit.agent.redact import redactor

            self._redactor = redactor(self.settings, self.values())
        return self._redactor(text)

    def values(self) -> list[str]:
        """Those of all keys, as text."""
        return [value.decode("utf-8", "replace") for value in self.kv.values()]

    def keep_secrets(self) -> None:
        """Leave the values to those who tell what probes said."""
        if self.secrets >= 0 and self.kv:
            from svcinit.agent.redact import remember

            remember(self.secrets, self.values())

    def tell_empty(self) -> None:
        for what, count in self.seen.items():
            if not count and what not in self.earlier:
                log.warning("empty", "{input}: {error}", input=what, error=self.none_found)

    def remember(self, what: str, count: int) -> int:
        """Note how many entries there are. Raises Unavailable when there were some before and now are none."""
        self.expect(what, count)
        self.seen[what], self.as_of[what] = count, self.dated
        return count

    def expect(self, what: str, count: int) -> None:
        before = self.earlier.get(what, 0)
        if self._is_first and not count and what.startswith(PREFIX):  # keys stay; peers come and go
            from svcinit.agent.prepare import source_cache

            before = source_cache.count(self.settings, what)
        if before and not count and not self.settings.allow_empty:
            raise Unavailable(
                f"{what} had {before} entries and now has none: taken as a failed fetch "
                "(SVCINIT_ALLOW_EMPTY=1 if this is meant; else, may the token still read them?)"
            )

    @property
    def left(self) -> float:
        """Seconds for one call: what is over before init's own deadline can still say what it waited for."""
        return max(LEAST, self.deadline - time.monotonic())

    # what templates see

    def peers(self, name: str, tag: str | None = None, dc: str | None = None) -> list[Peer]:
        question = name, tag, dc
        if question not in self.found:
            found = self.ask(question)
            self.remember(PEERS + called(*question), len(found))
            self.found[question] = found
        return self.found[question]

    def ask(self, question: tuple[str, str | None, str | None]) -> list[Peer]:
        name, tag, dc = question
        found = self.resolver.peers(name, tag=tag, dc=dc)
        self.dated = time.time(), 0
        return found

    @property
    def env(self) -> Mapping[str, str]:
        return self.settings.main_environment({})

    @property
    def node(self) -> str:
        return self.agent["node"]

    @property
    def this(self) -> This:
        return This(self.settings, lambda: self.agent["address"])

    @property
    def agent(self) -> dict[str, str]:
        """The agent's `node` name and `address`."""
        if not self.told_by_agent:
            self.told_by_agent = self.consul.agent()
        return self.told_by_agent

    @property
    def consul(self) -> Consul:
        if self._consul is None:
            from svcinit.agent.consul.connect import connect

            self._consul = connect(self.settings, self.left)
            self._consul.stats = self.stats
        return self._consul

    @property
    def resolver(self) -> Resolver:
        if self._resolver is None:
            from svcinit.agent.consul.discovery import Resolver

            self._resolver = Resolver(self.settings.dns_addr, self.settings.domain, min(DNS_TIMEOUT, self.left))
            self._resolver.stats = self.stats
        return self._resolver


def called(name: str, tag: str | None = None, dc: str | None = None) -> str:
    """How SVCINIT_WAIT_FOR would name it: TAG.NAME@DATACENTER."""
    return (f"{tag}." if tag else "") + name + (f"@{dc}" if dc else "")


class This:
    """This instance, as templates see it: name, id, port and (looked up when asked for) address."""

    def __init__(self, settings: Settings, agent_address: Callable[[], str]) -> None:
        self.name, self.id, self.port = settings.service, settings.id, settings.port
        self._advertise, self._agent_address = settings.advertise, agent_address

    @property
    def address(self) -> str:
        from svcinit.agent.registration.advertise import advertised

        return advertised(self._advertise) or self._agent_address()


def digest(found: object) -> str:
    """What tells one set of keys or peers from another; the same content gives the same."""
    import hashlib

    return hashlib.sha256(repr(sorted(found.items()) if isinstance(found, dict) else found).encode()).hexdigest()


def _store(descriptor: int, seen: Mapping[str, int], undo_record: bytes) -> None:
    head = json.dumps(seen).encode()
    refill(descriptor, len(head).to_bytes(LENGTH_BYTES, "little") + head + undo_record)


def load(descriptor: int) -> tuple[dict[str, int], bytes]:
    """How full each prefix was, and how to put the files back."""
    whole = content(descriptor)
    end = LENGTH_BYTES + int.from_bytes(whole[:LENGTH_BYTES], "little")
    return json.loads(whole[LENGTH_BYTES:end]), whole[end:]
