"""From the inputs to the files of the templates, and to the arguments and environment of the service."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import svcinit
from svcinit.agent.prepare import program
from svcinit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from svcinit.agent.prepare.template_data import TemplateData
    from svcinit.agent.templates.mask import Mask
    from svcinit.agent.templates.render import Rendered, Template
    from svcinit.settings.environment import Settings

# templates that images share: /opt/svcinit/templates, beside the lib/ that contains this package
SHARED = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(svcinit.__file__))), "templates")


def template_dirs(settings: Settings) -> list[str]:
    """The directories of SVCINIT_TEMPLATES that exist."""
    return [folder for folder in settings.templates if os.path.isdir(folder)]


def find_templates(settings: Settings, root: str = "/") -> list[Template]:
    """All templates, each with its target below `root`. Raises ConfigError."""
    dirs = template_dirs(settings)
    if not dirs:
        return []
    from svcinit.agent.templates import render

    return render.find(dirs, root, settings.user)


class Rendering:
    """Renders in memory: nothing is written. `mask`: see `render.attempt`."""

    def __init__(self, settings: Settings, command: Sequence[str], data: TemplateData) -> None:
        self.settings, self.command, self.data = settings, tuple(command), data

    @property
    def libraries(self) -> list[str]:
        """Where templates find each other: the shared ones, then those of the service."""
        return [*([SHARED] if os.path.isdir(SHARED) else []), *template_dirs(self.settings)]

    def files(self, root: str = "/") -> list[Rendered]:
        """Raises ConfigError and Unavailable, with the faults of all templates."""
        templates = find_templates(self.settings, root)
        if not templates:
            return []
        from svcinit.agent.templates import render

        return render.render(templates, self.data, self.libraries)

    def attempt(self, root: str = "/", mask: Mask | None = None) -> tuple[list[Rendered], list[str], list[str]]:
        """The files that can be rendered, what is wrong, and what is unavailable."""
        templates = find_templates(self.settings, root)
        if not templates:
            return [], [], []
        from svcinit.agent.templates import render

        return render.attempt(templates, self.data, self.libraries, mask)

    def outline(self) -> tuple[list[Rendered], list[str]]:
        """The files without their content, and what is wrong with the templates whatever the inputs are."""
        from svcinit.agent.templates import render

        return render.outline(find_templates(self.settings), self.data, self.libraries)

    def compile(self) -> bool:
        """Compile all templates for `files` and `arguments`, which report what is wrong with them. Returns whether one
        of them can ask for peers."""
        try:
            if not find_templates(self.settings) and not self.settings.render_args:
                return False
        except ConfigError:
            return False
        from svcinit.agent.templates.engine import Engine

        engine = Engine(self.data, self.libraries)
        engine.compile_all()
        return engine.mentions("service") or any("service" in word for word in self.command)

    def arguments(self, mask: Mask | None = None) -> list[str]:
        """The arguments of the service, with its command as the first one."""
        if not self.settings.render_args:
            return list(self.command)
        from svcinit.agent.templates import render

        return render.render_arguments(self.command, self.data, self.libraries, mask)

    def environment(self) -> dict[str, str]:
        """The variables that KV adds to the environment of the service. Raises ConfigError."""
        return program.environment(self.data.kv, self._variables())

    def _variables(self) -> dict[str, str]:
        return program.variables(self.data.kv, self.settings.env_prefix, self.settings.env_format)

    def program(self) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment, which have a common limit. Raises as both do."""
        argv, env = program.together(self.arguments, self.environment)
        program.check_sum(self.settings, self.command, argv, env, self._variables())
        return argv, env
