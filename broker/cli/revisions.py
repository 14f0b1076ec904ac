"""A scope map's files as a git revision has them. Read by `git cat-file`: no shell, no checkout, no filters."""

from __future__ import annotations

import os
import posixpath
import subprocess
from dataclasses import dataclass
from pathlib import Path

from broker.policy.language.files import MAX_BYTES, NotTrusted
from broker.policy.problems import show

_TIMEOUT_S = 10  # of one call of git; objects of a clone on a slow disk
# Nothing is asked of a person or of another host: a partial clone says that it has no such file.
_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}


class GitError(Exception):
    """There is no such revision, or no git. Its text is for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GitRevision:
    """One commit of the repository that `at` is in; names are relative to `folder` inside it."""

    at: Path
    commit: str
    label: str  # as people wrote it
    folder: str  # "" = the top of the repository

    def read(self, name: str) -> bytes:
        """As `Files`."""
        path = self._path(name)
        size = _git(self.at, "cat-file", "-s", f"{self.commit}:{path}")
        if size is None:
            raise FileNotFoundError(path)
        if int(size) > MAX_BYTES:
            return b" " * (MAX_BYTES + 1)
        found = _git(self.at, "cat-file", "blob", f"{self.commit}:{path}")
        if found is None:
            raise IsADirectoryError(path)
        return found

    def shown(self, name: str) -> str:
        """Revision and path, as git writes them."""
        return f"{self.label}:{posixpath.normpath(posixpath.join(self.folder, name))}"

    def _path(self, name: str) -> str:
        path = posixpath.normpath(posixpath.join(self.folder, name))
        if path.startswith(("/", "../")) or path == "..":
            raise NotTrusted("lies outside of the repository")
        return path


def open_revision(revision: str, path: str, at: Path) -> tuple[GitRevision, str]:
    """The files beside `path` in a revision, and the name of that one. Raises GitError."""
    if _git(at, "rev-parse", "--git-dir") is None:
        raise GitError(f"{at} is in no git repository; run this inside the one that holds the map")
    commit = _git(at, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise GitError(f"there is no revision {show(revision)}")
    if path.startswith(("./", "../")):  # as git itself: from here, else from the top
        prefix = (_git(at, "rev-parse", "--show-prefix") or b"").decode("utf-8", "surrogateescape").strip()
        path = posixpath.join(prefix, path)
    path = posixpath.normpath(path)
    folder, name = posixpath.split(path)
    return GitRevision(at=at, commit=commit.decode("ascii").strip(), label=revision, folder=folder), name


def _git(at: Path, *arguments: str) -> bytes | None:
    """What it prints; None when it says no. Raises GitError where there is no answer."""
    try:
        done = subprocess.run(  # noqa: S603 - no shell; revisions come after --end-of-options, paths after the commit
            ["git", "-C", str(at), *arguments],  # noqa: S607 - the git of whoever calls
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, **_ENVIRONMENT},
        )
    except subprocess.TimeoutExpired:
        raise GitError(f"git did not answer within {_TIMEOUT_S} seconds") from None
    except OSError as error:
        raise GitError(f"git cannot be run ({error.strerror}); install it, or name two files") from None
    return done.stdout if done.returncode == 0 else None
