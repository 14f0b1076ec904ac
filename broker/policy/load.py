"""From a file to a ScopeMap, or to every reason why not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from broker.errors import unreadable
from broker.model import ScopeKind
from broker.policy.compile import compile_map
from broker.policy.document import MAX_BYTES, read_document
from broker.policy.problems import Problem, ScopeMapError
from broker.policy.scope_map import ScopeMap


def load(
    path: Path, kinds: Mapping[str, ScopeKind], *, environment: str | None = None, trust_domain: str | None = None
) -> ScopeMap:
    """Read and compile a map; `environment` and `trust_domain`, when given, must be the map's own.

    Blocking: seconds for a map near the size limit. Raises ScopeMapError.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        problem = Problem(file=str(path), line=1, column=1, message=unreadable(error))
        raise ScopeMapError([problem]) from None
    return parse(raw, str(path), kinds, environment=environment, trust_domain=trust_domain)


def parse(
    text: bytes | str,
    file: str,
    kinds: Mapping[str, ScopeKind],
    *,
    environment: str | None = None,
    trust_domain: str | None = None,
) -> ScopeMap:
    """Compile a map's text; `file` is the name used in positions. Raises ScopeMapError."""
    document = read_document(text, file)
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    scope_map = compile_map(document, hashlib.sha256(raw).hexdigest(), kinds)
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
    return scope_map
