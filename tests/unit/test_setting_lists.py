"""Settings that are lists, with commas in their parts: as a variable, in a file and in SVCINIT_SERVICES."""

from __future__ import annotations

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcinit.agent.registration import services
from svcinit.settings import environment
from svcinit.settings.parsers import joined, names

LISTS = {"\\,".join(["a", "b"]): ("a,b",), r"a\\,b": ("a\\", "b"), r"a\b,c\d\\": ("a\\b", "c\\d\\\\"), r",\,,": (",",),
         r"traefik.middlewares=auth\,gzip, blue": ("traefik.middlewares=auth,gzip", "blue")}  # fmt: skip


@pytest.mark.parametrize(("written", "parts"), LISTS.items(), ids=LISTS)
def test_a_comma_within_a_part_of_a_list_is_escaped(written: str, parts: tuple[str, ...]) -> None:
    assert environment.read({"SVCINIT_TAGS": written}).tags == parts


@given(st.lists(st.text(st.sampled_from("ab\\,"), min_size=1)))
def test_a_list_of_yaml_is_the_same_list(parts: list[str]) -> None:
    assert list(names(joined(parts))) == parts


def test_every_list_takes_the_same_escape(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a,b").mkdir()
    found = environment.read({
        "SVCINIT_META": r"k=a\,b,l=c", "SVCINIT_CHECK_HEADERS": r"X-Probe:a\,b:c,Y:1", "SVCINIT_KV_PREFIX": r"a\,b,c",
        "SVCINIT_TEMPLATES": f"{tmp_path}/a\\,b",
    })  # fmt: skip
    assert dict(found.meta) == {"k": "a,b", "l": "c"}
    assert dict(found.check_headers) == {"X-Probe": "a,b:c", "Y": "1"}
    assert found.kv_prefix == (("a,b", None), ("c", None))
    assert found.templates == (f"{tmp_path}/a,b",)


def test_tags_and_metadata_of_another_service_are_the_list_that_was_written() -> None:
    entry = {"name": "x", "port": 1, "tags": ["m=auth,gzip", "a\\"], "meta": {"k": "a,b=c", "l": "d\\"}}
    found = services.services(environment.read({"SVCINIT_SERVICE": "web", "SVCINIT_SERVICES": json.dumps([entry])}))[1]
    assert found.tags == ("m=auth,gzip", "a\\")
    assert dict(found.meta) == {"k": "a,b=c", "l": "d\\"}
