"""What the transitions of the lifecycle do: each starts, signals or gives up something, and says so.

Of the short-lived children (prepare, hooks, actions, undo) one runs at a time: the `job`. It has a deadline, and KILL
to its process group is the answer to a hang. Deadlines are named and on the monotonic clock, in seconds.
"""

from __future__ import annotations

import _signal
import os

from svcinit import log
from svcinit.errors import EX_CONFIG, EX_OK, EX_SOFTWARE, EX_TEMPFAIL, EX_UNAVAILABLE
from svcinit.lifecycle.pause import Pause
from svcinit.model import Event, Exited, Role, State
from svcinit.state_files import Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.lifecycle.account import Account
    from svcinit.processes.crew import Crew
    from svcinit.settings.environment import Settings
    from svcinit.settings.parsers import Action

STOP_TIMEOUT = 8.0  # with the drain of 1 s it fits into the 10 s that `docker stop` gives
SLACK = 0.5  # what prepare gets to give up by itself before it is killed
PATIENCE = 3.0  # for how long the command is tried to be started where there is no room for it
RETRY = 0.5  # before a crashed prepare or deregistration is started again
AGAIN = 0.1, 1.0  # first and longest pause before a transition that failed is tried again
BEAT = 5.0  # between two looks at presence
SILENCE = 40.0  # without a sign of life for so long presence counts as hung: longer than its longest call
LONG = 1.0  # a start that takes longer than this has something to show: metrics are up from then on
BRIEFLY = 5.0  # a command that ends well sooner than this, and leaves processes, has gone into the background
FROM_CACHE = "started from SVCINIT_CACHE, without Consul; the next HUP tries again"
KILLED = 128 + _signal.SIGKILL
AFTER_KILL = 1.0  # what the kernel gets to bury what was killed


class Steps:
    """The state of one container and the steps that change it."""

    account: Account

    def __init__(self, settings: Settings, crew: Crew) -> None:
        self.settings, self.crew = settings, crew
        self.state = State.STARTING
        self.code = EX_OK  # svcinit's own exit status
        self.verdict: int | None = None  # what it is whatever main says
        self.timers: dict[str, float] = {}
        self.job = ""  # the role of the short-lived child that all waits for
        self.late = False  # its deadline has passed
        self.again = False  # a HUP came when none could be served: exactly one more reload is owed
        self.cached = False  # the start goes by SVCINIT_CACHE
        self.restarting = False
        self.reloads = 0
        self.hups = 0  # HUPs taken; `served` of them by reloads that have ended, well or not
        self.serving_hups = self.served = 0
        self.outcome = ""  # how the last reload ended: empty for well
        self.news = False  # presence has prepared a change that is not taken yet
        self.by_hup = True  # it was a HUP that the reload began with, not news
        self.pending: list[Action] = []  # ways in which main still has to be told
        self.tell_until = 0.0  # when main counts as one that cannot be told
        self.held = False  # the telling waits, and the log says so
        self.handled = False  # main was told by a signal already: it has a handler, or is about to have it again
        self.taken_back = ""  # why the reload's files were put back after main had heard of them
        self.suspended = False
        self.unprepared = EX_OK  # the verdict of a prepare whose files are put back before it is acted on
        self.stops = 0  # stop signals seen
        self.stop_by = 0.0  # when main is killed
        self.owed = False  # no process could be had to deregister
        self.main_code: int | None = None  # how main ended
        self.failed: list[Event] = []  # events whose transitions are to be tried again
        self.pause = AGAIN[0]  # before that
        self.limit: float | None = None  # when svcinit exits whatever fails
        self.ever_started = False
        self.presence_pause, self.metrics_pause = Pause(), Pause()
        self.main_since = 0.0
        self.has_metrics = settings.metrics is not None
        self.tally = Tally(crew.now())
        self.budget = settings.stop_timeout or STOP_TIMEOUT
        if not settings.plain:
            from svcinit.lifecycle.account import Account

            self.account = Account(crew.now)

    # starting

    def start(self) -> None:
        self.state, self.cached = State.STARTING, False
        if self.has_metrics:
            self.timers["metrics"] = self.crew.now() + LONG
        if self.settings.needs_prepare:
            self.account.prepare_begins()
            self.begin(Role.PREPARE, self.settings.start_timeout + SLACK)
            self.prepare()
        else:
            self.pre_start_hook()

    def prepare(self) -> None:
        """At a reload prepare may spend half of its time on waiting for Consul: new code must go out all the same."""
        self.serving_hups = self.hups
        left = self.timers["job"] - self.crew.now()
        self.late = False
        self.crew.start_prepare(seconds=left - SLACK if self.state == State.STARTING else left / 2, cached=self.cached)

    def fall_back(self) -> None:
        """Consul did not answer for SVCINIT_START_TIMEOUT: start on what it said last, if that was kept."""
        if self.cached or not self.settings.cache or not os.path.exists(self.settings.cache):
            limit = f"SVCINIT_START_TIMEOUT={self.settings.start_timeout:g}s"
            self.leave(EX_UNAVAILABLE, f"not ready within {limit}")
            return
        self.cached, self.again = True, False
        self.begin(Role.PREPARE, self.settings.reload_timeout)
        self.prepare()

    def retry(self, code: int) -> None:
        log.warning("prepare_died", "prepare died with status {code}; trying again", code=code)
        self.timers["retry"] = self.crew.now() + RETRY

    def prepared(self) -> None:
        """Files are in place: on to the hook, unless a HUP from before the start says that they are old already."""
        if not self.crew.take_verdict():
            self.retry(EX_SOFTWARE)
        elif self.state == State.RELOADING:
            self.pre_reload_hook()
        elif self.again and not self.cached:
            self.again = False
            self.prepare()
        else:
            self.outcome = FROM_CACHE if self.cached else ""
            self.account.prepare_ends()
            self.pre_start_hook()

    def pre_start_hook(self) -> None:
        if self.settings.pre_start:
            self.begin(Role.HOOK, self.settings.start_timeout)
            self.crew.start_hook(self.settings.pre_start)
        else:
            self.start_main()

    def start_main(self) -> None:
        if self.again and self.settings.needs_prepare and not self.cached:
            self.again = False
            self.start()
            return
        if not self.crew.alive(Role.MAIN) and not self.crew.start_main():  # it is alive where what follows failed
            self.state = State.STARTING
            if self.job != Role.MAIN:
                self.begin(Role.MAIN, PATIENCE)
            self.timers["retry"] = self.crew.now() + RETRY
            return
        self.end_job()
        self.timers.clear()
        if self.restarting:
            self.account.restarts()
            self.tally.reload_ended(self.crew.now(), self.reloads, self.outcome)
        self.again = self.restarting = self.cached = self.handled = False
        self.served = self.serving_hups if self.settings.needs_prepare else self.hups
        self.state = State.RUNNING
        self.ever_started, self.limit = True, None
        self.main_since = self.crew.now()
        self.tally.main_began()
        self.crew.notified()
        if not self.settings.plain:
            self.account.started(
                self.crew.argv[0], self.crew.pid(Role.MAIN), self.settings, self.crew.prepared,
                cached=self.outcome == FROM_CACHE, degraded=self.outcome,
            )  # fmt: skip
        if self.settings.needs_presence:
            self.start_presence()
        self.start_metrics()

    def main_never_started(self) -> None:
        if self.settings.plain:
            self.code, self.state = EX_SOFTWARE, State.DONE
            return
        self.restarting = False
        self.leave(EX_SOFTWARE, "the command could not be started")

    def leave(self, code: int, why: str) -> None:
        """Exit without having started main; where it restarts it does, on the files that its reload has put there."""
        if self.restarting:
            self.outcome = "restarted on the files in place: the HUP that came meanwhile failed"
            log.error("degraded", "reload {reload}: {error}", error=self.outcome)
            self.again = False
            self.start_main()
            return
        self.account.never_started(code, why)
        self.code = code
        self.timers = {"kill": self.crew.now() + self.budget}
        self.sweep()

    # presence

    def start_presence(self) -> None:
        self.crew.start_presence()
        self.presence_pause.since = self.crew.now()
        self.timers["presence"] = self.crew.now() + BEAT

    def watch_presence(self) -> None:
        if not self.crew.alive(Role.PRESENCE):
            self.start_presence()
            return
        if self.crew.silence() > SILENCE:
            log.warning("presence_hangs", "presence hangs: killed", reload=None)
            self.crew.kill(Role.PRESENCE)
        self.timers["presence"] = self.crew.now() + BEAT

    def not_ready(self) -> None:
        """What never becomes able to serve ends, as it does when what it needs before the start stays away."""
        self.verdict = EX_UNAVAILABLE
        self.stop("not ready in time")

    def restart_presence(self, code: int) -> None:
        pause = self.presence_pause.next(self.crew.now())
        log.warning("presence_died", "presence died with status {code}; started again in {seconds:g} s",
                    code=code, seconds=pause, reload=None)  # fmt: skip
        self.tally.presence_died()
        self.news = self.crew.has_news()  # it may have died between a change and telling of it
        self.timers["presence"] = self.crew.now() + pause

    # metrics

    def start_metrics(self) -> None:
        self.timers.pop("metrics", None)
        if self.has_metrics and not self.crew.alive(Role.METRICS):
            self.crew.start_metrics()
            self.metrics_pause.since = self.crew.now()

    def restart_metrics(self, code: int) -> None:
        """A scrape must not be worth a service: what cannot be set right without a person is left alone."""
        if code == EX_CONFIG:
            self.has_metrics = False
            return
        pause = self.metrics_pause.next(self.crew.now())
        log.warning("metrics_died", "metrics died with status {code}; started again in {seconds:g} s",
                    code=code, seconds=pause, reload=None)  # fmt: skip
        self.timers["metrics"] = self.crew.now() + pause

    # jobs

    def begin(self, role: str, seconds: float) -> None:
        self.job, self.late = role, False
        self.timers["job"] = self.crew.now() + seconds

    def expire(self) -> None:
        """The job took too long. Should not even KILL end it, it counts as dead a second later."""
        if self.crew.alive(self.job) and not self.late:
            log.warning("timed_out", "{child} took too long: killed", child=self.job)
            self.late = True
            self.timers["job"] = self.crew.now() + AFTER_KILL
            self.crew.kill(self.job)
            if self.state == State.CLOSING:
                self.done(KILLED)
        elif self.job == Role.PREPARE and not self.late:
            self.never_prepared()
        elif self.job == Role.MAIN:
            self.main_never_started()
        else:
            self.on(Exited(self.job, self.late_code()))

    def never_prepared(self) -> None:
        """It could not be started, or died each time."""
        if self.crew.begun():
            self.roll_back(EX_TEMPFAIL if self.state == State.STARTING else EX_CONFIG)
        elif self.state == State.STARTING:
            self.fall_back()
        else:
            self.end_reload("aborted: prepare could not be run: the files in place stay, the service was not told")

    def late_code(self) -> int:
        """What a prepare that was too late means: Consul or DNS is away, unless it was over with them."""
        return EX_TEMPFAIL if self.crew.fetching() else EX_CONFIG

    def on(self, event: Event) -> None:
        raise NotImplementedError

    def stop(self, why: str) -> None:
        raise NotImplementedError

    def sweep(self) -> None:
        raise NotImplementedError

    def done(self, hook: int = EX_OK) -> None:
        raise NotImplementedError

    def pre_reload_hook(self, trouble: str = "") -> None:
        raise NotImplementedError

    def end_reload(self, trouble: str) -> None:
        raise NotImplementedError

    def roll_back(self, code: int) -> None:
        raise NotImplementedError

    def end_job(self) -> None:
        self.failed = [each for each in self.failed if not isinstance(each, Exited) or each.role != self.job]
        self.job, self.late = "", False
        for name in ("job", "retry", "ready", "tell"):
            self.timers.pop(name, None)

    def act(self, action: Action) -> bool:
        """Tell main something; True when a child is doing so, False when it is done."""
        if action.kind == "signal":
            self.crew.signal(Role.MAIN, action.signal, group=self.settings.signal_group)
        elif action.kind in ("write", "exec"):
            self.crew.start_action(action)
            return True
        return False
