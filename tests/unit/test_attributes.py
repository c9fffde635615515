"""Extended attributes, ACLs and hard links of a file that a template replaces: kept, or their loss is logged."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from places import NOBODY, mode_of, needs_root, put
from svcinit import log
from svcinit.agent.files import attributes, journal
from svcinit.agent.files.commit import commit, rollback, rollback_record
from svcinit.agent.files.replacement import Replacement, state_of
from svcinit.agent.templates.render import Rendered

Events = list[tuple[str, dict[str, Any]]]
UNDEFINED = 0xFFFFFFFF
FRIEND = 1234


def acl(user: int, friend: int, group: int, mask: int, other: int) -> bytes:
    """Permissions as digits, of which `friend` is those of uid FRIEND."""
    entries = (
        (1, user, UNDEFINED),
        (2, friend, FRIEND),
        (4, group, UNDEFINED),
        (16, mask, UNDEFINED),
        (32, other, UNDEFINED),
    )
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def supports(folder: Path) -> bool:
    probe = put(folder / "probe")
    try:
        os.setxattr(probe, "user.probe", b"1")
        os.setxattr(probe, attributes.ACL, acl(6, 4, 0, 4, 0))
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    if not supports(tmp_path):
        pytest.skip("the file system has no extended attributes or no ACLs")
    path = put(tmp_path / "etc/app.ini", mode=0o640)
    os.setxattr(path, "user.owner", b"team \0 a")
    os.setxattr(path, attributes.ACL, acl(6, 6, 4, 6, 0))
    return path


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    seen: Events = []
    monkeypatch.setattr(log, "warning", lambda event, _, **fields: seen.append((event, fields)))
    return seen


def of(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def test_attributes_and_the_acl_of_a_replaced_file_are_kept(file: Path, events: Events) -> None:
    before, inode = of(file), file.stat().st_ino
    commit([Rendered(str(file), b"new")])
    assert (file.read_bytes(), of(file), mode_of(file)) == (b"new", before, 0o660)
    assert file.stat().st_ino != inode
    assert events == []


def test_the_mode_of_a_template_applies_to_the_acl_as_with_chmod(file: Path) -> None:
    commit([Rendered(str(file), b"new", 0o400)])
    assert mode_of(file) == 0o400
    assert of(file)[attributes.ACL] == acl(4, 6, 4, 0, 0)


def test_the_staged_file_is_never_open_to_more_users_than_the_finished_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    setxattr = os.setxattr

    def seen(fd: int, name: str, value: bytes) -> None:
        setxattr(fd, name, value)
        modes.append(os.fstat(fd).st_mode & 0o777)

    monkeypatch.setattr(os, "setxattr", seen)
    commit([Rendered(str(file), b"new", 0o400)])
    assert modes == [0o600, 0o400]


def test_a_rollback_restores_attributes_and_acl_even_of_a_file_that_is_gone(file: Path) -> None:
    before = of(file)
    record = rollback_record(commit([Rendered(str(file), b"new", 0o400)]))
    rollback(record)
    assert (file.read_bytes(), of(file), mode_of(file)) == (b"old", before, 0o660)
    file.unlink()
    rollback(record)
    assert (file.read_bytes(), of(file), mode_of(file)) == (b"old", before, 0o660)


def test_a_killed_commit_is_rolled_back_with_its_attributes(file: Path) -> None:
    before = of(file)
    now = state_of(str(file))
    assert now
    record = journal.Record([journal.Original(str(file), now, journal.digest(b"new"))], [])
    file.unlink()
    assert journal.restore(journal.load(record.dump()).originals) == []
    assert (of(file), mode_of(file)) == (before, 0o660)


def test_a_default_acl_of_the_directory_is_for_new_files_only(file: Path) -> None:
    plain = put(file.parent / "plain.ini", mode=0o640)
    os.setxattr(file.parent, "system.posix_acl_default", acl(7, 7, 5, 7, 0))
    commit([Rendered(str(plain), b"new"), Rendered(f"{file.parent}/new.ini", b"new", 0o640)])
    assert of(plain) == {}
    assert of(file.parent / "new.ini")[attributes.ACL] == acl(6, 7, 5, 4, 0)


@needs_root
def test_the_former_owner_cannot_keep_access_by_an_acl(file: Path, events: Events) -> None:
    os.chown(file, FRIEND, FRIEND)
    commit([Rendered(str(file), b"secret", owner=(0, 0))])
    assert (of(file), mode_of(file)) == ({"user.owner": b"team \0 a"}, 0o640)
    assert events == [("attributes_lost", {"file": str(file), "names": attributes.ACL})]


@needs_root
def test_what_cannot_be_kept_is_logged_by_name(file: Path, events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    os.setxattr(file, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "setxattr", full)
    commit([Rendered(str(file), b"new")])
    assert (of(file), mode_of(file)) == ({}, 0o640)  # the group does not get what the mask allowed to others
    ((event, fields),) = events
    assert (event, fields["file"]) == ("attributes_lost", str(file))
    assert set(fields["names"].split(", ")) == {"user.owner", "security.capability", attributes.ACL}


def test_a_loss_that_did_not_happen_is_not_logged(file: Path, events: Events) -> None:
    os.link(file, file.parent / "link")
    with pytest.raises(Exception, match="was not accepted"):
        commit([Rendered(str(file), b"new", check="false {}")])
    assert events == []


def test_other_hard_links_keep_the_old_content_and_that_is_logged(file: Path, events: Events) -> None:
    os.link(file, file.parent / "link")
    commit([Rendered(str(file), b"new")])
    assert (file.read_bytes(), (file.parent / "link").read_bytes()) == (b"new", b"old")
    assert events == [("hard_links_separated", {"file": str(file), "links": 2})]


@needs_root
def test_a_user_without_rights_keeps_what_that_user_may_set(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    if not supports(folder):
        pytest.skip("the file system has no extended attributes or no ACLs")
    path = put(folder / "app.ini", mode=0o440)
    os.setxattr(path, "user.owner", b"a")
    os.setxattr(path, attributes.ACL, acl(4, 4, 0, 4, 0))
    for each in (tmp_path, *(parent for parent in tmp_path.parents if parent.stat().st_mode & 0o777 == 0o700)):
        os.chmod(each, 0o755)
    os.chown(folder, NOBODY, NOBODY)
    os.chown(path, NOBODY, NOBODY)
    before = of(path)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            commit([Rendered(str(path), b"new")])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (path.read_bytes(), of(path), mode_of(path)) == (b"new", before, 0o440)


def test_a_file_written_without_attributes_asked_for_is_left_as_the_directory_makes_it(file: Path) -> None:
    new = Replacement(f"{file.parent}/own", b"x", 0o600, None)
    new.stage()
    new.install()
    new.discard()
    assert of(file.parent / "own") == {}
    assert new.lost == []
