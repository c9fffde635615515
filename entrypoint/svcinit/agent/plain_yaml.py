"""PyYAML without the types of YAML 1.1 that make another value of a text: 17:45 is no 1065, and a date is no object.

YAML 1.2 has none of them: numbers to base 60, dates, and the value `=`. Go's yaml never had them. Numbers are as in Go:
1e3 is one too.
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

CORE = "tag:yaml.org,2002:"
INT, FLOAT = CORE + "int", CORE + "float"
KEPT = CORE + "bool", CORE + "null", CORE + "merge"
# to base 2, 16, 8, 10
WHOLE = re.compile(r"[-+]?(?:0b[01][01_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0(?:o?[0-7_]*[0-7])?|[1-9][0-9_]*)")
REAL = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
DIGITS = re.compile(r"[-+]?[0-9]+")  # for YAML 1.2 and Go, 08 is a number too
FIRST = "-+0123456789."  # the characters with which a number begins
NUMBERS = (INT, WHOLE), (FLOAT, REAL)  # in this order


@cache
def loader(yaml: ModuleType) -> Any:
    """The class to read with."""
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    kept = {
        first: [(tag, pattern) for tag, pattern in found if tag in KEPT]
        for first, found in base.yaml_implicit_resolvers.items()
    }
    made: Any = type("Loader", (base,), {"yaml_implicit_resolvers": kept})
    _add_numbers(made, *NUMBERS)
    made.add_constructor(FLOAT, _real)
    return made


@cache
def dumper(yaml: ModuleType) -> Any:
    """The class to write with: texts that either YAML takes for something else are in quotes."""
    made: Any = type("Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {})
    _add_numbers(made, *NUMBERS, (INT, DIGITS))
    return made


def _add_numbers(made: Any, *numbers: tuple[str, re.Pattern[str]]) -> None:
    for tag, pattern in numbers:
        made.add_implicit_resolver(tag, re.compile(rf"(?:{pattern.pattern})\Z"), list(FIRST))


def _real(reader: Any, node: Any) -> object:
    """A text such as 12e45678, perhaps a hash, is no number that a float can hold."""
    value = reader.construct_yaml_float(node)
    return node.value if math.isinf(value) and "inf" not in node.value.lower() else value
