"""A scrape of svcinit's metrics, as Prometheus does it."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from testing.waiting import eventually


class Scrape:
    """What was answered: `types` by the names that stand in TYPE lines, and samples."""

    def __init__(self, text: str) -> None:
        self.text = text
        lines = [line.split() for line in text.splitlines() if line.startswith("# TYPE ")]
        self.types = {words[2]: words[3] for words in lines}
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """The sample of that name that has at least these labels; None: there is none."""
        found = [
            float(sample.value)
            for sample in self._samples
            if sample.name == f"svcinit_{name}" and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1, f"{len(found)} samples of {name} have {labels}"
        return found[0] if found else None


def scrape(port: int, timeout: float = 10.0) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=timeout) as answer:
        return Scrape(answer.read().decode())


def scraped_as(port: int, accept: str) -> tuple[str, str]:
    """The type and the text that whoever accepts `accept` gets."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def scraped(port: int, timeout: float = 10.0) -> Scrape:
    """The first scrape that is answered."""

    def attempt() -> Scrape | None:
        try:
            return scrape(port)
        except OSError:
            return None

    found = eventually(attempt, f"a scrape of port {port} is answered", timeout)
    assert found
    return found


def comes_to(port: int, expected: float, name: str, timeout: float = 15.0, **labels: str) -> None:
    """Wait until a scrape has that value."""

    def value() -> float | None:
        try:
            return scrape(port).value(name, **labels)
        except OSError:
            return None

    eventually(lambda: value() == expected, f"{name} {labels} is {expected:g}", timeout)
