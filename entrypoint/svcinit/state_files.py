"""Files in SVCINIT_RUN: what each part of svcinit leaves for svcinitctl and the metrics, 0600, replaced as a whole.

init.json is init's, prepare.json that of whoever prepared last, presence.json that of presence. `life` in each tells
which start of svcinit it is of: in a container that was stopped and started the pids are often the same ones. `home`
tells which container it is of. They lie in a directory that is svcinit's own: what anybody else put there, or can put
there, is neither read nor written over.
"""

from __future__ import annotations

import errno
import os

from svcinit import atomic_file, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

RUN = "/run/svcinit"
SHARED = "/dev/shm"  # of several containers, with --ipc=host
NAMES = "init", "prepare", "presence"
LIMIT = 16 << 20  # bytes of a state file
OTHERS = 0o022  # modes by which somebody else can put files into a directory
# what reading a state file raises that is not as svcinit writes it
MISSHAPEN = ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError
PERIOD = 5.0  # seconds, at least, between two writes for the sake of figures alone


class StateFile:
    """NAME.json, written when a fact changed. Figures, which change all the time, go along, or follow after a while:
    what is counted must never make more writes than what happens."""

    def __init__(self, folder: str | None, name: str) -> None:
        self._folder, self._name = folder, name
        self._facts: Mapping[str, object] = {}
        self._figures: Mapping[str, object] | None = {}  # None: what was to be written could not be
        self._next = 0.0

    def tell(self, now: float, facts: Mapping[str, object], figures: Mapping[str, object]) -> float | None:
        """When to call again because of what is not written yet; None: all is."""
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
    """Which container this is: the one that has these PIDs and sees these files; empty where /proc does not tell."""
    try:
        return "-".join(str(os.stat(f"/proc/self/ns/{name}").st_ino) for name in ("pid", "mnt"))
    except OSError:
        return ""


def places(folder: str | None) -> Iterator[str]:
    """Where the files of this container may lie, the best place first. `folder`: SVCINIT_RUN.

    Where that is somebody else's, or others can write to it, they lie in a directory of their own there.
    """
    yield folder or RUN
    own = home()
    if own:
        yield os.path.join(folder or RUN, f"svcinit-{own}")
        if not folder:
            yield os.path.join(SHARED, f"svcinit-{own}")


def believed() -> Collection[int]:
    """Whose state files are read: our own, and those of the user whom the container was started as (`docker exec` may
    come as another one)."""
    try:
        return {os.geteuid(), os.stat("/proc/1").st_uid}
    except OSError:
        return {os.geteuid()}


def enter(place: str, owners: Collection[int]) -> int:
    """A descriptor of that directory, if it is no link, is one of the `owners`', and nobody else can write to it.
    Raises OSError."""
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
    """Replace FOLDER/NAME.json; False where there is no place for it: svcinit runs on without."""
    import json

    content = json.dumps({"home": home(), **state}).encode()
    for place in places(folder):
        try:
            os.makedirs(place, 0o700, exist_ok=True)
            inside = enter(place, {os.geteuid()})
        except OSError as error:
            log.debug("state_not_written", "no state in {file}: {error}", file=place, error=error.strerror)
            continue
        try:
            atomic_file.replace(f"{name}.json", inside, content)
            return True
        except OSError as error:
            log.debug("state_not_written", "no state in {file}: {error}", file=place, error=error.strerror)
            atomic_file.remove(f"{name}.json", inside)  # none is better than one that is true no more
        finally:
            os.close(inside)
    return False


def clear(folder: str | None) -> None:
    """The container ends: nothing of it is left in a directory that it may share with others."""
    own = f"svcinit-{home()}"
    for place in places(folder):
        try:
            if os.path.basename(place) == own:
                inside = enter(place, {os.geteuid()})
                for name in NAMES:
                    atomic_file.remove(f"{name}.json", inside)
                os.close(inside)
                os.rmdir(place)
        except OSError:
            continue


def read_state(folder: str | None, name: str, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """The first NAME.json of this container that `fits`; None where there is none."""
    import json

    owners = believed()
    for place in places(folder):
        try:
            inside = enter(place, owners)
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
    """NAME.json of that start of svcinit; None where there is none."""
    return read_state(folder, name, lambda state: bool(state["life"] == life))
