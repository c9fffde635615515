"""What crosses the wall between init and its children: it survives, or the reader sees that it is not complete."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator

import pytest

from svcinit import handover
from svcinit.handover import Change, Heartbeat, Memory, Message, Progress, Readiness, Secrets, Slot, Verdict
from svcinit.processes import init, oom
from svcinit.processes.crew import Crew
from svcinit.settings import environment

GOOD = Verdict(["main", "--é"], {"A": "1"}, ["/etc/app", os.fsdecode(b"/etc/\xff\xfe")], ["HUP", ""], {"n": [1]}, 1, 2)
MESSAGES: list[Message] = [
    GOOD, Progress(Progress.FETCHING), Memory([["kv", "config", None, None, 3]], bytes(range(256))), Heartbeat(5),
    Readiness(ready=True), Secrets(["s", "\udcff"]), Change(1.5, [["kv", "c", None, None, 2]], [
        ["kv", "c", None, None, {"c/key": b"\0\xff"}, 1.0, 7],
        ["peers", "db", "dc2", "tag", [["h", "::1", 80, "n"]], 1.0, 0],
    ], ["/etc/a"]),
]  # fmt: skip


@pytest.fixture
def slot() -> Iterator[Slot]:
    made = Slot("test").open()
    yield made
    made.close()


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    monkeypatch.chdir(os.getcwd())  # init moves to /
    monkeypatch.setattr(init, "_become_subreaper", lambda: None)
    monkeypatch.setattr(oom, "protect", lambda: int)
    made = Crew(environment.read({"SVCINIT_STOP_TIMEOUT": "5s"}), ("command",))
    for each in (made.slots.verdict, made.slots.fresh):
        each.open()
    return made


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_bytes_included_and_is_no_other_kind(slot: Slot, message: Message) -> None:
    slot.write(message)
    found = slot.read(type(message))
    assert found is not None
    assert json.dumps(found.body()) == json.dumps(message.body())
    assert {other for other in {type(each) for each in MESSAGES} if slot.read(other) is not None} == {type(message)}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_that_is_cut_or_changed_anywhere_is_none(slot: Slot, message: Message) -> None:
    slot.write(message)
    whole = slot.content()
    for end in range(len(whole)):
        slot.replace(whole[:end])
        assert slot.read(type(message)) is None
        slot.replace(whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :])
        assert slot.read(type(message)) is None
    slot.replace(whole + b" ")
    assert slot.read(type(message)) is None


def test_a_reader_beside_a_writer_sees_one_message_or_none(slot: Slot) -> None:
    """Each state that a writer can leave: the beginning of the new message over the former one."""
    for former, new in ((GOOD, Verdict(["other"], {})), (Verdict(["other"], {}), GOOD)):
        slot.write(new)
        data = slot.content()
        for done in range(1, len(data)):
            slot.write(former)
            os.pwrite(slot.fd, data[:done], 0)
            found = slot.read(Verdict)
            assert found is None or found.body() == former.body()


def test_another_version_is_none(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    slot.write(GOOD)
    monkeypatch.setattr(handover, "VERSION", handover.VERSION + 1)
    assert slot.read(Verdict) is None


def test_no_content_raises_whatever_a_child_left(slot: Slot) -> None:
    numbers = random.Random(1)
    deep = b"[" * 100_000
    bodies = [b"", b"null", b"[]", b"1", deep, b'"text"', b'{"argv": 1}', b"\xff", b"{", b"1e999", b"NaN"]
    contents = [*bodies, numbers.randbytes(5000), b"\n", deep + b"\n", b"{}\n{}", b"2 Verdict\n" + deep]
    for kind in {type(each) for each in MESSAGES}:
        with_true_heads = [handover._head(kind, body) + b"\n" + body for body in bodies]
        for content in contents + with_true_heads:
            slot.replace(content)
            assert slot.read(kind) is None, content[:100]


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": []}, {"argv": "main"}, {"argv": [1]}, {"env": {"A": 1}}, {"env": ["A"]}, {"env": None},
        {"changed": None}, {"changed": "/etc/app"}, {"reloads": [1]}, {"files": "1"}, {"inputs": 1}, {"said": {}},
        {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_verdict_with_wrong_fields_never_disturbs_init(crew: Crew, changes: dict[str, object]) -> None:
    class Wrong(Message):
        def body(self) -> dict[str, object]:
            return {**vars(GOOD), **changes}

    Wrong.__name__ = "Verdict"
    crew.slots.verdict.write(Wrong())
    assert not crew.take_verdict()
    assert not crew.finished()
    assert (crew.argv, crew.extra_env, crew.changed) == (("command",), {}, [])


def test_a_content_beyond_the_limit_is_not_read(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    slot.write(GOOD)
    monkeypatch.setattr(handover, "LIMIT", slot.size)
    os.ftruncate(slot.fd, 1 << 40)  # a sparse file
    assert slot.content() == b""
    assert slot.read(Verdict) is None


def test_a_slot_that_was_never_opened_is_empty(slot: Slot) -> None:
    closed = Slot("closed")
    assert (closed.size, closed.is_filled, closed.read(Verdict), closed.stamp) == (0, False, None, (0, 0))


def test_a_renewed_slot_leaves_the_former_file_to_late_children(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    slot.write(GOOD)
    late = os.dup(slot.fd)
    slot.renew()
    assert not slot.is_filled
    os.pwrite(late, b"late", 0)
    assert not slot.is_filled
    os.close(late)
    slot.write(GOOD)

    def full(*_: object) -> int:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(os, "memfd_create", full)
    slot.renew()
    assert not slot.is_filled, "where there can be no other file, this one is emptied"


def test_a_copy_needs_no_memory_of_its_size_and_is_the_same(slot: Slot) -> None:
    other = Slot("other").open()
    data = random.Random(2).randbytes(3 * handover.CHUNK + 5)
    other.replace(b"x" * (len(data) + 1))
    slot.replace(data)
    other.copy(slot)
    assert other.content() == data
    other.close()


def test_a_good_verdict_is_taken(crew: Crew) -> None:
    crew.slots.verdict.write(GOOD)
    assert crew.finished()
    assert crew.take_verdict()
    assert (crew.argv, crew.extra_env, crew.changed) == (tuple(GOOD.argv), GOOD.env, GOOD.changed)
    assert crew.prepared == {"files": 1, "keys": 2}


def test_changes_of_which_the_service_was_not_notified_are_kept(crew: Crew) -> None:
    for changed in ("/etc/app", "/etc/other"):
        crew.slots.verdict.renew()
        crew.slots.verdict.write(Verdict(["main"], {}, [changed], ["HUP"]))
        crew._verdict_taken = False  # as at the start of a preparation
        assert crew.take_verdict()
    assert crew.changed == ["/etc/app", "/etc/other"]
    crew.notified()
    assert crew.changed == []


def test_a_verdict_counts_once_when_its_transition_is_repeated(crew: Crew) -> None:
    crew.slots.verdict.write(GOOD)
    assert crew.take_verdict()
    memory, before = crew.slots.memory, crew._before
    assert crew.take_verdict()
    assert crew.slots.memory is memory
    assert crew._before == before


def test_init_knows_whether_a_prepare_was_still_at_consul(crew: Crew) -> None:
    assert not crew.fetching()
    crew.slots.verdict.write(Progress(Progress.FETCHING))
    assert crew.fetching()
    crew.slots.verdict.write(Progress(Progress.RENDERING))
    assert not crew.fetching()
    assert not crew.finished()
