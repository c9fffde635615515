"""Many presences on one agent: herd.py COUNT. Ends them on TERM."""

import os
import sys

from svcinit.agent.registration import presence
from svcinit.settings import environment
from testing.herd import forked


def keep(number: int) -> None:
    read = environment.read({**os.environ, "SVCINIT_ID": f"herd-{number}"})
    presence.main(read, lambda: None, life=f"{number:016x}", first=True, ready=-1, env={}, secrets=-1)


if __name__ == "__main__":
    forked(int(sys.argv[1]), keep)
