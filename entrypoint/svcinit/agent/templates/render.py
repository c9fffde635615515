"""All files of a configuration, made in memory: templates rendered, others as they are. Nothing is written.

    sources = find(["/etc/svcinit/templates"])     what is there, and which file each becomes
    rendered = render(sources, data, dirs)         their bytes, or every fault of every template

A tree mirrors the file system: `etc/uwsgi/app.ini.j2` in it becomes `/etc/uwsgi/app.ini`. A template may
set mode, owner, check command and how main hears of a change of its file in a comment on its first line:

    {# svcinit: mode=0640 owner=root:app check="nginx -t -c {}" reload=HUP #}

A `.j2` file whose name begins with `_` becomes no file: it is there to be included, imported or extended.
Jinja2 is imported by the first template, not before: an image without templates does not pay for it.
"""

from __future__ import annotations

import os
import stat

from svcinit import regular_file
from svcinit.agent.templates.tree import Tree
from svcinit.errors import ConfigError, Fault, Unavailable
from svcinit.names import account, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from svcinit.agent.templates.engine import Data, Engine
    from svcinit.agent.templates.mask import Mask
    from svcinit.agent.templates.tree import User

SUFFIX = ".j2"
OPTIONS = ("mode", "owner", "check", "reload")
SHOWN = 200  # characters of an argument in a fault


class Source:
    """A file of a template tree.

    target: absolute path of what it becomes; path: where it lies; name: its path within its tree, by which
    other templates include it; template: False for a file that is copied as it is.
    """

    __slots__ = ("name", "path", "target", "template")

    def __init__(self, target: str, path: str, name: str, template: bool) -> None:
        self.target = target
        self.path = path
        self.name = name
        self.template = template


class Rendered:
    """A file as it should be.

    target: absolute path; content: its bytes; mode: permission bits; owner: (uid, gid); check: a command that
    must accept it first, in which `{}` stands for the path to look at; reload: how main is told of a change.
    None: not asked for. source: the file that it was made from.
    """

    __slots__ = ("check", "content", "mode", "owner", "reload", "source", "target")

    def __init__(
        self,
        target: str,
        content: bytes,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
        check: str | None = None,
        reload: str | None = None,
        source: str = "",
    ) -> None:
        self.reload = reload
        self.source = source
        self.target = target
        self.content = content
        self.mode = mode
        self.owner = owner
        self.check = check


def find(dirs: Sequence[str], root: str = "/", user: User | None = None) -> list[Source]:
    """List what the trees hold, sorted by target, where a later tree overrides an earlier one.

    root: directory that targets lie under, `/` except to look at the outcome elsewhere. user: SVCINIT_USER, who
    must not be able to change them. Raises ConfigError with all faults: those of `Tree`, a template whose name is
    not UTF-8, two files of one tree that become the same.
    """
    found: dict[str, Source] = {}
    faults: list[str] = []
    for tree in dirs:
        own: dict[str, Source] = {}
        for name in Tree(tree, faults, user).names():
            template = name.endswith(SUFFIX)
            path = os.path.normpath(os.path.join(tree, name))
            if template and not _is_utf8(path):
                told = f"{path!r} among the templates: the name of a template must be UTF-8: rename it"
                faults.append(Fault(told, file=path))
            if template and os.path.basename(name).startswith("_"):
                continue
            target = os.path.normpath(os.path.join(root, name.removesuffix(SUFFIX)))
            if target in own:
                told = f"{own[target].path} and {path} both become {target}: keep one"
                faults.append(Fault(told, file=path))
            own[target] = Source(target, path, name, template)
        found.update(own)
    if faults:
        raise ConfigError(*faults)
    return [found[target] for target in sorted(found)]


def render(sources: Sequence[Source], data: Data, dirs: Sequence[str] = ()) -> list[Rendered]:
    """Make every file in memory, in the order of `sources`.

    dirs: trees in which included templates are looked up, the last one first: those given to `find`, and
    shared ones before them. Raises ConfigError with the faults of all templates, each naming file, line and
    the text of the line; if there are none, Unavailable with what had too few peers or did not answer.
    """
    rendered, faults, away = attempt(sources, data, dirs)
    if faults:
        raise ConfigError(*faults)
    if away:
        raise Unavailable(*away)
    return rendered


def attempt(
    sources: Sequence[Source], data: Data, dirs: Sequence[str] = (), mask: Mask | None = None
) -> tuple[list[Rendered], list[str], list[str]]:
    """As `render`, going on after each fault: what can be rendered, what is wrong, what is away.

    mask: makes of each value that a template prints what may be shown of it.
    """
    engine: Engine | None = None
    rendered: list[Rendered] = []
    faults: list[str] = []
    away: list[str] = []
    for source in sources:
        try:
            if source.template:
                engine = engine or _engine(data, dirs, mask)
                rendered.append(_from_template(engine, source))
            else:
                rendered.append(_copy(source))
        except ConfigError as error:
            faults += error.faults
        except Unavailable as error:
            away += error.faults
    return rendered, list(dict.fromkeys(faults)), list(dict.fromkeys(away))


def render_arguments(argv: Sequence[str], data: Data, dirs: Sequence[str] = (), mask: Mask | None = None) -> list[str]:
    """Render the templates among the words of a command; words without one are left alone.

    Raises as `render` does, naming the number of the argument (0 is the command itself) in place of a file.
    """
    if not any(_has_template(word) for word in argv):
        return list(argv)
    from svcinit.agent.prepare.program import text_fault

    engine = _engine(data, dirs, mask)
    words: list[str] = []
    faults: list[str] = []
    away: list[str] = []
    for number, word in enumerate(argv):
        label = f"argument {number} of the command"
        try:
            text = engine.render_text(label, word) if _has_template(word) else word
            fault = text_fault(text)
            if fault:
                faults.append(f"{label}, `{word[:SHOWN]}`: {fault}")
            words.append(text)
        except ConfigError as error:
            faults += error.faults
        except Unavailable as error:
            away += error.faults
    if faults:
        raise ConfigError(*faults)
    if away:
        raise Unavailable(*away)
    return words


def outline(sources: Sequence[Source], data: Data, dirs: Sequence[str] = ()) -> tuple[list[Rendered], list[str]]:
    """Each file as it would be, but empty, and what is wrong with the templates whatever they are rendered from."""
    engine = _engine(data, dirs, None)
    faults = engine.compile_all()
    made: list[Rendered] = []
    for source in sources:
        if source.template:
            made.append(_made(engine, source, b"", faults))
        else:
            try:
                made.append(_copy(source))
            except ConfigError as error:
                faults += error.faults
    return made, list(dict.fromkeys(faults))


def _has_template(word: str) -> bool:
    return "{{" in word or "{%" in word or "{#" in word


def _engine(data: Data, dirs: Sequence[str], mask: Mask | None) -> Engine:
    from svcinit.agent.templates.engine import Engine

    return Engine(data, dirs, mask)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _copy(source: Source) -> Rendered:
    try:
        descriptor = regular_file.opened(source.path)
        try:
            # A script stays executable: its own permission bits go with it.
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777
            return Rendered(source.target, regular_file.content(descriptor), mode, source=source.path)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot read {source.path}: {error.strerror}", file=source.path) from None


def _from_template(engine: Engine, source: Source) -> Rendered:
    """Text and options are looked at apart, so that the faults of both are reported at once."""
    faults: list[str] = []
    away: Unavailable | None = None
    content = b""
    try:
        content = engine.render_file(source.name, source.path)
    except ConfigError as error:
        faults += error.faults
    except Unavailable as error:
        away = error
    made = _made(engine, source, content, faults)
    if faults:
        raise ConfigError(*faults, file=source.path)
    if away:
        raise away
    return made


def _made(engine: Engine, source: Source, content: bytes, faults: list[str]) -> Rendered:
    """The file with what its options ask for; what is wrong with those goes to `faults`."""
    before = len(faults)
    options = _options(engine.options(source.name), f"{source.path}, line 1", faults)
    if len(faults) > before:
        return Rendered(source.target, content)
    mode = options.get("mode")
    owner = _owner(options["owner"], "", faults) if "owner" in options else None
    return Rendered(
        source.target, content, int(mode, 8) if mode else None, owner, options.get("check"), options.get("reload"),
        source.path,
    )  # fmt: skip


def _options(text: str, where: str, faults: list[str]) -> dict[str, str]:
    """Split `mode=0640 check="nginx -t -c {}"` into names and values, and judge them."""
    if not text:
        return {}
    import shlex

    try:
        words = shlex.split(text)
    except ValueError:
        faults.append(f"{where}: a quote in the svcinit comment is not closed")
        return {}
    options: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in OPTIONS:
            faults.append(f"{where}: unknown option {name!r} in the svcinit comment{_nearest(name)}")
        elif not equals or not value or name in options:
            faults.append(f"{where}: give option {name} of the svcinit comment once, as {name}=VALUE")
        else:
            options[name] = value
    if "mode" in options:
        _check_mode(options["mode"], where, faults)
    if "owner" in options:
        _owner(options["owner"], where, faults)
    if "reload" in options:
        _check_reload(options["reload"], where, faults)
    if "check" in options:
        _check_command(options["check"], where, faults)
    return options


def _nearest(name: str) -> str:
    near = nearest(name, OPTIONS)
    return f"; nearest: {near[0]}" if near else f"; there are {', '.join(OPTIONS)}"


def _check_mode(value: str, where: str, faults: list[str]) -> None:
    if not (3 <= len(value) <= 4 and set(value) <= set("01234567")):
        faults.append(f"{where}: mode={value} is not an octal mode such as 0640")


def _check_reload(value: str, where: str, faults: list[str]) -> None:
    from svcinit.settings.parsers import reload_option

    try:
        reload_option(value)
    except ValueError:
        known = "a signal such as HUP, restart, none, exec:COMMAND, write:/PATH:TEXT"
        faults.append(f"{where}: reload={value} is none of {known}")


def _check_command(value: str, where: str, faults: list[str]) -> None:
    import shlex

    try:
        words = shlex.split(value)
    except ValueError:
        faults.append(f"{where}: a quote in check={value} is not closed")
        return
    if not any("{}" in word for word in words):
        # Without it the command would look at the file in place, that is at the old one.
        faults.append(f"{where}: check={value} must say where the file to check goes, with {{}}")


def _owner(value: str, where: str, faults: list[str]) -> tuple[int, int] | None:
    """`user[:group]`, names or numbers, as (uid, gid); None, and a fault, if there is none."""
    try:
        found = account(value)
    except ValueError as wrong:
        faults.append(f"{where}: owner={value}: {wrong}")
        return None
    if found.gid is None:
        faults.append(f"{where}: owner={value}: no entry names the group of user {value}; write {value}:GROUP")
        return None
    return found.uid, found.gid
