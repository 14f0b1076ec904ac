"""Transactions and the journal in every store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from operator import methodcaller
from typing import Never

import pytest

from broker.errors import StoreConflict, StoreError
from broker.journal.chain import EMPTY, Entry, verify
from broker.journal.records import Kind
from broker.model import EndReason, Evidence, LeaseState, Revocability
from broker.store.base import RequestOutcome, Store, Tx, tail
from tests.fakes.domain import AGENT, NOW, after, denied, guard_row, lease, request, seed, step


class MishapError(Exception):
    """Raised in the middle of an operation."""


async def bodies(store: Store) -> list[str]:
    """Reference ids in order; the chain must hold."""
    entries = await store.read(lambda tx: list(tail(tx)))
    assert verify(entries) == []
    return [json.loads(entry.body).get("reference_id", json.loads(entry.body)["kind"]) for entry in entries]


async def test_the_journal_is_one_chain_with_genesis_first(store: Store) -> None:
    head = await store.write(lambda tx: tx.append(denied("r1")))
    assert (head.chain, head.seq) == (1, 1)
    assert await store.read(lambda tx: tx.journal_head()) == head
    entries = await store.read(lambda tx: tx.journal())
    assert (entries[0].prev, entries[1].prev, entries[1].hash) == (EMPTY, entries[0].hash, head.hash)
    assert await bodies(store) == ["GENESIS", "r1"]


async def test_a_new_epoch_begins_a_chain_linked_to_the_one_before(store: Store) -> None:
    last = await store.write(lambda tx: tx.append(denied("r1")))
    await store.write(lambda tx: tx.start_epoch(replica="b", boot_id="boot", expires_boot=1, at=NOW))
    head = await store.write(lambda tx: tx.append(denied("r2")))
    assert (head.chain, head.seq) == (2, 1)
    genesis = (await store.read(lambda tx: tx.journal(after=(1, 1))))[0]
    assert (genesis.chain, genesis.seq, genesis.prev) == (2, 0, last.hash)
    assert await bodies(store) == ["GENESIS", "r1", "GENESIS", "r2"]


async def test_nothing_is_journalled_before_an_epoch(empty_store: Store) -> None:
    with pytest.raises(StoreError, match="epoch"):
        await empty_store.write(lambda tx: tx.append(denied()))
    assert await empty_store.read(lambda tx: tx.journal()) == []


async def test_the_journal_is_read_in_pages(store: Store) -> None:
    for number in range(5):
        await store.write(methodcaller("append", denied(f"r{number}")))
    page = await store.read(lambda tx: tx.journal(after=(1, 2), limit=2))
    assert [entry.seq for entry in page] == [3, 4]
    assert await store.read(lambda tx: tx.journal(after=(1, 5))) == []


async def test_a_denial_is_found_by_what_the_agent_was_told(store: Store) -> None:
    await store.write(lambda tx: (tx.append(denied("r1")), tx.append(denied()), tx.append(denied("r2", scope="x"))))
    found = await store.read(lambda tx: tx.denial("r2"))
    assert found is not None
    assert (found.seq, json.loads(found.body)["scope"]) == (3, "x")
    assert await store.read(lambda tx: tx.denial("r9")) is None


async def test_the_journal_is_found_by_what_operators_ask_for(store: Store) -> None:
    """A run with its steps' records, which do not all name it; a step; a reference; the newest ones."""
    names = {"run": "r1", "step_id": "s1"}, {"run": "r2", "step_id": "s2"}, {"step_id": "s1"}, {"step_id": "s2"}
    await store.write(lambda tx: [tx.append(denied("ref" if n == 1 else "", **name)) for n, name in enumerate(names)])
    await store.write(lambda tx: tx.append(denied("ref", kind=Kind.DENIALS_COUNTED)))

    async def seqs(look: Callable[[Tx], list[Entry]]) -> list[int]:
        return [entry.seq for entry in await store.read(look)]

    assert await seqs(lambda tx: tx.journal_of_run("r1", limit=9)) == [1, 3]
    assert await seqs(lambda tx: tx.journal_of_run("r1", limit=1)) == [1]
    assert await seqs(lambda tx: tx.journal_of_run("r9", limit=9)) == []
    assert await seqs(lambda tx: tx.journal_of_step("s2", limit=9)) == [2, 4]
    assert await seqs(lambda tx: tx.journal_of_reference("ref", limit=9)) == [2, 5]
    assert await seqs(lambda tx: tx.last_of_journal(2)) == [4, 5]
    assert await seqs(lambda tx: tx.last_of_journal(99)) == [0, 1, 2, 3, 4, 5]


async def test_how_long_leases_have_been_revoking(store: Store) -> None:
    def insert(tx: Tx) -> None:
        tx.insert_step(step("step-1"))
        for number in range(3):
            tx.insert_lease(lease(f"l{number}"))
            tx.to_revoking(f"l{number}", at=after(number * 60), reason=EndReason.OPERATOR)
        tx.to_ended("l0", LeaseState.REVOKED, evidence=Evidence.SEEN_DEAD, at=after(200))

    await store.write(insert)
    assert await store.read(lambda tx: tx.revoking_since(after(59))) == (0, None)
    assert await store.read(lambda tx: tx.revoking_since(after(60))) == (1, after(60))
    assert await store.read(lambda tx: tx.revoking_since(after(999))) == (2, after(60))


@pytest.mark.parametrize("revocability", [Revocability.DENY_POLICY, Revocability.EXPIRY_ONLY])
async def test_what_ends_by_time_is_not_late_before_its_bound(store: Store, revocability: Revocability) -> None:
    def insert(tx: Tx) -> None:
        tx.insert_step(step("step-1"))
        for name, minutes in (("early", 10), ("late", 1)):
            tx.insert_lease(lease(name, revocability=revocability, expires_at=after(minutes * 60)))
            tx.to_revoking(name, at=after(120), reason=EndReason.OPERATOR)

    await store.write(insert)
    assert await store.read(lambda tx: tx.revoking_since(after(599))) == (1, after(120))
    assert await store.read(lambda tx: tx.revoking_since(after(600))) == (2, after(120))


async def test_an_operation_that_raises_leaves_nothing_and_its_neighbours_stay(store: Store) -> None:
    """I3: no state change without its record, and no record without its state change."""

    def good(number: int) -> Callable[[Tx], str]:
        def operation(tx: Tx) -> str:
            tx.insert_step(step(f"s{number}"))
            tx.append(denied(f"r{number}"))
            return f"done {number}"

        return operation

    def bad(tx: Tx) -> None:
        tx.insert_step(step("bad"))
        tx.insert_lease(lease("bad", step_id="bad"))
        tx.append(denied("bad"))
        tx.raise_generation()
        raise MishapError

    results = await asyncio.gather(
        *(store.write(bad if number % 2 else good(number)) for number in range(20)), return_exceptions=True
    )
    for number, result in enumerate(results):
        assert isinstance(result, MishapError) if number % 2 else result == f"done {number}"
    assert await store.read(lambda tx: tx.step("bad")) is None
    assert await store.read(lambda tx: tx.leases_in(LeaseState.INTENT)) == []
    assert (await store.read(lambda tx: tx.control())).policy_generation == 0
    assert await bodies(store) == ["GENESIS", *(f"r{number}" for number in range(0, 20, 2))]


async def test_an_epoch_that_raises_halfway_never_began(store: Store) -> None:
    def operation(tx: Tx) -> None:
        tx.start_epoch(replica="b", boot_id="boot", expires_boot=1, at=NOW)
        raise MishapError

    with pytest.raises(MishapError):
        await store.write(operation)
    head = await store.write(lambda tx: tx.append(denied("r1")))
    assert (head.chain, head.seq) == (1, 1)
    assert await bodies(store) == ["GENESIS", "r1"]


async def test_a_conflict_caught_inside_leaves_the_rest_of_the_operation(store: Store) -> None:
    await store.write(lambda tx: tx.insert_request(request()))

    def operation(tx: Tx) -> str:
        tx.append(denied("before"))
        try:
            tx.insert_request(request())
        except StoreConflict:
            tx.append(denied("after"))
        return "went on"

    assert await store.write(operation) == "went on"
    assert await bodies(store) == ["GENESIS", "before", "after"]


async def test_an_operation_sees_its_own_writes(store: Store) -> None:
    def operation(tx: Tx) -> tuple[bool, int]:
        tx.insert_step(step())
        tx.append(denied("r1"))
        head = tx.journal_head()
        assert head is not None
        return tx.step("step-1") is not None, head.seq

    assert await store.write(operation) == (True, 1)


async def test_two_hundred_concurrent_writes_are_all_there_once(store: Store) -> None:
    async def one(number: int) -> int:
        def operation(tx: Tx) -> int:
            tx.insert_step(step(f"s{number}"))
            tx.append(denied(f"r{number}"))
            return tx.raise_generation()

        return await store.write(operation)

    generations = await asyncio.gather(*(one(number) for number in range(200)))
    assert sorted(generations) == list(range(1, 201))
    assert len(await store.read(lambda tx: tx.open_steps())) == 200
    assert sorted(await bodies(store)) == sorted(["GENESIS", *(f"r{number}" for number in range(200))])


async def test_of_many_conditional_updates_at_once_one_wins(store: Store) -> None:
    await store.write(seed)
    won = await asyncio.gather(
        *(store.write(lambda tx: tx.activate("lease-1", epoch=1, refs={}, at=NOW)) for _ in range(20)),
        *(store.write(lambda tx: tx.to_in_doubt("lease-1", at=NOW, problem="")) for _ in range(20)),
    )
    assert sum(won) == 1


async def test_a_cancelled_caller_does_not_stop_its_operation(store: Store) -> None:
    """A client that vanishes must not leave half an answer behind."""
    caller = asyncio.create_task(store.write(lambda tx: tx.insert_step(step())))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await store.write(lambda tx: tx.append(denied()))  # behind it in the queue
    assert await store.read(lambda tx: tx.step("step-1")) is not None


async def test_whatever_an_operation_raises_reaches_its_caller_and_the_store_goes_on(store: Store) -> None:
    def raises(error: BaseException) -> Callable[[Tx], Never]:
        def operation(tx: Tx) -> Never:
            raise error

        return operation

    for error, expected in ((KeyError("k"), KeyError), (StopIteration(), RuntimeError), (MishapError(), MishapError)):
        with pytest.raises(expected):
            await store.write(raises(error))
    assert await store.write(lambda tx: tx.raise_generation()) == 1


@pytest.mark.parametrize(
    "writing",
    [
        lambda tx: tx.add_key_fingerprint("k", "f"),
        lambda tx: tx.raise_generation(),
        lambda tx: tx.remove_freeze("all"),
        lambda tx: tx.start_epoch(replica="", boot_id="", expires_boot=0, at=NOW),
        lambda tx: tx.renew_epoch(1, 1.0),
        lambda tx: tx.insert_step(step("s2")),
        lambda tx: tx.beat("step-1", NOW),
        lambda tx: tx.end_step("step-1", NOW, EndReason.SILENT),
        lambda tx: tx.insert_lease(lease("l2")),
        lambda tx: tx.activate("lease-1", epoch=1, refs={}, at=NOW),
        lambda tx: tx.note("lease-1", epoch=1, refs={"a": 1}),
        lambda tx: tx.doom("lease-1", at=NOW, reason=EndReason.SILENT),
        lambda tx: tx.to_in_doubt("lease-1", at=NOW, problem=""),
        lambda tx: tx.to_revoking("lease-1", at=NOW, reason=EndReason.SILENT),
        lambda tx: tx.to_ended("lease-1", LeaseState.VOID, evidence=Evidence.NOT_MINTED, at=NOW),
        lambda tx: tx.defer("lease-1", next_try_at=NOW, problem=""),
        lambda tx: tx.claim("lease-1", NOW),
        lambda tx: tx.set_replaced_by("lease-1", "x"),
        lambda tx: tx.clear_replaced_by("lease-1", "x"),
        lambda tx: tx.insert_request(request("r2")),
        lambda tx: tx.finish_request(AGENT, "request-1", RequestOutcome.DONE),
        lambda tx: tx.forget_requests(after(10**6)),
        lambda tx: tx.put_guard_row(guard_row()),
        lambda tx: tx.add_charge(lease_id="lease-1", key="k", hour_key="h", at=NOW),
        lambda tx: tx.return_charge("lease-1"),
        lambda tx: tx.append(denied()),
    ],
)
async def test_a_read_cannot_write(store: Store, writing: Callable[[Tx], object]) -> None:
    await store.write(seed)
    before = await store.read(lambda tx: (tx.lease("lease-1"), tx.step("step-1"), tx.journal_head(), tx.control()))
    with pytest.raises(StoreError):
        await store.read(writing)
    after_it = await store.read(lambda tx: (tx.lease("lease-1"), tx.step("step-1"), tx.journal_head(), tx.control()))
    assert after_it == before
