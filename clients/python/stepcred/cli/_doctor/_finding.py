"""What a look finds, and what is known so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

_SHOWN = 200  # characters of somebody else's text


class Level(Enum):
    """How bad it is. Only a PROBLEM keeps steps from working, or a key from being a secret."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the answer. `fix` is a command or a setting to type."""

    level: Level
    text: str
    fix: str = ""


@dataclass(kw_only=True, slots=True)
class Case:
    """What the looks have learned for those after them. Cleaned settings, so that one mistake does not hide the next."""

    environ: Mapping[str, str]
    now: datetime
    handle_file: Path | None = None
    addr: str = ""  # host:port, only when it is that
    paths: dict[str, str] = field(default_factory=dict)  # "cert", "key", "ca"
    contents: dict[str, bytes] = field(default_factory=dict, repr=False)  # of those that could be read and are PEM
    workload_api: bool = False  # the identity comes from there, not from files
    usable: bool = False  # a TLS library takes certificate, key and CAs
    chain: list[Any] = field(default_factory=list)  # x509.Certificate, ours first; empty without `cryptography`
    addresses: list[Any] = field(default_factory=list)  # of getaddrinfo, in its order
    connected: tuple[Any, ...] = ()  # the address that answers
    steered: list[str] = field(default_factory=list)  # variables that change how gRPC connects
    grpc_aborts: bool = False
    tls_done: bool = False  # both sides accept each other
    why_not_ours: list[str] = field(default_factory=list)  # what may make the broker refuse our certificate


def ok(text: str) -> Finding:
    """As it should be."""
    return Finding(level=Level.OK, text=text)


def warning(text: str, fix: str = "") -> Finding:
    """Works, and is worth knowing."""
    return Finding(level=Level.WARNING, text=text, fix=fix)


def problem(text: str, fix: str) -> Finding:
    """Must be changed."""
    return Finding(level=Level.PROBLEM, text=text, fix=fix)


def skipped(text: str, fix: str = "") -> Finding:
    """Could not be looked at."""
    return Finding(level=Level.SKIPPED, text=text, fix=fix)


def plain(text: str) -> str:
    """Another's text, fit for a terminal: no control characters, no direction marks, not endless."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:_SHOWN])
    return shown + "…" if len(text) > _SHOWN else shown
