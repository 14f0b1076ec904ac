"""Clocks that are set, and a broker that stands still: nothing lives longer for it, and nobody is ended for it.

`STEPCRED_LONG=1` stops the daemon for twice the life of a lease instead of twice its epoch's, and sets the clock an hour back and
a day ahead as well.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.model import EndReason, Evidence, LeaseState
from tests.e2e.wire import Wire, new_id, wire
from tests.e2e.world import LOAD, Site, journal, leases
from tests.support.certs import Creds
from tests.support.daemon import TRUST_DOMAIN, Deployment
from tests.support.processes import wait_until

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
HOUR, DAY = 3600, 86400
BASE = 2 * DAY  # the daemon's clock is that far ahead, so that a day back is no time before its certificates
TTL = 60.0  # seconds, the shortest life of a lease
RECOVERY = 15.0  # seconds
LONG = bool(os.environ.get("STEPCRED_LONG"))

pytestmark = pytest.mark.usefixtures("untouched")


class WallClock:
    """The daemon's own, moved by hand while it runs; its monotonic and boot time stay true."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(BASE)

    def set(self, seconds: int) -> None:
        """Ahead of the true time."""
        part = self._file.with_suffix(".new")
        part.write_text(f"{seconds:+d}\n")
        part.replace(self._file)

    @property
    def env(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


def short_lived(site: Site) -> Deployment:
    """A site whose leases live for `TTL`."""
    deployment = site.deployment()
    deployment.scopes_file.write_text(site.scope_map.replace("ttl: 10m", f"ttl: {TTL:g}s"))
    return deployment


def long_known(deployment: Deployment) -> Creds:
    """A certificate for every time that the daemon may believe in."""
    now = datetime.now(UTC)
    return deployment.ca.agent(f"spiffe://{TRUST_DOMAIN}/{LOAD}", not_after=now + timedelta(days=30))


@contextmanager
def beating(client: Wire, handle: str, *held: str) -> Iterator[None]:
    """A client that is alive."""
    with ThreadPoolExecutor(1) as pool:
        stop: list[bool] = []

        def beat() -> None:
            while not stop:
                client.heartbeat(handle, *held)
                time.sleep(2)

        running = pool.submit(beat)
        try:
            yield
        finally:
            stop.append(True)
        running.result()


def live_through(site: Site, deployment: Deployment, jump: int) -> None:
    """A lease goes through a jump of the clock, and ends when its life is over."""
    creds = long_known(deployment)
    clock = WallClock(deployment.folder / "clock")
    with deployment.daemon(env=clock.env), wire(deployment, creds) as client:
        handle = client.begin(new_id(), "token")
        lease_id = client.issue(handle, "token").lease.lease_id
        born = time.monotonic()
        promised = leases(deployment)[lease_id].expires_at
        with beating(client, handle, lease_id):
            clock.set(BASE + jump)
            time.sleep(4)
            row = leases(deployment)[lease_id]
            assert (row.state, row.expires_at) == (LeaseState.ACTIVE, promised), "ended, or extended, by the clock"
            fresh = client.issue(handle, "token").lease.lease_id
            (token,) = [token for token in site.live_tokens() if token["meta"]["lease_id"] == fresh]
            assert token["ttl"] <= TTL
            time.sleep(max(0.0, born + TTL - 3 - time.monotonic()))
            assert leases(deployment)[lease_id].state is LeaseState.ACTIVE
            wait_until(lambda: lease_id not in site.live_leases(), within=3 + RECOVERY, what="dead at its end")
            wait_until(lambda: leases(deployment)[lease_id].state.terminal, within=RECOVERY, what="its row")
        row = leases(deployment)[lease_id]
        assert (row.state, row.evidence) == (LeaseState.REVOKED, Evidence.SEEN_DEAD)
        assert row.end_reason is EndReason.LEASE_EXPIRED
        assert not journal(deployment, "STEP_ENDED")
        ended = client.end(handle)
        assert ended.all_proven
        assert all(lease.time_to_dead.ToTimedelta() >= timedelta(0) for lease in ended.leases)


def live_through_restart(site: Site, deployment: Deployment, jump: int) -> None:
    """The clock is set, and the next daemon knows no other time."""
    creds, clock = long_known(deployment), WallClock(deployment.folder / "clock")
    with deployment.daemon(env=clock.env), wire(deployment, creds) as client:
        handle = client.begin(new_id(), "token")
        lease_id = client.issue(handle, "token").lease.lease_id
        born = time.monotonic()
        client.heartbeat(handle, lease_id)
    clock.set(BASE + jump)
    with deployment.daemon(env=clock.env), wire(deployment, creds) as client:
        with beating(client, handle, lease_id):
            time.sleep(max(0.0, born + TTL - 5 - time.monotonic()))
            assert leases(deployment)[lease_id].state is LeaseState.ACTIVE
            wait_until(lambda: lease_id not in site.live_leases(), within=5 + RECOVERY, what="dead at its end")
            wait_until(lambda: leases(deployment)[lease_id].state.terminal, within=RECOVERY, what="its row")
            assert not journal(deployment, "STEP_ENDED")
        assert client.end(handle).all_proven  # a heartbeat beside it would be told that the step has ended


@pytest.mark.skipif(LIBRARY is None, reason="needs faketime (Debian package) to set the daemon's clock")
@pytest.mark.timeout(300)
def test_a_clock_that_is_set_ends_no_lease_early_and_extends_none(site: Site) -> None:
    """While the daemon runs, and before it is started again. All at once: a life is a minute, and nearly all of it is waiting."""
    lives = [(live_through, jump) for jump in ((HOUR, -HOUR, DAY, -DAY) if LONG else (HOUR,))]
    lives += [(live_through_restart, jump) for jump in ((HOUR, -DAY) if LONG else (-DAY,))]
    with ThreadPoolExecutor(len(lives)) as pool:
        running = [pool.submit(live, site, short_lived(site), jump) for live, jump in lives]
    for life in running:
        life.result()


@pytest.mark.timeout(300)
def test_a_daemon_that_was_stopped_ends_what_left_its_epoch_and_no_step(site: Site) -> None:
    deployment = site.deployment(
        timings={"epoch_life": "2s", "epoch_renew": "500ms", "heartbeat": "1s", "silence_bound": "3s"}
    )
    deployment.scopes_file.write_text(site.scope_map.replace("ttl: 10m", f"ttl: {TTL:g}s"))
    with deployment.daemon() as process, wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token")
        claimed = client.issue(handle, "token").lease.lease_id
        client.heartbeat(handle, claimed)
        promised = leases(deployment)[claimed].expires_at
        unclaimed = client.issue(handle, "token").lease.lease_id
        process.send_signal(signal.SIGSTOP)
        time.sleep(2 * TTL + 5 if LONG else 5)  # longer than the epoch lives, and than a step may be silent
        process.send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        wait_until(lambda: unclaimed not in site.live_leases(), within=RECOVERY, what="dead after the stall")
        if LONG:
            wait_until(lambda: leases(deployment)[claimed].state.terminal, within=RECOVERY, what="past its life")
            assert claimed not in site.live_leases()
        else:
            assert client.heartbeat(handle, claimed).ended_lease_ids == []
        assert leases(deployment)[claimed].expires_at == promised
        with beating(client, handle):
            time.sleep(max(0.0, resumed + 4 - time.monotonic()))
        assert not journal(deployment, "STEP_ENDED"), "ended for the broker's own silence"
        assert client.end(handle).all_proven
