"""The bill of materials of /opt/svcinit, as CycloneDX 1.5 JSON: each thing that the bundle copies from the base image.

Scanners of images find neither an interpreter nor libraries that no package database lists; they do read such a file.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

NAME = "svcinit.cdx.json"


def write(home: pathlib.Path, version: str, copied: Iterable[pathlib.Path]) -> None:
    """HOME/NAME, of the libraries in HOME/lib and of the files that were `copied` from this system."""
    components = [_component("application", "cpython", f"generic/cpython@{platform.python_version()}")]
    for found in importlib.metadata.distributions(path=[str(home / "lib")]):
        name = found.metadata["Name"].lower().replace("_", "-")
        components.append(_component("library", name, f"pypi/{name}@{found.version}"))
    release = platform.freedesktop_os_release()
    distribution = f"{release['ID']}-{release.get('VERSION_ID', release.get('VERSION_CODENAME', ''))}"
    for name, package, architecture in sorted(_packages(copied)):
        purl = f"deb/{release['ID']}/{name}@{quote(package, safe=':~')}?arch={architecture}&distro={distribution}"
        components.append(_component("library", name, purl))
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "svcinit", "version": version}},
        "components": components,
    }
    (home / NAME).write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")


def _component(kind: str, name: str, purl: str) -> dict[str, Any]:
    version = unquote(purl.partition("?")[0].rpartition("@")[2])
    return {"type": kind, "bom-ref": f"pkg:{purl}", "name": name, "version": version, "purl": f"pkg:{purl}"}


def _packages(files: Iterable[pathlib.Path]) -> set[tuple[str, str, str]]:
    """Name, version and architecture of the Debian packages of the files; a file of no package has none."""
    found = set()
    for file in files:
        for path in {file, file.resolve(), pathlib.Path("/usr", *file.parts[1:])}:  # /lib may be a link to /usr/lib
            owner = _dpkg("--search", str(path)).partition(": ")[0]
            fields = "--showformat=${Package} ${Version} ${Architecture}"
            package = _dpkg("--show", fields, owner.partition(",")[0]).split() if owner else []
            if len(package) == 3:  # "diversion by" is in place of an owner where another package moved the file
                name, version, architecture = package
                found.add((name, version, architecture))
                break
    return found


def _dpkg(*arguments: str) -> str:
    done = subprocess.run(["dpkg-query", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()
