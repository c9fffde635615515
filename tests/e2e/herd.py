"""Many presences on one agent: herd.py COUNT. Ends them on TERM."""

import os
import sys

from svcinit.agent.registration import presence
from svcinit.handover import Slots
from svcinit.settings import environment
from testing.herd import forked


def keep(number: int) -> None:
    read = environment.read({**os.environ, "SVCINIT_ID": f"herd-{number}"})
    slots = Slots()
    slots.heartbeat.open()
    presence.main(read, (), slots, life=f"{number:016x}", first=True, env={})


if __name__ == "__main__":
    forked(int(sys.argv[1]), keep)
