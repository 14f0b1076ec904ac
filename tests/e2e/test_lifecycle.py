"""Start, reload, stop, stall and sudden death of the daemon: what lives on, what dies, and that each is known."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from broker.journal.chain import verify
from broker.model import LeaseState, StepState
from broker.store.base import tail
from tests.e2e.wire import Wire, begin, check_refusal, issue, new_id, wire
from tests.e2e.world import LOAD, Site, journal, leases
from tests.support.bao import provision_database
from tests.support.daemon import Deployment
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until

C = grpc.StatusCode
GRACE = 4  # seconds of drain
RECOVERY = 15  # seconds after a start within which what nobody claimed is dead; I1: 5, where nothing else runs

STEPS = 20  # concurrent steps under kill -9

pytestmark = pytest.mark.usefixtures("untouched")


def exit_code(process: subprocess.Popen[bytes], *, within: float) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(within)


def held_lease(client: Wire, handle: str) -> str:
    """A lease issued and claimed."""
    lease_id: str = client.issue(handle, "token").lease.lease_id
    client.heartbeat(handle, lease_id)
    return lease_id


# --- stop ---


def test_sigterm_keeps_claimed_leases_and_open_steps_for_the_next_start(site: Site) -> None:
    deployment = site.deployment(timings={"drain_grace": f"{GRACE}s"})
    creds = deployment.agent(LOAD)
    with deployment.daemon() as process, wire(deployment, creds) as client:
        handle = client.begin(new_id(), "token")
        claimed = held_lease(client, handle)
        unclaimed = client.issue(handle, "token").lease.lease_id
        assert exit_code(process, within=GRACE + 5) == 0
    assert claimed in site.live_leases()
    assert leases(deployment)[claimed].state is LeaseState.ACTIVE
    with deployment.daemon(), wire(deployment, creds) as client:
        wait_until(lambda: unclaimed not in site.live_leases(), within=RECOVERY, what="the unclaimed one is dead")
        assert client.heartbeat(handle, claimed, unclaimed).ended_lease_ids == [unclaimed]
        another = client.issue(handle, "token").lease.lease_id
        ended = client.end(handle)
        assert ended.all_proven
        assert {lease.lease_id for lease in ended.leases} == {claimed, unclaimed, another}


def test_on_stop_revoke_ends_every_step_and_lease(site: Site) -> None:
    deployment = site.deployment(timings={"drain_grace": f"{GRACE}s"})
    with deployment.daemon("--on-stop", "revoke") as process, wire(deployment, deployment.agent(LOAD)) as client:
        for _ in range(3):
            held_lease(client, client.begin(new_id(), "token"))
        assert exit_code(process, within=GRACE + 5) == 0
    assert {lease.state for lease in leases(deployment).values()} == {LeaseState.REVOKED}
    assert {record["reason"] for record in journal(deployment, "STEP_ENDED")} == {"BROKER_STOPPED"}


def test_drain_lets_a_mint_settle_and_takes_no_new_work(site: Site, pg: PostgresServer) -> None:
    provision_database(site.bao, pg, f"{site.name}-slow", creation_delay=2)
    deployment = site.deployment(timings={"drain_grace": f"{GRACE}s"})
    creds = deployment.agent(LOAD)
    with deployment.daemon() as process, wire(deployment, creds) as client:
        handle = client.begin(new_id(), "slow", "token")
        call = client.start("IssueCredential", issue(handle, "slow"))
        wait_until(lambda: bool(leases(deployment)), within=15, what="the intent")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "the broker is stopping" in deployment.http("readyz")[1], within=15, what="readyz")
        for method, request in (("IssueCredential", issue(handle, "token")), ("BeginStep", begin(new_id(), "token"))):
            check_refusal(client.refused(method, request), "DRAINING", C.UNAVAILABLE, retry=True)
        issued = call.result()
        login = issued.credential.username_password
        assert pg.logs_in(login.username, login.password)
        assert process.wait(GRACE + 5) == 0
    with deployment.daemon(), wire(deployment, creds) as client:
        assert client.end(handle).all_proven
        assert not pg.logs_in(login.username, login.password)


# --- sudden death and stall ---


class Load:
    """Steps that open, issue, claim and end as fast as they can, until the daemon is gone."""

    def __init__(self, client: Wire) -> None:
        self._client = client
        self.claimed: dict[str, str] = {}  # lease → handle of its step
        self.rounds = 0
        self.stop = threading.Event()

    def run(self, number: int) -> None:
        try:
            while not self.stop.is_set():
                self._round(number)
        except grpc.RpcError:
            return  # the daemon is dead

    def _round(self, number: int) -> None:
        handle = self._client.begin(new_id(), "token")
        lease_id = self._client.issue(handle, "token").lease.lease_id
        if number % 2:  # every other step claims what it holds
            self._client.heartbeat(handle, lease_id)
            self.claimed[lease_id] = handle
        self._client.issue(handle, "token")
        self._client.end(handle, wait=2)
        self.claimed.pop(lease_id, None)
        self.rounds += 1


def test_i1_kill_9_under_load_leaves_no_live_token_without_a_row(site: Site) -> None:
    # A mint in doubt is proven dead once a late one can no longer land: soon, here.
    deployment = site.deployment(vault={"request_limit": "2s"}, timings={"mint_timeout": "4s"})
    creds = deployment.agent(LOAD)
    with deployment.daemon() as process, wire(deployment, creds) as client, ThreadPoolExecutor(STEPS) as pool:
        load = Load(client)
        workers = [pool.submit(load.run, number) for number in range(STEPS)]
        wait_until(lambda: load.rounds > STEPS, within=20, what="a load")
        process.send_signal(signal.SIGKILL)
        process.wait(5)
        load.stop.set()
    assert all(worker.exception() is None for worker in workers)
    assert site.live_leases() <= unfinished(deployment), "a live token that no row knows"

    with deployment.daemon(), wire(deployment, creds) as client:
        started = time.monotonic()
        wait_until(lambda: site.live_leases() <= active(deployment), within=RECOVERY, what="the rest is dead")
        assert time.monotonic() - started < RECOVERY
        rows = leases(deployment)
        assert all(rows[lease_id].claimed_at for lease_id in active(deployment))
        survivors = active(deployment) & load.claimed.keys()
        for lease_id in survivors:  # the handles of before still work
            assert client.heartbeat(load.claimed[lease_id], lease_id).ended_lease_ids == []
        end_everything(deployment, client)
        assert not site.live_leases()
    with deployment.store() as store:
        assert store.read(lambda tx: verify(tail(tx))) == []


def unfinished(deployment: Deployment) -> set[str]:
    return {lease_id for lease_id, row in leases(deployment).items() if not row.state.terminal}


def active(deployment: Deployment) -> set[str]:
    return {lease_id for lease_id, row in leases(deployment).items() if row.state is LeaseState.ACTIVE}


def end_everything(deployment: Deployment, client: Wire) -> None:
    """A replayed BeginStep tells the handle of a step whose client is gone."""
    with deployment.store() as store:
        steps = store.read(lambda tx: tx.open_steps())
    assert all(step.state is StepState.OPEN for step in steps)
    for step in steps:
        replayed = client.call("BeginStep", begin(step.key.run, *step.scopes, request_id=step.request_id))
        assert client.end(replayed.step_handle).all_proven


def test_a_stalled_daemon_takes_a_new_epoch_and_keeps_what_was_claimed(site: Site) -> None:
    deployment = site.deployment(timings={"epoch_life": "1s", "epoch_renew": "250ms"})
    with deployment.daemon() as process, wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token")
        claimed = held_lease(client, handle)
        unclaimed = client.issue(handle, "token").lease.lease_id
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # longer than the epoch lives
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: len(journal(deployment, "EPOCH_STARTED")) > 1, within=15, what="a new epoch")
        wait_until(lambda: unclaimed not in site.live_leases(), within=RECOVERY, what="the unclaimed one is dead")
        assert client.heartbeat(handle, claimed).ended_lease_ids == []
        assert client.end(handle).all_proven


# --- reload, readiness, listeners ---


@pytest.fixture
def notify() -> Iterator[socket.socket]:
    """systemd's end of the notification socket; its path must be short."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(Path(folder) / "notify"))
        channel.settimeout(10)
        yield channel


def test_systemd_is_told_ready_alive_and_stopping(site: Site, notify: socket.socket) -> None:
    deployment = site.deployment()
    env = {"NOTIFY_SOCKET": notify.getsockname(), "WATCHDOG_USEC": "200000"}
    with deployment.daemon(env=env) as process:
        assert notify.recv(1000) == b"READY=1\nSTATUS=serving dev"
        assert deployment.alive()
        assert notify.recv(1000) == b"WATCHDOG=1"
        assert exit_code(process, within=10) == 0
        told = {notify.recv(1000)}
        while b"STOPPING=1" not in told:
            told.add(notify.recv(1000))


def test_probes_and_scrapers_need_no_certificate_and_learn_no_names(site: Site) -> None:
    deployment = site.deployment()
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin("a-run-that-nobody-may-see", "token")
        client.issue(handle, "token")
        client.refused("IssueCredential", issue(handle, "kv"))
        client.end(handle)
        assert deployment.http("livez") == (200, '{"alive": true}')
        assert deployment.http("readyz") == (200, '{"ready": true, "problems": []}')
        status, metrics = deployment.http("metrics")
        assert status == 200
        assert 'stepcred_issues_total{outcome="issued",provider="vault",scope="token"} 1.0' in metrics
        assert 'stepcred_refusals_total{reason="SCOPE_NOT_NAMED"} 1.0' in metrics
        assert "a-run-that-nobody-may-see" not in metrics
        assert "spiffe" not in metrics
        assert deployment.http("")[0] == 404


def test_an_address_that_is_taken_is_one_clear_error(site: Site) -> None:
    first, second = site.deployment(), site.deployment()
    with first.daemon():
        taken = subprocess.run(
            [*second.argv, "--listen", first.addr], capture_output=True, text=True, timeout=30, check=False
        )
        assert taken.returncode == os.EX_CONFIG
        assert f"cannot bind {first.addr}" in taken.stderr
        assert "Traceback" not in taken.stderr
