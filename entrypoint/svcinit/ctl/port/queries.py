"""The names with which consul-template asks Consul, such as `"tag.web@dc2|any"`, as calls of svcinit's functions.

Source: consul-template's dependency/dependency.go and the file of each dependency there.
"""

from __future__ import annotations

import re

from svcinit.ctl.port.expressions import ATOM, FILTER, LOGIC, CannotTurn, Expr, constant, joined, parts_of, quoted

_MARK = 0xE000  # private characters: one stands for each part that is known only at run time
_ANY = "\ue000-\uf8ff"
_DC = rf"(?:@(?P<dc>[\w.\-{_ANY}]+))?"
_END = rf"(?:\?(?P<query>[^@~|]*))?{_DC}(?:~(?P<near>[\w.\-{_ANY}]+))?(?:\|(?P<filter>[\w,{_ANY}]+))?"
_SERVICE = re.compile(rf"(?:(?P<tag>[\w=:.\-{_ANY}]+)\.)?(?P<name>[\w\-{_ANY}]+){_END}")
_PATH = re.compile(rf"/?(?P<name>[^@?]*)(?:\?(?P<query>[^@]*))?{_DC}")
_REST = re.compile(_END)
KEYS = {"key": "key", "keyExists": "key_exists", "keyOrDefault": "key_or_default"}
FOLDERS = {"ls": "ls", "tree": "tree", "safeLs": "ls", "safeTree": "tree"}
TYPES = {"key": "str", "keyExists": "bool", "keyOrDefault": "str"}
BY_NODE = 'sort(false, true, "node,id")'  # consul-template's order


class _Asked:
    def __init__(self, pattern: re.Pattern[str], parts: tuple[str | Expr, ...]) -> None:
        if len(parts) == 1 and isinstance(parts[0], Expr):
            parts = parts[0].origin or parts
        self._parts = [part for part in parts if isinstance(part, Expr)]
        marks = (chr(_MARK + number) for number in range(len(self._parts)))
        text = "".join(part if isinstance(part, str) else next(marks) for part in parts)
        found = pattern.fullmatch(text)
        if found is None:
            raise CannotTurn(f"the name {text!r} is not what consul-template's documentation describes")
        self._found = found
        if self._found["query"]:
            raise CannotTurn("CONSUL_NAMESPACE and CONSUL_PARTITION are for all requests of a container")

    def get(self, name: str) -> Expr | None:
        value = self._found[name] if name in self._found.groupdict() else None
        if not value:
            return None
        parts: list[str | Expr] = []
        for piece in re.split(f"([{_ANY}])", value):
            marked = len(piece) == 1 and _MARK <= ord(piece) < _MARK + len(self._parts)
            parts.append(self._parts[ord(piece) - _MARK] if marked else piece)
        return joined(tuple(parts))

    def options(self, **names: str) -> str:
        return "".join(f", {name}={given.code}" for name, group in names.items() if (given := self.get(group)))


def asked(function: str, arguments: list[Expr]) -> Expr:
    """The call of one of CALLS."""
    return _CALLS[function](function, arguments)


def _key(function: str, arguments: list[Expr]) -> Expr:
    wanted = _Asked(_PATH, parts_of(arguments[0]))
    more = "".join(f", {each.code}" for each in arguments[1:])
    call = f"{KEYS[function]}({_whole(wanted).code}{more}{wanted.options(dc='dc')})"
    if function == "keyOrDefault" and constant(arguments[1]) != "":  # an empty key has the default too
        return Expr(f"{call} or {arguments[1]:c}", "str", LOGIC)
    return Expr(call, TYPES[function])


def _folder(function: str, arguments: list[Expr]) -> Expr:
    wanted = _Asked(_PATH, parts_of(arguments[0]))
    return Expr(f"{FOLDERS[function]}({_whole(wanted).code}{wanted.options(dc='dc')})", "list:pair")


def _whole(wanted: _Asked) -> Expr:
    """The name of a key with a leading slash: its full name in KV."""
    name = wanted.get("name")
    return joined(("/", *(parts_of(name) if name else ())))


def _service(_function: str, arguments: list[Expr]) -> Expr:
    parts = parts_of(arguments[0])
    for each in arguments[1:]:
        parts = (*parts, "|", *parts_of(each))
    wanted = _Asked(_SERVICE, parts)
    name = wanted.get("name")
    assert name is not None
    given = wanted.get("filter")
    states = given.code.strip('"').split(",") if given else ["passing"]
    call = f"{name.code}{wanted.options(tag='tag', dc='dc', near='near')}"
    if states == ["passing"]:
        code = f"instances({call})"
    elif set(states) == {"passing", "warning"} or "any" in states:
        code = f'instances({call}, status="{"any" if "any" in states else "warning"}")'
    else:
        chosen = ", ".join(map(quoted, states))
        code = f'instances({call}, status="any")|selectattr("status", "in", [{chosen}])|list'
    return Expr(code if wanted.get("near") else f"{code}|{BY_NODE}", "list:instance", FILTER)


def _services(_function: str, arguments: list[Expr]) -> Expr:
    return Expr(f"services({_place(arguments)})", "list:snippet")


def _nodes(_function: str, arguments: list[Expr]) -> Expr:
    return Expr(f"nodes({_place(arguments)})", "list:node")


def _place(arguments: list[Expr]) -> str:
    if not arguments:
        return ""
    wanted = _Asked(_REST, parts_of(arguments[0]))
    if wanted.get("near"):
        raise CannotTurn("the list is sorted by name: the distance of a node is not known")
    return wanted.options(dc="dc").removeprefix(", ")


def _node(_function: str, arguments: list[Expr]) -> Expr:
    if not arguments:
        return Expr("node(node)", "nodes")
    wanted = _Asked(_PATH, parts_of(arguments[0]))
    name = wanted.get("name")
    return Expr(f"node({name.code if name else 'node'}{wanted.options(dc='dc')})", "nodes")


def _secret(_function: str, arguments: list[Expr]) -> Expr:
    options = "".join(f", {_option(each)}" for each in arguments[1:])
    return Expr(f"secret({arguments[0].code}{options})", "secret", ATOM)


def _option(argument: Expr) -> str:
    """`"common_name=a"`, the data with which Vault issues a secret, as a named argument."""
    first, *rest = parts_of(argument)
    name, equals, value = first.partition("=") if isinstance(first, str) else ("", "", "")
    if not equals or not name.isidentifier():
        raise CannotTurn("the data of a secret must be NAME=VALUE, with a constant name")
    return f"{name}={joined((value, *rest)).code}"


_CALLS = {
    **dict.fromkeys(KEYS, _key),
    **dict.fromkeys(FOLDERS, _folder),
    "service": _service,
    "services": _services,
    "nodes": _nodes,
    "node": _node,
    "secret": _secret,
    "vault": _secret,  # its name before consul-template 0.16
}
CALLS = frozenset(_CALLS)
