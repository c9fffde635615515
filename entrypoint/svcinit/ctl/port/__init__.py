"""svcinitctl port: turns templates of consul-template and confd into templates of svcinit.

syntax.py -> generate.py      from Go's text/template to a tree, from the tree to Jinja2
functions.py, calls.py, queries.py, confd.py      the functions of these tools
compare.py      the result of both tools, side by side
"""

from __future__ import annotations

import os

from svcinit.ctl.output import complain, content, put
from svcinit.errors import ConfigError, Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from svcinit.ctl.port.generate import Turned
    from svcinit.ctl.port.values import Dialect


class Ported:
    """path: of the file that was given; name: of the template below SVCINIT_TEMPLATES."""

    def __init__(self, path: str, name: str, turned: Turned) -> None:
        self.path, self.name, self.turned = path, name, turned


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="a template of consul-template, or confd's TOML file")
    parser.add_argument("--out", metavar="DIR", help="write the templates below DIR instead of printing them")
    parser.add_argument("--prefix", metavar="PATH", default="", help="confd's prefix of all keys")
    parser.add_argument(
        "--check", action="store_true",
        help="render each with the original tool, which must be in PATH, and with svcinit, and print the differences",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Exit status 1 if a part could not be turned, or if a check found a difference. Raises ConfigError."""
    remarks, differences = 0, 0
    for path in options.files:
        ported = port(path, options.prefix)
        remarks += _show(ported, options, with_title=len(options.files) > 1)
        if options.check:
            from svcinit.ctl.port import compare

            differences += compare.differ(ported, options.prefix)
    if options.check and len(options.files) > 1:
        put(f"{len(options.files) - differences} of {len(options.files)} files: the same bytes\n")
    return 1 if remarks or differences else 0


def port(path: str, prefix: str = "") -> Ported:
    """Raises ConfigError with the line of a template that Go would not read either."""
    from svcinit.ctl.port import confd, consul_template
    from svcinit.ctl.port.generate import Turned

    if not path.endswith(".toml"):
        turned = _turned(path, consul_template.DIALECT)
        return Ported(path, f"{os.path.basename(path).removesuffix('.ctmpl').removesuffix('.tpl')}.j2", turned)
    resource = confd.resource(path)
    turned = _turned(resource.template, confd.dialect((resource.prefix or prefix).strip("/")))
    return Ported(path, f"{resource.target.lstrip('/')}.j2", Turned(resource.comment + turned.text, turned.remarks))


def _turned(path: str, dialect: Dialect) -> Turned:
    from svcinit.ctl.port.generate import generate
    from svcinit.ctl.port.syntax import parse

    try:
        return generate(parse(_text(path), path), dialect)
    except RecursionError:
        raise ConfigError(Fault(f"{path}: the actions are nested too deeply", file=path)) from None


def _show(ported: Ported, options: argparse.Namespace, *, with_title: bool) -> int:
    """Print or write the template. Returns how many parts could not be turned. Raises ConfigError."""
    if options.out:
        target = os.path.join(options.out, ported.name)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w", encoding="utf-8", newline="") as file:
                file.write(ported.turned.text)
        except OSError as error:
            raise ConfigError(Fault(f"{target} cannot be written: {error.strerror}", file=target)) from None
        content(f"{target}\n")
    elif not options.check:
        content(f"==> {ported.name}\n" * with_title, ported.turned.text)
    for line, reason in ported.turned.remarks:
        complain(f"{ported.path}, line {line}: {reason}")
    return len(ported.turned.remarks)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(Fault(f"{path}: {error.strerror}", file=path)) from None
    except UnicodeDecodeError:
        raise ConfigError(Fault(f"{path}: the file is not UTF-8 text", file=path)) from None
