"""The whole story of a container, as one `match` over (state, event): every transition is a line.

    starting -> running <-> reloading
                   |  a stop signal, main's own exit, or a restart
                   v
             deregistering -> draining -> stopping -> sweeping -> closing -> done

What a transition does is in steps.py and reload.py. Nothing in them blocks or touches a process: `crew` starts,
signals and waits, so that a table of events replays without processes.

A transition that fails (no descriptor, no memory, a fault of ours) changes nothing, and its event is tried again until
it succeeds. From the stop signal, or main's exit, this has a limit: then everything is killed and svcinit exits.
"""

from __future__ import annotations

import _signal
import time

from svcinit import errors, log
from svcinit.errors import Outcome
from svcinit.lifecycle.reload import Reloads
from svcinit.lifecycle.steps import AGAIN, RETRY
from svcinit.model import Began, Deadline, Event, Exited, News, Role, Signalled, State, Stopped
from svcinit.settings.parsers import signal_name


class Lifecycle(Reloads):
    """One container's life. `run` returns the exit status of svcinit."""

    def run(self) -> int:
        self.attempt(Began())
        while self.state != State.DONE:
            try:
                self.crew.report(self)
            except Exception as error:
                self.tell_fault(error)
                self.timers["report"] = self.crew.now() + AGAIN[1]
            self.attempt(self.next_event())
        try:
            self.crew.forget()
        except Exception as error:
            self.tell_fault(error)
        return self.code

    def attempt(self, event: Event) -> None:
        """Do the whole transition, or nothing of it yet. The service outlives a fault of ours: PID 1's end would be its
        own."""
        lists = {"timers": dict(self.timers), "pending": list(self.pending), "failed": list(self.failed)}
        before = {**vars(self), **lists}
        try:
            self.on(event)
        except Exception as error:
            vars(self).update(before)
            self.put_back(event, error)
        else:
            self.pause = self.pause if self.failed else AGAIN[0]

    def put_back(self, event: Event, error: Exception) -> None:
        if self.pause == AGAIN[0]:
            self.tell_fault(error)
        if isinstance(event, Deadline):
            self.timers[event.name] = self.crew.now() + self.pause
        elif all(type(event) is not type(other) or vars(event) != vars(other) for other in self.failed):
            self.failed.append(event)
        if not self.crew.alive(Role.MAIN):
            self.has_to_end(0.0 if self.ever_started else self.settings.start_timeout)
        self.pause = min(2 * self.pause, AGAIN[1])

    def try_again(self) -> None:
        """What failed, in the order in which it happened; not the end of a child that was started again since."""
        events, self.failed = self.failed, []
        for event in events:
            if not isinstance(event, Exited) or not self.crew.alive(event.role):
                self.attempt(event)

    def tell_fault(self, error: Exception) -> None:
        try:
            log.internal("init", error)
        except Exception:  # what keeps a transition from its end may keep the log from it, too
            pass

    def next_event(self) -> Event:
        if self.failed:
            self.timers.setdefault("again", self.crew.now() + self.pause)
        if self.limit is not None:
            self.timers["limit"] = self.limit
        name = min(self.timers, key=self.timers.__getitem__, default="")
        match self.wait(self.timers.get(name)):
            case Deadline():
                del self.timers[name]
                return Deadline(name)
            case Signalled(number, hangup):
                self.hups += number == _signal.SIGHUP
                number = self.settings.signals.get(number, number)
                if number in self.settings.stop_on and not self.settings.plain:
                    self.has_to_end()
                return Signalled(number, hangup)
            case Exited(Role.MAIN, code):
                self.main_code = code
                if not self.restarting:
                    self.has_to_end()
                return Exited(Role.MAIN, code)
            case Stopped(Role.MAIN, number):
                self.suspended = True
                return Stopped(Role.MAIN, number)
            case Exited(Role.PREPARE, _) if self.late:
                return Exited(Role.PREPARE, self.late_code())
            case event:
                return event

    def wait(self, until: float | None) -> Event:
        try:
            return self.crew.wait(until)
        except Exception as error:
            self.tell_fault(error)
            time.sleep(AGAIN[0])
            return Event()

    def on(self, event: Event) -> None:  # noqa: C901  one table: split, its order would be hidden
        plain, stop_on = self.settings.plain, self.settings.stop_on
        match self.state, event:
            case _, Began():
                self.start()
            # what failed
            case _, Deadline("again"):
                self.try_again()
            case _, Deadline("limit"):
                self.force()
            # signals
            case _, Signalled(0):
                pass  # SVCINIT_SIGNALS drops it
            case State.STARTING, Signalled(number) if number in stop_on and not plain:
                self.restarting = False
                self.leave(128 + number, f"{signal_name(number)} before the start")
            case State.RUNNING | State.RELOADING, Signalled(number) if number in stop_on and not plain:
                self.stop(signal_name(number))
            case _, Signalled(number) if number in stop_on and not plain:
                self.hurry()
            case _, Signalled(_signal.SIGCONT):
                self.suspended = False
                self.crew.resume()
            case _, Signalled(_signal.SIGHUP, True):  # the terminal is gone: no wish for a reload
                self.crew.signal(Role.MAIN, _signal.SIGHUP)
            case State.RUNNING, Signalled(_signal.SIGHUP) if not plain:
                self.reload()
            case State.STARTING | State.RELOADING, Signalled(_signal.SIGHUP) if not plain:
                self.again = True
            case _, Signalled(_signal.SIGHUP) if not plain:
                self.again = self.restarting
            case _, Signalled(number):
                self.crew.signal(Role.MAIN, number, group=self.settings.signal_group)
            # a change that presence has prepared
            case State.RUNNING, News():
                self.take_news()
            case _, News():
                self.news = True
            # deadlines and hangs
            case _, Deadline("job"):
                self.expire()
            case _, Stopped(Role.PREPARE | Role.PRESENCE | Role.METRICS as role, _):
                self.crew.kill(role)
            case State.STOPPING, Stopped(Role.MAIN, _):
                self.crew.resume()
            case _, Stopped(Role.MAIN, _signal.SIGTSTP | _signal.SIGTTIN | _signal.SIGTTOU as number):
                self.crew.suspend(number)
            case State.STARTING | State.RELOADING, Deadline("retry") if self.job == Role.UNDO:
                self.crew.start_undo()
            case State.STARTING, Deadline("retry") if self.job == Role.MAIN:
                self.start_main()
            case State.STARTING | State.RELOADING, Deadline("retry"):
                self.prepare()
            case State.RUNNING | State.RELOADING, Deadline("presence"):
                self.watch_presence()
            case State.STARTING | State.RUNNING | State.RELOADING, Deadline("metrics"):
                self.start_metrics()
            case State.DEREGISTERING, Deadline("deregister"):
                self.abandon_presence()
            case State.DRAINING, Deadline("drain"):
                self.tell_stop()
            case _, Deadline("kill"):
                self.kill_all()
            case _, Deadline("buried"):
                self.give_up()
            # a prepare that had not come to its end when it died, or that had and died later
            case State.STARTING | State.RELOADING, Exited(Role.PREPARE, _) if self.job != Role.PREPARE:
                pass  # given up: not even KILL had ended it in time
            case State.STARTING | State.RELOADING, Exited(Role.PREPARE, code) if code and self.crew.finished():
                self.begin(Role.PREPARE, self.settings.reload_timeout)  # its own time may be over
                self.prepared()
            case (
                State.STARTING | State.RELOADING,
                Exited(Role.PREPARE, errors.EX_CONFIG | errors.EX_TEMPFAIL as code),
            ) if self.crew.begun():
                self.roll_back(code)
            case State.STARTING | State.RELOADING, Exited(Role.UNDO, code) if self.unprepared:
                self.rolled_back(code)
            # starting
            case State.STARTING, Exited(Role.PREPARE, errors.EX_OK):
                self.prepared()
            case State.STARTING, Exited(Role.PREPARE, errors.EX_CONFIG as code):
                self.leave(code, "the configuration is wrong; the service was not started")
            case State.STARTING, Exited(Role.PREPARE, errors.EX_TEMPFAIL):
                self.fall_back()
            case State.STARTING, Exited(Role.HOOK, errors.EX_OK):
                self.start_main()
            case State.STARTING, Exited(Role.HOOK, code):
                self.leave(code, f"SVCINIT_PRE_START failed with status {code}; the service was not started")
            # reloading
            case State.RELOADING, Exited(Role.PREPARE, errors.EX_OK):
                self.prepared()
            case State.RELOADING, Exited(Role.PREPARE, errors.EX_CONFIG):
                self.end_reload("aborted: the files in place stay, the service was not told")
            case State.RELOADING, Exited(Role.PREPARE, errors.EX_TEMPFAIL):
                self.pre_reload_hook("no usable answer from Consul: reloading on the files in place")
            case State.STARTING | State.RELOADING, Exited(Role.PREPARE, code):
                self.retry(code)
            case State.RELOADING, Exited(Role.HOOK, errors.EX_OK):
                self.forward()
            case State.RELOADING, Deadline("ready"):
                self.await_ready()
            case State.RELOADING, Deadline("tell"):
                self.tell_reload()
            case State.RELOADING, Exited(Role.HOOK, code):
                self.undo(f"aborted: SVCINIT_PRE_RELOAD failed with status {code}")
            case State.RELOADING, Exited(Role.UNDO, code):
                self.undone(code)
            case State.RELOADING, Exited(Role.ACTION, code):
                self.acted(code)
            case State.RELOADING, Exited(Role.VERIFY, code):
                self.verified(code)
            case State.STARTING | State.RUNNING | State.RELOADING, Exited(Role.METRICS, code):
                self.restart_metrics(code)
            # the service and its presence in Consul
            case _, Exited(Role.MAIN, code):
                self.main_gone(code)
            case State.RUNNING | State.RELOADING, Exited(Role.PRESENCE, Outcome.NOT_READY):
                self.not_ready()
            case State.RUNNING, Exited(Role.PRESENCE, code):
                self.restart_presence(code)
                self.take_news()
            case State.RELOADING, Exited(Role.PRESENCE, code):
                self.restart_presence(code)
            case State.DEREGISTERING, Exited(Role.PRESENCE | Role.DEREGISTER, errors.EX_OK):
                self.drain()
            case State.DEREGISTERING, Exited(Role.PRESENCE | Role.DEREGISTER, Outcome.NOT_REGISTERED):
                self.tell_stop()  # nobody to drain
            case State.DEREGISTERING, Exited(Role.PRESENCE, _):
                self.crew.start_deregister()
            case State.DEREGISTERING, Exited(Role.DEREGISTER, errors.EX_SOFTWARE) if "deregister" in self.timers:
                self.timers["retry"] = self.crew.now() + RETRY  # the limit of processes: there may be room in a moment
            case State.DEREGISTERING, Exited(Role.DEREGISTER, code):
                self.still_registered(code)
            case State.DEREGISTERING | State.STOPPING, Deadline("retry") if not self.crew.alive(Role.DEREGISTER):
                self.crew.start_deregister()
            case State.STOPPING, Exited(Role.DEREGISTER, code):
                self.deregistered_late(code)
            case State.STOPPING, Exited(Role.ACTION, code) if code:
                self.stop_by_signal(code)
            case State.SWEEPING, Exited():
                self.sweep_again()
            case State.CLOSING, Exited(Role.HOOK, code):
                self.done(code)
            case _:
                pass  # an orphan, a child that had been given up, or just figures to report
