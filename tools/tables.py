"""Write the tables in docs/metrics.md and docs/status.md: `make docs` (a unit test tells when one is stale)."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from svcinit.agent.metrics.families import TABLE

DOCS = pathlib.Path(__file__).parent.parent / "docs"
SCHEMA = DOCS / "schemas" / "status.json"
LINE = "|---|---|---|\n"


def pages() -> dict[pathlib.Path, str]:
    """Each page as it should be."""
    found = {DOCS / "metrics.md": metrics(), DOCS / "status.md": fields()}
    return {page: with_rows(page.read_text(encoding="utf-8"), rows) for page, rows in found.items()}


def metrics() -> list[str]:
    rows = []
    for row in TABLE:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        rows.append(f"| `{row.name}` | {row.kind}{f'; {labels}' if labels else ''} | {row.meaning} |\n")
    return rows


def fields() -> list[str]:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return [f"| `{path}` | {kind} | {meaning} |\n" for path, kind, meaning in _fields(schema, schema, "")]


def _fields(schema: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """Path, type and description of all that stands below a node: `.*` is any key of a mapping, `[]` any item."""
    below = [(f"{path}.{name}" if path else name, each) for name, each in node.get("properties", {}).items()]
    if isinstance(node.get("additionalProperties"), dict):
        below.append((f"{path}.*", node["additionalProperties"]))
    if "items" in node:
        below.append((f"{path}[]", node["items"]))
    for where, each in below:
        whole = _resolved(schema, each)
        kind = whole["type"] if isinstance(whole["type"], str) else " or ".join(whole["type"])
        yield where, kind, whole["description"]
        yield from _fields(schema, whole, where)


def _resolved(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """A node with what it refers to; what may be null besides is `TYPE or null`."""
    if "$ref" in node:
        return {**schema["$defs"][node["$ref"].removeprefix("#/$defs/")], **node}
    if "anyOf" in node:
        return {**node["anyOf"][0], "type": [each["type"] for each in node["anyOf"]], **node}
    return node


def with_rows(page: str, rows: list[str]) -> str:
    """The page with these rows in place of those of its last table."""
    before, line, after = page.rpartition(LINE)
    kept = after.splitlines(keepends=True)
    while kept and kept[0].startswith("|"):
        kept.pop(0)
    return before + line + "".join(rows) + "".join(kept)


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
