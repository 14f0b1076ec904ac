"""A scope map's files on disk: read as a whole, checked, and looked at again for changes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from broker.log import get_logger
from broker.model import ScopeKind
from broker.policy.language.files import Files, Folder, Memory, NotTrusted
from broker.policy.language.load import Loaded, load_files
from broker.policy.live.manifests import Signed, Verifier
from broker.policy.problems import Problem, ScopeMapError
from broker.policy.scope_map import ScopeMap
from broker.policy.signing import Seen
from broker.store.base import KeptMap

log = get_logger(__name__)

Marks: TypeAlias = Mapping[str, str]  # name → SHA-256 of what was read, or why it could not be
KEEPS_CHANGING = "keeps changing while it is read; write it beside and move it into its place"
_LINKS = 40  # followed in one path, as Linux does


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A good map that is not yet in force."""

    loaded: Loaded
    signed: Signed | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One reading of all files, and what came of it."""

    marks: Marks
    result: Candidate | ScopeMapError


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where the map comes from. Every method blocks."""

    path: Path
    kinds: Mapping[str, ScopeKind]
    environment: str | None = None
    trust_domain: str | None = None
    federations: Collection[str] | None = None  # further trust domains that the broker takes; None: whichever
    verifier: Verifier | None = None

    def read(
        self,
        *,
        kept: Mapping[str, bytes] | None,
        now: datetime,
        seen: Seen | None,
        old: ScopeMap | None,
        restless: Collection[str] = (),
    ) -> Reading:
        """Read and compile, each file once. Whatever goes wrong is a refusal (I7); seconds for a map near the size limit.

        `kept`: the contents in force, for teams whose new file is bad; None: then all is refused, as a signed map always is.
        `seen`: the newest manifest that was ever in force. `old`: the map in force.
        `restless`: files that are refused, whatever they hold.
        """
        files = _Noted(files=_Without(files=self._folder, names=restless))
        result: Candidate | ScopeMapError
        try:
            result = self._candidate(files, self.path.name, kept=kept, now=now, seen=seen)
            if self.verifier is not None and result.signed is not None:
                self.verifier.must_allow(result.signed, old=old, new=result.loaded.map, now=now)
        except ScopeMapError as error:
            result = error
        except Exception:  # a mistake of ours must not end the watch, nor let a half-made map in
            log.exception("a scope map could not be read")
            result = self.refusal("could not be read, by a mistake of ours; the log has the rest")
        return Reading(marks=files.marks, result=result)

    def load(self, now: datetime) -> Loaded:
        """For tools: every file must be good. Whether its signers suffice for what it widens, only the daemon can tell.

        Raises ScopeMapError.
        """
        return self._candidate(self._folder, self.path.name, kept=None, now=now, seen=None).loaded

    def changed(self, marks: Marks) -> frozenset[str]:
        """Those of these files that no longer hold what they held."""
        files = _Noted(files=self._folder)
        for name in marks:
            files.look(name)
        return frozenset(name for name, mark in marks.items() if files.marks[name] != mark)

    def of_kept(self, kept: KeptMap) -> Candidate:
        """The last good map, by today's kinds, keys, environment and trust domain. Raises ScopeMapError.

        Its manifest had not run out when it was taken into force: that it has by now ends nothing that is in force. A team
        that had no good file then has none now.
        """
        contents = dict(kept.contents)
        if self.verifier is not None and kept.manifest:
            contents[self.verifier.manifest] = kept.manifest
        return self._candidate(
            Memory(contents=contents, label="kept:"), kept.root, kept={}, now=kept.loaded_at, seen=None
        )

    def folders(self, names: Collection[str]) -> frozenset[Path]:
        """Where something happens when one of these files changes, also behind links (Kubernetes swaps `..data`)."""
        found: set[Path] = set()
        for name in {self.path.name, *names}:
            found |= _folders(self.path.parent / name)
        return frozenset(folder for folder in found if os.path.isdir(folder))  # noqa: PTH112 - this one never raises

    def refusal(self, message: str) -> ScopeMapError:
        """About the map as a whole."""
        return ScopeMapError([Problem(file=str(self.path), line=1, column=1, message=message)])

    @property
    def _folder(self) -> Folder:
        return Folder(path=self.path.parent, guarded=True)

    def _candidate(
        self, files: Files, root: str, *, kept: Mapping[str, bytes] | None, now: datetime, seen: Seen | None
    ) -> Candidate:
        signed = self.verifier.check(files, root, now=now, seen=seen) if self.verifier is not None else None
        loaded = load_files(
            signed.files if signed else files,
            root,
            self.kinds,
            environment=self.environment,
            trust_domain=self.trust_domain,
            federations=self.federations,
            kept=None if signed else kept,
        )
        return Candidate(loaded=loaded, signed=signed)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Without:
    """Reads through what rests."""

    files: Files
    names: Collection[str]

    def read(self, name: str) -> bytes:
        """As `Files`."""
        if name in self.names:
            raise NotTrusted(KEEPS_CHANGING)
        return self.files.read(name)

    def shown(self, name: str) -> str:
        """As `Files`."""
        return self.files.shown(name)


@dataclass(kw_only=True, slots=True)
class _Noted:
    """Reads through, once for each name, and notes what came of it."""

    files: Files
    marks: dict[str, str] = field(default_factory=dict)
    _found: dict[str, bytes | OSError] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        """As `Files`."""
        if name not in self._found:
            self._found[name] = self._read(name)
        found = self._found[name]
        if isinstance(found, OSError):
            raise found
        return found

    def look(self, name: str) -> None:
        """Note it, whatever comes of it."""
        self.marks[name] = _mark(self._read(name))

    def shown(self, name: str) -> str:
        """As `Files`."""
        return self.files.shown(name)

    def _read(self, name: str) -> bytes | OSError:
        try:
            found: bytes | OSError = self.files.read(name)
        except OSError as error:
            found = error
        self.marks[name] = _mark(found)
        return found


def _mark(found: bytes | OSError) -> str:
    if isinstance(found, OSError):
        return str(found) if isinstance(found, NotTrusted) else f"errno {found.errno}"
    return hashlib.sha256(found).hexdigest()


def _folders(path: Path) -> set[Path]:
    """The folder that holds each link on the way to this file, and its own."""
    found: set[Path] = set()
    ahead = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow the links that are looked for
    with contextlib.suppress(OSError):  # a name that is too long, a link that was just replaced: as far as it goes
        for _ in range(_LINKS):
            link = next((part for part in [*reversed(ahead.parents), ahead] if part.is_symlink()), None)
            if link is None:
                break
            found.add(link.parent)
            ahead = Path(os.path.normpath(link.parent / link.readlink() / ahead.relative_to(link)))
    return found | {ahead.parent}
