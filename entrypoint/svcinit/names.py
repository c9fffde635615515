"""Names of users, hosts and parts of DNS names, as settings, templates and services write them: one reader for each."""

from __future__ import annotations

import posix  # not `os`: its import costs every container start 1 ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    User = tuple[int, int, tuple[int, ...], Mapping[str, str]]  # uid, gid, all groups, environment

CAP_KILL = 5  # capabilities(7)
ADDRESSABLE = "without an empty part, '.' or '..' between slashes, which Consul's HTTP API takes out"
LABEL = 63  # characters, at most, in a part of a name in DNS (RFC 1035, 2.3.4)


def is_label(text: str) -> bool:
    """Can `text` be a part of a name in DNS (RFC 1035, 2.3.4), or in Consul's DNS, which has underscores too?"""
    return text.isascii() and text.replace("-", "").replace("_", "").isalnum() and len(text) <= LABEL


def is_addressable(path: str) -> bool:
    """Can a path of an HTTP API contain `path`? HTTP clients and servers take out empty parts, `.` and `..`."""
    return all(part not in ("", ".", "..") for part in path.split("/"))


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """At most `most` of the known names that a misspelt `name` may stand for, the best one first."""
    import difflib  # only an error pays for the import

    return difflib.get_close_matches(name, sorted(known), most)


def split_host_port(raw: str) -> tuple[str, str]:
    """The text of the host, and that of the port: either may be empty or wrong."""
    if raw.startswith("["):
        host, _, rest = raw[1:].partition("]")
        return host, rest.removeprefix(":")
    if raw.count(":") > 1:
        return raw, ""
    host, _, number = raw.partition(":")
    return host, number


def endpoint(host: str, number: object) -> str:
    """HOST:PORT, with brackets around an IPv6 address (RFC 3986, 3.2.2)."""
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


class Account:
    """A user: `gid` is None if neither GROUP nor the user database names a group; `name` is "" without an entry."""

    __slots__ = ("gid", "home", "name", "uid")

    def __init__(self, uid: int, gid: int | None, home: str, name: str) -> None:
        self.uid, self.gid, self.home, self.name = uid, gid, home, name


def account(raw: str) -> Account:
    """USER[:GROUP], names or numbers. A number need not be in the user database. Raises ValueError."""
    import pwd

    who, colon, group = raw.partition(":")
    if not who or (colon and not group):
        raise ValueError("expected USER or USER:GROUP")
    number = _id(who)
    try:
        entry = pwd.getpwnam(who) if number is None else pwd.getpwuid(number)
        found = Account(entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_name)
    except KeyError:
        if number is None:
            raise ValueError(f"there is no user {who!r} in this image") from None
        found = Account(number, None, "/", "")
    if group:
        found.gid = _group(group)
    return found


def _group(group: str) -> int:
    import grp

    number = _id(group)
    try:
        return grp.getgrnam(group).gr_gid if number is None else number
    except KeyError:
        raise ValueError(f"there is no group {group!r} in this image") from None


def _id(text: str) -> int | None:
    """A uid or gid in digits. chown(2) takes the largest 32-bit number for "unchanged"."""
    digits = text.isascii() and text.isdigit() and len(text) <= 10
    return int(text) if digits and int(text) < 2**32 - 1 else None


def user(raw: str) -> User:
    """USER[:GROUP] to (uid, gid, supplementary gids, {HOME, USER, LOGNAME}), as gosu and su-exec resolve it.

    With a GROUP given there are no supplementary groups; a number need not be in the user database.
    """
    found = account(raw)
    uid, gid, home, name = found.uid, found.gid or 0, found.home, found.name
    groups = {gid, *posix.getgrouplist(name, gid)} if name and ":" not in raw else {gid}
    if posix.geteuid() and (uid, gid) != (posix.geteuid(), posix.getegid()):
        raise ValueError("svcinit does not run as root here, so it cannot become another user")
    if uid and not posix.geteuid() and not has_capability(CAP_KILL):
        raise ValueError("the container lacks CAP_KILL, so svcinit could not signal what runs as that user")
    return uid, gid, tuple(sorted(groups)), {"HOME": home, "USER": name, "LOGNAME": name} if name else {"HOME": home}


def has_capability(bit: int) -> bool:
    """Is this capability in the effective set (proc(5), CapEff)? True if /proc cannot be read."""
    try:
        with open("/proc/self/status") as file:
            sets = dict(line.split(":", 1) for line in file if line.startswith("CapEff"))
    except OSError:
        return True
    return bool(int(sets.get("CapEff", "-1"), 16) >> bit & 1)


def host_of(address: str) -> str:
    """The host that CONSUL_HTTP_ADDR names."""
    if address.startswith("unix://"):
        return "127.0.0.1"
    place = address.split("://")[-1].split("/")[0].rpartition("@")[2]  # a user name is no part of the host
    return split_host_port(place)[0]
