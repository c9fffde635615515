"""Jinja2, as svcinit uses it: finds, compiles and renders templates. Their functions are in `functions.py`.

Values are data: they are never compiled, and they are printed byte for byte, CR LF included. (In the text of a
template, Jinja2 turns each line end into LF.) The same data always renders to the same bytes; therefore `lipsum` and
`random` do not exist.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined, TemplateNotFound, UndefinedError
from jinja2.bccache import Bucket
from jinja2.loaders import split_template_path
from jinja2.runtime import Context
from jinja2.utils import missing

from svcinit import regular_file
from svcinit.agent.templates import faults, filters, functions, output
from svcinit.agent.templates.faults import NoKeyError, NoNameError, NoVariableError, WrongError
from svcinit.errors import ConfigError, SvcinitError

if TYPE_CHECKING:
    from typing import Protocol

    from svcinit.agent.templates.mask import Mask

    class Peer(Protocol):
        """An instance of a service. port: 0 if it is not known."""

        @property
        def host(self) -> str: ...
        @property
        def address(self) -> str: ...
        @property
        def port(self) -> int: ...
        @property
        def node(self) -> str: ...

    class Data(Protocol):
        """The input of templates. Values that need a request are requested when a template uses them."""

        @property
        def kv(self) -> Mapping[str, bytes]:
            """All keys, relative to the prefix: `uwsgi/workers` -> `b"4"`. Later prefixes override earlier ones."""

        @property
        def env(self) -> Mapping[str, str]:
            """The environment."""

        @property
        def this(self) -> object:
            """This instance: name, id, address, port."""

        def key_at(self, path: str, dc: str | None) -> bytes | None:
            """The value of a key by its full name, for each use, as `peers`; None if there is no such key."""

        def keys_below(self, path: str, dc: str | None) -> Mapping[str, bytes]:
            """All keys below a path, by full name, for each use, as `peers`."""

        def peers(self, name: str, tag: str | None, dc: str | None) -> Sequence[Peer]:
            """The instances of a service. Called for each use: the implementation caches the answers."""

        @property
        def node(self) -> str:
            """The name of the Consul node."""

        @property
        def token_hint(self) -> str:
            """To add where a service has no instances and a token may be the reason; empty otherwise."""


_OPTIONS = re.compile(r"\{#[-+]?\s*svcinit:(?P<text>(?:(?!#\}).)*?)(?P<close>[-+]?#\})[ \t]*\n?")
_ANY_OPTIONS = re.compile(r"\{#[-+]?\s*svcinit:")


class Engine:
    """Renders templates with one set of data.

    dirs: directories in which templates are found, the last one first; mask: replaces each value that a template
    prints. Every method that renders raises ConfigError with one error, or Unavailable; both contain file, line and the
    text of the line.
    """

    def __init__(self, data: Data, dirs: Sequence[str], mask: Mask | None = None) -> None:
        self._data = data
        self._loader = _Loader(list(reversed(dirs)))
        self._env = output.Environment(
            undefined=_Missing,
            keep_trailing_newline=True,
            auto_reload=False,
            cache_size=-1,
            loader=self._loader,
            bytecode_cache=None if mask else _Compiled(),  # the compiled code contains the mask
            finalize=(lambda value: mask(output.checked(value))) if mask else output.checked,
        )
        if mask:
            # The output of macros and blocks is masked already.
            self._env.concat = mask.joined  # type: ignore[method-assign]
        self._env.context_class = _Context
        self._env.filters.update(filters.FILTERS)
        self._env.globals.update(functions.Names(data, dirs).globals())
        del self._env.globals["lipsum"], self._env.filters["random"]

    def render_file(self, name: str, path: str) -> bytes:
        """Render the template `name` (its path within the tree); path: its path in the file system, for messages."""
        text = self._explained(path, lambda: self._env.get_template(name).render())
        try:
            return text.encode("utf-8", "surrogateescape")  # the environment may contain bytes that are not UTF-8
        except UnicodeEncodeError:
            raise ConfigError(
                f"{path}: the text contains half a surrogate pair, which is not UTF-8", file=path
            ) from None

    def render_text(self, label: str, text: str) -> str:
        """Render a text that is not in a file; label: its name in messages."""
        self._loader.texts[label] = text

        def make() -> str:
            code = self._env.compile(text, label, label)
            return self._env.template_class.from_code(self._env, code, self._env.globals).render()

        return self._explained(label, make)

    def compile_all(self) -> list[str]:
        """Compile all templates of the directories. Return their syntax errors, which do not depend on data."""
        faults: list[str] = []
        for name in self._env.list_templates(["j2"]):
            try:
                self._explained(self._loader.path_of(name), lambda name=name: str(self._env.get_template(name)))  # type: ignore[misc]
            except ConfigError as error:
                faults += error.faults
        return faults

    def options(self, name: str) -> str:
        """The text after `svcinit:` in the first line of a template, after it was rendered or compiled."""
        return self._loader.options.get(name, "")

    def _explained(self, label: str, make: Callable[[], str]) -> str:
        texts = self._loader.texts
        try:
            return make()
        except SvcinitError as error:
            place = faults.where(error, label, texts)
            said = faults.without_values(error, label, texts, self._data)
            raise type(error)(*(f"{place}: {fault}" for fault in said), **{**error.fields, **place.fields}) from None
        except Exception as error:  # a template can raise whatever Python can
            names = [str(name) for name in self._env.globals]
            raise ConfigError(faults.explain(error, label, texts, self._data, names)) from None


class _Loader(FileSystemLoader):
    """Loads templates. Keeps their texts for messages, and their options."""

    def __init__(self, dirs: Sequence[str]) -> None:
        super().__init__(dirs)
        self.texts: dict[str, str] = {}
        self.options: dict[str, str] = {}

    def path_of(self, template: str) -> str:
        """The path of a template in the file system, for messages."""
        paths = (os.path.normpath(os.path.join(tree, template)) for tree in self.searchpath)
        return next(filter(os.path.exists, paths), template)

    def get_source(self, _environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        parts = split_template_path(template)
        paths = (os.path.normpath(os.path.join(tree, *parts)) for tree in self.searchpath)
        path = next((each for each in paths if os.path.exists(each) and not os.path.isdir(each)), None)
        if path is None:
            raise TemplateNotFound(template)
        try:
            text = io.StringIO(regular_file.read(path).decode(), newline=None).read()  # CR LF becomes LF
        except UnicodeDecodeError:
            raise WrongError(f"template {template} is not UTF-8 text") from None
        except OSError as error:
            raise WrongError(f"template {template} cannot be read: {error.strerror}") from None
        self.texts[path] = text
        match = _OPTIONS.match(text)
        if _ANY_OPTIONS.search(text, match.end() if match else 0):
            raise WrongError(f"the svcinit comment of {template} must be at the very start of the file, on one line")
        if match and "\0" in match["text"]:
            raise WrongError(f"the svcinit comment of {template} contains a NUL byte")
        if match:
            self.options[template] = match["text"].strip()
            # The line end moves into the comment: no blank line in the output, and the line numbers stay correct.
            newline = "\n" if match[0].endswith("\n") else ""
            text = text[: match.start("close")] + newline + match["close"] + text[match.end() :]
        return text, path, lambda: True


class _Compiled(BytecodeCache):
    """The compiled code of all templates in this process, by the checksum of their text."""

    codes: ClassVar[dict[tuple[str, str], Any]] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self.codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.codes[bucket.key, bucket.checksum] = bucket.code


class _Context(Context):
    def resolve_or_missing(self, key: str) -> Any:
        value = super().resolve_or_missing(key)
        return value.get() if isinstance(value, functions.Lazy) else value


class _Missing(StrictUndefined):
    """An undefined value that knows what is missing: a key, an environment variable or a name."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[UndefinedError] = UndefinedError,
    ) -> None:
        if not hint and name is not None:
            if obj is missing:
                hint, exc = name, NoNameError
            elif isinstance(obj, functions.Section):
                hint, exc = obj.path(name), NoKeyError
            elif isinstance(obj, functions.Environ):
                hint, exc = name, NoVariableError
        super().__init__(hint, obj, name, exc)
