"""What main is started with, as a program can be: names that a variable can have, texts that execve(2) takes."""

from __future__ import annotations

import os

from svcinit.errors import ConfigError, Fault, Unavailable
from svcinit.processes import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from svcinit.settings.environment import Settings

SHOWN = 3  # of the largest, where all together are too much


def environment(kv: Mapping[str, bytes], prefix: str) -> dict[str, str]:
    """The keys below `prefix` as variables. Raises ConfigError for those that cannot be any."""
    start = prefix.strip("/") + "/"
    env, faults = {}, []
    for key, value in kv.items() if prefix else ():
        if key.startswith(start):
            name = key[len(start) :]
            env[name] = os.fsdecode(value)
            fault = _variable_fault(name, value)
            if fault:
                faults.append(Fault(f"KV key {key!r} cannot be an environment variable: {fault}", key=key))
    if faults:
        raise ConfigError(*faults)
    return env


def _variable_fault(name: str, value: bytes) -> str:
    if not name:
        return "there is no name after the prefix"
    if "/" in name or "=" in name or "\0" in name or b"\0" in value:
        return "a '/', '=' or NUL byte in it"
    try:
        bytes_of_it = len(os.fsencode(name)) + 1 + len(value)
    except UnicodeEncodeError:
        return "half a surrogate pair in its name"
    return too_long(bytes_of_it)


def text_fault(text: str) -> str:
    """Why no argument can be this text; nothing if one can."""
    if "\0" in text:
        return "its text would hold a NUL byte, which no argument can"
    try:
        return too_long(limits.length(text))
    except UnicodeEncodeError:
        return "its text would hold half a surrogate pair, which no argument can"


def too_long(size: int) -> str:
    return f"it takes {size} bytes, and the kernel takes at most {limits.LONGEST}" if size > limits.LONGEST else ""


def check_sum(settings: Settings, given: Sequence[str], argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Raises ConfigError where the kernel would refuse all of it together, and what KV or a template made is in it.

    What the container itself was given (`given` and its environment) passed the kernel once.
    """
    if not env and tuple(argv) == tuple(given):
        return
    most, used = limits.most() - limits.RESERVE, limits.used(settings, argv, settings.main_environment(env))
    if used <= most:
        return
    parts = {f"KV key {settings.env_prefix.strip('/')}/{name}": limits.length(env[name]) for name in env}
    parts |= {f"argument {number}": limits.length(word) for number, word in enumerate(argv)}
    largest = sorted(parts, key=lambda name: -parts[name])[:SHOWN]
    named = ", ".join(f"{each} ({parts[each]})" for each in largest)
    raise ConfigError(
        f"the command's arguments and environment take {used} bytes, and the kernel takes {most} beside what svcinit "
        f"adds (a quarter of the stack limit, ulimit -s); the largest are {named}",
        key=next((each.removeprefix("KV key ") for each in largest if each.startswith("KV key ")), None),
    )


def together(*parts: Callable[[], Any]) -> list[Any]:
    """What each of them returns. Raises ConfigError with the faults of all, else the first Unavailable."""
    made, faults, away = [], list[str](), list[Unavailable]()
    for part in parts:
        try:
            made.append(part())
        except ConfigError as error:
            faults += error.faults
        except Unavailable as error:
            away.append(error)
    if faults:
        raise ConfigError(*faults)
    if away:
        raise away[0]
    return made
