"""Very many leases that end at once: how fast they are proven dead, and what those feel who issue meanwhile.

The other side is a tight client, with tokens of its own through the same role: for each one the calls that the broker makes,
revoke-self with the token itself and a look-up that says `bad token`, so many at a time as the broker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from broker.leases.lane import BULKHEAD
from broker.model import Evidence, LeaseState
from broker.store.sqlite import OfflineStore, open_readonly
from stepcred.v1 import broker_pb2
from tests.bench.brokered import DEADLINE, Stubs, name_of, new_id
from tests.bench.direct import Client, must_die
from tests.bench.load import Sample, cpu_by, run
from tests.bench.neighbours import Paced
from tests.bench.targets import AGENTS, DRAIN_SCOPE, Endpoint, Targets

EACH = 25  # leases of one step
FILLING = 32  # calls in flight while leases and tokens are made
LOOK = 0.1  # seconds between looks whether all are dead
LONGEST = 300.0  # seconds


class _Held(NamedTuple):
    """One step, its agent by number, and the leases that it has claimed."""

    agent: int
    handle: str
    leases: list[str]


@dataclass(frozen=True, kw_only=True)
class Drained:
    """What one of them found. Offsets are seconds since the leases were due."""

    revoked: Sample  # what was proven dead while nobody issued
    timeline: list[float] = field(default_factory=list)  # offset of every proof, in order
    before: Sample | None = None  # issuing before the leases were due, and from the moment that they were
    during: Sample | None = None
    issues: list[tuple[float, float]] = field(default_factory=list)  # offset, ms; those before it are negative


class _Issuers(Paced):
    """Agents at an honest step's pace. Their steps go on until the end: their own leases are not part of the drain."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.seen: list[tuple[float, float]] = []  # wall time, ms

    async def once(self, worker: int) -> Mapping[str, float]:
        at, found = time.time(), await super().once(worker)
        self.seen.append((at, found["issue"] * 1000))
        return found


class Drain:
    """Both sides; each fills anew."""

    def __init__(self, targets: Targets, watch: Mapping[str, int]) -> None:
        self._targets = targets
        self._watch = watch
        self._stubs = Stubs(targets.vault)

    async def ours(self, count: int, seconds: float) -> Drained:
        """Ends the steps of so many leases at once. Others issue for so long before it, and from its first moment on.

        The rate is taken after those have stopped: the tight client has no such neighbours.
        """
        issuers = _Issuers(self._targets.vault)
        await issuers.prepare(AGENTS)
        held = await self._fill(count)
        before = await run(issuers, concurrency=AGENTS, seconds=seconds, watch=self._watch)
        due = time.time()
        during, _ = await asyncio.gather(
            run(issuers, concurrency=AGENTS, seconds=seconds, watch=self._watch), self._end(held)
        )
        alone, cpu = time.time(), cpu_by(self._watch)
        with open_readonly(Path(self._targets.database)) as store:
            await _until_over(store)
            used = {name: now - cpu[name] for name, now in cpu_by(self._watch).items()}
            ended = sorted(_ended(store, (lease for step in held for lease in step.leases)))
        await issuers.finish()
        after = [at for at in ended if at > alone]
        if not after:  # a small one was over before
            after, alone = ended, due
        return Drained(
            revoked=Sample(
                ops=len(after),
                seconds=ended[-1] - alone,
                parts_ms={"revoked": [1000 * (at - due) for at in after]},
                cpu_seconds=used,
            ),
            timeline=[at - due for at in ended],
            before=before,
            during=during,
            issues=[(at - due, took) for at, took in issuers.seen],
        )

    async def theirs(self, count: int) -> Drained:
        """As many tokens, made before."""
        client = Client(self._targets.direct, self._targets.vault.agents[0])
        asker = await client.warm(FILLING)
        tokens: list[str] = []
        await _share(FILLING, count, lambda _: _append(tokens, client.create(asker)))
        offsets: list[float] = []
        cpu, due = cpu_by(self._watch), time.perf_counter()

        async def kill(number: int) -> None:
            await must_die(client, tokens[number], asker)
            offsets.append(time.perf_counter() - due)

        await _share(BULKHEAD, count, kill)
        used = {name: now - cpu[name] for name, now in cpu_by(self._watch).items()}
        await client.close()
        return Drained(
            revoked=Sample(
                ops=count,
                seconds=offsets[-1],
                parts_ms={"revoked": [1000 * at for at in offsets]},
                cpu_seconds=used,
            ),
            timeline=offsets,
        )

    async def _fill(self, count: int) -> list[_Held]:
        """Steps with so many leases in all."""
        held: list[_Held] = []

        async def fill(number: int) -> None:
            agent = number % AGENTS
            stub = self._stubs.of(agent)
            name = name_of(self._targets.vault.agents[agent])
            asked = broker_pb2.BeginStepRequest(request_id=new_id(), name=name, scopes=[DRAIN_SCOPE])
            handle = (await stub.BeginStep(asked, timeout=DEADLINE)).step_handle
            leases: list[str] = []
            for _ in range(min(EACH, count - number * EACH)):
                wanted = broker_pb2.IssueCredentialRequest(request_id=new_id(), step_handle=handle, scope=DRAIN_SCOPE)
                leases.append((await stub.IssueCredential(wanted, timeout=DEADLINE)).lease.lease_id)
            beat = broker_pb2.HeartbeatRequest(step_handle=handle, held_lease_ids=leases)
            await stub.Heartbeat(beat, timeout=DEADLINE)
            held.append(_Held(agent, handle, leases))

        await _share(FILLING, -(-count // EACH), fill)
        return held

    async def _end(self, held: list[_Held]) -> None:
        """All of these steps, waiting for no proof."""

        async def end(number: int) -> None:
            step = held[number]
            asked = broker_pb2.EndStepRequest(request_id=new_id(), step_handle=step.handle)
            await self._stubs.of(step.agent).EndStep(asked, timeout=DEADLINE)

        await _share(FILLING, len(held), end)


async def _share(workers: int, count: int, work: Callable[[int], Awaitable[None]]) -> None:
    """0 … count-1, so many at a time."""
    numbers = iter(range(count))

    async def one() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(workers, count)):
            group.create_task(one())


async def _append(found: list[str], making: Awaitable[str]) -> None:
    found.append(await making)


async def _until_over(store: OfflineStore) -> None:
    until = time.monotonic() + LONGEST
    while store.read(lambda tx: tx.lease_counts()).get(LeaseState.REVOKING):
        if time.monotonic() > until:
            raise TimeoutError(f"the drain is not over after {LONGEST:g} s")
        await asyncio.sleep(LOOK)


def _ended(store: OfflineStore, lease_ids: Iterable[str]) -> list[float]:
    """When each was proven dead, by the broker's record (wall time, seconds)."""
    found = []
    for lease_id in lease_ids:
        lease = store.read(lambda tx, one=lease_id: tx.lease(one))  # type: ignore[misc]
        assert lease is not None
        assert lease.evidence is Evidence.SEEN_DEAD, lease.state
        assert lease.ended_at is not None
        found.append(lease.ended_at.timestamp())
    return found
