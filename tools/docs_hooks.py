"""What mkdocs does beside its own: pages link to files outside docs/, so the site has those, too; and it stands alone.

A link from docs/ to `../images/redis/README.md` becomes one to `images/redis/README.md` in the site, where that file
is a page; any other file is there as it is. A page that would load something from elsewhere is an error.
"""

from __future__ import annotations

import os
import pathlib
import re
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\[(?P<text>[^]]*)\]\((?P<path>[\w./-]+)(?P<anchor>#[\w-]+)?\)")
LOADED = re.compile(r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\" >]+)|<link[^>]* href=\"?(https?:[^\" >]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take along what is linked to, and what that links to."""
    pages = [pathlib.Path(file.abs_src_path or "") for file in files.documentation_pages()]
    while pages:
        page = pages.pop()
        for match in LINK.finditer(page.read_text(encoding="utf-8")):
            target = (page.parent / match["path"]).resolve()
            uri = uri_of(target)
            if not target.is_file() or not target.is_relative_to(ROOT) or files.get_file_from_path(uri):
                continue
            files.append(File.generated(config, uri, abs_src_path=str(target)))
            if target.suffix == ".md":
                pages.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Have links lead to where their targets are in the site; one to a directory is no link there."""
    here = pathlib.Path(page.file.abs_src_path or "")

    def moved(match: re.Match[str]) -> str:
        target = (here.parent / match["path"]).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return match[0]  # mkdocs tells
        if target.is_dir():
            return match["text"]
        where = os.path.relpath(uri_of(target), os.path.dirname(page.file.src_uri) or ".")
        return f"[{match['text']}]({where}{match['anchor'] or ''})"

    return LINK.sub(moved, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001
    """Raises PluginError where a reader's browser would ask somebody else for something."""
    loaded = [match[1] or match[2] for match in LOADED.finditer(output)]
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {', '.join(loaded)}")
    return output


def uri_of(target: pathlib.Path) -> str:
    """A file's place in the site: docs/ is its top, beside images/, examples/ and so on."""
    return target.relative_to(DOCS if target.is_relative_to(DOCS) else ROOT).as_posix()
