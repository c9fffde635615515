"""The vocabulary of the init half: the states of a container, the roles of its children, the events that change the
state, and the outcomes of a reload. This module imports nothing of svcinit, so any part of it can use these names.

The values are plain strings and not enum members: the import of `enum` would cost every container start 2 to 5 ms.
"""

from __future__ import annotations

import _signal  # not `signal`: its enums cost every container start 5 ms


class State:
    """What the container is doing. lifecycle/table.py shows which event leads from one state to the next."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    DEREGISTERING = "deregistering"
    DRAINING = "draining"
    STOPPING = "stopping"
    SWEEPING = "sweeping"
    CLOSING = "closing"
    DONE = "done"


SERVING = State.RUNNING, State.RELOADING  # the service runs and is not being stopped


class ReloadOutcome:
    """How a reload ended. The log, the state file and the metrics use these values."""

    DONE = "done"
    IN_PLACE = "in_place"  # Consul gave no usable answer: the service was notified, the files are unchanged
    ABORTED = "aborted"  # the service was not notified; the files are unchanged or were rolled back
    ROLLED_BACK = "rolled_back"  # SVCINIT_CHECK failed: the files were rolled back, the service was notified again
    FAILED = "failed"  # the service could not be notified, or did not survive the notification
    GIVEN_UP = "given_up"  # a stop ended it


RESTART = "restart"  # among the reloads of a verdict: the service is restarted, whatever the files ask for
RELOAD_OUTCOMES = tuple(value for name, value in vars(ReloadOutcome).items() if name.isupper())


class Role:
    """The purpose of a child. At most one child has a role at a time; orphans are the exception."""

    MAIN = "main"  # the service
    PREPARE = "prepare"
    PRESENCE = "presence"
    DEREGISTER = "deregister"
    HOOK = "hook"
    ACTION = "action"
    VERIFY = "verify"
    ROLLBACK = "rollback"
    METRICS = "metrics"
    ORPHAN = "orphan"


NEWS = _signal.SIGRTMIN  # presence sends it to init when a change is prepared; the sender is checked


class Event:
    """An event that the lifecycle waits for. The base class itself means that nothing happened."""


class Began(Event):
    """svcinit starts: the first event."""


class Signalled(Event):
    """Signal `number` arrived. `hangup`: the kernel sent this HUP because the terminal is gone."""

    __match_args__ = ("number", "hangup")

    def __init__(self, number: int, hangup: bool = False) -> None:
        self.number, self.hangup = number, hangup


class Exited(Event):
    """The child of `role` ended. `code` is its exit status, or 128+N if signal N killed it."""

    __match_args__ = ("role", "code")

    def __init__(self, role: str, code: int) -> None:
        self.role, self.code = role, code


class NotStarted(Exited):
    """The child of `role` could not be started: no process, descriptor or memory is left. `code` is EX_SOFTWARE."""


class Stopped(Event):
    """The child of `role` was suspended by signal `number` (SIGSTOP, SIGTSTP, ...)."""

    __match_args__ = ("role", "number")

    def __init__(self, role: str, number: int = _signal.SIGSTOP) -> None:
        self.role, self.number = role, number


class News(Event):
    """Presence has prepared a change."""


class Deadline(Event):
    """The deadline that was passed to `wait` is over. The caller of `wait` fills in `name`."""

    __match_args__ = ("name",)

    def __init__(self, name: str = "") -> None:
        self.name = name
