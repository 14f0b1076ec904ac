"""SPIFFE IDs: what is accepted is exactly what was said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

from broker.identity import spiffe
from tests.fuzz.target import Check, Target

SEEDS = (
    "spiffe://test.local/workflow/nightly/step/load",
    "spiffe://a/b",
    "spiffe://a-b_c.d/e..f/.g",
    "spiffe://a:8/b",
    "spiffe://u@a/b?c#d",
    "spiffe://a//b/",
    "spiffe://a/../b/.",
    "spiffe://a/%2e%2e/b",
    "spiffe://\u0430/b",
    "spiffe://a/b\0c",
    "SPIFFE://a/b",
)


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        try:
            found = spiffe.parse_spiffe_id(text)
        except spiffe.SpiffeIdError as error:
            assert text not in str(error) or len(text) < 40, "repeats a stranger's text"
            return
        assert str(found) == text
        assert text.isascii() and len(text) <= spiffe.MAX_BYTES
        scheme, nothing, domain, *path = text.split("/")
        assert (scheme, nothing, domain) == ("spiffe:", "", found.trust_domain)
        assert domain == domain.lower()
        assert path and not {"", ".", ".."} & set(path)
        assert spiffe.parse_spiffe_id(str(found)) == found

    yield check


def _folding() -> AbstractContextManager[object]:
    """A parser that is kind to upper case (CVE-2025-6004)."""
    strict = spiffe.parse_spiffe_id
    return patch.object(spiffe, "parse_spiffe_id", lambda text: strict(text.lower() if "/wOrk" in text else text))


TARGET = Target(
    ready=ready,
    seeds=lambda: [one.encode() for one in SEEDS],
    words=(b"spiffe://", b"/", b"..", b"%2f", b"%00", b"@", b":443", b"?", b"#", b"\xe2\x80\xae", b"wOrk"),
    max_bytes=2100,
    mutants={"folds-case": _folding},
)
