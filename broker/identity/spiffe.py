"""SPIFFE IDs, by the letter: nothing is folded, trimmed or decoded (CVE-2025-6004)."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BYTES = 2048  # SPIFFE-ID, section 2.3: implementations must not be given longer ones
TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_SEGMENT = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+"
_ID = re.compile(rf"spiffe://({TRUST_DOMAIN.pattern})((?:/{_SEGMENT})+)", re.ASCII)


class SpiffeIdError(ValueError):
    """The text is not the SPIFFE ID of a workload. Does not repeat the text, which is a stranger's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpiffeId:
    """A workload's name. `path` begins with a slash and has at least one segment."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


def parse_spiffe_id(text: str) -> SpiffeId:
    """Split a workload's SPIFFE ID; `str()` of the result is exactly `text`.

    Raises SpiffeIdError for whatever the grammar does not hold: upper-case scheme or trust domain, port, user,
    query, fragment, percent-encoding, empty or dot segments, a trailing slash, no path, over 2048 bytes.
    """
    if len(text) > MAX_BYTES:  # before any parsing (CVE-2025-6203); the grammar is ASCII, so characters are bytes
        raise SpiffeIdError(f"a SPIFFE ID has at most {MAX_BYTES} bytes")
    match = _ID.fullmatch(text)
    if match is None:
        raise SpiffeIdError(
            "not a workload's SPIFFE ID: spiffe://<trust domain>/<path>, of [a-z0-9._-] and [A-Za-z0-9._-]"
        )
    return SpiffeId(trust_domain=match[1], path=match[2])
