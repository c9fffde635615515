"""docs/status.md, docs/metrics.md, the schema and the dashboard say what there is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from svcinit.agent.metrics.families import HISTOGRAM, SUMMARY, TABLE
from svcinit.model import RELOAD_OUTCOMES, State
from tools.tables import DOCS, SCHEMA, pages

DASHBOARD = DOCS / "grafana-dashboard.json"
PARTS = {HISTOGRAM: ("_bucket", "_sum", "_count"), SUMMARY: ("_sum", "_count")}
EXPORTED = {row.name + part: set(row.labels) for row in TABLE for part in PARTS.get(row.kind, ("",))}
LABELS = {"job", "instance", "le"}  # what Prometheus itself adds, and buckets have
METRIC = re.compile(r"\bsvcinit_\w+")


@pytest.mark.parametrize("page", ["metrics.md", "status.md"])
def test_the_tables_are_current(page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == pages()[DOCS / page], "run `make docs`"


def test_the_schema_is_one_and_knows_every_state_and_outcome() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    states = {value for name, value in vars(State).items() if name.isupper()}
    assert set(schema["properties"]["state"]["enum"]) == states
    assert list(schema["properties"]["reload_outcomes"]["properties"]) == list(RELOAD_OUTCOMES)
    assert schema["properties"]["last_reload"]["anyOf"][0]["properties"]["outcome"]["enum"] == list(RELOAD_OUTCOMES)


def test_metrics_have_names_as_prometheus_wants_them() -> None:
    for row in TABLE:
        assert re.fullmatch(r"svcinit_[a-z]+(_[a-z]+)*", row.name)
        assert row.name.endswith("_total") == (row.kind == "counter"), row.name
        assert not re.search(r"_(ms|milliseconds|kib|mib|percent|minutes)(_|$)", row.name), "not a base unit"
        if row.kind in PARTS:
            assert row.name.endswith(("_seconds", "_bytes")), row.name
    assert len({row.name for row in TABLE}) == len(TABLE)


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def test_the_dashboard_uses_nothing_but_exported_metrics_and_their_labels() -> None:
    targets = [target for panel in panels() for target in panel.get("targets", ())]
    for target in targets:
        names = METRIC.findall(target["expr"])
        assert names, f"no metric in {target['expr']}"
        assert set(names) <= set(EXPORTED), target["expr"]
        labels = LABELS.union(*(EXPORTED[name] for name in names))
        asked = re.findall(r"[{,](\w+)(?:=|!=|=~|!~)\"", target["expr"])
        grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
        shown = re.findall(r"{{(\w+)}}", target["legendFormat"])
        assert {*asked, *shown, *(word.strip() for group in grouped for word in group.split(","))} - {""} <= labels, (
            target["expr"]
        )
        for pair in ("()", "{}", "[]"):
            assert target["expr"].count(pair[0]) == target["expr"].count(pair[1]), target["expr"]
    assert len(targets) > len(TABLE) / 2


def test_the_dashboard_can_be_drawn() -> None:
    whole = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another"
        assert place["x"] + place["w"] <= 24
        taken |= cells
    variables = {variable["name"] for variable in whole["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(whole))) - {"__rate_interval", "__all"}
    assert used == variables
    assert whole["panels"]


def test_what_the_metrics_page_speaks_of_is_there() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert set(METRIC.findall(text)) <= set(EXPORTED) | {row.name for row in TABLE}
