"""A command that prints each signal it gets; for the tests of forwarding."""

import os
import signal


def main() -> None:
    numbers = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    os.write(1, b"ready 0\n")
    while True:
        os.write(1, b"got %d\n" % signal.sigwait(numbers))


if __name__ == "__main__":
    main()
