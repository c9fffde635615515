"""Keys by their full names: with a leading slash a template reads a key that is not below the service's own prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rendering import Data, fault_of
from svcinit.agent.prepare import cache
from svcinit.agent.prepare.source import Answer, InputId, Kind, Source
from svcinit.agent.prepare.source_cache import CacheSource
from svcinit.agent.prepare.source_defaults import DefaultsSource
from svcinit.agent.prepare.source_file import FileSource
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.templates.mask import Mask
from svcinit.agent.templates.render import render_arguments
from svcinit.errors import Unavailable
from svcinit.settings import environment
from svcinit.settings.environment import Settings

OWN, OTHER, ALL = InputId(Kind.KV, "config/web"), InputId(Kind.KEY, "config/other/x"), InputId(Kind.KV, "config/all")
CONTENTS: dict[InputId, dict[str, bytes]] = {
    OWN: {"config/web/x": b"own", "config/web/d/y": b"deep"},
    OTHER: {"config/other/x": b"other"},
    OTHER._replace(dc="dc2"): {"config/other/x": b"far"},
    InputId(Kind.KEY, "config/web/x", "dc2"): {"config/web/x": b"far"},
    ALL: {"config/all/a": b"1", "config/all/b/c": b"2", "config/all/b/": b""},
    InputId(Kind.KEY, "gone"): {},
}


class Fixed(Source):
    def __init__(self, contents: dict[InputId, dict[str, bytes]]) -> None:
        self.contents, self.asked = contents, list[InputId]()

    def read(self, wanted: InputId) -> Answer:
        self.asked.append(wanted)
        return Answer(self.contents[wanted], 1000.0, 3)


def ours(folder: Path, **env: str) -> Settings:
    given = {"SVCINIT_KV_PREFIX": "config/web", "SVCINIT_CACHE": str(folder / "cache.json"), **env}
    return environment.read(given)


def fetched(settings: Settings, source: Source, earlier: dict[InputId, int] | None = None) -> TemplateData:
    data = TemplateData(settings, source, earlier)
    data.fetch()
    return data


def rendered(template: str, data: TemplateData) -> str:
    return render_arguments([template], data)[0]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ key('/config/other/x') }} {{ key('x') }}", "other own"),
        ("{{ key('/config/other/x', dc='dc2') }}", "far"),
        ("{{ key('/config/web/x', dc='dc2') }} {{ key('/config/web/x') }}", "far own"),
        ("{{ key_or_default('/config/other/x', 'd') }} {{ key_or_default('/gone', 'd') }}", "other d"),
        ("{{ key_exists('/gone') }} {{ key_exists('/config/other/x/') }}", "False True"),
        (
            "{{ ls('/config/all')|join(' ', attribute='key') }} {{ tree('/config/all/')|join(' ', attribute='key') }}",
            "a a b/c",
        ),
        ("{{ key('/config/web/x') }} {{ tree('/config/web')|join(' ', attribute='key') }}", "own d/y x"),
        (
            "{{ tree('/config/all')|length }} {{ key('/config/all/a') }} {{ (ls('/config/all/b')|first).value }}",
            "2 1 2",
        ),
        ("{{ key_or_default('/config/other/x', key('x')) }} {{ key_or_default('/gone', key('x')) }}", "other own"),
    ],
)
def test_a_leading_slash_is_a_full_name(tmp_path: Path, template: str, text: str) -> None:
    assert rendered(template, fetched(ours(tmp_path), Fixed(CONTENTS))) == text


@pytest.mark.parametrize("template", ["{{ key('/config/other/x', dc='DC2') }}", "{{ key('/config/web/x', dc='Dc2') }}"])
def test_the_name_of_a_datacenter_has_no_case(tmp_path: Path, template: str) -> None:
    """Consul has it in lower case; its HTTP API finds no other, and its DNS does."""
    assert rendered(template, fetched(ours(tmp_path), Fixed(CONTENTS))) == "far"


def test_a_datacenter_in_capitals_is_the_one_that_consul_has_in_lower_case() -> None:
    read = environment.read({"SVCINIT_KV_PREFIX": "config/_all@DC2", "SVCINIT_WAIT_FOR": "db:2@Dc2"})
    assert (read.kv_prefix, read.wait_for) == ((("config/_all", "dc2"),), (("db", 2, "dc2"),))


def test_names_with_dots_and_slashes_at_their_ends_are_no_mistake() -> None:
    read = environment.read({"SVCINIT_KV_PREFIX": "/config/..x/.y/", "SVCINIT_WAIT_FOR_KEYS": "/a.b/,...,.c/"})
    assert (read.kv_prefix, read.wait_for_keys) == ((("config/..x/.y", None),), ("/a.b/", "...", ".c/"))


def test_a_prefix_of_a_datacenter_in_capitals_is_read_once(tmp_path: Path) -> None:
    wanted = InputId(Kind.KV, "config/all", "dc2")
    source = Fixed({wanted: {"config/all/a": b"1"}})
    data = fetched(ours(tmp_path, SVCINIT_KV_PREFIX="config/all@DC2"), source)
    assert (
        rendered("{{ key('a') }}{{ key('/config/all/a', dc='DC2') }}{{ ls('/config/all', dc='dc2')|length }}", data)
        == "111"
    )
    assert source.asked == [wanted]


def test_what_is_below_a_prefix_that_was_read_costs_no_request(tmp_path: Path) -> None:
    source = Fixed(CONTENTS)
    data = fetched(ours(tmp_path), source)
    rendered("{{ key('/config/web/x') }}{{ key_exists('/config/web/none') }}{{ ls('/config/web')|length }}", data)
    rendered("{{ tree('/config/web/d')|length }}", data)
    assert source.asked == [OWN]
    rendered("{{ key('/config/other/x') }}{{ key('/config/other/x') }}", data)
    assert source.asked == [OWN, OTHER]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ key('/config/other/none') }}", "no key /config/other/none; a path that begins with a slash is a full one"),
        (
            "{{ key('/x') }}",
            'there is no key /x; a path that begins with a slash is a full one: did you mean key("x")?',
        ),
        ("{{ key('x', dc='dc2') }}", "dc= needs the full path of a key, which begins with a slash"),
        (
            "{{ key('/config/./x') }}",
            "line 1, `{{ key('/config/./x') }}`: a full path of a key must be without an empty",
        ),
        ("{{ key_or_default('/config/../x', 'd') }}", "which Consul's HTTP API takes out"),
        ("{{ key_exists('/config//x') }}", "without an empty part, '.' or '..' between slashes"),
        ("{{ tree('/config/../other', dc='dc2') }}", "without an empty part"),
        ("{{ ls('/..') }}", "without an empty part"),
        ("{{ key('/') }}", "there is no key /"),
        ("{{ ls(dc='dc2') }}", "dc= needs the full path"),
        ("{{ key('/b') }}", "the value of key /b is not UTF-8 text"),
    ],
)
def test_a_full_name_that_is_wrong_is_explained(template: str, said: str) -> None:
    assert said in fault_of(template, Data({"x": b"1", "/b": b"\xff"}))


def test_a_key_that_was_removed_is_news_and_a_folder_that_lost_all_keys_is_not(tmp_path: Path) -> None:
    source = Fixed({**CONTENTS, OTHER: {}, ALL: {}})
    data = fetched(ours(tmp_path), source, {OTHER: 1, ALL: 2})
    assert rendered("{{ key_or_default('/config/other/x', 'd') }}", data) == "d"
    with pytest.raises(Unavailable, match="KV prefix config/all had 2 entries and now has none"):
        rendered("{{ ls('/config/all') }}", data)


def test_the_cache_has_them(tmp_path: Path) -> None:
    settings = ours(tmp_path)
    template = "{{ key('/config/other/x') }}{{ ls('/config/all')|join(attribute='value') }}{{ key_exists('/gone') }}"
    data = fetched(settings, Fixed(CONTENTS))
    text = rendered(template, data)
    cache.write(settings, {each: answer.content for each, answer in data.answers.items()}, {})
    assert rendered(template, fetched(settings, CacheSource(settings))) == text
    with pytest.raises(Unavailable, match="does not contain the key another"):
        rendered("{{ key_or_default('/another', 1) }}", fetched(settings, CacheSource(settings)))


def test_a_file_has_them(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("kv: {config: {other: {x: 1}, web: {x: 2}}, top: 3}")
    settings = ours(tmp_path, SVCINIT_SOURCE=f"file:{tmp_path}/s.yaml")
    data = fetched(settings, FileSource(settings))
    template = "{{ key('/config/other/x') }} {{ key('/top') }} {{ key_exists('/config/none') }} {{ tree('/')|length }}"
    assert rendered(template, data) == "1 3 False 3"


def test_without_consul_a_default_is_used(tmp_path: Path) -> None:
    class Away(Source):
        def read(self, _wanted: InputId) -> Any:
            raise Unavailable("away")

    data = fetched(ours(tmp_path), DefaultsSource(Away()))
    assert rendered("{{ key_or_default('/config/other/x', 'd') }}{{ ls('/config/all')|length }}", data) == "d0"


def test_values_of_keys_anywhere_are_secrets_too(tmp_path: Path) -> None:
    data = fetched(ours(tmp_path), Fixed(CONTENTS))
    rendered("{{ key('/config/other/x') }}{{ ls('/config/all')|length }}", data)
    assert {"own", "deep", "other", "1", "2"} <= set(data.values())
    assert render_arguments(
        ["{{ ls('/config/all')|join(attribute='value') }} {{ 'config' }}"], data, mask=Mask(data)
    ) == ["*** config"]
