"""From files to a ScopeMap, or to every reason why not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from broker.errors import unreadable
from broker.model import ScopeKind
from broker.policy.compile import compile_map
from broker.policy.document import read_document
from broker.policy.files import Files, Folder, Memory, NotTrusted, Remembered
from broker.policy.problems import Problem, ScopeMapError
from broker.policy.scope_map import ScopeMap


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A map, and what it was made of."""

    map: ScopeMap
    contents: Mapping[str, bytes]  # name → bytes of every file that is in force
    refused: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)  # team → why its new file is not in force


def load_files(
    files: Files,
    root: str,
    kinds: Mapping[str, ScopeKind],
    *,
    environment: str | None = None,
    trust_domain: str | None = None,
    kept: Mapping[str, bytes] | None = None,  # noqa: ARG001 - teams come next
) -> Loaded:
    """Read and compile a map with all of its files; `environment` and `trust_domain`, when given, must be its own.

    `kept`: the last good contents. Where it is given, a team's bad file fails alone: its kept one is taken in its place
    when that is good by today's bounds, else the team has nothing; `refused` says why. Without it one bad file refuses all.
    Blocking: seconds for a map near the size limit. Raises ScopeMapError.
    """
    seen = Remembered(files=files)
    shown = files.shown(root)
    try:
        raw = seen.read(root)
    except OSError as error:
        message = str(error) if isinstance(error, NotTrusted) else unreadable(error)
        raise ScopeMapError([Problem(file=shown, line=1, column=1, message=message)]) from None
    document = read_document(raw, shown)
    scope_map = compile_map(document, digest_of(seen.contents), kinds)
    problems = [
        document.problem((key,), f"this is a map for {found!r}; the broker serves {expected!r}")
        for key, found, expected in (
            ("environment", scope_map.environment, environment),
            ("trust_domain", scope_map.trust_domain, trust_domain),
        )
        if expected is not None and found != expected
    ]
    if problems:
        raise ScopeMapError(problems)
    return Loaded(map=scope_map, contents=seen.contents)


def digest_of(contents: Mapping[str, bytes]) -> str:
    """SHA-256 (hex) over the names and contents of all files."""
    total = hashlib.sha256()
    for name in sorted(contents):
        for part in (name.encode(), contents[name]):
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def load(
    path: Path, kinds: Mapping[str, ScopeKind], *, environment: str | None = None, trust_domain: str | None = None
) -> ScopeMap:
    """A map on disk, all of its files good. Raises ScopeMapError."""
    folder = Folder(path=path.parent)
    return load_files(folder, path.name, kinds, environment=environment, trust_domain=trust_domain).map


def parse(
    text: bytes | str,
    file: str,
    kinds: Mapping[str, ScopeKind],
    *,
    environment: str | None = None,
    trust_domain: str | None = None,
) -> ScopeMap:
    """A map of one file, from its text; `file` is the name used in positions. Raises ScopeMapError."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return load_files(Memory(contents={file: raw}), file, kinds, environment=environment, trust_domain=trust_domain).map
