"""What is no runaway: one request sent again over a bad network, and honest steps while OpenBao is away."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.e2e.wire import Wire, channel_to, issue, new_id, refusal_of, wire
from tests.e2e.world import journal, leases
from tests.runaway.client import SCOPE
from tests.runaway.site import Site as AuditedSite
from tests.runaway.site import certificates
from tests.runaway.site import site as audited_site
from tests.support.bao import BaoServer, TokenRole, provision
from tests.support.certs import Creds
from tests.support.daemon import Deployment, vault_section
from tests.support.proxy import Cable, cable
from tests.support.raft import RaftNode

RESENT = 20
STEPS = 10
AWAY = 3.0  # seconds
PATIENCE = 60.0  # seconds until the last step must have its credential
GUARD = {"guard": {"high": {"cool_down": "1s", "max_cool_down": "2s"}}}  # else ten seconds are long
MAP = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/agent/{name}", owners: [group:data]}
scopes:
  danger: {vault: {role: outage}, ttl: 10m, tier: high}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [danger], max_step: 2h}
"""


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditedSite]:
    with audited_site(tmp_path_factory.mktemp("flaky")) as made:
        yield made


async def test_one_request_sent_twenty_times_over_a_bad_network_is_one_attempt_and_one_mint(
    audited: AuditedSite,
) -> None:
    deployment, before = audited.deployment(), audited.minted
    (creds,) = certificates(deployment, 1)
    async with cable(deployment.grpc_port) as between:
        with deployment.daemon():
            await asyncio.to_thread(_resend, deployment, creds, between)
            assert audited.minted - before == 1
            assert len(journal(deployment, "LEASE_INTENT")) == 1
            with deployment.store() as store:
                (lease,) = leases(deployment).values()
                row = store.read(lambda tx: tx.guard_row(lease.guard_key))
            assert row is not None
            assert (row.spent, row.admitted) == (1, 1)


def _resend(deployment: Deployment, creds: Creds, between: Cable) -> None:
    """The connection is cut under every call but the last: before it is sent, under way, or when it is answered."""
    addr, rng = f"127.0.0.1:{between.port}", random.Random(7)
    with wire(deployment, creds) as client:
        handle = client.begin("r1", SCOPE)
    request, cut = issue(handle, SCOPE), 0
    for _ in range(RESENT - 1):
        with channel_to(addr, creds) as opened:
            Wire(opened).whoami()  # connected
            call = Wire(opened).start("IssueCredential", request)
            time.sleep(rng.choice((0, 0.001, 0.002, 0.005)))
            between.cut()
            cut += isinstance(call.exception(), grpc.RpcError)
            between.mend()
    with channel_to(addr, creds) as opened:
        answer = Wire(opened).call("IssueCredential", request)
        assert answer.credential.vault_token.token
    assert cut > 1


def _deployed(folder: Path, bao: BaoServer) -> Deployment:
    login = provision(bao, folder, [TokenRole(name="outage")])
    vault = vault_section(bao, login, request_limit="1s", request_timeout="1s", connect_timeout="1s")
    return Deployment(folder / "daemon", MAP, vault=vault, timings={"mint_timeout": "2s"}, more=GUARD)


@pytest.mark.timeout(120)
def test_honest_steps_sit_out_an_outage_and_none_is_locked_or_held(tmp_path: Path) -> None:
    node = RaftNode(tmp_path / "bao", tls=False)
    with ExitStack() as daemon, ThreadPoolExecutor(STEPS) as pool:
        with node.serving() as bao:
            deployment = _deployed(tmp_path, bao)
            daemon.enter_context(deployment.daemon())
            agents = [deployment.agent(f"agent/a{number}") for number in range(STEPS)]
            handles = [_begin(deployment, creds) for creds in agents]
        asked = [pool.submit(_obedient, deployment, *step) for step in zip(agents, handles, strict=True)]
        time.sleep(AWAY)
        assert not any(one.done() for one in asked)
        with node.serving():
            for one in asked:
                one.result(PATIENCE)
            assert journal(deployment, "GUARD_LOCKED", "GUARD_HELD", "GUARD_CEILING") == []
            assert len(journal(deployment, "LEASE_ACTIVE")) == STEPS


def _begin(deployment: Deployment, creds: Creds) -> str:
    with wire(deployment, creds) as client:
        return client.begin(new_id(), SCOPE)


def _obedient(deployment: Deployment, creds: Creds, handle: str) -> None:
    """Asks until it is served, and not before it may."""
    with wire(deployment, creds) as client:
        while True:
            try:
                client.issue(handle, SCOPE)
            except grpc.RpcError as error:
                refusal = refusal_of(error)
                if refusal.reason not in ("PROVIDER_FAILED", "COOLING") or refusal.retry_after is None:
                    raise
                time.sleep(refusal.retry_after)
            else:
                return
