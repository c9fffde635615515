"""From the tree of a Go template to the text of a template in Jinja2.

The text between the actions stays, and so do the trim markers: both languages remove the same spaces. The first passes
find the types of variables; the text is that of the last pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svcinit.ctl.port import syntax
from svcinit.ctl.port.expressions import CannotTurn, Expr, item_type, printed
from svcinit.ctl.port.functions import FIELDS
from svcinit.ctl.port.syntax import Block
from svcinit.ctl.port.values import NOTHING, Dialect, Findings, Values, Variable, identifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from svcinit.ctl.port.syntax import Node, Pipe, Tag

PASSES = 5
TODO = "todo"  # no template has such a name: rendering ends there with an error
_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_DELIMITER = re.compile(r"\{[%#{]")
_NAMES = {
    "instance": "instance",
    "pair": "pair",
    "snippet": "entry",
    "node": "host",
    "nodes": "host",
    "secret": "vault",
}


@dataclass(frozen=True)
class Turned:
    """text: the template; remarks: line and reason of each part that could not be turned."""

    text: str
    remarks: list[tuple[int, str]]


def generate(nodes: list[Node], dialect: Dialect) -> Turned:
    found = Findings()
    for _ in range(PASSES):
        before = repr(found)
        turned = _Pass(nodes, dialect, found).whole()
        if repr(found) == before:
            break
    return turned


class _Pass:
    def __init__(self, nodes: list[Node], dialect: Dialect, found: Findings) -> None:
        self._nodes, self._found = nodes, found
        self._open_ifs = 0  # those of the chain of `else if` that is turned now
        self._remarks: list[tuple[int, str]] = []
        self._defines = [each for each in _walk(nodes) if isinstance(each, Block) and each.name]
        self._macros = {each.name: identifier(each.name) for each in self._defines}
        self._hoisted = self._is_used_before()
        self._values = Values(dialect, found, self._macros)

    def _is_used_before(self) -> bool:
        """Is a template called before its `define`? Then all macros come first."""
        defined: set[str] = set()
        for each in _walk(self._nodes):
            if isinstance(each, syntax.Call) and each.name in self._macros and each.name not in defined:
                return True
            if isinstance(each, Block):
                defined.add(each.name)
        return False

    def whole(self) -> Turned:
        body = self._text(self._nodes)
        macros = ""
        if self._hoisted:
            macros = "".join(self._macro(each, hoisted=True) for each in self._defines)
        start = {"scratch": "set scratch = {}", "ns": "set ns = namespace()"}
        head = "".join(f"{{% {start[name]} %}}" for name in sorted(self._found.uses)) + macros
        if head and body[:1] not in (" ", "\t", "\r", "\n", ""):
            head = head.removesuffix("%}") + "-%}\n"
        return Turned(head + body, sorted(set(self._remarks)))

    # nodes

    def _text(self, nodes: Sequence[Node]) -> str:
        return "".join(map(self._node, nodes))

    def _node(self, node: Node) -> str:
        if isinstance(node, syntax.Text):
            return _DELIMITER.sub(lambda match: f'{{{{ "{match[0]}" }}}}', node.text)
        if isinstance(node, syntax.Comment):
            return _tags(node.tag, f"#{_comment(node.text)}")
        if isinstance(node, Block):
            return self._block(node)
        try:
            return self._simple(node)
        except CannotTurn as reason:
            return self._remark(node.tag, reason) + _tags(node.tag, self._instead(node))

    def _simple(self, node: syntax.Action | syntax.Call | syntax.Jump) -> str:
        if isinstance(node, syntax.Jump):
            raise CannotTurn(f"Jinja2 has no {node.word}: write a condition around the rest of the loop")
        if isinstance(node, syntax.Call):
            return _tags(node.tag, f"{{ {self._values.called(node.name, self._argument(node.pipe)).code} ")
        value = self._values.pipe(node.pipe)
        if node.pipe.declares:
            return _tags(node.tag, self._values.assignment(node.pipe, value))
        if value.type == "nothing":
            return _tags(node.tag, f"% set _ = {value.code} ")
        return _tags(node.tag, f"{{ {self._shown(value)} ")

    def _instead(self, node: syntax.Action | syntax.Call | syntax.Jump) -> str:
        """A variable has a value, too, so that what uses it needs no remark of its own."""
        if isinstance(node, syntax.Action) and len(node.pipe.declares) == 1 and not node.pipe.assigns:
            return self._values.assignment(node.pipe, Expr(TODO))
        return f"{{ {TODO} "

    def _shown(self, value: Expr) -> str:
        kind = value.type.rpartition(":")[2]
        if kind in FIELDS or value.type in ("none", "scratch"):
            raise CannotTurn("it prints a record as a whole, or nothing: print one of its fields")
        return printed(value).code

    def _remark(self, tag: Tag, reason: CannotTurn) -> str:
        """The comment before a tag that could not be turned. It takes over the trim marker on the left."""
        self._remarks.append((tag.line, str(reason)))
        said = _comment(f"{reason}: {tag.source}")
        return f"{{#{'-' * tag.left} svcinitctl port, line {tag.line}: {said} #}}"

    def _argument(self, pipe: Pipe | None) -> Expr:
        return NOTHING if pipe is None else self._values.pipe(pipe)

    # blocks

    def _block(self, block: Block) -> str:
        if block.word == "define":
            if self._hoisted:
                return _tags(syntax.Tag(block.tag.line, block.tag.left, block.end_tag.right))
            return self._macro(block)
        self._values.scopes.append({})
        turn = {"if": self._if, "with": self._with, "range": self._range, "block": self._defined}[block.word]
        assert block.pipe is not None
        try:
            result = turn(block, block.pipe, self._value(block))
        except CannotTurn as reason:
            remark = self._remark(block.tag, reason)
            result = remark + turn(block, syntax.Pipe((), block.pipe.declares), Expr(TODO))
        self._values.scopes.pop()
        return result

    def _value(self, block: Block) -> Expr:
        assert block.pipe is not None
        value = self._values.pipe(block.pipe, absent="[]" if block.word == "range" else "none")
        if block.word == "range" and value.type in ("str", "bool", "none"):
            raise CannotTurn("a text has no members")
        return value

    def _defined(self, block: Block, _pipe: Pipe, value: Expr) -> str:
        """`block`: a `define` and its call."""
        call = f"{{ {self._values.called(block.name, value).code} "
        macro = "" if self._hoisted else self._macro(block, hoisted=True)
        left = _tags(syntax.Tag(block.tag.line, block.tag.left, False)) if block.tag.left else ""
        return left + macro + _tags(syntax.Tag(block.tag.line, False, block.end_tag.right), call)

    def _macro(self, block: Block, *, hoisted: bool = False) -> str:
        values = self._values
        outer = values.scopes, values.dot, values.depth
        values.dot = Expr("item", self._found.dots.get(block.name, "any"))
        values.scopes, values.depth = [{"": Variable("item", values.dot.type, 0)}], 0
        opened = syntax.Tag(0, block.tag.left and not hoisted, block.tag.right)
        closed = syntax.Tag(0, block.end_tag.left, block.end_tag.right and not hoisted)
        body = self._text(block.body)
        values.scopes, values.dot, values.depth = outer
        return _tags(opened, f"% macro {self._macros[block.name]}(item=none) ") + body + _tags(closed, "% endmacro ")

    def _if(self, block: Block, pipe: Pipe, value: Expr) -> str:
        statements = []
        if pipe.declares:
            statements.append(self._values.assignment(pipe, value))
            value = self._values.variable(pipe.declares[0])
        return self._chosen(block, statements, value)

    def _with(self, block: Block, pipe: Pipe, value: Expr) -> str:
        outer, statements = self._values.dot, []
        if pipe.declares:
            statements.append(self._values.assignment(pipe, value))
            self._values.dot = self._values.variable(pipe.declares[0])
        elif _SIMPLE.fullmatch(value.code):
            self._values.dot = value
        else:
            self._values.dot = self._named_dot(value.type)
            statements.append(f"% set {self._values.dot.code} = {value.code} ")
        self._values.bind_dot()
        return self._chosen(block, statements, self._values.dot, after=outer)

    def _named_dot(self, kind: str) -> Expr:
        return Expr(self._values.fresh(_NAMES.get(kind, "item")), kind)

    def _chosen(self, block: Block, statements: list[str], value: Expr, after: Expr | None = None) -> str:
        """`if`, with what comes before and after it. after: the dot behind `else`."""
        word = "if"
        if block.is_chained:
            word = "if" if statements else "elif"
            statements = ["% else ", *statements] if statements else []
            self._open_ifs += bool(statements)
        outer, self._open_ifs = self._open_ifs, self._open_ifs if block.is_chained else 1
        result = _tags(block.tag, *statements, f"% {word} {value.code} ") + self._text(block.body)
        self._values.dot = after or self._values.dot
        result += self._otherwise(block)
        if not block.is_chained:
            result += _tags(block.end_tag, *["% endif "] * self._open_ifs)
            self._open_ifs = outer
        return result

    def _otherwise(self, block: Block) -> str:
        if block.else_tag is None:
            return ""
        if block.otherwise and isinstance(block.otherwise[0], Block) and block.otherwise[0].is_chained:
            return self._block(block.otherwise[0])
        return _tags(block.else_tag, "% else ") + self._text(block.otherwise)

    def _range(self, block: Block, pipe: Pipe, value: Expr) -> str:
        outer, kind = self._values.dot, value.type.partition(":")[0]
        item = "int" if value.type == "int" else item_type(value.type)
        names = pipe.declares
        source = f"range({value.code})" if kind == "int" else value.code
        dot = (
            self._values.declare(names[-1], item) if names else Expr(self._values.fresh(_NAMES.get(item, "item")), item)
        )
        counted, target = "", dot.code
        if kind in ("list", "int"):
            if len(names) == 2 and names[0] != "_":
                counted = f"% set {self._values.declare(names[0], 'int').code} = loop.index0 "
        else:
            source = f"{value:f}|{'go_items' if kind == 'any' else 'dictsort(true)'}"
            if len(names) == 2:
                target = f"{self._values.declare(names[0], 'str' if kind != 'any' else 'any').code}, {dot.code}"
            else:
                source += "|map(attribute=1)"
        self._values.dot, self._values.depth = dot, self._values.depth + 1
        self._values.bind_dot()
        opened = [f"% for {target} in {source} ", *([counted] if counted else [])]
        result = _tags(block.tag, *opened) + self._text(block.body)
        self._values.dot, self._values.depth = outer, self._values.depth - 1
        return result + self._otherwise(block) + _tags(block.end_tag, "% endfor ")

    # variables


def _tags(tag: Tag, *contents: str) -> str:
    """Jinja2's tags for one action, each `% if x `, `{ x ` or `# x `. The trim markers are those of the action."""
    if not contents:
        contents = ("# ",)  # it separates the texts before and after it, which are trimmed apart
    closing = {"%": "%", "{": "}", "#": "#"}
    tags = []
    for number, content in enumerate(contents):
        left = "-" * (tag.left and number == 0)
        right = "-" * (tag.right and number == len(contents) - 1)
        tags.append(f"{{{content[0]}{left}{content[1:]}{right}{closing[content[0]]}}}")
    return "".join(tags)


def _comment(content: str) -> str:
    return content.replace("#}", "# }").replace("-#", "- #")


def _walk(nodes: Sequence[Node]) -> Iterator[Node]:
    """All nodes, in the order of the text; a block comes after what is in it."""
    for node in nodes:
        if isinstance(node, Block):
            yield from _walk(node.body)
            yield from _walk(node.otherwise)
        yield node
