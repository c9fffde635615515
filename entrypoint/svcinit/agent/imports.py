"""How prepare and presence import 200 to 300 modules quickly.

1. From one file: byte code that is found without a search, and what the libraries compile while they load is compiled
   already: 100 regular expressions, and the 60 functions that named tuples and data classes make of texts. /opt/svcinit
   has the file; `entrypoint/bundle/import_cache.py` makes it when the image is built. An installation without the file,
   or with a file of another Python or another place, imports in the ordinary way.
2. Without modules that only other uses of a library need. They load when they are used first. `datetime` is the one
   in C from the start.
3. Without OpenSSL and its CAs, as long as no address is https: 4 MiB of memory. The standard library and urllib3 do
   without it.
"""

from __future__ import annotations

import _sre  # type: ignore[import-not-found]
import collections
import marshal
import os
import re
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import CodeType
    from typing import Any

    Modules = Mapping[str, tuple[str, bool, int, int]]  # path of the source, package or not, offset in the body, length
    Patterns = Mapping[tuple[str | bytes, int], bytes]  # (pattern, flags): marshalled arguments of _sre.compile
    Sources = Mapping[str, bytes]  # text: marshalled byte code

LIBRARY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE = f"{LIBRARY}/import-cache"
KEY = (sys.version, _sre.MAGIC, LIBRARY)
# Libraries import these modules at their top, and use them for nothing that svcinit does. The functions and classes are
# those that they import by name.
UNUSED: Mapping[str, tuple[str, ...]] = {
    "ast": ("literal_eval",), "calendar": ("timegm",), "idna": (), "importlib.metadata": ("version",),
    "inspect": ("getattr_static",), "ipaddress": ("IPv4Address", "IPv6Address"), "mimetypes": (), "tempfile": (),
    "jinja2.bccache": ("BytecodeCache", "FileSystemBytecodeCache", "MemcachedBytecodeCache"), "traceback": (),
    "zipfile": (),
    "urllib.request": (
        "getproxies", "getproxies_environment", "parse_http_list", "proxy_bypass", "proxy_bypass_environment",
    ),
}  # fmt: skip


def _annotations(of: Any, **options: Any) -> dict[str, Any]:
    """As inspect.get_annotations of Python 3.12 and 3.13, which their dataclasses calls for each class."""
    if isinstance(of, type) and not options and sys.version_info < (3, 14):
        return dict(vars(of).get("__annotations__", {}))
    found: dict[str, Any] = _real("inspect").get_annotations(of, **options)
    return found


LIGHT: Mapping[str, Mapping[str, Any]] = {"inspect": {"get_annotations": _annotations}}
# Up to Python 3.11 the module executes its own code in Python first, and then replaces all of it by that in C.
IN_C: Mapping[str, str] = {"datetime": "_datetime"}
# Libraries do without these modules. The last one is there to find that its own library is not.
UNNEEDED = "bz2", "lzma", "urllib3.contrib.socks"
OPENSSL = "ssl", "_hashlib", "urllib3.contrib.pyopenssl"
HEAD = 8  # bytes at the start of the file: the length of the head that follows, big-endian; after it comes the body


class Loader(SourceFileLoader):
    """Takes the byte code of a module from the file, and everything else (source, resources) from beside its source."""

    given: Mapping[str, Mapping[str, Any]] = {}  # what stands in a module before it is executed

    def __init__(self, name: str, path: str, offset: int, length: int) -> None:
        super().__init__(name, path)
        self._offset, self._length = offset, length

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self.given.get(module.__name__, {}))
        super().exec_module(module)

    def get_code(self, fullname: str) -> CodeType | None:
        try:
            code: CodeType = marshal.loads(_read(self._offset, self._length))
        except Exception:  # no fault of the file may end a start
            return super().get_code(fullname)
        return code


class Finder:
    """Finds the modules of the file, before `sys.path` is searched."""

    def __init__(self, modules: Modules, body: int) -> None:
        self._modules, self._body = modules, body

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        known = self._modules.get(name)
        if known is None:
            return None
        source, package, offset, length = known
        spec = ModuleSpec(name, Loader(name, source, self._body + offset, length), origin=source, is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec


def use_file() -> None:
    """Import from the file from now on. Does nothing if there is no such file for this Python in this place."""
    try:
        length = int.from_bytes(_read(0, HEAD), "big")
        key, modules, patterns, sources = marshal.loads(_read(HEAD, length))
    except Exception:  # there is no such file, or it is damaged
        return
    if key == KEY:
        sys.meta_path.insert(0, Finder(modules, HEAD + length))
        _take(patterns)
        _take_sources(sources)


def defer_unused() -> None:
    """Have the modules of UNUSED load when an attribute of theirs is used first, and those of UNNEEDED never."""
    for name in UNNEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    for name, implementation in IN_C.items():
        if name not in sys.modules:
            sys.modules[name] = import_module(implementation)
    for name, functions in UNUSED.items():
        if name not in sys.modules:
            deferred = {function: _deferred(name, function) for function in functions}
            _add(_Stub(name, {**deferred, **LIGHT.get(name, {})}))


def avoid_openssl() -> None:
    """Have libraries find that this Python has no OpenSSL. Call it before their first import."""
    for name in OPENSSL:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    if "certifi" not in sys.modules:
        _add(_Stub("certifi", {"where": lambda: f"{LIBRARY}/certifi/cacert.pem"}))


def allow_openssl() -> None:
    """End `avoid_openssl` for the modules that are imported from now on."""
    for name in OPENSSL:
        if sys.modules.get(name, sys) is None:
            del sys.modules[name]
    if isinstance(sys.modules.get("certifi"), _Stub):
        del sys.modules["certifi"]


class _Stub(ModuleType):
    """Stands in `sys.modules` for a module that did not load. It loads if it is asked for anything but `functions`."""

    def __init__(self, name: str, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(name)
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def _add(stub: _Stub) -> None:
    sys.modules[stub.__name__] = stub
    parent, _, child = stub.__name__.rpartition(".")
    if parent in sys.stdlib_module_names:  # to import another parent would load its library
        setattr(import_module(parent), child, stub)


def _deferred(module: str, function: str) -> Callable[..., Any]:
    if function[0].isupper():  # a class: nothing is an instance of it as long as its module is not loaded
        return type(function, (), {"__new__": lambda _, *arguments: getattr(_real(module), function)(*arguments)})
    return lambda *arguments: getattr(_real(module), function)(*arguments)


def _real(name: str) -> ModuleType:
    stub = sys.modules.get(name)
    if not isinstance(stub, _Stub):
        return import_module(name)
    del sys.modules[name]
    module = import_module(name)
    vars(stub).update({own: value for own, value in vars(module).items() if not own.startswith("__")})
    return module


def _take(patterns: Patterns) -> None:
    compiler: Any = re._compiler  # type: ignore[attr-defined]
    ordinary = compiler.compile

    def compiled(pattern: Any, flags: int = 0) -> Any:
        known = patterns.get((pattern, flags))
        return _sre.compile(pattern, *marshal.loads(known)) if known else ordinary(pattern, flags)

    compiler.compile = compiled


def _take_sources(sources: Sources) -> None:
    def code(source: str) -> Any:
        return marshal.loads(sources[source]) if source in sources else source

    def compiled(source: str, *rest: Any) -> Any:
        return code(source) if source in sources else compile(source, *rest)

    vars(collections)["eval"] = lambda source, *spaces: eval(code(source), *spaces)
    Loader.given = {
        "dataclasses": {"exec": lambda source, *spaces: exec(code(source), *spaces)}, "typing": {"compile": compiled},
    }  # fmt: skip


def _read(offset: int, length: int) -> bytes:
    # Opened for each read: a descriptor that stays open would be in the way of children and of limits.
    file = os.open(FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, length, offset)
    finally:
        os.close(file)
