"""Extended attributes and POSIX ACLs of a file that a rename replaces. Standard library only.

The new file is another inode and has none of the attributes of the old one (xattr(7), acl(5)), so they are copied.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    Attributes = dict[str, bytes | None]  # None: the value cannot be read

ACL = "system.posix_acl_access"
# The kernel drops these when the content changes, or they are a signature of the content.
_OF_CONTENT = "security.capability", "security.ima", "security.evm"
# posix_acl_xattr_header and posix_acl_xattr_entry of linux/posix_acl_xattr.h: version; tag, permissions, id
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20


def read(descriptor: int) -> Attributes:
    """All extended attributes of an open file; none where the file system has no such attributes."""
    try:
        names = os.listxattr(descriptor)
    except OSError:
        return {}
    found: Attributes = {}
    for name in names:
        try:
            found[name] = os.getxattr(descriptor, name)
        except OSError:
            found[name] = None
    return found


def write(descriptor: int, wanted: Attributes, mode: int) -> list[str]:
    """Give an open file exactly these attributes; return the names of those that it cannot have.

    mode: the mode that the file shall have. The entries of the ACL follow it, as with chmod(2), in the same step: the
    file is never open to more users than at the end. Raises OSError where an ACL that the directory gave to the file
    (a default ACL) cannot be removed.
    """
    here = read(descriptor)
    if ACL in here and ACL not in wanted:
        os.removexattr(descriptor, ACL)
    names = sorted(wanted, key=lambda name: name == ACL)  # the ACL last: its mode may forbid to set the others
    return [name for name in names if here.get(name) != wanted[name] and not _set(descriptor, name, wanted[name], mode)]


def mode_without_acl(attributes: Attributes, mode: int) -> int:
    """The mode for the same file without its ACL. The group bits of a file with an ACL are the mask of the ACL: without
    the ACL the group must not get more than its own entry allows."""
    acl = attributes.get(ACL)
    if acl is None:
        return mode
    group = next((permissions for tag, permissions, _ in _entries(acl) if tag == _GROUP_OBJ), 0)
    return mode & (~0o070 | group << 3)


def _set(descriptor: int, name: str, value: bytes | None, mode: int) -> bool:
    if value is None or name in _OF_CONTENT:
        return False
    try:
        os.setxattr(descriptor, name, _with_mode(value, mode) if name == ACL else value)
    except OSError:
        return False
    return True


def _with_mode(acl: bytes, mode: int) -> bytes:
    """The ACL after a chmod(2): the owner, the mask (or the group if there is no mask) and all others get new bits."""
    entries = _entries(acl)
    group = _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ
    bits = {_USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, _OTHER: mode & 7}
    return acl[: _HEADER.size] + b"".join(_ENTRY.pack(tag, bits.get(tag, old), who) for tag, old, who in entries)


def _entries(acl: bytes) -> list[tuple[int, int, int]]:
    return [_ENTRY.unpack_from(acl, at) for at in range(_HEADER.size, len(acl) - _ENTRY.size + 1, _ENTRY.size)]
