"""What the bench says of its own run: a machine that is not quiet, and a part that did not run."""

from __future__ import annotations

import contextlib
import pathlib
import time
import types
from collections.abc import Iterator

import pytest

from bench import __main__ as bench
from bench import report
from bench.starts import DIRECT, SVCINIT, Measured, Start

SAMPLES = {"svcinit": [3.0, 4.0], "tini": [1.0, 2.0]}


def measured(name: str, failure: str = "") -> Measured:
    each = Measured(name)
    each.failure = failure
    each.starts = {how: [Start(1.0, 2.0, 3.0)] for how in (DIRECT, SVCINIT)}
    return each


def test_a_table_of_times_says_when_the_machine_was_not_quiet() -> None:
    busy, quiet = report.QUIET + 0.1, report.QUIET
    said = f"not a quiet machine: load {busy:.1f}"
    assert said in report.times(SAMPLES, [], "tini", busy)[0]
    assert said in report.starts([measured("nginx")], busy)[0]
    assert "quiet" not in "".join(report.times(SAMPLES, [], "tini", quiet))
    assert "quiet" not in "".join(report.starts([measured("nginx")], quiet))


@pytest.mark.parametrize("failure", ["", "svcinit: exit 1: the service ended"])
def test_an_image_that_does_not_start_fails_the_run_and_changes_no_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], failure: str
) -> None:
    page = tmp_path / "images.md"
    page.write_text("the page of an earlier run\n")

    @contextlib.contextmanager
    def agent(_: bench.Bench) -> Iterator[tuple[pathlib.Path, None]]:
        yield tmp_path, None

    probe = types.SimpleNamespace(note="", close=lambda: None, clock=time.monotonic_ns)
    monkeypatch.setenv("DOCKER_HOST", "unix:///none")
    monkeypatch.setattr(bench, "DOCS", tmp_path)
    monkeypatch.setattr(bench, "Probe", lambda _: probe)
    monkeypatch.setattr(bench, "Stage", lambda *_: None)
    monkeypatch.setattr("bench.image.build", lambda folder, _: folder)
    monkeypatch.setattr(bench.Bench, "_agent", agent)
    monkeypatch.setattr("bench.starts.measure", lambda *_: [measured("nginx"), measured("twemproxy", failure)])
    monkeypatch.setattr("subprocess.run", lambda *_, **__: types.SimpleNamespace(stdout=""))
    monkeypatch.setattr("sys.argv", ["bench", "--only", "images", "--docs", "--json", str(tmp_path / "raw.json")])
    assert bench.main() == bool(failure)
    assert ("twemproxy" in capsys.readouterr().err) == bool(failure)
    assert ("earlier run" in page.read_text()) == bool(failure)
