"""What the pages name is there: links, files, variables, code, messages; what is made of other things is current."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
import subprocess

import pytest

from svcinit.model import State
from svcinit.settings.table import TABLE
from testing.pages import anchors, blocks, links, prose
from tools import failures_page

ROOT = pathlib.Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PACKAGE = ROOT / "entrypoint" / "svcinit"
README = ROOT / "README.md"
SITE = sorted(DOCS.glob("*.md"))
PAGES = [README, *SITE, *sorted(ROOT.glob("images/*/README.md")), *sorted(ROOT.glob("examples/*/README.md"))]
NOT_SETTINGS = {  # what hooks see, a build argument, and the tutorial's mistake
    "SVCINIT_CHANGED", "SVCINIT_CHANGED_OMITTED", "SVCINIT_MAIN_PID", "SVCINIT_IMAGE", "SVCINIT_SERVCE",
}  # fmt: skip
LONGEST = 200  # lines of README.md
PATH = re.compile(r"`((?:bench|docs|entrypoint|examples|images|requirements|templates|tests|tools)/[\w./-]*)`")
CODE = re.compile(r"`((?:\w+/)*\w+\.(?:py|c))(?:: ([\w.]+))?`")
MESSAGE = re.compile(r"`([a-z_]+(?: [\w:]+)+|lines_dropped|degraded)`")


def text_of(page: pathlib.Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_what_is_there(page: pathlib.Path) -> None:
    for target in links(text_of(page)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(text_of(file)), target


@pytest.mark.parametrize("page", [README, DOCS / "architecture.md"], ids=name_of)
def test_paths_are_there_or_made_by_the_page_itself(page: pathlib.Path) -> None:
    made = {block.path for block in blocks(text_of(page))}
    assert [
        path for path in PATH.findall(prose(text_of(page))) if path not in made and not (ROOT / path).exists()
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_variable_on_a_page_is_one(page: pathlib.Path) -> None:
    known = {row.name for row in TABLE} | {row.name + "_FILE" for row in TABLE} | NOT_SETTINGS
    assert set(re.findall(r"\bSVCINIT_[A-Z_]*[A-Z]\b", text_of(page))) <= known


def test_every_page_and_image_is_in_the_sites_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"^ *- (?:[\w-]+: )?([\w/-]+\.md)$", navigation, re.MULTILINE)
    images = [name_of(page) for page in ROOT.glob("images/*/README.md")]
    assert sorted(named) == sorted([*(page.name for page in SITE), *images])


def test_a_reader_who_does_what_the_pages_say_changes_no_tracked_file() -> None:
    written = {path for page in PAGES for path in re.findall(r"> ?((?:examples|docs|images)/[\w./-]+)", text_of(page))}
    assert "examples/site/code/VERSION" in written
    tracked = subprocess.run(["git", "ls-files", *written], cwd=ROOT, capture_output=True, text=True, check=True)
    assert tracked.stdout == ""


def test_the_readme_is_short_and_names_every_page_target_and_image() -> None:
    text = text_of(README)
    assert len(text.splitlines()) <= LONGEST
    assert {page.name for page in SITE} - {"index.md", "chaos.md"} <= set(re.findall(r"\(docs/([\w-]+\.md)\)", text))
    assert set(re.findall(r"make ([a-z0-9-]+)", text)) <= set(
        re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    for image in ROOT.glob("images/*/README.md"):
        assert f"(images/{image.parent.name}/README.md)" in text


@functools.cache
def defined(file: pathlib.Path) -> set[str]:
    """Every function, class, method and assigned name of a module, as NAME or CLASS.NAME."""
    found: set[str] = set()
    for node in ast.parse(text_of(file)).body:
        members = node.body if isinstance(node, ast.ClassDef) else []
        for owner, each in [("", node), *((f"{getattr(node, 'name', '')}.", member) for member in members)]:
            if isinstance(each, ast.FunctionDef | ast.ClassDef):
                found.add(owner + each.name)
    return found


def test_what_the_architecture_page_names_is_in_the_code() -> None:
    named = CODE.findall(text_of(DOCS / "architecture.md"))
    assert len(named) > 60
    for path, name in named:
        places = [ROOT / path, PACKAGE / path, PACKAGE.parent / path]
        file = next((place for place in places if place.exists()), None)
        assert file, path
        assert not name or name in defined(file), f"{path}: {name}"


def test_each_module_has_a_row_on_the_architecture_page() -> None:
    rows = re.findall(r"^\| `([\w/]+\.py)` \|", text_of(DOCS / "architecture.md"), re.MULTILINE)
    modules = [str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py")]
    assert sorted(rows) == sorted(
        module for module in modules if not module.endswith("__init__.py") or module == "ctl/doctor/__init__.py"
    )


def test_the_diagram_has_every_state() -> None:
    states = {value for name, value in vars(State).items() if name.isupper()}
    drawn = re.findall(r'<text class="name"[^>]*>(\w+)</text>', text_of(DOCS / "lifecycle.svg"))
    assert set(drawn) == states


def test_the_page_of_failures_is_current() -> None:
    assert text_of(failures_page.PAGE) == failures_page.page(), "run `make docs`"


@pytest.mark.parametrize(
    ("demo", "shown", "proof"), [("demo", 4, " 0 failed, "), ("demo-fleet", 2, "1 of 12 instances had")]
)
def test_the_picture_of_a_demo_is_of_this_demo(demo: str, shown: int, proof: str) -> None:
    source = text_of(ROOT / "tools" / f"{demo.replace('-', '_')}.py")
    steps = re.findall(r'^ +step\((\d), "(.*)"\)$', source, re.MULTILINE)
    picture = text_of(DOCS / f"{demo}.svg").replace("&#160;", " ")
    last = [f"{number}. {title}" for number, title in steps[-shown:]]
    assert [title for title in last if title not in picture] == [], "run `make docs`"
    assert proof in picture


def test_messages_to_alert_on_are_those_that_are_written() -> None:
    table = text_of(DOCS / "operations.md").partition("## What to alert on")[2]
    signs = "\n".join(line.split(" | ")[0] for line in table.splitlines() if line.startswith("| "))
    said = "\n".join(text_of(file) for file in PACKAGE.rglob("*.py"))
    found = MESSAGE.findall(signs)
    assert len(found) >= 6
    for message in found:
        assert re.search(re.escape(message).replace(r"\ ", r"[\s\"]+"), said), message


def test_a_recipe_says_what_its_image_does() -> None:
    rows = re.findall(
        r"^\| \[[^]]*\]\(\.\./(images/[\w-]+)/README\.md\) \| `([^`]*)` \| `([^`]*)` \|",
        text_of(DOCS / "recipes.md"),
        re.MULTILINE,
    )
    assert len(rows) >= 8
    for path, reload, stop in rows:
        lines = text_of(ROOT / path / "svcinit.env").splitlines()
        env = {"SVCINIT_RELOAD": "signal:HUP", "SVCINIT_STOP": "signal:TERM"}
        env |= dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        assert (env["SVCINIT_RELOAD"], env["SVCINIT_STOP"]) == (reload, stop), path
