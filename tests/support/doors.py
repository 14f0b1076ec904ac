"""Front doors for tests: the real thing over files of a test CA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from broker.identity import FrontDoor
from broker.identity.door import Looked
from broker.identity.files import DomainFiles, deny_file, server_files


def door(
    bundle: Path,
    trust_domain: str = "test.local",
    *,
    crls: Sequence[Path] = (),
    federated: Mapping[str, Path] | None = None,
    operators: Path | None = None,
    deny: Path | None = None,
    server: tuple[Path, Path] | None = None,
) -> FrontDoor:
    """`federated`: trust domain → bundle; `server`: certificate and key."""
    agents = {trust_domain: DomainFiles(bundle=bundle, crls=crls).sources("agents'")}
    agents |= {name: DomainFiles(bundle=path).sources(f"{name}'s") for name, path in (federated or {}).items()}
    return FrontDoor(
        agents=agents,
        operators={trust_domain: DomainFiles(bundle=operators).sources("operators'")} if operators else {},
        deny_list=deny_file(deny) if deny else None,
        server=server_files(*server, lambda: datetime.now(UTC)) if server else None,
    )


def settle(opened: FrontDoor) -> Looked:
    """Look until what has changed has been seen twice."""
    first = opened.look(closely=True)
    second = opened.look()
    return Looked(
        loaded=first.loaded + second.loaded,
        refused={**first.refused, **second.refused},
        moved=first.moved or second.moved,
    )
