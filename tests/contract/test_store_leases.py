"""Leases in every store: each change is conditional on the state it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import methodcaller
from typing import Any

import pytest

from broker.clock import Moment
from broker.errors import StoreConflict, StoreError
from broker.model import EndReason, Evidence, Lease, LeaseState, Tier
from broker.store.base import Store, Tx
from tests.fakes.domain import NOW, after, lease, step


def change(state: LeaseState, lease_id: str = "lease-1") -> Callable[[Tx], bool]:
    """The operation that brings a lease to this state, where it may be brought there."""

    def operation(tx: Tx) -> bool:
        match state:
            case LeaseState.ACTIVE:
                return tx.activate(lease_id, epoch=1, refs={}, at=after(1))
            case LeaseState.REVOKING:
                return tx.to_revoking(lease_id, at=after(2), reason=EndReason.STEP_ENDED)
            case LeaseState.IN_DOUBT:
                return tx.to_in_doubt(lease_id, at=after(2), problem="timed out")
            case _:
                return tx.to_ended(lease_id, state, evidence=_EVIDENCE[state], at=after(3))

    return operation


_EVIDENCE = {
    LeaseState.REVOKED: Evidence.SEEN_DEAD,
    LeaseState.EXPIRED: Evidence.EXPIRED,
    LeaseState.VOID: Evidence.NOT_MINTED,
}
_PATHS: dict[LeaseState, list[LeaseState]] = {
    LeaseState.INTENT: [],
    LeaseState.ACTIVE: [LeaseState.ACTIVE],
    LeaseState.REVOKING: [LeaseState.ACTIVE, LeaseState.REVOKING],
    LeaseState.IN_DOUBT: [LeaseState.IN_DOUBT],
    LeaseState.REVOKED: [LeaseState.ACTIVE, LeaseState.REVOKING, LeaseState.REVOKED],
    LeaseState.EXPIRED: [LeaseState.ACTIVE, LeaseState.EXPIRED],
    LeaseState.VOID: [LeaseState.VOID],
}
_ALLOWED = {
    LeaseState.INTENT: {LeaseState.ACTIVE, LeaseState.REVOKING, LeaseState.VOID, LeaseState.IN_DOUBT},
    LeaseState.ACTIVE: {LeaseState.REVOKING, LeaseState.EXPIRED},
    LeaseState.REVOKING: {LeaseState.REVOKED, LeaseState.EXPIRED},
    LeaseState.IN_DOUBT: {LeaseState.REVOKING, LeaseState.EXPIRED, LeaseState.VOID},
}


async def insert(store: Store, *leases: Lease) -> None:
    def operation(tx: Tx) -> None:
        for row in leases:
            if tx.step(row.step_id) is None:
                tx.insert_step(step(row.step_id))
            tx.insert_lease(row)

    await store.write(operation)


async def bring(store: Store, state: LeaseState, row: Lease | None = None) -> Lease:
    """A lease in this state, by the way that leads there."""
    row = row or lease()
    await insert(store, row)
    for target in _PATHS[state]:
        assert await store.write(change(target, row.id))
    return await get(store, row.id)


async def get(store: Store, lease_id: str = "lease-1") -> Lease:
    found = await store.read(lambda tx: tx.lease(lease_id))
    assert found is not None
    return found


async def ids(store: Store, query: Callable[[Tx], list[Lease]]) -> list[str]:
    return [row.id for row in await store.read(query)]


async def test_a_lease_comes_back_as_it_was(store: Store) -> None:
    full = lease(replaces="older", first_mint_at=after(-60), successor_no=2, refs={"accessor": "a", "children": ["x"]})
    await insert(store, full)
    assert await get(store) == full
    assert await store.read(lambda tx: tx.leases_of("step-1")) == [full]
    assert await store.read(lambda tx: tx.leases_in(LeaseState.INTENT, LeaseState.ACTIVE)) == [full]
    assert await store.read(lambda tx: tx.leases_in(LeaseState.ACTIVE)) == []
    assert await store.read(lambda tx: tx.leases_in()) == []
    assert await store.read(lambda tx: tx.lease("nobody")) is None


async def test_a_second_lease_of_one_request_is_a_conflict(store: Store) -> None:
    """I2 rests on this."""
    await insert(store, lease())
    with pytest.raises(StoreConflict):
        await insert(store, lease("lease-2", request_id="request-of-lease-1"))
    with pytest.raises(StoreConflict):
        await insert(store, lease(request_id="another"))
    await insert(store, lease("lease-3", request_id="request-of-lease-1", agent="spiffe://test.acme/other"))
    assert len(await store.read(lambda tx: tx.leases_in(LeaseState.INTENT))) == 2


async def test_a_lease_begins_as_intent_in_a_step(store: Store) -> None:
    with pytest.raises(StoreError):
        await insert(store, lease(state=LeaseState.ACTIVE))
    with pytest.raises(StoreError):
        await store.write(lambda tx: tx.insert_lease(lease(step_id="nobody")))


@pytest.mark.parametrize("src", list(LeaseState), ids=lambda state: state.value)
async def test_only_the_drawn_state_changes_happen(store: Store, src: LeaseState) -> None:
    for dst in set(LeaseState) - {LeaseState.INTENT}:
        name = f"{src.value}-{dst.value}".lower()
        before = await bring(store, src, lease(name))
        happened = await store.write(change(dst, name))
        assert happened == (dst in _ALLOWED.get(src, set())), f"{src} -> {dst}"
        assert (await get(store, name)) == before or happened


async def test_activate_needs_its_epoch_and_no_doom(store: Store) -> None:
    await insert(store, lease(), lease("doomed"), lease("old", epoch=0))
    assert await store.write(lambda tx: tx.doom("doomed", at=after(1), reason=EndReason.STEP_ENDED))
    assert not await store.write(lambda tx: tx.activate("doomed", epoch=1, refs={}, at=after(2)))
    assert not await store.write(lambda tx: tx.activate("old", epoch=1, refs={}, at=after(2)))
    assert not await store.write(lambda tx: tx.activate("nobody", epoch=1, refs={}, at=after(2)))
    assert await store.write(lambda tx: tx.activate("lease-1", epoch=1, refs={"accessor": "a"}, at=after(2)))
    assert not await store.write(lambda tx: tx.activate("lease-1", epoch=1, refs={"accessor": "b"}, at=after(3)))
    found = await get(store)
    assert (found.state, found.active_at, found.first_mint_at) == (LeaseState.ACTIVE, after(2), after(2))
    assert found.refs == {"accessor": "a"}
    assert [row.state for row in (await get(store, "doomed"), await get(store, "old"))] == [LeaseState.INTENT] * 2


async def test_a_successor_keeps_the_first_mint_of_its_chain(store: Store) -> None:
    await bring(store, LeaseState.ACTIVE, lease(first_mint_at=after(-300), successor_no=1))
    assert (await get(store)).first_mint_at == after(-300)


async def test_notes_are_merged_while_minting_and_kept_by_the_commit(store: Store) -> None:
    await insert(store, lease(refs={"a": 1}))
    assert await store.write(lambda tx: tx.note("lease-1", epoch=1, refs={"child": {"id": "x"}}))
    assert await store.write(lambda tx: tx.note("lease-1", epoch=1, refs={"a": 2}))
    assert not await store.write(lambda tx: tx.note("lease-1", epoch=2, refs={"b": 1}))
    await store.write(lambda tx: tx.activate("lease-1", epoch=1, refs={"accessor": "z"}, at=after(1)))
    assert not await store.write(lambda tx: tx.note("lease-1", epoch=1, refs={"late": 1}))
    assert (await get(store)).refs == {"a": 2, "child": {"id": "x"}, "accessor": "z"}


async def test_doom_is_set_once_and_only_while_minting(store: Store) -> None:
    await insert(store, lease())
    assert await store.write(lambda tx: tx.doom("lease-1", at=after(1), reason=EndReason.GUARD_LOCK))
    assert not await store.write(lambda tx: tx.doom("lease-1", at=after(2), reason=EndReason.STEP_ENDED))
    found = await get(store)
    assert (found.state, found.doomed_at, found.end_reason) == (LeaseState.INTENT, after(1), EndReason.GUARD_LOCK)
    await bring(store, LeaseState.ACTIVE, lease("active"))
    assert not await store.write(lambda tx: tx.doom("active", at=after(2), reason=EndReason.STEP_ENDED))
    await insert(store, lease("doubt"))
    await store.write(lambda tx: tx.to_in_doubt("doubt", at=after(1), problem="no answer"))
    assert await store.write(lambda tx: tx.doom("doubt", at=after(2), reason=EndReason.STEP_ENDED))
    assert (await get(store, "doubt")).end_reason is EndReason.STEP_ENDED


async def test_revoking_keeps_the_first_reason_and_is_due_at_once(store: Store) -> None:
    await insert(store, lease(refs={"a": 1}))
    await store.write(lambda tx: tx.doom("lease-1", at=after(1), reason=EndReason.GUARD_LOCK))
    assert await store.write(
        lambda tx: tx.to_revoking("lease-1", at=after(2), reason=EndReason.STEP_ENDED, refs={"accessor": "b"})
    )
    found = await get(store)
    assert (found.state, found.revoking_at, found.next_try_at) == (LeaseState.REVOKING, after(2), after(2))
    assert (found.end_reason, found.refs) == (EndReason.GUARD_LOCK, {"a": 1, "accessor": "b"})
    assert await ids(store, lambda tx: tx.due_leases(after(2), 10)) == ["lease-1"]


async def test_in_doubt_is_due_at_once_and_starts_afresh_when_it_is_to_be_revoked(store: Store) -> None:
    await bring(store, LeaseState.IN_DOUBT)
    await store.write(lambda tx: tx.defer("lease-1", next_try_at=after(60), problem="unreachable"))
    found = await get(store)
    assert (found.next_try_at, found.attempts, found.last_problem) == (after(60), 1, "unreachable")
    await store.write(lambda tx: tx.to_revoking("lease-1", at=after(70), reason=EndReason.MINT_FAILED))
    found = await get(store)
    assert (found.next_try_at, found.attempts, found.last_problem) == (after(70), 0, "")


@pytest.mark.parametrize("state", [LeaseState.REVOKED, LeaseState.EXPIRED], ids=lambda state: state.value)
async def test_an_end_erases_the_nonce_and_happens_once(store: Store, state: LeaseState) -> None:
    assert (await bring(store, LeaseState.REVOKING)).nonce
    assert await store.write(change(state))
    found = await get(store)
    assert (found.state, found.nonce, found.ended_at, found.next_try_at) == (state, b"", after(3), None)
    assert found.evidence is _EVIDENCE[state]
    assert not await store.write(change(state))
    assert await get(store) == found


async def test_a_lease_ends_in_a_terminal_state_only(store: Store) -> None:
    await bring(store, LeaseState.REVOKING)
    with pytest.raises(ValueError, match="terminal"):
        await store.write(lambda tx: tx.to_ended("lease-1", LeaseState.ACTIVE, evidence=Evidence.EXPIRED, at=NOW))


async def test_defer_counts_attempts_merges_refs_and_leaves_the_ended_alone(store: Store) -> None:
    await bring(store, LeaseState.REVOKING, lease(refs={"a": 1}))
    for number in (1, 2):
        await store.write(
            methodcaller("defer", "lease-1", next_try_at=after(10 * number), problem="down", refs={"b": number})
        )
    found = await get(store)
    assert (found.attempts, found.next_try_at, found.last_problem) == (2, after(20), "down")
    assert found.refs == {"a": 1, "b": 2}
    await store.write(change(LeaseState.REVOKED))
    await store.write(lambda tx: tx.defer("lease-1", next_try_at=after(99), problem="late", refs={"c": 3}))
    found = await get(store)
    assert (found.attempts, found.next_try_at, found.refs) == (2, None, {"a": 1, "b": 2})


async def test_due_leases_are_high_tier_first_then_the_longest_waiting(store: Store) -> None:
    for name, tier, due in (
        ("late-low", Tier.LOW, 30),
        ("early-low", Tier.LOW, 10),
        ("early-elevated", Tier.ELEVATED, 20),
        ("late-high", Tier.HIGH, 40),
        ("early-high", Tier.HIGH, 15),
        ("not-yet", Tier.HIGH, 90),
    ):
        await bring(store, LeaseState.REVOKING, lease(name, tier=tier))
        await store.write(methodcaller("defer", name, next_try_at=after(due), problem=""))
    await bring(store, LeaseState.IN_DOUBT, lease("doubt"))
    await bring(store, LeaseState.ACTIVE, lease("active"))
    due_now = await ids(store, lambda tx: tx.due_leases(after(40), 10))
    assert due_now == ["early-high", "late-high", "doubt", "early-low", "early-elevated", "late-low"]
    assert await ids(store, lambda tx: tx.due_leases(after(40), 2)) == ["early-high", "late-high"]
    assert await ids(store, lambda tx: tx.due_leases(after(1), 10)) == []


async def test_what_waits_is_made_due_all_of_it_or_of_one_provider_or_by_name(store: Store) -> None:
    named = {"a": "vault", "b": "vault", "c": "aws"}
    await insert(store, *(lease(name, provider=provider) for name, provider in named.items()))

    def wait(tx: Tx) -> None:
        for name in named:
            tx.to_revoking(name, at=after(1), reason=EndReason.STEP_ENDED)
            assert tx.defer(name, next_try_at=after(100), problem="no")

    await store.write(wait)
    assert await store.write(lambda tx: tx.make_due(after(5), only={"a"})) == 1
    assert await ids(store, lambda tx: tx.due_leases(after(5), 10)) == ["a"]
    assert await store.write(lambda tx: tx.make_due(after(6), provider="aws")) == 1
    assert await ids(store, lambda tx: tx.due_leases(after(6), 10)) == ["a", "c"]
    assert await store.write(lambda tx: tx.make_due(after(7))) == 1
    assert await store.write(lambda tx: tx.make_due(after(8))) == 0
    assert await ids(store, lambda tx: tx.due_leases(after(8), 10)) == ["a", "c", "b"]


async def test_nothing_is_deferred_that_has_ended(store: Store) -> None:
    await insert(store, lease("a"))
    await store.write(lambda tx: tx.to_ended("a", LeaseState.VOID, evidence=Evidence.NOT_MINTED, at=after(1)))
    assert not await store.write(lambda tx: tx.defer("a", next_try_at=after(9), problem="late"))


async def test_leases_of_a_step_may_be_asked_for_by_state(store: Store) -> None:
    await insert(store, lease("a"), lease("b"))
    await store.write(lambda tx: tx.activate("b", epoch=1, refs={}, at=after(1)))
    assert await ids(store, lambda tx: tx.leases_of("step-1")) == ["a", "b"]
    assert await ids(store, lambda tx: tx.leases_of("step-1", LeaseState.ACTIVE)) == ["b"]


async def test_due_leases_leave_out_the_providers_named(store: Store) -> None:
    for name, provider in (("stuck", "aws"), ("free", "vault"), ("gone", "removed")):
        await bring(store, LeaseState.REVOKING, lease(name, provider=provider))
    assert sorted(await ids(store, lambda tx: tx.due_leases(after(40), 10, without=["aws"]))) == ["free", "gone"]
    assert await ids(store, lambda tx: tx.due_leases(after(40), 10, without={"aws", "vault", "removed"})) == []
    assert await ids(store, lambda tx: tx.due_leases(after(40), 1, but={"stuck", "gone"})) == ["free"]
    await bring(store, LeaseState.REVOKING, lease("high", provider="aws", tier=Tier.HIGH))
    assert await ids(store, lambda tx: tx.due_leases(after(40), 10, without={"aws", "vault", "removed"})) == ["high"]


async def test_what_another_boot_left_goes_on_by_this_ones_count(store: Store) -> None:
    now = Moment(wall=after(100), boot=7.0, boot_id="new")
    for name, boot_id in (("older", "old"), ("nameless", ""), ("own", "new")):
        await bring(store, LeaseState.ACTIVE, lease(name, expires_at=after(160), boot_id=boot_id, expires_boot=1.5))
    await store.write(lambda tx: tx.insert_step(step("other-boot", deadline_at=after(90), boot_id="old")))
    await store.write(lambda tx: tx.insert_step(step("early", deadline_at=after(60), boot_id="old")))
    await store.write(lambda tx: tx.leases_go_on_in(now))
    await store.write(lambda tx: tx.steps_go_on_in(now))
    rows = [await get(store, name) for name in ("older", "nameless", "own")]
    assert [(row.boot_id, row.expires_boot) for row in rows] == [("new", 67.0), ("new", 67.0), ("new", 1.5)]
    moved = await store.read(lambda tx: tx.step("other-boot"))
    assert moved is not None
    assert (moved.boot_id, moved.deadline_boot) == ("new", -3.0)
    assert await store.read(lambda tx: tx.live_past(now)) == ["own"]
    long_ago = Moment(wall=after(-9e8), boot=7.0, boot_id="newest")  # a machine whose clock begins in 1998
    await store.write(lambda tx: tx.leases_go_on_in(long_ago))
    await store.write(lambda tx: tx.steps_go_on_in(long_ago))
    early = await store.read(lambda tx: tx.step("early"))
    assert early is not None
    assert early.deadline_boot == 67.0, "no longer than the whole step"
    assert (await get(store, "own")).expires_boot == 167.0, "no longer than the whole life"


async def test_which_open_steps_are_past_their_deadline(store: Store) -> None:
    for name, boot_id, left, boot in (
        ("elapsed", "b1", 99, 50.0),
        ("not-yet", "b1", 1, 50.5),
        ("older-boot", "b0", 99, 1.0),
        ("by-the-wall", "b0", 20, 99.0),
        ("ended", "b1", 1, 1.0),
    ):
        key = replace(step().key, run=name)
        row = replace(step(name), key=key, deadline_at=after(left), boot_id=boot_id, deadline_boot=boot)
        await store.write(lambda tx, row=row: tx.insert_step(row))  # type: ignore[misc]
    await store.write(lambda tx: tx.end_step("ended", NOW, EndReason.STEP_ENDED))

    async def past(boot_id: str) -> list[str]:
        now = Moment(wall=after(20), boot=50.0, boot_id=boot_id)
        found = await store.read(lambda tx: tx.open_step_ids(now))
        assert set(found) == {one.id for one in await store.read(lambda tx: tx.open_steps())}
        return sorted(step_id for step_id, over in found.items() if over)

    assert await past("b1") == ["by-the-wall", "elapsed"]
    assert await past("") == ["by-the-wall", "not-yet"]


async def test_counts_are_of_what_is_not_over(store: Store) -> None:
    assert not await store.read(lambda tx: tx.lease_counts())
    for name, state in (("a", LeaseState.ACTIVE), ("b", LeaseState.ACTIVE), ("c", LeaseState.REVOKING)):
        await bring(store, state, lease(name))
    await bring(store, LeaseState.REVOKED, lease("d"))
    counts = dict(await store.read(lambda tx: tx.lease_counts()))
    assert counts == {LeaseState.ACTIVE: 2, LeaseState.REVOKING: 1}
    opened = await store.read(lambda tx: tx.open_step_count())
    assert opened == len(await store.read(lambda tx: tx.open_steps())) > 0


async def test_live_past_finds_active_leases_at_their_bound(store: Store) -> None:
    for name, bound in (("b", 20), ("a", 10), ("c", 30)):
        await bring(store, LeaseState.ACTIVE, lease(name, expires_at=after(bound)))
    await insert(store, lease("minting", expires_at=after(5)))
    now = Moment(wall=after(20), boot=50.0, boot_id="b1")
    assert await store.read(lambda tx: tx.live_past(now)) == ["a", "b"]
    nameless = Moment(wall=after(20), boot=50.0, boot_id="")
    assert await store.read(lambda tx: tx.live_past(nameless)) == ["a", "b"]
    for name, boot_id, boot in (("elapsed", "b1", 50.0), ("not-yet", "b1", 50.5), ("older-boot", "b0", 1.0)):
        await bring(
            store,
            LeaseState.ACTIVE,
            lease(name, expires_at=after(1) if name == "not-yet" else after(99), boot_id=boot_id, expires_boot=boot),
        )
    assert await store.read(lambda tx: tx.live_past(now)) == ["a", "b", "elapsed"]


async def test_unclaimed_is_what_no_heartbeat_named(store: Store) -> None:
    await insert(store, lease("minting"))
    for name in ("claimed", "unclaimed"):
        await bring(store, LeaseState.ACTIVE, lease(name))
    assert await store.write(lambda tx: tx.claim("claimed", after(2)))
    assert await store.read(lambda tx: tx.unclaimed()) == ["unclaimed"]
    await store.write(change(LeaseState.REVOKING, lease_id="unclaimed"))
    assert await store.read(lambda tx: tx.unclaimed()) == []


async def test_a_lease_is_claimed_once_and_only_while_active(store: Store) -> None:
    await insert(store, lease())
    assert not await store.write(lambda tx: tx.claim("lease-1", after(1)))
    await store.write(change(LeaseState.ACTIVE))
    assert await store.write(lambda tx: tx.claim("lease-1", after(2)))
    assert not await store.write(lambda tx: tx.claim("lease-1", after(3)))
    assert (await get(store)).claimed_at == after(2)


async def test_a_lease_has_one_successor_at_a_time(store: Store) -> None:
    await insert(store, lease())
    assert not await store.write(lambda tx: tx.set_replaced_by("lease-1", "s1"))
    await store.write(change(LeaseState.ACTIVE))
    assert await store.write(lambda tx: tx.set_replaced_by("lease-1", "s1"))
    assert not await store.write(lambda tx: tx.set_replaced_by("lease-1", "s2"))
    await store.write(lambda tx: tx.clear_replaced_by("lease-1", "s2"))
    assert (await get(store)).replaced_by == "s1"
    await store.write(lambda tx: tx.clear_replaced_by("lease-1", "s1"))
    assert await store.write(lambda tx: tx.set_replaced_by("lease-1", "s2"))


async def test_what_a_caller_changes_afterwards_is_not_in_the_store(store: Store) -> None:
    params: dict[str, Any] = {"role": "orders-ro", "list": [1]}
    await insert(store, lease(params=params, address="2001:db8::7"))
    params["list"].append(2)
    assert (await get(store)).params == {"role": "orders-ro", "list": [1]}
    assert (await get(store)).address == "2001:db8::7"


async def test_the_children_of_live_leases_are_known_by_provider(store: Store) -> None:
    """What tells an orphan at the provider from an honest neighbour."""
    await insert(store, lease("lease-1", refs={"accessor": "a", "children": ["x", "y"]}))
    await insert(store, lease("lease-2", refs={}))
    await insert(store, lease("lease-3", provider="aws", refs={"children": ["foreign"]}))
    await bring(store, LeaseState.REVOKED, lease("lease-4", refs={"children": ["gone"]}))
    await bring(store, LeaseState.REVOKING, lease("lease-5", refs={"children": ["going"]}))
    assert await store.read(lambda tx: tx.known_children("vault")) == {"x", "y", "going"}
    assert await store.read(lambda tx: tx.known_children("dev")) == frozenset()


async def test_pages_hold_every_lease_of_a_state_once_in_the_order_of_intents(store: Store) -> None:
    for number in range(7):
        tier = Tier.HIGH if number % 3 == 0 else Tier.LOW
        await bring(store, LeaseState.ACTIVE, lease(f"lease-{number}", tier=tier))
    await bring(store, LeaseState.REVOKED, lease("dead"))
    await bring(store, LeaseState.INTENT, lease("coming", tier=Tier.HIGH))

    async def pages(state: LeaseState, *, high: bool, limit: int = 3) -> list[list[str]]:
        found: list[list[str]] = []
        page, last = await store.read(methodcaller("lease_page", state, after=0, limit=limit, high=high))
        while page:
            found.append([row.id for row in page])
            page, last = await store.read(methodcaller("lease_page", state, after=last, limit=limit, high=high))
        return found

    assert await pages(LeaseState.ACTIVE, high=False) == [
        ["lease-0", "lease-1", "lease-2"],
        ["lease-3", "lease-4", "lease-5"],
        ["lease-6"],
    ]
    assert await pages(LeaseState.ACTIVE, high=True, limit=2) == [["lease-0", "lease-3"], ["lease-6"]]
    assert await pages(LeaseState.INTENT, high=False) == await pages(LeaseState.INTENT, high=True) == [["coming"]]
    assert await pages(LeaseState.IN_DOUBT, high=True) == []


async def test_a_lease_that_ends_between_two_pages_moves_no_other_out_of_sight(store: Store) -> None:
    for number in range(4):
        await bring(store, LeaseState.ACTIVE, lease(f"lease-{number}"))
    first, after = await store.read(lambda tx: tx.lease_page(LeaseState.ACTIVE, after=0, limit=2))
    await store.write(lambda tx: tx.to_revoking(first[0].id, at=NOW, reason=EndReason.STEP_ENDED))
    rest, _ = await store.read(lambda tx: tx.lease_page(LeaseState.ACTIVE, after=after, limit=5))
    assert [row.id for row in rest] == ["lease-2", "lease-3"]
