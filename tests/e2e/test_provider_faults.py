"""OpenBao and the way to it at their worst, seen from the agent: nothing is minted twice, everything is dead in the end.

STEPCRED_LONG=1 takes the long form: mints up to 30 s late.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest

from broker.model import LeaseState
from tests.e2e.test_lifecycle import unfinished
from tests.e2e.wire import Wire, check_refusal, issue, new_id, refusal_of, wire
from tests.e2e.world import LOAD, Site, leases
from tests.support.bao import BaoServer, provision_database
from tests.support.daemon import Deployment
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, proxy, response
from tests.support.raft import RaftNode

C = grpc.StatusCode
DELAYS = (1.0, 3.0, 10.0, 20.0, 30.0) if os.environ.get("STEPCRED_LONG") else (1.0, 3.0)
MINT_TIMEOUT = 2  # seconds
REQUEST_LIMIT = 2  # seconds; what the server would do with one request that it has
BOUND = 2 * MINT_TIMEOUT  # seconds for an answer, whatever OpenBao does

SERVER_ERROR = response("500 Internal Server Error", b'{"errors": ["scv1-whatever internal"]}')
UNAVAILABLE = response("503 Service Unavailable", b'{"errors": ["Vault is sealed"]}')


@pytest.fixture
async def between(bao: BaoServer) -> AsyncIterator[Proxy]:
    async with proxy(urlsplit(bao.address).port or 0) as one:
        yield one


def behind(between: Proxy, site: Site, *, request_limit: float = REQUEST_LIMIT) -> Deployment:
    """A daemon that reaches OpenBao through the proxy and does not wait long."""
    vault = {"address": between.address, "request_timeout": "1s", "request_limit": f"{request_limit:g}s"}
    return site.deployment(vault=vault, timings={"mint_timeout": f"{MINT_TIMEOUT}s"})


def create_path(site: Site, scope: str) -> str:
    return f"/auth/token/create/{site.name}-{scope} "


# --- late mints ---


@pytest.mark.parametrize("fault", [Fault.HELD, Fault.LATE])
async def test_i1_nothing_of_a_late_mint_is_alive_after_the_daemons_death_and_recovery(
    site: Site, between: Proxy, fault: Fault
) -> None:
    """HELD: the daemon dies while it waits. LATE: it saw a cut, and dies while it settles the doubt."""
    deployment = behind(between, site, request_limit=max(DELAYS) + REQUEST_LIMIT)
    await asyncio.to_thread(_die_with_late_requests, deployment, site, between, (fault, create_path(site, "token")))
    assert {row.state for row in leases(deployment).values()} <= {LeaseState.VOID, LeaseState.REVOKED}


async def test_i1_no_login_of_a_late_read_is_alive_after_the_daemons_death_and_recovery(
    site: Site, between: Proxy, pg: PostgresServer
) -> None:
    role = f"{site.name}-db"
    provision_database(site.bao, pg, role)
    deployment = behind(between, site, request_limit=max(DELAYS) + REQUEST_LIMIT)
    read = f"GET /v1/database/creds/{role} "
    await asyncio.to_thread(_die_with_late_requests, deployment, site, between, (Fault.HELD, read), "db")
    assert site.bao.child_leases(f"database/creds/{role}") == []
    assert pg.minted_roles(role[:8]) == []


def _die_with_late_requests(
    deployment: Deployment, site: Site, between: Proxy, late: tuple[Fault, str], scope: str = "token"
) -> None:
    fault, path = late
    with deployment.daemon() as process, wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), scope)
        calls = []
        for delay in DELAYS:
            between.inject(fault, path, delay=delay)
            calls.append(client.start("IssueCredential", issue(handle, scope)))
            wait_until(lambda: between.times == 0, within=15, what="the mint's request")
        _kill(process)
        assert all(call.exception() for call in calls)
    sent = len(between.seen(path))
    with deployment.daemon():
        deadline = time.monotonic() + max(DELAYS) + MINT_TIMEOUT + REQUEST_LIMIT + 15
        while unfinished(deployment):
            assert time.monotonic() < deadline, leases(deployment)
            suspects = site.live_leases() & leases(deployment).keys() - unfinished(deployment)
            assert not suspects & (site.live_leases() if suspects else set())  # it may have ended between two looks
            time.sleep(0.1)
        assert all(task.done() for task in between.late)
        assert not site.live_leases() & leases(deployment).keys()
    assert len(between.seen(path)) == sent == len(DELAYS)  # recovery mints nothing


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(5)


# --- faults under one daemon ---


def throttled(site: Site) -> bytes:
    """As OpenBao's own quota says it (measured)."""
    path = create_path(site, "token").strip("/ ")
    return response(
        "429 Too Many Requests", f'{{"errors": ["request path \\"{path}\\": rate limit quota exceeded"]}}'.encode()
    )


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        pytest.param(Fault.ANSWER, SERVER_ERROR, id="500-after-minting"),
        pytest.param(Fault.ANSWER, UNAVAILABLE, id="503-after-minting"),
        pytest.param(Fault.REPLACE, SERVER_ERROR, id="500-without-minting"),
        pytest.param(Fault.REPLACE, b"429", id="throttled"),
        pytest.param(Fault.HANG, b"", id="hanging"),
        pytest.param(Fault.CUT, b"", id="reset"),
    ],
)
async def test_i2_a_failed_mint_is_told_soon_and_never_minted_again(
    site: Site, between: Proxy, fault: Fault, answer: bytes
) -> None:
    deployment = behind(between, site)
    with deployment.daemon(ready=deployment.alive):
        await asyncio.to_thread(wait_until, deployment.ready, within=20, what="the daemon")
        between.requests.clear()
        between.inject(fault, create_path(site, "token"), answer=throttled(site) if answer == b"429" else answer)
        await asyncio.to_thread(_fail_and_go_on, deployment, site, between)


def _fail_and_go_on(deployment: Deployment, site: Site, between: Proxy) -> None:
    with wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token")
        request = issue(handle, "token")
        begun = time.monotonic()
        check_refusal(client.refused("IssueCredential", request), "PROVIDER_FAILED", C.ABORTED, retry=True)
        assert time.monotonic() - begun < BOUND
        check_refusal(client.refused("IssueCredential", request), "PROVIDER_FAILED", C.ABORTED, retry=True)
        assert len(between.seen(create_path(site, "token"))) == 1
        client.issue(handle, "token")  # a new id, when the fault is over
        client.end(handle)
        # Of the failed mint too: dead, and not only for now.
        wait_until(lambda: not unfinished(deployment), within=MINT_TIMEOUT + REQUEST_LIMIT + 10, what="the ends")
        assert not site.live_leases() & leases(deployment).keys()
        assert len(between.seen(create_path(site, "token"))) == 2


# --- a server that is sealed, or gone and back ---


@contextlib.contextmanager
def sealed(node: RaftNode, server: BaoServer) -> Iterator[None]:
    server.seal()
    yield
    node.unseal()


def _claimed(client: Wire) -> tuple[str, str]:
    """(handle, lease) of a step that holds a token."""
    handle = client.begin(new_id(), "token")
    lease_id = client.issue(handle, "token").lease.lease_id
    client.heartbeat(handle, lease_id)
    return handle, lease_id


def _while_away(deployment: Deployment, client: Wire, held: tuple[str, str]) -> None:
    """Nothing is minted, errors come soon, an end is asked for and not claimed to be done."""
    handle, lease_id = held
    begun = time.monotonic()
    call = client.start("IssueCredential", issue(handle, "token"))
    check_refusal(refusal_of(call.exception()), "PROVIDER_FAILED", C.ABORTED, retry=True)
    assert time.monotonic() - begun < BOUND
    assert not client.end(handle, wait=1).all_proven
    assert leases(deployment)[lease_id].state is LeaseState.REVOKING
    wait_until(lambda: not deployment.ready(), within=20, what="readyz to tell")


def _all_dead(deployment: Deployment, site: Site) -> None:
    wait_until(lambda: not unfinished(deployment), within=70, what="the ends")
    assert site.live_tokens() == []


def _site_of(node: RaftNode, server: BaoServer, name: str) -> Site:
    server.must("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    return Site(server, node.folder, name)


def _short(site: Site) -> Deployment:
    vault = {"request_timeout": "1s", "request_limit": f"{REQUEST_LIMIT}s"}
    return site.deployment(vault=vault, timings={"mint_timeout": f"{MINT_TIMEOUT}s"})


def test_a_sealed_server_mints_nothing_and_what_was_to_die_dies_when_it_is_unsealed(tmp_path: Path) -> None:
    node = RaftNode(tmp_path / "bao", tls=False)
    with node.serving() as server:
        site = _site_of(node, server, "sealed")
        deployment = _short(site)
        with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
            held = _claimed(client)
            with sealed(node, server):
                _while_away(deployment, client, held)
            _all_dead(deployment, site)


def test_a_server_that_restarts_mints_nothing_meanwhile_and_what_was_to_die_dies(tmp_path: Path) -> None:
    node = RaftNode(tmp_path / "bao", tls=False)
    with contextlib.ExitStack() as stack:
        with node.serving() as server:
            site = _site_of(node, server, "restarted")
            deployment = _short(site)
            process = stack.enter_context(deployment.daemon())
            client = stack.enter_context(wire(deployment, deployment.agent(LOAD)))
            held = _claimed(client)
        _while_away(deployment, client, held)
        with node.serving():
            _all_dead(deployment, site)
            assert process.poll() is None
