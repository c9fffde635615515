"""System calls of Python that a test replaces, as faults that the kernel cannot be made to show."""

from __future__ import annotations

import os
import posix

import pytest


def replace_call(patch: pytest.MonkeyPatch, name: str, fake: object) -> None:
    """In both modules that have it: init takes its calls from `posix`, the network half from `os`."""
    for module in (os, posix):
        patch.setattr(module, name, fake)
