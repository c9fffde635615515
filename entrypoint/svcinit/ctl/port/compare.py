"""`svcinitctl port --check`: one template rendered by the original tool and by svcinit, with the same Consul."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from typing import TYPE_CHECKING

from svcinit.agent.prepare.rendering import Rendering
from svcinit.agent.prepare.template_data import TemplateData
from svcinit.agent.prepare.transaction import open_source
from svcinit.ctl.output import content, put
from svcinit.ctl.render import hunks, lines_of
from svcinit.errors import ConfigError, SvcinitError
from svcinit.processes.captured import Child
from svcinit.processes.captured import command as as_command
from svcinit.settings.environment import read

if TYPE_CHECKING:
    from svcinit.ctl.port import Ported
    from svcinit.settings.environment import Settings

LAST_LINES = 5  # of the output of a tool that failed


def differ(ported: Ported, prefix: str) -> bool:
    """Print the differences. True: there are some, or one of the two tools did not render the template."""
    with tempfile.TemporaryDirectory(prefix="svcinit-port-") as folder:
        templates = os.path.join(folder, "templates")
        os.makedirs(templates)
        settings = read({**os.environ, "SVCINIT_TEMPLATES": templates})
        try:
            theirs = _theirs(ported, folder, prefix, settings)
            ours = _ours(ported, templates, settings)
        except SvcinitError as error:
            put(f"{ported.path}: {error}\n")
            return True
    if theirs == ours:
        put(f"{ported.path}: the same {len(ours)} bytes\n")
        return False
    old, new = lines_of(theirs), lines_of(ours)
    content(f"--- {ported.path} (original)\n+++ {ported.name} (svcinit)\n", *hunks(old, new, new, str))
    return True


def _ours(ported: Ported, templates: str, settings: Settings) -> bytes:
    with open(os.path.join(templates, "file.j2"), "w", encoding="utf-8", newline="") as file:
        file.write(ported.turned.text)
    source = open_source(settings, time.monotonic() + settings.reload_timeout)
    try:
        data = TemplateData(settings, source)
        data.fetch()
        (rendered,) = Rendering(settings, (), data).files()
        return rendered.content
    finally:
        source.close()


def _theirs(ported: Ported, folder: str, prefix: str, settings: Settings) -> bytes:
    target = os.path.join(folder, "theirs")
    command = _confd(ported, folder, prefix, target) if ported.path.endswith(".toml") else [
        _found("consul-template"), "-once", "-log-level", "err", "-template", f"{ported.path}:{target}",
    ]  # fmt: skip
    child = Child(as_command(tuple(command), os.environ), settings.reload_timeout)
    child.wait()
    if child.code is None:
        waits = "it may wait for a key that is missing"
        raise ConfigError(f"{command[0]} did not end within SVCINIT_RELOAD_TIMEOUT: {waits}")
    if child.code or not os.path.exists(target):
        lines = child.output.decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        raise ConfigError(f"{command[0]} failed: {' '.join(lines)}")
    with open(target, "rb") as file:
        return file.read()


def _confd(ported: Ported, folder: str, prefix: str, target: str) -> list[str]:
    """confd reads a directory: one with this resource alone, which writes to `target` and runs no commands."""
    from svcinit.ctl.port import confd

    resource = confd.resource(ported.path)
    root = os.path.join(folder, "confd")
    for name in ("conf.d", "templates"):
        os.makedirs(os.path.join(root, name))
    shutil.copy(resource.template, os.path.join(root, "templates", "file.tmpl"))
    lines = [
        "[template]",
        'src = "file.tmpl"',
        f'dest = "{target}"',
        f'prefix = "{resource.prefix or prefix}"',
        'keys = ["/"]',
    ]
    with open(os.path.join(root, "conf.d", "file.toml"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    address = os.environ.get("CONSUL_HTTP_ADDR", "127.0.0.1:8500").removeprefix("http://")
    return [_found("confd"), "-onetime", "-backend", "consul", "-node", address, "-confdir", root]


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ConfigError(f"not compared: --check needs {program} in PATH")
    return path
