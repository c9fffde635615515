"""The order of the files of tests, where several processes run them: the longest first.

A long file that begins late runs alone at the end. pytest-xdist would begin with the files that have the most tests,
so --no-loadscope-reorder goes with this.
"""

from __future__ import annotations

import pathlib

import pytest

TESTS = pathlib.Path(__file__).parent.parent / "tests"
LONGEST = (
    "site/test_site.py", "chaos/test_fleet.py", "chaos/test_fleet_auto.py",
    "docker/test_ansible.py", "chaos/test_faults.py", "docker/test_django_uwsgi.py",
    "chaos/test_surroundings.py", "docker/test_bundle.py", "chaos/test_cluster.py", "docker/test_pages.py",
    "docker/test_rabbitmq.py", "e2e/test_watch_killed.py", "docker/test_spark.py", "e2e/test_secrecy.py",
    "docker/test_nginx.py", "e2e/test_watch.py", "packaging/test_release.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
