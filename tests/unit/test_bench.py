"""What the bench says of its own run, and how it makes its pages: all of one, or one section."""

from __future__ import annotations

import contextlib
import pathlib
import time
import types
from collections.abc import Iterator

import pytest

from bench import __main__ as bench
from bench import contenders, peers, pythons, report, scale, soak, watch
from bench.page import merged
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
    monkeypatch.setattr("bench.image.of_suite", lambda folder, _: folder)
    monkeypatch.setattr(bench.Bench, "_agent", agent)
    monkeypatch.setattr("bench.starts.measure", lambda *_: [measured("nginx"), measured("twemproxy", failure)])
    monkeypatch.setattr("subprocess.run", lambda *_, **__: types.SimpleNamespace(stdout=""))
    monkeypatch.setattr("sys.argv", ["bench", "--only", "images", "--docs", "--json", str(tmp_path / "raw.json")])
    assert bench.main() == bool(failure)
    assert ("twemproxy" in capsys.readouterr().err) == bool(failure)
    assert ("earlier run" in page.read_text()) == bool(failure)


PAGE = "# Benchmarks\n\n- load: 0.1\n\n## plain: a\n\nold plain\n\n## soak: c\n\nold soak\n"
ORDER = "plain", "full", "soak"


def test_a_section_that_was_measured_alone_replaces_its_own_section_only() -> None:
    alone = merged(PAGE, "# Benchmarks\n\n- load: 9.9\n\n## full: b\n\nnew full\n", ORDER, alone=True)
    assert alone == PAGE.replace("## soak", "## full: b\n\nnew full\n\n## soak")
    again = merged(alone, "# Benchmarks\n\n## full: b\n\nnewer full\n", ORDER, alone=True)
    assert again == alone.replace("new full", "newer full")


def test_a_whole_run_keeps_only_the_sections_that_it_did_not_measure() -> None:
    new = "# Benchmarks\n\n- load: 0.2\n\n## plain: a\n\nnew plain\n"
    assert merged(PAGE, new, ORDER, alone=False) == new + "\n## soak: c\n\nold soak\n"
    assert merged(PAGE.replace("soak", "gone"), new, ORDER, alone=False) == new
    assert merged("", new, ORDER, alone=True) == new


def test_the_table_of_peers_has_a_row_for_each_tool_and_an_empty_cell_for_what_it_does_not_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "_version", lambda who: " 1.2.3" if who == contenders.TINI else "")
    idle = {"cpu": 20.0, "connections": 2}
    raw = {
        "plain": {contenders.TINI: [1.0, 3.0], contenders.SVCINIT: [9.0]},  # no dumb-init on this machine
        "full": {contenders.BASH: [44.0], contenders.CONSUL_TEMPLATE: [20.0], contenders.SVCINIT_FULL: [120.0]},
        "memory": {contenders.TINI: {"pss": 0.3}},
        "watch": {watch.BYTES: [4.0], watch.PEER_BYTES: [5.0]},
        "peers": [
            {"who": contenders.SVCINIT_FULL, "templates": 1, **idle},
            {"who": contenders.CONSUL_TEMPLATE, "templates": 50, **idle},
        ],
    }  # fmt: skip
    rows = {cells[0]: cells[1:] for cells in (line.strip("| ").split(" | ") for line in peers.table(raw, "busy"))}
    assert "busy" in rows
    assert rows["tini -s 1.2.3"][:2] == ["2.0", "0.3"]
    assert any(line.startswith("| dumb-init |  |") for line in peers.table(raw, ""))
    assert "| svcinit, full | 120.0 |  | 4.0 | 20 | 2 |  |  |" in peers.table(raw, "")
    assert "| consul-template | 20.0 |  | 5.0 |  |  | 20 | 2 |" in peers.table(raw, "")


def test_a_soak_fails_when_a_limit_is_exceeded_and_names_the_limit() -> None:
    found = soak.Found()
    found.note("services", "30")
    found.note("growth", 1.0, " MiB", most=1.0)
    assert found.broken == []
    found.note("registrations lost", 2, most=0)
    assert found.broken == ["registrations lost: 2, at most 0"]
    assert found.table()[-1] == "| registrations lost | 2 | 0 |"


def test_a_soak_has_at_least_one_instance_of_each_service(monkeypatch: pytest.MonkeyPatch) -> None:
    assert soak.wanted() == (30.0, 200)
    monkeypatch.setenv("SOAK_INSTANCES", "29")
    with pytest.raises(SystemExit, match="SOAK_INSTANCES=29"):
        soak.wanted()


def test_a_row_of_what_following_costs_has_the_numbers_of_keys_and_templates() -> None:
    row = report.idle([scale.Idle("svcinit", 10, 2, scale.svcinit(pathlib.Path("svcinit")))])[-1]
    assert row.startswith("| 10 | 2 | 0 |")


def test_the_table_of_pythons_has_each_beside_bash_with_one_curl() -> None:
    times = {
        "python3 -I -S": [6.0],
        "a plain init": [7.5],
        "to the service": [90.0, 80.0, 100.0],
        "registered": [120.0],
    }
    cost = pythons.Cost(times, 8.0, 21.0, {"init": 60.4, "prepare": 250.0, "presence": 180.0})
    bash, row = pythons.table(pythons.Measured([40.0, 45.0, 50.0], {"3.99, some Debian": cost}))[-2:]
    assert bash.startswith("| bash, one curl for all keys | | | 45.0 | 1.00 |")
    assert row == "| 3.99, some Debian | 7.5 | 1.25 | 90.0 | 2.00 | 120.0 | 2.67 | 8.0 | 21.0 | 60 | 250 | 180 |"
