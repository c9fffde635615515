"""Stands for the kernel under the init half: the real Crew and Lifecycle run on it without a process or a real second.

Each call that they make counts, and any of them can be made to fail. Children behave by their role. Descriptors and the
files of SVCINIT_RUN are real.
"""

from __future__ import annotations

import _signal
import errno
import io
import math
import os
import posix
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from svcinit import handover, log, state_files
from svcinit.handover import Heartbeat, Memory, Message, Readiness, Slot, Verdict
from svcinit.lifecycle import table
from svcinit.lifecycle.table import Lifecycle
from svcinit.model import NEWS, Role
from svcinit.processes import ahead
from svcinit.processes import child as child_module
from svcinit.processes import crew as crew_module
from svcinit.processes import init as init_module
from svcinit.processes.crew import Crew
from svcinit.settings import environment

PURE = "getpid", "path", "fsencode", "getuid"  # what fails never
STARTS = "fork", "memfd_create", "getpgrp"  # without these main cannot be started
VERDICT = Verdict(["main"], {}, ["/etc/app"], [""])
BRIEF = {Role.PREPARE, Role.HOOK, Role.ACTION, Role.ROLLBACK, Role.VERIFY, Role.DEREGISTER}  # end by themselves, with 0
MOST = 10_000  # calls of a life
MOMENT = 0.01  # seconds that a child takes to end
Step = tuple[float, Callable[["Kernel"], None]]
Fails = Callable[["Kernel", str], int]  # the errno with which the call fails, 0: it works


class WrongError(BaseException):
    """Not for the lifecycle to catch."""


class Kernel:
    def __init__(self, script: list[Step], fails: Fails, deaf: frozenset[str] = frozenset()) -> None:
        """`deaf`: roles that TERM does not end, and that do not end by themselves."""
        self.script, self.fails, self.deaf = sorted(script, key=lambda step: step[0]), fails, deaf
        self.clock, self.calls, self.pids = 0.0, 0, 1
        self.running: dict[int, str] = {}
        self.dying: dict[int, tuple[float, int]] = {}
        self.dead: list[tuple[int, int]] = []
        self.pending: list[types.SimpleNamespace] = []
        self.heard: list[tuple[float, str, int]] = []  # signals that children got
        self.ends: list[tuple[float, str, int]] = []
        self.said = ""
        self.failed = ""  # the call that failed last
        self.failed_main = False  # it was needed to start main
        self.deregistered = self.asked = math.inf  # when it was, and when TERM came
        self.counting = False  # once the life begins
        self.has_room = False  # for a presence before the service
        self.life: Lifecycle

    def now(self) -> float:
        return self.clock

    def call(self, name: str) -> None:
        if not self.counting:
            return
        self.calls += 1
        if self.calls > MOST:
            raise WrongError(f"{self.failed}: {self.life.state}, {self.life.timers}")
        number = self.fails(self, name)
        if number:
            frames, frame = [], sys._getframe(2)
            while frame.f_back:
                frames.append(frame.f_code.co_name)
                frame = frame.f_back
            self.failed = f"{name} in {frames[0]}"
            self.failed_main = self.failed_main or ("start_main" in frames and name in STARTS)
            raise OSError(number, os.strerror(number))

    # children

    def role(self, role: str) -> int | None:
        return next((pid for pid, each in self.running.items() if each == role), None)

    def end(self, role: str, code: int) -> None:
        pid = self.role(role)
        if pid is not None:
            self.dying[pid] = (self.clock, code)

    def fork(self) -> int:
        frame = sys._getframe(1)
        while "role" not in frame.f_locals or frame.f_code.co_name != "fork":
            assert frame.f_back
            frame = frame.f_back
        role = frame.f_locals["role"]
        self.pids += 1
        self.running[self.pids] = role
        if role in BRIEF - self.deaf:
            self.dying[self.pids] = (self.clock + MOMENT, 0)
        return self.pids

    def kill(self, target: int, number: int) -> None:
        pids = list(self.running) if target == -1 else [abs(target)]
        if not any(pid in self.running for pid in pids):
            raise ProcessLookupError(errno.ESRCH, "No such process")
        for pid in pids:
            self.hear(pid, number)

    def hear(self, pid: int, number: int) -> None:
        role = self.running[pid]
        self.heard.append((self.now(), role, number))
        if number == _signal.SIGKILL:
            self.dying[pid] = (self.clock, -number)
        elif number == _signal.SIGTERM and role not in self.deaf and pid not in self.dying:
            handled = role == Role.MAIN or (role == Role.PRESENCE and not self.crew.waits)
            self.dying[pid] = (self.clock + MOMENT, 0 if handled else -number)

    def bury(self) -> None:
        for pid, (when, code) in list(self.dying.items()):
            if when <= self.clock:
                role = self.running.pop(pid)
                del self.dying[pid]
                self.leave(role, code)
                self.dead.append((pid, code))
                self.ends.append((self.now(), role, 128 - code if code < 0 else code))
                self.pending.append(types.SimpleNamespace(si_signo=_signal.SIGCHLD, si_pid=pid, si_code=1))

    def leave(self, role: str, code: int) -> None:
        """What the child did before it ended."""
        if role == Role.PREPARE and code == 0:
            self.leaves(self.crew.slots.verdict, VERDICT)
            self.leaves(self.crew.slots.fresh, Memory([]))
        if role in (Role.PRESENCE, Role.DEREGISTER) and code == 0:
            self.deregistered = self.now()

    def leaves(self, slot: Slot, message: Message) -> None:
        """A child does: its calls are not init's."""
        before, self.counting = self.counting, False
        slot.write(message)
        self.counting = before

    def news(self) -> None:
        presence = self.role(Role.PRESENCE)
        assert presence is not None
        self.leaves(self.crew.slots.news, VERDICT)
        self.pending.append(types.SimpleNamespace(si_signo=NEWS, si_pid=presence, si_code=0))

    def arrive(self, number: int) -> None:
        if number == _signal.SIGTERM:
            self.asked = self.now()
        self.pending.append(types.SimpleNamespace(si_signo=number, si_pid=0, si_code=0))

    # what the init half calls

    def waitid(self, kind: int, number: int, options: int) -> types.SimpleNamespace | None:
        if not self.running and not self.dead:
            raise ChildProcessError(errno.ECHILD, "No child processes")
        if not self.dead:
            return None
        pid, code = self.dead[0] if options & os.WNOWAIT else self.dead.pop(0)
        status, how = (-code, os.CLD_KILLED) if code < 0 else (code, os.CLD_EXITED)
        return types.SimpleNamespace(si_pid=pid, si_status=status, si_code=how)

    def sigtimedwait(self, signals: object, seconds: float) -> types.SimpleNamespace | None:
        """The next signal; the clock goes on to it, or by `seconds`."""
        until = self.clock + seconds
        while not self.pending:
            moments = [self.script[0][0]] if self.script else []
            moments += [when for when, _ in self.dying.values()]
            self.clock = max(self.clock, min([until, *moments]))
            while self.script and self.script[0][0] <= self.now():
                self.do(self.script.pop(0)[1])
            self.bury()
            works = Role.PRESENCE in self.running.values() and not self.crew.waits
            if works and self.crew.slots.heartbeat.is_open:
                self.leaves(self.crew.slots.heartbeat, Heartbeat(int(self.clock * 1000)))
                self.leaves(self.crew.slots.ready, Readiness(registered=True))
            if self.clock >= until and not self.pending:
                return None
        return self.pending.pop(0)

    def do(self, step: Callable[[Kernel], None]) -> None:
        try:
            step(self)
        except AssertionError as error:
            raise WrongError(str(error)) from error

    def sigwaitinfo(self, signals: object) -> types.SimpleNamespace:
        found = self.sigtimedwait(signals, 1000.0)
        if found is None:
            raise WrongError(f"{self.failed}: {self.life.state}")
        return found

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def look_into(self, path: str, *rest: Any, **named: Any) -> Any:
        if path.startswith("/proc"):
            return io.StringIO(" ".join(map(str, self.running)) if "/1/" in path else "")
        return open(path, *rest, **named)

    def listdir(self, path: str) -> list[str]:
        return [path.split("/")[2]]

    def proxy(self, module: types.ModuleType) -> Any:
        """`module`, each call of which counts, and is this kernel's where that has it."""
        kernel, own = self, {"getpid": lambda: 1, "getpgrp": lambda: 1, "setpgid": lambda *_: None}
        own |= {"chdir": lambda _: None, "monotonic": lambda: kernel.clock, "tcgetpgrp": lambda _: 99}
        own |= {"signal": lambda *_: None, "getpgid": lambda pid: pid}

        class Proxy:
            def __getattr__(self, name: str) -> Any:
                found = own.get(name) or (name in vars(Kernel) and getattr(kernel, name)) or getattr(module, name)
                if name in PURE or not callable(found) or isinstance(found, type):
                    return found

                def counted(*given: Any, **named: Any) -> Any:
                    if module.__name__ != "time":
                        kernel.call(name)
                    return found(*given, **named)

                return counted

        return Proxy()

    def run(self, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], folder: str) -> int:
        """A whole life; its exit status."""
        import time

        with monkeypatch.context() as patch:
            patch.setattr(log, "_write", self.log)
            settings = environment.read({"SVCINIT_CACHE": "", "SVCINIT_RUN": folder, **env})
            for module in (init_module, child_module, crew_module, ahead, handover, state_files, table):
                for name, real in (("os", os), ("posix", posix), ("_signal", _signal), ("time", time)):
                    if hasattr(module, name):
                        patch.setattr(module, name, self.proxy(real))
            patch.setattr(child_module, "open", self.counted_open, raising=False)
            patch.setattr("svcinit.processes.oom.protect", lambda: int)
            patch.setattr("svcinit.processes.room.for_two", lambda: self.has_room)
            self.crew = Crew(settings, ("main",))
            self.life = Lifecycle(settings, self.crew)
            self.counting = True
            try:
                return self.life.run()
            finally:
                self.counting = False
                if not settings.plain:
                    for slot in self.crew.slots.all():
                        slot.close()

    def log(self, line: bytes) -> bool:
        self.call("write")
        self.said += line.decode()
        return True

    def counted_open(self, *given: Any, **named: Any) -> Any:
        self.call("open")
        return self.look_into(*given, **named)
