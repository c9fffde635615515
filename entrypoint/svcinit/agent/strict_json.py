"""JSON as RFC 8259 has it: Python's json also reads and writes NaN and Infinity, which other programs refuse."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(text: str | bytes, **hooks: Any) -> Any:
    """As json.loads. Raises ValueError for a number that JSON could not write again, such as 1e999."""
    return json.loads(text, **{"parse_float": finite, "parse_constant": finite, **hooks})


def dumps(value: Any, **options: Any) -> str:
    """As json.dumps. Raises ValueError for a number that JSON does not have."""
    return json.dumps(value, allow_nan=False, **options)


def finite(written: str) -> float:
    if not math.isfinite(float(written)):
        raise ValueError("a number that JSON does not have")
    return float(written)
