"""What is sent and what comes back: an origin, a request's bytes, an answer, and what can go wrong instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

HTTP, HTTPS = 80, 443
_METHOD = re.compile(r"[A-Z]+", re.ASCII)
_TARGET = re.compile(r"/[!\"$-~]*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._:-]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_FRAMING = ("host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "te", "trailer")
_OURS = frozenset({*_FRAMING, "accept-encoding"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class HttpError(Exception):
    """One request came to nothing. Two kinds, and no text of either side in any."""


class Unsent(HttpError):
    """No byte of the request was sent."""


class Untrusted(Unsent):
    """TLS failed while connecting."""


class Lost(HttpError):
    """It may have been sent, and no answer is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """`host`: without brackets."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, url: str) -> Origin:
        """Of `https://host:port`, whatever path follows. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("expected http:// or https://, a host and perhaps a port")
        if not _HOST.fullmatch(parts.hostname):
            raise ValueError("expected the name or the address of a host")
        tls = parts.scheme == "https"
        return cls(host=parts.hostname, port=parts.port or (HTTPS if tls else HTTP), tls=tls)

    @property
    def authority(self) -> str:
        """As the Host header says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (HTTPS if self.tls else HTTP) else f"{host}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """`headers`: as they came, names in lower case. What it says is never shown: asyncio writes futures to its log."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: str) -> str:
        """Of this name; "" when there is none, and several joined by commas, as RFC 9110 has it."""
        key = name.lower().encode()
        return b", ".join([value for one, value in self.headers if one == key]).decode("latin-1")


class Renderer:
    """Requests to one origin, as bytes."""

    def __init__(self, origin: Origin) -> None:
        self._fixed = f" HTTP/1.1\r\nHost: {origin.authority}\r\nAccept-Encoding: identity\r\n"

    def render(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """Raises Unsent for what would not be the one request that it is meant to be."""
        if not (_METHOD.fullmatch(method) and _TARGET.fullmatch(target)):
            raise Unsent("the request's method or target is not allowed")
        head = f"{method} {target}{self._fixed}"
        for name, value in headers.items():
            if not (_is_name(name) and _VALUE.fullmatch(value)):
                raise Unsent("a header of the request is not allowed")
            head += f"{name}: {value}\r\n"
        if body or method in _WITH_BODY:
            head += f"Content-Length: {len(body)}\r\n"
        return (head + "\r\n").encode("latin-1") + body


@lru_cache(maxsize=256)  # they are constants of the callers
def _is_name(name: str) -> bool:
    """A header that a caller may set: framing is not the caller's."""
    return _NAME.fullmatch(name) is not None and name.lower() not in _OURS
