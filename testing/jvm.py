"""What a JVM in a container does with signals, whatever service it runs."""

from __future__ import annotations

from testing.docker import Container
from testing.process import is_alive


def dumps_its_threads(container: Container) -> None:
    """QUIT reaches the JVM, which prints what its threads do, and goes on as it is."""
    before = jvms(container)
    container.kill("QUIT")
    container.says("Full thread dump OpenJDK")
    assert jvms(container) == before


def jvms(container: Container) -> list[int]:
    return [pid for pid, line in container.processes() if line.split()[0].endswith("java")]


def stops_well(container: Container) -> None:
    """The 143 with which a JVM answers TERM is success, and it takes everything with it in time."""
    below = [pid for pid, _ in container.processes()]
    assert container.stop() == 0, container.logs
    assert "exited with status 143" in container.logs
    assert "did not stop in time" not in container.logs
    assert not any(map(is_alive, below))
