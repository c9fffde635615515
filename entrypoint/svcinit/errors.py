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


class Fault(str):
    """One complete sentence, for people. `named` is what it names, for programs: `variable`, `file`, `line`, `key`.

    A sentence about a variable begins with its name. What a fault names itself goes before what it is given later.
    """

    named: Mapping[str, object]

    def __new__(cls, sentence: str, /, **named: object) -> Fault:
        made = super().__new__(cls, sentence)
        made.named = {**_variable(sentence), **named, **getattr(sentence, "named", {})}
        return made

    def said(self, sentence: str) -> Fault:
        """The same fault in other words."""
        return Fault(sentence, **self.named)


def _variable(sentence: str) -> dict[str, object]:
    if not sentence.startswith(("SVCINIT_", "CONSUL_")):
        return {}
    end = next((at for at, each in enumerate(sentence) if not each.isalnum() and each != "_"), len(sentence))
    return {"variable": sentence[:end]}


class SvcinitError(Exception):
    """Root of all errors raised on purpose. `faults` are told to people, one a line; each names what is in `named`."""

    code = EX_SOFTWARE

    def __init__(self, *faults: str, **named: object) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(Fault(fault, **named) for fault in faults)

    @property
    def named(self) -> Mapping[str, object]:
        """What the error names, where it is one fault."""
        return self.faults[0].named if len(self.faults) == 1 else {}


class ConfigError(SvcinitError):
    """Wrong input: trying again changes nothing until a person does."""

    code = EX_CONFIG


class Unavailable(SvcinitError):
    """A part that svcinit depends on does not answer (or not usefully): worth trying again."""

    code = EX_TEMPFAIL
