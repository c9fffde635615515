"""The syntax of Go's text/template as a tree: https://pkg.go.dev/text/template.

    {{- if eq .Key "a" -}} text {{ else }} ... {{ end }}

Each action keeps its trim markers, because the result has the same text around them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from svcinit.errors import ConfigError, Fault

LEFT, RIGHT = "{{", "}}"
_SPACE = " \t\r\n"
_COMMENT = re.compile(r"\{\{(?P<left>-[ \t\r\n]+)?/\*(?P<text>.*?)\*/(?P<right>[ \t\r\n]+-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<raw>`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.)+')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?![\w.]))
    |(?P<declare>:=)
    |(?P<sign>[=|(),])
    |(?P<variable>\$\w*)
    |(?P<field>\.\w+)
    |(?P<dot>\.)
    |(?P<name>[^\W\d]\w*)""",
    re.VERBOSE,
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)


@dataclass(frozen=True)
class Tag:
    """An action's delimiters. left, right: has it a trim marker there? source: the action as it is written."""

    line: int
    left: bool = False
    right: bool = False
    source: str = ""


# operands


@dataclass(frozen=True)
class Literal:
    value: str | int | float | bool | None


@dataclass(frozen=True)
class Dot:
    pass


@dataclass(frozen=True)
class Name:
    """A function without arguments yet."""

    name: str


@dataclass(frozen=True)
class Variable:
    """name: without `$`; empty for `$` itself."""

    name: str


@dataclass(frozen=True)
class Access:
    """`operand.field`."""

    of: Operand
    field: str


@dataclass(frozen=True)
class Pipe:
    """commands: each with its words. declares: the names before `:=` or `=`."""

    commands: tuple[tuple[Operand, ...], ...]
    declares: tuple[str, ...] = ()
    assigns: bool = False


Operand = Literal | Dot | Name | Variable | Access | Pipe

# what a template consists of


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Comment:
    tag: Tag
    text: str


@dataclass(frozen=True)
class Action:
    tag: Tag
    pipe: Pipe


@dataclass(frozen=True)
class Jump:
    """`break` or `continue`."""

    tag: Tag
    word: str


@dataclass(frozen=True)
class Call:
    """`template "name" pipe`."""

    tag: Tag
    name: str
    pipe: Pipe | None


@dataclass
class Block:
    """`if`, `range`, `with`, `define` or `block`, to its `end`.

    otherwise: of `else`; `else if` is a Block in it, whose `end` is that of the outer one (`is_chained`).
    """

    word: str
    tag: Tag
    pipe: Pipe | None
    name: str = ""
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)
    else_tag: Tag | None = None
    end_tag: Tag = Tag(0)
    is_chained: bool = False


Node = Text | Comment | Action | Jump | Call | Block


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    is_spaced: bool  # after a space, or first


def parse(text: str, path: str = "") -> list[Node]:
    """The tree of a template. Raises ConfigError with path and line."""
    return _Parser(text, path).template()


def unquoted(text: str) -> str:
    """The value of a string in double quotes, by the rules of Go."""

    def one(match: re.Match[str]) -> str:
        two, four, eight, octal, other = match.groups()
        digits = two or four or eight
        if digits:
            return chr(int(digits, 16))
        return chr(int(octal, 8)) if octal else _ESCAPES.get(other, other)

    return _ESCAPE.sub(one, text[1:-1])


class _Parser:
    def __init__(self, text: str, path: str) -> None:
        self._text, self._path = text, path
        self._at = 0
        self._tokens: list[Token] = []
        self._next = 0
        self._tag = Tag(1)

    def template(self) -> list[Node]:
        nodes, word = self._nodes()
        if word:
            raise self._wrong(f"there is no action that {word} belongs to")
        return nodes

    def _wrong(self, message: str) -> ConfigError:
        place = f"{self._path}, line {self._tag.line}"
        return ConfigError(Fault(f"{place}: {message}", file=self._path, line=self._tag.line))

    def _nodes(self) -> tuple[list[Node], str]:
        """All nodes to the end of the text, or to an `else` or `end`, which is the second result."""
        nodes: list[Node] = []
        while self._at < len(self._text):
            start = self._text.find(LEFT, self._at)
            if start < 0:
                start = len(self._text)
            if start > self._at:
                nodes.append(Text(self._text[self._at : start]))
                self._at = start
                continue
            comment = _COMMENT.match(self._text, start)
            if comment:
                tag = Tag(self._line(start), bool(comment["left"]), bool(comment["right"]))
                nodes.append(Comment(tag, comment["text"]))
                self._at = comment.end()
                continue
            self._action()
            word = self._peek().text if self._peek().kind == "name" else ""
            if word in ("else", "end"):
                return nodes, word
            nodes.append(self._node(word))
        return nodes, ""

    def _line(self, position: int) -> int:
        return self._text.count("\n", 0, position) + 1

    def _action(self) -> None:
        """Read the tokens of the action that begins here."""
        start = self._at
        self._tag = Tag(self._line(start))
        position = start + len(LEFT)
        left = self._text[position : position + 1] == "-" and self._text[position + 1 : position + 2] in tuple(_SPACE)
        position += left
        tokens: list[Token] = []
        spaced, right = True, False
        while not self._text.startswith(RIGHT, position):
            if spaced and self._text.startswith(f"-{RIGHT}", position):
                right = True
                position += 1
                continue
            match = _TOKEN.match(self._text, position)
            if match is None:
                rest = self._text[position : position + 20].split("\n", 1)[0]
                raise self._wrong(f"cannot read {rest!r}" if rest else "an action is not closed")
            position = match.end()
            if match.lastgroup != "space":
                tokens.append(Token(match.lastgroup or "", match[0], spaced))
            spaced = match.lastgroup == "space"
        self._at = position + len(RIGHT)
        self._tag = Tag(self._tag.line, left, right, self._text[start : self._at])
        self._tokens, self._next = tokens, 0

    def _peek(self) -> Token:
        return self._tokens[self._next] if self._next < len(self._tokens) else Token("end", "", True)

    def _take(self) -> Token:
        token = self._peek()
        self._next += 1
        return token

    def _node(self, word: str) -> Node:
        tag = self._tag
        if word in ("break", "continue") and len(self._tokens) == 1:
            return Jump(tag, word)
        if word == "template":
            self._take()
            return Call(tag, self._string(), self._pipe() if self._peek().kind != "end" else None)
        if word in ("if", "range", "with", "define", "block"):
            self._take()
            return self._block(word, tag)
        return Action(tag, self._pipe())

    def _string(self) -> str:
        token = self._take()
        if token.kind == "raw":
            return token.text[1:-1]
        if token.kind != "string":
            raise self._wrong("expected the name of a template in quotes")
        return self._unquoted(token.text)

    def _block(self, word: str, tag: Tag, *, is_chained: bool = False) -> Block:
        name = self._string() if word in ("define", "block") else ""
        block = Block(word, tag, None if word == "define" else self._pipe(), name, is_chained=is_chained)
        block.body, end = self._nodes()
        if end == "else":
            self._take()
            block.else_tag = self._tag
            if word in ("if", "with") and self._peek().text == word:
                chained = self._block(self._take().text, self._tag, is_chained=True)
                block.otherwise = [chained]
                block.end_tag = chained.end_tag
                return block
            if self._peek().kind != "end":
                raise self._wrong(f"cannot read {self._peek().text!r} after else")
            block.otherwise, end = self._nodes()
        if end != "end":
            raise self._wrong(f"the {word} of line {tag.line} has no end")
        block.end_tag = self._tag
        return block

    def _pipe(self, until: str = "") -> Pipe:
        declares, assigns = self._declarations()
        commands: list[tuple[Operand, ...]] = []
        while True:
            words: list[Operand] = []
            while self._peek().kind != "end" and self._peek().text not in ("|", ")"):
                words.append(self._operand())
            if not words:
                raise self._wrong("a value is missing")
            commands.append(tuple(words))
            if self._peek().text != "|":
                break
            self._take()
        if self._take().text != until:
            raise self._wrong("unbalanced parentheses")
        return Pipe(tuple(commands), declares, assigns)

    def _declarations(self) -> tuple[tuple[str, ...], bool]:
        """The variables before `:=` or `=`, and whether they are assigned."""
        start, names = self._next, []
        while self._peek().kind == "variable":
            names.append(self._take().text[1:])
            sign = self._take()
            if sign.text in (":=", "="):
                return tuple(names), sign.text == "="
            if sign.text != ",":
                break
        self._next = start
        return (), False

    def _operand(self) -> Operand:
        token = self._take()
        operand: Operand = self._pipe(until=")") if token.text == "(" else self._term(token)
        while self._peek().kind == "field" and not self._peek().is_spaced:
            operand = Access(operand, self._take().text[1:])
        return operand

    def _term(self, token: Token) -> Operand:
        if token.kind == "string":
            return Literal(self._unquoted(token.text))
        if token.kind == "raw":
            return Literal(token.text[1:-1].replace("\r", ""))
        if token.kind == "char":
            return Literal(self._character(token.text))
        if token.kind == "number":
            return Literal(self._number(token.text))
        if token.kind == "variable":
            return Variable(token.text[1:])
        if token.kind == "field":
            return Access(Dot(), token.text[1:])
        if token.kind == "dot":
            return Dot()
        if token.kind == "name":
            constants = {"true": True, "false": False, "nil": None}
            return Literal(constants[token.text]) if token.text in constants else Name(token.text)
        raise self._wrong(f"cannot read {token.text!r}")

    def _unquoted(self, text: str) -> str:
        try:
            return unquoted(text)
        except (ValueError, OverflowError):
            raise self._wrong(f"cannot read {text}") from None

    def _character(self, text: str) -> int:
        found = self._unquoted(text)
        if len(found) != 1:
            raise self._wrong(f"cannot read {text}")
        return ord(found)

    def _number(self, text: str) -> int | float:
        plain = text.replace("_", "")
        try:
            return int(plain, 0)
        except ValueError:
            pass
        try:
            return float(plain) if set(plain) & set(".eE") else int(plain, 8)
        except ValueError:
            raise self._wrong(f"cannot read {text!r}") from None
