from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.identity import Authenticator, FrontDoor
from tests.fakes.clock import FakeClock
from tests.support.certs import TestCA
from tests.support.doors import door


@pytest.fixture
def ca(tmp_path: Path) -> TestCA:
    return TestCA(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime.now(UTC))


@pytest.fixture
def trust(ca: TestCA) -> FrontDoor:
    return door(ca.root_path)


@pytest.fixture
def authenticator(trust: FrontDoor, clock: FakeClock) -> Authenticator:
    return Authenticator(trust, clock)
