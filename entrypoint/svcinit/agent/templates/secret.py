"""A secret of Vault, as templates see it: a mapping that knows its path."""

from __future__ import annotations

from typing import Any

UNISSUED = "(svcinitctl issues no secret)"
SHOWN = 10  # names of fields in an error


class Secret(dict[str, Any]):
    """The fields of a secret."""

    def __init__(self, path: str, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.path = path

    def lacks(self, name: object) -> str:
        """What to log if there is no field of that name. Names of fields are no secrets."""
        names = sorted(map(str, self))
        more = ", ..." if len(names) > SHOWN else ""
        known = f"expected one of: {', '.join(names[:SHOWN])}{more}" if names else "the secret has no fields"
        return f"secret '{self.path}' has no field '{name}'; {known}"


class Unissued(dict[str, Any]):
    """In a preview: a secret that would be issued. Each field has the same text."""

    def __missing__(self, name: str) -> str:
        return UNISSUED

    def __contains__(self, name: object) -> bool:
        return True

    def get(self, _name: str, _default: Any = None) -> Any:
        return UNISSUED
