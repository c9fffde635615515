"""execve(2) with an environment that no mapping can hold: a duplicate name, an empty name, an entry without "=".

os.execve takes a mapping, so this calls the C module under `ctypes`, as in child.py.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def execve(path: str, argv: Iterable[str], entries: Sequence[str]) -> None:
    """Raises OSError, and ImportError if Python does not have that module."""
    import _ctypes

    class Text(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "z"

    class Function(_ctypes.CFuncPtr):
        _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO

    def array(texts: Iterable[str]) -> object:
        encoded = list(map(os.fsencode, texts))
        made = type("Texts", (_ctypes.Array,), {"_type_": Text, "_length_": len(encoded) + 1})
        return made(*encoded)  # the last one stays NULL

    function = Function(_ctypes.dlsym(_ctypes.dlopen(None, 0), "execve"))  # type: ignore[arg-type]
    function(os.fsencode(path), array(argv), array(entries))
    number = _ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)
