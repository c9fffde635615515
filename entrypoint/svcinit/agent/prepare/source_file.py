"""Inputs from SVCINIT_SOURCE=file:PATH: a file or a directory instead of Consul.

A file is YAML or JSON:

    kv: {config: {web: {workers: 4, env: {DEBUG: "1"}}}}      # nested, or flat: config/web/workers: 4
    services: {mysql: [{address: 10.0.0.5, port: 3306, tags: [primary], meta: {zone: a}, weight: 7}, "10.0.0.6:3306"]}

Further sections: `env` is the environment for `svcinitctl check`; `secrets` are those of Vault, by path:

    secrets: {kv/data/shop: {password: example}}

A directory contains the keys as files below PATH/kv, without the last line end of each file. PATH/services.yaml
contains the section `services`, or PATH/services/NAME.yaml the list of one service (.yml and .json too). Hidden files
and those that end in ~ are ignored.

Names of keys are complete, as in Consul, so that SVCINIT_KV_PREFIX and its layers mean the same; keys have no
datacenter. Values are as written. An instance without `dc` is in the agent's own datacenter. NAME.query is the entry
of that name, otherwise NAME.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from svcinit import regular_file
from svcinit.agent.consul.discovery import QUERY, Peer, name_and_tag, question_for
from svcinit.agent.prepare.located_yaml import Node, Place, parse
from svcinit.agent.prepare.source import OF_VAULT, Answer, InputId, Kind, Source
from svcinit.errors import ConfigError
from svcinit.settings.parsers import host_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from svcinit.settings.environment import Settings

ENDINGS = ".yaml", ".yml", ".json"
FIELDS = "address", "port", "tags", "node", "dc", "meta", "weight"
INSTANCE = f"HOST:PORT, or a mapping of {', '.join(FIELDS)} with an address"
SECTIONS = {"kv", "services", "env", "secrets"}
LOOPBACK = "127.0.0.1"
PORTS = WEIGHTS = 65535
NO_HOST = " ,/[]"  # characters that no address and no host name has


class FileSource(Source):
    """The file is read once, at the first `read`. Raises ConfigError with file and line of what is wrong."""

    where = "in SVCINIT_SOURCE"
    token_hint = ""
    may_lose_data = False  # a person emptied it

    def __init__(self, settings: Settings) -> None:
        self._path, self._domain = settings.source or "", settings.domain
        self._stamp: str | None = None
        self.kv: dict[str, bytes] = {}  # by full name
        self.services: dict[str, list[Instance]] = {}

    def read(self, wanted: InputId) -> Answer:
        self.load()
        if wanted.kind == Kind.KV:
            folder = f"{wanted.name}/" if wanted.name else ""
            return Answer({key: value for key, value in self.kv.items() if key.startswith(folder)}, time.time())
        if wanted.kind in OF_VAULT:
            return Answer(self._secrets(wanted), time.time())
        if wanted.kind == Kind.KEY:
            return Answer({key: self.kv[key] for key in (wanted.name,) if key in self.kv}, time.time())
        return Answer(self._peers(wanted) if wanted.kind == Kind.PEERS else self._catalog(wanted), time.time())

    def none_found(self, _kind: str) -> str:
        return "SVCINIT_SOURCE has none"

    def agent(self) -> dict[str, str]:
        return {"node": os.uname().nodename, "address": LOOPBACK}

    def versions(self, _answers: Mapping[InputId, Answer]) -> dict[InputId, str]:
        self.load()
        return {InputId(Kind.FILE, self._path): self._stamp or ""}

    def load(self) -> None:
        if self._stamp is None:
            self._stamp = stamp(self._path)  # first: a change during the read is seen later
            self.kv, self.services = read(self._path)

    def instances(self, name: str) -> list[Instance]:
        return self.services.get(name) or self.services.get(name.removesuffix(QUERY)) or []

    def _catalog(self, wanted: InputId) -> list[Any]:
        """Instances and services, as `agent/consul/questions.py` has them. Raises ConfigError for all else."""
        if wanted.kind == Kind.SERVICES:
            return [{"name": name, "tags": self._tags(name)} for name in sorted(self.services)]
        if wanted.kind != Kind.INSTANCES or "filter=" in (wanted.query or ""):
            what = "filter=" if wanted.kind == Kind.INSTANCES else wanted
            raise ConfigError(f"SVCINIT_SOURCE has no {what}: only Consul has", variable="SVCINIT_SOURCE")
        tag, where = (wanted.tag or "").lower(), wanted.dc or ""
        found = [
            {
                "id": f"{wanted.name}-{number}", "name": wanted.name,
                "address": each.peer.address, "port": each.peer.port,
                "node": each.peer.node, "node_id": "", "node_address": each.peer.address, "tags": sorted(each.tags),
                "meta": each.meta, "node_meta": {}, "status": "passing", "weight": each.weight, "checks": [],
                "dc": each.dc,
            }
            for number, each in enumerate(self.instances(wanted.name.lower()), 1)
            if each.is_for(tag, where)
        ]  # fmt: skip
        return sorted(found, key=lambda each: (each["address"], each["port"], each["id"]))

    def _secrets(self, wanted: InputId) -> list[Any]:
        """The fields of a secret of any version and arguments; or the names below a path."""
        known = _secrets(self._path)
        if wanted.kind != Kind.SECRETS:
            return [dict(known[wanted.name])] if wanted.name in known else []
        folder = f"{wanted.name}/"
        names = (name[len(folder) :] for name in known if name.startswith(folder))
        return sorted({f"{first}/" if slash else first for first, slash, _ in (name.partition("/") for name in names)})

    def _tags(self, name: str) -> list[str]:
        return sorted({tag for each in self.services[name] for tag in each.tags})

    def _peers(self, wanted: InputId) -> list[Peer]:
        name, dc, tag = wanted.name, wanted.dc, wanted.tag
        question_for(name, tag, dc, self._domain)  # a name that DNS cannot be asked for is an error here too
        name, tag = _name_and_tag(name.lower(), (tag or "").lower())
        return sorted({each.peer for each in self.instances(name) if each.is_for(tag, dc or "")})


def _name_and_tag(name: str, tag: str) -> tuple[str, str]:
    if name.endswith(QUERY):
        return name, ""
    if not name.startswith("_"):
        return name_and_tag(name, tag)
    name, _, tag = name[1:].partition("._")  # RFC 2782, where _tcp means any
    return name, "" if tag == "tcp" else tag


class Instance:
    """`tags` as they are written; `dc` in lower case, empty for the agent's own datacenter."""

    def __init__(
        self, peer: Peer, tags: Sequence[str] = (), dc: str = "", meta: Mapping[str, str] | None = None, weight: int = 1
    ) -> None:
        self.peer, self.tags, self.dc, self.meta, self.weight = peer, [*tags], dc.lower(), {**(meta or {})}, weight

    def is_for(self, tag: str, dc: str) -> bool:
        """Has it this tag ("": any), and is it in this datacenter? Both in lower case: Consul's DNS ignores case."""
        return (not tag or tag in [each.lower() for each in self.tags]) and dc == self.dc


def read(path: str) -> tuple[dict[str, bytes], dict[str, list[Instance]]]:
    """KV by full name, and the instances of each service. Raises ConfigError."""
    if os.path.isdir(path):
        return _directory(path)
    place, top = _load(path)
    level = top.value
    if not isinstance(level, dict) or set(level) - SECTIONS:
        raise place.wrong(top.line, "its top level: expected a mapping with `kv` and `services`")
    kv: dict[str, bytes] = {}
    if "kv" in level and not level["kv"].is_null:
        _flatten(level["kv"], "", kv, place)
    return kv, _services(level["services"], place) if "services" in level else {}


def environment(path: str) -> dict[str, str]:
    """The section `env` of a file, for `svcinitctl check`; svcinit itself ignores that section. Raises ConfigError."""
    if os.path.isdir(path):
        return {}
    place, top = _load(path)
    given = top.value.get("env") if isinstance(top.value, dict) else None
    if given is None or given.is_null:
        return {}
    if not isinstance(given.value, dict) or any(isinstance(node.value, dict | list) for node in given.value.values()):
        raise place.wrong(given.line, "env: expected a mapping of variables to values")
    return {str(name): node.text for name, node in given.value.items()}


def _secrets(path: str) -> dict[str, dict[str, str]]:
    """The section `secrets` of a file. Raises ConfigError."""
    place, top = _load(path) if not os.path.isdir(path) else (None, None)
    given = top.value.get("secrets") if place and top and isinstance(top.value, dict) else None
    if given is None or place is None:
        raise ConfigError("SVCINIT_SOURCE has no secrets; for those of Vault set VAULT_ADDR", variable="SVCINIT_SOURCE")
    if not isinstance(given.value, dict) or not all(_is_flat(each.value) for each in given.value.values()):
        raise place.wrong(given.line, "secrets: expected a mapping of paths to mappings of fields to texts")
    return {
        path.strip("/"): {name: field.text for name, field in each.value.items()}
        for path, each in given.value.items() if isinstance(each.value, dict)
    }  # fmt: skip


def stamp(path: str) -> str:
    """A text that changes when the source does: names, sizes and times of all its files."""
    found = []
    for folder, _, names in os.walk(path) if os.path.isdir(path) else [(os.path.dirname(path), [], [path])]:
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError:  # it is being replaced: the next call sees the new one
                continue
            found.append((folder, name, status.st_size, status.st_mtime_ns, status.st_ino))
    return repr(sorted(found))


def _load(path: str) -> tuple[Place, Node]:
    place = Place(f"SVCINIT_SOURCE: {path}", variable="SVCINIT_SOURCE", file=path)
    try:
        text = _content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise place.wrong(line, "expected UTF-8 (other bytes can be keys of a directory)") from None
    return place, parse(text, place, only_json=path.endswith(".json"))


def _content(path: str) -> bytes:
    try:
        return regular_file.read(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: OSError) -> ConfigError:
    return ConfigError(f"SVCINIT_SOURCE: {path} cannot be read: {error.strerror}", variable="SVCINIT_SOURCE", file=path)


def _flatten(node: Node, prefix: str, kv: dict[str, bytes], place: Place) -> None:
    if not isinstance(node.value, dict):
        raise place.wrong(node.line, "kv: expected a mapping of names to values or to further names")
    for name, below in node.value.items():
        key = prefix + name.strip("/")
        if key == prefix:
            raise place.wrong(below.line, f"kv: expected a name and found {name!r}")
        if isinstance(below.value, dict):
            _flatten(below, f"{key}/", kv, place)
        elif key in kv:
            raise place.wrong(below.line, f"kv: {key} is set twice")
        else:
            kv[key] = below.text.encode(errors="surrogatepass")


def _directory(path: str) -> tuple[dict[str, bytes], dict[str, list[Instance]]]:
    folder, lists = os.path.join(path, "kv"), list(_lists(path))
    if not os.path.isdir(folder) and not lists:
        raise ConfigError(
            f"SVCINIT_SOURCE: {path}: expected keys as files in kv/, or services.yaml, or both",
            variable="SVCINIT_SOURCE",
            file=path,
        )
    kv = {}
    for file in _files(folder) if os.path.isdir(folder) else ():
        kv[os.path.relpath(file, folder)] = _content(file).removesuffix(b"\n")  # editors add a line end
    found: dict[str, list[Instance]] = {}
    for file, name in lists:
        place, top = _load(file)
        for each, instances in _services(Node({name: top}, top.line) if name else top, place).items():
            if each in found:
                raise place.wrong(top.line, f"services: {each} is set in another file too")
            found[each] = instances
    return kv, found


def _lists(path: str) -> Iterator[tuple[str, str]]:
    """The files that list instances, each with the name of its service; empty if it contains several services."""
    for ending in ENDINGS:
        if os.path.exists(os.path.join(path, "services" + ending)):
            yield os.path.join(path, "services" + ending), ""
    folder = os.path.join(path, "services")
    for file in _files(folder) if os.path.isdir(folder) else ():
        name, ending = os.path.splitext(os.path.relpath(file, folder))
        if ending not in ENDINGS or "/" in name:
            message = f"SVCINIT_SOURCE: {file}: expected services/NAME with one of {', '.join(ENDINGS)}"
            raise ConfigError(message, variable="SVCINIT_SOURCE", file=file)
        yield file, name


def _files(folder: str) -> Iterator[str]:
    """The files below a folder, in order, without hidden ones and backups."""

    def fail(error: OSError) -> None:
        raise _unreadable(str(error.filename), error)

    for where, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and not name.endswith("~"):
                yield os.path.join(where, name)


def _services(node: Node, place: Place) -> dict[str, list[Instance]]:
    if node.is_null:
        return {}
    if not isinstance(node.value, dict):
        raise place.wrong(node.line, "services: expected a mapping of names to lists of instances")
    found = dict[str, list[Instance]]()
    for name, below in node.value.items():
        if name.lower() in found:
            raise place.wrong(below.line, f"services: {name} is set twice: case makes no difference")
        if not isinstance(below.value, list) and not below.is_null:
            raise place.wrong(below.line, f"services.{name}: expected a list of instances")
        each = enumerate(below.value if isinstance(below.value, list) else ())
        found[name.lower()] = [_instance(one, place, f"services.{name}[{index}]") for index, one in each]
    return found


def _instance(node: Node, place: Place, where: str) -> Instance:
    given = node.value
    if isinstance(given, str) and not node.is_null:
        try:
            host, port = host_port(given, 0)
        except ValueError:
            host, port = "", 0
        if not _is_host(host):
            raise place.wrong(node.line, f"{where}={given!r}: expected {INSTANCE}")
        return Instance(Peer(host, host, port, ""))
    if not isinstance(given, dict) or "address" not in given:
        raise place.wrong(node.line, f"{where}: expected {INSTANCE}")
    for name, field in given.items():
        _check_field(name, field, place, where)
    text = {name: field.text for name, field in given.items()}
    tags = given["tags"].value if "tags" in given else []
    meta = given["meta"].value if "meta" in given else None
    peer = Peer(text["address"], text["address"], int(text.get("port") or 0), text.get("node", ""))
    return Instance(
        peer,
        [tag.text for tag in tags or () if isinstance(tag, Node)],
        text.get("dc", ""),
        {name: each.text for name, each in meta.items()} if isinstance(meta, dict) else None,
        int(text.get("weight") or 1),
    )


def _check_field(name: str, field: Node, place: Place, where: str) -> None:
    if name not in FIELDS:
        raise place.wrong(field.line, f"{where}: {name!r}: expected one of {', '.join(FIELDS)}")
    if field.is_null and name != "address":
        return
    is_right, expected = {
        "address": (_is_host(field.text), "an IP address or a host name"),
        "port": (_is_port(field.value), f"a port from 0 to {PORTS}"),
        "tags": (_is_list(field.value), "a list of tags"),
        "meta": (_is_flat(field.value), "a mapping of names to texts"),
        "weight": (_is_port(field.value) and field.value != "0", f"a number from 1 to {WEIGHTS}"),
    }.get(name, (isinstance(field.value, str), "text"))
    if not is_right:
        raise place.wrong(field.line, f"{where}.{name}: expected {expected}")


def _is_list(given: object) -> bool:
    return isinstance(given, list) and not any(each.is_null or isinstance(each.value, dict | list) for each in given)


def _is_flat(given: object) -> bool:
    return isinstance(given, dict) and not any(isinstance(each.value, dict | list) for each in given.values())


def _is_host(given: object) -> bool:
    return isinstance(given, str) and bool(given) and given.isprintable() and not set(given) & set(NO_HOST)


def _is_port(given: object) -> bool:
    return isinstance(given, str) and given.isascii() and given.isdigit() and len(given) <= 5 and int(given) <= PORTS
