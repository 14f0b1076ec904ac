"""A workflow definition's digest: docs/definition-digest.md has the algorithm for other languages.

Bytes are taken as they are: two files that mean the same to YAML and differ in a blank are two definitions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

VERSION = (
    b"stepcred-definition-v1\n"  # begins what is hashed: no other digest of ours or of another version can equal it
)
NAMELESS = ""  # of a definition that is one file: it is the same wherever it lies


def definition_digest(files: Mapping[str, bytes]) -> str:
    """`sha256:` and 64 hex digits, from name → content; the order of the files does not matter.

    Names are relative, with `/`. A definition of one file may call it NAMELESS, and then its name is no part of the digest.
    Raises ValueError for no files, a nameless one among others, and a name that is not UTF-8 (a lone surrogate).
    """
    if not files:
        raise ValueError("a definition has at least one file")
    if NAMELESS in files and len(files) > 1:
        raise ValueError("of several files each needs a name")
    total = hashlib.sha256(VERSION)
    for name, content in sorted((name.encode(), content) for name, content in files.items()):
        for part in (name, content):
            total.update(b"%d:" % len(part))
            total.update(part)
            total.update(b",")
    return f"sha256:{total.hexdigest()}"
