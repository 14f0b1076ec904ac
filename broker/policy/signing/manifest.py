"""What is signed: the digest of every file of a scope map, for one broker, with a serial and an end."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from broker.model import JsonValue
from broker.policy.language.files import MAX_BYTES, MAX_NAME
from broker.policy.signing.errors import Fault, ManifestError

VERSION = 1
MAX_FILES = 1000
MAX_SERIAL = 2**53 - 1  # what every reader of JSON keeps exact
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_INSTANT = "%Y-%m-%dT%H:%M:%SZ"
_MAX_WORD = 255  # characters of an environment or a trust domain


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """One signed state of a map. Raises ValueError, with a constant text, for what could not be one."""

    environment: str
    trust_domain: str
    serial: int  # from 1; each new state of the map has a higher one
    expires: datetime  # aware, whole seconds; from then on it is not loaded any more
    root: str  # name of the file that the broker's config names
    files: Mapping[str, str]  # name → SHA-256, 64 hex digits; all of them, the root too

    def __post_init__(self) -> None:
        if not all(_is_word(word) for word in (self.environment, self.trust_domain)):
            raise ValueError("environment and trust domain must be words of plain characters")
        if not 1 <= self.serial <= MAX_SERIAL:
            raise ValueError("the serial must be a number from 1")
        if self.expires.tzinfo is None or self.expires.microsecond:
            raise ValueError("the expiry must have a time zone, and whole seconds")
        if self.root not in self.files:
            raise ValueError("the root must be one of the files")
        if len(self.files) > MAX_FILES or not all(map(_is_name, self.files)):
            raise ValueError(f"files must be at most {MAX_FILES} relative paths of plain characters")
        if not all(map(_DIGEST.fullmatch, self.files.values())):
            raise ValueError("a file's digest must be 64 hex digits")

    def payload(self) -> bytes:
        """The one spelling of it, as JSON."""
        values = {
            "version": VERSION,
            "environment": self.environment,
            "trust_domain": self.trust_domain,
            "serial": self.serial,
            "expires": self.expires.astimezone(UTC).strftime(_INSTANT),
            "root": self.root,
            "files": dict(self.files),
        }
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the payload: the same for the same manifest, whoever signed it."""
        return hashlib.sha256(self.payload()).hexdigest()


def digests(contents: Mapping[str, bytes]) -> dict[str, str]:
    """Name → SHA-256. Raises ValueError for a file that no broker would read whole."""
    if any(len(content) > MAX_BYTES for content in contents.values()):
        raise ValueError(f"a file is larger than {MAX_BYTES} bytes")
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def parse_manifest(payload: bytes) -> Manifest:
    """Read what `payload()` wrote, and no other spelling of it. Raises ManifestError."""
    try:
        found = _Payload.model_validate(strict_json(payload))
        manifest = Manifest(
            environment=found.environment,
            trust_domain=found.trust_domain,
            serial=found.serial,
            expires=datetime.strptime(found.expires, _INSTANT).replace(tzinfo=UTC),
            root=found.root,
            files=found.files,
        )
    except ValueError:  # pydantic's is one too
        raise ManifestError(Fault.MALFORMED) from None
    if manifest.payload() != payload:
        raise ManifestError(Fault.MALFORMED)
    return manifest


class _Payload(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    version: Literal[1]
    environment: str
    trust_domain: str
    serial: int
    expires: str
    root: str
    files: dict[str, str]


def strict_json(raw: bytes) -> JsonValue:
    """JSON in which no key is twice: readers differ in which one counts. Raises ValueError."""
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(_name: str) -> None:
    raise ValueError("not a number of JSON")


def _is_word(word: str) -> bool:
    return 0 < len(word) <= _MAX_WORD and word.isprintable() and " " not in word


def _is_name(name: str) -> bool:
    """As `policy.files.beside` makes them: normal, so that no file has two names."""
    plain = 0 < len(name) <= MAX_NAME and name.isprintable() and "\\" not in name
    return (
        plain
        and not name.startswith("/")
        and posixpath.normpath(name) == name
        and name.rsplit("/", 1)[-1] not in (".", "..")
    )
