"""The wall between the two halves: what PID 1 may import."""

from __future__ import annotations

import ast
import pathlib
import sys
from collections.abc import Iterator

import pytest

import svcinit

PACKAGE = pathlib.Path(svcinit.__file__).parent
INIT_HALF = sorted(path.name for path in PACKAGE.glob("*.py"))


def imports(path: pathlib.Path, *, at_import: bool) -> Iterator[str]:
    """Modules that a file imports: when it is itself imported (`at_import`), or anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                f"{node.module}.{alias.name}" if node.module == "svcinit" else str(node.module) for alias in node.names
            )


@pytest.mark.parametrize("name", INIT_HALF)
def test_the_init_half_imports_only_the_standard_library_and_itself(name: str) -> None:
    for module in imports(PACKAGE / name, at_import=True):
        top, _, rest = module.partition(".")
        assert top in sys.stdlib_module_names or top == "svcinit", f"{name} imports {module}"
        assert not rest.startswith(("agent", "ctl")), f"{name} imports {module}"


@pytest.mark.parametrize("name", INIT_HALF)
def test_the_init_half_never_imports_what_opens_sockets_starts_threads_or_shells(name: str) -> None:
    never = {"asyncio", "http", "multiprocessing", "signal", "socket", "subprocess", "threading", "urllib"}
    assert never & {module.partition(".")[0] for module in imports(PACKAGE / name, at_import=False)} == set()


def test_the_network_half_is_imported_only_inside_forked_children() -> None:
    for name in INIT_HALF:
        inside = {module for module in imports(PACKAGE / name, at_import=False) if module.startswith("svcinit.agent")}
        assert not inside or name == "crew.py", f"{name} imports {inside}"


@pytest.mark.parametrize("name", ["consul.py", "discovery.py", "render.py", "files.py", "advertise.py"])
def test_leaves_of_the_network_half_know_errors_and_each_other_but_no_settings(name: str) -> None:
    known = ("svcinit.errors", "svcinit.log", "svcinit.regular_file", "svcinit.agent")
    for module in imports(PACKAGE / "agent" / name, at_import=True):
        assert not module.startswith("svcinit") or module.startswith(known), f"agent/{name} imports {module}"


def test_what_figures_need_is_imported_by_nobody_else() -> None:
    allowed = {"prometheus_client": {"metrics.py"}, "psutil": {"processes.py", "advertise.py"}}
    for path in PACKAGE.rglob("*.py"):
        for module in imports(path, at_import=False):
            top = module.partition(".")[0]
            assert path.name in allowed.get(top, {path.name}), f"{path.name} imports {module}"


def test_only_init_forks_waits_and_kills() -> None:
    for path in PACKAGE.glob("*.py"):
        calls = {
            f"{node.func.value.id}.{node.func.attr}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        }
        alone = calls & {
            "os.fork",
            "os.kill",
            "os.killpg",
            "os.wait",
            "os.waitpid",
            "os.waitid",
            "os.execve",
            "os.execvpe",
        }
        assert not alone or path.name == "init.py", f"{path.name} calls {alone}"


def test_no_file_is_longer_than_people_like_to_read() -> None:
    root = PACKAGE.parent.parent
    files = [path for folder in ("entrypoint", "tests", "tools", "bench") for path in (root / folder).rglob("*.py")]
    assert [str(path) for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 430] == []
