"""What svcinit says to programs, held against the schemas that docs/ gives them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

SCHEMAS = pathlib.Path(__file__).parent.parent / "docs" / "schemas"


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(found)
    return found


def fleet_validator(name: str) -> Draft202012Validator:
    """Of a schema that refers to others."""
    others = [(f"{each}.json", Resource.from_contents(schema(each))) for each in ("fleet", "fleet-history")]
    return Draft202012Validator(schema(name), registry=Registry().with_resources(others))


LOG = Draft202012Validator(schema("log"))


def is_log_line(line: Any) -> None:
    """Raises what is wrong with a line of the log."""
    LOG.validate(line)
