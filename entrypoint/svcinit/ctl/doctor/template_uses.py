"""The names in templates that need an ACL rule, a query or a package. Only the source of the templates is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, TemplateError, nodes

from svcinit.agent.prepare.source import InputId, Kind
from svcinit.agent.templates.render import find

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

VAULT = "vault:"  # of a secret among the names: vault:KIND:PATH
ATTRIBUTES = {("this", "address")}
KEYS, FOLDERS = {"key", "key_or_default", "key_exists"}, {"ls", "tree"}  # functions whose first argument names keys


def uses(dirs: Sequence[str], shared: Sequence[str] = ()) -> set[str]:
    """Names that templates below `dirs` use, those included: `node`, `service`, `this.address`, `to_yaml`, ...

    Full names of keys that are constants begin with a slash; those of folders end with one, too.
    Templates with a syntax error are left out: rendering reports them. Raises ConfigError if a tree cannot be read.
    """
    env = Environment(loader=FileSystemLoader([*reversed(dirs), *shared]))
    waiting = [source.name for source in find(dirs) if not source.is_copied]
    seen: set[str] = set()
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            text, _, _ = env.loader.get_source(env, name)  # type: ignore[union-attr]
            tree = env.parse(text, name)
        except (TemplateError, OSError, UnicodeDecodeError):
            continue
        found |= {*_names(tree), *_secrets(tree)}
        waiting += _included(tree)
    return found


def inputs(used: Collection[str]) -> list[InputId]:
    """The secrets of Vault among the names of `uses`: those whose path is written in a template."""
    return [InputId(*each.split(":", 2)[1:]) for each in used if each.startswith(VAULT)]


def _secrets(tree: nodes.Template) -> Iterator[str]:
    for call in tree.find_all(nodes.Call):
        first = call.args[0] if call.args else None
        if not isinstance(call.node, nodes.Name) or call.node.name not in ("secret", "secrets"):
            continue
        if isinstance(first, nodes.Const) and isinstance(first.value, str):
            issues = {each.key for each in call.kwargs} - {"key", "version"}
            kind = Kind.SECRETS if call.node.name == "secrets" else Kind.ISSUE if issues else Kind.SECRET
            yield f"{VAULT}{kind}:{first.value.strip('/')}"


def _names(tree: nodes.Template) -> Iterator[str]:
    for name in tree.find_all(nodes.Name):
        yield name.name
    for used in tree.find_all(nodes.Filter):
        yield used.name
    for call in tree.find_all(nodes.Call):
        yield from _whole_key(call)
    for attribute in tree.find_all(nodes.Getattr):
        if isinstance(attribute.node, nodes.Name) and (attribute.node.name, attribute.attr) in ATTRIBUTES:
            yield f"{attribute.node.name}.{attribute.attr}"


def _whole_key(call: nodes.Call) -> Iterator[str]:
    path = call.args[0] if call.args else None
    if isinstance(call.node, nodes.Name) and isinstance(path, nodes.Const) and str(path.value).startswith("/"):
        if call.node.name in KEYS:
            yield f"/{path.value.strip('/')}"
        elif call.node.name in FOLDERS:
            yield f"/{path.value.strip('/')}/"


def _included(tree: nodes.Template) -> Iterator[str]:
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        target = node.template  # type: ignore[attr-defined]
        if isinstance(target, nodes.Const):
            yield from [target.value] if isinstance(target.value, str) else target.value
