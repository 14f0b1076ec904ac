"""One OpenBao for all, set up by each module under names of its own; daemons live as long as their module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lake import Lake
from tests.e2e.world import Site
from tests.support.bao import BaoServer
from tests.support.ceph import CephServer


@pytest.fixture(scope="module")
def site(bao: BaoServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Site:
    """OpenBao provisioned under names of this module."""
    name = Path(str(request.node.path)).stem.removeprefix("test_").replace("_", "-")
    return Site(bao, tmp_path_factory.mktemp(name), name)


@pytest.fixture
def untouched(site: Site) -> Iterator[None]:
    """No token of stepcred is alive after the test that was not alive before."""
    before = {token["accessor"] for token in site.live_tokens()}
    yield
    assert [token["meta"] for token in site.live_tokens() if token["accessor"] not in before] == []


@pytest.fixture(scope="module")
def lake(ceph: CephServer, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A bucket on Ceph."""
    made = Lake(ceph=ceph, folder=tmp_path_factory.mktemp("lake"))
    made.create_bucket()
    return made
