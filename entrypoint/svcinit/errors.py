"""The errors of svcinit, and their exit statuses.

    SvcinitError        70  an error in svcinit itself
      ConfigError       78  wrong input: a setting, a template, a key, a token
      Unavailable       75  Consul or DNS is unavailable; the same operation may succeed later

The numbers are those of sysexits.h (EX_SOFTWARE, EX_CONFIG, EX_TEMPFAIL, EX_UNAVAILABLE). The container exits with
EX_UNAVAILABLE if a dependency is unavailable for SVCINIT_START_TIMEOUT.
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
    """Other exit statuses of svcinit's own children, for init. Each has one meaning. A program that init starts cannot
    be mistaken for such a child, because it has another role."""

    NOT_READY = 81  # presence: SVCINIT_READY did not succeed within SVCINIT_START_TIMEOUT
    NOT_REGISTERED = 82  # presence, deregister: no registration of this container was in Consul
    NOT_PASSING = 83  # verify: SVCINIT_CHECK did not succeed within SVCINIT_RELOAD_VERIFY


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self


class Fault(str):
    """One error: a complete sentence for people, and fields for programs and the log.

    Fields are `variable`, `file`, `line`, `key`, `input` and `name`, as far as the error has them. Code reads the
    fields, or the class of the fault, and never the sentence.
    """

    fields: Mapping[str, object]

    def __new__(cls, sentence: str, /, **fields: object) -> Self:
        fault = super().__new__(cls, sentence)
        fault.fields = {**fields, **getattr(sentence, "fields", {})}  # the fields of an existing Fault are more exact
        return fault

    def reworded(self, sentence: str) -> Fault:
        """A Fault with the same fields and another sentence."""
        return Fault(sentence, **self.fields)


class SvcinitError(Exception):
    """Base class of all errors that svcinit raises on purpose. Each of `faults` is logged on a line of its own."""

    code = EX_SOFTWARE

    def __init__(self, *faults: str, **fields: object) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(Fault(fault, **fields) for fault in faults)

    @property
    def fields(self) -> Mapping[str, object]:
        """The fields of the error, if it consists of one Fault; otherwise none."""
        return self.faults[0].fields if len(self.faults) == 1 else {}


class ConfigError(SvcinitError):
    """Wrong input: another try fails too, until a person corrects it."""

    code = EX_CONFIG


class Unavailable(SvcinitError):
    """A dependency does not answer, or gives no usable answer: another try may succeed."""

    code = EX_TEMPFAIL
