"""svcinitctl check: render the templates of an image from a file, for CI, without Consul.

The file has the form of SVCINIT_SOURCE=file:, with `env` as the environment. Names of keys may be relative to the
prefix. Each service that a template uses must be in the file, if only with an empty list: so a misspelt name is found.
"""

from __future__ import annotations

import os

from svcinit.agent.consul.discovery import QUERY
from svcinit.agent.prepare.source_file import FileSource, environment
from svcinit.ctl.output import complain, put
from svcinit.errors import ConfigError, Fault, SvcinitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from svcinit.agent.prepare.source_file import Instance

SOURCE = "SVCINIT_SOURCE"


class Fixture(FileSource):
    """A file that is used for the check only."""

    def relative_keys(self, prefixes: tuple[str, ...]) -> dict[str, bytes]:
        """The keys that are below no prefix: their names are relative to it."""
        self.load()
        return {key: value for key, value in self.kv.items() if not key.startswith(prefixes)}

    def instances(self, name: str) -> list[Instance]:
        if not {name, name.removesuffix(QUERY)} & set(self.services):
            raise ConfigError(f"the fixture has no service {name!r}; list it, with [] if it has no peers")
        return super().instances(name)


class Findings:
    """`faults`: all errors."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except SvcinitError as error:
            self.faults += map(_of_fixture, error.faults)


def _of_fixture(fault: Fault) -> Fault:
    """People know the file as the option that they gave."""
    if fault.fields.get("variable") != SOURCE:
        return fault
    return fault.reworded(f"--fixture {fault.removeprefix(f'{SOURCE}: ')}")


def arguments(parser: argparse.ArgumentParser) -> None:
    from svcinit.ctl.render import add_command

    parser.add_argument("--fixture", required=True, metavar="FILE", help="YAML or JSON: kv, services, secrets, env")
    add_command(parser)


def run(options: argparse.Namespace) -> int:
    findings = Findings()
    done: list[str] = []
    findings.attempt(lambda: done.extend(_check(options, findings)))
    if findings.faults:
        complain(*findings.faults, *done)
    else:
        put(*(f"{each}\n" for each in done))
    return 1 if findings.faults else 0


def _check(options: argparse.Namespace, findings: Findings) -> list[str]:
    """A line about what was done. Errors that do not end the check go to `findings`. Raises ConfigError."""
    from svcinit.agent.files import commit
    from svcinit.agent.prepare.rendering import Rendering
    from svcinit.agent.prepare.template_data import TemplateData
    from svcinit.agent.registration.services import services
    from svcinit.settings.environment import read

    path = os.path.abspath(options.fixture)
    settings = read({**os.environ, **environment(path), "SVCINIT_SOURCE": f"file:{path}"})
    fixture = Fixture(settings)
    data = TemplateData(settings, fixture)
    data.fetch()
    data.kv.update(fixture.relative_keys(tuple(f"{prefix}/" for prefix, _ in settings.kv_prefix)))
    rendering = Rendering(settings, options.words, data)
    findings.attempt(lambda: services(settings))
    findings.attempt(rendering.program)
    rendered, faults, away = rendering.attempt()
    findings.faults += faults + away
    findings.attempt(lambda: commit.rehearse(rendered, env=data.env))
    checks = sum(bool(file.check) for file in rendered)
    return [f"files {len(rendered)}, check commands {checks}"]
