"""Write docs/doctor.md and docs/schemas/doctor.json from the doctor's tables: `make docs` (a unit test tells when they
are stale)."""

from __future__ import annotations

import json
import pathlib
import string
from typing import Any

from svcinit.ctl.doctor.catalogue import CHECKS, FINDINGS, OK, WARNING, WRONG

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGE, SCHEMA = DOCS / "doctor.md", DOCS / "schemas" / "doctor.json"
HEAD = """# svcinitctl doctor

<!-- Made from entrypoint/svcinit/ctl/doctor/catalogue.py by tools/doctor_page.py: change it there. -->

The doctor tries everything that the settings name. For each problem, it reports what is wrong, where, and what to do.
Use the doctor for a configuration that does not work yet. It checks each item separately. An item that is wrong, fails
or hangs does not stop the doctor.

```sh
docker run --rm --entrypoint svcinitctl OPTIONS IMAGE doctor -- COMMAND    # OPTIONS and COMMAND of the container
docker exec shop svcinitctl doctor                                         # in a container in which svcinit runs
```

Use the same options as for the container itself (`-e`, `-v`, `--user`, `--network`, `--read-only`, `--cap-drop`): the
findings are only correct for these options. If svcinit runs in the container, the doctor also examines the service,
the state and the registration. If the container [restarts again and
again](operations.md#a-container-restarts-again-and-again), `docker exec` does not work: use the first command.

Each line of a problem ends with the name of its finding in brackets, such as `[reload-unhandled]`. The exit status is 1
if something is wrong. Otherwise it is 0, also with warnings, because a warning can be intended. The doctor takes at
most 15 s. It reports a check that has not ended by then as `unfinished`.

The doctor writes a file beside each target, in the cache's directory and in SVCINIT_RUN, and removes these files again.
It registers nothing in Consul. It starts no program except the check commands of templates. It shows no token, no
password and no value of KV. If templates use secrets of Vault, and svcinit logs in by AppRole, the doctor logs in too.
This uses VAULT_SECRET_ID once.

Some facts are not visible from inside a container: the time that `docker stop` gives it (`--stop-timeout`), the
image's STOPSIGNAL, and the clocks of Consul's servers. Before the service is registered, the doctor also cannot see
whether Consul's agent reaches it.

## Checks

| check | what the doctor tries |
|---|---|
"""
MIDDLE = """
## Findings

Words in capitals stand for values of your configuration.

| finding | level | meaning | what to do |
|---|---|---|---|
"""
TAIL = """
## For programs

`svcinitctl doctor --json` prints one object. [schemas/doctor.json](schemas/doctor.json) (JSON Schema 2020-12) describes
it:

| field | meaning |
|---|---|
| `ok` | false if anything is wrong, as in the exit status |
| `checks` | a list of entries, in the order of the checks |
| `checks[].check` | the check, from the first table; a check can have several entries |
| `checks[].finding` | the finding, from the second table; empty if there is no problem |
| `checks[].level` | `ok`, `warning` or `wrong` |
| `checks[].ok` | false if the level is `wrong` |
| `checks[].said` | description of the result, with its place |
| `checks[].todo` | what to do; empty if there is no problem |
| `checks[].milliseconds` | duration of the check |
| `policy` | the minimal ACL policy for the settings, in HCL; empty if Consul is not needed |

The names of checks and findings are stable. Later versions can add more.
"""


class _Capitals(string.Formatter):
    def get_value(self, key: int | str, _args: Any, _kwargs: Any) -> str:
        return str(key).upper()


def page() -> str:
    checks = "".join(f"| `{name}` | {tried} |\n" for name, tried in CHECKS.items())
    rows = []
    for name, finding in FINDINGS.items():
        todo = _Capitals().format(finding.todo)
        rows.append(f"| `{name}` | {finding.level} | {finding.meaning} | {todo} |\n")
    return HEAD + checks + MIDDLE + "".join(rows) + TAIL


def schema() -> dict[str, Any]:
    """What `svcinitctl doctor --json` prints."""
    bad = {"finding": {"minLength": 1}, "todo": {"minLength": 1}}
    levels = {
        OK: {"ok": {"const": True}, "finding": {"const": ""}, "todo": {"const": ""}},
        WARNING: {"ok": {"const": True}, **bad},
        WRONG: {"ok": {"const": False}, **bad},
    }
    entry = {
        "check": {"enum": list(CHECKS)},
        "finding": {"enum": ["", *FINDINGS]},
        "level": {"enum": list(levels)},
        "ok": {"type": "boolean"},
        "said": {"type": "string", "minLength": 1},
        "todo": {"type": "string"},
        "milliseconds": {"type": "number", "minimum": 0},
    }
    rules = [
        {"if": {"properties": {"level": {"const": level}}}, "then": {"properties": then}}
        for level, then in levels.items()
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "svcinitctl doctor --json",
        **_object({
            "ok": {"type": "boolean"},
            "checks": {"type": "array", "minItems": 1, "items": {**_object(entry), "allOf": rules}},
            "policy": {"type": "string"},
        }),
    }  # fmt: skip


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }


def write() -> None:
    SCHEMA.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(json.dumps(schema(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
