"""When a leased secret's revocation is queued, and when the server is told to try it now."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.providers.heard import HeardTime
from broker.providers.vault.children import QUEUED_TRIES, Children
from broker.providers.vault.client import VaultClient
from broker.providers.vault.settings import TokenFile, VaultSettings
from broker.providers.vault.transport import Transport
from broker.secret import Secret
from tests.fakes.clock import FakeClock


async def nobody() -> frozenset[str]:
    return frozenset()


@pytest.mark.parametrize(("before", "now"), [(0, False), (QUEUED_TRIES - 1, False), (QUEUED_TRIES, True), (50, True)])
async def test_what_an_earlier_process_has_tried_counts(
    monkeypatch: pytest.MonkeyPatch, before: int, *, now: bool
) -> None:
    """The server gives up after six; with a count of this process alone, a restart would wait for minutes."""
    asked: list[bool] = []

    async def revoke_lease(_self: VaultClient, _asker: Secret, _lease_id: str, *, now: bool = False) -> None:
        asked.append(now)

    monkeypatch.setattr(VaultClient, "revoke_lease", revoke_lease)
    clock = FakeClock()
    settings = VaultSettings(address="http://127.0.0.1:1", auth=TokenFile(path=Path("token")))
    children = Children(VaultClient(Transport(settings)), settings, clock, HeardTime(clock), nobody)
    assert await children.try_revoke(Secret("t"), ["database/creds/x/1"], attempts=before) is None
    assert asked == [now]
