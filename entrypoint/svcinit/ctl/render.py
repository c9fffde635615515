"""svcinitctl render: prints the files as prepare would render them now. No target changes."""

from __future__ import annotations

import os
import time

from svcinit.agent.templates.mask import MASKED, Mask, former
from svcinit.ctl.output import complain, content, put
from svcinit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from svcinit.agent.files.commit import Change
    from svcinit.agent.prepare.rendering import Rendering
    from svcinit.agent.prepare.template_data import TemplateData
    from svcinit.agent.templates.render import Rendered

CONTEXT = 3  # lines
BINARY = "(no text: {} bytes)\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--diff",
        action="store_true",
        help="unified diff to the existing files, and whether their check commands accept the new ones",
    )
    how.add_argument("--out", metavar="DIR", help="write the files below DIR instead, without their check commands")
    parser.add_argument("--mask", action="store_true", help="*** instead of all values from KV and the environment")
    add_command(parser)


def add_command(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="-- COMMAND", help="render the arguments of this command, too")


def run(options: argparse.Namespace) -> int:
    """Raises ConfigError and Unavailable, with all faults."""
    from svcinit.agent.prepare.rendering import Rendering
    from svcinit.agent.prepare.template_data import TemplateData
    from svcinit.agent.prepare.transaction import open_source
    from svcinit.settings.environment import read

    settings = read(os.environ)
    deadline = time.monotonic() + settings.reload_timeout
    source = open_source(settings, deadline)
    data = TemplateData(settings, source)
    try:
        data.fetch()
        show(Rendering(settings, options.words, data), options)
    except ConfigError:
        data.warn_about_empty()  # this may be the reason
        raise
    finally:
        source.close()
    return 0


def show(rendering: Rendering, options: argparse.Namespace) -> None:
    root = os.path.abspath(options.out or "/")
    files = rendering.files(root)
    shown = masked(rendering, files, root) if options.mask else {file.target: file.content for file in files}
    if options.out:
        write(files, shown, root)
    elif options.diff:
        show_differences(files, shown, rendering.data, mask=options.mask)
    else:
        for file in files:
            content(f"==> {file.target}{described(file)}\n", text_of(shown[file.target]))
    if options.words and not options.out:
        words = rendering.arguments(Mask(rendering.data) if options.mask else None)
        content(*(f"argument {number}: {word}\n" for number, word in enumerate(words)))
    if not files:
        complain(f"no templates in {', '.join(rendering.settings.templates) or 'SVCINIT_TEMPLATES'}")


def show_differences(files: Sequence[Rendered], shown: dict[str, bytes], data: TemplateData, *, mask: bool) -> None:
    """A diff of each file that would change, after a line with the verdict of its check command.

    patch(1) ignores that line. With `mask` the output of a check command is not shown: it may contain parts of values.
    """
    from svcinit.agent.files import commit

    changes = [change for change in commit.plan(files) if change.is_needed()]
    verdicts, impossible = {}, ""
    try:
        verdicts = commit.preview(changes, env=data.env, redact=data.redact)
    except ConfigError as error:
        impossible = f"not run: {error}"
    for change in changes:
        if change.check:
            verdict = verdicts.get(change.target)
            said = impossible if verdict is None else f"not accepted: {verdict.reason if mask else verdict}"
            accepted = verdict is not None and verdict.is_accepted
            put(f"check `{change.check}` of {change.target}: {'accepted' if accepted else said}\n")
        content(*differences(change, shown[change.target], mask=mask))


def masked(rendering: Rendering, files: Sequence[Rendered], root: str) -> dict[str, bytes]:
    """By target, the content with values masked; all of it masked where the lines cannot be masked one by one."""
    again, _, _ = rendering.attempt(root, Mask(rendering.data))
    found = {file.target: file.content for file in again}
    for file in files:
        content, lines = found.get(file.target, b""), file.content.count(b"\n")
        if content.count(b"\n") != lines:
            content = f"{MASKED}\n".encode() * lines
        found[file.target] = content
    return found


def write(files: Sequence[Rendered], shown: dict[str, bytes], folder: str) -> None:
    """Write the files below `folder`, never outside of it. Only root sets the owners that the templates request."""
    from svcinit.agent.files.commit import commit, plan

    real = os.path.realpath(folder)
    outside = [change.target for change in plan(files) if os.path.commonpath((change.path, real)) != real]
    if outside:
        raise ConfigError(*(f"{target} is a link that leads out of {folder}" for target in outside))
    for file in files:
        file.content = shown[file.target]
        if os.geteuid():
            file.owner = None
    commit(files, checks=False)
    content(*(f"{file.target}\n" for file in files))


def described(file: Rendered) -> str:
    options = [] if file.mode is None else [f"mode={file.mode:04o}"]
    if file.owner:
        options.append(f"owner={owner(file.owner)}")
    return f" ({' '.join(options)})" if options else ""


def owner(ids: tuple[int, int] | None) -> str:
    return f"{ids[0]}:{ids[1]}" if ids else ""


def text_of(content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return BINARY.format(len(content))
    return text if text.endswith("\n") or not text else f"{text}\n"


def lines_of(content: bytes) -> list[str]:
    """Lines with their ends, split at line feeds; a last line without an end is marked. Raises UnicodeDecodeError."""
    *lines, last = content.decode().split("\n")
    return [f"{line}\n" for line in lines] + ([f"{last}\n\\ No newline at end of file\n"] if last else [])


def differences(change: Change, shown: bytes, *, mask: bool) -> Iterator[str]:
    """The changes of one file, in the form of diff(1) and git. `shown`: the part of the new content to show."""
    now, new = change.now, change.new
    yield f"--- {change.path if now else '/dev/null'}\n+++ {change.target}\n"
    if now and now.mode != new.mode:
        yield f"old mode {now.mode:04o}\nnew mode {new.mode:04o}\n"
    if now and now.owner != new.owner:
        yield f"old owner {owner(now.owner)}\nnew owner {owner(new.owner)}\n"
    old = now.content if now else b""
    if old == new.content:
        return
    try:
        yield from hunks(lines_of(old), lines_of(new.content), lines_of(shown), former_of(shown) if mask else str)
    except UnicodeDecodeError:
        yield "-" + BINARY.format(len(old))
        yield "+" + BINARY.format(len(new.content))


def former_of(shown: bytes) -> Callable[[str], str]:
    lines = lines_of(shown)
    return lambda line: former(line, lines)


def hunks(old: list[str], new: list[str], shown: list[str], former: Callable[[str], str]) -> Iterator[str]:
    """The hunks of a unified diff. `shown`: the text to show for each line of `new`; `former`: for a line of `old`."""
    import difflib

    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(CONTEXT):
        first, last = group[0], group[-1]
        yield f"@@ -{span(first[1], last[2])} +{span(first[3], last[4])} @@\n"
        for kind, old_start, old_end, new_start, new_end in group:
            if kind == "equal":
                yield from (f" {line}" for line in shown[new_start:new_end])
                continue
            yield from (f"-{former(line)}" for line in old[old_start:old_end])
            yield from (f"+{line}" for line in shown[new_start:new_end])


def span(start: int, end: int) -> str:
    """START,COUNT; lines count from 1. For no lines, START is the line before (diff(1), "Detailed Unified")."""
    return f"{start + (end > start)},{end - start}"
