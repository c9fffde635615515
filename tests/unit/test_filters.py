"""The filters that people use in consul-template's templates and Jinja2 lacks, and the file function."""

from __future__ import annotations

import configparser
import datetime
import json
import os
import signal
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rendering import Data, fault_of, render_all, text_of, tree
from svcinit.agent.templates import filters, formats
from svcinit.agent.templates.engine import Engine
from svcinit.agent.templates.faults import WrongError
from svcinit.errors import ConfigError

SLOW = "(a+)+$", "a*b", "a*a*b", "(?=a*)a*b", "[a-z]*a[a-z]*b"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ 'ü x'|b64encode }} {{ 'w7wgeA=='|b64decode }}", "w7wgeA== ü x"),
        ("{{ '~~?'|b64encode(urlsafe=true) }} {{ '~~?'|b64encode }}", "fn4_ fn4/"),
        ("{{ 'fn4_fg'|b64decode(urlsafe=true) }}", "~~?~"),
        ("{{ ''|md5 }}", "d41d8cd98f00b204e9800998ecf8427e"),
        ("{{ 'abc'|sha1 }}", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("{{ ('abc'|sha512)[:16] }} {{ ('abc'|sha256)[:16] }}", "ddaf35a193617aba ba7816bf8f01cfea"),
        # RFC 4231, test case 2
        ("{{ 'what do ya want for nothing?'|hmac_sha256('Jefe') }}",
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        ("{{ 'web-7'|regex_match('[0-9]$') }} {{ 'web'|regex_match('^e') }}", "True False"),
        ("{{ 'v1.22'|regex_search('[0-9]+') }} {{ 'v1.22'|regex_search('v(?P<n>.)', 'n') }}", "1 1"),
        ("{{ 'none'|regex_search('[0-9]+') }}", "None"),
        ("{{ 'a1b22'|regex_replace('[0-9]+', '-') }} {{ 'ab'|regex_replace('(a)(b)', '\\\\2\\\\1') }}", "a-b- ba"),
        ("{{ 'a, b;c'|regex_split('[,;] *') }}", "['a', 'b', 'c']"),
        ("{{ 8080|regex_match('^80') }}", "True"),
        ("{{ {'b/c': 1, 'a': 2}|explode_map|to_json }}", '{"a": 2, "b": {"c": 1}}'),
        ("{{ {'a': {'b': 1, 'c': [1]}}|merge({'a': {'c': [2]}}, {'d': 3})|to_json }}",
         '{"a": {"b": 1, "c": [2]}, "d": 3}'),
        ("{{ cfg|merge({'db': {'port': 1}})|to_json }}", '{"db": {"host": "h", "port": 1}}'),
        ("{{ 'fd00::1'|is_ipv6 }} {{ '[fd00::1]'|is_ipv6 }} {{ '10.0.0.1'|is_ipv6 }} {{ '10.0.0.1'|is_ipv4 }}",
         "True True False True"),
        ("{{ '10.0.0.0/8'|cidr_contains('10.1.2.3') }} {{ '10.0.0.7/24'|cidr_contains('10.0.1.0/24') }}", "True False"),
        ("{{ 'fd00::/8'|cidr_contains('10.1.2.3') }} {{ 'fd00::/8'|cidr_contains('[fd00::1]') }}", "False True"),
        ("{{ 'Yes'|parse_bool }} {{ '0'|parse_bool }} {{ true|parse_bool }}", "True False True"),
        ("{{ '1h30m'|parse_duration }} {{ '1.1s'|parse_duration }} {{ '-500ms'|parse_duration }}", "5400 1.1 -0.5"),
        ("{{ '0'|parse_duration }} {{ '.5m'|parse_duration }}", "0 30"),
        ("{{ ' 42 '|strict_int + 1 }} {{ '-7'|strict_int }} {{ '1.5e3'|strict_float }}", "43 -7 1500.0"),
        ("{{ 'v1.2'|trim_prefix('v') }} {{ 'a.conf'|trim_suffix('.conf') }}", "1.2 a"),
        ("{{ {'a': 1, 'z': {'b': true}, 'l': [1, 'x']}|to_toml }}", 'a = 1\nl = [1, "x"]\n\n[z]\nb = true\n'),
        ("{{ ('[a]\nb = 1'|from_toml).a.b }}", "1"),
        ("{{ {'main': {'n': 1, 'on': true}, 'x': 'top'}|to_ini }}", "x = top\n\n[main]\nn = 1\non = true\n"),
        ("{{ {}|to_toml }}{{ {}|to_ini }}", ""),
        ("{{ 'aé'|split('') }} {{ ''|split('') }} {{ 'a b'|split(' ') }}", "['a', 'é'] [] ['a', 'b']"),
        ("{{ 'é'|go_len }} {{ [1]|go_len }} {{ -7|go_divide(2) }} {{ -7|go_modulo(2) }} {{ 7|go_divide(2.0) }}",
         "2 1 -3 -1 3.5"),
    ],
)  # fmt: skip
def test_a_filter_gives_what_its_name_says(template: str, text: str) -> None:
    assert text_of(template, Data({"db/host": b"h"})) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ key('s')|strict_int }}", "{{ key('s')|strict_float }}", "{{ '4.0'|strict_int }}", "{{ ''|strict_int }}",
        "{{ '1_000'|strict_int }}", "{{ '\\uff11'|strict_int }}", "{{ true|strict_int }}", "{{ none|strict_int }}",
        "{{ '0x10'|strict_int }}", "{{ ('9' * 5000)|strict_int }}", "{{ 'nan'|strict_float }}",
        "{{ '1e999'|strict_float }}", "{{ key('s')|parse_bool }}", "{{ '2'|parse_bool }}", "{{ key('s')|from_toml }}",
        "{{ '10'|parse_duration }}", "{{ ''|parse_duration }}", "{{ '5 m'|parse_duration }}",
        "{{ '1d'|parse_duration }}",
        "{{ key('s')|cidr_contains('10.0.0.1') }}", "{{ '10.0.0.0/8'|cidr_contains(key('s')) }}",
        "{{ key('s')|regex_match('(') }}", "{{ 'x'|regex_search('x', 4) }}", "{{ 'x'|regex_replace('x', '\\\\9') }}",
        "{{ 'x'|regex_match('x{9,1}') }}", "{{ 'x'|regex_match(key('s') ~ '(') }}",
        "{{ {'a': none}|to_toml }}", "{{ [1]|to_toml }}", "{{ {'a': key('s') ~ '\n[root]'}|to_ini }}",
        "{{ {'a=b': 1}|to_ini }}", "{{ {'a]': {}}|to_ini }}", "{{ {'a': {'b': {}}}|to_ini }}",
        "{{ {'a': 1, 'a/b': 2}|explode_map }}", "{{ {'/': 1}|explode_map }}", "{{ {'a': 1}|merge([1]) }}",
        "{{ '?'|b64decode(urlsafe=true) }}",
        "{{ 7|go_divide(0) }}", "{{ 7|go_modulo(0) }}", "{{ key('s')|go_divide(2) }}", "{{ 7|go_modulo(1.5) }}",
        "{{ true|go_divide(2) }}", "{{ 5|go_len }}",
        "{{ '[NaN]'|from_json }}", "{{ '-Infinity'|from_json }}", "{{ '[1e999]'|from_json }}",
        "{{ '.nan'|from_yaml|to_json }}", "{{ ['-.inf'|from_yaml]|to_json(compact=true) }}",
        "{{ {'a': '.inf'|from_yaml}|tojson }}",
    ],
)  # fmt: skip
def test_a_value_that_a_filter_cannot_take_is_an_error_without_the_value(template: str) -> None:
    fault = fault_of(template, Data({"s": b"secret"}))
    assert "secret" not in fault.replace(template, "")


def test_a_number_that_json_does_not_have_is_no_argument_for_vault() -> None:
    assert "secret: an argument must be" in fault_of("{{ secret('a', b='.inf'|from_yaml) }}")


@pytest.mark.parametrize("name", [*filters.FILTERS])
def test_a_missing_key_is_named_whatever_filter_it_is_given_to(name: str) -> None:
    more = {
        "hmac_sha256": "('k')", "regex_replace": "('a', 'b')", "cidr_contains": "('10.0.0.1')", "merge": "({})",
        "go_divide": "(1)", "go_modulo": "(1)",
    }.get(name, "('x')" if name.startswith(("regex", "trim")) else "")  # fmt: skip
    assert "there is no key absent" in fault_of(f"{{{{ cfg.absent|{name}{more} }}}}", Data({"s": b"1"}))


@pytest.mark.parametrize("name", ["match", "search", "replace", "split"])
@pytest.mark.parametrize("pattern", SLOW)
def test_a_slow_regular_expression_is_an_error_within_its_time(
    pattern: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "REGEX_SECONDS", 0.05)
    text = "a" * (40 if pattern == SLOW[0] else 128 << 10) + "!"
    began = time.process_time()
    more = ("",) if name == "replace" else ()
    with pytest.raises(WrongError, match=r"took more than 0\.05 s"):
        filters.FILTERS[f"regex_{name}"](text, pattern, *more)
    assert time.process_time() - began < 3
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_a_regular_expression_is_bounded_where_signals_are_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "REGEX_SECONDS", 0.05)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGVTALRM])
    try:
        with pytest.raises(WrongError):
            filters.regex_match("a" * 40 + "!", SLOW[0])
        assert signal.SIGVTALRM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGVTALRM])


def test_a_text_that_is_too_long_for_a_regular_expression_is_an_error() -> None:
    with pytest.raises(WrongError, match="at most 524288 characters"):
        filters.regex_split("a" * (filters.REGEX_LIMIT + 1), "b")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("17:45", "17:45"), ("52:54:00:12:34:56", "52:54:00:12:34:56"), ("[22:22, 1:00:00]", ["22:22", "1:00:00"]),
        ("190:20:30.15", "190:20:30.15"), ("2024-01-31", "2024-01-31"), ("2024-01-31 10:00:00", "2024-01-31 10:00:00"),
        ("=", "="), ("08", "08"), ("12e45678", "12e45678"), ("1e3", 1000.0), ("1E+3", 1000.0), ("1.5", 1.5),
        ("-.5", -0.5), ("010", 8), ("0o10", 8), ("0x1F", 31), ("0b11", 3), ("1_000", 1000), ("-12", -12),
        (".inf", float("inf")), ("yes", True), ("off", False), ("~", None), ("'1'", "1"),
    ],
)  # fmt: skip
def test_from_yaml_leaves_times_addresses_and_dates_as_they_are_written(written: str, value: object) -> None:
    assert formats.from_yaml(f"a: {written}") == {"a": value}
    assert type(formats.from_yaml(written)) is type(value)


@given(st.from_regex(r"[-+]?[0-9a-fobxEe._:+-]{1,9}", fullmatch=True))
@example("1e3")
@example("0o10")
@example("08")
@example("17:45")
def test_a_text_that_looks_like_a_number_survives_to_yaml_and_from_yaml(text: str) -> None:
    assert formats.from_yaml(formats.to_yaml({"a": text})) == {"a": text}


def test_to_yaml_quotes_what_only_other_readers_take_for_a_number() -> None:
    assert formats.to_yaml(["08", "1e3", "17:45", "2024-01-31"]) == "- '08'\n- '1e3'\n- '17:45'\n- '2024-01-31'\n"


WORDS = st.text(max_size=4)  # short ones: to make long ones takes long on a busy machine
LEAVES = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | WORDS
LEVEL = st.dictionaries(WORDS, LEAVES, max_size=3)
DEEPER = st.dictionaries(WORDS, LEAVES | LEVEL | st.lists(LEVEL, max_size=2), max_size=3)
TREES = LEAVES | st.lists(LEAVES | LEVEL, max_size=3) | DEEPER


@given(st.dictionaries(WORDS, TREES, max_size=3))
def test_what_to_toml_writes_is_what_from_toml_reads(value: dict[str, Any]) -> None:
    written = formats.to_toml(value)
    assert formats.from_toml(written) == tomllib.loads(written) == value
    assert written == formats.to_toml(json.loads(json.dumps(dict(reversed(value.items())))))


def test_dates_are_dates_in_toml() -> None:
    assert formats.to_toml({"d": datetime.date(2026, 2, 3)}) == "d = 2026-02-03\n"


NAMES = st.text("abcXYZ019_-. ", min_size=1).map(str.strip).filter(bool)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.text("ab =;#%\t").map(str.strip))))
def test_what_to_ini_writes_is_what_python_reads(value: dict[str, dict[str, str]]) -> None:
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=())
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.default_section = "\0"
    parser.read_string(formats.to_ini(value))
    assert {name: dict(parser[name]) for name in parser.sections()} == value


def test_merge_changes_none_of_its_inputs() -> None:
    one, two = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert filters.merge(one, two) == {"a": {"b": 1, "c": 2}}
    assert (one, two) == ({"a": {"b": 1}}, {"a": {"c": 2}})


# file


def content_of(folder: str) -> str:
    return render_all(folder)["/a"].content.decode()


def test_file_gives_the_text_of_a_file_beside_the_templates(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"a.j2": "{{ file('etc/ca.pem')|indent(2) }}", "etc/ca.pem": "{{ x }}\ny\n"})
    assert content_of(folder) == "{{ x }}\n  y\n"
    tree(tmp_path, {"a.j2": f"{{{{ file('{folder}/etc/ca.pem')|length }}}}"})
    assert content_of(folder) == "10"


def test_file_follows_links_within_the_templates_only(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"a.j2": "{{ file('in') }}", "..data/in": "within"})
    (tmp_path / "secret").write_text("secret")
    os.symlink("..data/in", f"{folder}/in")
    assert content_of(folder) == "within"
    os.unlink(f"{folder}/in")
    os.symlink(tmp_path / "secret", f"{folder}/in")
    with pytest.raises(ConfigError, match="outside the directories of templates"):
        render_all(folder)


@pytest.mark.parametrize(
    "path",
    ["../secret", "etc/../../secret", "/etc/passwd", "", ".", "..", "none", "x\0y", "etc", "../templates2/x", "binary",
     "pipe", "large"],
)  # fmt: skip
def test_file_reads_nothing_outside_the_templates_and_nothing_but_text(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "templates2").mkdir()
    (tmp_path / "templates2" / "x").write_text("secret")
    folder = tree(tmp_path, {"etc/x": "", "binary": b"\xff"})
    os.mkfifo(f"{folder}/pipe")
    with open(f"{folder}/large", "wb") as large:
        large.truncate(17 << 20)
    with pytest.raises(ConfigError, match="file: the") as caught:
        Engine(Data(), [folder]).render_text("it", f"{{{{ file({path!r}) }}}}")
    assert "secret" not in str(caught.value).replace("../secret", "").replace("../../secret", "")
