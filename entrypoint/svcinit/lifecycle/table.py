"""All transitions of a container, as one `match` over (state, event): each transition is a line.

    starting -> running <-> reloading
                   |  a stop signal, the exit of the service, or a restart
                   v
             deregistering -> draining -> stopping -> sweeping -> closing -> done

The steps of a transition are in start.py, reload.py and stop.py. None of them blocks or touches a process: `crew`
starts, signals and waits, so a table of events can be replayed without processes.

A transition that fails (no descriptor, no memory, a bug) changes nothing. Its event is tried again until it succeeds.
From the stop signal or the exit of the service on, this has a limit: then everything is killed and svcinit exits.
"""

from __future__ import annotations

import _signal
import time

from svcinit import errors, log
from svcinit.errors import Outcome
from svcinit.lifecycle.job import KILLED, Job
from svcinit.lifecycle.start import Start
from svcinit.lifecycle.stop import Stop
from svcinit.model import (
    Began,
    Deadline,
    Event,
    Exited,
    News,
    NotStarted,
    Role,
    Signalled,
    State,
    Stopped,
)
from svcinit.settings.parsers import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.lifecycle.history import History
    from svcinit.lifecycle.job import Preparation
    from svcinit.lifecycle.reload import Reload
    from svcinit.lifecycle.residents import Residents
    from svcinit.processes.crew_protocol import CrewProtocol
    from svcinit.settings.environment import Settings

RETRY_BACKOFF = 0.1, 1.0  # first and longest pause before a transition that failed is tried again, in seconds


class Lifecycle:
    """One run of a container. `run` returns the exit status of svcinit. Times are seconds of the monotonic clock."""

    preparation: Preparation
    residents: Residents
    reload: Reload
    history: History

    def __init__(self, settings: Settings, crew: CrewProtocol) -> None:
        self.settings, self.crew = settings, crew
        self.state = State.STARTING
        self.timers: dict[str, float] = {}  # deadlines by name
        self.code = errors.EX_OK  # exit status of svcinit
        self.main_code: int | None = None  # exit status of the service
        self.suspended = False  # the service is
        self.failed: list[Event] = []  # events whose transitions are tried again
        self.pause = 0.0  # before that
        self.limit: float | None = None  # when svcinit exits whatever fails
        self.job = Job(self)
        self.start, self.stop = Start(self), Stop(self)
        self._parts: list[object] = [self, self.job, self.start, self.stop]
        if not settings.plain:  # a plain init has none of these, and does not pay for their imports
            from svcinit.lifecycle.history import History
            from svcinit.lifecycle.job import Preparation
            from svcinit.lifecycle.reload import Reload
            from svcinit.lifecycle.residents import Residents

            self.history = History(crew.now)
            self.preparation, self.residents, self.reload = Preparation(self), Residents(self), Reload(self)
            self._parts += [self.preparation, self.residents, self.reload]

    def run(self) -> int:
        self.attempt(Began())
        while self.state != State.DONE:
            self.report()
            self.attempt(self.next_event())
        try:
            self.crew.forget()
        except Exception as error:
            self.log_error(error)
        return self.code

    def report(self) -> None:
        """Write the state file. A plain init has none."""
        if self.settings.plain:
            return
        try:
            later = self.crew.report(self.facts())
        except Exception as error:
            self.log_error(error)
            self.timers["report"] = self.crew.now() + RETRY_BACKOFF[1]
        else:
            if later is not None:
                self.timers.setdefault("report", later)

    def facts(self) -> dict[str, object]:
        """For the state file: what svcinitctl and the metrics read."""
        return {
            "state": self.state,
            "reloads": self.reload.number,
            "restarting": self.stop.restarting,
            "hups": self.reload.hups,
            "served": self.reload.served,
            "exit": self.code,
            **self.history.facts(),
        }

    def attempt(self, event: Event) -> None:
        """Do the whole transition, or nothing of it yet.

        A bug in svcinit must not end PID 1: that would kill the service."""
        before = [(part, {name: _copy(value) for name, value in vars(part).items()}) for part in self._parts]
        try:
            self.on(event)
        except Exception as error:
            for part, values in before:
                vars(part).update(values)
            self._put_back(event, error)
        else:
            self.pause = self.pause if self.failed else 0.0

    def _put_back(self, event: Event, error: Exception) -> None:
        if not self.pause:
            self.log_error(error)
        self.pause = min(2 * self.pause or RETRY_BACKOFF[0], RETRY_BACKOFF[1])
        if isinstance(event, Deadline):
            self.timers[event.name] = self.crew.now() + self.pause
        elif all(type(event) is not type(other) or vars(event) != vars(other) for other in self.failed):
            self.failed.append(event)
        if not self.crew.alive(Role.MAIN):
            self.stop.must_exit(0.0 if self.start.ever_started else self.settings.start_timeout)

    def _try_again(self) -> None:
        """The failed transitions, in their order. The end of a child that was started again since is ignored."""
        events, self.failed = self.failed, []
        for event in events:
            if not isinstance(event, Exited) or not self.crew.alive(event.role):
                self.attempt(event)

    def log_error(self, error: Exception) -> None:
        try:
            log.internal("init", error)
        except Exception:  # the error may prevent the log, too
            pass

    def next_event(self) -> Event:
        if self.failed:
            self.timers.setdefault("again", self.crew.now() + self.pause)
        if self.limit is not None:
            self.timers["limit"] = self.limit
        name = min(self.timers, key=self.timers.__getitem__, default="")
        match self._wait(self.timers.get(name)):
            case Deadline():
                del self.timers[name]
                return Deadline(name)
            case Signalled(number, hangup):
                return Signalled(self._rewritten(number), hangup)
            case Exited(Role.MAIN, code):
                self._service_exited(code)
                return Exited(Role.MAIN, code)
            case Stopped(Role.MAIN, number):
                self.suspended = True
                return Stopped(Role.MAIN, number)
            case Exited(Role.PREPARE, _) if self.job.late:
                return Exited(Role.PREPARE, self.preparation.late_code())
            case event:
                return event

    def _rewritten(self, number: int) -> int:
        """The signal as SVCINIT_SIGNALS rewrites it."""
        plain = self.settings.plain
        number = self.settings.signals.get(number, number)
        if number == _signal.SIGHUP and not plain:
            self.reload.hups += 1
        if number in self.settings.stop_on and not plain:
            self.stop.must_exit()
        return number

    def _service_exited(self, code: int) -> None:
        self.main_code = code
        if not self.settings.plain:
            self.start.log_start()
            self.history.service_exited(self.crew.argv[0], code)
        if not self.stop.restarting:
            self.stop.must_exit()

    def _wait(self, until: float | None) -> Event:
        try:
            return self.crew.wait(until)
        except Exception as error:
            self.log_error(error)
            time.sleep(RETRY_BACKOFF[0])
            return Event()

    def expire(self) -> None:
        """The deadline of the job has passed."""
        role = self.job.role
        ended = self.job.expire()
        if ended is None:
            if self.state == State.CLOSING:
                self.stop.end(KILLED)
        elif role == Role.PREPARE and not self.job.late:
            self.preparation.expired()
        elif role == Role.PREPARE:
            self.on(Exited(role, self.preparation.late_code()))
        elif role == Role.MAIN:
            self.start.never_started()
        else:
            self.on(ended)

    def on(self, event: Event) -> None:  # noqa: C901  one table: its order matters
        plain, stop_on = self.settings.plain, self.settings.stop_on
        match self.state, event:
            case _, Began():
                self.start.begin()
            # what failed
            case _, Deadline("again"):
                self._try_again()
            case _, Deadline("limit"):
                self.stop.force()
            # signals
            case _, Signalled(0):
                pass  # SVCINIT_SIGNALS drops it
            case State.STARTING, Signalled(number) if number in stop_on and not plain:
                self.stop.restarting = False
                self.reload.give_up(signal_name(number))
                self.start.exit_before_start(128 + number, f"{signal_name(number)} before the start")
            case State.RUNNING | State.RELOADING, Signalled(number) if number in stop_on and not plain:
                self.stop.begin(signal_name(number))
            case _, Signalled(number) if number in stop_on and not plain:
                self.stop.on_further_stop()
            case _, Signalled(_signal.SIGCONT):
                self.suspended = False
                self.crew.resume()
            case _, Signalled(_signal.SIGHUP, True):  # the terminal is gone: nobody asks for a reload
                self.crew.signal(Role.MAIN, _signal.SIGHUP)
            case State.RUNNING, Signalled(_signal.SIGHUP) if not plain:
                self.reload.begin()
            case State.STARTING | State.RELOADING, Signalled(_signal.SIGHUP) if not plain:
                self.reload.due = True
            case _, Signalled(_signal.SIGHUP) if not plain:
                self.reload.due = self.stop.restarting
            case State.SWEEPING, Signalled(number) if plain:
                self.crew.sweep(number, exec_sessions=False)  # the service is gone, its children are not
            case _, Signalled(number):
                self.crew.signal(Role.MAIN, number, group=self.settings.signal_group)
            # a change that presence has prepared
            case State.RUNNING, News():
                self.reload.take_news()
            case _, News():
                self.reload.news = True
            # deadlines and hangs
            case _, Deadline("job"):
                self.expire()
            case _, Stopped(Role.PREPARE | Role.PRESENCE | Role.METRICS as role, _):
                self.crew.kill(role)
            case State.STOPPING, Stopped(Role.MAIN, _):
                self.crew.resume()
            case (
                State.RUNNING | State.RELOADING,
                Stopped(Role.MAIN, _signal.SIGTSTP | _signal.SIGTTIN | _signal.SIGTTOU as number),
            ):
                self.crew.suspend(number)
            case State.STARTING | State.RELOADING, Deadline("retry"):
                self.job.start_again()
            case State.RUNNING | State.RELOADING, Deadline("presence"):
                self.residents.check_presence()
            case _, Deadline("started"):
                self.start.log_start()
                self.reload.begin_next()
            case State.STARTING | State.RUNNING | State.RELOADING, Deadline("metrics"):
                self.residents.start_metrics()
            case State.DEREGISTERING, Deadline("deregister"):
                self.stop.abandon_presence()
            case State.DRAINING, Deadline("drain"):
                self.stop.notify()
            case _, Deadline("kill"):
                self.stop.kill_all()
            case _, Deadline("after_kill"):
                self.stop.after_kill()
            case State.STARTING | State.RELOADING, NotStarted(Role.HOOK | Role.ACTION | Role.VERIFY):
                self.job.retry()  # a limit of the container: there may be room in a moment
            # a prepare that died while it wrote files, or after it was done
            case State.STARTING | State.RELOADING, Exited(Role.PREPARE, _) if self.job.role != Role.PREPARE:
                pass  # not even KILL ended this one in time, and it was given up
            case State.STARTING | State.RELOADING, Exited(Role.PREPARE, code) if code and self.crew.finished():
                self.preparation.finished()
                self.on(Exited(Role.PREPARE, errors.EX_OK))
            case (
                State.STARTING | State.RELOADING,
                Exited(Role.PREPARE, errors.EX_CONFIG | errors.EX_TEMPFAIL as code),
            ) if self.crew.begun():
                self.preparation.roll_back(code)
            case State.STARTING | State.RELOADING, Exited(Role.ROLLBACK, code) if self.preparation.rolls_back:
                self.preparation.rolled_back(code)
            # starting
            case State.STARTING, Exited(Role.PREPARE, errors.EX_OK):
                self.start.prepared()
            case State.STARTING, Exited(Role.PREPARE, errors.EX_CONFIG as code):
                self.start.exit_before_start(code, "the configuration is wrong; the service was not started")
            case State.STARTING, Exited(Role.PREPARE, errors.EX_TEMPFAIL):
                self.start.fall_back()
            case State.STARTING, Exited(Role.HOOK, errors.EX_OK):
                self.start.start_service()
            case State.STARTING, Exited(Role.HOOK, code):
                reason = f"SVCINIT_PRE_START failed with status {code}; the service was not started"
                self.start.exit_before_start(code, reason)
            # reloading
            case State.RELOADING, Exited(Role.PREPARE, errors.EX_OK):
                self.reload.prepared()
            case State.RELOADING, Exited(Role.PREPARE, errors.EX_CONFIG):
                self.reload.refused()
            case State.RELOADING, Exited(Role.PREPARE, errors.EX_TEMPFAIL):
                self.reload.without_consul()
            case State.STARTING | State.RELOADING, Exited(Role.PREPARE, code):
                self.preparation.died(code)
            case State.RELOADING, Exited(Role.HOOK, errors.EX_OK):
                self.reload.notify()
            case State.RELOADING, Deadline("ready"):
                self.reload.await_ready()
            case State.RELOADING, Deadline("notify"):
                self.reload.act()
            case State.RELOADING, Deadline("serving"):
                self.reload.await_service()
            case State.RUNNING, Deadline("confirm"):
                self.reload.settle()
            case State.RELOADING, Exited(Role.HOOK, code):
                self.reload.hook_failed(code)
            case State.RELOADING, Exited(Role.ROLLBACK, code):
                self.reload.rolled_back(code)
            case State.RELOADING, Exited(Role.ACTION, code):
                self.reload.acted(code)
            case State.RELOADING, Exited(Role.VERIFY, code):
                self.reload.verified(code)
            case State.STARTING | State.RUNNING | State.RELOADING, Exited(Role.METRICS, code):
                self.residents.metrics_died(code)
            # the service and its presence in Consul
            case _, Exited(Role.MAIN, code):
                self.stop.service_exited(code)
            case State.RUNNING | State.RELOADING, Exited(Role.PRESENCE, Outcome.NOT_READY):
                self.stop.not_ready()
            case State.RUNNING, Exited(Role.PRESENCE, code):
                self.residents.presence_died(code)
                self.reload.take_news()
            case State.RELOADING, Exited(Role.PRESENCE, code):
                self.residents.presence_died(code)
            case State.DEREGISTERING, Exited(Role.PRESENCE | Role.DEREGISTER, errors.EX_OK):
                self.stop.drain()
            case State.DEREGISTERING, Exited(Role.PRESENCE | Role.DEREGISTER, Outcome.NOT_REGISTERED):
                self.stop.notify()  # no client knows it
            case State.DEREGISTERING, Exited(Role.PRESENCE, _):
                self.crew.start_deregister()
            case State.DEREGISTERING, Exited(Role.DEREGISTER, errors.EX_SOFTWARE) if "deregister" in self.timers:
                self.stop.retry_deregister()  # a limit of the container: there may be room in a moment
            case State.DEREGISTERING, Exited(Role.DEREGISTER, code):
                self.stop.still_registered(code)
            case State.DEREGISTERING | State.STOPPING, Deadline("retry") if not self.crew.alive(Role.DEREGISTER):
                self.crew.start_deregister()
            case State.STOPPING, Exited(Role.DEREGISTER, code):
                self.stop.deregistered_late(code)
            case State.STOPPING, Exited(Role.ACTION, code) if code and self.settings.stop.kind != "signal":
                self.stop.action_failed(code)
            case State.SWEEPING, Exited():
                self.stop.sweep_again()
            case State.CLOSING, Exited(Role.HOOK, code):
                self.stop.end(code)
            case _:
                pass  # an orphan, a child that was given up, or only a state file to write


def _copy(value: object) -> object:
    if isinstance(value, list):
        return list(value)
    return dict(value) if isinstance(value, dict) else value
