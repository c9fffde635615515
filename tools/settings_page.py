"""Write docs/settings.md from the settings table: `make docs` (a unit test tells when it is stale)."""

from __future__ import annotations

import pathlib

from svcinit.settings.table import TABLE

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """# Settings

<!-- Made from entrypoint/svcinit/settings/table.py by tools/settings_page.py: change it there. -->

All settings of svcinit are environment variables. Booleans are `1`/`true`/`yes` or `0`/`false`/`no`. Durations are
`500ms`, `10s`, `5m`, `1h`. Lists are separated by commas. In every list, `\\,` is a comma within a part:
`SVCINIT_TAGS=middlewares=auth\\,gzip,blue` has two tags. Before a comma, `\\\\` is a backslash; elsewhere a backslash
is itself. An empty value counts as unset, unless the row explains the empty value. Each variable `X` can also be given
as `X_FILE`, the path of a file with the value (a Docker secret). If the environment contains a variable twice, the
first one counts.

Every file that you give to svcinit must be a regular file. A fifo, a socket, a device or a directory is an error, with
three exceptions: `/dev/null` counts as an empty file, and the source and the CA certificates can be directories. A file
with values of variables has at most 1 MiB, any other file at most 64 MiB.

An image can contain defaults in `/etc/svcinit/svcinit.env`: lines of `NAME=value`, as in `docker run --env-file`, for
the variables of this table. A variable in the environment overrides the default, even if its value is empty. The
service does not get these defaults in its environment. Hooks and commands get two of them:
[SVCINIT_SERVICE and SVCINIT_PORT](reloading.md#hooks-and-commands).

svcinit reports all errors together and exits with status 78 before it starts a process. An unknown `SVCINIT_*` variable
is also an error.

| variable | default | meaning |
|---|---|---|
"""


def page() -> str:
    rows = []
    for row in TABLE:
        default = f"`{row.default}`" if row.default else ""
        meaning = row.meaning + (" (secret: hidden from the service and from logs)" if row.secret else "")
        rows.append(f"| `{row.name}` | {default} | {meaning.replace('|', '&#124;')} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
