"""Where our certificate, its key and the broker's CA come from, again and again: they are replaced while a step runs."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol, TypeAlias

from stepcred._errors import SettingsError

log = logging.getLogger("stepcred")

_MEANING = {
    "cert": "file with this agent's certificate, PEM",
    "key": "file with its private key, PEM",
    "ca": "file with the CA certificates that vouch for the broker, PEM",
}
LOOKS = 5  # at files that are being replaced
MOST_KNOWN = 64  # identities that one process is told good once; a hundred bytes each


@dataclass(frozen=True, kw_only=True, slots=True)
class Pems:
    """One identity, PEM: certificate (with its chain), private key, and the CAs that vouch for the broker."""

    cert: bytes
    key: bytes = field(repr=False)
    ca: bytes


class Source(Protocol):
    """Gives the newest usable identity. What has not changed is the same object as before."""

    def start(self) -> None:
        """Wait, within a bound of its own, until there is an identity. Raises StepcredError when there is none."""

    def current(self) -> Pems:
        """At once. Raises StepcredError when what was usable is usable no more."""

    def close(self) -> None:
        """Give back what `start` took. Whoever waits in it is let go."""


_Marks: TypeAlias = tuple[tuple[int, int, int], ...]
_known_good: dict[tuple[bytes, ...], None] = {}  # digests of cert, key and CA that passed `_check`, which costs 1.2 ms


class Files:
    """Three files, looked at before each call. While they are not good together, the last good identity stays."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        """Read for the first time: `paths` names cert, key and ca. Raises SettingsError with every problem."""
        self._paths = dict(paths)
        self._lock = threading.Lock()
        self._marks, self._pems, problems = self._read()
        if problems:
            raise SettingsError(problems)
        _warn_of_an_open_key(self._paths["key"])

    def start(self) -> None:
        """Nothing: they are read."""

    def close(self) -> None:
        """Nothing is held open."""

    def current(self) -> Pems:
        with self._lock:
            if self._look() != self._marks:
                self._marks, pems, problems = self._read()
                if problems:
                    log.warning("the files were changed, the last good ones stay in use: %s", "; ".join(problems))
                elif pems != self._pems:
                    self._pems = pems
            return self._pems

    def _look(self) -> _Marks:
        """What is different once a file was replaced, written to, or given to another reader."""
        return tuple(_mark(path) for path in self._paths.values())

    def _read(self) -> tuple[_Marks, Pems, list[str]]:
        """All three at rest: what is read is what is checked, and not half of it of another day."""
        for _ in range(LOOKS):
            marks = self._look()
            files, problems = dict.fromkeys(_MEANING, b""), []
            for name, path in self._paths.items():
                if not path:
                    problems.append(f"STEPCRED_{name.upper()} is not set: {_MEANING[name]}")
                    continue
                if "-----BEGIN" in path:  # never shown: it may be the key
                    problems.append(f"STEPCRED_{name.upper()} holds PEM text itself; it is the path of a file")
                    continue
                try:
                    with open(path, "rb") as file:  # noqa: PTH123 (at each connect: no objects made for it)
                        files[name] = file.read()
                except OSError as error:
                    problems.append(f"STEPCRED_{name.upper()}: cannot read {path}: {error.strerror}")
            digests = tuple(hashlib.sha256(content).digest() for content in files.values())
            problems = problems or ([] if digests in _known_good else _check(self._paths))
            if self._look() == marks:
                if not problems:
                    _remember(digests)
                return marks, Pems(**files), problems
        return (), Pems(**files), ["STEPCRED_CERT, STEPCRED_KEY and STEPCRED_CA: something keeps rewriting these files"]


def _mark(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 (before each call: no objects made for it)
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_ctime_ns, found.st_size)  # a copied file may bring its old mtime along


@cache
def _warn_of_an_open_key(path: str) -> None:
    """Once per process, and not an error: in a container often nobody else is there, and the mode not ours to change."""
    try:
        others = Path(path).stat().st_mode & stat.S_IRWXO
    except OSError:  # it was read, and is being replaced
        return
    if others:
        log.warning(
            "the private key %s can be read by everybody; run chmod 600 on it (in Kubernetes: defaultMode 0400, and fsGroup)",
            path,
        )


def _remember(digests: tuple[bytes, ...]) -> None:
    if len(_known_good) >= MOST_KNOWN:
        _known_good.clear()
    _known_good[digests] = None


def _check(paths: Mapping[str, str]) -> list[str]:
    """GRPC would report a broken file as an unreachable broker, so it is tried here first."""
    problems = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # An empty password: an encrypted key must fail here, not ask on the terminal.
        context.load_cert_chain(paths["cert"], paths["key"], password=lambda: "")
    except (OSError, ValueError):  # SSLError is an OSError
        problems.append(
            f"STEPCRED_CERT and STEPCRED_KEY: {paths['cert']} and {paths['key']} "
            "are not a PEM certificate and its unencrypted private key"
        )
    try:
        context.load_verify_locations(paths["ca"])
    except (OSError, ValueError):
        problems.append(f"STEPCRED_CA: {paths['ca']} holds no PEM certificate")
    return problems
