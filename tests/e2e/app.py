"""A service for the tests: appends `got NAME` to a file for each signal, serves nothing, ends on TERM with 0."""

import os
import signal
import socket
import sys


def main() -> None:
    log, port = sys.argv[1], int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", port))
    wanted = {signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    with open(log, "a", encoding="utf-8") as file:
        while True:
            print(f"up {os.getpid()}", file=file, flush=True)
            got = signal.Signals(signal.sigwait(wanted))
            print(f"got {got.name}", file=file, flush=True)
            if got == signal.SIGTERM:
                listener.close()
                return


if __name__ == "__main__":
    main()
