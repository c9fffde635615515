"""A file that svcinit is given and that is none holds nothing up: it is refused, and told with what it is."""

from __future__ import annotations

import os
import pathlib
import resource
import socket
from collections.abc import Callable, Iterator

import pytest

from rendering import Data, render_all, tree
from svcinit import regular_file
from svcinit.agent.consul import http
from svcinit.agent.consul.api import Consul
from svcinit.agent.prepare import cache, record, source_file
from svcinit.agent.templates.render import find, render
from svcinit.ctl.doctor.template_uses import uses
from svcinit.errors import ConfigError, SvcinitError
from svcinit.settings import environment
from svcinit.state_files import read_of_life, write_state

MEMORY = 2 << 30  # bytes: what reads without end shall fail here, and not the machine


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def fifo(path: pathlib.Path) -> None:
    os.mkfifo(path)


def listener(path: pathlib.Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def endless(path: pathlib.Path) -> None:
    path.symlink_to("/dev/zero")


def terminal(path: pathlib.Path) -> None:
    path.symlink_to("/dev/ptmx")


def huge(path: pathlib.Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


ODD = [
    (fifo, "no regular file but a fifo"),
    (listener, "no regular file but a socket"),
    (pathlib.Path.mkdir, "no regular file but a directory"),
    (endless, "no regular file but a device"),
    (terminal, "no regular file but a device"),
    (huge, "is larger than"),
]


@pytest.fixture(params=ODD, ids=[make.__name__ for make, _ in ODD])
def odd(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """A path, and what is said of what lies there."""
    make: Callable[[pathlib.Path], None]
    make, said = request.param
    make(tmp_path / "odd")
    before = len(os.listdir("/proc/self/fd"))
    yield str(tmp_path / "odd"), said
    assert len(os.listdir("/proc/self/fd")) == before


def faults(act: Callable[[], object]) -> str:
    with pytest.raises(SvcinitError) as raised:
        act()
    return str(raised.value)


@pytest.mark.parametrize("name", ["CONSUL_HTTP_TOKEN", "SVCINIT_PORT", "SVCINIT_SERVICES", "SVCINIT_LOG_FORMAT"])
def test_as_the_file_of_a_variable(odd: tuple[str, str], name: str) -> None:
    path, said = odd
    given = {"SVCINIT_SERVICE": "web", f"{name}_FILE": path}
    told = faults(lambda: environment.read(given, "/nosuch"))
    assert f"{name}_FILE='{path}' cannot be read: it" in told
    assert said in told
    assert environment.log_format(given, "/nosuch") == "text"


def test_as_the_images_defaults(odd: tuple[str, str]) -> None:
    path, said = odd
    assert f"{path} cannot be read: it" in (told := faults(lambda: environment.read({}, path)))
    assert said in told


@pytest.mark.parametrize("name", ["source.yaml", "kv/config/web/key", "services.yaml"])
def test_as_the_source_or_a_part_of_it(odd: tuple[str, str], tmp_path: pathlib.Path, name: str) -> None:
    path, said = odd
    if os.path.isdir(path):
        return  # a directory is one of keys
    place = tmp_path / "source" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(path)
    told = faults(lambda: source_file.read(str(place if name == "source.yaml" else tmp_path / "source")))
    assert f"{place} cannot be read: it" in told
    assert said in told


def test_as_the_cache(odd: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, said = odd
    monkeypatch.setattr(cache, "LIMIT", 1 << 20)
    told = faults(lambda: cache.load(environment.read({"SVCINIT_CACHE": path})))
    assert said in told or "symbolic links" in told


@pytest.mark.parametrize("name", ["verify", "client_cert", "client_key"])
def test_as_a_certificate_or_key_for_consul(odd: tuple[str, str], name: str, tmp_path: pathlib.Path) -> None:
    path, said = odd
    if os.path.isdir(path):
        return  # of CA certificates there may be a directory
    (tmp_path / "cert").write_text("")
    options = {"client_cert": str(tmp_path / "cert"), name: path}
    told = faults(lambda: Consul("https://127.0.0.1:1", timeout=(0.1, 0.1), **options).agent())  # type: ignore[arg-type]
    assert f"{path} cannot be read: it" in told
    assert said in told
    assert "CONSUL_CLIENT_KEY" in told


def test_as_a_file_in_a_directory_of_ca_certificates(odd: tuple[str, str], tmp_path: pathlib.Path) -> None:
    """OpenSSL opens only files with the name of a hash there; a directory of that name is no file to it either."""
    path, said = odd
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "README").symlink_to(path)
    options = {"verify": str(folder), "timeout": (0.1, 0.1)}
    assert "cannot be read" not in faults(Consul("https://127.0.0.1:1", **options).agent)  # type: ignore[arg-type]
    (folder / "0a1b2c3d.0").symlink_to(path)
    told = faults(Consul("https://127.0.0.1:1", **options).agent)  # type: ignore[arg-type]
    assert f"{folder}/0a1b2c3d.0 cannot be read: it" in told
    assert said in told
    assert "CONSUL_CAPATH" in told


def test_a_token_file_that_became_one_leaves_the_token_as_it_was(odd: tuple[str, str]) -> None:
    consul = http.Http("127.0.0.1:8500", token="old", token_file=odd[0])
    assert not consul._token_changed()


def test_a_template_or_a_file_to_copy_that_is_too_large(tmp_path: pathlib.Path) -> None:
    for name in ("etc/app.j2", "etc/app"):
        folder = tree(tmp_path, {name: ""})
        huge(tmp_path / "templates" / name)
        assert f"is larger than {regular_file.LIMIT} bytes" in faults(lambda folder=folder: render_all(folder))  # type: ignore[misc]
        (tmp_path / "templates" / name).unlink()


def test_an_included_template_that_is_a_fifo(tmp_path: pathlib.Path) -> None:
    folder = tree(tmp_path, {"etc/app.j2": "{% include '_part.j2' %}"})
    shared = tree(tmp_path, {}, "shared")
    fifo(tmp_path / "shared" / "_part.j2")
    told = faults(lambda: render(find([folder]), Data(), [shared, folder]))
    assert "template _part.j2 cannot be read: it is no regular file but a fifo" in told
    assert uses([folder], [shared]) == set()


def test_a_rendered_file_that_a_fifo_took_the_place_of_has_no_digest(tmp_path: pathlib.Path) -> None:
    mine = environment.read({"SVCINIT_RUN": str(tmp_path)})
    fifo(tmp_path / "target")
    write_state(mine.run, "prepare", {"life": "a", "templates": [{"target": str(tmp_path / "target")}]})
    record.refresh_checksums(mine, "a")
    assert (read_of_life(mine.run, "prepare", "a") or {})["templates"][0]["sha256"] is None


def test_dev_null_is_an_empty_file_as_for_whoever_masks_one() -> None:
    assert environment.read({"SVCINIT_TAGS_FILE": "/dev/null"}, "/dev/null").tags == ()


def test_what_has_exactly_the_limit_is_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / "full").write_bytes(b"x" * 10)
    assert regular_file.read(str(tmp_path / "full"), 10) == b"x" * 10
    with pytest.raises(regular_file.UnfitError, match="larger than 9 bytes"):
        regular_file.read(str(tmp_path / "full"), 9)
    assert regular_file.read("/proc/self/stat", 4096)  # whose size is 0


def test_what_took_its_place_in_between_is_refused_too(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    before = os.stat(tmp_path / "file")
    (tmp_path / "file").unlink()
    fifo(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda _path, **_: before)
    with pytest.raises(regular_file.UnfitError, match="a fifo"):
        regular_file.read(str(tmp_path / "file"))


def test_a_nul_byte_in_a_file_of_values_is_told_before_anything_trips_over_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "value").write_bytes(b"/run\0x")
    told = faults(lambda: environment.read({"SVCINIT_RUN_FILE": str(tmp_path / "value")}, "/nosuch"))
    assert told.endswith("holds a NUL byte; expected text")
    (tmp_path / "image").write_bytes(b"SVCINIT_RUN=/run\nSVCINIT_TAGS_FILE=/a\0b\n")
    with pytest.raises(ConfigError) as raised:
        environment.read({}, str(tmp_path / "image"))
    assert raised.value.faults == (f"{tmp_path}/image, line 2: a NUL byte; expected text",)
