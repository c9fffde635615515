"""The arguments and environment of the service: names that a variable can have, texts that execve(2) accepts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from svcinit.errors import ConfigError, Fault, Unavailable
from svcinit.processes import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from svcinit.settings.environment import Settings

SHOWN = 3  # the number of the largest entries to name, where all together are too large
UPPER = str.maketrans("abcdefghijklmnopqrstuvwxyz/-.", "ABCDEFGHIJKLMNOPQRSTUVWXYZ___")


def variables(kv: Mapping[str, bytes], prefix: str, form: str) -> dict[str, str]:
    """The key of each variable: those below `prefix`, with names as SVCINIT_ENV_FORMAT has it.

    Raises ConfigError for all keys that cannot be a variable, or are the same one.
    """
    start = prefix.strip("/") + "/"
    found: dict[str, str] = {}
    faults = []
    for key in kv if prefix else ():
        if not key.startswith(start):
            continue
        name = key[len(start) :].translate(UPPER) if form == "upper" else key[len(start) :]
        fault = _variable_fault(name, kv[key])
        if name in found:
            fault = f"{found[name]!r} is {name}, too: rename one of the two"
        if fault:
            faults.append(Fault(f"KV key {key!r} cannot be an environment variable: {fault}", key=key))
        found[name] = key
    if faults:
        raise ConfigError(*faults)
    return found


def environment(kv: Mapping[str, bytes], keys: Mapping[str, str]) -> dict[str, str]:
    """The value of each variable. `keys`: see `variables`."""
    return {name: os.fsdecode(kv[key]) for name, key in keys.items()}


def _variable_fault(name: str, value: bytes) -> str:
    if not name:
        return "there is no name after the prefix"
    if "/" in name or "=" in name or "\0" in name:
        return "a '/', '=' or NUL byte in its name"
    if b"\0" in value:
        return "a NUL byte in its value"
    try:
        bytes_of_it = len(os.fsencode(name)) + 1 + len(value)
    except UnicodeEncodeError:
        return "half a surrogate pair in its name"
    return too_long(bytes_of_it)


def text_fault(text: str) -> str:
    """Why this text cannot be an argument; empty if it can."""
    if "\0" in text:
        return "its text would contain a NUL byte, which no argument can"
    try:
        return too_long(limits.length(text))
    except UnicodeEncodeError:
        return "its text would contain half a surrogate pair, which no argument can"


def too_long(size: int) -> str:
    return (
        f"it takes {size} bytes, and the kernel takes at most {limits.MAX_STRING}" if size > limits.MAX_STRING else ""
    )


def check_sum(
    settings: Settings, given: Sequence[str], argv: Sequence[str], env: Mapping[str, str], keys: Mapping[str, str]
) -> None:
    """Raises ConfigError where the kernel would refuse arguments and environment together.

    What the container itself was started with (`given` and its environment) was accepted by the kernel, so it is only
    checked if KV or a template changes it. `keys`: see `variables`.
    """
    if not env and tuple(argv) == tuple(given):
        return
    most, used = limits.max_total() - limits.RESERVE, limits.used(settings, argv, settings.main_environment(env))
    if used <= most:
        return
    parts: list[tuple[int, str, str | None]]
    parts = [(limits.length(value), f"KV key {keys[name]}", keys[name]) for name, value in env.items()]
    parts += [(limits.length(word), f"argument {number}", None) for number, word in enumerate(argv)]
    largest = sorted(parts, key=lambda part: -part[0])[:SHOWN]
    named = ", ".join(f"{part} ({size})" for size, part, _ in largest)
    raise ConfigError(
        f"the service's arguments and environment take {used} bytes, and the kernel takes {most} beside what svcinit "
        f"adds (a quarter of the stack limit, ulimit -s); the largest are {named}",
        key=next((key for _, _, key in largest if key), None),
    )


def together(*parts: Callable[[], Any]) -> list[Any]:
    """What each of them returns. Raises ConfigError with the faults of all, otherwise the first Unavailable."""
    results, faults, unavailable = [], list[str](), list[Unavailable]()
    for part in parts:
        try:
            results.append(part())
        except ConfigError as error:
            faults += error.faults
        except Unavailable as error:
            unavailable.append(error)
    if faults:
        raise ConfigError(*faults)
    if unavailable:
        raise unavailable[0]
    return results
