"""`svcinitctl port`: what a template of consul-template or confd becomes. The bytes that the real tools render are
compared in tests/e2e/test_port.py."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from jinja2 import Environment

from rendering import Data, text_of
from svcinit.ctl import cli
from svcinit.ctl.output import put
from svcinit.ctl.port import port
from svcinit.errors import ConfigError

BY_NODE = '|sort(false, true, "node,id")'


def turned(tmp_path: Path, text: str) -> tuple[str, list[tuple[int, str]]]:
    path = tmp_path / "a.ctmpl"
    path.write_text(text)
    result = port(str(path)).turned
    return result.text, result.remarks


@pytest.mark.parametrize(
    ("go", "jinja"),
    [
        ('{{ key "config/a" }}', '{{ key("/config/a") }}'),
        ('{{ key "/config/a@dc2" }}', '{{ key("/config/a", dc="dc2") }}'),
        ('{{ keyOrDefault "a" "d" }}', '{{ key_or_default("/a", "d") or "d" }}'),
        ('{{ keyOrDefault "a" "" }}{{ keyOrDefault "a" "7" | parseInt }}',
         '{{ key_or_default("/a", "") }}{{ (key_or_default("/a", "7") or "7")|strict_int }}'),
        ('{{ divide 2 9 }}{{ range ls "a" | len | loop }}{{ end }}',
         '{{ 9 // 2 }}{% for item in range(ls("/a")|length) %}{% endfor %}'),
        ('{{ if keyExists "a" }}x{{ end }}', '{% if key_exists("/a") %}x{% endif %}'),
        ("{{ range ls `a/b` }}{{ .Key }}={{ .Value }}{{ end }}",
         '{% for pair in ls("/a/b") %}{{ pair.key }}={{ pair.value }}{% endfor %}'),
        ('{{ $d := env "DC" }}{{ tree (printf "a/%s@%s" .x $d) }}', None),
        ('{{ $d := env "DC" }}{{ range tree (printf "a/%s@%s" $d $d) }}{{ end }}',
         '{% set d = env.get("DC", "") %}{% for pair in tree("/a/" ~ d, dc=d) %}{% endfor %}'),
        ('{{ range service "v1.web@dc2~_agent|any" }}{{ .Address }}:{{ .Port }}{{ end }}',
         '{% for instance in instances("web", tag="v1", dc="dc2", near="_agent", status="any") %}'
         "{{ instance.address }}:{{ instance.port }}{% endfor %}"),
        ('{{ range $i, $s := service "web" }}{{ $i }}{{ .Weights.Passing }}{{ $s.ServiceMeta.zone }}{{ end }}',
         f'{{% for s in instances("web"){BY_NODE} %}}{{% set i = loop.index0 %}}'
         "{{ i }}{{ s.weight }}{{ s.meta.zone }}{% endfor %}"),
        ('{{ range service "web" "passing,warning" }}{{ end }}',
         f'{{% for instance in instances("web", status="warning"){BY_NODE} %}}{{% endfor %}}'),
        ('{{ range services }}{{ if .Tags | contains "a" }}{{ .Name }}{{ end }}{{ end }}',
         '{% for entry in services() %}{% if "a" in entry.tags %}{{ entry.name }}{% endif %}{% endfor %}'),
        ('{{ range services }}{{ if .Tags.Contains "a" }}{{ .Name }}{{ end }}{{ end }}',
         '{% for entry in services() %}{% if "a" in entry.tags %}{{ entry.name }}{% endif %}{% endfor %}'),
        ('{{ with secret "kv/data/shop" }}{{ .Data.data.password }}{{ end }}',
         '{% set vault = secret("kv/data/shop") %}{% if vault %}{{ vault.password|go_text }}{% endif %}'),
        ('{{ with vault "pki/issue/x" (printf "common_name=%s" (env "A")) "ttl=1h" }}{{ .Data.certificate }}{{ end }}',
         '{% set vault = secret("pki/issue/x", common_name=env.get("A", ""), ttl="1h") %}{% if vault %}'
         "{{ vault.certificate|go_text }}{% endif %}"),
        ('{{ range secrets "kv/" }}{{ with secret (printf "kv/%s" .) }}'
         "{{ range $k, $v := .Data }}{{ $k }}{{ end }}{{ end }}{{ end }}",
         '{% for item in secrets("kv/") %}{% set vault = secret("kv/" ~ item) %}{% if vault %}'
         "{% for k, v in vault|dictsort(true) %}{{ k }}{% endfor %}{% endif %}{% endfor %}"),
        ('{{ with $x := env "A" }}{{ $x }}{{ . }}{{ else }}n{{ end }}',
         '{% set x = env.get("A", "") %}{% if x %}{{ x }}{{ x }}{% else %}n{% endif %}'),
        ('{{ with key "j" | parseJSON }}{{ if .on }}{{ .a.b }}{{ end }}'
         '{{ range $k, $v := .m }}{{ $k }}{{ end }}{{ end }}',
         '{% set item = key("/j")|from_json %}{% if item %}{% if item.on|default(none) %}'
         "{{ item.a.b|go_text }}{% endif %}"
         "{% for k, v in item.m|default([])|go_items %}{{ k|go_text }}{% endfor %}{% endif %}"),
        ("{{- if true }} a {{ else if false -}} b {{- else -}} c {{ end -}}",
         "{%- if true %} a {% elif false -%} b {%- else -%} c {% endif -%}"),
        ("{{/* a {% note %} */}}{# b #}{% c %}", '{# a {% note %} #}{{ "{#" }} b #}{{ "{%" }} c %}'),
        ('{{ printf "%s-%d" (env "A") 1 }}', '{{ env.get("A", "") ~ "-" ~ 1 }}'),
        ('{{ printf "%-5s|%03d%%" (env "A") 7 }}', '{{ "%-5s|%03d%%"|format(env.get("A", ""), 7) }}'),
        ('{{ "ab" | regexReplaceAll "(a)b" "${1}$1" }}', '{{ "ab"|regex_replace("(a)b", "\\\\g<1>\\\\g<1>") }}'),
        ('{{ if regexMatch "^[[:alpha:]]+$" (env "A") }}{{ end }}',
         '{% if env.get("A", "")|regex_match("^[a-zA-Z]+$") %}{% endif %}'),
        ("{{ add 1 (multiply 2 3) }}{{ 5 | subtract 1 }}{{ divide 2 9 }}", "{{ 1 + (2 * 3) }}{{ 5 - 1 }}{{ 9 // 2 }}"),
        ('{{ if and (not true) (or "" "b") }}{{ end }}', '{% if (not true) and ("" or "b") %}{% endif %}'),
        ('{{ if and (eq 1 1 2) (not (in .x "y")) }}{{ end }}', None),
        ('{{ range $i := loop 1 3 }}{{ $i }}{{ end }}', "{% for i in range(1, 3) %}{{ i }}{% endfor %}"),
        ('{{ range $for := split "," "a" }}{{ $for }}{{ end }}',
         '{% for for2 in "a"|trim|split(",") %}{{ for2 }}{% endfor %}'),
        ('{{ true }}{{ keyExists "a" }}', '{{ true|lower }}{{ key_exists("/a")|lower }}'),
    ],
)  # fmt: skip
def test_an_action_becomes_a_tag_of_jinja(tmp_path: Path, go: str, jinja: str | None) -> None:
    """None: it can be turned only where its dot is known; here it is nothing."""
    text, remarks = turned(tmp_path, go)
    assert (text == jinja) == (not remarks) == (jinja is not None), text


@pytest.mark.parametrize(
    ("go", "output"),
    [
        ('{{ $x := "a" }}{{ range loop 2 }}{{ $x = print $x "b" }}{{ end }}{{ $x }}', "abb"),
        ('{{ $x := "a" }}{{ if true }}{{ $x := "b" }}{{ $x }}{{ end }}{{ $x }}', "ba"),
        ('{{ $x := "a" }}{{ if true }}{{ $x = "b" }}{{ end }}{{ $x }}', "b"),
        ('{{ scratch.Set "n" 0 }}{{ range loop 3 }}{{ scratch.Set "n" (add 2 (scratch.Get "n")) }}{{ end }}'
         '{{ scratch.Get "n" }}{{ if scratch.Get "no" }}x{{ end }}', "6"),
        ('{{ range $k := split "," "b,a,b" }}{{ scratch.MapSetX "m" $k (print $k "!") }}{{ end }}'
         '{{ range scratch.MapValues "m" }}{{ . }}{{ end }}{{ scratch.Get "m" | toJSON }}', 'a!b!{"a":"a!","b":"b!"}'),
        ('{{ template "t" "x" }}{{ define "t" }}[{{ . }}{{ template "u" }}]{{ end }}'
         '{{ define "u" }}{{/* */}}u{{ end }}',
         "[xu]"),
        ('{{ block "b" "x" }}<{{ . }}>{{ end }}{{ template "b" "y" }}{{ executeTemplate "b" "z" }}', "<x><y><z>"),
        ('{{ range $i, $e := split "," "a,b" }}{{ range loop 2 }}{{ $i }}{{ end }}{{ $e }}{{ end }}', "00a11b"),
        ('{{ range $n := split "," "a,b,c" }}{{ if eq $n "a" }}1{{ else if $y := trimPrefix "b" $n }}{{ $y }}'
         '{{ else if eq $n "b" }}2{{ else }}3{{ end }}{{ end }}', "1" + "2" + "c"),
        ('{{ with parseJSON "{\\"b\\":[1.0,2.5,true],\\"a\\":{\\"z\\":1e30}}" }}{{ .b }}{{ .a }}'
         "{{ range .b }}{{ . }},{{ end }}"
         "{{ range $k, $v := . }}{{ $k }}{{ end }}{{ end }}", "[1 2.5 true]map[z:1e+30]1,2.5,true,ab"),
        ("a \n{{- /* c */ -}}\n b{{- 1 }}", "ab1"),
        ('{{ divide 2 -7 }} {{ modulo 2 -7 }} {{ divide -2 7 }} {{ modulo -2 7 }} {{ divide -2 -7 }}',
         "-3 -1 -3 1 3"),
        ('{{ with parseJSON "-7" }}{{ divide 2 . }} {{ sprig_mod . 2 }} {{ divide 0.5 . }}{{ end }}', "-3 -1 -14"),
        ('{{ len "é€" }} {{ with parseJSON "[\\"é\\"]" }}{{ len . }}{{ len (index . 0) }}{{ end }}', "5 12"),
        ('{{ urlquery "a b/c~é+%" }} {{ "/" | urlquery }}', "a+b%2Fc~%C3%A9%2B%25 %2F"),
        ('{{ range split "" "aéb" }}[{{ . }}]{{ end }}{{ len (split "" "") }}{{ sprig_splitList "" "ab" }}',
         "[a][é][b]0[a b]"),
        ("{{ if true }}\n  a\n{{ end }}\n", "\n  a\n\n"),
        ('{{ "{{" }}{{ `"\\n"` }}{{ "\\t\\u00e9" }}', '{{"\\n"\t\u00e9'),
    ],
)  # fmt: skip
def test_a_turned_template_renders_to_what_go_prints(tmp_path: Path, go: str, output: str) -> None:
    text, remarks = turned(tmp_path, go)
    assert remarks == []
    assert text_of(text) == output, text


def test_keys_of_a_tree_are_grouped_by_their_first_part() -> None:
    data = Data({"/a/x/k": b"1", "/a/x/l/m": b"2", "/a/y/k": b"3", "/a/z": b"4"})
    each = "{% for k, p in some|items %}{{ k }}{{ p.key }}={{ p.value }} {% endfor %}"
    template = "{% for n, some in tree('/a')|by_key|items %}{{ n }}:" + each + "{% endfor %}"
    assert text_of(template, data) == "x:kk=1 l/ml/m=2 y:kk=3 "


@pytest.mark.parametrize(
    ("go", "word"),
    [
        ('a {{- plugin "x" }}', "SVCINIT_PRE_START"),
        ('{{ key "a" | writeToFile "/f" "u" "g" "0600" }}', "template of its own"),
        ('{{ range nomadServices }}{{ .Name }}{{ end }}', "Nomad"),
        ('{{ with $x := pkiCert "p" }}{{ $x.Cert }}{{ end }}', "secret("),
        ("{{ $t := timestamp }}{{ $t }}", "same bytes"),
        ('{{ range service "web" }}{{ . }}{{ end }}', "one of its fields"),
        ("{{ range loop 2 }}{{ break }}{{ end }}", "condition"),
        ('{{ range service "web" }}{{ .NoSuch }}{{ end }}', ".NoSuch"),
        ('{{ frob "a" }}', "frob"),
        ('{{ printf (env "A") 1 }}', "constant"),
        ('{{ template "none" }}', "define"),
        ('{{ secret "pki/issue/x" (env "A") }}', "NAME=VALUE"),
    ],
)  # fmt: skip
def test_what_cannot_be_turned_has_a_comment_with_its_line_and_fails_when_it_is_rendered(
    tmp_path: Path, go: str, word: str
) -> None:
    text, remarks = turned(tmp_path, f"first\n{go}")
    ((line, reason),) = remarks
    assert line == 2
    assert word in reason
    assert f"svcinitctl port, line 2: {reason}" in text
    with pytest.raises(ConfigError, match="todo"):
        text_of(text, Data(env={"A": "x"}) if "service" not in go else _with_web())


def _with_web() -> Data:
    data = Data()
    data.lists["instances"] = [{"node": "n", "id": "i", "status": "passing"}]
    return data


UNREADABLE = [
    "{{ if }}x{{ end }}",
    "{{ if true }}",
    "{{ end }}",
    "{{ key `a }}",
    "{{ (1 }}",
    "{{ range a {{ b }} }}",
    "x {{",
    "{{ 'a }}",
]


@pytest.mark.parametrize("go", UNREADABLE)
def test_what_go_cannot_read_is_an_error_with_its_line(tmp_path: Path, go: str) -> None:
    with pytest.raises(ConfigError) as caught:
        turned(tmp_path, f"\n\n{go}")
    assert caught.value.faults[0].fields["line"] == 3


def test_too_deeply_nested_actions_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too deeply"):
        turned(tmp_path, "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")


PIECES = [
    "{{", "}}", "{{- ", " -}}", "end", "else", "else if", "range", "with", "if", "$x", ":=", "=", "|", "(", ")", ".",
    ".Key", '"a"', "`r`", "1", "nil", "printf", '"%s-%d"', "service", "key", "scratch.Get", "scratch.Set", "index",
    "eq", "and", 'define "t"', 'template "t" .', 'block "b" .', "break", ",", "$i, $e", "/* c */", "{#", "{%", "#}",
    "byTag", "split", "\0", "'ab'", "\"\\U99999999\"",
]  # fmt: skip
TEMPLATES = [file.read_text() for file in sorted((Path(__file__).parent.parent / "e2e/templates").glob("*.ctmpl"))]


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_template_is_an_error_or_becomes_one_that_jinja_reads(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    text = rng.choice(TEMPLATES)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text))
        text = (
            text[:at] + rng.choice([f" {rng.choice(PIECES)} ", "", text[at - 20 : at]]) + text[at + rng.randint(0, 9) :]
        )
    try:
        result, _ = turned(tmp_path, text)
    except ConfigError:
        return
    Environment().parse(result)


RESOURCE = """
[template]
prefix = "/prod"
src = "a.tmpl"
dest = "/etc/a/a.conf"
mode = "0640"
owner = "app"
group = "web"
keys = ["/x"]
check_cmd = "nginx -t -c {{.src}}"
reload_cmd = "kill -HUP 1"
"""
RESOURCE_TEMPLATE = """\
{{ getv "/x/a" }} {{ getv "/no" "d" }} {{ if exists "/x/a" }}y{{ end }}
{{ range gets "/x/*" }}{{ base .Key }}{{ .Key }}={{ .Value }} {{ end }}
{{ range getvs "/x/*" }}{{ . }},{{ end }} {{ range ls "/" }}{{ . }} {{ end }}{{ range lsdir "/" }}{{ . }}{{ end }}
{{ $j := json (getv "/x/j") }}{{ $j.n }} {{ join (split "b,a" ",") "-" }} {{ replace "aXX" "X" "y" 1 }} {{ add 1 2 }}
{{ join (split "ab" "") "+" }} {{ len (split "" ",") }} {{ div -7 2 }} {{ mod -7 2 }}
{{ getenv "EMPTY" "d" }}{{ getenv "A" "d" }}{{ getenv "NO" }}
"""


def test_a_resource_of_confd_becomes_a_template_with_options_at_its_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("conf.d", "templates"):
        (tmp_path / folder).mkdir()
    (tmp_path / "conf.d/a.toml").write_text(RESOURCE)
    (tmp_path / "templates/a.tmpl").write_text(RESOURCE_TEMPLATE)
    assert cli.run(["port", str(tmp_path / "conf.d/a.toml"), "--out", str(tmp_path / "out")]) == 0
    put()
    assert capsys.readouterr().out == f"{tmp_path / 'out/etc/a/a.conf.j2'}\n"
    text = (tmp_path / "out/etc/a/a.conf.j2").read_text()
    first, _, rest = text.partition("\n")
    assert first == "{# svcinit: mode=0640 owner=app:web check='nginx -t -c {}' reload='exec:kill -HUP 1' #}"
    data = Data(
        {"/prod/x/a": b"2", "/prod/x/b": b"1", "/prod/x/j": b'{"n": true}', "/prod/y": b"z"},
        env={"A": "x", "EMPTY": ""},
    )
    lines = [
        "2 d y",
        'a/x/a=2 b/x/b=1 j/x/j={"n": true} ',
        '1,2,{"n": true}, x y x',
        "true b-a ayX 3",
        "a+b 1 -3 -1",
        "dx",
        "",
    ]
    assert text_of(rest, data) == "\n".join(lines)


def test_the_exit_status_says_whether_all_could_be_turned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.ctmpl", tmp_path / "bad.ctmpl"
    good.write_text('{{ key "a" }}\n')
    bad.write_text('\n{{ plugin "a" }}\n')
    assert cli.run(["port", str(good)]) == 0
    assert cli.run(["port", str(good), str(bad)]) == 1
    assert f"{bad}, line 2: plugin" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.ctmpl").write_text("x")
    (tmp_path / "file").write_text("")
    assert cli.run(["port", str(tmp_path / "a.ctmpl"), "--out", str(tmp_path / "file")]) == 1
    assert f"{tmp_path}/file/a.j2 cannot be written" in capsys.readouterr().err


# has confd's options, and what they lead to: the real one cannot be built (docs/porting.md)
CONFD = """#!{python}
import pathlib, sys, tomllib
assert sys.argv[1:5] == ["-onetime", "-backend", "consul", "-node"], sys.argv
root = pathlib.Path(sys.argv[sys.argv.index("-confdir") + 1])
template = tomllib.loads((root / "conf.d/file.toml").read_text())["template"]
assert (template["prefix"].strip("/"), template["keys"]) == ("prod", ["/"]), template
text = (root / "templates" / template["src"]).read_text()
pathlib.Path(template["dest"]).write_text(text.replace('{{{{ getv "/x/a" }}}}', "2"))
"""


@pytest.mark.parametrize("text", ['a = {{ getv "/x/a" }}\n', 'a = {{ getv "/x/a" }}{{/* */}}\n'])
def test_a_resource_is_compared_with_what_confd_writes_and_without_confd_it_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    for folder in ("conf.d", "templates", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "conf.d/a.toml").write_text(
        '[template]\nsrc = "a.tmpl"\ndest = "/etc/a"\nprefix = "/prod"\nkeys = ["/x"]\n'
    )
    (tmp_path / "templates/a.tmpl").write_text(text)
    (tmp_path / "source.yaml").write_text("kv: {prod/x/a: '2'}\n")
    monkeypatch.setenv("SVCINIT_SOURCE", f"file:{tmp_path / 'source.yaml'}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    check = ["port", "--check", str(tmp_path / "conf.d/a.toml"), str(tmp_path / "conf.d/a.toml")]
    assert cli.run(check) == 1
    put()
    assert "not compared: --check needs confd in PATH" in capsys.readouterr().out
    (tmp_path / "bin/confd").write_text(CONFD.format(python=sys.executable))
    (tmp_path / "bin/confd").chmod(0o755)
    same = "/*" not in text
    assert cli.run(check) == (0 if same else 1)
    put()
    assert f"{2 * same} of 2 files: the same bytes" in capsys.readouterr().out
