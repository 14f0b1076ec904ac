"""Every store that there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.store.base import Store
from broker.store.sqlite import open_store
from tests.fakes import domain
from tests.fakes.memory_store import MemoryStore


@pytest.fixture(params=["memory", "sqlite"])
async def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    found: Store = MemoryStore() if request.param == "memory" else open_store(tmp_path / "stepcred.db")
    yield found
    await found.close()


@pytest.fixture
async def store(empty_store: Store) -> Store:
    """With epoch 1."""
    await empty_store.write(lambda tx: tx.start_epoch(replica="a", boot_id="boot", expires_boot=15.0, at=domain.NOW))
    return empty_store
