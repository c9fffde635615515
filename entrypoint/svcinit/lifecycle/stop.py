"""What the transitions of a stop do: deregister, drain, tell main, wait, kill what is left, SVCINIT_POST_STOP.

A restart is a stop, too, after which main is started again.
"""

from __future__ import annotations

import _signal

from svcinit import log
from svcinit.errors import EX_OK, EX_SOFTWARE
from svcinit.lifecycle.steps import BRIEFLY, KILLED, RETRY, Steps
from svcinit.model import Deadline, Event, Exited, Role, State

# After SVCINIT_DRAIN and SVCINIT_STOP_TIMEOUT: until then the kernel buries what was killed, POST_STOP runs, all ends.
# Last comes the pause in which the end of main is awaited once more. With the 9 s of the defaults this is below 10 s.
BURIED, HOOKED, ENDED, LAST = 0.5, 0.8, 0.9, 0.05
POST_STOP = 1.0  # what SVCINIT_POST_STOP gets at most


class Stops(Steps):
    """The steps of a container's life, those of its end included."""

    def stop(self, why: str) -> None:
        """Deregister first: what connects after main was told to stop is lost."""
        if not self.restarting:
            self.account.give_up_reload(why)
        self.account.stopping(why)
        if self.settings.registers:
            self.account.phase(State.DEREGISTERING)
        self.crew.signal(self.job, _signal.SIGTERM, group=True)
        self.end_job()
        now = self.crew.now()
        self.stop_by = now + self.longest_stop()
        self.timers = {"kill": self.stop_by, "deregister": now + self.budget / 4}
        self.state, self.owed = State.DEREGISTERING, False
        if not self.settings.needs_presence:
            self.tell_stop()
        elif self.crew.alive(Role.PRESENCE):
            self.crew.signal(Role.PRESENCE, _signal.SIGTERM)
        else:
            self.crew.start_deregister()

    def longest_stop(self) -> float:
        """Seconds until main is killed."""
        return (self.settings.drain if self.settings.registers else 0.0) + self.budget

    def has_to_end(self, more: float = 0.0) -> None:
        if self.limit is None:
            self.limit = self.crew.now() + more + self.longest_stop() + ENDED

    def abandon_presence(self) -> None:
        """It takes too long: what killing it leads to is decided when its death is seen."""
        if not self.crew.alive(Role.PRESENCE) and not self.crew.alive(Role.DEREGISTER):
            self.still_registered(EX_SOFTWARE)
            return
        self.timers["deregister"] = self.crew.now() + self.budget / 4
        self.crew.kill(Role.PRESENCE)
        self.crew.kill(Role.DEREGISTER)

    def drain(self) -> None:
        self.account.deregistered()
        if self.settings.drain and self.crew.alive(Role.MAIN):
            self.state = State.DRAINING
            self.account.phase(self.state)
            self.timers["drain"] = self.crew.now() + self.settings.drain
        else:
            self.tell_stop()

    def tell_stop(self) -> None:
        self.timers.pop("deregister", None)
        self.timers.pop("drain", None)
        if not self.crew.alive(Role.MAIN):
            self.sweep()
            return
        self.state = State.STOPPING
        self.account.phase(self.state)
        self.act(self.settings.stop)
        if self.suspended:  # it could not hear of the stop
            self.crew.resume()

    def still_registered(self, code: int) -> None:
        """Main is told now, since its time runs; deregistering is tried for as long as something lives."""
        self.owed = code == EX_SOFTWARE
        dropped = self.settings.check[0] != "none"
        fate = "Consul drops the service itself when its check has failed for long enough"
        log.warning("not_deregistered", "not deregistered yet: {error}",
                    error=fate if dropped else "it has no check, so Consul never drops it itself")  # fmt: skip
        self.tell_stop()
        if self.crew.alive(Role.MAIN):
            self.crew.start_deregister()

    def deregistered_late(self, code: int) -> None:
        self.owed = code == EX_SOFTWARE
        if self.owed:
            self.timers["retry"] = self.crew.now() + RETRY

    def deregister_last(self) -> None:
        """Main's end made room for the process that could not be had before."""
        self.state, self.owed = State.DEREGISTERING, False
        self.timers["deregister"] = self.crew.now() + self.budget / 4
        if not self.crew.alive(Role.DEREGISTER):
            self.crew.start_deregister()

    def stop_by_signal(self, code: int) -> None:
        log.warning("action_failed", "{variable} failed with status {code}: sending TERM instead",
                    variable="SVCINIT_STOP", code=code)  # fmt: skip
        self.crew.signal(Role.MAIN, _signal.SIGTERM, group=self.settings.signal_group)

    def hurry(self) -> None:
        """The second stop signal skips the drain, the third kills; the first one during a restart makes it a stop."""
        if self.restarting:
            self.restarting = self.again = False
            self.account.give_up_reload("a stop signal during its restart")
            return
        self.stops += 1
        if self.stops >= 2:
            self.kill_all()
        elif self.state in (State.DEREGISTERING, State.DRAINING):
            self.tell_stop()

    def main_gone(self, code: int) -> None:
        self.tally.main_ended(code)
        self.code = self.settings.exit_map.get(code, code) if self.verdict is None else self.verdict
        lived = self.crew.now() - self.main_since
        serving = self.state in (State.RUNNING, State.RELOADING)
        if serving and code == EX_OK and lived < BRIEFLY and self.crew.strays():
            log.warning("background", "{command} ended at once and left processes: has it gone into the background? "
                        "What svcinit starts must stay in the foreground", command=self.crew.argv[0])  # fmt: skip
        if self.settings.plain:
            self.state = State.DONE
            return
        log.info("exited", "{command} exited with status {code}", command=self.crew.argv[0], code=code, seconds=lived)
        if serving:
            self.stop("the service ended")
        elif self.state == State.STOPPING and self.owed:
            self.deregister_last()
        elif self.state != State.DEREGISTERING:
            self.sweep()

    def kill_all(self) -> None:
        if self.crew.alive(Role.MAIN):
            log.warning("killed", "the service did not stop in time: killed")
        self.account.killed()
        self.crew.kill(Role.MAIN)
        self.crew.sweep(_signal.SIGKILL, exec_sessions=not self.restarting)
        self.timers["buried"] = self.crew.now() + BURIED

    def force(self) -> None:
        """The last resort: it needs no descriptor, no module and no process."""
        code = self.code or EX_SOFTWARE
        try:
            self.crew.kill(Role.MAIN)
            self.crew.sweep(_signal.SIGKILL, exec_sessions=True)
            until, event = self.crew.now() + LAST, Event()
            while self.crew.alive(Role.MAIN) and not isinstance(event, Deadline):
                event = self.crew.wait(until)
                if isinstance(event, Exited) and event.role == Role.MAIN:
                    self.main_code = event.code
            code = KILLED if self.crew.alive(Role.MAIN) else code if self.main_code is None else self.main_code
            log.error("ended", "exit {code}: {reason}", code=code, reason="stopping failed; everything was killed")
        except Exception:  # there is nothing left that could be done about it
            pass
        self.code = self.settings.exit_map.get(code, code) if self.verdict is None else self.verdict
        self.state = State.DONE

    def give_up(self) -> None:
        """Not even KILL ended it: what is not seen to exit is no success."""
        if self.crew.alive(Role.MAIN):
            self.code = KILLED
        self.close()

    def sweep(self) -> None:
        """Main is gone, or never was: what is left is asked to end, and killed when the time is over. A restart leaves
        alone who came by `docker exec`, such as a svcinitctl that waits for it."""
        self.state = State.SWEEPING
        self.account.phase(self.state)
        if self.crew.no_children():
            self.close()
        else:
            self.crew.sweep(_signal.SIGTERM, exec_sessions=not self.restarting)

    def sweep_again(self) -> None:
        """Something ended: that may have been the last, or have left children of its own to us."""
        if self.crew.no_children():
            self.close()
        elif "buried" in self.timers:
            self.crew.sweep(_signal.SIGKILL, exec_sessions=not self.restarting)

    def close(self) -> None:
        self.timers.clear()
        if self.restarting:
            self.start_main()
        elif self.settings.post_stop and self.ever_started:
            self.state = State.CLOSING
            self.begin(Role.HOOK, max(0.0, min(POST_STOP, self.stop_by + HOOKED - self.crew.now())))
            self.crew.start_hook(self.settings.post_stop)
        else:
            self.done()

    def done(self, hook: int = EX_OK) -> None:
        if hook:
            log.warning("hook_failed", "{variable} failed with status {code}", variable="SVCINIT_POST_STOP", code=hook)
        self.account.ended(self.code)
        self.state = State.DONE
