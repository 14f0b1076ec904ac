from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from broker.errors import Reason
from broker.model import EndReason, Evidence, LeaseState, VaultToken
from broker.providers.base import Minted, MintOrder
from tests.fakes.provider import FakeProvider
from tests.fakes.world import ANN, MAP, OTHER, World, agent, everything, new_id, refusal, world


async def test_a_credential_is_minted_committed_and_delivered(broker: World) -> None:
    opened = await broker.begin()
    delivered = await broker.issue(opened.handle)
    assert delivered.lease.state is LeaseState.ACTIVE
    assert isinstance(delivered.credential, VaultToken)
    assert delivered.credential.token.reveal() == f"secret-of-{delivered.lease.id}"
    kinds = await broker.journal_kinds()
    assert kinds.index("LEASE_INTENT") < kinds.index("LEASE_ACTIVE")


async def test_the_secret_is_in_no_row(broker: World) -> None:
    opened = await broker.begin()
    delivered = await broker.issue(opened.handle)
    assert isinstance(delivered.credential, VaultToken)
    assert delivered.credential.token.reveal() not in repr(await broker.lease(delivered.lease.id))


async def test_concurrent_duplicates_share_one_mint(broker: World) -> None:
    opened = await broker.begin()
    request_id = new_id()
    answers = await asyncio.gather(*(broker.issue(opened.handle, request_id=request_id) for _ in range(20)))
    assert {answer.lease.id for answer in answers} == {answers[0].lease.id}
    assert len(broker.backend.mints) == 1


async def test_a_replay_in_the_claim_window_gets_the_same_credential(broker: World) -> None:
    opened = await broker.begin()
    request_id = new_id()
    first = await broker.issue(opened.handle, request_id=request_id)
    again = await broker.issue(opened.handle, request_id=request_id)
    assert again.credential is first.credential
    assert len(broker.backend.mints) == 1


async def test_a_replay_after_a_restart_is_lost_and_its_lease_revoked(broker: World) -> None:
    opened = await broker.begin()
    request_id = new_id()
    lease = (await broker.issue(opened.handle, request_id=request_id)).lease
    await broker.engine.heartbeat(agent(), opened.handle, [lease.id])  # claimed: it survives the restart
    await broker.crash()
    await broker.start()
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE
    error = await refusal(broker.issue(opened.handle, request_id=request_id))
    assert error.reason is Reason.REPLAY_LOST
    assert (await broker.lease(lease.id)).end_reason is EndReason.REPLAY_LOST
    assert len(broker.backend.mints) == 1
    await broker.until(broker.nothing_alive)


async def test_a_replay_of_an_ended_lease_says_so(broker: World) -> None:
    opened = await broker.begin()
    request_id = new_id()
    lease = (await broker.issue(opened.handle, request_id=request_id)).lease
    await broker.engine.revoke_lease(
        agent(), request_id=new_id(), handle=opened.handle, lease_id=lease.id, wait_seconds=5
    )
    error = await refusal(broker.issue(opened.handle, request_id=request_id))
    assert error.reason is Reason.LEASE_ENDED


async def test_a_replay_of_a_failed_mint_gets_the_recorded_reason_and_mints_nothing(broker: World) -> None:
    opened = await broker.begin()
    request_id = new_id()
    broker.provider.fail = "refuse"
    first = await refusal(broker.issue(opened.handle, request_id=request_id))
    broker.provider.fail = ""
    again = await refusal(broker.issue(opened.handle, request_id=request_id))
    assert first.reason is again.reason is Reason.PROVIDER_FAILED
    assert first.message == again.message
    assert broker.provider.seen.count("mint") == 1


async def test_a_definite_refusal_is_void_and_gives_the_charge_back(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.fail = "refuse"
    await refusal(broker.issue(opened.handle))
    [lease] = await broker.leases()
    assert (lease.state, lease.evidence) == (LeaseState.VOID, Evidence.NOT_MINTED)
    row = await broker.store.read(lambda tx: tx.guard_row(lease.guard_key))
    assert row is not None
    assert row.spent == 0


async def test_a_lost_answer_is_in_doubt_and_what_landed_is_killed(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.fail = "lose-answer"
    error = await refusal(broker.issue(opened.handle))
    assert error.reason is Reason.PROVIDER_FAILED
    [lease] = await broker.leases()
    await broker.until(broker.nothing_alive)
    assert (await broker.lease(lease.id)).state is LeaseState.IN_DOUBT  # a late one may still land
    await broker.fake_clock.run(120, step=5)

    async def proven() -> bool:
        return (await broker.lease(lease.id)).state.terminal

    await broker.until(proven)
    row = await broker.lease(lease.id)
    assert (row.state, row.evidence) == (LeaseState.REVOKED, Evidence.SEEN_DEAD)


async def test_a_lost_request_ends_void_and_is_given_back_with_the_proof(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.fail = "lose-request"
    await refusal(broker.issue(opened.handle))
    [lease] = await broker.leases()
    spent = await broker.store.read(lambda tx: tx.guard_row(lease.guard_key))
    assert spent is not None
    assert spent.spent == 1  # until it is proven that nothing was made
    await broker.fake_clock.run(120, step=5)

    async def proven() -> bool:
        return (await broker.lease(lease.id)).state is LeaseState.VOID

    await broker.until(proven)
    after = await broker.store.read(lambda tx: tx.guard_row(lease.guard_key))
    assert after is not None
    assert after.spent == 0


async def test_a_client_that_vanishes_cancels_no_mint(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    caller.cancel()
    await asyncio.sleep(0)
    broker.provider.after_landing.set()

    async def settled() -> bool:
        return [lease.state for lease in await broker.leases()] == [LeaseState.ACTIVE]

    await broker.until(settled)
    await broker.fake_clock.run(60)  # nobody claims it
    await broker.until(broker.nothing_alive)
    [lease] = await broker.leases()
    assert lease.end_reason is EndReason.UNCLAIMED


async def test_a_claimed_credential_outlives_the_claim_window(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    for _ in range(6):
        await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
        await broker.fake_clock.run(10)
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE


async def test_a_scope_not_named_at_begin_is_refused(broker: World) -> None:
    opened = await broker.begin(["plain"])
    error = await refusal(broker.issue(opened.handle, "elevated"))
    assert error.reason is Reason.SCOPE_NOT_NAMED


@pytest.mark.parametrize("unfrozen", [False, True])
async def test_freezing_stops_the_mint_that_is_in_flight_also_when_it_is_taken_back(
    broker: World, *, unfrozen: bool
) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    await broker.engine.orders.freeze(everything(), ANN)
    if unfrozen:
        await broker.engine.orders.unfreeze("all", ANN)
    broker.provider.after_landing.set()
    error = await refusal(caller)
    assert error.reason is Reason.FROZEN
    await broker.until(broker.nothing_alive)
    if not unfrozen:
        assert (await refusal(broker.issue(opened.handle))).reason is Reason.FROZEN


async def test_a_map_that_takes_the_grant_away_stops_the_mint_that_is_in_flight(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    broker.map_file.write_text(MAP.replace("scopes: [plain, elevated, danger, timed]", "scopes: [elevated]"))
    assert await broker.policies.reload()
    broker.provider.after_landing.set()
    error = await refusal(caller)
    assert error.reason is Reason.ACCESS_DENIED
    await broker.until(broker.nothing_alive)
    [lease] = await broker.leases()
    assert lease.end_reason is EndReason.POLICY_CHANGED


async def test_a_map_that_still_grants_lets_the_mint_in_flight_through(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    broker.map_file.write_text(MAP + "# another text\n")
    assert await broker.policies.reload()
    broker.provider.after_landing.set()
    assert (await caller).lease.state is LeaseState.ACTIVE


async def test_a_lease_never_outlives_its_step(broker: World) -> None:
    opened = await broker.begin()
    broker.fake_clock.advance(2 * 3600 - 120)  # two minutes before the step's deadline
    await broker.fake_clock.run(6)
    lease = (await broker.issue(opened.handle)).lease
    assert lease.expires_at == opened.step.deadline_at


async def test_less_than_a_minute_is_refused(broker: World) -> None:
    opened = await broker.begin()
    broker.fake_clock.advance(2 * 3600 - 50)
    await broker.fake_clock.run(6)
    assert (await refusal(broker.issue(opened.handle))).reason is Reason.TTL_TOO_SHORT


async def test_a_successor_takes_over_when_it_is_claimed(broker: World) -> None:
    opened = await broker.begin()
    older = (await broker.issue(opened.handle)).lease
    await broker.engine.heartbeat(agent(), opened.handle, [older.id])
    assert (await refusal(broker.issue(opened.handle, replaces=older.id))).reason is Reason.NOT_REPLACEABLE
    broker.fake_clock.advance(401)  # past 2/3 of ten minutes
    await broker.fake_clock.run(6)
    newer = (await broker.issue(opened.handle, replaces=older.id)).lease
    assert (await broker.lease(older.id)).state is LeaseState.ACTIVE
    assert (await refusal(broker.issue(opened.handle, replaces=older.id))).reason is Reason.NOT_REPLACEABLE
    await broker.engine.heartbeat(agent(), opened.handle, [older.id, newer.id])
    assert (await broker.lease(older.id)).end_reason is EndReason.REPLACED


async def test_a_foreign_lease_cannot_be_replaced_or_revoked(broker: World) -> None:
    mine, theirs = await broker.begin(), await broker.begin(who=agent(OTHER))
    lease = (await broker.issue(theirs.handle, who=agent(OTHER))).lease
    replaced = await refusal(broker.issue(mine.handle, replaces=lease.id))
    revoked = await refusal(
        broker.engine.revoke_lease(agent(), request_id=new_id(), handle=mine.handle, lease_id=lease.id, wait_seconds=0)
    )
    assert replaced.reason is revoked.reason is Reason.ACCESS_DENIED
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE


async def test_expiry_revokes_what_a_clock_cannot_prove_dead(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    for _ in range(61):
        await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
        await broker.fake_clock.run(10, step=10)
    await broker.until(broker.nothing_alive)
    row = await broker.lease(lease.id)
    assert (row.end_reason, row.evidence) == (EndReason.LEASE_EXPIRED, Evidence.SEEN_DEAD)


async def test_the_clock_is_evidence_only_where_the_verifier_enforces_time(broker: World) -> None:
    opened = await broker.begin(["timed"])
    lease = (await broker.issue(opened.handle, "timed")).lease
    broker.core.providers["timed"].proves = False  # type: ignore[attr-defined]  # the fake's own switch
    ended = await asyncio.wait_for(broker.end(opened.handle, wait=60), 5)  # waiting longer could prove nothing
    assert not ended.all_proven
    assert ended.outcomes[0].exposed_until == lease.expires_at
    broker.fake_clock.advance(600 - 5)
    await broker.fake_clock.run(3)
    assert (await broker.lease(lease.id)).state is LeaseState.REVOKING
    broker.fake_clock.advance(timedelta(seconds=60).total_seconds())
    await broker.fake_clock.run(20)
    await broker.until(lambda: _is(broker, lease.id, LeaseState.EXPIRED))


async def _is(broker: World, lease_id: str, state: LeaseState) -> bool:
    broker.core.lane.set()
    return (await broker.lease(lease_id)).state is state


class Notes(FakeProvider):
    """Puts on record what it makes on the way."""

    async def mint(self, order: MintOrder) -> Minted:
        await order.note({"made": "on the way", "accessor": "not yet"})
        return await super().mint(order)


async def test_what_is_answered_is_the_row_as_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with what its provider noted meanwhile, and of a successor."""
    monkeypatch.setattr("tests.fakes.world.FakeProvider", Notes)
    async with world(tmp_path, sqlite=True) as broker:
        opened = await broker.begin()
        first = (await broker.issue(opened.handle)).lease
        assert first == await broker.lease(first.id)
        assert first.refs == {"made": "on the way", "accessor": "a"}
        await broker.engine.heartbeat(agent(), opened.handle, [first.id])
        for _ in range(50):
            broker.fake_clock.advance(10)
            await broker.engine.renew()
        newer = (await broker.issue(opened.handle, replaces=first.id)).lease
        assert newer == await broker.lease(newer.id)
        assert newer.first_mint_at == first.first_mint_at
