"""Where the inputs of a preparation come from. One implementation for each place: `source_*.py`.

A transaction is given one source and does not know which. A source that lacks something and falls back to another one
takes that as an argument (`source_watch.py`).
"""

from __future__ import annotations

from svcinit.agent.prepare.inputs import Answer, InputId, Kind, digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Source:
    """`where`: the place, after "instances"; `token_hint`: what to add if a token is used and there are none.

    `may_lose_data`: an input that had entries and has none counts as a failed read, because servers that recover
    answer so. `waits`: SVCINIT_WAIT_FOR and SVCINIT_WAIT_FOR_KEYS apply. `is_live`: what was read is kept in
    SVCINIT_CACHE.
    """

    where = "in DNS"
    token_hint = "; DNS answers with the agent's own token (acl.tokens.default or dns), not with CONSUL_HTTP_TOKEN"
    may_lose_data = waits = is_live = True

    def read(self, wanted: InputId) -> Answer:
        """The content of an input. Raises ConfigError and Unavailable."""
        raise NotImplementedError

    def none_found(self, kind: str) -> str:
        """What is logged about an input that is empty."""
        whose = "the agent's own" if kind == Kind.PEERS else "the"
        return f"there are none, or none that {whose} token may read"

    def agent(self) -> dict[str, str]:
        """The Consul agent's `node` name and `address`. Raises ConfigError and Unavailable."""
        raise NotImplementedError

    def versions(self, answers: Mapping[InputId, Answer]) -> dict[InputId, str]:
        """What to follow from now on, each with a text that changes when its content does."""
        return {each: digest(answer.content) for each, answer in answers.items()}

    def request_stats(self) -> dict[str, Any]:
        """The requests that were made, as `stats.Requests.state` returns them."""
        return {}

    def close(self) -> None:
        """Close the connections."""
