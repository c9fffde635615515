"""What can go wrong, and the exit status that says so.

    SvcinitError        70  a fault of svcinit's own
      ConfigError       78  something given is wrong: a setting, a template, a key, a token
      Unavailable       75  not now: Consul or DNS is away; the same may work later

The numbers are sysexits.h's (EX_SOFTWARE, EX_CONFIG, EX_TEMPFAIL, EX_UNAVAILABLE). To whoever started the
container, svcinit itself says EX_UNAVAILABLE when what it needed stayed away for SVCINIT_START_TIMEOUT.
"""

from __future__ import annotations

EX_OK = 0
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_TEMPFAIL = 75
EX_CONFIG = 78
NOT_EXECUTABLE = 126
NOT_FOUND = 127


class SvcinitError(Exception):
    """Root of all errors raised on purpose. `faults` holds one complete sentence a fault, for people."""

    code = EX_SOFTWARE

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class ConfigError(SvcinitError):
    """Wrong input: trying again changes nothing until a person does."""

    code = EX_CONFIG


class Unavailable(SvcinitError):
    """A part that svcinit depends on does not answer (or not usefully): worth trying again."""

    code = EX_TEMPFAIL
