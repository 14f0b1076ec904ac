"""Looks for secrets in whatever a daemon has left behind, in every form that a careless line could give them."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus


def forms(secret: str | bytes) -> dict[str, bytes]:
    """Name of the encoding → the bytes to look for."""
    raw = secret.encode() if isinstance(secret, str) else secret
    found = {
        "raw": raw,
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "URL": quote(raw, safe="").encode(),
        "form": quote_plus(raw).encode(),
        "JSON": json.dumps(raw.decode(errors="replace"))[1:-1].encode(),
        "reversed": raw[::-1],
        "SHA-256": hashlib.sha256(raw).hexdigest().encode(),
        "SHA-256 bytes": hashlib.sha256(raw).digest(),
    }
    for shift in range(3):
        found |= _base64(raw, shift)
    return found


def _base64(raw: bytes, shift: int) -> dict[str, bytes]:
    """As part of a longer text that has `shift` bytes (modulo 3) before it: the characters that do not depend on it."""
    whole = b64encode(b"\0" * shift + raw)
    sure = whole[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6]
    return {f"base64+{shift}": sure, f"base64url+{shift}": sure.translate(bytes.maketrans(b"+/", b"-_"))}


def leaks(places: Mapping[str, bytes], secrets: Mapping[str, str | bytes]) -> list[str]:
    """Every "secret as form in place" found."""
    return [
        f"{name} as {form} in {place}"
        for name, secret in secrets.items()
        for form, needle in forms(secret).items()
        for place, content in places.items()
        if needle in content
    ]


def files(folder: Path, *, but: Iterable[Path] = ()) -> dict[str, bytes]:
    """Everything below a folder, without the files that are there to hold a secret."""
    skipped = {path.resolve() for path in but}
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.resolve() not in skipped
    }


def process(pid: int) -> dict[str, bytes]:
    """Arguments and environment, as far as this user may read them: an undumpable process shows root only."""
    found = {}
    for name in ("cmdline", "environ"):
        path = Path(f"/proc/{pid}/{name}")
        try:
            found[str(path)] = path.read_bytes()
        except PermissionError:
            assert name == "environ"
    return found
