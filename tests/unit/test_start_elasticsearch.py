"""What images/elasticsearch gives to the entrypoint of the official image."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from testing.process import PATH, ROOT

SCRIPT = ROOT / "images" / "elasticsearch" / "start-elasticsearch"
NAMES = "es-1, es-2"
FIRST = "eswrapper cluster.initial_master_nodes=es-1,es-2"  # for the first start of a cluster
# from the file that a real 8.17.4 wrote: a length, then the bytes, of a key and of its value
COMMITTED, NOT_YET = b"\x16cluster_uuid_committed\x04true", b"\x16cluster_uuid_committed\x05false"


def given(home: pathlib.Path, masters: str = NAMES, yaml: str = "") -> str:
    """Run the script with another home than the image's. What the entrypoint gets: arguments and settings."""
    (home / "config").mkdir()
    (home / "config" / "elasticsearch.yml").write_text(f'# rendered\ncluster.name: "logs"\n{yaml}')
    text = SCRIPT.read_text().replace("/usr/share/elasticsearch", str(home))
    script = home / "start"
    entrypoint = home / "entrypoint"
    entrypoint.write_text('#!/bin/bash\necho "$@" $(env | grep ^cluster)\n')
    entrypoint.chmod(0o755)
    script.write_text(text.replace("/usr/local/bin/docker-entrypoint.sh", str(entrypoint)))
    command = ["sh", str(script), "eswrapper"]
    done = subprocess.run(command, env={**PATH, "ES_MASTERS": masters}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.strip()


def has_data(folder: pathlib.Path, content: bytes) -> None:
    (folder / "_state").mkdir(parents=True)
    (folder / "_state" / "segments_a").write_bytes(b"\x3f\xd7segments" + content + b"\x00\xff")


@pytest.mark.parametrize(("content", "expected"), [(COMMITTED, "eswrapper"), (NOT_YET, FIRST), (b"", FIRST)])
def test_a_node_gets_the_masters_until_its_data_belong_to_a_cluster(
    tmp_path: pathlib.Path, content: bytes, expected: str
) -> None:
    has_data(tmp_path / "data", content)
    assert given(tmp_path) == expected


def test_a_node_without_data_gets_the_masters(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").mkdir()
    assert given(tmp_path) == FIRST


@pytest.mark.parametrize("quote", ["", '"'])
def test_the_data_are_where_the_configuration_has_them(tmp_path: pathlib.Path, quote: str) -> None:
    has_data(tmp_path / "elsewhere", COMMITTED)
    assert given(tmp_path, yaml=f"path.data: {quote}{tmp_path}/elsewhere{quote}\n") == "eswrapper"


@pytest.mark.parametrize("yaml", ["cluster.initial_master_nodes: es-9\n", 'discovery.zen.hosts_provider: "file"\n'])
def test_masters_of_the_configuration_and_a_version_without_this_setting_are_left_alone(
    tmp_path: pathlib.Path, yaml: str
) -> None:
    (tmp_path / "data").mkdir()
    assert given(tmp_path, yaml=yaml) == "eswrapper"


def test_without_masters_none_are_given(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").mkdir()
    assert given(tmp_path, masters="") == "eswrapper"
