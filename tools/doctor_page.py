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

Tries all that the settings name, and says what is wrong, where, and what to do about it. It is for when nothing works
yet, so each thing is tried by itself: nothing that is wrong, fails or hangs keeps the doctor from the rest.

```sh
docker run --rm --entrypoint svcinitctl OPTIONS IMAGE doctor -- COMMAND    # OPTIONS and COMMAND as of the container
docker exec shop svcinitctl doctor                                         # beside a svcinit that runs
```

Give it the options of the container that it is about (`-e`, `-v`, `--user`, `--network`, `--read-only`, `--cap-drop`):
what it finds is true for these. Beside a svcinit that runs it also looks at that one's command, state and registration.

It exits with 1 if something is wrong, else with 0: a warning may be meant. It takes 15 s at most; what has not ended
then is told as `unfinished`. It changes nothing: what it writes (a file beside each target, in the cache's directory
and in SVCINIT_RUN) it removes again, it registers nothing, it starts no command but the check commands of templates,
and it shows no token, password or value of KV.

What cannot be known from inside a container: which time `docker stop` gives it (`--stop-timeout`), the image's
STOPSIGNAL, the clocks of Consul's servers, and, before the service is registered, whether Consul's agent reaches it.

## Checks

| check | what is tried |
|---|---|
"""
MIDDLE = """
## Findings

In capitals: what differs from case to case.

| finding | level | meaning | what to do |
|---|---|---|---|
"""
TAIL = """
## For programs

`svcinitctl doctor --json` prints one object, as [schemas/doctor.json](schemas/doctor.json) (JSON Schema 2020-12) has
it:

| | |
|---|---|
| `ok` | false if anything is wrong; the exit status says the same |
| `checks` | a list of entries, in the order in which they were tried |
| `checks[].check` | which check, as in the first table; a check may have several entries |
| `checks[].finding` | as in the second table; empty where all is well |
| `checks[].level` | `ok`, `warning` or `wrong` |
| `checks[].ok` | false if the level is `wrong` |
| `checks[].said` | what was found, and where |
| `checks[].todo` | what to do; empty where all is well |
| `checks[].milliseconds` | what it took |
| `policy` | the least ACL policy that the settings need, in HCL; empty where Consul is not needed |

Names of checks and findings stay as they are; later versions may have more.
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
