"""State files in SVCINIT_RUN: what init and presence leave for svcinitctl, each replaced as a whole, 0600."""

from __future__ import annotations

import os

from svcinit import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDERS = "/run/svcinit", "/dev/shm/svcinit"


def write_state(folder: str | None, name: str, state: Mapping[str, object]) -> None:
    """Replace FOLDER/NAME.json; where there is no place for it svcinit runs on without."""
    import json

    for place in (folder,) if folder else FOLDERS:
        try:
            os.makedirs(place, 0o700, exist_ok=True)
            new = os.path.join(place, f".{name}.new")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, json.dumps(state).encode())
            finally:
                os.close(descriptor)
            os.rename(new, os.path.join(place, f"{name}.json"))
            return
        except OSError as error:
            log.debug("state_not_written", "no state in {file}: {error}", file=place, error=error.strerror)
