"""What the transitions of a stop do: deregister, drain, send the stop signal, wait, KILL the remaining processes, run
SVCINIT_POST_STOP.

A restart is a stop after which the service is started again.
"""

from __future__ import annotations

import _signal

from svcinit import log
from svcinit.errors import EX_OK, EX_SOFTWARE, EX_UNAVAILABLE
from svcinit.lifecycle.job import KILLED, RETRY_DELAY
from svcinit.model import Deadline, Event, Exited, Role, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from svcinit.lifecycle.table import Lifecycle

STOP_TIMEOUT = 8.0  # seconds: with the drain of 1 s this fits into the 10 s of `docker stop`
# Seconds after SVCINIT_DRAIN and SVCINIT_STOP_TIMEOUT: until when the kernel may end what was killed, until when
# SVCINIT_POST_STOP may run, and when svcinit exits in any case. With the 9 s of the defaults all is below 10 s.
KILL_TIMEOUT, POST_STOP_END, EXIT_TIMEOUT = 0.5, 0.8, 0.9
FORCED_WAIT = 0.05  # seconds for which the end of the service is awaited once more before svcinit exits in any case
POST_STOP_TIMEOUT = 1.0  # seconds: the longest run of SVCINIT_POST_STOP
DAEMON_WITHIN = 5.0  # seconds: a service that succeeds sooner and leaves processes has probably become a daemon


class Stop:
    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle, self.settings = lifecycle, lifecycle.settings
        self.crew, self.job = lifecycle.crew, lifecycle.job
        self.restarting = False
        self.forced_exit_code: int | None = None  # the exit status of svcinit, whatever the service's is
        self.timeout = self.settings.stop_timeout or STOP_TIMEOUT
        self._further_stops = 0  # stop signals after the first
        self._killed_at = 0.0  # when the service is killed
        self._owes_deregistration = False  # no process could be had for it

    def begin(self, reason: str, *, is_ordered: bool = True) -> None:
        """Deregister first: connections that arrive after the stop signal would be lost. `is_ordered`: False if the
        service ended, or is not ready."""
        lifecycle, history = self.lifecycle, self.lifecycle.history
        if not self.restarting:
            lifecycle.reload.give_up(reason)
        history.stop_began(reason, is_ordered=is_ordered)
        if self.settings.registers:
            history.phase_began(State.DEREGISTERING)
        self.crew.signal(self.job.role, _signal.SIGTERM, group=True)
        self.job.end()
        now = self.crew.now()
        self._killed_at = now + self._longest
        lifecycle.timers = {"kill": self._killed_at, "deregister": now + self.timeout / 4}
        lifecycle.state, self._owes_deregistration = State.DEREGISTERING, False
        if not self.settings.needs_presence:
            self.notify()
        elif self.crew.alive(Role.PRESENCE):
            self.crew.signal(Role.PRESENCE, _signal.SIGTERM)
        else:
            self.crew.start_deregister()

    @property
    def _longest(self) -> float:
        """Seconds until the service is killed."""
        return (self.settings.drain if self.settings.registers else 0.0) + self.timeout

    def must_exit(self, more: float = 0.0) -> None:
        """From now on the exit of svcinit has a limit, whatever fails. `more`: additional seconds."""
        if self.lifecycle.limit is None:
            self.lifecycle.limit = self.crew.now() + more + self._longest + EXIT_TIMEOUT

    def not_ready(self) -> None:
        """A service that never becomes ready is stopped with exit status 69, as when a dependency is missing."""
        self.forced_exit_code = EX_UNAVAILABLE
        self.lifecycle.reload.service_not_ready()
        self.begin("not ready in time", is_ordered=False)

    # deregister and drain

    def abandon_presence(self) -> None:
        """Presence takes too long and is killed. The next step follows when its end is seen."""
        if not self.crew.alive(Role.PRESENCE) and not self.crew.alive(Role.DEREGISTER):
            self.still_registered(EX_SOFTWARE)
            return
        self.lifecycle.timers["deregister"] = self.crew.now() + self.timeout / 4
        self.crew.kill(Role.PRESENCE)
        self.crew.kill(Role.DEREGISTER)

    def drain(self) -> None:
        self.lifecycle.history.deregistered()
        if self.settings.drain and self.crew.alive(Role.MAIN):
            self.lifecycle.state = State.DRAINING
            self.lifecycle.history.phase_began(State.DRAINING)
            self.lifecycle.timers["drain"] = self.crew.now() + self.settings.drain
        else:
            self.notify()

    def still_registered(self, code: int) -> None:
        """The service is stopped now, because its time runs. svcinit tries to deregister while any process is alive."""
        self._owes_deregistration = code == EX_SOFTWARE
        dropped = self.settings.check.kind != "none"
        fate = "Consul removes the service when its check has failed for long enough"
        log.warning("deregister_failed", "not deregistered yet: {error}",
                    error=fate if dropped else "the service has no check, so Consul never removes it")  # fmt: skip
        self.notify()
        if self.crew.alive(Role.MAIN):
            self.crew.start_deregister()

    def retry_deregister(self) -> None:
        self.lifecycle.timers["retry"] = self.crew.now() + RETRY_DELAY

    def deregistered_late(self, code: int) -> None:
        self._owes_deregistration = code == EX_SOFTWARE
        if self._owes_deregistration:
            self.retry_deregister()

    def _deregister_last(self) -> None:
        """The end of the service made room for the process that could not be had before."""
        self.lifecycle.state, self._owes_deregistration = State.DEREGISTERING, False
        self.lifecycle.timers["deregister"] = self.crew.now() + self.timeout / 4
        if not self.crew.alive(Role.DEREGISTER):
            self.crew.start_deregister()

    # stop the service

    def notify(self) -> None:
        self.lifecycle.timers.pop("deregister", None)
        self.lifecycle.timers.pop("drain", None)
        if not self.crew.alive(Role.MAIN):
            self.sweep()
            return
        self.lifecycle.state = State.STOPPING
        self.lifecycle.history.phase_began(State.STOPPING)
        if self.settings.stop.kind == "signal":
            self._signal(self.settings.stop.signal)
        elif self.settings.stop.kind in ("write", "exec"):
            self.crew.start_action(self.settings.stop)
        if self.lifecycle.suspended:  # a stopped process handles no signal
            self.crew.resume()

    def action_failed(self, code: int) -> None:
        log.warning("action_failed", "{variable} failed with status {code}: sending TERM instead",
                    variable="SVCINIT_STOP", code=code)  # fmt: skip
        self._signal(_signal.SIGTERM)

    def _signal(self, number: int) -> None:
        self.crew.signal(Role.MAIN, number, group=self.settings.signal_group)

    def on_further_stop(self) -> None:
        """The second stop signal skips the drain, the third kills. During a restart, the first makes it a stop."""
        if self.restarting:
            reason = "a stop signal during its restart"
            self.restarting = self.lifecycle.reload.due = False
            self.lifecycle.reload.give_up(reason)
            self.lifecycle.history.exit_because(reason)
            return
        self._further_stops += 1
        if self._further_stops >= 2:
            self.kill_all()
        elif self.lifecycle.state in (State.DEREGISTERING, State.DRAINING):
            self.notify()

    def service_exited(self, code: int) -> None:
        lifecycle = self.lifecycle
        lifecycle.code = self._exit_code(code)
        serving = lifecycle.state in (State.RUNNING, State.RELOADING)
        ran = self.crew.now() - lifecycle.start.service_since
        if serving and code == EX_OK and ran < DAEMON_WITHIN and self.crew.strays():
            log.warning("background", "{command} ended at once and left processes: has it gone into the background? "
                        "What svcinit starts must stay in the foreground", command=self.crew.argv[0])  # fmt: skip
        if self.settings.plain:
            self._end_plain()
        elif serving:
            lifecycle.reload.service_exited(code)
            self.begin("the service ended", is_ordered=False)
        elif lifecycle.state == State.STOPPING and self._owes_deregistration:
            self._deregister_last()
        elif lifecycle.state != State.DEREGISTERING:
            self.sweep()

    def _end_plain(self) -> None:
        """The exit of PID 1 ends all processes of the container. Otherwise our descendants get TERM, later KILL."""
        self.lifecycle.state = State.SWEEPING
        if self.crew.is_pid1 or self.crew.no_children():
            self.lifecycle.state = State.DONE
        else:
            self.lifecycle.timers = {"kill": self.crew.now() + self.timeout}
            self.crew.sweep(_signal.SIGTERM, exec_sessions=False)

    def _exit_code(self, code: int) -> int:
        return self.settings.exit_map.get(code, code) if self.forced_exit_code is None else self.forced_exit_code

    def kill_all(self) -> None:
        if self.crew.alive(Role.MAIN):
            log.warning("killed", "the service did not stop in time: killed")
        if not self.settings.plain:
            self.lifecycle.history.killed()
        self.crew.kill(Role.MAIN)
        self.crew.sweep(_signal.SIGKILL, exec_sessions=not self.restarting)
        self.lifecycle.timers["after_kill"] = self.crew.now() + KILL_TIMEOUT

    def force(self) -> None:
        """The last resort. It needs no descriptor, no module and no process."""
        code = self.lifecycle.code or EX_SOFTWARE
        try:
            self.crew.kill(Role.MAIN)
            self.crew.sweep(_signal.SIGKILL, exec_sessions=True)
            until, event = self.crew.now() + FORCED_WAIT, Event()
            while self.crew.alive(Role.MAIN) and not isinstance(event, Deadline):
                event = self.crew.wait(until)
                if isinstance(event, Exited) and event.role == Role.MAIN:
                    self.lifecycle.main_code = event.code
            main_code = self.lifecycle.main_code
            code = KILLED if self.crew.alive(Role.MAIN) else code if main_code is None else main_code
            log.error("ended", "exit {code}: {reason}", code=code, reason="stopping failed; everything was killed")
        except Exception:  # nothing more can be done
            pass
        self.lifecycle.code = self._exit_code(code)
        self.lifecycle.state = State.DONE

    # after the service

    def after_kill(self) -> None:
        """Not even KILL ended the service. That is no success."""
        if self.crew.alive(Role.MAIN):
            self.lifecycle.code = KILLED
        self._close()

    def sweep(self) -> None:
        """The service is gone, or was never started: the remaining processes get TERM, later KILL.

        A restart spares the processes of `docker exec`, such as a svcinitctl that waits for it."""
        self.lifecycle.state = State.SWEEPING
        self.lifecycle.history.phase_began(State.SWEEPING)
        if self.crew.no_children():
            self._close()
        else:
            self.crew.sweep(_signal.SIGTERM, exec_sessions=not self.restarting)

    def sweep_again(self) -> None:
        """A process ended. It may have been the last one, or its children may be ours now."""
        if self.crew.no_children():
            self._close()
        elif "after_kill" in self.lifecycle.timers:
            self.crew.sweep(_signal.SIGKILL, exec_sessions=not self.restarting)

    def _close(self) -> None:
        hook = self.settings.post_stop
        self.lifecycle.timers.clear()
        if self.restarting:
            self.lifecycle.start.start_service()
        elif hook and self.lifecycle.start.ever_started:
            self.lifecycle.state = State.CLOSING
            seconds = max(0.0, min(POST_STOP_TIMEOUT, self._killed_at + POST_STOP_END - self.crew.now()))
            self.job.run_hook(hook, seconds, self.end)
        else:
            self.end()

    def end(self, hook: int = EX_OK) -> None:
        """`hook`: the exit status of SVCINIT_POST_STOP."""
        if hook:
            log.warning("hook_failed", "{variable} failed with status {code}", variable="SVCINIT_POST_STOP", code=hook)
        if self.lifecycle.state == State.CLOSING and not self.crew.is_pid1 and not self.crew.no_children():
            self.crew.sweep(_signal.SIGKILL, exec_sessions=False)  # left by the hook; the exit of PID 1 kills it too
        if not self.settings.plain:
            self.lifecycle.history.ended(self.lifecycle.code)
        self.lifecycle.state = State.DONE
