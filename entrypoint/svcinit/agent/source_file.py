"""SVCINIT_SOURCE=file:PATH: KV and peers from a file or a directory, in place of Consul's.

A file is YAML or JSON:

    kv: {config: {web: {workers: 4, env: {DEBUG: "1"}}}}      # nested, or flat: config/web/workers: 4
    services: {mysql: [{address: 10.0.0.5, port: 3306, tags: [primary]}, "10.0.0.6:3306"]}

`env` may stand beside them: what `svcinitctl check` takes as the environment. A directory has the keys as files below
PATH/kv, and PATH/services.yaml or .json with what stands under `services`. Names are whole, as they are in Consul:
SVCINIT_KV_PREFIX and its layers mean the same.
"""

from __future__ import annotations

import json
import os

from svcinit.agent.discovery import QUERY, Peer
from svcinit.agent.prepare import Preparation
from svcinit.errors import ConfigError
from svcinit.values import addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTS = "services.yaml", "services.yml", "services.json"
SECTIONS = "kv", "services", "env"
FIELDS = "address", "port", "tags", "node", "dc"
LOOPBACK = "127.0.0.1"


class FromFile(Preparation):
    """A preparation for which a file stands in for Consul. Raises ConfigError, naming the file, for what is wrong."""

    def fetch(self) -> None:
        path = self.settings.source or ""
        self._stamp = stamp(path)  # first: what is changed while it is read is read again
        self._kv, self._services = read(path)
        super().fetch()

    def inputs(self) -> dict[str, object]:
        return {"kv": [self._stamp], "peers": []}

    def keys(self, prefix: str, _datacenter: str | None) -> dict[str, bytes]:
        return {key: value for key, value in self._kv.items() if key.startswith(f"{prefix}/")}

    def ask(self, question: tuple[str, str | None, str | None]) -> list[Peer]:
        name, tag, dc = question
        *tags, name = [name] if name.endswith(QUERY) else name.lstrip("_").split("._" if "._" in name else ".")
        if question[0].startswith("_"):  # RFC 2782 has it the other way round
            tags, name = [name], tags[0]
        wanted = {label for label in (tag, *tags) if label and label != "tcp"}
        return sorted({peer for peer, has, where in self.instances(name) if wanted <= has and where == dc})

    def instances(self, name: str) -> list[Instance]:
        return self._services.get(name) or self._services.get(name.removesuffix(QUERY)) or []

    @property
    def agent(self) -> dict[str, str]:
        return {"node": os.uname().nodename, "address": LOOPBACK}


Instance = tuple[Peer, set[str], "str | None"]  # with its tags and its datacenter, None for the own one


def read(path: str) -> tuple[dict[str, bytes], dict[str, list[Instance]]]:
    """KV by full name, and the instances of each service. Raises ConfigError."""
    if os.path.isdir(path):
        lists = [os.path.join(path, name) for name in LISTS if os.path.exists(os.path.join(path, name))]
        folder = os.path.join(path, "kv")
        return _tree(folder), _services(_load(lists[0]), lists[0]) if lists else {}
    whole = _load(path)
    if not isinstance(whole, dict) or set(whole) - set(SECTIONS):
        raise _wrong(path, "its top level", "a mapping with `kv` and `services`")
    kv: dict[str, bytes] = {}
    _flatten(whole.get("kv") or {}, "", kv, path)
    return kv, _services(whole.get("services") or {}, path)


def environment(path: str) -> dict[str, str]:
    """What stands under `env` in a file, for `svcinitctl check`; a running svcinit has an environment of its own.

    Raises ConfigError.
    """
    whole = {} if os.path.isdir(path) else _load(path)
    given = (whole.get("env") or {}) if isinstance(whole, dict) else {}
    if not isinstance(given, dict) or any(isinstance(value, dict | list) for value in given.values()):
        raise _wrong(path, "env", "a mapping of variables to values")
    return {str(name): _text(value) for name, value in given.items()}


def stamp(path: str) -> str:
    """What changes when the source does: names, sizes and times of all that belongs to it."""
    found = []
    for folder, _, names in os.walk(path) if os.path.isdir(path) else [(os.path.dirname(path), [], [path])]:
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError:  # being replaced: the next look sees what is there then
                continue
            found.append((folder, name, status.st_size, status.st_mtime_ns, status.st_ino))
    return repr(sorted(found))


def _load(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"SVCINIT_SOURCE: {path} cannot be read: {getattr(error, 'strerror', 'no UTF-8')}") from None
    try:
        return json.loads(text)
    except ValueError as wrong:
        if path.endswith(".json"):
            raise ConfigError(f"SVCINIT_SOURCE: {path} is no JSON: {wrong}") from None
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            f"SVCINIT_SOURCE: {path} is not JSON, and YAML needs PyYAML, which is not here: pip install 'svcinit[yaml]'"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(
            f"SVCINIT_SOURCE: {path}{place}: neither JSON nor YAML: {getattr(error, 'problem', '')}"
        ) from None


def _wrong(path: str, what: str, expected: str) -> ConfigError:
    return ConfigError(f"SVCINIT_SOURCE: {path}: {what}: expected {expected}")


def _flatten(level: object, prefix: str, kv: dict[str, bytes], path: str) -> None:
    if not isinstance(level, dict):
        raise _wrong(path, "kv", "a mapping of names to values or to further names")
    for name, value in level.items():
        key = f"{prefix}{str(name).strip('/')}"
        if isinstance(value, dict):
            _flatten(value, f"{key}/", kv, path)
        else:
            kv[key] = _text(value).encode()


def _text(value: object) -> str:
    """A value as one would put it into KV."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _tree(folder: str) -> dict[str, bytes]:
    kv = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            try:
                with open(path, "rb") as file:
                    content = file.read()
            except OSError as error:
                raise ConfigError(f"SVCINIT_SOURCE: {path} cannot be read: {error.strerror}") from None
            kv[os.path.relpath(path, folder)] = content.removesuffix(b"\n")  # editors add one
    return kv


def _services(level: object, path: str) -> dict[str, list[Instance]]:
    if not isinstance(level, dict) or not all(isinstance(found, list) for found in level.values()):
        raise _wrong(path, "services", "a mapping of names to lists of instances")
    return {
        str(name): [_instance(each, path, f"services.{name}[{index}]") for index, each in enumerate(found)]
        for name, found in level.items()
    }


def _instance(given: object, path: str, where: str) -> Instance:
    expected = f"HOST:PORT, or a mapping of {', '.join(FIELDS)} with an address"
    if isinstance(given, str):
        try:
            ((host, port),) = addresses(given)
        except ValueError:
            raise _wrong(path, f"{where}={given!r}", expected) from None
        return Peer(host, host, port, ""), set(), None
    if not isinstance(given, dict) or set(given) - set(FIELDS) or not isinstance(given.get("address"), str):
        raise _wrong(path, where, expected)
    port, tags = given.get("port", 0), given.get("tags") or []
    if not isinstance(port, int) or not 0 <= port <= 65535 or not isinstance(tags, list):
        raise _wrong(path, where, "a port from 0 to 65535 and a list of tags")
    peer = Peer(given["address"], given["address"], port, str(given.get("node") or ""))
    return peer, {str(tag) for tag in tags}, given.get("dc")
