"""The sources that are files, each with the name that people read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from broker.identity import bundle, crl, deny_list
from broker.identity.bundle import Bundle, parse_bundle
from broker.identity.crl import Crls, parse_crls
from broker.identity.deny_list import DenyList, parse_deny_list
from broker.identity.door import DomainSources
from broker.identity.server_pair import ServerPair, parse_server_pair
from broker.identity.source import FileSource, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainFiles:
    """PEM files of one trust domain."""

    bundle: Path
    crls: Sequence[Path] = ()

    def sources(self, whose: str) -> DomainSources:
        """`whose`: for people, for example "agents'". Raises ConfigError."""
        return domain_sources(bundle_file(self.bundle, f"{whose} trust bundle"), self.crls, whose)


def domain_sources(roots: Source[Bundle], crls: Sequence[Path], whose: str) -> DomainSources:
    """Revocation lists beside a bundle, wherever that comes from. Raises ConfigError."""
    return DomainSources(bundle=roots, crls=[crl_file(one, f"{whose} revocation list", roots) for one in crls])


def bundle_file(path: Path, name: str) -> Source[Bundle]:
    """Raises ConfigError."""

    def parse(contents: Sequence[bytes], _old: Bundle | None) -> Bundle:
        return parse_bundle(contents[0], f"{name} {path}")

    return FileSource(name, [path], parse, max_bytes=bundle.MAX_BYTES)


def crl_file(path: Path, name: str, roots: Source[Bundle]) -> Source[Crls]:
    """Raises ConfigError."""
    name = f"{name} {path}"

    def parse(contents: Sequence[bytes], old: Crls | None) -> Crls:
        return parse_crls(contents, [name], roots.value, old)

    return FileSource(name, [path], parse, max_bytes=crl.MAX_BYTES)


def deny_file(path: Path) -> Source[DenyList]:
    """Raises ConfigError."""

    def parse(contents: Sequence[bytes], _old: DenyList | None) -> DenyList:
        return parse_deny_list(contents[0], f"deny list {path}")

    return FileSource("deny list", [path], parse, max_bytes=deny_list.MAX_BYTES)


def server_files(cert: Path, key: Path, now: Callable[[], datetime]) -> Source[ServerPair]:
    """Raises ConfigError."""

    def parse(contents: Sequence[bytes], old: ServerPair | None) -> ServerPair:
        return parse_server_pair(contents, now(), old)

    return FileSource("server certificate", [cert, key], parse, max_bytes=bundle.MAX_BYTES, secrets=[key])
