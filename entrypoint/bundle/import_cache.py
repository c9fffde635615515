"""Write HOME/lib/import-cache, which svcinit.agent.imports reads: run by the bundle's own Python when all is in place.

The modules are those that the network half can import, as it does so in a start with templates, watch and metrics. The
byte code has no docstrings and no columns: they are read by nobody here and stay in memory as long as presence does.
"""

from __future__ import annotations

import _sre
import ast
import importlib
import marshal
import pkgutil
import re
import sys
import warnings
from types import CodeType, SimpleNamespace
from typing import Any

BY_INIT = "svcinit.__main__", "svcinit.lifecycle.residents", "svcinit.processes.crew"  # imported before it forks
# Not those of classes: email reads them, and dataclasses makes up one that it does not find.
DOCUMENTED = ast.Module, ast.FunctionDef, ast.AsyncFunctionDef


def main() -> None:
    (library,) = sys.argv[1:]
    sys.path.append(library)
    patterns = _record()
    for name in BY_INIT:
        importlib.import_module(name)
    before = set(sys.modules)
    from svcinit.agent import imports

    warnings.simplefilter("ignore")
    for found in pkgutil.walk_packages([f"{library}/svcinit/agent"], "svcinit.agent."):
        importlib.import_module(found.name)
    _use_templates()
    modules: dict[str, tuple[str, bool, int, int]] = {}
    body = bytearray()
    for name in sorted(set(sys.modules) - before):
        spec = getattr(sys.modules[name], "__spec__", None)
        if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
            continue
        code = marshal.dumps(_byte_code(spec.origin))
        modules[name] = (spec.origin, spec.submodule_search_locations is not None, len(body), len(code))
        body += code
    head = marshal.dumps((imports.KEY, modules, patterns))
    with open(imports.FILE, "xb") as file:
        size = file.write(len(head).to_bytes(imports.HEAD, "big") + head + body)
    print(f"import-cache: {len(modules)} modules, {len(patterns)} patterns, {size // 1024} KiB")


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


def _use_templates() -> None:
    """Have Jinja2 compile the patterns of its lexer, which it does for the first template."""
    from svcinit.agent.templates.output import Environment

    Environment().from_string("{{ name }}")


def _byte_code(path: str) -> CodeType:
    with open(path, "rb") as file:
        tree = ast.parse(file.read(), path)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


if __name__ == "__main__":
    main()
