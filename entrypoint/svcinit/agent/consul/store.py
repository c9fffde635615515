"""Keys by which processes agree: reads with their index, transactions, sessions and locks.

Source: Consul's "KV Store", "Transactions", "Session" and "Health" API pages. Measured on 1.8.7 and 1.14.5: a
transaction takes 64 operations and 512 KiB of body; the answer to one that fails lists every operation that fails.
"""

from __future__ import annotations

import base64
import urllib.parse
from typing import TYPE_CHECKING, Any, NamedTuple

from svcinit.agent.consul.answers import Away, Cause, Denied, cause_of
from svcinit.agent.consul.api import key_rule, service_rule
from svcinit.agent.consul.http import LARGE_LIMIT
from svcinit.state_files import MISSHAPEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from svcinit.agent.consul.api import Consul

MOST_OPERATIONS, BODY_LIMIT = 64, 512 << 10  # of one transaction: operations, bytes
OVERHEAD = 1024  # bytes of an operation besides its value: at most, with the longest name of a key that Consul takes
CONFLICT = (409,)  # the status of a transaction that was not applied
STALE, DEFAULT, CONSISTENT = "stale", "default", "consistent"
NODES_RULE = 'node_prefix "" { policy = "read" }'  # without it, the answer about health has no instance
WRITE_RULE, SESSION_RULE = 'key "{}" {{ policy = "write" }}', 'session_prefix "" { policy = "write" }'
Operation = dict[str, Any]  # of a transaction, as Consul takes it


class Entry(NamedTuple):
    """A key. `modified`: its ModifyIndex. `session`: the one that holds it as a lock, or empty."""

    key: str
    value: bytes
    modified: int
    session: str = ""


class Store:
    """The keys, sessions and instances of one datacenter, by the agent of `consul`.

    `dc`: None for the agent's own. Each method raises ConfigError (as Denied, Refused) and Unavailable (as Away). After
    Away of a method that writes, it is not known whether the write was applied.
    """

    def __init__(self, consul: Consul, dc: str | None = None) -> None:
        self.consul, self.dc = consul, dc

    def get(self, key: str, consistency: str = CONSISTENT) -> Entry | None:
        """One key; None where there is none."""
        found = self._read(key, key_rule(key), {}, consistency)
        return found[0] if found else None

    def below(self, prefix: str, consistency: str = CONSISTENT) -> list[Entry]:
        """All keys that begin with `prefix`, in one answer, which is one snapshot at one index."""
        return self._read(prefix, key_rule(prefix), {"recurse": ""}, consistency)

    def names_below(self, prefix: str) -> list[str]:
        """The names of all keys that begin with `prefix`, without their values."""
        path = _path(prefix)
        answer = self.consul.call("GET", path, key_rule(prefix), {**self._query(CONSISTENT), "keys": ""},
                                  limit=LARGE_LIMIT)  # fmt: skip
        return [str(name) for name in answer or ()]

    def put(self, key: str, value: bytes, *, index: int | None = None) -> bool:
        """Write a key. `index`: only if that is still its ModifyIndex; 0: only if there is no such key. False: it was
        not written."""
        return self._change("PUT", key, {} if index is None else {"cas": str(index)}, value)

    def delete(self, key: str, *, index: int | None = None) -> bool:
        """Delete a key; `index` as for `put`."""
        return self._change("DELETE", key, {} if index is None else {"cas": str(index)})

    def delete_below(self, prefix: str) -> None:
        """Delete all keys that begin with `prefix`."""
        self._change("DELETE", prefix, {"recurse": ""})

    def transact(self, operations: Sequence[Operation]) -> list[int]:
        """All of the operations or none. Empty: all were applied; otherwise the positions of those that fail."""
        path = "/v1/txn"
        title = self.consul.title("PUT", path)
        keys = ", ".join(sorted({str(each["KV"]["Key"]) for each in operations}))
        answer = self.consul.call("PUT", path, WRITE_RULE.format(keys), self._query(DEFAULT), list(operations),
                                  states=CONFLICT)  # fmt: skip
        try:
            failed = {int(error["OpIndex"]): str(error["What"]) for error in answer["Errors"] or ()}
            denied = [operations[at]["KV"]["Key"] for at, what in failed.items() if _is_denial(what)]
        except MISSHAPEN:
            raise Away(f"{title}: the answer is not that of a transaction") from None
        if denied:
            rule = WRITE_RULE.format(denied[0])
            raise Denied(f"{title} is denied: {self.consul.which_token} needs {rule}", Cause.PERMISSION, rule=rule,
                         variable="CONSUL_HTTP_TOKEN")  # fmt: skip
        return sorted(failed)

    def write_all(self, operations: Sequence[Operation]) -> bool:
        """All writes and deletes, in as few transactions as they have room in; a value that no transaction has room for
        is written alone. False: one failed, and those after it were not tried."""
        for each in batches(operations):
            first = each[0]["KV"]
            if _length(each[0]) > BODY_LIMIT:
                is_written = self.put(first["Key"], base64.b64decode(first["Value"]), index=first["Index"])
            else:
                is_written = not self.transact(each)
            if not is_written:
                return False
        return True

    def create_session(self, name: str, ttl: float, lock_delay: float) -> str:
        """A session of the agent's node, with the node's serfHealth. `ttl`, `lock_delay`: seconds."""
        path = "/v1/session/create"
        wanted = {"Name": name, "TTL": f"{ttl:g}s", "LockDelay": f"{lock_delay:g}s", "Behavior": "release"}
        answer = self.consul.call("PUT", path, SESSION_RULE, self._query(DEFAULT), wanted)
        return str(self.consul.record("PUT", path, answer)["ID"])

    def renew(self, session: str) -> bool:
        """False: there is no such session any more."""
        answer = self._session("renew", session)
        return answer is not None

    def destroy(self, session: str) -> None:
        self._session("destroy", session)

    def acquire(self, key: str, value: bytes, session: str) -> bool:
        """Take a lock. False: another session has it, its lock-delay is not over, or `session` has ended."""
        try:
            return self._change("PUT", key, {"acquire": session}, value)
        except Away as error:
            if error.cause is Cause.NO_SESSION:
                return False
            raise

    def release(self, key: str, value: bytes, session: str) -> bool:
        """Give a lock back, and leave `value` in its key. False: the session does not have it."""
        return self._change("PUT", key, {"release": session}, value)

    def health(self, service: str, consistency: str = CONSISTENT) -> list[Mapping[str, Any]]:
        """All instances with their `Node`, `Service` and `Checks`."""
        path = "/v1/health/service/" + urllib.parse.quote(service, safe="")
        answer = self.consul.call("GET", path, service_rule(service, "read"), self._query(consistency),
                                  limit=LARGE_LIMIT)  # fmt: skip
        if not isinstance(answer, list) or not all(isinstance(each, dict) for each in answer):
            raise Away(f"{self.consul.title('GET', path)}: the answer is no list of instances")
        return answer

    def _session(self, verb: str, session: str) -> object:
        path = f"/v1/session/{verb}/{urllib.parse.quote(session, safe='')}"
        return self.consul.call("PUT", path, SESSION_RULE, self._query(DEFAULT))

    def _read(self, key: str, rule: str, query: dict[str, str], consistency: str) -> list[Entry]:
        path = _path(key)
        answer = self.consul.call("GET", path, rule, {**self._query(consistency), **query}, limit=LARGE_LIMIT)
        return entries(answer, self.consul.title("GET", path))

    def _change(self, method: str, key: str, query: dict[str, str], value: bytes | None = None) -> bool:
        rule = WRITE_RULE.format(key)
        return self.consul.call(method, _path(key), rule, {**self._query(DEFAULT), **query}, value) is True

    def _query(self, consistency: str) -> dict[str, str]:
        where = {"dc": self.dc} if self.dc else {}
        return where if consistency == DEFAULT else {**where, consistency: ""}


def entries(answer: object, title: str) -> list[Entry]:
    """The keys of an answer; none where there is none. `title`: of the call, for the error. Raises Away."""
    try:
        return [
            Entry(
                str(each["Key"]), base64.b64decode(each["Value"] or "", validate=True), int(each["ModifyIndex"]),
                str(each.get("Session") or ""),
            )
            for each in answer or ()  # type: ignore[attr-defined]
        ]  # fmt: skip
    except MISSHAPEN:
        raise Away(f"{title}: the answer is no list of keys") from None


# operations of a transaction


def writes(key: str, value: bytes, index: int) -> Operation:
    """Write a key, if `index` is still its ModifyIndex; 0: if there is no such key."""
    return _operation("cas", key, Value=base64.b64encode(value).decode(), Index=index)


def deletes(key: str, index: int) -> Operation:
    """Delete a key, if `index` is still its ModifyIndex."""
    return _operation("delete-cas", key, Index=index)


def requires(key: str, index: int) -> Operation:
    """Fail, unless `index` is still the ModifyIndex of the key."""
    return _operation("check-index", key, Index=index)


def requires_lock(key: str, session: str) -> Operation:
    """Fail, unless the session holds the key."""
    return _operation("check-session", key, Session=session)


def batches(operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    """The operations in as few transactions as they have room in: not all of them or none any more."""
    start = size = 0
    for at, each in enumerate(operations):
        length = _length(each)
        if at > start and (size + length > BODY_LIMIT or at - start == MOST_OPERATIONS):
            yield operations[start:at]
            start, size = at, 0
        size += length
    if operations:
        yield operations[start:]


def _operation(verb: str, key: str, **fields: object) -> Operation:
    return {"KV": {"Verb": verb, "Key": key, **fields}}


def _length(operation: Operation) -> int:
    """Bytes in the body of a transaction, at most."""
    return len(operation["KV"].get("Value", "")) + OVERHEAD


def _is_denial(words: str) -> bool:
    return cause_of(words.encode()) is Cause.PERMISSION


def _path(key: str) -> str:
    return "/v1/kv/" + urllib.parse.quote(key)
