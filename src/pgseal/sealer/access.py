"""Who may read and write files: by owner, mode and POSIX ACL, parent directories included. Reads only.

What a process may do by capabilities (root may do everything), and what a mount or a security module forbids, is not
looked at.
"""

import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_READ, _WRITE, _SEARCH = 4, 2, 1
_ACL = "system.posix_acl_access"
_ACL_VERSION = 2
# Tags of an ACL's entries, acl(5): struct posix_acl_xattr_entry in linux/posix_acl_xattr.h.
_USER, _OWN_GROUP, _GROUP, _MASK = 0x02, 0x04, 0x08, 0x10
_PEER = struct.Struct("3i")  # struct ucred of SO_PEERCRED: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine, with all groups."""

    uid: int
    gids: frozenset[int]

    @property
    def name(self) -> str:
        """The name, or the number where there is none."""
        with suppress(KeyError):
            return pwd.getpwuid(self.uid).pw_name
        return f"uid {self.uid}"


def read_account(uid: int) -> Account:
    """Return a user with the groups that a login of it has."""
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return Account(uid, frozenset())
    return Account(uid, frozenset(os.getgrouplist(found.pw_name, found.pw_gid)))


def find_server_account(descriptor: int, backend_pid: int) -> Account | None:
    """Return the user that a PostgreSQL server of this machine runs as; None if it cannot be told.

    Args:
        descriptor: of the connection's socket; a local one knows who listens at its other end.
        backend_pid: the process that serves the connection, as the server calls it. Over TCP it is looked for here,
            which a server in a container of its own evades.
    """
    with socket.socket(fileno=os.dup(descriptor)) as own:
        if own.family == socket.AF_UNIX:
            peer = own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            return read_account(_PEER.unpack(peer)[1])
    with suppress(OSError):
        process = Path("/proc") / str(backend_pid)
        if (process / "comm").read_text("utf-8", "replace").strip() in {"postgres", "postmaster"}:
            return read_account(process.stat().st_uid)
    return None


def is_own_address(address: str) -> bool:
    """Return whether an IP address is one of this machine's: only those can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def find_writable(path: Path, account: Account) -> Path | None:
    """Return by what ``account`` may change what is at ``path``: itself, or a directory that leads to it; or None.

    Who may write to a directory may put another one in the place of what is in it; in a sticky one, only its owner's.
    """
    path = path.resolve()
    if _may(path, account, _WRITE) and _may_reach(path, account):
        return path
    child = path
    for parent in path.parents:
        if _may(parent, account, _WRITE | _SEARCH) and _may_reach(parent, account):
            found = parent.stat()
            owners = {found.st_uid, child.lstat().st_uid}
            if not found.st_mode & stat.S_ISVTX or account.uid in owners:
                return parent
        child = parent
    return None


def is_readable(path: Path, account: Account) -> bool:
    """Return whether ``account`` may read the file at ``path``."""
    path = path.resolve()
    return _may(path, account, _READ) and _may_reach(path, account)


def find_others(path: Path, wanted: str) -> list[str]:
    """Name who besides its owner may ``read`` or ``write`` the file at ``path``, its directories not looked at."""
    bit = {"read": _READ, "write": _WRITE}[wanted]
    found = path.stat()
    names = [f"user {_name_user(number)}" for tag, perm, number in _acl(path) if tag == _USER and perm & bit]
    names += [f"group {_name_group(number)}" for tag, perm, number in _acl(path) if tag == _GROUP and perm & bit]
    # With an ACL the group's bits are its mask: an upper limit, and worth telling all the same.
    if found.st_mode & (bit << 3):
        names.append(f"group {_name_group(found.st_gid)}")
    if found.st_mode & bit:
        names.append("everybody")
    return names


def has_acl(path: Path) -> bool:
    """Return whether a file has an ACL beside its mode."""
    return any(_acl(path))


def _name_user(uid: int) -> str:
    return Account(uid, frozenset()).name


def _name_group(gid: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)


def _may_reach(path: Path, account: Account) -> bool:
    return all(_may(parent, account, _SEARCH) for parent in path.parents)


def _may(path: Path, account: Account, wanted: int) -> bool:
    """Apply the rules of acl(5), "access check algorithm"."""
    found = path.stat()
    if account.uid == 0:
        return True
    if account.uid == found.st_uid:
        return (found.st_mode >> 6) & wanted == wanted
    entries = list(_acl(path))
    mask = next((perm for tag, perm, _ in entries if tag == _MASK), 7)
    for tag, perm, number in entries:
        if tag == _USER and number == account.uid:
            return perm & mask & wanted == wanted
    is_member = False
    groups = [(perm & mask, number) for tag, perm, number in entries if tag == _GROUP]
    # With an ACL the mode's bits of the group are its mask.
    own = next((perm for tag, perm, _ in entries if tag == _OWN_GROUP), found.st_mode >> 3)
    for perm, number in [(own & mask, found.st_gid), *groups]:
        if number in account.gids:
            is_member = True
            if perm & wanted == wanted:
                return True
    return not is_member and found.st_mode & wanted == wanted


def _acl(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield (tag, permissions, number) of each entry of a file's ACL; nothing where it has none."""
    try:
        raw = os.getxattr(path, _ACL)
    except OSError:
        return
    if len(raw) < 4 or struct.unpack_from("<I", raw)[0] != _ACL_VERSION:  # noqa: PLR2004 - the header's size
        return
    yield from struct.iter_unpack("<HHI", raw[4:])
