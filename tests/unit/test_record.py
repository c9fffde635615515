"""prepare.json: what the last preparation used and made, and what all preparations of a run took. The clock is ours."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from places import put
from svcinit.agent.consul.stats import OK, RequestStats
from svcinit.agent.prepare import record
from svcinit.agent.prepare.source import Answer, InputId, Kind, Source
from svcinit.agent.prepare.transaction import Transaction
from svcinit.settings import environment
from svcinit.settings.environment import Settings
from svcinit.state_files import read_of_life, write_state

RUN = "ab12"
PREFIX, DB = InputId(Kind.KV, "config/web", "dc2"), InputId(Kind.PEERS, "db", None, "blue")


class Known(Source):
    """It has made one request."""

    def __init__(self) -> None:
        self._stats = RequestStats()
        self._stats.note("GET kv", OK, 0.5)

    def request_stats(self) -> dict[str, Any]:
        return self._stats.state()


@pytest.fixture
def mine(tmp_path: Path) -> Settings:
    (tmp_path / "templates").mkdir()
    for name in ("a", "b"):
        put(tmp_path / "templates" / f"{tmp_path}/etc/{name}.j2".lstrip("/"), b"text")
    return environment.read({"SVCINIT_RUN": str(tmp_path / "run"), "SVCINIT_TEMPLATES": str(tmp_path / "templates")})


def prepared(mine: Settings, fetch: float, render: float | None) -> Transaction:
    done = Transaction(mine, ("run",), Known())
    done.data.answers = {PREFIX: Answer({"config/web/a": b"1"}, 1000.0, 7), DB: Answer([], 1001.0)}
    done.seconds = {"fetch": fetch} | ({} if render is None else {"render": render})
    if render is not None:
        done.commit()
    return done


def recorded(mine: Settings) -> dict[str, Any]:
    return read_of_life(mine.run, "prepare", RUN) or {}


def test_it_has_when_each_input_was_fetched_and_how_many_entries_it_had(mine: Settings) -> None:
    record.write_record(prepared(mine, 0.25, 0.5), RUN, (), lambda: 5000.0)
    found = recorded(mine)
    assert found["ended"] == 5000.0
    assert found["prefixes"] == {"config/web@dc2": {"entries": 1, "index": 7, "fetched": 1000.0}}
    assert found["peers"] == {"blue.db": {"entries": 0, "index": None, "fetched": 1001.0}}


def test_it_has_the_catalog_by_full_labels(mine: Settings) -> None:
    done = prepared(mine, 0.25, 0.5)
    done.data.answers[InputId(Kind.INSTANCES, "web")] = Answer([{}, {}], 1000.0, 9)
    done.data.answers[InputId(Kind.NODE, "web")] = Answer([], 1000.0)
    record.write_record(done, RUN, (), lambda: 5000.0)
    assert recorded(mine)["catalog"] == {
        "instances of web": {"entries": 2, "index": 9, "fetched": 1000.0},
        "node web": {"entries": 0, "index": None, "fetched": 1000.0},
    }
    record.write_record(prepared(mine, 0.25, None), RUN, ("wrong",), lambda: 5001.0)
    assert set(recorded(mine)["catalog"]) == {"instances of web", "node web"}  # not read by the failed one


def test_times_and_requests_of_a_run_add_up_and_those_of_another_run_do_not(mine: Settings) -> None:
    record.write_record(prepared(mine, 9.0, 9.0), "another", (), lambda: 1.0)
    for fetch, render in ((0.25, 0.5), (0.75, None)):
        record.write_record(prepared(mine, fetch, render), RUN, ("wrong",) * (render is None), lambda: 5000.0)
    found = recorded(mine)
    assert found["fetch_seconds"] == {"last": 0.75, "sum": 1.0, "count": 2}
    assert found["render_seconds"] == {"last": 0.5, "sum": 0.5, "count": 1}, "the second one did not render"
    assert found["requests"]["GET kv"]["outcomes"] == {OK: 2}


def test_a_failed_preparation_keeps_the_files_and_the_inputs_that_it_did_not_read(
    mine: Settings, tmp_path: Path
) -> None:
    record.write_record(prepared(mine, 0.25, 0.5), RUN, (), lambda: 5000.0)
    failed = Transaction(mine, ("run",), Known())
    failed.data.answers = {DB: Answer([1, 2], 6000.0)}
    fault = f"{tmp_path}/templates{tmp_path}/etc/b.j2, line 1: wrong"
    record.write_record(failed, RUN, (fault, "something else"), lambda: 6001.0)
    found = recorded(mine)
    assert found["errors"] == [fault, "something else"]
    assert found["prefixes"]["config/web@dc2"]["fetched"] == 1000.0
    assert found["peers"]["blue.db"] == {"entries": 2, "index": None, "fetched": 6000.0}
    assert [(entry["target"], entry["error"]) for entry in found["templates"]] == [
        (f"{tmp_path}/etc/a", None),
        (f"{tmp_path}/etc/b", fault),
    ]
    assert {entry["sha256"] for entry in found["templates"]} == {hashlib.sha256(b"text").hexdigest()}


def test_checksums_are_those_of_the_files_after_a_rollback(mine: Settings, tmp_path: Path) -> None:
    record.write_record(prepared(mine, 0.25, 0.5), RUN, (), lambda: 5000.0)
    put(tmp_path / "etc/a", b"former")
    (tmp_path / "etc/b").unlink()
    record.refresh_checksums(mine, RUN)
    first, second = recorded(mine)["templates"]
    assert first["sha256"] == hashlib.sha256(b"former").hexdigest()
    assert (second["sha256"], second["changed"]) == (None, None)


def test_a_record_of_another_shape_is_replaced(mine: Settings) -> None:
    write_state(mine.run, "prepare", {"life": RUN, "requests": 3, "templates": "none"})
    record.write_record(prepared(mine, 0.25, 0.5), RUN, (), lambda: 5000.0)
    assert recorded(mine)["fetch_seconds"]["count"] == 1
