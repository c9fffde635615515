"""Presence waits for signals and descriptors at the same time."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from svcinit.agent.registration.wakeup import Wakeup


@pytest.fixture
def blocked() -> Iterator[None]:
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    yield
    signal.sigtimedwait({signal.SIGTERM, signal.SIGHUP}, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, former)


@pytest.mark.parametrize("has_signalfd", [True, False])
@pytest.mark.usefixtures("blocked")
def test_a_pending_signal_ends_a_wait_and_its_sender_is_known(has_signalfd: bool) -> None:
    child = os.fork()  # a process of one thread, as presence is
    if child == 0:
        with contextlib.suppress(BaseException):
            waits = Wakeup({signal.SIGTERM}, 1.0)
            if not has_signalfd:
                waits.close()
            os.kill(os.getpid(), signal.SIGTERM)
            taken = waits.take({signal.SIGTERM}, 20.0)
            os._exit(0 if taken is not None and (taken.si_signo, taken.si_pid) == (signal.SIGTERM, os.getpid()) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.usefixtures("blocked")
def test_a_descriptor_ends_a_wait_without_a_signal() -> None:
    waits, (read_end, write_end) = Wakeup({signal.SIGTERM}, 1.0), os.pipe()
    os.write(write_end, b"1")
    waits.descriptors = [read_end]
    assert waits.take({signal.SIGTERM}, 20.0) is None
    for descriptor in (read_end, write_end):
        os.close(descriptor)
    waits.close()
