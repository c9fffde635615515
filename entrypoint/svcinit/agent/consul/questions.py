"""What templates can ask a Consul agent, besides the keys below a prefix and peers: a class for each kind of input.

A question has the `path` and the ACL `rule` of its endpoint, the parameters of its `query`, and `read` for the answer,
which raises Away for anything else than the endpoint gives. The content can be expressed in JSON, except for keys. A
question with `is_blocking` has an index, so its answer can be followed. Source: Consul's "KV Store" API page.
"""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING

from svcinit.agent.consul.api import key_rule
from svcinit.agent.prepare.source import Kind

if TYPE_CHECKING:
    from typing import Any

    from svcinit.agent.consul.api import Consul
    from svcinit.agent.prepare.source import InputId

LIMIT = 64 << 20  # bytes of an answer


class Question:
    """The base of all questions, and what they have in common."""

    path = rule = ""
    is_blocking = True

    def __init__(self, wanted: InputId) -> None:
        self.wanted = wanted

    def query(self, consul: Consul) -> dict[str, str]:
        return {**consul.consistency_query(), **({"dc": self.wanted.dc} if self.wanted.dc else {})}

    def read(self, consul: Consul, answer: Any) -> Any:
        raise NotImplementedError


class Key(Question):
    """One key, by its full name: a mapping with its value, or an empty one."""

    def __init__(self, wanted: InputId) -> None:
        super().__init__(wanted)
        self.path, self.rule = "/v1/kv/" + urllib.parse.quote(wanted.name), key_rule(wanted.name)

    def read(self, consul: Consul, answer: Any) -> dict[str, bytes]:
        return consul.pairs(self.path, answer)


QUESTIONS: dict[str, type[Question]] = {Kind.KEY: Key}


def question(wanted: InputId) -> Question:
    return QUESTIONS[wanted.kind](wanted)
