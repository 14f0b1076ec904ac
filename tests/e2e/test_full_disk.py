"""The daemon on a small disk of its own that somebody else fills: minting stops, revoking goes on."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from broker.model import LeaseState
from tests.e2e.wire import begin, check_refusal, issue, new_id, revoke, wire
from tests.e2e.world import LOAD, Site, leases
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

C = grpc.StatusCode
DISK = 32 << 20
HELD = 10

pytestmark = pytest.mark.usefixtures("untouched")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder)]
    if subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def deployment(site: Site, disk: Path) -> Deployment:
    """Its database on the small disk; certificates and log elsewhere."""
    found = site.deployment()
    found.database = disk / "broker.db"
    found.write_config()
    return found


def fill(disk: Path) -> Path:
    path = disk / "others-fill-it"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    return path


def test_a_full_disk_stops_minting_before_the_provider_is_called_and_no_revocation(
    site: Site, deployment: Deployment, disk: Path
) -> None:
    creds = deployment.agent(LOAD)
    with deployment.daemon() as process, wire(deployment, creds) as client:
        handle = client.begin(new_id(), "token")
        held = [client.issue(handle, "token").lease.lease_id for _ in range(HELD)]
        client.heartbeat(handle, *held)
        filling = fill(disk)
        wait_until(lambda: not deployment.ready(), within=10, what="not ready")
        assert "the disk is full" in deployment.http("readyz")[1]
        before = site.live_leases()
        refused = client.refused("IssueCredential", issue(handle, "token"))
        check_refusal(refused, "STORE_UNAVAILABLE", C.ABORTED, retry=True)
        refused = client.refused("BeginStep", begin(new_id(), "token"))
        check_refusal(refused, "STORE_UNAVAILABLE", C.ABORTED, retry=True)
        assert site.live_leases() == before == set(held)
        assert client.heartbeat(handle, *held).ended_lease_ids == []

        assert client.call(
            "RevokeLease", revoke(handle, held[0])
        ).lease.evidence  # one by itself, then all with the step
        assert client.end(handle).all_proven
        assert site.live_leases() == set()
        assert {lease.state for lease in leases(deployment).values()} == {LeaseState.REVOKED}

        filling.unlink()
        wait_until(deployment.ready, within=10, what="ready again")
        again = client.begin(new_id(), "token")
        client.issue(again, "token")
        assert client.end(again).all_proven
        process.terminate()
        assert process.wait(30) == 0
    with contextlib.closing(sqlite3.connect(deployment.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_daemon_killed_on_a_full_disk_comes_back_and_ends_what_it_left(
    site: Site, deployment: Deployment, disk: Path
) -> None:
    creds = deployment.agent(LOAD)
    with deployment.daemon() as process, wire(deployment, creds) as client:
        handle = client.begin(new_id(), "token")
        held = client.issue(handle, "token").lease.lease_id
        client.issue(handle, "token")  # never claimed
        client.heartbeat(handle, held)
        fill(disk)
        process.kill()
        process.wait(10)
    with deployment.daemon(ready=deployment.alive), wire(deployment, creds) as client:
        wait_until(lambda: site.live_leases() == {held}, within=10, what="the unclaimed one is dead")
        assert client.end(handle).all_proven
    assert site.live_leases() == set()
