"""What kind of request it was, how it ended, how long it took."""

from __future__ import annotations

import json

import pytest

from svcinit.agent.consul.stats import BUCKETS, RequestStats, blocking, endpoint


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/kv/config/web/", "kv"),
        ("/v1/kv/", "kv"),
        ("/v1/agent/self", "agent/self"),
        ("/v1/agent/services", "agent/services"),
        ("/v1/agent/health/service/id/web-secret-1", "agent/health/service"),
        ("/v1/agent/service/register", "agent/service/register"),
        ("/v1/agent/service/deregister/web-1", "agent/service/deregister"),
        ("/v1/agent/check/update/service%3Aweb-1", "agent/check/update"),
        ("/v1/health/service/db", "health/service"),
        ("/v1/status/leader", "status/leader"),
    ],
)
def test_a_kind_has_no_name_of_a_key_or_service_in_it(path: str, expected: str) -> None:
    assert endpoint(path) == expected
    assert blocking(path) == f"watch {expected}"


def test_the_query_for_a_record_has_no_id_in_its_kind() -> None:
    assert blocking("/v1/agent/service/web-secret-1") == "watch agent/service"


def test_what_raises_nothing_is_well_and_else_it_is_what_was_last_known_of_it() -> None:
    made = RequestStats()
    with made.one("GET kv"):
        pass

    def fail(status: int) -> None:
        with made.one("GET kv") as request:
            if status:
                request.answered(status)
            raise KeyError

    for status in (403, 500, 200, 0):
        with pytest.raises(KeyError):
            fail(status)
    assert made.state()["GET kv"]["outcomes"] == {"ok": 1, "denied": 1, "error": 2, "unreachable": 1}
    assert made.state()["GET kv"]["seconds"]["count"] == 5


def test_buckets_hold_all_that_took_at_most_so_long() -> None:
    made = RequestStats()
    for seconds in (0.001, 0.005, 0.05, 3.0):
        made.note("GET kv", "ok", seconds)
    made.note("GET kv", "ok")
    found = made.state()["GET kv"]["seconds"]
    assert found["count"] == 4
    assert found["buckets"] == {str(limit): count for limit, count in zip(BUCKETS, (2, 2, 3, 3, 3), strict=True)}


def test_what_others_counted_is_added_and_a_copy_stays_as_it_was() -> None:
    made = RequestStats()
    made.note("GET kv", "ok", 0.2)
    before = made.state()
    both = RequestStats(json.loads(json.dumps(before)))
    both.add(before)
    both.note("watch kv", "unreachable")
    assert both.state()["GET kv"]["outcomes"] == {"ok": 2}
    assert both.state()["GET kv"]["seconds"]["buckets"]["0.5"] == 2
    assert both.state()["watch kv"]["outcomes"] == {"unreachable": 1}
    assert before == made.state()
