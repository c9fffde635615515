"""Renders all files of a configuration in memory; files that are no templates are copied. Nothing is written.

    templates = find(["/etc/svcinit/templates"])   the files of the directories, with their targets
    rendered = render(templates, data, dirs)       their content, or all errors of all templates

A directory of templates mirrors the file system: `etc/uwsgi/app.ini.j2` renders to `/etc/uwsgi/app.ini`. A comment in
the first line of a template can set mode, owner, check command, and how the service is notified when the file changes:

    {# svcinit: mode=0640 owner=root:app check="nginx -t -c {}" reload=HUP #}

A `.j2` file whose name begins with `_` has no target: other templates include, import or extend it. Jinja2 is imported
only for the first template, so that an image without templates does not need the time for it.
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
    from svcinit.names import User

SUFFIX = ".j2"
OPTIONS = ("mode", "owner", "check", "reload", "dirs", "backup", "wait", "timeout")
SECRET_MODE = 0o600  # of a file with a secret of Vault, if its template names no mode
SECRET_SHOWN = "a secret of Vault in an argument would be visible to every process: render it into a file"
SHOWN = 200  # characters of an argument in an error


class Template:
    """A file in a directory of templates.

    target: absolute path of the rendered file; path: path of the template; name: its path within the directory, by
    which other templates include it; is_copied: the file is not rendered but copied.
    """

    __slots__ = ("is_copied", "name", "path", "target")

    def __init__(self, target: str, path: str, name: str, is_copied: bool) -> None:
        self.target = target
        self.path = path
        self.name = name
        self.is_copied = is_copied


class Rendered:
    """A file as it should be.

    target: absolute path; content: bytes; mode: permission bits; owner: (uid, gid); check: a command that must accept
    the file first, with `{}` for the path of the file; reload: how the service is notified of a change. None: not
    specified. source: path of the template. dirs: permission bits of the directories that are created; backup: keep the
    file of before as TARGET.bak. wait: the least and the longest seconds for which a change of the file settles.
    timeout: seconds that each command of the template may take.
    """

    __slots__ = ("backup", "check", "content", "dirs", "mode", "owner", "reload", "source", "target", "timeout", "wait")

    def __init__(
        self,
        target: str,
        content: bytes,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
        check: str | None = None,
        reload: str | None = None,
        source: str = "",
        dirs: int | None = None,
        backup: bool = False,
        wait: tuple[float, float] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.timeout = timeout
        self.wait = wait
        self.dirs = dirs
        self.backup = backup
        self.reload = reload
        self.source = source
        self.target = target
        self.content = content
        self.mode = mode
        self.owner = owner
        self.check = check


def find(dirs: Sequence[str], root: str = "/", user: User | None = None) -> list[Template]:
    """All templates of the directories, sorted by target. A later directory overrides an earlier one.

    root: the directory below which the targets lie, `/` except for a preview. user: SVCINIT_USER, who must not be able
    to change the templates. Raises ConfigError with all errors: those of `Tree`, names that are not UTF-8, two files of
    one directory with the same target.
    """
    found: dict[str, Template] = {}
    faults: list[str] = []
    for tree in dirs:
        own: dict[str, Template] = {}
        for name in Tree(tree, faults, user).names():
            is_copied = not name.endswith(SUFFIX)
            path = os.path.normpath(os.path.join(tree, name))
            if not is_copied and not _is_utf8(path):
                message = f"{path!r} among the templates: the name of a template must be UTF-8: rename it"
                faults.append(Fault(message, file=path))
            if not is_copied and os.path.basename(name).startswith("_"):
                continue
            target = os.path.normpath(os.path.join(root, name.removesuffix(SUFFIX)))
            if target in own:
                message = f"{own[target].path} and {path} have the same target {target}: keep only one of them"
                faults.append(Fault(message, file=path))
            own[target] = Template(target, path, name, is_copied)
        found.update(own)
    if faults:
        raise ConfigError(*faults)
    return [found[target] for target in sorted(found)]


def render(templates: Sequence[Template], data: Data, dirs: Sequence[str] = ()) -> list[Rendered]:
    """Render all files in memory, in the order of `templates`.

    dirs: directories in which included templates are found, the last one first: the shared ones, then those given to
    `find`. Raises ConfigError with the errors of all templates, each with file, line and the text of the line. If there
    are none, raises Unavailable for services with too few peers and for requests without an answer.
    """
    rendered, faults, away = attempt(templates, data, dirs)
    if faults:
        raise ConfigError(*faults)
    if away:
        raise Unavailable(*away)
    return rendered


def attempt(
    templates: Sequence[Template], data: Data, dirs: Sequence[str] = (), mask: Mask | None = None
) -> tuple[list[Rendered], list[str], list[str]]:
    """As `render`, but without exceptions: the rendered files, the errors, and what is unavailable.

    mask: returns the text that is shown for each value that a template prints.
    """
    engine: Engine | None = None
    rendered: list[Rendered] = []
    faults: list[str] = []
    away: list[str] = []
    for template in templates:
        try:
            if not template.is_copied:
                engine = engine or _engine(data, dirs, mask)
                rendered.append(_from_template(engine, template))
            else:
                rendered.append(_copy(template))
        except ConfigError as error:
            faults += error.faults
        except Unavailable as error:
            away += error.faults
    return rendered, list(dict.fromkeys(faults)), list(dict.fromkeys(away))


def render_arguments(argv: Sequence[str], data: Data, dirs: Sequence[str] = (), mask: Mask | None = None) -> list[str]:
    """Render the words of a command that contain templates.

    Raises as `render` does, with the number of the argument (0 is the command itself) instead of a file.
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
            fault = text_fault(text) or (SECRET_SHOWN if engine.secret_uses else "")
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


def outline(templates: Sequence[Template], data: Data, dirs: Sequence[str] = ()) -> tuple[list[Rendered], list[str]]:
    """All files with their options but without content, and the errors that do not depend on data."""
    engine = _engine(data, dirs, None)
    faults = engine.compile_all()
    made: list[Rendered] = []
    for template in templates:
        if not template.is_copied:
            made.append(_made(engine, template, b"", faults))
        else:
            try:
                made.append(_copy(template))
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


def _copy(template: Template) -> Rendered:
    try:
        descriptor = regular_file.opened(template.path)
        try:
            # A script stays executable: its permission bits are copied too.
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777
            return Rendered(template.target, regular_file.content(descriptor), mode, source=template.path)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot read {template.path}: {error.strerror}", file=template.path) from None


def _from_template(engine: Engine, template: Template) -> Rendered:
    """The options are checked even if the text has an error, so that all errors are reported together."""
    faults: list[str] = []
    away: Unavailable | None = None
    content, secrets_before = b"", engine.secret_uses
    try:
        content = engine.render_file(template.name, template.path)
    except ConfigError as error:
        faults += error.faults
    except Unavailable as error:
        away = error
    made = _made(engine, template, content, faults)
    if faults:
        raise ConfigError(*faults, file=template.path)
    if away:
        raise away
    if made.mode is None and engine.secret_uses > secrets_before:
        made.mode = SECRET_MODE
    return made


def _made(engine: Engine, template: Template, content: bytes, faults: list[str]) -> Rendered:
    """The file with its options; errors in the options are added to `faults`."""
    before = len(faults)
    options = _options(engine.options(template.name), f"{template.path}, line 1", faults)
    if len(faults) > before:
        faults[before:] = [Fault(fault, file=template.path, line=1) for fault in faults[before:]]
        return Rendered(template.target, content)
    mode = options.get("mode")
    owner = _owner(options["owner"], "", faults) if "owner" in options else None
    return Rendered(
        template.target, content, int(mode, 8) if mode else None, owner, options.get("check"), options.get("reload"),
        template.path, int(options["dirs"], 8) if "dirs" in options else None, options.get("backup") == "1",
        _wait(options["wait"]) if "wait" in options else None,
        _timeout(options["timeout"]) if "timeout" in options else None,
    )  # fmt: skip


def _options(text: str, where: str, faults: list[str]) -> dict[str, str]:
    """Split `mode=0640 check="nginx -t -c {}"` into names and values, and check them."""
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
            faults.append(f"{where}: write the option {name} of the svcinit comment once, as {name}=VALUE")
        else:
            options[name] = value
    _check_values(options, where, faults)
    return options


def _check_values(options: dict[str, str], where: str, faults: list[str]) -> None:
    for name in ("mode", "dirs"):
        if name in options:
            _check_mode(name, options[name], where, faults)
    if options.get("backup", "1") not in ("0", "1"):
        faults.append(f"{where}: backup={options['backup']} is wrong: expected 0 or 1")
    if "owner" in options:
        _owner(options["owner"], where, faults)
    for name, parse in (("wait", _wait), ("timeout", _timeout)):
        if name in options:
            try:
                parse(options[name])
            except ValueError as wrong:
                faults.append(f"{where}: {name}={options[name]} is wrong: {wrong}")
    if "reload" in options:
        _check_reload(options["reload"], where, faults)
    if "check" in options:
        _check_command(options["check"], where, faults)


def _nearest(name: str) -> str:
    near = nearest(name, OPTIONS)
    return f"; nearest: {near[0]}" if near else f"; the options are {', '.join(OPTIONS)}"


def _check_mode(name: str, value: str, where: str, faults: list[str]) -> None:
    if not (3 <= len(value) <= 4 and set(value) <= set("01234567")):
        faults.append(f"{where}: {name}={value} is not an octal mode such as 0640")


def _wait(value: str) -> tuple[float, float]:
    from svcinit.settings.parsers import settle

    return settle(value)


def _timeout(value: str) -> float:
    from svcinit.settings.parsers import positive_duration

    return positive_duration(value)


def _check_reload(value: str, where: str, faults: list[str]) -> None:
    from svcinit.settings.parsers import reload_option

    try:
        reload_option(value)
    except ValueError:
        known = "a signal such as HUP, restart, none, exec:COMMAND or write:/PATH:TEXT"
        faults.append(f"{where}: reload={value} is wrong: expected {known}")


def _check_command(value: str, where: str, faults: list[str]) -> None:
    import shlex

    try:
        words = shlex.split(value)
    except ValueError:
        faults.append(f"{where}: a quote in check={value} is not closed")
        return
    if not any("{}" in word for word in words):
        # Without {} the command would check the existing file, not the new one.
        faults.append(f"{where}: check={value} must contain {{}}, which stands for the path of the new file")


def _owner(value: str, where: str, faults: list[str]) -> tuple[int, int] | None:
    """`user[:group]`, names or numbers, as (uid, gid); None, and an error in `faults`, if there is no such user."""
    try:
        found = account(value)
    except ValueError as wrong:
        faults.append(f"{where}: owner={value}: {wrong}")
        return None
    if found.gid is None:
        faults.append(f"{where}: owner={value}: the group of user {value} is unknown; write {value}:GROUP")
        return None
    return found.uid, found.gid
