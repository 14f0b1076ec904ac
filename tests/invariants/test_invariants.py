"""I1 to I8 of the architecture, each as one check that is run twice: on the real mechanism, where it must hold,
and on a mutant with the mechanism removed, where it must fail. A check that cannot fail proves nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Reason, StoreError
from broker.guard.guard import Guard
from broker.journal.records import Kind
from broker.leases import epoch, issuing, moves
from broker.leases.committing import Commit
from broker.leases.core import Core
from broker.leases.ending import Ending
from broker.model import Evidence, LeaseState
from broker.policy.live.holder import Policies
from broker.secret import Secret
from broker.store.base import tail
from tests.fakes.world import MAP, OTHER, World, agent, new_id, refusal, world

Check = Callable[[World], Awaitable[None]]
Patch = pytest.MonkeyPatch


# --- I1: a live credential has a non-terminal lease row, also after a crash at any point ---


async def i1(broker: World) -> None:
    """Crash while the mint is on its way and let it land; the next process must know it, and kill it."""
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    lost = asyncio.create_task(broker.issue(opened.handle), name="doomed call")
    await broker.provider.landed.wait()
    await broker.crash()
    assert lost.done()
    rows = {lease.id for lease in await broker.leases() if not lease.state.terminal}
    assert broker.backend.alive
    assert broker.backend.alive <= rows, "a live credential that no row knows"
    await broker.start()
    await broker.until(broker.nothing_alive, within=5)


async def test_i1_a_live_credential_has_a_row(tmp_path: Path) -> None:
    async with world(tmp_path, sqlite=True) as broker:
        await i1(broker)


async def test_i1_mutant_without_a_durable_intent(tmp_path: Path, monkeypatch: Patch) -> None:
    original = issuing.Issuing._intend

    def forgetful(self: Any, tx: Any, *args: Any) -> Any:
        return original(self, _Nothing(tx, "insert_lease"), *args)

    monkeypatch.setattr(issuing.Issuing, "_intend", forgetful)
    async with world(tmp_path, sqlite=True) as broker:
        await fails(i1(broker))


async def test_i1_mutant_that_forgets_its_predecessors_intents(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(epoch, "_adopt", lambda *_: (0, 0))
    async with world(tmp_path, sqlite=True) as broker:
        await fails(i1(broker))


# --- I2: at most one live credential per (agent, request id) ---


async def i2(broker: World) -> None:
    """Twenty duplicates at once, and more after the answer: one mint."""
    opened = await broker.begin()
    request_id = new_id()
    calls = [broker.issue(opened.handle, request_id=request_id) for _ in range(20)]
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.gather(broker.issue(opened.handle, request_id=request_id), return_exceptions=True)
    assert len(broker.backend.mints) == 1, "a replay minted"


async def test_i2_one_credential_per_request_id(tmp_path: Path) -> None:
    async with world(tmp_path) as broker:
        await i2(broker)


async def test_i2_mutant_without_the_idempotency_row(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(issuing, "known_request", lambda *_: None)
    monkeypatch.setattr(Core, "remember", lambda *_, **__: None)
    async with world(tmp_path) as broker:
        state = broker.store
        original = type(state).write

        async def write(self: Any, operation: Any, *, quick: bool = False) -> Any:
            return await original(self, lambda tx: operation(_FreshIds(tx)), quick=quick)

        monkeypatch.setattr(type(state), "write", write)
        await fails(i2(broker))


# --- I3: nothing is answered before its journal record is durable ---


async def i3(broker: World) -> None:
    """Whatever was answered is in the journal that another process reads from disk."""
    opened = await broker.begin()
    delivered = await broker.issue(opened.handle)
    denied = await refusal(
        broker.engine.issue(
            agent(), opened.handle, issuing.asking(request_id=new_id(), scope="danger", replaces="", public_input="")
        )
    )
    await broker.engine._refusals.record(agent(), "IssueCredential", denied)
    ended = await broker.end(opened.handle)
    await broker.crash()
    entries = await broker.store.read(lambda tx: list(tail(tx)))
    records = [json.loads(entry.body) for entry in entries]
    about = {record["kind"] for record in records if record.get("lease_id") == delivered.lease.id}
    assert {"LEASE_INTENT", "LEASE_ACTIVE", "LEASE_REVOKING", "LEASE_REVOKED"} <= about, about
    assert any(record.get("reference_id") == denied.reference_id for record in records)
    assert any(record["kind"] == "STEP_ENDED" for record in records)
    assert ended.all_proven


async def test_i3_answers_follow_their_journal_record(tmp_path: Path) -> None:
    async with world(tmp_path, sqlite=True) as broker:
        await i3(broker)


async def test_i3_a_record_that_cannot_be_written_stops_the_mint(tmp_path: Path, monkeypatch: Patch) -> None:
    async with world(tmp_path, sqlite=True) as broker:
        opened = await broker.begin()
        monkeypatch.setattr(moves, "record_lease", _broken_journal)
        with pytest.raises(StoreError):
            await broker.issue(opened.handle)
        assert broker.provider.seen == []
        assert await broker.leases() == []


async def test_i3_mutant_that_answers_without_journalling(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(moves, "record_lease", lambda *_, **__: None)
    async with world(tmp_path, sqlite=True) as broker:
        await fails(i3(broker))


def _broken_journal(*_: Any, **__: Any) -> None:
    raise StoreError("journal")


# --- I4: mints ≤ budget, across attempts and restarts ---


async def i4(broker: World) -> None:
    """A runaway asks for a `high` scope over restarts, new attempts and in parallel: three mints."""
    for _ in range(4):
        for _ in range(3):
            opened = await broker.begin(["danger"])
            calls = [broker.issue(opened.handle, "danger") for _ in range(4)]
            await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.gather(broker.end(opened.handle), return_exceptions=True)
        await broker.crash()
        await broker.start()
    assert len(broker.backend.mints) == 3, "more mints than the budget"


async def test_i4_mints_stay_within_the_budget(tmp_path: Path) -> None:
    async with world(tmp_path, sqlite=True) as broker:
        await i4(broker)


async def test_i4_mutant_that_keeps_the_count_in_memory(tmp_path: Path, monkeypatch: Patch) -> None:
    original = Guard.admit

    def admit(self: Any, tx: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, _Nothing(tx, "put_guard_row", "add_charge"), *args, **kwargs)

    monkeypatch.setattr(Guard, "admit", admit)
    async with world(tmp_path, sqlite=True) as broker:
        await fails(i4(broker))


# --- I5: after a step's end a lease is REVOKING until there is evidence ---


async def i5(broker: World) -> None:
    """The provider says yes but proves nothing: not reported dead. Then it proves: dead within 5 s."""
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    broker.provider.proves = False
    ended = await broker.end(opened.handle, wait=0.3)
    assert not ended.all_proven, "reported dead without evidence"
    assert (await broker.lease(lease.id)).state is LeaseState.REVOKING
    assert lease.id in broker.backend.alive
    broker.provider.proves = True
    await broker.fake_clock.run(5)
    await broker.until(broker.nothing_alive)

    async def proven() -> bool:
        return (await broker.lease(lease.id)).evidence is Evidence.SEEN_DEAD

    await broker.until(proven)


async def test_i5_revoking_until_there_is_evidence(tmp_path: Path) -> None:
    async with world(tmp_path) as broker:
        await i5(broker)


async def test_i5_mutant_that_believes_a_204(tmp_path: Path, monkeypatch: Patch) -> None:
    original = Ending._progressed

    async def believing(self: Any, lease: Any, progress: Any) -> None:
        if progress.step == "SENT":
            await self._end(lease, LeaseState.REVOKED, Evidence.SEEN_DEAD)
        else:
            await original(self, lease, progress)

    monkeypatch.setattr(Ending, "_progressed", believing)
    async with world(tmp_path) as broker:
        await fails(i5(broker))


async def test_i5_mutant_that_revokes_once_and_forgets(tmp_path: Path, monkeypatch: Patch) -> None:
    async def give_up(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Ending, "defer", give_up)
    async with world(tmp_path) as broker:
        await fails(i5(broker))


# --- I6: no secret in store, journal, logs or texts (the process-wide scan is in tests/e2e) ---


async def i6(broker: World) -> None:
    """Search everything durable, and every text made on the way, for what was minted."""
    opened = await broker.begin()
    delivered = await broker.issue(opened.handle)
    secret = f"secret-of-{delivered.lease.id}"
    texts = [repr(delivered), f"{delivered.credential}", str(await broker.leases())]
    texts.append("".join(entry.body for entry in await broker.store.read(lambda tx: list(tail(tx)))))
    texts += [path.read_bytes().decode("latin-1") for path in broker.folder.glob("broker.db*")]
    assert not [text for text in texts if secret in text], "a secret in the open"
    assert not [text for text in texts if opened.handle in text], "a handle in the open"


async def test_i6_no_secret_in_the_open(tmp_path: Path) -> None:
    async with world(tmp_path, sqlite=True) as broker:
        await i6(broker)


async def test_i6_mutant_whose_secrets_can_be_printed(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(Secret, "__repr__", lambda self: self.reveal())
    async with world(tmp_path, sqlite=True) as broker:
        await fails(i6(broker))


async def test_i6_mutant_that_stores_what_it_minted(tmp_path: Path, monkeypatch: Patch) -> None:
    original = Commit.active

    async def leaky(self: Any, lease: Any, step: Any, minted: Any) -> Any:
        minted.refs["token"] = minted.credential.token.reveal()
        return await original(self, lease, step, minted)

    monkeypatch.setattr(Commit, "active", leaky)
    async with world(tmp_path, sqlite=True) as broker:
        await fails(i6(broker))


# --- I7: a map that fails to load never widens access ---

BROKEN = [
    "",
    "version: 1",
    MAP.replace("tier: high", "tier: hihg"),
    MAP + "grants: {}\n",
    MAP.replace("environment: dev", "environment: prod"),
    "\t" + MAP,
]


async def i7(broker: World) -> None:
    """After each broken map: what was denied stays denied, what was allowed stays allowed, and it is journalled."""
    opened = await broker.begin(["plain", "nope"])
    generation = broker.policies.generation
    for text in BROKEN:
        broker.map_file.write_text(text)
        assert not await broker.policies.reload(), "a broken map was taken"
        assert broker.policies.generation == generation
        assert (await refusal(broker.issue(opened.handle, "nope"))).reason is Reason.ACCESS_DENIED
        assert (await broker.issue(opened.handle, "plain")).lease.state is LeaseState.ACTIVE
    assert (await broker.journal_kinds()).count(Kind.POLICY_REFUSED.value) == len(BROKEN)


async def test_i7_the_last_good_map_stays(tmp_path: Path) -> None:
    async with world(tmp_path) as broker:
        await i7(broker)


async def test_i7_mutant_that_drops_the_map_it_could_not_load(tmp_path: Path, monkeypatch: Patch) -> None:
    async def trusting(self: Any) -> bool:
        self._current = None
        return True

    monkeypatch.setattr(Policies, "reload", trusting)
    async with world(tmp_path) as broker:
        await fails(i7(broker))


# --- I8: neither a lease id nor a step handle alone is authority ---


async def i8(broker: World) -> None:
    """Another agent with the right handle and lease id gets what a stranger with neither gets."""
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    thief = agent(OTHER)
    handle = opened.handle
    assert (await refusal(broker.issue(handle, who=thief))).reason is Reason.ACCESS_DENIED
    assert (await refusal(broker.engine.heartbeat(thief, handle, [lease.id]))).reason is Reason.ACCESS_DENIED
    assert (await refusal(broker.end(handle, who=thief))).reason is Reason.ACCESS_DENIED
    revoke = broker.engine.revoke_lease(thief, request_id=new_id(), handle=handle, lease_id=lease.id, wait_seconds=0)
    assert (await refusal(revoke)).reason is Reason.ACCESS_DENIED
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE
    theirs = await broker.begin(who=thief)
    stolen = broker.engine.revoke_lease(
        thief, request_id=new_id(), handle=theirs.handle, lease_id=lease.id, wait_seconds=0
    )
    assert (await refusal(stolen)).reason is Reason.ACCESS_DENIED
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE


async def test_i8_a_handle_alone_is_no_authority(tmp_path: Path) -> None:
    async with world(tmp_path) as broker:
        await i8(broker)


async def test_i8_mutant_that_believes_the_handle(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(Core, "own", lambda _self, _agent, step: step)
    async with world(tmp_path) as broker:
        await fails(i8(broker))


# --- what the mutants are made with ---


async def fails(check: Awaitable[None]) -> None:
    """The check must notice, by its own assertion."""
    with pytest.raises(AssertionError):
        await check


class _Nothing:
    """A transaction some of whose methods do nothing."""

    def __init__(self, tx: Any, *methods: str) -> None:
        self._tx = tx
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        if name in self._methods:
            return lambda *_, **__: None
        return getattr(self._tx, name)


class _FreshIds:
    """A transaction that takes every lease's request id for a new one."""

    def __init__(self, tx: Any) -> None:
        self._tx = tx

    def insert_lease(self, lease: Any) -> None:
        self._tx.insert_lease(replace(lease, request_id=new_id()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)
