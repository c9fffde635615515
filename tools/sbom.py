"""The software bill of materials of the run-time dependencies, in CycloneDX 1.6, made of requirements/run.txt.

All of it is in the pins: names, versions, who wants what ("via") and the hashes of the files that an installation may
take. These belong to the several files of a release, not to one, so they stand in a reference to the distribution.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+) \\\n(?P<rest>(?:^[ #].*\n?)+)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
VIA = re.compile(r"^ +# +(?:via )?([\w.-]+)$", re.MULTILINE)  # a requirement; `-r FILE` is one of our own
NAMESPACE = uuid.UUID("6f2a4f0e-6d0c-4f0a-9d0b-5a3c6f1f7c11")  # of our serial numbers: the same bill has the same one


class Pin:
    """One requirement: its hashes, and the names of those that want it."""

    def __init__(self, name: str, version: str, hashes: list[str], wanted_by: list[str]) -> None:
        self.name, self.version, self.hashes, self.wanted_by = name, version, hashes, wanted_by

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def pins(requirements: str) -> list[Pin]:
    """What a file of pip-compile's has."""
    return [
        Pin(match["name"], match["version"], HASH.findall(match["rest"]), VIA.findall(match["rest"]))
        for match in PIN.finditer(requirements)
    ]


def bill(
    version: str, requirements: str, mandatory: Iterable[str], files: Mapping[str, str], timestamp: str
) -> dict[str, Any]:
    """The document. `mandatory`: the requirements of the package itself, without its extras; `files`: name to SHA-256
    of what is released."""
    found = pins(requirements)
    ours = f"svcinit@{version}"
    needed = _closure(set(mandatory), found)
    made = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": timestamp,
            "component": {
                "type": "application", "bom-ref": ours, "name": "svcinit", "version": version,
                "externalReferences": [_distribution(file, [digest]) for file, digest in sorted(files.items())],
            },
        },
        "components": [
            {
                "type": "library", "bom-ref": pin.purl, "name": pin.name, "version": pin.version, "purl": pin.purl,
                "scope": "required" if pin.name in needed else "optional",
                "externalReferences": [_distribution(pin.purl, pin.hashes)],
            }
            for pin in found
        ],
        "dependencies": [
            {"ref": ours, "dependsOn": [pin.purl for pin in found if not pin.wanted_by]},
            *(
                {"ref": pin.purl, "dependsOn": [each.purl for each in found if pin.name in each.wanted_by]}
                for pin in found
            ),
        ],
    }  # fmt: skip
    return {"serialNumber": uuid.uuid5(NAMESPACE, json.dumps(made)).urn, **made}


def _distribution(url: str, hashes: list[str]) -> dict[str, Any]:
    return {"type": "distribution", "url": url, "hashes": [{"alg": "SHA-256", "content": each} for each in hashes]}


def _closure(names: set[str], found: list[Pin]) -> set[str]:
    """`names`, and all that they want in turn."""
    more = {pin.name for pin in found if names & {*pin.wanted_by}} - names
    return _closure(names | more, found) if more else names
