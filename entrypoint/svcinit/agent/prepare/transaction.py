"""prepare: fetch, wait, render, check, commit; all of it or nothing. The short-lived child of a start and a reload.

Its exit status is the outcome: 0 done, 75 try again (Consul or DNS unavailable, peers missing), 78 wrong (template,
key, token, target). Init gets the result (arguments, environment, changed files) as a Verdict, the next preparation and
a rollback get a Memory (`handover.py`).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from svcinit import log
from svcinit.agent.consul.backoff import pause_before
from svcinit.agent.prepare import program, record, rollback
from svcinit.agent.prepare.rendering import Rendering
from svcinit.agent.prepare.source import Source, from_json, to_json
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.registration.port import require_free_ports
from svcinit.errors import EX_OK, ConfigError, Fault, SvcinitError, Unavailable
from svcinit.handover import CLOSED, Memory, Progress, Verdict
from svcinit.model import RESTART

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from svcinit.agent.prepare.source import InputId
    from svcinit.agent.templates.render import Rendered
    from svcinit.handover import Change, Slot, Slots
    from svcinit.settings.environment import Settings

BACKOFF = 0.1, 5.0  # seconds: the first and the longest pause between two tries


def main(
    settings: Settings, command: tuple[str, ...], slots: Slots, *, seconds: float, fallback: str, life: str,
    is_fetched: int = -1,
) -> int:  # fmt: skip
    """One preparation, tried again for `seconds` as long as something that it needs is unavailable.

    `fallback`: how to start without Consul, `cache` or `defaults` as in SVCINIT_START_WITHOUT, or empty; `life`: the
    run of svcinit that the record is of. `is_fetched`: a descriptor that is readable when presence has fetched for the
    first try (agent/registration/ahead.py), -1: it does not. Presence prepares too if it follows changes: the lock is
    held meanwhile. Raises ConfigError, Unavailable.
    """

    is_start = not slots.memory.is_filled  # no preparation of this run has succeeded: the service is not started yet

    def attempt(source: Source, memory: Slot) -> None:
        if is_start:
            require_free_ports(settings)
        done = Transaction(settings, command, source, memory=memory, secrets=slots.secrets, intent=slots.intent)
        done.run_and_record(slots.verdict, slots.fresh, life)

    with rollback.locked(slots.lock):
        rollback.settle(settings, life, slots)
        deadline = time.monotonic() + seconds
        if fallback:
            slots.verdict.write(Progress(Progress.FETCHING))
            try:
                attempt(_open_fallback(settings, fallback, deadline, slots), CLOSED)
            except ConfigError as error:
                if fallback == "defaults":  # for example a key without a default: Consul is what is missing
                    raise Unavailable(*error.faults) from None
                raise
            return EX_OK
        restarts = settings.watch and settings.uses_consul and settings.reload.kind == RESTART
        if is_start and restarts and not settings.splay:
            log.warning("no_splay", "{variable} is 0s: a change in Consul restarts all instances at the same time",
                        variable="SVCINIT_SPLAY")  # fmt: skip
        # What presence prepared is in place, also while init has not taken it yet: its child may outlive a presence.
        if is_fetched >= 0:
            _load_meanwhile(settings, command)
        inputs, last = slots.memory, slots.news.read(Verdict) or slots.inputs.read(Verdict)
        in_place = "" if last is None else last.revision
        sources = _sources(settings, deadline, slots, in_place, is_fetched)
        _retry(lambda: attempt(next(sources), inputs), slots.verdict, deadline, is_first=is_start)
        return EX_OK


def _sources(
    settings: Settings, deadline: float, slots: Slots, in_place: str, is_fetched: int
) -> Iterator[Source]:  # fmt: skip
    """A source for each try. Only the first one uses what presence fetched."""
    if is_fetched >= 0:
        from svcinit.agent.prepare.source_fetched import FetchedSource

        live = open_source(settings, deadline, slots, in_place=in_place)
        yield FetchedSource(live, slots.fetched, is_fetched, deadline)
    while True:
        yield open_source(settings, deadline, slots, in_place=in_place)


def _load_meanwhile(settings: Settings, command: tuple[str, ...]) -> None:
    """While presence fetches: import what the templates need, and compile them."""
    uses_peers = Rendering(settings, command, TemplateData(settings, Source())).compile()
    if (settings.wait_for or uses_peers) and not (settings.consul_namespace or settings.consul_partition):
        from svcinit.agent.consul import discovery  # noqa: F401


def _retry(attempt: Callable[[], None], out: Slot, deadline: float, *, is_first: bool) -> None:
    """Call `attempt` until it succeeds. The last try is at the deadline (monotonic seconds).

    `is_first`: at a start, Consul may not know the token yet.
    """
    logged = ""
    for number in range(1 << 30):
        try:
            out.write(Progress(Progress.FETCHING))
            attempt()
            return
        except SvcinitError as error:
            left = deadline - time.monotonic()
            hint = _retry_hint(error, is_first=is_first)
            if left <= 0 or hint is None:
                raise
            pause = min(left, pause_before(number, BACKOFF, getattr(error, "retry_after", None)))
            if str(error) != logged:
                logged = str(error)
                log.warning("unavailable", "{error}; trying again for up to {remaining_seconds} s",
                            error=Fault(logged + hint, **error.fields), remaining_seconds=round(left, 1))  # fmt: skip
            time.sleep(pause)


def _retry_hint(error: SvcinitError, *, is_first: bool) -> str | None:
    """What to add to an error that is worth another try; None: it is not."""
    if isinstance(error, Unavailable):
        return ""
    if is_first and getattr(error, "unknown", False):  # as `answers.Denied` has it
        return "; Consul does not know the token, or not yet"
    return None


def open_source(
    settings: Settings, deadline: float, slots: Slots | None = None, *, turn: str = "", in_place: str = "",
    preview: bool = False,
) -> Source:  # fmt: skip
    """The source that SVCINIT_SOURCE names, and Vault. `deadline` (monotonic seconds): for its calls; `turn`,
    `in_place`: with SVCINIT_ROLL, see `source_rolled.py`.

    `slots`: of svcinit, None in svcinitctl; `preview`: no secrets are issued, as without slots.
    """
    if settings.uses_consul:
        from svcinit.agent.prepare.source_consul import ConsulSource

        source: Source = ConsulSource(settings, deadline)
        if settings.rolls:
            from svcinit.agent.prepare.source_rolled import RolledSource

            source = RolledSource(settings, source, deadline, turn=turn, in_place=in_place)
    else:
        from svcinit.agent.prepare.source_file import FileSource

        source = FileSource(settings)
    return with_vault(settings, deadline, source, slots, preview=preview)


def with_vault(
    settings: Settings, deadline: float, source: Source, slots: Slots | None, *, preview: bool = False
) -> Source:  # fmt: skip
    """`source`, with the secrets of Vault if VAULT_ADDR names one."""
    if not settings.vault_addr:
        return source
    from svcinit.agent.prepare.source_vault import VaultSource

    return VaultSource(settings, deadline, source, slots, preview=preview)


def _open_fallback(settings: Settings, fallback: str, deadline: float, slots: Slots) -> Source:
    if fallback == "cache":
        from svcinit.agent.prepare.source_cache import CacheSource

        return with_vault(settings, deadline, CacheSource(settings), slots)
    from svcinit.agent.prepare.source_defaults import DefaultsSource

    return DefaultsSource(open_source(settings, deadline, slots))


@contextlib.contextmanager
def _fetching(out: Slot) -> Iterator[None]:
    """A template asks for more. Until the answer comes, a hang is not the fault of rendering."""
    out.write(Progress(Progress.FETCHING))
    try:
        yield
    except ConfigError:  # that is an answer, after which other templates are rendered
        out.write(Progress(Progress.RENDERING))
        raise
    out.write(Progress(Progress.RENDERING))


class Transaction:
    """One try, from the inputs of `source`.

    `memory`: the Memory of the last successful preparation; `counts`: how many entries inputs had since then;
    `secrets`: takes the values of keys; `intent`: takes the record of how to roll back what this has begun; `turn`: of
    a roll-out, for which this is prepared; `last`: the verdict that the service was started with. `released`: the
    targets with `wait=` that have waited long enough; by default no file waits.
    """

    def __init__(
        self, settings: Settings, command: tuple[str, ...], source: Source, *, memory: Slot = CLOSED,
        counts: Mapping[InputId, int] | None = None, secrets: Slot = CLOSED, intent: Slot = CLOSED,
        released: Collection[str] | None = None, turn: Change | None = None, last: Verdict | None = None,
    ) -> None:  # fmt: skip
        earlier = memory.read(Memory)
        if earlier is not None:
            counts = {**from_json(earlier.counts), **(counts or {})}
        self.settings, self._secrets, self._intent = settings, secrets, intent
        self._turn, self._last = turn, last
        self.source = source
        self.data = TemplateData(settings, source, counts)
        self.rendering = Rendering(settings, command, self.data)
        self.files: list[Rendered] = []
        self.held: dict[str, tuple[str, float, float]] = {}  # see agent/watch/held.py
        self._released = released
        self.seconds: dict[str, float] = {}  # that each phase took

    def run_and_record(self, out: Slot, fresh: Slot, life: str, then: Callable[[], None] = lambda: None) -> None:
        """`run`, then `then`. The record and SVCINIT_CACHE come last, because no process waits for them."""
        try:
            self.run(out, fresh)
        except SvcinitError as error:
            record.write_record(self, life, error.faults)
            raise
        then()
        record.write_record(self, life, ())  # first: the cache is synchronized, which may take long
        self.fill_cache()

    def fill_cache(self) -> None:
        if self.settings.cache and self.source.is_live:
            from svcinit.agent.prepare import cache

            cache.write(self.settings, self.source.cached(self.data.answers), self.data.known_agent)

    def run(self, out: Slot, fresh: Slot) -> None:
        """Nothing is done before the verdict is complete and the intent is empty: until then all is rolled back."""
        try:
            with self.timed("fetch"):
                self.check_registration()
                self.data.fetch()
                self.data.wait()
            out.write(Progress(Progress.RENDERING))  # from here on, a hang is its own fault unless a template asks
            self.data.fetches = lambda: _fetching(out)
            with self.timed("render"):
                argv, env, changed, rollback_record, reloads = self.commit()
        except ConfigError:
            self.data.warn_about_empty()  # this may be the reason
            raise
        finally:
            self.source.close()
        self.data.warn_about_empty()
        self.warn_about_restarts()
        self.source.used(self.data.answers)
        fresh.write(Memory(to_json(self.data.counts()), rollback_record))
        self.remember_secrets()
        out.write(Verdict(
            argv, env, changed, [*reloads, *self.asked_reloads(argv, env)], inputs=self.inputs(),
            files=len(self.files), keys=len(self.data.kv), said=log.held(),
            turn=0 if self._turn is None else self._turn.turn, revision=self.source.revision,
            trouble=self.source.trouble, limits=self.limits(),
        ))  # fmt: skip
        self.write_intent(b"")

    def warn_about_restarts(self) -> None:
        """At a start: where a restart of one instance changes the files of the others, so that they restart too."""
        settings, default = self.settings, self.settings.reload.kind
        if not (settings.watch and settings.uses_consul and self.data.is_first and default == RESTART):
            return
        awaited = [name for name, _, _ in settings.wait_for]  # which the files may not contain
        own = [each.name for each in self.data.answers if self.data.is_own(each) and each.name not in awaited]
        if own and all((each.reload or RESTART) == RESTART and not each.wait for each in self.files):
            log.warning("own_peers", "the files contain the instances of {service} itself: one that restarts changes "
                        "the files of the others, and these restart too; give this file reload=none or a signal",
                        service=own[0])  # fmt: skip

    def check_registration(self) -> None:
        """Raise the errors at which presence would fail again and again."""
        if self.settings.services or self.settings.checks:
            from svcinit.agent.registration.services import services

            services(self.settings)
        if self.settings.advertise:
            from svcinit.agent.registration.advertise import advertised

            advertised(self.settings.advertise)

    def commit(self) -> tuple[list[str], dict[str, str], list[str], bytes, list[str]]:
        """Arguments, environment, changed files, the rollback record, `reload=` of the changed files.

        On an error nothing is written.
        """
        (argv, env), self.files = program.together(self.rendering.program, self.rendering.files)
        if not self.files:
            return argv, env, [], b"", []
        from svcinit.agent.files import commit

        self.held = self.hold()
        files = [file for file in self.files if file.target not in self.held]
        committed = commit.commit(files, env=self.data.env, redact=self.data.redact, begin=self.write_intent)
        for target in committed.changed:
            log.info("rendered", "rendered {file}", file=target)
        reload_of = {file.target: file.reload or "" for file in self.files}
        reloads = list(dict.fromkeys(reload_of[target] for target in committed.changed))
        return argv, env, committed.changed, commit.rollback_record(committed), reloads

    def limits(self) -> dict[str, float]:
        """The time limits of the commands in `reload=`; if several templates have the same command, the longest."""
        found: dict[str, float] = {}
        for file in self.files:
            if file.reload and file.timeout:
                found[file.reload] = max(file.timeout, found.get(file.reload, 0.0))
        return found

    def hold(self) -> dict[str, tuple[str, float, float]]:
        """The files that would change, and whose templates have `wait=`: the digest of the content, and the times."""
        if self._released is None:
            return {}
        from hashlib import sha256

        from svcinit.agent.files import commit

        waiting = {file.target: file for file in self.files if file.wait and file.target not in self._released}
        changing = [waiting[change.target] for change in commit.plan(waiting.values()) if change.is_needed()]
        return {file.target: (sha256(file.content).hexdigest(), *(file.wait or (0.0, 0.0))) for file in changing}

    def asked_reloads(self, argv: list[str], env: dict[str, str]) -> list[str]:
        """How the turn, if there is one, asks to notify the service, besides the changed files."""
        turn, last = self._turn, self._last
        if turn is None:
            return []
        restarts = turn.may_restart and last is not None and (argv, env) != (last.argv, last.env)
        return [*turn.reloads, *[RESTART] * restarts]

    def inputs(self) -> dict[str, object]:
        """What presence follows: the version of each input that was used, and how many entries each had."""
        if not self.settings.follows:
            return {}
        versions = self.source.versions(self.data.answers)
        return {"versions": to_json(versions), "counts": to_json(self.data.counts()), "held": self.held}

    def write_intent(self, rollback_record: bytes) -> None:
        """See `commit.commit`: begin."""
        if self._intent.is_open:
            self._intent.replace(rollback_record)

    def remember_secrets(self) -> None:
        """Leave the values of keys to the processes that log the output of probes and of the commands of a reload."""
        asked = [file.reload or "" for file in self.files]
        runs = self.settings.reload.kind == "exec" or any(how.startswith("exec:") for how in asked)
        if self._secrets.is_open and (self.settings.probes or runs) and (values := self.data.values()):
            from svcinit.agent.redact import remember

            remember(self._secrets, values)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = time.monotonic() - began
