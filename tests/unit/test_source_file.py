"""What stands in the file of SVCINIT_SOURCE is what templates get; what is wrong in it is told with its line."""

from __future__ import annotations

import json
import os
import pathlib
import sys

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from svcinit.agent.prepare.located_yaml import Place, parse
from svcinit.agent.prepare.source_file import FileSource, read
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.errors import ConfigError, Unavailable
from svcinit.settings import environment


def written(folder: pathlib.Path, text: str | bytes, name: str = "source.yaml") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def kv_of(folder: pathlib.Path, text: str) -> dict[str, bytes]:
    return read(written(folder, text))[0]


def prepared(path: str, **env: str) -> TemplateData:
    mine = environment.read({"SVCINIT_SERVICE": "web", "SVCINIT_SOURCE": f"file:{path}", **env})
    found = TemplateData(mine, FileSource(mine))
    found.fetch()
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.10", "1.10"), ("12:30:00", "12:30:00"), ("010", "010"), ("yes", "yes"), ("2024-01-31", "2024-01-31"),
        ("2024-13-45", "2024-13-45"), ("0x1F", "0x1F"), ("true", "true"), ("", ""), ("~", ""), ("null", ""),
        ('"null"', "null"), ('"a\\nb"', "a\nb"), ("|\n    two\n    lines", "two\nlines\n"),
        ('[1, 1.50, true, x, "2"]', '[1, 1.50, true, "x", "2"]'), ("[{a: 1}, []]", '[{"a": 1}, []]'),
    ],
)  # fmt: skip
def test_a_value_is_what_is_written(tmp_path: pathlib.Path, text: str, value: str) -> None:
    assert kv_of(tmp_path, f"kv:\n  a: {text}\n") == {"a": value.encode()}


def test_json_says_the_same_as_yaml(tmp_path: pathlib.Path) -> None:
    text = '{"kv": {"a/b": 1.10, "c": {"d": null, "e": true, "f": [1, "x"], "g": "\\ud83d\\ude00"}}}'
    assert kv_of(tmp_path, text) == {
        "a/b": b"1.10",
        "c/d": b"",
        "c/e": b"true",
        "c/f": b'[1, "x"]',
        "c/g": "😀".encode(),
    }


def test_keys_may_be_nested_flat_numbers_and_merged(tmp_path: pathlib.Path) -> None:
    text = "kv:\n  /config/web/: &web {8080: x, yes: y, n: 1}\n  config: {api: {<<: *web, n: 2}}\n"
    assert kv_of(tmp_path, text) == {
        "config/web/8080": b"x", "config/web/yes": b"y", "config/web/n": b"1",
        "config/api/8080": b"x", "config/api/yes": b"y", "config/api/n": b"2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mapping", "a", "b"),
    [
        ("{<<: *one, a: own}", b"own", b"1"), ("{a: own, <<: *one}", b"own", b"1"),
        ("{<<: [*one, *two]}", b"1", b"1"), ("{<<: [*two, *one]}", b"2", b"1"),
        ("{<<: *two, <<: *one}", b"2", b"1"), ("{<<: {a: 0, <<: *one}}", b"0", b"1"),
    ],
)  # fmt: skip
def test_of_what_is_merged_the_mapping_itself_counts_first_then_the_first_that_has_the_name(
    tmp_path: pathlib.Path, mapping: str, a: bytes, b: bytes
) -> None:
    """As YAML's merge key says (yaml.org/type/merge.html), wherever `<<` stands."""
    found = kv_of(tmp_path, f"kv:\n  one: &one {{a: 1, b: 1}}\n  two: &two {{a: 2}}\n  app: {mapping}\n")
    assert (found["app/a"], found["app/b"]) == (a, b)


@pytest.mark.parametrize(
    "text", ["{}", "", "kv:\n", "services:\n", "kv: {}\nservices: {}\n", "# nothing\n", "services: {db: }"]
)
def test_a_file_may_be_empty(tmp_path: pathlib.Path, text: str) -> None:
    kv, services = read(written(tmp_path, text))
    assert not kv
    assert not any(services.values())


names = st.text("abc_.-0é:#", min_size=1).filter(lambda name: name.strip() == name)
trees = st.dictionaries(names, st.recursive(st.text(), lambda inner: st.dictionaries(names, inner, max_size=3)))


@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])  # its table of characters is made at the first draw
@given(trees)
def test_every_text_survives_yaml_and_json(tree: dict[str, object]) -> None:
    yaml = pytest.importorskip("yaml")

    def plain(node: object) -> object:
        value = getattr(node, "value")  # noqa: B009  for mypy
        return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value

    as_json = json.dumps(tree, indent=1)
    assert plain(parse(as_json, Place("x"), only_json=True)) == tree
    assert plain(parse("# yaml\n" + yaml.safe_dump(tree), Place("x"))) == tree


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kv:\n  a: 1\n  b: [1\n", "line 3: neither JSON nor YAML"),
        ("kv:\n\ta: 1\n", "line 2: neither JSON nor YAML"),
        ("kv: {}\n---\nkv: {}\n", "line 2: neither JSON nor YAML"),
        ("kv:\n  a: *hunter2\n", "line 2: neither JSON nor YAML"),
        ("kv:\n  a: !hunter2 x\n", "line 2: a tag: expected plain text, or quotes"),
        ("kv:\n  a: &x {b: *x}\n", "line 2: nested too deeply: expected at most 50 levels"),
        ("kv:\n  a: " + "[" * 60 + "]" * 60, "line 2: nested too deeply: expected at most 50 levels"),
        ('{"kv": ' + "[" * 200_000, "nested too deeply"),
        ('{"kv":\n {"a": ' + "[" * 450 + "]" * 450 + "}}", "line 2: nested too deeply: expected at most 50 levels"),
        ('{"kv":\n ' + '{"a": ' * 450 + "1" + "}" * 451, "line 2: nested too deeply: expected at most 50 levels"),
        ("kv:\n  a: 1\n  b: 2\n  a: 3\n", "line 4: 'a' is set twice, first in line 2"),
        ("kv:\n  a/b: 1\n  a:\n    b: 2\n", "line 4: kv: a/b is set twice"),
        ("kv:\n  /: 1\n", "line 2: kv: expected a name and found '/'"),
        ("kv:\n  [a, b]: 1\n", "line 2: a name: expected text"),
        ("kv:\n  a: {<<: hunter2}\n", "line 2: <<: expected a mapping"),
        ("\nkv: {}\nservice: {}\n", "line 2: its top level: expected a mapping with `kv` and `services`"),
        ("services:\n  db:\n    address: a\n", "line 3: services.db: expected a list of instances"),
        ("services:\n  db:\n  - address: a\n    prot: 1\n", "line 4: services.db[0]: 'prot': expected one of address"),
        ("services:\n  db:\n  - address: a\n    port: 70000\n", "line 4: services.db[0].port: expected a port from 0"),
        ("services:\n  db:\n  - address: a\n    port: true\n", "line 4: services.db[0].port: expected a port from 0"),
        ("services:\n  db:\n  - address: a\n    tags: x\n", "line 4: services.db[0].tags: expected a list of tags"),
        ("services: {db: [{address: a, tags: [x, null]}]}", "line 1: services.db[0].tags: expected a list of tags"),
        ("services: {db: [{address: a, tags: [[x]]}]}", "line 1: services.db[0].tags: expected a list of tags"),
        ("services: {db: [{address: a, meta: x}]}", "line 1: services.db[0].meta: expected a mapping"),
        ("services: {db: [{address: a, meta: {b: {c: d}}}]}", "line 1: services.db[0].meta: expected a mapping"),
        ("services: {db: [{address: a, weight: 0}]}", "line 1: services.db[0].weight: expected a number"),
        ("services: {db: [{address: a, weight: 65536}]}", "line 1: services.db[0].weight: expected a number"),
        ("services: {db: [{address: a, weight: -1}]}", "line 1: services.db[0].weight: expected a number"),
        ("services:\n  db:\n  - address: a\n    dc: [x]\n", "line 4: services.db[0].dc: expected text"),
        ("services:\n  db:\n  - a:1\n  - http://b:2\n", "line 4: services.db[1]='http://b:2': expected HOST:PORT"),
        ("services:\n  Web: []\n  web: ['a:1']\n", "line 3: services: web is set twice: case makes no difference"),
        ("services:\n  db:\n  - a:1\n  - null\n", "line 4: services.db[1]: expected HOST:PORT"),
        ('{"services": {"db": [null]}}', "line 1: services.db[0]: expected HOST:PORT"),
        ("services:\n  db:\n  - address: \n", "line 3: services.db[0].address: expected an IP address or a host name"),
        ('{"kv": {},\n "services": {"db": [\n  {"port": 1}]}}', "line 3: services.db[0]: expected HOST:PORT"),
        ('{"kv": {"}": "\\"{"},\n "services": {"db": [\n  {"port": 1}]}}', "line 3: services.db[0]: expected"),
        ('{"kv":\n {"a": 1, "a": 2}}', "line 2: 'a' is set twice"),
        (b"kv:\n  a: \xff\n", "line 2: expected UTF-8"),
        ("kv:\n  a: \x01\n", "line 1: neither JSON nor YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line_and_without_the_value(
    tmp_path: pathlib.Path, text: str | bytes, said: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert f"SVCINIT_SOURCE: {path}, line " in str(caught.value)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_json_file_is_judged_as_json(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"source.json, line 2: not JSON: Expecting"):
        read(written(tmp_path, '{"kv":\n {a: 1}}', "source.json"))
    with pytest.raises(ConfigError, match=r"source.json, line 1: not JSON: a number that JSON does not have"):
        read(written(tmp_path, '{"kv": {"a": NaN}}', "source.json"))


def test_without_pyyaml_json_is_read_and_yaml_is_told_what_it_needs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert kv_of(tmp_path, '{"kv": {"a": 1}}') == {"a": b"1"}
    with pytest.raises(ConfigError, match=r"is not JSON, and YAML needs PyYAML.*pip install 'svcinit\[yaml\]'"):
        kv_of(tmp_path, "kv: {}")


def test_a_file_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"nosuch.yaml cannot be read: No such file"):
        read(str(tmp_path / "nosuch.yaml"))


def test_a_directory_is_read_with_one_file_a_key_and_a_service(tmp_path: pathlib.Path) -> None:
    written(tmp_path, b"\xff\0\n\n", "kv/config/web/blob")
    for hidden in ("kv/config/web/.blob.swp", "kv/config/web/blob~", "kv/.git/config", "services/.db.yaml.swp"):
        written(tmp_path, "x", hidden)
    written(tmp_path, "mysql: ['10.0.0.1:3306']\n", "services.yaml")
    written(tmp_path, "- 10.0.0.2:6379\n", "services/redis.yml")
    written(tmp_path, '[{"address": "10.0.0.3"}]', "services/search.json")
    kv, services = read(str(tmp_path))
    assert kv == {"config/web/blob": b"\xff\0\n"}
    assert {name: [str(each.peer) for each in found] for name, found in services.items()} == {
        "mysql": ["10.0.0.1:3306"], "redis": ["10.0.0.2:6379"], "search": ["10.0.0.3:0"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "expected keys as files in kv/, or services.yaml, or both"),
        ({"services.yaml": "db: []", "services/db.yaml": "[]"}, "line 1: services: db is set in another file too"),
        ({"services/Db.yaml": "[]", "services/db.yaml": "[]"}, "line 1: services: db is set in another file too"),
        ({"services/db.txt": "[]"}, "db.txt: expected services/NAME with one of .yaml, .yml, .json"),
        ({"services/db.yaml": "\n- port: 1\n"}, "db.yaml, line 2: services.db[0]: expected HOST:PORT"),
        ({"services.yaml": "- a:1"}, "services.yaml, line 1: services: expected a mapping of names"),
    ],
)
def test_a_wrong_directory_is_told_with_the_file(tmp_path: pathlib.Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        written(tmp_path, text, name)
    with pytest.raises(ConfigError) as caught:
        read(str(tmp_path))
    assert said in str(caught.value)


SERVICES = """
services:
  db:
  - {address: 10.0.0.3, port: 1, tags: [Primary, v1.2], node: host3}
  - 10.0.0.2:1
  - "[::1]:1"
  - {address: 10.0.0.2, port: 1}
  - {address: 10.1.0.1, port: 1, dc: dc2, tags: [tcp]}
  near.query: ["10.0.0.9:1"]
"""


@pytest.mark.parametrize(
    ("question", "found"),
    [
        (("db", None, None), ["10.0.0.2:1", "10.0.0.3:1", "[::1]:1"]),
        (("DB", "primary", None), ["10.0.0.3:1"]),
        (("v1.2.db", None, None), ["10.0.0.3:1"]),
        (("db", "v1", None), []),
        (("_db._primary", None, None), ["10.0.0.3:1"]),
        (("_db._tcp", None, None), ["10.0.0.2:1", "10.0.0.3:1", "[::1]:1"]),
        (("db", None, "DC2"), ["10.1.0.1:1"]),
        (("db", "tcp", "dc2"), ["10.1.0.1:1"]),
        (("db", "tcp", None), []),
        (("db.query", None, "dc2"), ["10.1.0.1:1"]),
        (("near.query", None, None), ["10.0.0.9:1"]),
        (("nosuch", None, None), []),
    ],
)
def test_peers_are_those_that_consul_would_answer_with(
    tmp_path: pathlib.Path, question: tuple[str, str | None, str | None], found: list[str]
) -> None:
    assert list(map(str, prepared(written(tmp_path, SERVICES)).peers(*question))) == found


def test_peers_have_the_node_that_the_file_says(tmp_path: pathlib.Path) -> None:
    (peer,) = prepared(written(tmp_path, SERVICES)).peers("db", "primary")
    assert (peer.host, peer.node) == ("10.0.0.3", "host3")


@pytest.mark.parametrize("question", [("db.query", "x"), ("_db._x", "x"), ("my db", None)])
def test_what_consul_could_not_be_asked_for_is_wrong_on_a_laptop_too(
    tmp_path: pathlib.Path, question: tuple[str, str | None]
) -> None:
    with pytest.raises(ConfigError):
        prepared(written(tmp_path, SERVICES)).peers(*question)


def test_what_a_person_emptied_is_empty_and_not_a_failed_fetch(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path, "kv: {config/web: {a: 1}}")
    before = prepared(path)
    written(tmp_path, "kv: {}")
    after = TemplateData(before.settings, FileSource(before.settings), before.counts())
    after.fetch()
    assert (len(before.kv), after.kv) == (1, {})


def test_peers_that_are_waited_for_come_from_the_file(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path, SERVICES)
    prepared(path, SVCINIT_WAIT_FOR="db:3,db@dc2").wait()
    with pytest.raises(Unavailable, match="SVCINIT_WAIT_FOR: db: 3 of 4 instances in SVCINIT_SOURCE"):
        prepared(path, SVCINIT_WAIT_FOR="db:4").wait()


def test_ten_thousand_keys_are_read_within_a_second(tmp_path: pathlib.Path) -> None:
    tree = {f"group{group}": {f"key{key}": "value" for key in range(100)} for group in range(100)}
    path = written(tmp_path, json.dumps({"kv": tree}))
    began = os.times()
    assert len(read(path)[0]) == 10_000
    ended = os.times()
    assert ended.user + ended.system - began.user - began.system < 1.0
