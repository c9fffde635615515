"""Write HOME/lib/init-cache, which svcinit.py beside this file reads, and HOME/lib/import-cache, which
svcinit.agent.imports reads: run by the bundle's own Python when all is in place.

The modules are those of init, and those that the network half can import, as it does so in a start with templates,
watch and metrics. The byte code has no docstrings and no columns. That of init and of the libraries has no annotations:
nobody reads them, they take time to evaluate, and stay in memory as long as the process does. For the same reason, a
base class such as dict[str, str] is dict in the byte code of init.
"""

from __future__ import annotations

import _sre
import ast
import builtins
import importlib
import marshal
import pkgutil
import re
import sys
import warnings
from types import CodeType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Not those of classes: email reads them, and dataclasses makes up one that it does not find.
DOCUMENTED = ast.Module, ast.FunctionDef, ast.AsyncFunctionDef
# They compile texts: of each named tuple, of each data class, and each annotation that is a text.
GENERATING = "collections", "dataclasses", "typing"
PLAIN = (  # what __main__.py imports for a plain init
    "svcinit.__main__", "svcinit.log", "svcinit.errors", "svcinit.lifecycle.table", "svcinit.processes.crew",
    "svcinit.settings.environment",
)  # fmt: skip
OF_CHILDREN = "svcinit.agent", "svcinit.ctl"  # all else is of init
READ = "ClassVar", "InitVar", "KW_ONLY"  # dataclasses reads these annotations, and of all others only the names


def main() -> None:
    (library,) = sys.argv[1:]
    sys.path.append(library)
    patterns, sources = _record(), _record_sources()
    from svcinit.agent import imports

    warnings.simplefilter("ignore")
    for found in pkgutil.walk_packages([f"{library}/svcinit/agent"], "svcinit.agent."):
        importlib.import_module(found.name)
    _use_templates()
    specs = (getattr(sys.modules[name], "__spec__", None) for name in sorted(sys.modules))
    found = [spec for spec in specs if spec and spec.has_location and str(spec.origin).endswith(".py")]
    modules, body = _packed({spec.name: (spec.origin, spec.submodule_search_locations is not None) for spec in found})
    size = _write(imports.FILE, (imports.KEY, modules, patterns, sources), body)
    counted = f"{len(modules)} modules, {len(patterns)} patterns, {len(sources)} generated sources"
    print(f"import-cache: {counted}, {size // 1024} KiB")
    print(_of_init(library))


def _of_init(library: str) -> str:
    """Write the file of init, and say what it has."""
    sources = {"svcinit": (f"{library}/svcinit/__init__.py", True)}
    for found in pkgutil.walk_packages([f"{library}/svcinit"], "svcinit."):
        if not found.name.startswith(OF_CHILDREN):
            path = f"{library}/{found.name.replace('.', '/')}"
            sources[found.name] = (f"{path}/__init__.py" if found.ispkg else f"{path}.py", found.ispkg)
    plain = _plain(library)
    first = marshal.dumps([(name, *sources[name], byte_code(name, sources[name][0])) for name in plain])
    modules, body = _packed({name: found for name, found in sources.items() if name not in plain}, len(first))
    size = _write(f"{library}/init-cache", (sys.version, (0, len(first)), modules), first + body)
    return f"init-cache: {len(plain)} and {len(modules)} modules, {size // 1024} KiB"


def _plain(library: str) -> list[str]:
    """The modules of ours that a plain init imports, each after those that it needs."""
    import subprocess  # only now: `_record_sources` is to see what compiles texts

    code = f"import sys; sys.path.append({library!r}); import {', '.join(PLAIN)}"
    command = [sys.executable, "-ISB", "-X", "importtime", "-c", code]
    said = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True, timeout=60).stderr
    names = [line.rpartition("|")[2].strip() for line in said.splitlines()]
    return [name for name in names if name.partition(".")[0] == "svcinit"]


def _packed(
    sources: Mapping[str, tuple[str, bool]], start: int = 0
) -> tuple[dict[str, tuple[str, bool, int, int]], bytes]:
    """The byte code of modules: by name the path of the source, package or not, and where it lies from `start` on."""
    modules, body = {}, bytearray()
    for name, (path, is_package) in sources.items():
        code = marshal.dumps(byte_code(name, path))
        modules[name] = path, is_package, start + len(body), len(code)
        body += code
    return modules, bytes(body)


def _write(path: str, head: object, body: bytes) -> int:
    """The size of the file."""
    from svcinit.agent.imports import HEAD

    packed = marshal.dumps(head)
    with open(path, "xb") as file:
        return file.write(len(packed).to_bytes(HEAD, "big") + packed + body)


def _record() -> dict[tuple[Any, int], bytes]:
    """The arguments of _sre.compile for each pattern that is compiled from now on, by (pattern, flags)."""
    found: dict[tuple[Any, int], bytes] = {}
    compiler: Any = re._compiler  # type: ignore[attr-defined]
    ordinary = compiler.compile

    def compiled(pattern: Any, flags: int = 0) -> Any:
        def keep(source: Any, options: int, code: list[int], *groups: Any) -> Any:
            if type(pattern) in (str, bytes):  # marshal refuses the classes that some patterns, flags and words have
                plain = [int(word) for word in code]
                found[pattern, int(flags)] = marshal.dumps((int(options), plain, *groups))
            return _sre.compile(source, options, code, *groups)

        compiler._sre = SimpleNamespace(**{**vars(_sre), "compile": keep})
        try:
            return ordinary(pattern, flags)
        finally:
            compiler._sre = _sre

    compiler.compile = compiled
    return found


def _record_sources() -> dict[str, bytes]:
    """The byte code of each text that a module of GENERATING compiles from now on."""
    found: dict[str, bytes] = {}
    ordinary = compile

    def keep(source: Any, caller: str, mode: str) -> None:
        if isinstance(source, str) and caller in GENERATING:
            found[source] = marshal.dumps(ordinary(source, "<string>", mode, dont_inherit=True))

    def recording(run: Callable[..., Any]) -> Callable[..., Any]:
        def running(source: Any, *spaces: Any) -> Any:
            caller = sys._getframe(1)
            keep(source, caller.f_globals["__name__"], run.__name__)
            return run(source, *spaces or (caller.f_globals, caller.f_locals))

        return running

    def compiling(source: Any, filename: Any, mode: str, *rest: Any, **named: Any) -> Any:
        keep(source, sys._getframe(1).f_globals["__name__"], mode)
        return ordinary(source, filename, mode, *rest, **named)

    for run in (eval, exec):
        setattr(builtins, run.__name__, recording(run))
    builtins.compile = compiling  # type: ignore[assignment]
    return found


def _use_templates() -> None:
    """Have Jinja2 compile the patterns of its lexer, which it does for the first template."""
    from svcinit.agent.templates.output import Environment

    Environment().from_string("{{ name }}")


def byte_code(name: str, path: str) -> CodeType:
    """Of the source file of a module, without what nobody reads."""
    root = name.partition(".")[0]
    # our data classes are read from KV by the types of their fields
    annotated = name.startswith(OF_CHILDREN) or root in sys.stdlib_module_names
    is_init = root == "svcinit" and not annotated
    with open(path, "rb") as file:
        tree = ast.parse(file.read(), path)
    if not annotated:  # else each of them would be a text, which typing compiles
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        ]
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.ClassDef) and is_init:
            node.bases = [each.value if isinstance(each, ast.Subscript) else each for each in node.bases]
            node.body = [each for each in node.body if not _is_declaration(each)] or [ast.Pass()]
        if not annotated:
            _strip(node)
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


def _is_declaration(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and node.value is None


def _strip(node: ast.AST) -> None:
    """Make the annotations None: those of classes name fields."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        node.returns = None
    elif isinstance(node, ast.arg):
        node.annotation = None
    elif isinstance(node, ast.AnnAssign):
        text = ast.unparse(node.annotation)
        node.annotation = ast.Constant(text if any(name in text for name in READ) else None)


if __name__ == "__main__":
    main()
