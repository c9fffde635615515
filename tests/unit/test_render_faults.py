"""What a person reads when a template cannot be rendered, and what nobody may ever read there."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path

import pytest

from rendering import Data, Peer, fault_of, render_all, tree
from svcinit.agent.templates.render import render_arguments
from svcinit.errors import ConfigError

SECRET = "hunter2-Tr0ub4dor"


# what is said when it goes wrong


def test_a_missing_key_is_reported_with_file_line_text_and_the_nearest_keys(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"etc/app.ini.j2": "[uwsgi]\n\n  workers = {{ key('uwsgi/workres') }}\n"})
    with pytest.raises(ConfigError) as caught:
        render_all(folder, Data({"uwsgi/workers": b"4", "uwsgi/harakiri": b"30", "db/name": b"x"}))
    assert caught.value.faults == (
        f"{folder}/etc/app.ini.j2, line 3, `workers = {{{{ key('uwsgi/workres') }}}}`:"
        " there is no key uwsgi/workres; nearest: uwsgi/workers, uwsgi/harakiri",
    )


def test_all_faulty_templates_are_reported_together(tmp_path: Path) -> None:
    folder = tree(
        tmp_path,
        {
            "a.j2": "{% if %}",
            "b.j2": "fine",
            "c.j2": "\n{{ nodee }}",
            "d.j2": "{# svcinit: mod=1 #}\n{{ 1 / 0 }}",
            "e.j2": "{{ service('x', min=1) }}",
            "f.j2": b"\xff",
        },
    )
    with pytest.raises(ConfigError) as caught:
        render_all(folder)
    assert caught.value.faults == (
        f"{folder}/a.j2, line 1, `{{% if %}}`: Expected an expression, got 'end of statement block'",
        f"{folder}/c.j2, line 2, `{{{{ nodee }}}}`: nodee is not defined; nearest: node, nodes",
        f"{folder}/d.j2, line 2, `{{{{ 1 / 0 }}}}`: ZeroDivisionError: division by zero",
        f"{folder}/d.j2, line 1: unknown option 'mod' in the svcinit comment; nearest: mode",
        f"{folder}/f.j2: template f.j2 is not UTF-8 text",
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ cfg.uwsgi.workres }}", "there is no key uwsgi/workres; nearest: uwsgi/workers"),
        ("{{ cfg.uswgi.workers }}", "there is no key uswgi"),
        (
            "{{ key('config/web/uwsgi/workers') }}",
            'keys are relative to SVCINIT_KV_PREFIX: did you mean key("uwsgi/workers")?',
        ),
        ("{{ env.HOEM }}", "environment variable HOEM is not set; nearest: HOME"),
        ("{{ sevice('x') }}", "sevice is not defined; nearest: service"),
        ("{{ service('none')[0] }}", "list object has no element 0"),
        ("{{ this.prot }}", "has no attribute 'prot'"),
        ("{{ key() }}", "missing 1 required positional argument: 'path'"),
        ("{{ 'a' + 1 }}", 'TypeError: can only concatenate str (not "int") to str'),
        ("{{ 'a'|to_jsn }}", "No filter named 'to_jsn'"),
        ("{{ lipsum() }}", "lipsum is not defined"),
        ("{{ [1]|random }}", "No filter named 'random'"),
        ("{% include 'no/such' %}", "there is no template no/such in the template directories"),
        ("{{ '{'|from_json }}", "from_json: the value is not JSON (its line 1, column 2)"),
        ("{{ 'a: [' |from_yaml }}", "from_yaml: the value is not YAML (its line "),
        ("{{ '!'|b64decode }}", "b64decode: the value is not base64"),
        ("{{ '/w=='|b64decode }}", "b64decode: the decoded value is not UTF-8 text"),
        ("{{ service('portless')|hostports }}", "a peer has no port; give one, as in hostports(9300)"),
    ],
)
def test_a_mistake_is_named(template: str, reason: str) -> None:
    data = Data(
        {"uwsgi/workers": b"4"},
        {"portless": [Peer("a", "10.0.0.1", 0, "")]},
        {"HOME": "/root", "PATH": "/bin"},
    )
    fault = fault_of(template, data)
    assert fault.startswith(f"argument 0 of the command, line 1, `{template}`: ")
    assert reason in fault


def test_no_keys_at_all_is_said() -> None:
    assert fault_of("{{ key('a') }}").endswith("there is no key a; there are no keys at all")


def test_the_fault_is_placed_where_it_is_in_an_included_template(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"etc/a.j2": '\n{% include "etc/_part.j2" %}', "etc/_part.j2": "\n\n{{ key('none') }}"})
    with pytest.raises(ConfigError) as caught:
        render_all(folder)
    assert caught.value.faults[0].startswith(
        f"{folder}/etc/_part.j2, line 3 (for {folder}/etc/a.j2), `{{{{ key('none') }}}}`: there is no key"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ key(key('s')) }}",
        "{{ key('uwsgi/' ~ key('s')) }}",
        "{{ cfg[key('s')] }}",
        "{{ cfg[key('s')].x }}",
        "{{ env[key('s')] }}",
        "{{ {}[key('s')] }}",
        "{{ this[key('s')] }}",
        "{{ [][key('n')|int] }}",
        "{% include key('s') %}",
        "{% include [key('s'), key('s')] %}",
        "{{ key('s') + 1 }}",
        "{{ key('s')|from_json }}",
        "{{ ('[' ~ key('s'))|from_yaml }}",
        "{{ ('!' ~ key('s'))|from_yaml }}",
        "{{ key('s')|b64decode }}",
        "{{ '%d'|format(key('s')) }}",
        "{{ key('s').foo() }}",
        "{{ dict(**{key('s'): 1}).bar }}",
        "{{ range(**{key('s'): 1}) }}",
        "{{ key('s').index('x' ~ key('s')) }}",
        "{{ [].index(key('s')) }}",
        "{{ {}.pop(key('s')) }}",
        "{{ [1]|map(key('s'))|list }}",
        "{{ [1, 2]|groupby(key('s')) }}",
        "{{ service(key('s'))[0].x }}",
    ],
)
def test_a_value_never_gets_into_a_fault(template: str) -> None:
    fault = fault_of(template, Data({"s": SECRET.encode(), "n": b"31337"}))
    assert SECRET not in fault
    assert "31337" not in fault


def test_a_key_whose_name_is_computed_is_named_as_far_as_it_is_known() -> None:
    data = Data({"nodes/3/port": b"1", "role": SECRET.encode()})
    template = "{% for k, v in tree('nodes') %}{{ key('nodes/' ~ k|split('/')|first ~ '/host') }}{% endfor %}"
    assert "there is no key nodes/3/host; nearest: nodes/3/port" in fault_of(template, data)
    assert "there is no key nodes/(computed)" in fault_of("{{ key('nodes/' ~ key('role')) }}", data)


# arguments


def test_words_without_a_template_are_left_alone() -> None:
    assert render_arguments(["a", "{x}", "--y={{ node }}", ""], Data()) == ["a", "{x}", "--y=host1", ""]


def test_faults_of_arguments_are_reported_together_by_number() -> None:
    with pytest.raises(ConfigError) as caught:
        render_arguments(["run", "{{ a }}", "ok", "--b={{ key('b') }}", "{{ '\\0' }}"], Data())
    assert caught.value.faults == (
        "argument 1 of the command, line 1, `{{ a }}`: a is not defined",
        "argument 3 of the command, line 1, `--b={{ key('b') }}`: there is no key b; there are no keys at all",
        "argument 4 of the command, `{{ '\\0' }}`: its text would contain a NUL byte, which no argument can",
    )


# options of the first line


def test_a_nul_byte_in_the_options_is_a_fault(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"a.j2": '{# svcinit: check="test \0 {}" #}x'})
    with pytest.raises(ConfigError, match=r"the svcinit comment of a\.j2 contains a NUL byte"):
        render_all(folder)


def test_the_first_line_sets_mode_owner_and_check_and_leaves_no_blank_line(tmp_path: Path) -> None:
    line = "{# svcinit: mode=0640 owner=root:daemon check=\"sh -c 'test -s {}'\" #}"
    file = render_all(tree(tmp_path, {"a.j2": f"{line}\nfirst\n{{{{ node }}}}\n"}))["/a"]
    assert file.content == b"first\nhost1\n"
    assert (file.mode, file.owner, file.check) == (
        0o640,
        (pwd.getpwnam("root").pw_uid, grp.getgrnam("daemon").gr_gid),
        "sh -c 'test -s {}'",
    )


def test_lines_are_still_counted_from_the_first(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"a.j2": "{# svcinit: mode=0640 #}\n{{ key('x') }}"})
    with pytest.raises(ConfigError, match=r"a\.j2, line 2, "):
        render_all(folder)


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("daemon", pwd.getpwnam("daemon")[2:4]),
        ("12345:54321", (12345, 54321)),
        ("0", (0, 0)),
        ("root:7", (0, 7)),
    ],
)
def test_owners_are_names_or_numbers(tmp_path: Path, owner: str, expected: tuple[int, int]) -> None:
    assert render_all(tree(tmp_path, {"a.j2": f"{{# svcinit: owner={owner} #}}\n"}))["/a"].owner == expected


def test_without_options_nothing_is_asked_for(tmp_path: Path) -> None:
    file = render_all(tree(tmp_path, {"a.j2": "{# a comment #}\nx"}))["/a"]
    assert (file.content, file.mode, file.owner, file.check) == (b"\nx", None, None, None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("mdoe=0640", "line 1: unknown option 'mdoe' in the svcinit comment; nearest: mode"),
        (
            "umask=022",
            "line 1: unknown option 'umask' in the svcinit comment; the options are mode, owner, check, reload, dirs,"
            " backup, wait, timeout",
        ),
        (
            "reload=HPU",
            "line 1: reload=HPU is wrong: expected a signal such as HUP, restart, none, exec:COMMAND or"
            " write:/PATH:TEXT",
        ),
        ("mode=rw-r--r--", "line 1: mode=rw-r--r-- is not an octal mode such as 0640"),
        ("dirs=755x", "line 1: dirs=755x is not an octal mode such as 0640"),
        ("wait=5", "line 1: wait=5 is wrong: expected a duration such as 500ms, 10s, 5m or 1h"),
        ("wait=5s,1s", "line 1: wait=5s,1s is wrong: expected MIN,MAX, such as 1s,10s, with MIN not above MAX"),
        ("backup=yes", "line 1: backup=yes is wrong: expected 0 or 1"),
        ("mode=0888", "line 1: mode=0888 is not an octal mode such as 0640"),
        ("mode=0640 mode=0600", "line 1: write the option mode of the svcinit comment once, as mode=VALUE"),
        ("mode", "line 1: write the option mode of the svcinit comment once, as mode=VALUE"),
        ("owner=nosuch", "line 1: owner=nosuch: there is no user 'nosuch' in this image"),
        ("owner=root:nosuch", "line 1: owner=root:nosuch: there is no group 'nosuch' in this image"),
        ("owner=:root", "line 1: owner=:root: expected USER or USER:GROUP"),
        ("owner=12345", "line 1: owner=12345: the group of user 12345 is unknown; write 12345:GROUP"),
        ('check="nginx -t"', "line 1: check=nginx -t must contain {}, which stands for the path of the new file"),
        ('check="sh -c \'x {}"', "line 1: a quote in check=sh -c 'x {} is not closed"),
        ('check="x {}', "line 1: a quote in the svcinit comment is not closed"),
    ],
)
def test_a_wrong_option_is_named_with_its_template(tmp_path: Path, options: str, reason: str) -> None:
    folder = tree(tmp_path, {"a.j2": f"{{# svcinit: {options} #}}\nx"})
    with pytest.raises(ConfigError) as caught:
        render_all(folder)
    assert caught.value.faults == (f"{folder}/a.j2, {reason}",)
    assert caught.value.fields == {"file": f"{folder}/a.j2", "line": 1}


@pytest.mark.parametrize(
    "text", ["\n{# svcinit: mode=0600 #}", "#!/bin/sh\n{#- svcinit: mode=0600 #}", "{# svcinit:\n#}"]
)
def test_options_that_would_be_overlooked_are_a_fault(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"comment of a\.j2 must be at the very start of the file, on one line$"):
        render_all(tree(tmp_path, {"a.j2": text}))
