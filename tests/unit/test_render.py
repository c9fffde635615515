"""Templates as whoever writes them meets them: what there is to render, and what comes out."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

from rendering import Data, Peer, fault_of, render_all, text_of, tree
from svcinit.agent.templates.engine import Engine
from svcinit.agent.templates.render import find, render
from svcinit.errors import ConfigError, Unavailable

# what there is to render


def test_a_tree_mirrors_the_file_system(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"etc/uwsgi/app.ini.j2": "", "etc/motd": "", "usr/bin/x": ""})
    assert [source.target for source in find([folder])] == ["/etc/motd", "/etc/uwsgi/app.ini", "/usr/bin/x"]


def test_targets_can_be_put_under_another_root(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"etc/app.ini.j2": ""})
    assert [source.target for source in find([folder], "/out")] == ["/out/etc/app.ini"]


def test_a_later_tree_overrides_an_earlier_one(tmp_path: Path) -> None:
    shared = tree(tmp_path, {"etc/a.j2": "shared a", "etc/b.j2": "shared b"}, "shared")
    own = tree(tmp_path, {"etc/b": "own {{ b }}"}, "own")
    files = render(find([shared, own]), Data(), [shared, own])
    assert [(file.target, file.content) for file in files] == [
        ("/etc/a", b"shared a"),
        ("/etc/b", b"own {{ b }}"),
    ]


def test_a_file_that_is_no_template_is_copied_byte_for_byte_and_stays_executable(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"usr/bin/run": b"#!/bin/sh\r\n\xff\x00{{ no }}"})
    os.chmod(f"{folder}/usr/bin/run", 0o755)
    file = render_all(folder)["/usr/bin/run"]
    assert file.content == b"#!/bin/sh\r\n\xff\x00{{ no }}"
    assert file.mode == 0o755


def test_an_underscore_makes_a_template_one_for_others_only(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"etc/_base.j2": "<{% block body %}{% endblock %}>", "etc/_plain": "x"})
    assert [source.target for source in find([folder])] == ["/etc/_plain"]


def test_two_files_that_become_the_same_are_a_fault(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"etc/a": "", "etc/a.j2": ""})
    with pytest.raises(ConfigError, match=r"etc/a and .*etc/a\.j2 have the same target /etc/a: keep only one of them$"):
        find([folder])


def test_a_missing_directory_a_dead_link_a_fifo_and_a_circle_are_reported_together(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"etc/a": ""})
    os.symlink("nowhere", f"{folder}/dead")
    os.symlink("..", f"{folder}/etc/circle")
    os.mkfifo(f"{folder}/fifo")
    with pytest.raises(ConfigError) as caught:
        find([folder, "/no/such"])
    assert caught.value.faults == (
        f"cannot read {folder}/dead among the templates: No such file or directory",
        f"{folder}/etc/circle among the templates is a link to a directory that contains it",
        f"{folder}/fifo among the templates is neither a file nor a directory",
        "cannot read the template directory /no/such: No such file or directory",
    )


def test_links_that_cross_are_told_each_once_and_at_once(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"a/file": "", "b/file": ""})
    os.symlink("../b", f"{folder}/a/to-b")
    os.symlink("../a", f"{folder}/b/to-a")
    with pytest.raises(ConfigError) as caught:
        find([folder])
    assert caught.value.faults == tuple(
        f"{folder}/{path} among the templates is a link to a directory that contains it"
        for path in ("a/to-b/to-a", "b/to-a/to-b")
    )


def test_a_few_links_that_make_millions_of_directories_are_told_without_walking_them_all(tmp_path: Path) -> None:
    names = [f"d{number}" for number in range(12)]
    folder = tree(tmp_path, {f"{name}/file": "" for name in names})
    for one in names:
        for other in names:
            os.symlink(f"../{other}", f"{folder}/{one}/to-{other}")
    with pytest.raises(ConfigError) as caught:
        find([folder])
    (fault,) = [fault for fault in caught.value.faults if "a link to" not in fault]
    assert fault.startswith(f"{folder} has more than 10000 template directories; each link to a directory counts")


def test_directories_far_too_deep_are_a_fault(tmp_path: Path) -> None:
    folder = tree(tmp_path, {})
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(ConfigError, match=r"/d among the templates is more than 100 directories deep$"):
        find([folder])
    subprocess.run(["rm", "-r", folder], check=True)  # too deep for pytest


def test_the_name_of_a_template_must_be_utf8_and_a_copied_file_may_have_any(tmp_path: Path) -> None:
    bad = [r"etc/_\udcfe.j2", r"etc/\udcff.j2", r"\udcfd/a.j2"]
    folder = tree(tmp_path, {"etc/\udcfc": "", "etc/\udcff.j2": "", "etc/_\udcfe.j2": "", "\udcfd/a.j2": ""})
    with pytest.raises(ConfigError) as caught:
        find([folder])
    assert caught.value.faults == tuple(
        f"'{folder}/{name}' among the templates: the name of a template must be UTF-8: rename it" for name in bad
    )
    fine = tree(tmp_path, {"etc/\udcfc": b"\xff"}, "fine")
    assert render_all(fine)["/etc/\udcfc"].content == b"\xff"


def test_a_tree_may_be_reached_through_links(tmp_path: Path) -> None:
    tree(tmp_path, {"a.j2": "{{ node }}"}, "real")
    folder = tree(tmp_path, {"b": ""})
    os.symlink("../real", f"{folder}/etc")
    assert render_all(folder)["/etc/a"].content == b"host1"


# what templates can say


def test_keys_are_found_by_path_with_or_without_a_slash_in_front() -> None:
    data = Data({"uwsgi/workers": b"4"})
    assert text_of('{{ key("uwsgi/workers") }}{{ key("uwsgi/workers/") }}', data) == "44"
    assert text_of('{{ key_or_default("uwsgi/workers", 2) }}{{ key_or_default("none", 2) }}', data) == "42"
    assert text_of('{{ key_exists("uwsgi/workers") }} {{ key_exists("uwsgi") }}', data) == "True False"


def test_ls_lists_one_level_and_tree_all_of_them_sorted() -> None:
    data = Data({"a/z": b"1", "a/b/c": b"2", "a/": b"", "ab": b"3", "a/a": b"4"})
    assert text_of('{% for k, v in ls("a") %}{{ k }}={{ v }} {% endfor %}', data) == "a=4 z=1 "
    assert text_of('{% for pair in tree("a/") %}{{ pair.key }}={{ pair.value }} {% endfor %}', data) == (
        "a=4 b/c=2 z=1 "
    )
    assert text_of("{% for k, v in ls() %}{{ k }} {% endfor %}", data) == "ab "
    assert text_of('{{ ls("none")|length }}', data) == "0"


def test_cfg_is_the_keys_as_a_nested_mapping() -> None:
    data = Data({"uwsgi/workers": b"4", "uwsgi/tls/cert": b"c"})
    assert text_of("{{ cfg.uwsgi.workers }} {{ cfg['uwsgi']['tls'].cert }}", data) == "4 c"
    assert text_of("{{ cfg.uwsgi.threads|default(1) }} {{ 'x' in cfg }}", data) == "1 False"
    assert text_of("{% for k, v in cfg.uwsgi.items() %}{{ k }} {% endfor %}", data) == "tls workers "
    assert json.loads(text_of("{{ cfg|to_json }}", data)) == {"uwsgi": {"workers": "4", "tls": {"cert": "c"}}}


@pytest.mark.parametrize(
    "template",
    ["{{ cfg.a.db }}", "{{ cfg|to_json }}", "{{ cfg.a|to_yaml }}", "{% for k in cfg.a.db %}{{ k }}{% endfor %}",
     "{{ cfg.a.db.items()|list }}", "{{ cfg.a.db|length }}", "{% if cfg.a.db %}x{% endif %}", "{{ cfg.a ~ '' }}"],
)  # fmt: skip
@pytest.mark.parametrize("order", [1, -1])
def test_cfg_never_leaves_out_the_value_of_a_key_that_is_also_a_folder(template: str, order: int) -> None:
    data = Data(dict([("a/db", b"s3cret"), ("a/db/host", b"h"), ("a/db/user/name", b"u")][::order]))
    fault = fault_of(template, data)
    assert 'a/db is a key and also a folder with keys such as a/db/host: write key("a/db")' in fault
    assert "s3cret" not in fault
    both = "{{ key('a/db') }} {{ cfg.a.db.host }} {{ cfg.a.db.user.name }} {{ 'host' in cfg.a.db }}"
    assert text_of(both, data) == "s3cret h u True"


NO_TEXT = {
    "[{'a': 1}]|map(attribute='b')|list": "has no attribute 'b'",
    "{'x': {'y': ([{'a': 1}]|map(attribute='b')|list)}}": "has no attribute 'b'",
    "[1]|map('string')": "convert it to a list with |list",
    "[key]": "key is a function",
    "{'x': (1, env.get)}": "get is a function",
    "service('db')": "use one of its fields, such as .address",
    "service('db')[0]": "use one of its fields, such as .address",
    "tree('')[0]": "use one of its fields, such as .key",
    "this": "use one of its fields, such as .address",
    "namespace(a=1)": "expected text, a number or a boolean",
    "'a'|batch(1)": "convert it to a list with |list",
    "dict": "expected text, a number or a boolean",
}


@pytest.mark.parametrize("value", NO_TEXT)
@pytest.mark.parametrize(
    "used",
    ["{{ V }}", "{{ 'a' ~ (V) }}", "{{ (V)|string }}", "{{ [V]|join }}", "{{ '%s' % [V] }}", "{{ '%s'|format(V) }}",
     "{{ '{}'.format(V) }}", "{{ '{a}'.format(a=V) }}", "{{ (V)|upper }}", "{{ 'a'|replace('a', V) }}"],
)  # fmt: skip
def test_what_is_no_configuration_is_an_error_and_is_not_written(used: str, value: str) -> None:
    data = Data({"a": b"1"}, {"db": [Peer("h", "10.0.0.1", 5432, "n")]})
    assert NO_TEXT[value] in fault_of(used.replace("V", value), data)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ ['a', 1, true, none, 1.5] }}", "['a', 1, True, None, 1.5]"),  # a settings file in Python
        ("{{ {'a': [1]} }}", "{'a': [1]}"),
        ("{{ 'a' ~ 1 ~ none ~ true }}", "a1NoneTrue"),
        ("{{ 'd: 2026-01-02'|from_yaml|attr('get')('d') }}", "2026-01-02"),
        ("{{ [1, 2]|map('string')|join(',') }}", "1,2"),
        ("{{ [{'a': 1}, {'a': 2}]|join('-', attribute='a') }}", "1-2"),
        ("{{ '%s %d%%' % ('a', 7) }} {{ 7 % 4 }} {{ '%(a)s' % {'a': 1} }}", "a 7% 3 1"),
        ("{{ '%s' | format('a') }} {{ '{} {b}'.format(1, b=2) }} {{ 'A' | lower | replace('a', 'b') }}", "a 1 2 b"),
    ],
)
def test_text_numbers_booleans_none_and_what_is_made_of_them_are_written(template: str, text: str) -> None:
    assert text_of(template) == text


def test_peers_come_sorted_whatever_the_order_dns_had() -> None:
    one, two = Peer("b", "10.0.0.1", 9200, "n1"), Peer("a", "10.0.0.2", 9200, "n2")
    template = '{% for p in service("es") %}{{ p.host }} {{ p.address }} {{ p.port }} {{ p.node }};{% endfor %}'
    texts = {text_of(template, Data(peers={"es": order})) for order in ([one, two], [two, one])}
    assert texts == {"b 10.0.0.1 9200 n1;a 10.0.0.2 9200 n2;"}


def test_a_service_is_asked_for_with_tag_and_datacenter_and_only_when_used() -> None:
    data = Data()
    text_of('{{ service("db", tag="primary", dc="dc2") }}{% if false %}{{ service("other") }}{% endif %}', data)
    assert data.asked == [("db", "primary", "dc2")]


def test_hostports_make_the_list_that_elasticsearch_wants() -> None:
    data = Data(peers={"es": [Peer("a", "10.0.0.1", 9200, ""), Peer("b", "fd00::2", 9200, "")]})
    word = '--discovery.zen.ping.unicast.hosts={{ service("elasticsearch")|hostports(9300)|join(",") }}'
    assert text_of(word, data) == "--discovery.zen.ping.unicast.hosts="  # the first node has no peers yet
    assert text_of('{{ service("es")|hostports|join(",") }}', data) == "10.0.0.1:9200,[fd00::2]:9200"
    assert text_of('{{ service("es")|hostports(port=9300)|join(",") }}', data) == "10.0.0.1:9300,[fd00::2]:9300"


def test_too_few_peers_is_a_matter_of_waiting_not_a_mistake() -> None:
    data = Data(peers={"db": [Peer("a", "10.0.0.1", 1, "")]})
    with pytest.raises(Unavailable) as caught:
        text_of('{{ service("db", tag="primary", min=2) }}', data)
    assert caught.value.faults[0].endswith("service primary.db has 1 of the 2 peers needed")


def test_env_node_and_this_are_there() -> None:
    text = text_of("{{ env.HOME }} {{ node }} {{ this.name }} {{ this.port }}", Data(env={"HOME": "/root"}))
    assert text == "/root host1 shop 8000"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ [1, 'ü', none, {'b': 1, 'a': 2}]|to_json }}", '[1, "ü", null, {"a": 2, "b": 1}]'),
        ("{{ {'a': [1]}|to_json(indent=1) }}", '{\n "a": [\n  1\n ]\n}'),
        ("""{{ ('{"a": [1, 2]}'|from_json).a[1] }}""", "2"),
        ("{{ {'b': [1, 'ü'], 'a': cfg}|to_yaml }}", "a: {}\nb:\n- 1\n- ü\n"),
        ("{{ 'x'|to_yaml }}", "x\n"),
        ("{{ ('a: [1, 2]'|from_yaml).a[1] }}", "2"),
        ("{{ 'w7wg\neA=='|b64decode }}", "ü x"),
        ("{{ 'a,b, c'|split|join('|') }} {{ 'a:b'|split(':')|length }} {{ ''|split|length }}", "a|b| c 2 0"),
        ("{{ 'ü'|sha256 }}", hashlib.sha256("ü".encode()).hexdigest()),
        ("{{ service('none')|to_json }}{{ ls()|to_json }}", "[][]"),
    ],
)
def test_filters(template: str, text: str) -> None:
    assert text_of(template) == text


def test_peers_and_pairs_can_be_written_as_json() -> None:
    data = Data({"a/b": b"1"}, {"db": [Peer("h", "10.0.0.1", 1, "n")]})
    assert json.loads(text_of("{{ service('db')|to_json }}", data)) == [
        {"host": "h", "address": "10.0.0.1", "port": 1, "node": "n"}
    ]
    assert json.loads(text_of("{{ tree('a')|to_json }}", data)) == [{"key": "b", "value": "1"}]


def test_templates_include_import_and_extend_each_other_across_trees(tmp_path: Path) -> None:
    shared = tree(tmp_path, {"svcinit/m.j2": "{% macro up(n) %}{{ n }}:{{ node }}{% endmacro %}"}, "shared")
    own = tree(
        tmp_path,
        {
            "etc/a.j2": '{% from "svcinit/m.j2" import up %}{% extends "etc/_base.j2" %}'
            '{% block b %}{{ up("x") }}'
            "{% endblock %}",
            "etc/_base.j2": '<{% block b %}{% endblock %}>{% include "etc/_tail.j2" %}',
            "etc/_tail.j2": "{{ cfg.k }}",
        },
        "own",
    )
    files = render(find([own]), Data({"k": b"v"}), [shared, own])
    assert [(file.target, file.content) for file in files] == [("/etc/a", b"<x:host1>v")]


def test_the_shared_upstream_of_nginx_lists_peers_and_is_valid_without_any(tmp_path: Path) -> None:
    use = '{% from "svcinit/nginx.j2" import upstream %}{{ upstream("b", service("web"), options="max_fails=0") }}'
    own = tree(tmp_path, {"a.j2": use})
    shared = str(Path(__file__).parent.parent.parent / "templates")
    peers = {"web": [Peer("h", "10.0.0.2", 81, "n"), Peer("h", "fd00::1", 80, "n")]}
    servers = {
        "    server 10.0.0.2:81 max_fails=0;\n    server [fd00::1]:80 max_fails=0;": Data(peers=peers),
        "    server 127.0.0.1:1 down;  # no peers: 502": Data(),
    }
    for lines, data in servers.items():
        assert render(find([own]), data, [shared, own])[0].content.decode() == f"upstream b {{\n{lines}\n}}"


# values are data


@pytest.mark.parametrize(
    "value",
    [
        "quotes ' \" and \\ backslash",
        "lines\nand\r\nmore\rof them\n\n",
        "{{ 7 * 7 }} {% raw %} {# no #} {{",
        "ümläut, 日本語, 🎉, \u2028, \x00",
        "x" * 500_000,
        "<&>",
    ],
)
def test_a_value_arrives_byte_for_byte(tmp_path: Path, value: str) -> None:
    folder = tree(tmp_path, {"a.j2": "[{{ key('v') }}|{{ cfg.v }}|{% for k, v in ls() %}{{ v }}{% endfor %}]\n"})
    assert render_all(folder, Data({"v": value.encode()}))["/a"].content == f"[{value}|{value}|{value}]\n".encode()


def test_bytes_of_the_environment_that_are_no_utf8_arrive_too(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"a.j2": "{{ env.X }}"})
    assert render_all(folder, Data(env={"X": os.fsdecode(b"\xff")}))["/a"].content == b"\xff"


@pytest.mark.parametrize("name", sorted(Environment().filters.keys() - {"random"}))
def test_a_filter_of_jinja_treats_a_level_of_cfg_as_a_mapping(name: str) -> None:
    """Where Jinja2's own filter has a result for a mapping, it is the same for `cfg`."""
    arguments = {"replace": "('x', 'z')", "map": "('upper')", "batch": "(2)", "slice": "(2)", "groupby": "(0)"}
    call = f"{name}{arguments.get(name, '')}"
    data = Data({"a/x": b"1", "a/y": b"2"})
    for tail in ("", "|list"):
        try:
            expected = text_of(f"{{{{ {{'x': '1', 'y': '2'}}|{call}{tail} }}}}", data)
        except ConfigError:
            continue
        assert text_of(f"{{{{ cfg.a|{call}{tail} }}}}", data) == expected


def test_the_attr_filter_does_not_say_that_a_key_is_missing_which_exists() -> None:
    assert "there is no key" not in fault_of("{{ cfg.a|attr('x') }}", Data({"a/x": b"1"}))


@pytest.mark.parametrize("template", ["{{ key('bin') }}", "{{ cfg.bin|default('x') }}", "{{ cfg|to_json }}"])
def test_a_value_that_is_no_text_is_a_fault_that_names_the_key_and_only_when_used(template: str) -> None:
    data = Data({"bin": b"\xff\xfe", "a": b"1"})
    assert text_of("{{ cfg.a }}", data) == "1"
    assert fault_of(template, data).endswith("the value of key bin is not UTF-8 text")


# promises

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)
NAMES = st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3}){0,2}", fullmatch=True)
PIECES = st.sampled_from(
    [
        "{{ cfg|to_json }}",
        "{{ cfg|to_yaml }}",
        "{% for k, v in tree() %}{{ k }}={{ v }}\n{% endfor %}",
        "{{ service('db')|hostports|join(',') }}",
        "{{ key_or_default('a', 'none') }}",
        "{{ cfg.a.b|default('x') }}",
        "\r\ntext ",
    ]
)


@given(st.dictionaries(NAMES, TEXT), st.lists(PIECES), st.permutations([1, 2, 3]))
def test_the_same_input_gives_the_same_bytes(kv: dict[str, str], pieces: list[str], ports: list[int]) -> None:
    template = "".join(pieces)

    def once(order: Sequence[str], ports: Sequence[int]) -> str:
        peers = [Peer(f"h{port}", "10.0.0.1", port, "n") for port in ports]
        try:
            return text_of("{{ '' }}" + template, Data({name: kv[name].encode() for name in order}, {"db": peers}))
        except ConfigError as error:
            return str(error)

    names = list(kv)
    assert once(names, ports) == once(names[::-1], sorted(ports))


@given(TEXT.filter(lambda text: "\0" not in text))
def test_any_text_passes_through_unchanged(value: str) -> None:
    assert text_of("{{ key('v') }}", Data({"v": value.encode()})) == value


METHODS = sorted(name for name in {*dir(dict), *dir(Mapping)} if name.isalpha())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("start", ["cfg.", "cfg.deep.", "env.", "(key('json')|from_json).", "(key('yaml')|from_yaml)."])
def test_a_key_that_is_called_as_a_method_is_the_key(start: str, name: str) -> None:
    kv = {
        name: b"mine",
        f"deep/{name}": b"mine",
        "json": f'{{"{name}": "mine"}}'.encode(),
        "yaml": f"{name}: mine".encode(),
    }
    data = Data(kv, env={name: "mine"})
    assert text_of(f"{{{{ {start}{name} }}}}", data) == "mine"


def test_methods_of_mappings_work_where_no_key_is_called_so() -> None:
    data = Data({"a": b"1", "b": b"2"}, env={"C": "3"})
    assert text_of("{% for k, v in cfg.items() %}{{ k }}{{ v }} {% endfor %}", data) == "a1 b2 "
    assert text_of("{{ cfg.get('x', 'none') }} {{ cfg.keys()|join }} {{ env.values()|join }}", data) == "none ab 3"


def test_a_key_called_items_is_what_filters_see_and_what_others_reach_by_filters() -> None:
    data = Data({"items": b"7", "x/items": b"8", "y/items": b"9"})
    assert text_of("{{ [cfg.x, cfg.y]|map(attribute='items')|join('+') }} {{ cfg.x|attr('items') }}", data) == "8+9 8"
    assert text_of("{% for k, v in cfg.x|items %}{{ k }}={{ v }}{% endfor %}", data) == "items=8"
    assert text_of("{% for k, v in cfg.x|dictsort %}{{ k }}={{ v }}{% endfor %}", data) == "items=8"
    assert "TypeError: 'str' object is not callable" in fault_of("{{ cfg.items() }}", data)


@pytest.mark.parametrize(
    "name", ["cfg.items", "cfg.x.values", "env.get", "({'a': 's3cret'}).pop", "key", "cfg|attr('keys')"]
)
def test_a_method_that_is_not_called_is_a_fault_and_shows_no_value(name: str) -> None:
    data = Data({"x/a": b"s3cret"}, env={"A": "s3cret"})
    fault = fault_of(f"{{{{ {name} }}}}", data)
    assert "() to call it" in fault
    assert "<bound" not in fault


def test_ten_thousand_keys_render_in_under_a_second() -> None:
    data = Data({f"a{n % 100}/b/k{n}": b"value" for n in range(10_000)})
    code = "{% for k, v in tree() %}{{ k }}={{ v }}\n{% endfor %}"
    code += "{% for a in cfg.values() %}{{ a.b|length }}{% endfor %}"
    start = time.process_time()
    assert Engine(data, []).render_text("keys", code).count("\n") == 10_000
    assert time.process_time() - start < 1.0


def test_files_without_a_template_do_not_cost_the_import_of_jinja2(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"a": "x"})
    code = (
        "import sys; from svcinit.agent.files import commit; from svcinit.agent.templates import render;"
        f"commit.commit(render.render(render.find([{folder!r}], {folder + '.out'!r}), None));"
        "print([m for m in ('jinja2', 'typing', 'dataclasses', 'yaml', 'json') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
