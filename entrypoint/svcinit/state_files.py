"""The state files in SVCINIT_RUN, for svcinitctl and the metrics: mode 0600, each replaced atomically.

Init writes init.json, the last preparation prepare.json, presence presence.json, and an instance that conducts
roll-outs conductor.json, for the metrics. `life` in each file is the run of
svcinit: in a container that was stopped and started again, process IDs are often the same. `home` is the container.
The files are in a directory of svcinit's own. Files that another user put there, or could change, are neither read nor
overwritten.
"""

from __future__ import annotations

import errno
import os

from svcinit import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

RUN = "/run/svcinit"
SHARED = "/dev/shm"  # of several containers, with --ipc=host
NAMES = "init", "prepare", "presence", "conductor"
LIMIT = 16 << 20  # bytes of a state file
OTHERS = 0o022  # the modes by which other users can write to a directory
# the exceptions of a file or message whose content is not as svcinit writes it
MISSHAPEN = ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError
PERIOD = 5.0  # seconds: the shortest time between two writes only for figures


class StateFile:
    """NAME.json. A changed fact is written at once. Figures change all the time: they are written with the next fact,
    or after PERIOD, so that counting never causes more writes than events."""

    def __init__(self, folder: str | None, name: str) -> None:
        self._folder, self._name = folder, name
        self._facts: Mapping[str, object] = {}
        self._figures: Mapping[str, object] | None = {}  # None: what was to be written could not be
        self._next = 0.0

    def update(self, now: float, facts: Mapping[str, object], figures: Mapping[str, object]) -> float | None:
        """Write what changed. Returns when to call again for the rest (seconds of `now`); None: all is written."""
        if facts == self._facts:
            if figures == self._figures:
                return None
            if now < self._next:
                return self._next
        self._facts, self._figures, self._next = facts, None, now + PERIOD
        if write_state(self._folder, self._name, {**facts, **figures}):
            self._figures = figures
            return None
        return self._next


def home() -> str:
    """An id of the container, from its namespaces of process IDs and mounts; empty if /proc does not show them."""
    try:
        return "-".join(str(os.stat(f"/proc/self/ns/{name}").st_ino) for name in ("pid", "mnt"))
    except OSError:
        return ""


def directories(folder: str | None) -> Iterator[str]:
    """The possible directories of this container's files, the best one first. `folder`: SVCINIT_RUN.

    If it belongs to another user, or other users can write to it, the files are in a directory of their own in it.
    """
    yield folder or RUN
    own = home()
    if own:
        yield os.path.join(folder or RUN, f"svcinit-{own}")
        if not folder:
            yield os.path.join(SHARED, f"svcinit-{own}")


def trusted_owners() -> Collection[int]:
    """The users whose state files are read: our own, and the user that the container started as (`docker exec` may use
    another one)."""
    try:
        return {os.geteuid(), os.stat("/proc/1").st_uid}
    except OSError:
        return {os.geteuid()}


def open_directory(place: str, owners: Collection[int]) -> int:
    """A descriptor of the directory. Raises OSError, also if it is a link, belongs to none of the `owners`, or other
    users can write to it."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(os.fstat(descriptor), owners)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check(found: os.stat_result, owners: Collection[int]) -> None:
    if found.st_uid not in owners:
        raise PermissionError(errno.EPERM, "it belongs to another user")
    if found.st_mode & OTHERS:
        raise PermissionError(errno.EPERM, "other users can write to it")


def write_state(folder: str | None, name: str, state: Mapping[str, object]) -> bool:
    """Replace FOLDER/NAME.json. False if there is no directory for it: svcinit runs without state files then."""
    import json

    from svcinit import atomic_file  # `svcinitctl health`, which only reads, does not pay for it

    content = json.dumps({"home": home(), **state}).encode()
    for place in directories(folder):
        try:
            os.makedirs(place, 0o700, exist_ok=True)
            inside = open_directory(place, {os.geteuid()})
        except OSError as error:
            log.debug("state_write_failed", "no state in {file}: {error}", file=place, error=error.strerror)
            continue
        try:
            atomic_file.replace(f"{name}.json", inside, content)
            return True
        except OSError as error:
            log.debug("state_write_failed", "no state in {file}: {error}", file=place, error=error.strerror)
            atomic_file.remove(f"{name}.json", inside)  # none is better than one that is true no more
        finally:
            os.close(inside)
    return False


def clear(folder: str | None) -> None:
    """The container ends: remove its files from a directory that other containers may share."""
    from svcinit import atomic_file

    own = f"svcinit-{home()}"
    for place in directories(folder):
        try:
            if os.path.basename(place) == own:
                inside = open_directory(place, {os.geteuid()})
                for name in NAMES:
                    atomic_file.remove(f"{name}.json", inside)
                os.close(inside)
                os.rmdir(place)
        except OSError:
            continue


def read_state(folder: str | None, name: str, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The first NAME.json of this container for which `fits` is true; None if there is none."""
    import json

    owners = trusted_owners()
    for place in directories(folder):
        try:
            inside = open_directory(place, owners)
            try:
                found = dict(json.loads(_read(f"{name}.json", inside, owners)))
            finally:
                os.close(inside)
            if found.pop("home", home()) == home() and fits(found):
                return found
        except (OSError, *MISSHAPEN):
            continue  # not there, or not ours: whatever stands in it
    return None


def _read(name: str, folder: int, owners: Collection[int]) -> bytes:
    from svcinit import regular_file

    descriptor = regular_file.opened(name, os.O_NOFOLLOW, folder)
    try:
        _check(os.fstat(descriptor), owners)
        return regular_file.content(descriptor, LIMIT)
    finally:
        os.close(descriptor)


def read_of_life(folder: str | None, name: str, life: str) -> dict[str, Any] | None:
    """NAME.json of this run of svcinit; None if there is none."""
    return read_state(folder, name, lambda state: bool(state["life"] == life))
