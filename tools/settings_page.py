"""Write docs/settings.md from the settings table: `make docs` (a unit test tells when it is stale)."""

from __future__ import annotations

import pathlib

from svcinit.settings.table import TABLE

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """# Settings

<!-- Made from entrypoint/svcinit/settings/table.py by tools/settings_page.py: change it there. -->

svcinit is configured by environment variables alone. Booleans are `1`/`true`/`yes` or `0`/`false`/`no`; durations
`500ms`, `10s`, `5m`, `1h`; lists are separated by commas. An empty value counts as unset, unless the row says what
empty means. Any variable `X` may be given as `X_FILE`, a path to read it from (a Docker secret). Of a variable that the
environment has twice, the first one counts.

Every file that svcinit is given must be a regular file: a fifo, a socket, a device or a directory in its place is a
fault (`/dev/null` counts as an empty file; the source may be a directory, as CA certificates may be). A file that holds
values of variables has at most 1 MiB, any other at most 64 MiB.

An image brings its own defaults along in `/etc/svcinit/svcinit.env`: lines of `NAME=value` as in `docker run
--env-file`, for the variables of this table. What the environment has, even if it is empty, goes before it; the command
sees nothing of it.

All faults are reported together and end in exit status 78, before anything is started; an unknown `SVCINIT_*`
variable is a fault too.

| variable | default | meaning |
|---|---|---|
"""


def page() -> str:
    rows = []
    for row in TABLE:
        default = f"`{row.default}`" if row.default else ""
        meaning = row.meaning + (" (a secret: kept from the command and from logs)" if row.secret else "")
        rows.append(f"| `{row.name}` | {default} | {meaning.replace('|', '&#124;')} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
