"""The doctor's checks of files: templates and rendered files, the cache, the state, SVCINIT_SOURCE."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from svcinit.agent.files import replacement
from svcinit.agent.prepare.rendering import SHARED, Rendering, template_dirs
from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.prepare.source_consul import ConsulSource
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.prepare.transaction import open_source
from svcinit.agent.templates.secret import UNISSUED
from svcinit.ctl.doctor.commands import fault_of
from svcinit.ctl.doctor.report import found, well
from svcinit.errors import ConfigError, Fault, SvcinitError, Unavailable
from svcinit.state_files import directories, open_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from svcinit.agent.consul.discovery import Peer
    from svcinit.agent.prepare.source import Answer
    from svcinit.agent.templates.render import Rendered
    from svcinit.ctl.doctor.report import Entry
    from svcinit.settings.environment import Settings

MISSING = 50  # keys, names and peers, at most, that one template lacks
MANY = 1000  # instances that replace a service with too few
KINDS = "key", "variable", "name", "input"  # fields of an error that name what is missing
LOOPBACK = "127.0.0.1"
PATIENCE = 3.0  # seconds for one query of a template


class WithoutDns(ConsulSource):
    """Does not ask DNS again, because DNS did not answer before."""

    def read(self, wanted: InputId) -> Answer:
        if wanted.kind == Kind.PEERS:
            raise Unavailable(f"DNS does not answer for {wanted.text}")
        return super().read(wanted)


def used(settings: Settings) -> set[str]:
    """Names that the readable templates use."""
    from svcinit.ctl.doctor.template_uses import uses

    try:
        return uses(template_dirs(settings), [SHARED])
    except ConfigError:  # `syntax` reports it
        return set()


def syntax(settings: Settings) -> Iterator[Entry]:
    """The errors of templates that do not depend on the data."""
    try:
        made, faults = _rendering(settings, ()).outline()
    except ConfigError as error:
        made, faults = [], list(error.faults)
    for fault in faults:
        yield found("template-wrong", fault)
    if not faults:
        yield well(f"{len(made)} in {', '.join(template_dirs(settings))}: the syntax is correct")


def reload_commands(settings: Settings) -> list[tuple[str, str]]:
    """The commands by which templates notify the service of a change, each with its place."""
    from svcinit.settings.parsers import reload_option

    try:
        made, _ = _rendering(settings, ()).outline()
    except ConfigError:  # `syntax` reports it
        return []
    actions = [(file.target, reload_option(file.reload)) for file in made if file.reload]
    return [(f"`reload=` for {target}", action.argv[0]) for target, action in actions if action.kind == "exec"]


def targets(settings: Settings, command: tuple[str, ...], *, reached: bool, named: bool) -> Iterator[Entry]:
    """Render all files that can be rendered, and check whether each one can be put in place. No target changes.

    `reached`: the data of Consul are available; `named`: DNS answers.
    """
    rendering = _rendering(settings, command, named=named)
    try:
        made, known = rendering.outline()
    except ConfigError:  # `syntax` reports it
        made, known = [], []
    contents: dict[str, bytes] = {}
    error = _fetched(rendering.data) if reached else ("Consul does not answer",)
    if not error:
        yield from _environment(rendering)
        yield from _rendered(rendering, contents, known)
    elif made or settings.render_args:
        yield from (found("template-unrendered", fault, check="templates") for fault in error)
    reported: set[str] = set()
    for entry in _placed(made, contents, rendering.data):
        if entry["said"] not in reported:
            yield entry
        reported.add(entry["said"])
    rendering.data.source.close()


def _fetched(data: TemplateData) -> tuple[str, ...]:
    """Fetch KV. Returns the errors."""
    try:
        data.fetch()
    except SvcinitError as error:
        return error.faults
    return ()


def _environment(rendering: Rendering) -> Iterator[Entry]:
    try:
        rendering.environment()
    except ConfigError as error:
        yield from (found("env-wrong", fault, check="kv") for fault in error.faults)


def _rendered(rendering: Rendering, contents: dict[str, bytes], known: list[str]) -> Iterator[Entry]:
    """Fill in the content of each file. `known`: faults that are reported already."""
    files, faults, away = _attempt(rendering)
    contents.update({file.target: file.content for file in files})
    for fault in _hidden(rendering, [*faults, *away]):
        (away if _field(fault, "input") else faults).append(fault)
    for fault in faults:
        if fault not in known:
            yield found("template-fails", fault, check="templates")
    for fault in away:
        yield found("template-waits", fault, check="templates")
    if files and not faults + away:
        yield well(f"{len(files)} rendered", check="templates")


def _attempt(rendering: Rendering) -> tuple[list[Rendered], list[str], list[str]]:
    """The files, what is wrong and what is unavailable, the arguments included."""
    files, faults, away = rendering.attempt()
    if rendering.command:
        try:
            rendering.arguments()
        except ConfigError as error:
            faults += error.faults
        except Unavailable as error:
            away += error.faults
    return files, faults, away


def _hidden(rendering: Rendering, seen: list[str]) -> Iterator[str]:
    """Missing keys, variables, names and peers behind the first one of a template, where its rendering ends.

    From then on, a reported key, variable or name has the value 0 (which most filters accept), and a reported service
    has many instances. Only what is missing is reported, since other errors may come from these stand-ins.
    """
    stand_in, reported = StandIn(rendering.data), set(seen)
    again, faults = type(rendering)(rendering.settings, rendering.command, stand_in), seen
    for _ in range(MISSING):
        if not stand_in.add(faults):
            return
        _, wrong, away = _attempt(again)
        faults = [*wrong, *away]
        for fault in faults:
            if fault not in reported and any(_field(fault, kind) for kind in KINDS):
                reported.add(fault)
                yield fault


class Anything(str):
    """The value of a name that is not defined, of its fields, and of calls of it."""

    def __call__(self, *_args: object, **_options: object) -> Anything:
        return self

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class StandIn(TemplateData):
    """The data of `real`, with more keys, variables, names and peers."""

    def __init__(self, real: TemplateData) -> None:
        super().__init__(real.settings, real.source, real.earlier)
        self.answers, self.kv, self.known_agent = real.answers, dict(real.kv), real.known_agent
        self._variables: dict[str, str] = {}
        self._many: dict[str, bool] = {}

    def add(self, faults: Iterable[str]) -> bool:
        """Add what these errors miss; False if all of that is present already."""
        present: tuple[dict[str, Any], ...] = self.kv, self._variables, self.names, self._many
        values = b"0", "0", Anything("0"), True
        is_new = False
        for kind, known, value in zip(KINDS, present, values, strict=True):
            found = {name for fault in faults if (name := _field(fault, kind))} - known.keys()
            known.update(dict.fromkeys(found, value))
            is_new |= bool(found)
        return is_new

    @property
    def env(self) -> Mapping[str, str]:
        return {**super().env, **self._variables}

    def key_at(self, path: str, dc: str | None = None) -> bytes | None:
        return self.kv.get(f"/{path}") or super().key_at(path, dc)

    def peers(self, name: str, tag: str | None = None, dc: str | None = None) -> list[Peer]:
        from svcinit.agent.consul.discovery import Peer

        if str(InputId(Kind.PEERS, name, dc, tag)) not in self._many:
            return super().peers(name, tag, dc)
        return [Peer("host", LOOPBACK, 1, "node")] * MANY


def _field(fault: str, name: str) -> str:
    return str(fault.fields.get(name) or "") if isinstance(fault, Fault) else ""


def _placed(made: list[Rendered], contents: dict[str, bytes], data: TemplateData) -> Iterator[Entry]:
    """Can each file be put in place, and does its check command accept it?"""
    from svcinit.agent.files import commit

    try:
        commit.plan(made)
    except ConfigError as error:  # two that are one file, in addition to the findings for each below
        yield from (_unplaceable(fault, made[0].target) for fault in error.faults)
    for file in made:
        if file.target in contents:
            file.content = contents[file.target]
        faults = list(_in_place(file))
        yield from faults
        is_whole = file.target in contents and UNISSUED.encode() not in file.content
        if file.check and is_whole and not any(entry["finding"] for entry in faults):
            yield from _checked(file, data)
        elif file.check:
            yield from _check_command(file, data)


def _in_place(file: Rendered) -> Iterator[Entry]:
    """Write it beside its target, with its mode and owner, and remove it again."""
    from svcinit.agent.templates.render import Rendered

    def rehearsal(owner: tuple[int, int] | None) -> tuple[str, ...]:
        return _faults_of([Rendered(file.target, file.content, file.mode, owner)])

    path = os.path.realpath(file.target)
    faults = rehearsal(file.owner)
    if faults and not rehearsal((os.geteuid(), os.getegid())):
        yield from (found("target-owner", fault) for fault in faults)
    elif faults:
        yield from (_unplaceable(fault, path) for fault in faults)
    elif not replacement.is_mount(path):
        yield well(f"{file.target} can be put in place")
    elif not os.access(path, os.W_OK, effective_ids=True) and os.stat(path).st_uid != os.geteuid():
        yield _unplaceable(replacement.fault(file.target, path, OSError(errno.EACCES, os.strerror(errno.EACCES))), path)
    elif os.statvfs(path).f_flag & os.ST_RDONLY:
        yield _unplaceable(replacement.fault(file.target, path, OSError(errno.EROFS, os.strerror(errno.EROFS))), path)
    else:
        yield found("target-mounted", f"{file.target} is a mount of its own", folder=os.path.dirname(file.target))


def _unplaceable(fault: str, path: str) -> Entry:
    return found("target-wrong", fault, uid=os.geteuid(), folder=os.path.dirname(path))


def _checked(file: Rendered, data: TemplateData) -> Iterator[Entry]:
    faults = _faults_of([file], data)
    yield from (found("check-refuses", fault) for fault in faults)
    if not faults:
        yield well(f"{file.target} is accepted by its check")


def _check_command(file: Rendered, data: TemplateData) -> Iterator[Entry]:
    """There is no rendered file: check only whether the command could be started."""
    from svcinit.settings.parsers import words

    where = f"`check=` for {file.target}"
    fault = fault_of(words(file.check or "")[0], data.env)
    if fault:
        yield found(fault[0], f"{where}: {fault[1]}", where=where)


def _faults_of(made: list[Rendered], data: TemplateData | None = None) -> tuple[str, ...]:
    """The errors that would prevent the files from being put in place; with `data` their check commands run."""
    from svcinit.agent.files import commit

    try:
        commit.rehearse(made, env=data.env if data else None, redact=data.redact if data else str)
    except ConfigError as error:
        return error.faults
    return ()


def source(settings: Settings) -> Iterator[Entry]:
    """The file that replaces Consul."""
    from svcinit.agent.prepare.source_file import read

    try:
        kv, services = read(settings.source or "")
    except ConfigError as error:
        yield from (found("source-wrong", fault) for fault in error.faults)
        return
    below = [sum(key.startswith(f"{prefix}/") for key in kv) for prefix, _ in settings.kv_prefix]
    prefixes = (f"{count} below {prefix}" for count, (prefix, _) in zip(below, settings.kv_prefix, strict=True))
    yield well(f"{settings.source}: keys {', '.join([str(len(kv)), *prefixes])}; services {len(services)}")


def peers(settings: Settings) -> Iterator[Entry]:
    """Are the services of SVCINIT_WAIT_FOR available?"""
    yield from _missing(settings, TemplateData.missing_peers, "peers-missing", "SVCINIT_WAIT_FOR: all are available")


def keys(settings: Settings) -> Iterator[Entry]:
    """Do the keys of SVCINIT_WAIT_FOR_KEYS exist?"""

    def missing(data: TemplateData) -> list[Fault]:
        data.fetch()
        return data.missing_keys()

    yield from _missing(settings, missing, "keys-missing", "SVCINIT_WAIT_FOR_KEYS: all exist")


def _missing(
    settings: Settings, look: Callable[[TemplateData], Sequence[str]], finding: str, success: str
) -> Iterator[Entry]:
    data = _rendering(settings, ()).data
    try:
        faults = look(data)
    except ConfigError:  # `source` or `kv` reports it
        return
    except Unavailable as error:
        faults = error.faults
    finally:
        data.source.close()
    yield from (found(finding, fault, check="wait") for fault in faults)
    if not faults:
        yield well(success, check="wait")


def run_folder(settings: Settings) -> Iterator[Entry]:
    """The directory for svcinit's state."""
    folders = list(directories(settings.run))
    errors = {folder: _write_error(folder) or _not_own(folder) for folder in folders}
    usable = next((folder for folder, error in errors.items() if not error), "")
    if usable:
        yield well(f"{usable} is usable for svcinit's state")
        return
    said = "; ".join(f"{folder} cannot be written: {error}" for folder, error in errors.items())
    yield found("run-unwritable", said, folder=folders[0], uid=os.geteuid())


def _not_own(folder: str) -> str:
    """Why svcinit does not use a directory that it can write to; empty if it uses or would create it."""
    try:
        os.close(open_directory(folder, {os.geteuid()}))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def cache(settings: Settings) -> Iterator[Entry]:
    from svcinit.agent.prepare.cache import load

    folder = os.path.dirname(settings.cache)
    error = _write_error(folder)
    if error:
        said = f"SVCINIT_CACHE={settings.cache!r}: {folder} cannot be written: {error}"
        yield found("cache-unwritable", said, folder=folder, uid=os.geteuid())
    try:
        known = load(settings)
    except Unavailable as refused:
        yield found("cache-refused", str(refused))
        return
    if not error:
        yield well(f"{settings.cache}: {known.age if known else 'there is none yet, and it can be written'}")


def _write_error(folder: str) -> str:
    """Why no file can be created in a directory; empty if one can. A directory that it creates is removed."""
    made: list[str] = []
    try:
        replacement.make_dirs(folder, made)
        probe = replacement.Replacement(os.path.join(folder, "doctor"), b"", 0o600, None)
        probe.stage()
        probe.discard()
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    finally:
        replacement.remove_dirs(made)
    return ""


def _rendering(settings: Settings, command: tuple[str, ...], *, named: bool = True) -> Rendering:
    deadline = time.monotonic() + PATIENCE
    usual = named or not settings.uses_consul
    source = open_source(settings, deadline) if usual else WithoutDns(settings, deadline)
    return Rendering(settings, command, TemplateData(settings, source))
