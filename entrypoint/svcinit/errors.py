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


class Outcome:
    """Exit statuses that svcinit's own children tell init, besides those above. Each means one thing; no program that
    init starts has a role in which it could be taken for one."""

    NOT_READY = 81  # presence: SVCINIT_READY did not succeed within SVCINIT_START_TIMEOUT
    NOT_REGISTERED = 82  # presence, deregister: Consul had nothing of ours
    NOT_PASSING = 83  # verify: SVCINIT_CHECK did not succeed within SVCINIT_RELOAD_VERIFY


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


class Fault(str):
    """One error: a complete sentence for people, and fields for programs and for the log.

    Fields are `variable`, `file`, `line` and `key`, as far as the error has them. Code reads the fields, or the class
    of the fault, and never the sentence.
    """

    fields: Mapping[str, object]

    def __new__(cls, sentence: str, /, **fields: object) -> Self:
        fault = super().__new__(cls, sentence)
        fault.fields = {**fields, **getattr(sentence, "fields", {})}  # those of the fault itself are more exact
        return fault

    def reworded(self, sentence: str) -> Fault:
        """The same fields, another sentence."""
        return Fault(sentence, **self.fields)


class SvcinitError(Exception):
    """Root of all errors raised on purpose. `faults` are logged, a line each."""

    code = EX_SOFTWARE

    def __init__(self, *faults: str, **fields: object) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(Fault(fault, **fields) for fault in faults)

    @property
    def fields(self) -> Mapping[str, object]:
        """The fields of the error, where it is one fault."""
        return self.faults[0].fields if len(self.faults) == 1 else {}


class ConfigError(SvcinitError):
    """Wrong input: trying again changes nothing until a person does."""

    code = EX_CONFIG


class Unavailable(SvcinitError):
    """A part that svcinit depends on does not answer (or not usefully): worth trying again."""

    code = EX_TEMPFAIL
