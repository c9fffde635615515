"""Checks whether execve(2) could start a command. The command is not started."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MISSING, NOT_EXECUTABLE = "command-missing", "command-not-executable"
HEAD = 256  # bytes of a #! line that the kernel reads (execve(2))
ELF = b"\x7fELF\x02\x01"  # of 64 bits, little-endian
TABLE, ROW = "<32xQ14xHH", "<IIQ16xQ"  # elf(5): e_phoff, e_phentsize, e_phnum; p_type, p_flags, p_offset, p_filesz
PT_INTERP = 3
INDIRECT = "env"  # what looks for the interpreter itself


def fault_of(name: str, env: Mapping[str, str]) -> tuple[str, str] | None:
    """The finding, and why `name` cannot be started by this user; None if it can."""
    if not name:
        return MISSING, "it is empty"
    path = env.get("PATH", os.defpath)
    places = [name] if "/" in name else [os.path.join(folder or ".", name) for folder in path.split(":")]
    there = [place for place in places if os.path.exists(place)]
    if not there:
        return MISSING, f"there is no {name}" + (f" in PATH={path}" if "/" not in name else "")
    for place in there:
        if os.path.isfile(place) and os.access(place, os.X_OK, effective_ids=True):
            return _interpreter_fault(place, env)
    why = "is a directory" if os.path.isdir(there[0]) else f"is not executable for uid {os.geteuid()}"
    return NOT_EXECUTABLE, f"{there[0]} {why}"


def _interpreter_fault(path: str, env: Mapping[str, str]) -> tuple[str, str] | None:
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            loader = _loader(path) if head.startswith(ELF) else ""
    except (OSError, struct.error):  # executable, and not readable: then it is no script
        return None
    if loader and not os.path.exists(loader):
        return MISSING, f"{path} needs the loader {loader}, which is not here: it was built for another libc"
    if not head.startswith(b"#!"):
        return None
    words = os.fsdecode(head[2:].partition(b"\n")[0]).strip(" \t").split(" ")
    if not os.path.exists(words[0]):
        ends = "; its lines end in CR LF" if words[-1].endswith("\r") else ""
        return MISSING, f"{path} is a script for {words[0]!r}, which is not here{ends}"
    if os.path.basename(words[0]) == INDIRECT and len(words) > 1 and not words[1].startswith("-"):
        fault = fault_of(words[1], env)
        return (fault[0], f"{path} is a script for {words[1]!r}: {fault[1]}") if fault else None
    return None


def _loader(path: str) -> str:
    """The dynamic loader that a program names; empty for a static one."""
    with open(path, "rb") as file:
        first, size, count = struct.unpack(TABLE, file.read(struct.calcsize(TABLE)))
        for number in range(count):
            file.seek(first + number * size)
            kind, _, offset, length = struct.unpack(ROW, file.read(struct.calcsize(ROW)))
            if kind == PT_INTERP:
                file.seek(offset)
                return os.fsdecode(file.read(length).rstrip(b"\0"))
    return ""
