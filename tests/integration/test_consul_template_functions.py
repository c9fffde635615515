"""Each function and filter of templates beside that of the real consul-template: the same inputs, the same bytes.

The rows are those of docs/porting.md. What differs on purpose stands there.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from svcinit.agent.prepare.source_consul import ConsulSource
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.templates.render import render_arguments
from svcinit.settings import environment
from testing.consul import ConsulAgent
from testing.ported import catalogue, original

pytestmark = [pytest.mark.consul, pytest.mark.parts, pytest.mark.timeout(120)]

ODD = "a b/c+d?é\u20ac~"
FILE = pathlib.Path(__file__).parent / "consul_template_functions.txt"
ROWS = [tuple(pair.splitlines()) for pair in FILE.read_text(encoding="utf-8").strip().split("\n\n")[1:]]
OF_THE_LANGUAGE = {
    "define",
    "executeTemplate",
    "scratch",
    "sprig_",
    "spew_dump",
    "spew_sdump",
    "spew_printf",
    "spew_sprintf",
}
OF_OTHER_TESTS = {"file", "pkiCert", "secret", "secrets", "sockaddr"}  # each certificate that is issued is another
ENV = {"ODD": ODD}
END = "\n=====\n"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    with catalogue(tmp_path_factory.mktemp("agent")) as made:
        yield made


@pytest.fixture(scope="module")
def theirs(agent: ConsulAgent, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What consul-template makes of each row."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "in").write_text(END.join(go for go, _ in ROWS))
    command = ["consul-template", "-once", "-template", f"{folder}/in:{folder}/out"]
    env = {**os.environ, **agent.env, **ENV, "PATH": original(folder)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "out").read_text().split(END)


@pytest.mark.parametrize("number", range(len(ROWS)), ids=lambda number: ROWS[number][0][:40])
def test_a_function_gives_what_that_of_consul_template_gives(
    agent: ConsulAgent, theirs: list[str], number: int
) -> None:
    settings = environment.read({**agent.env, **ENV, "SVCINIT_KV_PREFIX": "", "SVCINIT_CACHE": ""})
    source = ConsulSource(settings, time.monotonic() + 30)
    try:
        ours = render_arguments([ROWS[number][1]], TemplateData(settings, source))[0]
    finally:
        source.close()
    assert ours == theirs[number]


def test_every_helper_of_the_page_is_compared() -> None:
    """docs/porting.md, the functions and helpers of consul-template that have an equivalent."""
    page = (pathlib.Path(__file__).parent.parent.parent / "docs" / "porting.md").read_text()
    text = page.partition("## consul-template: functions of the API")[2].partition("## consul-template: options")[0]
    rows = [row for row in text.splitlines() if row.startswith("| `") and not re.search(r"\| none\b", row)]
    names = {name for row in rows for name in re.findall(r"`([a-z]\w*)", row.split("|", 2)[1].replace("\\|", ""))}
    compared = " ".join(go for go, _ in ROWS)
    others = OF_THE_LANGUAGE | OF_OTHER_TESTS
    assert [name for name in sorted(names - others) if name not in compared] == []
