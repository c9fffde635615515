"""A Spark cluster whose workers find their master in Consul: it does a real job, follows the master, and stops."""

from __future__ import annotations

import json
import pathlib
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import pytest

from testing.consul import ConsulAgent, free_ports
from testing.docker import Container, Engine
from testing.jvm import dumps_its_threads, stops_well
from testing.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(600)]
START = 120  # seconds that a JVM may take to start on a busy machine
CONF = "/run/spark/conf/spark-defaults.conf"
# where each part is worked on, and what it comes to: in Python, which the image needs on both ends
JOB = """
import os
from pyspark import SparkContext

spark = SparkContext()
parts = spark.parallelize(range(1000), 4).mapPartitions(lambda part: [(os.getcwd(), sum(part))]).collect()
print("done:", spark.master, sum(total for _, total in parts), *sorted({folder for folder, _ in parts}))
print("note:", spark.getConf().get("spark.note"))
"""


class Cluster:
    def __init__(self, engine: Engine, image: str, consul: ConsulAgent, jobs: pathlib.Path) -> None:
        self.engine, self.image, self.consul, self.jobs = engine, image, consul, jobs
        (jobs / "job.py").write_text(JOB)
        jobs.chmod(0o755)

    def run(self, role: str) -> tuple[Container, int, int]:
        """A daemon, its port, and the one of its web pages."""
        port, pages = free_ports(2)
        env = {
            **self.consul.env, "SPARK_ROLE": role, "SVCINIT_SERVICE": f"spark-{role}", "SVCINIT_PORT": str(port),
            "SVCINIT_CHECK_INTERVAL": "200ms", f"SPARK_{role.upper()}_WEBUI_PORT": str(pages),
            "SPARK_DAEMON_MEMORY": "256m", "SPARK_WORKER_CORES": "1", "SPARK_WORKER_MEMORY": "512m",
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # starts sooner
        }  # fmt: skip
        options = ["--volume", f"{self.jobs}:/jobs:ro"]
        return self.engine.run(self.image, env=env, options=options), port, pages

    def is_passing(self, role: str, container: Container) -> None:
        eventually(lambda: self.consul.passing(f"spark-{role}"), f"the {role} is passing; {container.logs}", START)

    def has_a_worker(self, pages: int, worker: Container) -> None:
        """The master whose web pages these are has one that is alive."""
        eventually(lambda: asked(pages).get("aliveworkers") == 1, f"the worker is registered; {worker.logs}", START)


def asked(pages: int) -> dict[str, Any]:
    """What a master says of itself; nothing while its pages are not there, or not complete."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{pages}/json/", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, HTTPException, ValueError):
        return {}


def done(worker: Container) -> str:
    """What a job says that is submitted beside the worker, and is told nothing of the cluster."""
    memory = "--driver-memory", "512m", "--executor-memory", "512m"
    return worker.exec("spark-submit", *memory, "--conf", "spark.ui.enabled=false", "/jobs/job.py", user="spark")


@pytest.fixture
def cluster(engine: Engine, image: Callable[[str], str], consul: ConsulAgent, tmp_path: pathlib.Path) -> Cluster:
    return Cluster(engine, image("spark"), consul, tmp_path)


def test_a_worker_waits_for_its_master_does_a_job_follows_the_masters_successor_and_stops(cluster: Cluster) -> None:
    consul = cluster.consul
    worker, _, _ = cluster.run("worker")
    worker.says("0 of the 1 peers needed", 30)
    first, first_port, pages = cluster.run("master")
    cluster.is_passing("master", first)
    cluster.is_passing("worker", worker)
    cluster.has_a_worker(pages, worker)
    consul.kv_put("config/spark-worker/conf/spark.note", "C:\\temp\\new\n")
    consul.kv_put("config/spark-worker/conf/spark.app.name", "sums")
    eventually(lambda: b"spark.app.name = sums" in worker.read(CONF), "a property arrives", 20)
    assert worker.logs.count("started sh") == 1, "and restarts nothing"
    worker.kill("HUP")
    eventually(lambda: worker.logs.count("started sh") == 2, f"HUP does; {worker.logs}", START)
    cluster.is_passing("worker", worker)
    said = done(worker)
    assert said.startswith(f"done: spark://127.0.0.1:{first_port} 499500 /var/lib/spark/app-")
    assert "note: C:\\temp\\new" in said, "a property is what the key says"
    dumps_its_threads(first)
    dumps_its_threads(worker)

    first.kill("KILL")
    second, second_port, pages = cluster.run("master")
    cluster.has_a_worker(pages, worker)
    eventually(lambda: str(first_port).encode() not in worker.read(CONF), "the dead master is forgotten", 30)
    cluster.is_passing("worker", worker)
    cluster.has_a_worker(pages, worker)
    assert done(worker).startswith(f"done: spark://127.0.0.1:{second_port} 499500 /var/lib/spark/app-")

    stops_well(worker)
    eventually(lambda: not consul.instances("spark-worker"), "the worker is gone from the catalog", 5)
    stops_well(second)


def test_a_worker_that_would_be_registered_as_a_master_does_not_start(
    engine: Engine, image: Callable[[str], str], consul: ConsulAgent
) -> None:
    worker = engine.run(image("spark"), env={**consul.env, "SPARK_ROLE": "worker"})
    assert worker.wait() == 78
    assert "this.name == env.SPARK_MASTER" in worker.logs
    assert not consul.instances("spark-master")
