"""Jinja2 as templates see it: the names they may use, and what those stand for.

Names and meanings follow consul-template where it has them. Values are data: they are never compiled, and
reach the output byte for byte, CR LF included. (Line ends of a template's own text become LF, as Jinja2 has
it.) The same data render to the same bytes, hence neither `lipsum` nor `random`.
"""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined, TemplateNotFound, UndefinedError
from jinja2.bccache import Bucket
from jinja2.loaders import split_template_path
from jinja2.runtime import Context
from jinja2.utils import missing

from svcinit import regular_file
from svcinit.agent.templates import faults, filters, output
from svcinit.agent.templates.faults import NoKeyError, NoNameError, NoVariableError, WrongError
from svcinit.errors import ConfigError, SvcinitError, Unavailable

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
        """What templates are rendered from. Whatever costs a look-up is asked for when a template uses it."""

        @property
        def kv(self) -> Mapping[str, bytes]:
            """Layered keys relative to the prefix: `uwsgi/workers` -> `b"4"`."""

        @property
        def env(self) -> Mapping[str, str]:
            """The environment."""

        @property
        def this(self) -> object:
            """The own instance: name, id, address, port."""

        def peers(self, name: str, tag: str | None, dc: str | None) -> Sequence[Peer]:
            """Instances of a service. Called for each use: the implementation remembers what it found."""

        @property
        def node(self) -> str:
            """Name of the Consul node."""

        @property
        def token_hint(self) -> str:
            """To add where a service has no instances and a token may be the reason; empty otherwise."""


_OPTIONS = re.compile(r"\{#[-+]?\s*svcinit:(?P<text>(?:(?!#\}).)*?)(?P<close>[-+]?#\})[ \t]*\n?")
_ANY_OPTIONS = re.compile(r"\{#[-+]?\s*svcinit:")


class Engine:
    """Renders templates with one set of data.

    dirs: trees in which templates are looked up, the last one first. Every method that renders raises
    ConfigError with one fault, or Unavailable; both name file, line and the text of the line. mask: what is
    shown in place of each value that a template prints.
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
            bytecode_cache=None if mask else _Compiled(),  # a mask is compiled in
            finalize=(lambda value: mask(output.checked(value))) if mask else output.checked,
        )
        if mask:
            # Macros, blocks and the like hand on text whose values are masked already.
            self._env.concat = mask.joined  # type: ignore[method-assign]
        self._env.context_class = _Context
        self._env.filters.update(filters.FILTERS)
        self._env.globals.update(_Names(data).globals())
        del self._env.globals["lipsum"], self._env.filters["random"]

    def render_file(self, name: str, path: str) -> bytes:
        """Render the template that is called `name` within its tree; path: where it lies, for messages."""
        text = self._explained(path, lambda: self._env.get_template(name).render())
        try:
            return text.encode("utf-8", "surrogateescape")  # the environment may hold what is not UTF-8
        except UnicodeEncodeError:
            raise ConfigError(f"{path}: its text would hold half a surrogate pair, not UTF-8", file=path) from None

    def render_text(self, label: str, text: str) -> str:
        """Render a template that lies in no file; label: what to call it in messages."""
        self._loader.texts[label] = text

        def make() -> str:
            code = self._env.compile(text, label, label)
            return self._env.template_class.from_code(self._env, code, self._env.globals).render()

        return self._explained(label, make)

    def compile_all(self) -> list[str]:
        """Compile every template of the trees, and tell what is wrong with any, whatever it is rendered from."""
        faults: list[str] = []
        for name in self._env.list_templates(["j2"]):
            try:
                self._explained(self._loader.path_of(name), lambda name=name: str(self._env.get_template(name)))  # type: ignore[misc]
            except ConfigError as error:
                faults += error.faults
        return faults

    def options(self, name: str) -> str:
        """Return what the first-line comment of a template says after `svcinit:`, once it was rendered."""
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
    """Keeps the texts for messages, and takes the options out of the way of the output."""

    def __init__(self, dirs: Sequence[str]) -> None:
        super().__init__(dirs)
        self.texts: dict[str, str] = {}
        self.options: dict[str, str] = {}

    def path_of(self, template: str) -> str:
        """Where a template lies, for messages."""
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
            raise WrongError(f"the svcinit comment of {template} must be at its very start, on one line")
        if match and "\0" in match["text"]:
            raise WrongError(f"the svcinit comment of {template} holds a NUL byte")
        if match:
            self.options[template] = match["text"].strip()
            # The newline moves into the comment: no blank line in the output, and line numbers stay right.
            newline = "\n" if match[0].endswith("\n") else ""
            text = text[: match.start("close")] + newline + match["close"] + text[match.end() :]
        return text, path, lambda: True


class _Compiled(BytecodeCache):
    """The code of all that this process compiled, for as long as the text is the same."""

    codes: ClassVar[dict[tuple[str, str], Any]] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self.codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.codes[bucket.key, bucket.checksum] = bucket.code


class _Lazy:
    """A global that is made when a template first names it."""

    __slots__ = ("_make", "_value")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._value: Any = missing

    def get(self) -> Any:
        if self._value is missing:
            self._value = self._make()
        return self._value


class _Context(Context):
    def resolve_or_missing(self, key: str) -> Any:
        value = super().resolve_or_missing(key)
        return value.get() if isinstance(value, _Lazy) else value


class _Missing(StrictUndefined):
    """Knows what kind of thing is not there: a key, a variable of the environment, a name."""

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
            elif isinstance(obj, _Section):
                hint, exc = obj.path(name), NoKeyError
            elif isinstance(obj, _Environ):
                hint, exc = name, NoVariableError
        super().__init__(hint, obj, name, exc)


class _Environ(dict[str, str]):
    """The environment, told from other mappings by what is said when a name is not in it."""


class _Section(Mapping[str, Any]):
    """A level of `cfg`: names of keys and of deeper levels. A level that is a key as well has names only."""

    __slots__ = ("_nested", "_prefix")

    def __init__(self, prefix: str, nested: dict[str, Any]) -> None:
        self._prefix = prefix
        self._nested = nested

    def path(self, name: object) -> str:
        return f"{self._prefix}{name}"

    def __getitem__(self, name: str) -> Any:
        value = self._nested[name]
        path = self.path(name)
        return _Section(f"{path}/", value) if isinstance(value, dict) else _text(path, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

    def _whole(self) -> dict[str, Any]:
        """All that is in the level. Raises WrongError where that would leave out the value of a key."""
        if isinstance(self._nested, _Both):
            key = self._prefix.removesuffix("/")
            both = f"{key} is a key, and also a folder with keys such as {self.path(min(self._nested))}"
            raise WrongError(f'{both}: for its value write key("{key}"), for those below it tree("{key}")')
        return self._nested

    def __contains__(self, name: object) -> bool:
        return name in self._nested

    def __repr__(self) -> str:
        return repr(dict(self))


class _Both(dict[str, Any]):
    """A folder of keys whose name is a key as well."""


class Pair:
    """A key below the path that `ls` or `tree` was asked for, and its value; unpacks into both."""

    __slots__ = ("_path", "_raw", "key")

    def __init__(self, key: str, path: str, raw: bytes) -> None:
        self.key = key
        self._path = path
        self._raw = raw

    @property
    def value(self) -> str:
        return _text(self._path, self._raw)

    def __iter__(self) -> Iterator[str]:
        return iter((self.key, self.value))

    def __repr__(self) -> str:
        return f"{self.key}={self.value}"


class _Names:
    """The functions of templates."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._sorted: list[str] | None = None

    def globals(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "key_or_default": self.key_or_default,
            "key_exists": self.key_exists,
            "ls": self.ls,
            "tree": self.tree,
            "service": self.service,
            "cfg": _Lazy(self._cfg),
            "env": _Lazy(lambda: _Environ(self._data.env)),
            "node": _Lazy(lambda: self._data.node),
            "this": _Lazy(lambda: self._data.this),
        }

    def key(self, path: str) -> str:
        path = path.strip("/")
        raw = self._data.kv.get(path)
        if raw is None:
            raise NoKeyError(path)
        return _text(path, raw)

    def key_or_default(self, path: str, default: Any) -> Any:
        return self.key(path) if self.key_exists(path) else default

    def key_exists(self, path: str) -> bool:
        return path.strip("/") in self._data.kv

    def ls(self, path: str = "") -> list[Pair]:
        """Keys right below a path, sorted."""
        return [pair for pair in self.tree(path) if "/" not in pair.key]

    def tree(self, path: str = "") -> list[Pair]:
        """All keys below a path, however deep, sorted."""
        prefix = path.strip("/") + "/" if path.strip("/") else ""
        keys = self._keys()
        pairs = []
        for index in range(bisect_left(keys, prefix), len(keys)):
            key = keys[index]
            if not key.startswith(prefix):
                break
            pairs.append(Pair(key[len(prefix) :], key, self._data.kv[key]))
        return pairs

    def service(self, name: str, tag: str | None = None, dc: str | None = None, min: int = 0) -> list[Peer]:
        """Sorted instances of a service. Fewer than `min`: Unavailable, so that svcinit waits for more."""
        peers = self._data.peers(name, tag, dc)
        if len(peers) < min:
            called = f"{tag}.{name}" if tag else name
            place = f" in {dc}" if dc else ""
            hint = "" if peers else self._data.token_hint
            wanted = f"peers of {called}{'@' + dc if dc else ''}"
            raise Unavailable(f"service {called}{place} has {len(peers)} of the {min} peers needed{hint}", input=wanted)
        return sorted(peers, key=lambda peer: (peer.address, peer.port, peer.node, peer.host))

    def _keys(self) -> list[str]:
        """All keys, sorted. Those that end in `/` are the folders that Consul's own page makes."""
        if self._sorted is None:
            self._sorted = sorted(key for key in self._data.kv if not key.endswith("/"))
        return self._sorted

    def _cfg(self) -> _Section:
        root: dict[str, Any] = {}
        for key in self._keys():
            *parents, name = key.split("/")
            level = root
            for parent in parents:
                deeper = level.get(parent)
                if not isinstance(deeper, dict):
                    deeper = level[parent] = {} if deeper is None else _Both()
                level = deeper
            value = level.get(name)
            level[name] = self._data.kv[key] if value is None else _Both(value)
        return _Section("", root)


def _text(path: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise WrongError(f"the value of key {path} is not UTF-8 text") from None
