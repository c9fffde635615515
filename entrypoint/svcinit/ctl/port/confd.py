"""confd's template resources and functions. Source: confd's docs/template-resources.md and docs/templates.md."""

from __future__ import annotations

import os
import shlex
import tomllib
from dataclasses import dataclass

from svcinit.ctl.port import calls
from svcinit.ctl.port.expressions import (
    ATOM,
    COMPARISON,
    FILTER,
    LOGIC,
    CannotTurn,
    Expr,
    constant,
    joined,
    parts_of,
    quoted,
)
from svcinit.ctl.port.functions import FUNCTIONS, SIGNS, Row
from svcinit.ctl.port.values import Dialect
from svcinit.errors import ConfigError, Fault

_ROWS: dict[str, Row] = {
    "json": ("{0:f}|from_json", FILTER, "any"),
    "jsonArray": ("{0:f}|from_json", FILTER, "any"),
    "base": ('{0:f}|split("/")|last', FILTER, "str"),
    "dir": ('{0:a}.rpartition("/")[0]', ATOM, "str"),
    "join": ("{0:f}|join({1})", FILTER, "str"),
    "replace": ("{0:a}.replace({1}, {2}, {3})", ATOM, "str"),
    "contains": ("{1} in {0:f}", COMPARISON, "bool"),
    "trimSuffix": ("{0:f}|trim_suffix({1})", FILTER, "str"),
    "lookupSRV": ('lookup({0}, "SRV")', ATOM, "any"),
    "lookupIP": ("lookup({0})", ATOM, "list:str"),
    "lookupIPV4": ("lookup({0})", ATOM, "list:str"),
    "lookupIPV6": ('lookup({0}, "AAAA")', ATOM, "list:str"),
    "atoi": ("{0:f}|strict_int", FILTER, "int"),
    "reverse": ("{0:f}|reverse|list", FILTER, "list:any"),
    "seq": ("range({0}, {1} + 1)", ATOM, "list:int"),
    **{name: FUNCTIONS[name] for name in ("toUpper", "toLower", "base64Encode", "base64Decode", "parseBool")},
}  # fmt: skip
_REFUSED = {
    "datetime": "the same input must always render to the same bytes: let the service write the time",
    "fileExists": "the same input must always render to the same bytes: file() reads a file beside the templates",
    "sortByLength": "keys are sorted by name",
    "sortKVByLength": "keys are sorted by name",
    **dict.fromkeys(("cget", "cgets", "cgetv", "cgetvs"), "the keys of the encryption would be in each container"),
}


@dataclass(frozen=True)
class Resource:
    """A template resource. template: path of the .tmpl file; target: path of the file; comment: svcinit's options."""

    template: str
    target: str
    comment: str
    prefix: str


def resource(path: str) -> Resource:
    """Read a TOML file in `conf.d`; the template is in `templates` beside it, or in the same directory."""
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)["template"]
        source, target = table["src"], table["dest"]
    except OSError as error:
        raise ConfigError(Fault(f"{path}: {error.strerror}", file=path)) from None
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        raise ConfigError(Fault(f"{path}: expected a table [template] with src and dest", file=path)) from None
    folder = os.path.dirname(os.path.abspath(path))
    places = [os.path.join(os.path.dirname(folder), "templates", source), os.path.join(folder, source)]
    template = next(filter(os.path.exists, places), places[0])
    return Resource(template, target, _options(table), str(table.get("prefix", "")).strip("/"))


def _options(table: dict[str, object]) -> str:
    """The comment with svcinit's options, or nothing."""
    user, group = table.get("owner", table.get("uid")), table.get("group", table.get("gid"))
    options = [f"mode={table['mode']}"] if "mode" in table else []
    if user is not None:
        options.append(f"owner={user}:{group}" if group is not None else f"owner={user}")
    if table.get("check_cmd"):
        command = str(table["check_cmd"]).replace("{{.src}}", "{}").replace("{{ .src }}", "{}")
        options.append(f"check={shlex.quote(command)}")
    if table.get("reload_cmd"):
        options.append(f"reload={shlex.quote('exec:' + str(table['reload_cmd']))}")
    return f"{{# svcinit: {' '.join(options)} #}}\n" if options else ""


def dialect(prefix: str) -> Dialect:
    """prefix: of all keys, without slashes at its ends."""
    return Dialect(_ROWS, _REFUSED, lambda name, arguments: _asked(prefix, name, arguments))


def _asked(prefix: str, name: str, arguments: list[Expr]) -> Expr | None:
    call = {"getv": _getv, "get": _get, "exists": _exists, "gets": _gets, "getvs": _getvs, "ls": _ls, "lsdir": _lsdir}
    if name in call:
        if not arguments:
            raise CannotTurn(f"{name}: its path is missing")
        return call[name](prefix, arguments)
    if name == "getenv":
        value = f"env.get({arguments[0].code}, {quoted('')})"
        return Expr(value, "str") if len(arguments) == 1 else Expr(f"{value} or {arguments[1]:c}", "str", LOGIC)
    if name in ("map", "split") or name in SIGNS:
        return _as_sprig(name, arguments)
    return None


def _as_sprig(name: str, arguments: list[Expr]) -> Expr | None:
    if name == "map":
        return calls.special("sprig_dict", arguments)
    if name == "split":
        return calls.special("sprig_splitList", arguments[::-1])
    return calls.special(f"sprig_{name}", arguments)


def _path(prefix: str, path: Expr) -> Expr:
    """The full name of a key, with a leading slash."""
    first, *rest = parts_of(path)
    start = f"/{prefix}/" if prefix else "/"
    first = first.lstrip("/") if isinstance(first, str) else first
    return joined((start, first, *rest))


def _getv(prefix: str, arguments: list[Expr]) -> Expr:
    path = _path(prefix, arguments[0]).code
    return Expr(f"key({path})" if len(arguments) == 1 else f"key_or_default({path}, {arguments[1].code})", "str")


def _get(prefix: str, arguments: list[Expr]) -> Expr:
    path = _path(prefix, arguments[0]).code
    return Expr(f'{{"key": {arguments[0].code}, "value": key({path})}}', "pair")


def _exists(prefix: str, arguments: list[Expr]) -> Expr:
    return Expr(f"key_exists({_path(prefix, arguments[0]).code})", "bool")


def _folder(arguments: list[Expr]) -> Expr:
    """The folder of a pattern such as `/a/*`."""
    known = parts_of(arguments[0])
    last = known[-1]
    if not isinstance(last, str) or not last.endswith("/*") or "*" in last[:-1]:
        raise CannotTurn("a pattern other than FOLDER/*: use tree(), and a condition in the loop")
    return joined((*known[:-1], last.removesuffix("/*") or "/"))


def _gets(prefix: str, arguments: list[Expr]) -> Expr:
    folder = _folder(arguments)
    if constant(folder) is None:
        raise CannotTurn("a pattern that is made at run time: use ls()")
    shown = joined((f"/{str(constant(folder)).strip('/')}/",))
    return Expr(f"ls({_path(prefix, folder).code})", f"list:named {constant(shown)}", ATOM)


def _getvs(prefix: str, arguments: list[Expr]) -> Expr:
    code = f'ls({_path(prefix, _folder(arguments)).code})|map(attribute="value")|sort(case_sensitive=true)'
    return Expr(code, "list:str", FILTER)


def _ls(prefix: str, arguments: list[Expr]) -> Expr:
    first = 'map(attribute="key")|map("regex_replace", "/.*", "")|unique(true)|list'
    return Expr(f"tree({_path(prefix, arguments[0]).code})|{first}", "list:str", FILTER)


def _lsdir(prefix: str, arguments: list[Expr]) -> Expr:
    deeper = 'map(attribute="key")|map("split", "/")|selectattr(1, "defined")|map("first")|unique(true)|list'
    return Expr(f"tree({_path(prefix, arguments[0]).code})|{deeper}", "list:str", FILTER)
