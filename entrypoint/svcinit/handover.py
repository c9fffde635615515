"""The messages between init and its forked children: one format, in memory files that they share.

    slots.verdict.write(Verdict(argv=["uwsgi"], env={}))  # in prepare
    slots.verdict.read(Verdict)  # in init; None if there is no complete verdict

A slot is a memory file (memfd_create(2)): forked children share it, programs do not inherit it.

A message is a head and a line of JSON. The head is a line with the version of this format, the kind of the message, and
the length in bytes and the checksum of the JSON. So a reader recognizes a message that is not complete (its
writer still writes it, or was killed), and one of another kind or version. A reader then gets None; it never gets an
exception, and never reads more than LIMIT bytes.

Text may hold bytes that are not UTF-8, in file names for example. In Python they are lone surrogates (os.fsdecode,
PEP 383), which JSON escapes (`\\udcff`); so they survive. Contents (values of keys, files) are base64.

`json` is imported at the first use. A plain init never imports it, because it hands nothing over. The init of a
service imports it for its state file while prepare runs, so the verdict costs no further import.
"""

from __future__ import annotations

import os
import time

from svcinit.state_files import MISSHAPEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Self, TypeVar

    from svcinit import log

    Kind = TypeVar("Kind", bound="Message")

VERSION = 2
LIMIT = 256 << 20  # bytes of a message that is read; the files of one rollback may be large
UNLIMITED = 1 << 60
HEAD_LIMIT = 256  # bytes of the first line
CHUNK = 1 << 20


class Message:
    """The base of all messages. The attributes are the fields, and each can be expressed in JSON."""

    def body(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def parsed(cls, body: Mapping[str, Any]) -> Self:
        """Raises one of MISSHAPEN for fields that are not the expected ones."""
        return cls(**body)


class Progress(Message):
    """What a preparation is doing now; its verdict replaces this message in the same slot."""

    FETCHING = "fetching"  # it waits for Consul, DNS or Vault
    RENDERING = "rendering"  # it waits for no answer: a hang is its own fault

    def __init__(self, phase: str) -> None:
        self.phase = phase


class Verdict(Message):
    """What a successful preparation found."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], changed: Sequence[str] = (), reloads: Sequence[str] = (),
        inputs: Mapping[str, Any] | None = None, files: int = 0, keys: int = 0, said: Sequence[log.Entry] = (),
        turn: int = 0, revision: str = "", trouble: str = "", limits: Mapping[str, float] | None = None,
        undone: bool = False,
    ) -> None:  # fmt: skip
        self.argv, self.env = list(argv), dict(env)  # of the service; env: in addition to its environment
        self.changed = list(changed)  # paths of the files that were replaced
        self.reloads = list(reloads)  # how the templates of these files ask that the service is notified; "": as usual
        self.limits = dict(limits or {})  # seconds that the commands of all templates may take, by their `reload=`
        self.inputs = dict(inputs or {})  # what presence follows: digests of the data, by which changes are recognized
        self.files, self.keys = files, keys  # how many there are
        self.said = list(said)  # log entries, for the process that goes on with the reload
        self.turn = turn  # of a roll-out that it was prepared for (agent/fleet/records.py: Turn.serial); 0: none
        self.revision = revision  # of the configuration, with SVCINIT_ROLL
        self.trouble = trouble  # why a start with it is degraded; empty: it is not
        self.undone = undone  # were its files rolled back, because the reload failed later?

    @classmethod
    def parsed(cls, body: Mapping[str, Any]) -> Self:
        found = cls(**body)
        texts = [*found.argv, *found.env, *found.env.values(), *found.changed, *found.reloads]
        texts += [found.revision, found.trouble, *found.limits]
        lists = [body[name] for name in ("argv", "changed", "reloads", "said")]
        numbers = found.files, found.keys, found.turn
        if not found.argv or not _are(list, lists) or not _are(str, texts) or not _are(int, numbers):
            raise ValueError
        if not _are(float, found.limits.values()):
            raise ValueError
        return found

    @property
    def lacks_answers(self) -> bool:
        """Was it prepared with defaults, because Consul did not answer? (agent/prepare/source_defaults.py)"""
        return any(digest == "" for *_, digest in self.inputs.get("versions", ()))


class Refusal(Message):
    """A change that presence's worker could not prepare. It takes the place of a verdict."""

    def __init__(self, reason: str, said: Sequence[log.Entry] = (), turn: int = 0) -> None:
        self.reason, self.turn = reason, turn  # turn: as in Verdict
        self.said = list(said)  # log entries, as in Verdict


class Memory(Message):
    """What a preparation leaves for the next one, and for a rollback."""

    def __init__(self, counts: Iterable[list[Any]], rollback: bytes = b"") -> None:
        self.counts = list(counts)  # the number of entries of each input, as agent/prepare/source.py: to_json
        self.rollback = rollback  # a record of agent/files/journal.py, or empty

    def body(self) -> dict[str, Any]:
        return {"counts": self.counts, "rollback": _to_base64(self.rollback)}

    @classmethod
    def parsed(cls, body: Mapping[str, Any]) -> Self:
        return cls(body["counts"], _from_base64(body["rollback"]))


class Change(Message):
    """What the watches of presence know, for the worker that prepares a change."""

    def __init__(
        self, late: float, counts: Iterable[list[Any]], answers: Iterable[Sequence[Any]], released: Iterable[str] = (),
        *, turn: int = 0, revision: str = "", reloads: Sequence[str] = (), may_restart: bool = False,
    ) -> None:  # fmt: skip
        self.released = list(released)  # targets with `wait=` that have waited long enough
        self.late = late  # the deadline in seconds on the monotonic clock
        self.counts = list(counts)  # see Memory
        self.answers = list(answers)  # of each input: the fields of its id, content, fetched_at, index
        self.turn, self.revision = turn, revision  # as in Verdict; no revision: that of the last verdict of init
        self.reloads = list(reloads)  # how the service is notified, whatever has changed
        self.may_restart = may_restart  # restart the service if its arguments or environment change

    def body(self) -> dict[str, Any]:
        return {**vars(self), "answers": [_with_contents(answer, _to_base64) for answer in self.answers]}

    @classmethod
    def parsed(cls, body: Mapping[str, Any]) -> Self:
        answers = [_with_contents(answer, _from_base64) for answer in body["answers"]]
        return cls(**{**body, "answers": answers})


class Fetched(Message):
    """What presence fetched for the first prepare. `agent`: its node and address; empty if that is not known."""

    def __init__(self, answers: Iterable[Sequence[Any]], agent: Mapping[str, str]) -> None:
        self.answers = list(answers)  # as in Change
        self.agent = dict(agent)

    def body(self) -> dict[str, Any]:
        return {**vars(self), "answers": [_with_contents(answer, _to_base64) for answer in self.answers]}

    @classmethod
    def parsed(cls, body: Mapping[str, Any]) -> Self:
        return cls([_with_contents(answer, _from_base64) for answer in body["answers"]], body["agent"])


class Word(Message):
    """To a presence that was started before the service: the service runs now."""

    def __init__(self, env: Mapping[str, str], odd: Sequence[str] = ()) -> None:
        self.env, self.odd = dict(env), list(odd)  # of commands that probe, as settings/environment.py: Environment


class Heartbeat(Message):
    """A sign of life of presence."""

    def __init__(self, milliseconds: int) -> None:
        self.milliseconds = milliseconds  # on the monotonic clock

    @classmethod
    def now(cls) -> Self:
        return cls(int(time.monotonic() * 1000))


class Readiness(Message):
    """What presence has reached since the service was started; for init, and for the next presence."""

    def __init__(self, ready: bool = False, registered: bool = False) -> None:
        self.ready = ready  # SVCINIT_READY succeeded
        self.registered = registered  # all services are registered


class Secrets(Message):
    """The values of all keys, of which none may appear in the output of a probe."""

    def __init__(self, values: Sequence[str]) -> None:
        self.values = list(map(str, values))


class Slot:
    """A memory file. It is opened when it is needed first."""

    def __init__(self, name: str) -> None:
        self.name, self.fd = name, -1  # the file descriptor; -1: not open

    @property
    def is_open(self) -> bool:
        return self.fd >= 0

    def open(self) -> Self:
        """Raises OSError."""
        if self.fd < 0:
            try:
                self.fd = os.memfd_create(f"svcinit-{self.name}", os.MFD_CLOEXEC)
            except OSError as error:
                raise OSError(error.errno, f"memfd_create(2): {error.strerror}") from error
        return self

    def renew(self) -> None:
        """Take a new file: late children still have the former one. If there can be no other, that one is emptied.
        Raises OSError."""
        former, self.fd = self.fd, -1
        try:
            self.open()
        except OSError:
            if former < 0:
                raise
            self.fd = former
            self.clear()
            return
        if former >= 0:
            os.close(former)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def size(self) -> int:
        """In bytes; 0 for a slot that was never opened."""
        return os.fstat(self.fd).st_size if self.fd >= 0 else 0

    @property
    def is_filled(self) -> bool:
        return self.size > 0

    @property
    def stamp(self) -> tuple[int, int]:
        """Changes with each `replace`."""
        if self.fd < 0:
            return 0, 0
        status = os.fstat(self.fd)
        return status.st_mtime_ns, status.st_size

    def clear(self) -> None:
        os.ftruncate(self.fd, 0)

    def content(self, limit: int = LIMIT) -> bytes:
        """All bytes; empty if there are more than `limit`."""
        size = self.size
        return os.pread(self.fd, size, 0) if 0 < size <= limit else b""

    def replace(self, data: bytes) -> None:
        """Raises OSError."""
        done = 0
        while done < len(data):
            done += os.pwrite(self.fd, data[done:], done)
        os.ftruncate(self.fd, len(data))

    def copy(self, other: Slot) -> None:
        """Take the content of another slot, in chunks: init never has all of it in memory. Raises OSError."""
        self.clear()
        done = 0
        while data := os.pread(other.fd, CHUNK, done):
            done += os.pwrite(self.fd, data, done)

    def write(self, message: Message) -> None:
        """Raises OSError."""
        self.replace(_encoded(message))

    def read(self, kind: type[Kind]) -> Kind | None:
        """The message, if it is complete and of this kind; otherwise None. Raises OSError."""
        return _decoded(self.content(), kind)


class Slots:
    """All slots of one svcinit. A child gets this object by its fork."""

    def __init__(self) -> None:
        self.verdict = Slot("verdict")  # of init's prepare: Progress, then Verdict
        self.memory, self.fresh = Slot("memory"), Slot("memory")  # Memory of the last prepare, and of the one that runs
        self.intent = Slot("intent")  # what prepare began: a record of agent/files/journal.py (agent/prepare/rollback)
        self.lock = Slot("lock")  # always empty; see agent/prepare/rollback.py: locked
        self.inputs = Slot("inputs")  # the last Verdict that init used: presence follows its inputs
        self.news = Slot("news")  # of presence's worker: as `verdict`; init empties it when it has taken the verdict
        self.news_memory = Slot("memory")  # as `fresh`
        self.news_intent = Slot("intent")  # as `intent`
        self.heartbeat = Slot("heartbeat")
        self.ready = Slot("ready")
        self.secrets = Slot("secrets")
        self.fetched, self.word = Slot("fetched"), Slot("word")  # see processes/ahead.py; presence empties `word`
        self.vault_token, self.vault_leases = Slot("vault"), Slot("vault")  # see agent/vault/memory.py
        self.vault_news, self.vault_secret_id = Slot("vault"), Slot("vault")

    def of_vault(self) -> list[Slot]:
        return [self.vault_token, self.vault_leases, self.vault_news, self.vault_secret_id]

    # Init opens what its children share with all that come after them. Each raises OSError.

    def open_for_prepare(self, *, vault: bool) -> None:
        for slot in (self.lock, self.inputs, self.intent, self.secrets, *(self.of_vault() if vault else ())):
            slot.open()

    def open_for_presence(self, *, follows: bool) -> None:
        """The next presence reads what a late child of this one writes."""
        for slot in (self.news, self.news_memory, self.news_intent) if follows else ():
            slot.open()

    def all(self) -> list[Slot]:
        return list(vars(self).values())


CLOSED = Slot("closed")  # in place of a slot that a preparation does not have


def _encoded(message: Message) -> bytes:
    import json

    body = json.dumps(message.body()).encode()
    return _head(type(message), body) + b"\n" + body


def _decoded(data: bytes, kind: type[Kind]) -> Kind | None:
    import json

    end = data.find(b"\n", 0, HEAD_LIMIT)
    if end < 0:
        return None
    body = data[end + 1 :]
    if data[:end] != _head(kind, body):
        return None
    try:
        return kind.parsed(json.loads(body.decode()))
    except MISSHAPEN:
        return None


def _head(kind: type[Message], body: bytes) -> bytes:
    """The checksum is Python's own hash: its secret is the same in all forked children, and it needs no import."""
    return f"{VERSION} {kind.__name__} {len(body)} {hash(body)}".encode()


def _are(kind: type, values: Iterable[object]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _with_contents(answer: Sequence[Any], convert: Callable[[Any], Any]) -> list[Any]:
    """The answer with the values of keys converted; peers are text and numbers."""
    *wanted, content, fetched_at, index = answer
    if isinstance(content, dict):
        content = {key: convert(value) for key, value in content.items()}
    return [*wanted, content, fetched_at, index]


def _to_base64(data: bytes) -> str:
    import binascii

    return binascii.b2a_base64(data, newline=False).decode()


def _from_base64(text: str) -> bytes:
    import binascii

    return binascii.a2b_base64(text)
