"""Who else can read or replace a file that this process relies on. Problems are texts to put after the file's name.

Two kinds of files. A *secret* (keys, tokens, the database with what lies beside it) is for this process alone: it could
be read, or another put in its place. A *public* one (config, roots, deny lists, public keys) may be read by everybody,
and decides whom to believe: it must not be everybody's to write, nor belong to a stranger. (To which group it may be
given is the operator's to say: config management and teams work so.)

What real deployments look like, and is let through:
- Kubernetes mounts a Secret as links through `..data`, owned by root, readable by the pod's `fsGroup`, on a file system
  that is mounted read-only. A ConfigMap's folder is 0777, and read-only too. On what is mounted read-only for us, owners
  and folders are not looked at: whoever mounted it decides, and nobody here replaces anything.
- Kubernetes gives a volume to `fsGroup` (root:fsGroup, 2775): a folder may be written by a group of this process.
- systemd lets its service in to credentials by an ACL, which shows as a group's right.
- root reads everything, and runs commands over the service user's files: for it, any owner will do.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from broker import process

_ROOT = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Us:
    """As whom this process opens files."""

    user: int
    groups: frozenset[int]

    def trusts(self, owner: int) -> bool:
        """An owner can always change the mode, so ownership is the right to write."""
        return self.user == _ROOT or owner in (_ROOT, self.user)

    def is_ours(self, group: int, owner: int) -> bool:
        """A group of this process; for root also the own group of a service user."""
        if self.user == _ROOT and _group_of(owner) == group:
            return True
        return group in self.groups


def us() -> Us:
    """This process."""
    return Us(user=os.geteuid(), groups=frozenset({os.getegid(), *os.getgroups()}))


def secret_problem(path: Path, who: Us | None = None) -> str | None:
    """Why an existing file is no secret, and what to do about it; None when it is one. Raises OSError."""
    who = who or us()
    held = path.stat()
    mode, fixed = stat.S_IMODE(held.st_mode), _is_read_only(path)
    group_reads = mode & stat.S_IRWXG
    if path.parent == process.credentials_directory() or _handed_in(held, who, fixed=fixed):
        group_reads &= ~stat.S_IRGRP
    if mode & stat.S_IRWXO or group_reads:
        hint = " (in Kubernetes: defaultMode 0400, and fsGroup for the pod)" if fixed else ""
        return f"can be read by others; run chmod 600 {path}{hint}"
    return None if fixed else _owner_problem(path, held, who) or private_folder_problem(path, who)


def problem_if_there(path: Path) -> str | None:
    """The same of a file that need not exist; what cannot even be looked at is a problem too."""
    try:
        return secret_problem(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"


def public_problem(path: Path, who: Us | None = None) -> str | None:
    """Why an existing file cannot be believed, and what to do about it. Raises OSError."""
    who = who or us()
    held = path.stat()
    if stat.S_IMODE(held.st_mode) & stat.S_IWOTH:
        return f"can be written by everybody; run chmod o-w {path}"
    return None if _is_read_only(path) else _owner_problem(path, held, who) or _open_folder_problem(path)


def private_folder_problem(path: Path, who: Us | None = None) -> str | None:
    """Who could put another file in this one's place, whether it is there or not. Raises OSError."""
    who = who or us()
    problem = _open_folder_problem(path)
    if problem is not None:
        return problem
    for folder, held in _folders(path):
        mode = held.st_mode
        if not who.trusts(held.st_uid):
            return f"is in a folder of user {held.st_uid}, who can replace it; run chown {who.user} {folder}"
        if mode & stat.S_IWGRP and not mode & stat.S_ISVTX and not who.is_ours(held.st_gid, held.st_uid):
            return f"is in a folder that group {held.st_gid} can write to; run chmod g-w {folder}"
    return None


def _handed_in(held: os.stat_result, who: Us, *, fixed: bool) -> bool:
    """As Kubernetes does it: root's, for our group to read, and for nobody to change."""
    return fixed and held.st_uid == _ROOT and held.st_gid in who.groups


def _owner_problem(path: Path, held: os.stat_result, who: Us) -> str | None:
    if who.trusts(held.st_uid):
        return None
    return f"belongs to user {held.st_uid}, who can change it; run chown {who.user} {path}, or mount it read-only"


def _open_folder_problem(path: Path) -> str | None:
    """Where a folder is sticky, everybody can replace what is theirs, and nothing else."""
    for folder, held in _folders(path):
        if held.st_mode & stat.S_IWOTH and not held.st_mode & stat.S_ISVTX:
            return f"is in a folder that everybody can write to; run chmod o-w {folder}"
    return None


def _folders(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """That of the name, and that of the file which the name leads to; without those that are mounted read-only."""
    for folder in dict.fromkeys((path.parent, path.resolve().parent)):
        if not _is_read_only(folder):
            yield folder, folder.stat()


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _group_of(user: int) -> int | None:
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:  # a user of a container, or of none
        return None
