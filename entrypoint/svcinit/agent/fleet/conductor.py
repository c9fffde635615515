"""What the conductor does next: a pure function of what it sees, what it saw, and the time."""

from __future__ import annotations

from svcinit.agent.fleet.view import Decision, Memory, View


def decide(view: View, memory: Memory, now: float) -> Decision:
    """The next writes. `now` is monotonic, in seconds."""
    del view, now
    return Decision(memory)
