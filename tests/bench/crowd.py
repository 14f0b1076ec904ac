"""Daemons whose databases hold many live leases, for `growth.leases` and `rss_mb_100k`.

One runs at a time; the others are stopped (SIGSTOP), since what a daemon does for its many leases while it is idle would
slow the one that is measured, and hide the growth.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from broker.model import LeaseState
from stepcred.v1 import broker_pb2
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub
from tests.bench.load import cpu_seconds
from tests.bench.seed import multiply
from tests.bench.starting import start
from tests.bench.targets import SCOPES, scope_map_of, scope_name
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

SCOPE_COUNT = 4  # so many leases has each step
CROWD_SCOPES = tuple(f"crowd{number}" for number in range(SCOPE_COUNT))
SWEEP_CPU = 8.0  # seconds: more than a sweep over 100,000 leases took (5.4), with what the reaper does meanwhile
PATTERN_RUN = "6f3b2c1e-58a0-4d7c-9a55-0c2d1e8f7b64"
# Nobody sends the heartbeats of the crowd's steps: 25,000 would send 2,500 a second. So none may end by silence.
TIMINGS = {"silence_bound": "3h", "claim_window": "10m"}


def crowd_map() -> str:
    """The others' scopes, and those of the crowd, which live as long as a step may."""
    names = [scope_name(number) for number in range(SCOPES)]
    lines = [f"  {name}: {{vault: {{role: bench}}, ttl: 10m, tier: low}}" for name in names]
    lines += [f"  {name}: {{vault: {{role: bench}}, ttl: 2h, tier: low}}" for name in CROWD_SCOPES]
    return scope_map_of(lines, [*names, *CROWD_SCOPES])


def crowd_of(folder: Path, vault: Mapping[str, Any], more: Mapping[str, Any]) -> Deployment:
    """One, not yet started."""
    module = "tests.bench.null_broker"
    return Deployment(folder, crowd_map(), vault=vault, timings=TIMINGS, more=more, module=module)


def fill(crowds: Mapping[int, Deployment]) -> None:
    """By size: each database is the next smaller one, and what is missing."""
    sizes = sorted(crowds)
    last = crowds[sizes[0]]
    with last.daemon():
        _live_step(last)
    have = SCOPE_COUNT
    for size in sizes:
        here = crowds[size]
        if here is not last:
            anchors = (one.mint_key.with_name(f"{one.mint_key.name}.anchor") for one in (last, here))
            for source, copy in ((last.database, here.database), (last.mint_key, here.mint_key), tuple(anchors)):
                shutil.copy(source, copy)
        multiply(here.database, here.mint_key, have=have, want=size)
        have, last = size, here


class Crowds:
    """All of them started, and stopped but for one at most."""

    def __init__(self, pids: Mapping[int, int], crowds: Mapping[int, Deployment], *, settle: float) -> None:
        """`settle`: seconds after one goes on, until its epoch is a new one and what it had missed is done."""
        self.pids = pids
        self._crowds = crowds
        self._settle = settle

    @contextlib.contextmanager
    def awake(self, size: int) -> Iterator[int]:
        """Its pid, while it runs."""
        os.kill(self.pids[size], signal.SIGCONT)
        wait_until(self._crowds[size].ready, within=60, what=f"the daemon with {size} leases")
        time.sleep(self._settle)
        try:
            yield self.pids[size]
        finally:
            os.kill(self.pids[size], signal.SIGSTOP)

    def live(self, size: int) -> int:
        """Leases that are ACTIVE now."""
        with self._crowds[size].store() as store:
            return store.read(lambda tx: tx.lease_counts()).get(LeaseState.ACTIVE, 0)

    def work_off(self, size: int, *, longest: float) -> None:
        """What it does once for all of its leases, after a start and after a new map, is done: so much CPU, or so long."""
        since, until = cpu_seconds(self.pids[size]), time.monotonic() + longest
        while cpu_seconds(self.pids[size]) - since < SWEEP_CPU and time.monotonic() < until:
            time.sleep(0.1)

    def scrape(self, size: int) -> None:
        """GET /metrics, as a monitor does it."""
        port = self._crowds[size].http_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            answer.read()

    def sweep(self, size: int) -> None:
        """A new map: every live lease is held against it. Until it is in force; the sweep itself goes on then."""
        crowd = self._crowds[size]
        before = self._generation(size)
        crowd.scopes_file.write_text(crowd.scope_map + "# the same, once more\n")
        wait_until(lambda: self._generation(size) > before, within=60, what="the map to be loaded again")

    def _generation(self, size: int) -> int:
        with self._crowds[size].store() as store:
            return store.read(lambda tx: tx.control()).policy_generation


@contextlib.contextmanager
def standing(crowds: Mapping[int, Deployment], *, settle: float) -> Iterator[Crowds]:
    """Filled, started, and stopped."""
    fill(crowds)
    with contextlib.ExitStack() as stack:
        pids = start(crowds, stack)
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)  # only then does it hear that it is to end
        yield Crowds(pids, crowds, settle=settle)


def _live_step(deployment: Deployment) -> None:
    """The pattern: one step with its leases in hand, left open."""
    creds = deployment.agent("workflow/w0/step/load")
    secure = grpc.ssl_channel_credentials(creds.ca.read_bytes(), creds.key.read_bytes(), creds.cert.read_bytes())
    with grpc.secure_channel(deployment.addr, secure) as channel:
        stub: Any = CredentialBrokerStub(channel)
        name = broker_pb2.StepName(workflow="w0", run=PATTERN_RUN, step="load")
        asked = broker_pb2.BeginStepRequest(request_id=_id(0), name=name, scopes=CROWD_SCOPES)
        handle = stub.BeginStep(asked, timeout=30).step_handle
        held = [
            stub.IssueCredential(
                broker_pb2.IssueCredentialRequest(request_id=_id(number), step_handle=handle, scope=scope), timeout=30
            ).lease.lease_id
            for number, scope in enumerate(CROWD_SCOPES, 1)
        ]
        stub.Heartbeat(broker_pb2.HeartbeatRequest(step_handle=handle, held_lease_ids=held), timeout=30)


def _id(number: int) -> str:
    return f"{PATTERN_RUN[:-1]}{number}"
