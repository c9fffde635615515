"""The names that templates can use, and what they mean; Jinja2 renders the templates.

Names and meanings are those of consul-template, if it has them. The functions of the catalog are in `catalog.py`.
Values are data: they are never compiled, and they are printed byte for byte, CR LF included. (In the text of a
template, Jinja2 turns each line end into LF.) The same data always renders to the same bytes; therefore `lipsum` and
`random` do not exist.
"""

from __future__ import annotations

import io
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound, UndefinedError
from jinja2.loaders import split_template_path
from jinja2.runtime import Context
from jinja2.utils import missing

from svcinit import regular_file
from svcinit.agent.templates import faults, filters, output
from svcinit.agent.templates.faults import NoKeyError, NoNameError, NoSecretError, NoVariableError, WrongError
from svcinit.errors import ConfigError, SvcinitError, Unavailable
from svcinit.names import ADDRESSABLE, is_addressable

if TYPE_CHECKING:
    from typing import Protocol

    from svcinit.agent.templates.catalog import Catalog
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
        def env(self) -> Mapping[str, str]: ...

        @property
        def names(self) -> Mapping[str, object]:
            """Further names that templates can use, with their values."""

        @property
        def this(self) -> object:
            """This instance: name, id, address, port."""

        def key_at(self, path: str, dc: str | None) -> bytes | None:
            """The value of a key by its full name, for each use, as `peers`; None if there is no such key."""

        def keys_below(self, path: str, dc: str | None) -> Mapping[str, bytes]:
            """All keys below a path, by full name, for each use, as `peers`."""

        def peers(self, name: str, tag: str | None, dc: str | None) -> Sequence[Peer]:
            """The instances of a service. Called for each use: the implementation caches the answers."""

        def catalog(self, kind: str, name: str, tag: str | None, dc: str | None, query: Mapping[str, str]) -> list[Any]:
            """An input of another `prepare.source.Kind`, for each use, as `peers`."""

        def vault(self, kind: str, path: str, query: str | None) -> list[Any]:
            """An input of Vault, for each use, as `peers`."""

        @property
        def node(self) -> str: ...

        @property
        def token_hint(self) -> str:
            """To add where a service has no instances and a token may be the reason; empty otherwise."""


# see catalog.py, which is imported when used
OF_THE_CATALOG = "instances", "services", "nodes", "datacenters", "connect_ca", "lookup", "secret", "secrets"
FILE_LIMIT = 16 << 20  # bytes of what `file` reads
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
        self._env.policies["json.dumps_function"] = filters.dumps  # of Jinja2's own tojson
        self._names = _Names(data, dirs)
        self._env.globals.update({**data.names, **self._names.globals()})
        del self._env.globals["lipsum"], self._env.filters["random"]

    def render_file(self, name: str, path: str) -> bytes:
        """Render the template `name` (its path within the tree); path: its path in the file system, for messages."""
        for template in (self._env.cache or {}).values():
            template._module = None  # imports run again: `secret_uses` counts for each file
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
        """Compile the templates of the directories. Return their syntax errors, which do not depend on data."""
        faults: list[str] = []
        for name in self._env.list_templates(["j2"]):
            try:
                self._explained(self._loader.path_of(name), lambda name=name: str(self._env.get_template(name)))  # type: ignore[misc]
            except ConfigError as error:
                faults += error.faults
        return faults

    def mentions(self, word: str) -> bool:
        """Does the text of a template that was compiled contain it?"""
        return any(word in text for text in self._loader.texts.values())

    @property
    def secret_uses(self) -> int:
        """How often templates have used a secret so far."""
        return self._names.secret_uses

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


class _Compiled:
    """The compiled code of all templates in this process, by their names and texts. It has what Environment calls of
    jinja2.BytecodeCache, whose module imports pickle."""

    codes: ClassVar[dict[tuple[str, str | None, str], CodeType]] = {}

    def get_bucket(self, _: Environment, name: str, path: str | None, text: str) -> SimpleNamespace:
        key = name, path, text
        return SimpleNamespace(key=key, code=self.codes.get(key))

    def set_bucket(self, bucket: SimpleNamespace) -> None:
        self.codes[bucket.key] = bucket.code


class _Context(Context):
    def resolve_or_missing(self, key: str) -> Any:
        value = super().resolve_or_missing(key)
        return value.get() if isinstance(value, _Lazy) else value


class _Missing(StrictUndefined):
    """An undefined value that knows what is missing: a key, an environment variable or a name."""

    __slots__ = ()

    def __init__(
        self, hint: str | None = None, obj: Any = missing, name: str | None = None,
        exc: type[UndefinedError] = UndefinedError,
    ) -> None:  # fmt: skip
        if not hint and name is not None:
            if obj is missing:
                hint, exc = name, NoNameError
            elif isinstance(obj, _Section) and name not in obj:  # `attr` finds no key
                hint, exc = obj.path(name), NoKeyError
            elif hasattr(type(obj), "lacks"):  # a secret, whose class is imported when it is used
                hint, exc = obj.lacks(name), NoSecretError
            elif isinstance(obj, _Environ):
                hint, exc = name, NoVariableError
        super().__init__(hint, obj, name, exc)


class _Lazy:
    """A global name whose value is computed when a template first uses it."""

    __slots__ = ("_make", "_value")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._value: Any = missing

    def get(self) -> Any:
        if self._value is missing:
            self._value = self._make()
        return self._value


class _Environ(dict[str, str]):
    """The environment: a class of its own, because a missing name has a message of its own."""


class _Section(Mapping[str, Any]):
    """A level of `cfg`: keys and deeper levels by name."""

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

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

    def _whole(self) -> dict[str, Any]:
        """The complete level. Raises WrongError if that would leave out the value of a key."""
        if isinstance(self._nested, _Both):
            key = self._prefix.removesuffix("/")
            both = f"{key} is a key and also a folder with keys such as {self.path(min(self._nested))}"
            raise WrongError(f'{both}: write key("{key}") for its value, or tree("{key}") for the keys in it')
        return self._nested

    def __contains__(self, name: object) -> bool:
        return name in self._nested

    def __repr__(self) -> str:
        return repr(dict(self))


class _Both(dict[str, Any]):
    """A folder whose name is also a key."""


class Pair:
    """A key in the result of `ls` or `tree`, relative to their path, and its value. Unpacks into both."""

    __slots__ = ("_path", "_raw", "key")

    def __init__(self, key: str, path: str, raw: bytes) -> None:
        self.key = key
        self._path = path
        self._raw = raw

    @property
    def value(self) -> str:
        return _text(self._path, self._raw)

    def renamed(self, key: str) -> Pair:
        return Pair(key, self._path, self._raw)

    def __iter__(self) -> Iterator[str]:
        return iter((self.key, self.value))

    def __repr__(self) -> str:
        return f"{self.key}={self.value}"


class _Names:
    """The functions of templates. dirs: the directories of templates, the last one first, which `file` can read."""

    def __init__(self, data: Data, dirs: Sequence[str]) -> None:
        self._data, self._dirs = data, dirs
        self._made: Catalog | None = None
        self._sorted: list[str] | None = None

    def globals(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "key_or_default": self.key_or_default,
            "key_exists": self.key_exists,
            "ls": self.ls,
            "tree": self.tree,
            "service": self.service,
            **{name: self._of_catalog(name) for name in OF_THE_CATALOG},
            "file": self.file,
            "cfg": _Lazy(self._cfg),
            "env": _Lazy(lambda: _Environ(self._data.env)),
            "node": _Lazy(lambda: self._catalog().node_name()),
            "this": _Lazy(lambda: self._data.this),
        }

    def key(self, path: str, dc: str | None = None) -> str:
        """The value of a key: below the service's prefix, or with a leading slash anywhere in Consul's KV."""
        raw = self._raw(path, dc)
        if raw is None:
            raise NoKeyError(_shown(path))
        return _text(_shown(path), raw)

    def key_or_default(self, path: str, default: Any, dc: str | None = None) -> Any:
        raw = self._raw(path, dc)
        return default if raw is None else _text(_shown(path), raw)

    def key_exists(self, path: str, dc: str | None = None) -> bool:
        return self._raw(path, dc) is not None

    def _raw(self, path: str, dc: str | None) -> bytes | None:
        name = path.strip("/")
        if _is_whole(path, dc):
            return self._data.key_at(name, dc) if name else None
        return self._data.kv.get(name)

    def ls(self, path: str = "", dc: str | None = None) -> list[Pair]:
        """The keys directly below a path, sorted."""
        return [pair for pair in self.tree(path, dc) if "/" not in pair.key]

    def tree(self, path: str = "", dc: str | None = None) -> list[Pair]:
        """All keys below a path, at all levels, sorted."""
        if _is_whole(path, dc):
            folder = path.strip("/")
            start = len(folder) + 1 if folder else 0
            found = self._data.keys_below(folder, dc)
            return [Pair(key[start:], f"/{key}", found[key]) for key in sorted(found) if not key.endswith("/")]
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
        """The instances of a service, sorted. Raises Unavailable for fewer than `min`: svcinit then waits."""
        peers = self._data.peers(name, tag, dc)
        if len(peers) < min:
            called = f"{tag}.{name}" if tag else name
            place = f" in {dc}" if dc else ""
            hint = "" if peers else self._data.token_hint
            wanted = f"peers of {called}{'@' + dc if dc else ''}"
            raise Unavailable(f"service {called}{place} has {len(peers)} of the {min} peers needed{hint}", input=wanted)
        return sorted(peers, key=lambda peer: (peer.address, peer.port, peer.node, peer.host))

    def _of_catalog(self, name: str) -> _Lazy:
        return _Lazy(lambda: getattr(self._catalog(), name))

    def _catalog(self) -> Catalog:
        if self._made is None:
            from svcinit.agent.templates.catalog import Catalog

            self._made = Catalog(self._data)
        return self._made

    @property
    def secret_uses(self) -> int:
        return self._made.secret_uses if self._made else 0

    def file(self, path: str) -> str:
        """The text of a file in the directories of templates, where `include` finds templates too.

        path: relative to such a directory, or absolute. A link must lead to a file in one of them.
        """
        tops = [os.path.realpath(top) for top in reversed(self._dirs)]
        found = (os.path.realpath(os.path.join(top, str(path))) for top in tops if "\0" not in path)
        real = next(filter(os.path.exists, found), None)
        if real is None:
            raise WrongError("file: there is no such file in the directories of templates (SVCINIT_TEMPLATES)")
        if not any(real.startswith(os.path.join(top, "")) for top in tops):
            raise WrongError("file: the file is outside the directories of templates (SVCINIT_TEMPLATES)")
        try:
            return regular_file.read(real, FILE_LIMIT).decode()
        except OSError as error:
            raise WrongError(f"file: the file cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise WrongError("file: the file is not UTF-8 text") from None

    def _keys(self) -> list[str]:
        """All keys, sorted, without those that end in `/`: Consul's web page creates them for folders."""
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


def _is_whole(path: str, dc: str | None) -> bool:
    """Is it a full name of Consul's KV, and not one below the service's prefix?"""
    if dc and not path.startswith("/"):
        raise WrongError("dc= needs the full path of a key, which begins with a slash")
    if path.startswith("/") and path.strip("/") and not is_addressable(path.strip("/")):
        raise WrongError(f"a full path of a key must be {ADDRESSABLE}")
    return path.startswith("/")


def _shown(path: str) -> str:
    return f"/{path.strip('/')}" if path.startswith("/") else path.strip("/")


def _text(path: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise WrongError(f"the value of key {path} is not UTF-8 text") from None
