"""What templates and SVCINIT_WAIT_FOR see of a source: each input is read once, and none may lose its entries."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from svcinit import log
from svcinit.agent.prepare.source import HAVE_VALUES, OF_VAULT, SINGLE, Answer, InputId, Kind, counts, texts_in
from svcinit.errors import Fault, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from svcinit.agent.consul.discovery import Peer
    from svcinit.agent.prepare.source import Source
    from svcinit.settings.environment import Settings


class TemplateData:
    """`earlier`: how many entries each input had; None: nothing was prepared yet in this run of svcinit.

    `answers`: all that was read; `kv`: the layered keys, relative to their prefix; `fetches`: entered while the source
    is asked, which may hang.
    """

    def __init__(self, settings: Settings, source: Source, earlier: Mapping[InputId, int] | None = None) -> None:
        self.settings, self.source = settings, source
        self.is_first = earlier is None
        self.earlier: Mapping[InputId, int] = earlier or {}
        self.answers: dict[InputId, Answer] = {}
        self.kv: dict[str, bytes] = {}
        self.known_agent: dict[str, str] = {}
        self.names: dict[str, object] = {}
        self.fetches: Callable[[], AbstractContextManager[None]] = nullcontext
        self._redactor: Callable[[str], str] | None = None

    def fetch(self) -> None:
        """Read all KV prefixes; later ones override earlier ones."""
        for prefix, dc in self.settings.kv_prefix:
            start = len(prefix) + 1
            found = self.read(InputId(Kind.KV, prefix, dc))
            self.kv.update({key[start:]: value for key, value in found.items()})

    def wait(self) -> None:
        """Raises Unavailable, with all that is missing of SVCINIT_WAIT_FOR and SVCINIT_WAIT_FOR_KEYS."""
        missing = [*self.missing_peers(), *self.missing_keys()] if self.source.waits else []
        if missing:
            raise Unavailable(*missing)

    def missing_peers(self) -> list[Fault]:
        """The services of SVCINIT_WAIT_FOR that have too few instances, as one fault; none: an empty list."""
        missing, hint = [], ""
        for name, count, dc in self.settings.wait_for:
            have = len(self.peers(name, None, dc))
            if have < count:
                wanted = InputId(Kind.PEERS, name, dc).text
                missing.append(f"{wanted}: {have} of {count} instances {self.source.where}")
                hint = hint or self.token_hint * (not have)
        return [Fault("SVCINIT_WAIT_FOR: " + ", ".join(missing) + hint, variable="SVCINIT_WAIT_FOR")] * bool(missing)

    def missing_keys(self) -> list[Fault]:
        """The keys of SVCINIT_WAIT_FOR_KEYS that do not exist, as one fault; none: an empty list. After `fetch`."""
        missing = [name for name in self.settings.wait_for_keys if not self._has(name)]
        if not missing:
            return []
        prefixes = ", ".join(InputId(Kind.KV, *prefix).text for prefix in self.settings.kv_prefix)
        said = f"SVCINIT_WAIT_FOR_KEYS: not below {prefixes or 'KV'}: {', '.join(missing)}"
        return [Fault(said, variable="SVCINIT_WAIT_FOR_KEYS", key=missing[0])]

    def _has(self, name: str) -> bool:
        """Is there a key of that name, or one in that folder? A full name begins with a slash."""
        if name.startswith("/"):
            whole = name.strip("/")
            return bool(self.keys_below(whole)) if name.endswith("/") else self.key_at(whole) is not None
        return any(key.startswith(name) for key in self.kv) if name.endswith("/") else name in self.kv

    def read(self, wanted: InputId) -> Any:
        """The content of an input. Raises Unavailable when it had entries and now has none."""
        if wanted not in self.answers:
            with self.fetches():
                answer = self.source.read(wanted)
            self._check_loss(wanted, len(answer.content))
            self.answers[wanted] = answer
        return self.answers[wanted].content

    def _check_loss(self, wanted: InputId, count: int) -> None:
        if wanted.kind in SINGLE:  # a template that uses it has a default, or fails without it
            return
        if count or self.settings.allow_empty or not self.source.may_lose_data:
            return
        before = self.earlier.get(wanted, 0)
        if self.is_first and wanted.kind == Kind.KV:  # keys stay; peers come and go
            from svcinit.agent.prepare import cache

            before = cache.count(self.settings, wanted)
        if before and not (before == 1 and wanted.kind == Kind.PEERS and self.is_own(wanted)):
            raise Unavailable(
                f"{wanted} had {before} entries and now has none: this counts as a failed fetch "
                "(may the token still read them? SVCINIT_ALLOW_EMPTY=1 if they were removed on purpose)"
            )

    def is_own(self, wanted: InputId) -> bool:
        """Are these the instances of a service of this container? It may be the only one, and it comes and goes."""
        if wanted.kind not in (Kind.PEERS, Kind.INSTANCES) or wanted.dc is not None:
            return False
        from svcinit.agent.registration.services import services

        return wanted.name in [each.name for each in services(self.settings)]

    def counts(self) -> dict[InputId, int]:
        """How many entries each input has, or had when it was last read."""
        return {**self.earlier, **counts(self.answers)}

    def warn_about_empty(self) -> None:
        """Log each input that is empty, once."""
        for wanted, count in counts(self.answers).items():
            if not count and wanted.kind not in SINGLE and wanted not in self.earlier:
                log.warning("empty", "{input}: {error}", input=str(wanted), error=self.source.none_found(wanted.kind))

    def values(self) -> list[str]:
        """The values of all keys and secrets, as text."""
        values = [value for content in self.key_values() for value in content.values()]
        secrets = [answer.content for wanted, answer in self.answers.items() if wanted.kind in OF_VAULT]
        texts = (value.decode("utf-8", "replace") for value in dict.fromkeys(values))
        return list(dict.fromkeys((*texts, *texts_in(secrets))))

    def key_values(self) -> list[Mapping[str, bytes]]:
        """All keys with their values: those below the service's prefixes by their short names, and all by full name."""
        found = [answer.content for wanted, answer in self.answers.items() if wanted.kind in HAVE_VALUES]
        return [self.kv, *found]

    def redact(self, text: str) -> str:
        """The output of a check command, without the values of keys and other secrets."""
        if self._redactor is None:
            from svcinit.agent.redact import redactor

            self._redactor = redactor(self.settings, self.values())
        return self._redactor(text)

    # what templates see: `engine.Data`

    @property
    def token_hint(self) -> str:
        """To add where a service has no instances: the token may be the reason."""
        return self.source.token_hint if self.settings.consul_http_token else ""

    def key_at(self, path: str, dc: str | None = None) -> bytes | None:
        wanted = InputId(Kind.KEY, path, dc)
        folder = self._folder_with(path, wanted.dc)
        value: bytes | None = (self.read(wanted) if folder is None else folder).get(path)
        return value

    def keys_below(self, path: str, dc: str | None = None) -> Mapping[str, bytes]:
        start, wanted = f"{path}/" if path else "", InputId(Kind.KV, path, dc)
        folder = self._folder_with(start, wanted.dc)
        if folder is None:
            found: Mapping[str, bytes] = self.read(wanted)
            return found
        return {key: value for key, value in folder.items() if key.startswith(start)}

    def _folder_with(self, path: str, dc: str | None) -> Mapping[str, bytes] | None:
        """The content of a prefix that was read already, and has `path` if it exists."""
        for wanted, answer in self.answers.items():
            start = f"{wanted.name}/" if wanted.name else ""
            if wanted.kind == Kind.KV and wanted.dc == dc and path.startswith(start):
                content: Mapping[str, bytes] = answer.content
                return content
        return None

    def peers(self, name: str, tag: str | None = None, dc: str | None = None) -> list[Peer]:
        found: list[Peer] = self.read(InputId(Kind.PEERS, name, dc, tag))
        return found

    def catalog(self, kind: str, name: str, tag: str | None, dc: str | None, query: Mapping[str, str]) -> list[Any]:
        found: list[Any] = self.read(InputId(kind, name, dc, tag, _encoded(query)))
        return found

    def vault(self, kind: str, path: str, query: str | None) -> list[Any]:
        found: list[Any] = self.read(InputId(kind, path, None, None, query))
        return found

    @property
    def env(self) -> Mapping[str, str]:
        return self.settings.main_environment({})

    @property
    def node(self) -> str:
        return self.agent["node"]

    @property
    def this(self) -> This:
        return This(self.settings, lambda: self.agent["address"])

    @property
    def agent(self) -> dict[str, str]:
        """The agent's `node` name and `address`."""
        if not self.known_agent:
            with self.fetches():
                self.known_agent = self.source.agent()
        return self.known_agent


def _encoded(query: Mapping[str, str]) -> str | None:
    if not query:
        return None
    from urllib.parse import urlencode

    return urlencode(sorted(query.items()))


class This:
    """This instance, as templates see it: name, id, port and (looked up when it is used) address."""

    def __init__(self, settings: Settings, agent_address: Callable[[], str]) -> None:
        self.name, self.id, self.port = settings.service, settings.id, settings.port
        self._advertise, self._agent_address = settings.advertise, agent_address

    @property
    def address(self) -> str:
        from svcinit.agent.registration.advertise import advertised

        return advertised(self._advertise) or self._agent_address()
