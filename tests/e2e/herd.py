"""Many presences on one agent, forked as init forks them: herd.py COUNT. Ends them on TERM."""

import _signal
import os
import sys

from svcinit import settings
from svcinit.agent import presence


def main() -> None:
    _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())
    herd = []
    for number in range(int(sys.argv[1])):
        pid = os.fork()
        if pid == 0:
            read = settings.read({**os.environ, "SVCINIT_ID": f"herd-{number}"})
            life = f"{number:016x}"
            os._exit(presence.main(read, lambda: None, life=life, first=True, ready=-1, env={}, kv={}))
        herd.append(pid)
    _signal.sigwait({_signal.SIGTERM})
    for pid in herd:
        os.kill(pid, _signal.SIGTERM)
    for pid in herd:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
