"""No secret that svcinit gave to others comes back in what they say, wherever the text was cut."""

from __future__ import annotations

import base64
import json
import os
import random
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcinit.agent.redact import (
    CUT,
    FORMER_LIMIT,
    MAX_SECRET,
    REDACTED,
    Redactor,
    Remembered,
    end_of,
    recall,
    redactor,
    remember,
    tail,
)
from svcinit.handover import Slot
from svcinit.settings.environment import read

TOKEN = "3f1c9a52-77de-4b8e-9a10-5c2e8d7b6a41"
PASSWORD = "correct horse battery staple"


GIVEN = read(
    {
        "CONSUL_HTTP_TOKEN": "the-token-of-consul",
        "CONSUL_HTTP_AUTH": "me:the-password",
        "DB_PASSWORD": "hunter2-hunter2",
        "COLOUR": "vermilion",
    }
)


def shown(text: str, *values: str) -> str:
    return redactor(GIVEN, values)(text)


@pytest.mark.parametrize(
    "value",
    [
        TOKEN,
        f"first\n  {TOKEN}  \nlast",
        json.dumps({"db": {"users": [{"name": "me", "password": TOKEN}]}}),
        base64.b64encode(TOKEN.encode()).decode(),
        base64.encodebytes(f"a line\n{TOKEN}\n{'more ' * 30}".encode()).decode(),
        base64.b64encode(json.dumps({"token": base64.b64encode(TOKEN.encode()).decode()}).encode()).decode(),
        f"db:\n  password: '{TOKEN}'\n",
        f"DB_PASSWORD={TOKEN}",
        json.dumps(TOKEN),
    ],
    ids=["itself", "a-line", "json", "base64", "base64-lines", "base64-in-json-in-base64", "yaml", "env", "json-text"],
)
def test_a_value_of_a_key_is_not_shown_in_any_form(value: str) -> None:
    assert shown(f"refused: {TOKEN}!", value) == f"refused: {REDACTED}!"


def test_numbers_in_json_are_values_and_short_parts_are_not() -> None:
    value = json.dumps({"pin": 12345678, "port": 8000, "on": True, "level": "info"})
    assert shown("12345678 at port 8000: True info", value) == f"{REDACTED} at port 8000: True info"


def test_what_is_given_otherwise_is_not_shown_either() -> None:
    text = "the-token-of-consul the-password hunter2-hunter2 vermilion"
    assert shown(text) == f"{REDACTED} {REDACTED} {REDACTED} vermilion"


def test_secrets_that_overlap_or_contain_each_other_leave_nothing() -> None:
    redact = Redactor(["abcdefgh", "efghijkl", "cdef", "xabc"])
    assert redact("<abcdefghijkl>") == f"<{REDACTED}>"
    assert redact("<xabcdefgh>") == f"<{REDACTED}>"
    assert redact("<abcd efgh>") == "<abcd efgh>"


@pytest.mark.parametrize(
    "bad", ['{"a": ' * 5000, "[" * 100_000, "9" * 5000, '{"a": NaN', "====", '"\\ud800"', "\0" * 50]
)
def test_a_value_that_is_nearly_something_breaks_nothing(bad: str) -> None:
    assert shown(TOKEN, bad, TOKEN) == REDACTED


@pytest.mark.parametrize("secret", [TOKEN, PASSWORD, "пароль-пароль-пароль", "x" * 5000, "ab" * 3000])
def test_a_secret_that_lies_across_either_cut_is_not_shown_in_part(secret: str) -> None:
    """Wherever the window begins and ends: no four characters of it in a row."""
    redact = redactor(GIVEN, [secret])
    whole = ("." * 9000 + secret + "." * 9000).encode()
    first, last = 9000, 9000 + len(secret.encode())
    for place in random.Random(7).sample(range(first, last), min(last - first, 60)):
        for window, is_cut in ((whole[place:], True), (whole[:place], False)):
            text = tail(window, is_cut, redact)
            left = text.replace(".", "").replace("*", "")
            assert len(left) < 4, (place, left)


@given(st.data())
def test_no_window_of_no_output_shows_four_characters_of_a_secret(data: st.DataObject) -> None:
    letters = st.text("abc", min_size=4, max_size=12)
    secrets = data.draw(st.lists(letters, min_size=1, max_size=4))
    words = st.one_of(st.sampled_from(secrets), st.text("-\n", max_size=3))
    output = "".join(data.draw(st.lists(words, max_size=12)))
    redact = Redactor(secrets)
    end = data.draw(st.integers(0, len(output)))
    text = redact(output[:end])
    found = [secret[at : at + 4] for secret in secrets for at in range(len(secret) - 3)]
    mid_line = not output[:end].endswith("\n")
    assert not [secret for secret in secrets if secret in text]
    if mid_line:
        assert not any(text.endswith(secret[:size]) for secret in secrets for size in range(4, len(secret)))
    assert found


def test_of_10_000_keys_a_probes_output_is_cleaned_in_no_time() -> None:
    """Not by time, which a busy machine has little of: by how often a secret is looked at."""
    rand = random.Random(1)
    values = ["".join(rand.choices(string.ascii_letters, k=36)) for _ in range(10_000)]
    redact = redactor(GIVEN, values)
    looks = 0

    class Counted(dict[str, Any]):
        def get(self, *args: Any) -> Any:
            nonlocal looks
            looks += 1
            return super().get(*args)

    redact._lengths = Counted(redact._lengths)
    text = "an error, and nothing else\n" * 300 + values[77] + "\n"
    assert redact(text) == "an error, and nothing else\n" * 300 + REDACTED + "\n"
    assert looks < len(text)


def test_the_end_of_a_text_is_kept_and_marked_and_never_longer_than_it_may_be() -> None:
    assert end_of("all of it", 100) == "all of it"
    assert end_of("x" * 200 + "Error: why", 20) == CUT + "xxxxError: why"
    assert len(end_of("é" * 200, 21).encode()) <= 21
    assert end_of("short", 100, is_cut=True) == f"{CUT}short"


# what one process leaves for another


def test_values_that_others_left_are_redacted_and_so_are_those_of_before() -> None:
    memory = Slot("secrets").open()
    redact = Remembered(GIVEN, memory)
    assert redact(TOKEN) == TOKEN
    remember(memory, [TOKEN])
    assert redact(f"{TOKEN} {PASSWORD}") == f"{REDACTED} {PASSWORD}"
    remember(memory, [PASSWORD, "other"])
    assert redact(f"{TOKEN} {PASSWORD}") == f"{REDACTED} {REDACTED}"
    assert recall(memory) == [TOKEN, PASSWORD, "other"]
    memory.close()


def test_of_former_values_only_so_many_are_kept() -> None:
    memory = Slot("secrets").open()
    for turn in range(8):
        remember(memory, [str(turn) * (FORMER_LIMIT // 4)])
    values = recall(memory)
    assert values is not None
    assert [value[0] for value in values] == ["4", "5", "6", "7"]
    memory.close()


def test_where_the_values_cannot_be_read_nothing_is_shown_and_what_was_known_stays_known() -> None:
    memory = Slot("secrets").open()
    remember(memory, [TOKEN])
    redact = Remembered(GIVEN, memory)
    assert redact(f"a {TOKEN}") == f"a {REDACTED}"
    os.pwrite(memory.fd, b'["half', 0)
    assert redact(f"a {TOKEN}") == f"a {REDACTED}"
    assert Remembered(GIVEN, memory)("anything") == REDACTED
    assert Remembered(GIVEN, memory)("") == ""
    remember(memory, [PASSWORD])
    assert Remembered(GIVEN, memory)(f"a {PASSWORD}") == f"a {REDACTED}"
    memory.close()


def test_a_writer_that_is_killed_at_any_byte_leaves_all_or_what_is_seen_to_be_broken() -> None:
    for old, new in ((["a" * 50, TOKEN], [PASSWORD]), ([], [PASSWORD, TOKEN])):
        for size in range(1, 200):
            memory = Slot("secrets").open()
            if old:
                remember(memory, old)
            before = os.pread(memory.fd, 1000, 0)
            remember(memory, new)
            after = os.pread(memory.fd, 1000, 0)
            memory.clear()
            os.pwrite(memory.fd, before, 0)
            os.pwrite(memory.fd, after[:size], 0)
            assert recall(memory) in (None, old, [*old, *new])
            memory.close()


def test_a_long_line_is_known_by_its_pieces() -> None:
    line = "".join(random.Random(3).choices(string.ascii_letters, k=3 * MAX_SECRET))
    assert shown(f"<{line}>", line).replace(REDACTED, "") == "<>"
