"""What docs/porting.md offers in place of others' functions does what those did."""

from __future__ import annotations

import pathlib
import re

import pytest

from rendering import Data, Peer, text_of
from svcinit.settings.table import TABLE

PAGE = (pathlib.Path(__file__).parent.parent.parent / "docs" / "porting.md").read_text().replace("\\|", "|")
DATA = Data(
    {"p": b"v", "/p": b"whole", "p@dc": b"far", "a/x": b"1", "a/b/c": b"2"},
    {"web": [Peer("h", "10.0.0.1", 80, "n")]},
    {"X": "set"},
)
OFFERED = {
    'key("p")': "v",
    'key("/p")': "whole",
    'key("/p", dc="dc")': "far",
    'key_exists("p")': "True",
    'key_or_default("p", "d")': "v",
    'ls("p")': "[]",
    'tree("p")': "[]",
    'ls("a")|map(attribute="value")|list': "['1']",
    "cfg.a|list": "['b', 'x']",
    'env.get("X", "")': "set",
    'env.get("X", "d")': "set",
    'dict("a:1;b:2"|split(";")|map("split", ":"))': "{'a': '1', 'b': '2'}",
    '[1, 2]|select("in", [1])|list': "[1]",
    '"!a!".strip("!")': "a",
    "[1, 2]|min": "1",
    "[1, 2]|max": "2",
    '"a/b".rpartition("/")|last': "b",
    '"a/b".rpartition("/")|first': "a",
    '{"a": 1, "b": 2}': "{'a': 1, 'b': 2}",
    '"b" in "abc"': "True",
    "[1, 2]|reverse|list": "[2, 1]",
}
WALKED = {  # in a for loop, what the loop prints
    "cfg.a.items()": ("{{ each[0] }},", "b,x,"),
    'service("web", tag="tag", dc="dc")': ("{{ each.address }}:{{ each.port }}", "10.0.0.1:80"),
    "range(5, 8)": ("{{ each }}", "567"),
    "range(3, 5 + 1)": ("{{ each }}", "345"),
}
FILTERS = {
    'split(",")': ("a,b", "['a', 'b']"),
    "to_json(indent=2)": ({"a": 1}, '{\n  "a": 1\n}'),
    "indent(4, first=true)": ("a\nb", "    a\n    b"),
    'join(",")': (["a", "b"], "a,b"),
    'replace("a", "b")': ("aa", "bb"),
    "explode_map": ({"a/b": 1}, "{'a': {'b': 1}}"),
    "to_toml": ({"a": 1}, "a = 1\n"),
    "to_ini": ({"a": {"b": 1}}, "[a]\nb = 1\n"),
    "b64encode": ("a~~?", "YX5+Pw=="),
    "b64encode(urlsafe=true)": ("a~~?", "YX5-Pw=="),
    "b64decode(urlsafe=true)": ("YX5-Pw==", "a~~?"),
    "md5": ("", "d41d8cd98f00b204e9800998ecf8427e"),
    'hmac_sha256("key")': ("", "5d5d139563c95b5967b9bd9a8c9b233a9dedb45072794cd232dc1b74832607d0"),
    'trim_prefix("a")': ("ab", "b"),
    'trim_suffix("b")': ("ab", "a"),
    'regex_match("p")': ("apb", "True"),
    'regex_replace("(p)", "\\\\1")': ("apb", "apb"),
    "strict_int": ("7", "7"),
    "strict_float": ("7", "7.0"),
    "parse_bool": ("T", "True"),
}


@pytest.mark.parametrize("expression", OFFERED)
def test_an_expression_on_the_page_does_what_the_page_says(expression: str) -> None:
    assert f"`{expression}`" in PAGE
    assert text_of(f"{{{{ {expression} }}}}", DATA) == OFFERED[expression]


@pytest.mark.parametrize("expression", WALKED)
def test_what_the_page_loops_over_is_what_the_page_says(expression: str) -> None:
    body, expected = WALKED[expression]
    assert f"`{expression}`" in PAGE
    assert text_of(f"{{% for each in {expression} %}}{body}{{% endfor %}}", DATA) == expected


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_on_the_page_does_what_the_page_says(name: str) -> None:
    given, expected = FILTERS[name]
    assert f"`{name}`" in PAGE
    assert text_of(f"{{{{ {given!r}|{name} }}}}", DATA) == expected


def test_statements_on_the_page_are_right() -> None:
    levels = "{% for name, level in cfg.a.items() if level is mapping %}"
    scratch = "{% set ns = namespace(a=1) %}{% set ns.a = 2 %}"
    pairs = '{% for k, v in ls("p") %}'
    assert all(f"`{statement}`" in PAGE for statement in (levels, scratch, pairs))
    assert text_of(f"{levels}{{{{ name }}}}{{% endfor %}}{scratch}{{{{ ns.a }}}}{pairs}{{% endfor %}}", DATA) == "b2"


def test_every_variable_on_the_page_is_one() -> None:
    known = {row.name for row in TABLE} | {row.name + "_FILE" for row in TABLE}
    assert set(re.findall(r"(?:SVCINIT|CONSUL)_[A-Z_]*[A-Z]", PAGE)) <= known
