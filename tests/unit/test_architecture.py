"""The wall between the two halves: what PID 1 may import. And no import goes in a circle."""

from __future__ import annotations

import ast
import graphlib
import pathlib
import sys
from collections.abc import Iterable, Iterator

import pytest

import svcinit

PACKAGE = pathlib.Path(svcinit.__file__).parent
FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
CALLS = "os", "posix"  # the modules that have the system calls
INIT_HALF = [name for name in FILES if not name.startswith(("agent/", "ctl/"))]
CREW = "processes/crew.py"  # starts the network half, each part in a child of its own


def dotted(name: str) -> str:
    return ".".join(["svcinit", *pathlib.PurePath(name).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {dotted(name): name for name in FILES}


def imports(name: str, *, at_import: bool) -> set[str]:
    """Modules that a file imports: when it is itself imported (`at_import`), or anywhere in it; not those for types."""
    return set(_imports(ast.parse(FILES[name].read_text(encoding="utf-8")).body, at_import))


def _imports(nodes: Iterable[ast.AST], at_import: bool) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (module if module in MODULES else str(node.module) for module in whole)
        elif not at_import:
            yield from _imports(ast.iter_child_nodes(node), at_import)


@pytest.mark.parametrize("name", INIT_HALF)
def test_the_init_half_imports_only_the_standard_library_and_itself(name: str) -> None:
    for module in imports(name, at_import=True):
        assert module.partition(".")[0] in sys.stdlib_module_names or module in MODULES, f"{name} imports {module}"
        assert not module.startswith(("svcinit.agent", "svcinit.ctl")), f"{name} imports {module}"


@pytest.mark.parametrize("name", INIT_HALF)
def test_the_init_half_never_imports_what_opens_sockets_starts_threads_or_shells(name: str) -> None:
    never = {"asyncio", "http", "multiprocessing", "signal", "socket", "subprocess", "threading", "urllib"}
    assert never & {module.partition(".")[0] for module in imports(name, at_import=False)} == set()


def test_the_network_half_is_imported_only_inside_forked_children() -> None:
    for name in INIT_HALF:
        inside = {module for module in imports(name, at_import=False) if module.startswith("svcinit.agent")}
        assert not inside or name == CREW, f"{name} imports {inside}"


@pytest.mark.parametrize("at_import", [True, False], ids=["when-loaded", "anywhere"])
def test_no_imports_go_in_a_circle(at_import: bool) -> None:
    graph = {name: {each for each in imports(name, at_import=at_import) if each in MODULES} for name in FILES}
    graph[CREW] = {each for each in graph[CREW] if not each.startswith("svcinit.agent")}  # run in forked children
    order = graphlib.TopologicalSorter({dotted(name): needs - {dotted(name)} for name, needs in graph.items()})
    order.prepare()  # raises CycleError, which names the files


@pytest.mark.parametrize(
    "name",
    [
        "agent/consul/api.py", "agent/consul/discovery.py", "agent/templates/render.py", "agent/files/commit.py",
        "agent/registration/advertise.py",
    ],
)  # fmt: skip
def test_leaves_of_the_network_half_know_errors_and_each_other_but_no_settings(name: str) -> None:
    known = (
        "svcinit.errors", "svcinit.log", "svcinit.names", "svcinit.regular_file", "svcinit.processes.captured",
        "svcinit.agent",
    )  # fmt: skip
    for module in imports(name, at_import=True):
        assert not module.startswith("svcinit") or module.startswith(known), f"{name} imports {module}"


def test_what_figures_need_is_imported_by_nobody_else() -> None:
    allowed = {
        "prometheus_client": ["agent/metrics/families.py"],
        "rich": ["ctl/fleet/live.py"],
        "psutil": ["agent/metrics/processes.py", "agent/registration/advertise.py"],
    }
    for name in FILES:
        for module in imports(name, at_import=False):
            assert name in allowed.get(module.partition(".")[0], [name]), f"{name} imports {module}"


def test_only_init_waits_and_kills() -> None:
    for name in INIT_HALF:
        calls = {
            f"{node.func.value.id}.{node.func.attr}"
            for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        }
        of_processes = "fork", "kill", "killpg", "wait", "waitpid", "waitid"
        alone = calls & {f"{module}.{call}" for module in CALLS for call in of_processes}
        assert not alone or name in ("processes/init.py", "processes/child.py", "processes/captured.py"), (
            f"{name} calls {alone}"
        )
        executes = any(f"{module}.execve" in calls for module in CALLS)
        assert not executes or name == "processes/child.py", f"{name} executes by itself"


def test_only_one_recipe_makes_processes() -> None:
    for name, path in FILES.items():
        calls = (*(f"{module}.{call}(" for module in CALLS for call in ("fork", "posix_spawn")), "subprocess")
        forks = any(call in path.read_text(encoding="utf-8") for call in calls)
        assert not forks or name == "processes/child.py", f"{name} starts processes by itself"


def test_typing_is_avoided_only_where_a_start_or_svcinitctl_health_would_pay_for_its_import() -> None:
    avoid = {name for name, path in FILES.items() if "\nTYPE_CHECKING = False\n" in path.read_text(encoding="utf-8")}
    # files without a template, and what every import of the network half goes through
    cheap = "agent/files/", "agent/templates/render.py", "agent/templates/tree.py", "agent/imports.py"
    found = [name for name in avoid if name.startswith(("agent/", "ctl/doctor/"))]
    assert [name for name in found if not name.startswith(cheap)] == []


def test_no_file_is_longer_than_people_like_to_read() -> None:
    root = PACKAGE.parent.parent
    folders = "entrypoint", "tests", "testing", "tools", "bench"
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    assert [str(path) for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 500] == []
