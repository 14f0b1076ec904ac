"""Looks for secrets in whatever a daemon has left behind, in every form that a careless line could give them."""

from __future__ import annotations

import hashlib
import json
from base64 import b32encode, b64encode
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape


def forms(secret: str | bytes) -> dict[str, bytes]:
    """Name of the encoding → the bytes to look for."""
    raw = secret.encode() if isinstance(secret, str) else secret
    found = {
        "raw": raw,
        "hex": raw.hex().encode(),
        "hex dump": raw[:16].hex(" ").encode(),  # a line of it
        "HEX": raw.hex().upper().encode(),
        "URL": quote(raw, safe="").encode(),
        "form": quote_plus(raw).encode(),
        "base32": b32encode(raw).rstrip(b"=")[: len(raw) * 8 // 5],
        "JSON": json.dumps(raw.decode(errors="replace"))[1:-1].encode(),
        "JSON in JSON": json.dumps(json.dumps(raw.decode(errors="replace"))[1:-1])[1:-1].encode(),
        "Python": repr(raw)[2:-1].encode(),
        "XML": escape(raw.decode(errors="replace")).encode(),
        "UTF-16": raw.decode(errors="replace").encode("utf-16-le"),
        "UTF-16, big": raw.decode(errors="replace").encode("utf-16-be"),
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

    @cache
    def found_in(needle: bytes) -> list[str]:  # many forms of a plain secret are the same bytes
        return [place for place, content in places.items() if needle in content]

    return [
        f"{name} as {form} in {place}"
        for name, secret in secrets.items()
        for form, needle in forms(secret).items()
        for place in found_in(needle)
    ]


def files(folder: Path, *, but: Iterable[Path] = ()) -> dict[str, bytes]:
    """Everything below a folder, without the files that are there to hold a secret."""
    skipped = {path.resolve() for path in but}
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.resolve() not in skipped
    }


def process(pid: int) -> dict[str, bytes]:
    """Arguments, environment and what else the kernel tells of it, as far as this user may read it.

    An undumpable process shows its environment and maps to root only.
    """
    found = {}
    for name in ("cmdline", "environ", "maps", "limits", "status", "comm"):
        path = Path(f"/proc/{pid}/{name}")
        try:
            found[str(path)] = path.read_bytes()
        except PermissionError:
            assert name in ("environ", "maps")
    return found
