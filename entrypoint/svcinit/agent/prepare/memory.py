"""What one preparation leaves for the next one and for a rollback, in a memfd."""

from __future__ import annotations

import json

from svcinit.agent.prepare.inputs import InputId, from_json, to_json
from svcinit.processes.init import content, refill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LENGTH_BYTES = 8


def store(descriptor: int, counts: Mapping[InputId, int], undo_record: bytes) -> None:
    head = json.dumps(to_json(counts)).encode()
    refill(descriptor, len(head).to_bytes(LENGTH_BYTES, "little") + head + undo_record)


def load(descriptor: int) -> tuple[dict[InputId, int], bytes]:
    """How many entries each input had, and how to roll the files back."""
    whole = content(descriptor)
    end = LENGTH_BYTES + int.from_bytes(whole[:LENGTH_BYTES], "little")
    return from_json(json.loads(whole[LENGTH_BYTES:end])), whole[end:]
