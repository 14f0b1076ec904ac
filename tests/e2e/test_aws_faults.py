"""What is denied at a real STS when answers are lost, daemons die, and an older one comes back."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest

from broker.model import Evidence, LeaseState
from tests.e2e.lake import Lake, begin, row, scope_map
from tests.e2e.wire import issue, wire
from tests.support.daemon import Deployment
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, proxy

TEAM = 1
LOAD = f"workflow/team{TEAM}/step/load"
LONG = bool(os.environ.get("STEPCRED_LONG"))
SOON = 15.0  # seconds; a backoff or two, and a start
PUT, ASSUME = "Action=PutRolePolicy", "Action=AssumeRole"


@pytest.fixture
async def between(lake: Lake) -> AsyncIterator[Proxy]:
    async with proxy(urlsplit(lake.ceph.url).port or 0) as one:
        yield one


@dataclass(frozen=True, kw_only=True)
class Session:
    """As a step holds it, or as the wire lost it."""

    access_key_id: str
    secret_access_key: str
    session_token: str


def denied(lake: Lake, *sessions: Any, within: float = SOON) -> None:
    wait_until(lambda: lake.all_denied(*sessions), within=within, what="the sessions denied")


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


# --- mints in doubt ---


async def test_a_session_whose_answer_was_lost_is_denied_by_its_name(lake: Lake, between: Proxy) -> None:
    deployment = lake.deployment(
        scope_map(lake.role("doubt")), endpoint_url=between.address, iam_endpoint_url=lake.ceph.url
    )
    await asyncio.to_thread(_lose_an_answer, lake, deployment, between)


def _lose_an_answer(lake: Lake, deployment: Deployment, between: Proxy) -> None:
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        step = begin(client, "r1", TEAM)
        between.inject(Fault.CUT, ASSUME)
        refusal = client.refused("IssueCredential", issue(step.handle, "lake"))
        assert refusal.reason == "PROVIDER_FAILED"
        lost = _session_in(between.lost[0])
        denied(lake, lost)
        with deployment.store() as store:
            (lease,) = store.read(lambda tx: tx.leases_in(LeaseState.IN_DOUBT))
        wait_until(
            lambda: bool(row(deployment, lease.id).refs.get("deny_written_at")), within=SOON, what="the deny on record"
        )
        assert lease.evidence is None  # nobody says that it is dead: it is denied, and has a bound
        assert lake.tries(step.session) == ""
        policies = lake.ceph.role_policies("doubt")
        assert any(f"*:{lease.id}" in str(one) for one in policies.values())


def _session_in(answer: bytes) -> Session:
    """What AssumeRole had answered."""
    found = {
        name: re.search(rf"<{name}>([^<]+)<", answer.decode())
        for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")
    }
    texts = {name: match[1] for name, match in found.items() if match}
    return Session(
        access_key_id=texts["AccessKeyId"],
        secret_access_key=texts["SecretAccessKey"],
        session_token=texts["SessionToken"],
    )


# --- the daemon dies ---


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.LATE], ids=["written", "written later"])
async def test_a_crash_in_the_middle_of_a_deny_write_is_recovered(lake: Lake, between: Proxy, fault: Fault) -> None:
    role = f"crash-{fault.value.lower()}"
    deployment = lake.deployment(scope_map(lake.role(role)), iam_endpoint_url=between.address)
    await asyncio.to_thread(_die_while_denying, lake, deployment, between, fault)


def _die_while_denying(lake: Lake, deployment: Deployment, between: Proxy, fault: Fault) -> None:
    with deployment.daemon() as process, wire(deployment, deployment.agent(LOAD)) as client:
        first, second = begin(client, "r1", TEAM), begin(client, "r2", TEAM)
        other = begin(client, "r3", TEAM)
        client.end(first.handle)
        denied(lake, first.session)
        between.inject(fault, PUT, delay=SOON / 3)
        client.end(second.handle, wait=0)
        wait_until(lambda: between.times == 0, within=SOON, what="the deny being written")
        kill(process)
    between.inject(Fault.NONE)
    with deployment.daemon():
        denied(lake, first.session, second.session)
        time.sleep(0 if fault is Fault.HANG else SOON / 3)  # what the dead one sent lands beside what the new one wrote
        denied(lake, first.session, second.session)
        assert lake.tries(other.session) == ""
        # Found in the dead one's list it is believed only when nothing late can undo it: LATE_WRITE_SECONDS.
        said = ("DENY_WRITTEN",) if LONG else ("DENY_UNSURE", "DENY_WRITTEN")
        wait_until(
            lambda: row(deployment, second.lease_id).last_problem in said,
            within=90 if LONG else SOON,
            what="the deny on record",
        )
        assert row(deployment, second.lease_id).state is LeaseState.REVOKING  # denied is not dead


async def test_a_paused_older_daemon_cannot_undo_the_newer_ones_denies(lake: Lake, between: Proxy) -> None:
    times = {"epoch_life": "4s", "epoch_renew": "1s"}
    older = lake.deployment(scope_map(lake.role("paused")), iam_endpoint_url=between.address, timings=times)
    await asyncio.to_thread(_pause_and_resume, lake, older, between)


def _pause_and_resume(lake: Lake, older: Deployment, between: Proxy) -> None:
    with older.daemon() as process, wire(older, older.agent(LOAD)) as client:
        held = [begin(client, f"r{number}", TEAM) for number in range(4)]
        client.end(held[0].handle)
        denied(lake, held[0].session)
        between.inject(Fault.HELD, PUT, delay=SOON)
        client.end(held[1].handle, wait=0)
        wait_until(lambda: between.times == 0, within=SOON, what="the older one's write, held up")
        with stopped(process), _failed_over(older, iam=lake.ceph.url) as newer, wire(newer, newer.agent(LOAD)) as other:
            other.end(held[2].handle)
            denied(lake, *(one.session for one in held[:3]))
            wait_until(lambda: all(task.done() for task in between.late), within=2 * SOON, what="the held write")
            process.send_signal(signal.SIGCONT)  # it thinks that nothing has happened
            deadline = time.monotonic() + SOON / 3
            while time.monotonic() < deadline:
                assert {lake.tries(one.session) for one in held[:3]} == {"AccessDenied"}
                time.sleep(0.2)
            assert lake.tries(held[3].session) == ""
    names = sorted(name for name in lake.ceph.role_policies("paused") if name.startswith("stepcred-deny-"))
    assert len(names) == len({name.rsplit("-", 1)[1] for name in names}) == 2  # one of each epoch, never shared


@contextmanager
def _failed_over(older: Deployment, *, iam: str) -> Iterator[Deployment]:
    """A daemon on another machine, over a copy of the database: the older one holds its own, and is not seen to stop."""
    newer = Deployment(
        older.folder / "newer",
        older.scope_map,
        aws={**(older.aws or {}), "iam_endpoint_url": iam},
        timings=older.timings,
        more=older.more,
    )
    with closing(sqlite3.connect(older.database)) as held, closing(sqlite3.connect(newer.database)) as copy:
        held.backup(copy)
    newer.database.chmod(0o600)
    for name in (older.mint_key.name, f"{older.mint_key.name}.anchor"):
        shutil.copy(older.folder / name, newer.folder / name)
    newer.ca, newer.server_cert, newer.server_key = older.ca, older.server_cert, older.server_key
    newer.write_config()
    with newer.daemon():
        yield newer


@contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """SIGSTOP, and in any case SIGCONT."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


# --- time ---


def test_a_lease_of_a_minute_dies_at_its_time_though_sts_gave_fifteen(lake: Lake) -> None:
    deployment = lake.deployment(scope_map(lake.role("minute-lease"), ttl="1m"), timings={"clock_skew": "2s"})
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        begun = time.monotonic()
        handle = client.begin("r1", "lake", workflow=f"team{TEAM}")
        answer = client.issue(handle, "lake")
        session, lease = answer.credential.aws_session, answer.lease
        given = session.session_expires_at.seconds - lease.issued_at.seconds
        assert 890 <= given <= 905  # STS's own shortest
        client.heartbeat(handle, lease.lease_id)
        while time.monotonic() - begun < 58:
            assert lake.tries(session) == ""
            time.sleep(2)
        bound = lease.expires_at.ToDatetime(UTC)
        wait_until(lambda: datetime.now(UTC) > bound, within=10, what="the bound")
        denied(lake, session, within=5)  # whole seconds, and Ceph lets the bound's own second pass (measured)
        wait_until(
            lambda: row(deployment, lease.lease_id).state is LeaseState.EXPIRED, within=SOON, what="the lease closed"
        )
        assert row(deployment, lease.lease_id).evidence is Evidence.EXPIRED
