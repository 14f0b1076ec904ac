"""A store on a real file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.store.sqlite import SqliteStore, open_store
from tests.fakes.domain import NOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stepcred.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """With epoch 1."""
    found = open_store(path)
    await found.write(lambda tx: tx.start_epoch(replica="a", boot_id="boot", expires_boot=15.0, at=NOW))
    yield found
    await found.close()
