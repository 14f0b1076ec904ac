"""What every store does: control, epochs, steps, requests, guard. Leases and transactions are beside it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from operator import methodcaller

import pytest

from broker.errors import StoreConflict, StoreError
from broker.model import Bind, Certificate, EndReason, StepState
from broker.store.base import Epoch, RequestOutcome, Store
from broker.store.guard import GuardClock, GuardState
from broker.store.halts import EVERYTHING, Freeze
from tests.fakes.domain import AGENT, CERTIFICATE, NOW, after, guard_row, request, step


async def test_a_new_store_has_an_installation_id_and_nothing_else(empty_store: Store) -> None:
    control = await empty_store.read(lambda tx: tx.control())
    assert len(bytes.fromhex(control.installation)) == 16
    assert (dict(control.key_fingerprints), control.policy_generation, control.frozen) == ({}, 0, False)
    assert await empty_store.read(lambda tx: tx.epoch()) is None
    assert await empty_store.read(lambda tx: tx.journal_head()) is None


async def test_key_fingerprints_are_kept_and_never_replaced(store: Store) -> None:
    for kid, fingerprint in (("k1", "aa"), ("k2", "bb"), ("k1", "aa")):
        await store.write(methodcaller("add_key_fingerprint", kid, fingerprint))
    with pytest.raises(StoreConflict):
        await store.write(lambda tx: tx.add_key_fingerprint("k1", "cc"))
    control = await store.read(lambda tx: tx.control())
    assert dict(control.key_fingerprints) == {"k1": "aa", "k2": "bb"}


async def test_the_generation_counts_up_and_frozen_is_a_switch(store: Store) -> None:
    assert [await store.write(lambda tx: tx.raise_generation()) for _ in range(3)] == [1, 2, 3]
    assert await store.write(lambda tx: tx.add_freeze(Freeze(id=EVERYTHING, by="ann", reason="drill", at=NOW)))
    assert (await store.read(lambda tx: tx.control())).frozen is True
    assert await store.write(lambda tx: tx.remove_freeze(EVERYTHING))
    control = await store.read(lambda tx: tx.control())
    assert (control.frozen, control.policy_generation) == (False, 3)


async def test_only_the_newest_epoch_is_renewed(store: Store) -> None:
    assert await store.write(lambda tx: tx.renew_epoch(1, 20.5))
    assert await store.read(lambda tx: tx.epoch()) == Epoch(id=1, replica="a", boot_id="boot", expires_boot=20.5)
    second = await store.write(lambda tx: tx.start_epoch(replica="b", boot_id="boot", expires_boot=30, at=NOW))
    assert second == 2
    assert not await store.write(lambda tx: tx.renew_epoch(1, 99.0))
    assert await store.read(lambda tx: tx.epoch()) == Epoch(id=2, replica="b", boot_id="boot", expires_boot=30.0)


async def test_a_step_comes_back_as_it_was(store: Store) -> None:
    first = step(
        proven=True,
        definition_digest="sha256:ab",
        opened_by="spiffe://test.acme/launcher",
        started_at=after(7),
        bind=Bind.KEY,
        certificate=CERTIFICATE,
    )
    await store.write(lambda tx: tx.insert_step(first))
    assert await store.read(lambda tx: tx.step(first.id)) == first
    assert await store.read(lambda tx: tx.step_by_handle(first.handle_hash)) == first
    assert await store.read(lambda tx: tx.step("nobody")) is None
    assert await store.read(lambda tx: tx.step_by_handle(b"nothing")) is None


async def test_a_step_starts_once_and_only_while_it_is_open(store: Store) -> None:
    await store.write(lambda tx: tx.insert_step(step()))
    await store.write(lambda tx: tx.insert_step(step("ended")))
    await store.write(lambda tx: tx.end_step("ended", after(1), EndReason.OPERATOR))
    assert [
        await store.write(methodcaller("start_step", name, at, certificate=held[0], bind=held[1]))
        for name, at, held in (
            ("step-1", after(5), (CERTIFICATE, Bind.KEY)),
            ("step-1", after(9), (Certificate(spki_sha256="ff"), Bind.IDENTITY)),
            ("ended", after(9), (CERTIFICATE, Bind.KEY)),
            ("nobody", after(9), (CERTIFICATE, Bind.KEY)),
        )
    ] == [True, False, False, False]
    found = await store.read(lambda tx: [tx.step("step-1"), tx.step("ended")])
    assert found == [
        replace(step(), started_at=after(5), certificate=CERTIFICATE, bind=Bind.KEY),
        replace(step("ended"), state=StepState.ENDED, ended_at=after(1), end_reason=EndReason.OPERATOR),
    ]


async def test_the_latest_attempt_is_the_greatest_one(store: Store) -> None:
    first = step("a1")
    second = replace(step("a2"), key=first.key, attempt=2)
    await store.write(lambda tx: tx.insert_step(second))
    await store.write(lambda tx: tx.insert_step(first))
    assert await store.read(lambda tx: tx.latest_attempt(first.key)) == second
    assert await store.read(lambda tx: tx.latest_attempt(replace(first.key, run="other"))) is None


async def test_an_attempt_an_id_and_a_handle_exist_once(store: Store) -> None:
    first = step("a1")
    await store.write(lambda tx: tx.insert_step(first))
    for other in (
        replace(step("a2"), key=first.key),
        replace(step("a3"), id="a1"),
        replace(step("a4"), handle_hash=first.handle_hash),
    ):
        with pytest.raises(StoreConflict):
            await store.write(methodcaller("insert_step", other))
    assert await store.read(lambda tx: tx.open_steps()) == [first]


async def test_a_heartbeat_never_moves_back_and_none_counts_after_the_end(store: Store) -> None:
    await store.write(lambda tx: tx.insert_step(step()))
    for at in (after(20), after(10)):
        await store.write(methodcaller("beat", "step-1", at))
    found = await store.read(lambda tx: tx.step("step-1"))
    assert found is not None
    assert found.last_heartbeat_at == after(20)
    await store.write(lambda tx: tx.end_step("step-1", after(25), EndReason.SILENT))
    await store.write(lambda tx: tx.beat("step-1", after(30)))
    found = await store.read(lambda tx: tx.step("step-1"))
    assert found is not None
    assert found.last_heartbeat_at == after(20)


async def test_a_step_ends_once(store: Store) -> None:
    await store.write(lambda tx: tx.insert_step(step("later", opened_at=after(1))))
    await store.write(lambda tx: tx.insert_step(step()))
    assert [found.id for found in await store.read(lambda tx: tx.open_steps())] == ["step-1", "later"]
    assert await store.write(lambda tx: tx.end_step("step-1", after(5), EndReason.STEP_ENDED))
    assert not await store.write(lambda tx: tx.end_step("step-1", after(9), EndReason.SILENT))
    assert not await store.write(lambda tx: tx.end_step("nobody", after(9), EndReason.SILENT))
    found = await store.read(lambda tx: tx.step("step-1"))
    assert found is not None
    assert (found.state, found.ended_at, found.end_reason) == (StepState.ENDED, after(5), EndReason.STEP_ENDED)
    assert [found.id for found in await store.read(lambda tx: tx.open_steps())] == ["later"]


async def test_a_request_is_unique_per_caller(store: Store) -> None:
    first = request(step_id="step-1")
    await store.write(lambda tx: tx.insert_request(first))
    assert await store.read(lambda tx: tx.request(AGENT, first.request_id)) == first
    with pytest.raises(StoreConflict):
        await store.write(lambda tx: tx.insert_request(request(method="EndStep")))
    await store.write(lambda tx: tx.insert_request(request(caller="spiffe://test.acme/other")))
    assert await store.read(lambda tx: tx.request("spiffe://test.acme/third", first.request_id)) is None


async def test_a_request_is_finished_and_forgotten(store: Store) -> None:
    for number in range(3):
        await store.write(methodcaller("insert_request", request(f"r{number}", keep_until=after(number))))
    await store.write(
        lambda tx: tx.finish_request(AGENT, "r2", RequestOutcome.FAILED, reason="PROVIDER_FAILED", message="no")
    )
    assert await store.write(lambda tx: tx.forget_requests(after(1))) == 1
    assert await store.read(lambda tx: tx.request(AGENT, "r0")) is None
    assert await store.read(lambda tx: tx.request(AGENT, "r1")) == request("r1", keep_until=after(1))
    finished = await store.read(lambda tx: tx.request(AGENT, "r2"))
    assert finished is not None
    assert (finished.outcome, finished.reason, finished.message) == (RequestOutcome.FAILED, "PROVIDER_FAILED", "no")


async def test_a_guard_row_is_put_and_replaced(store: Store) -> None:
    first = guard_row()
    await store.write(lambda tx: tx.put_guard_row(first))
    assert await store.read(lambda tx: tx.guard_row(first.key)) == first
    locked = replace(
        first,
        spent=3,
        admitted=4,
        failures=1,
        state=GuardState.LOCKED,
        until=after(3600),
        cool=timedelta(seconds=20, microseconds=1),
        refilled_at=NOW,
        locked_at=(NOW, after(1)),
        hour_exhausted_at=(after(2),),
        reset_by="ann",
        reset_at=after(3),
    )
    await store.write(lambda tx: tx.put_guard_row(locked))
    assert await store.read(lambda tx: tx.guard_row(first.key)) == locked
    assert await store.read(lambda tx: tx.guard_row("unknown")) is None


async def test_a_charge_counts_in_its_window_until_it_is_given_back(store: Store) -> None:
    for lease_id, hour_key, at in (("l1", "h", 0), ("l2", "h", 10), ("l3", "h", 20), ("l4", "other", 20)):
        await store.write(methodcaller("add_charge", lease_id=lease_id, key="k", hour_key=hour_key, at=after(at)))
    assert await store.read(lambda tx: tx.count_charges("h", after(10))) == 2
    with pytest.raises(StoreConflict):
        await store.write(lambda tx: tx.add_charge(lease_id="l1", key="k", hour_key="h", at=NOW))
    assert await store.write(lambda tx: tx.return_charge("l3"))
    assert not await store.write(lambda tx: tx.return_charge("l3"))
    assert not await store.write(lambda tx: tx.return_charge("nobody"))
    assert await store.read(lambda tx: tx.count_charges("h", NOW)) == 2


async def test_the_nth_newest_charge_says_when_a_window_was_filled(store: Store) -> None:
    for number, at in enumerate((5, 0, 20, 10, 10)):
        await store.write(methodcaller("add_charge", lease_id=f"l{number}", key="k", hour_key="h", at=after(at)))
    await store.write(methodcaller("add_charge", lease_id="other", key="k", hour_key="other", at=after(30)))

    async def nth(n: int, since: float = 0) -> datetime | None:
        return await store.read(lambda tx: tx.nth_charge(n, hour_key="h", since=after(since)))

    assert [await nth(n) for n in range(1, 7)] == [*map(after, (20, 10, 10, 5, 0)), None]
    assert [await nth(n, since=10) for n in (3, 4)] == [after(10), None]
    assert await store.write(lambda tx: tx.return_charge("l2"))
    assert await nth(1) == after(10)


async def test_a_charge_of_a_shared_limit_counts_over_all_agents(store: Store) -> None:
    for lease_id, hour_key, shared, at in (
        ("l1", "h", "lake", 0),
        ("l2", "other", "lake", 10),
        ("l3", "h", "lake", 20),
        ("l4", "h", None, 20),
        ("l5", "h", "sea", 20),
    ):
        charge = methodcaller("add_charge", lease_id=lease_id, key="k", hour_key=hour_key, at=after(at), shared=shared)
        await store.write(charge)

    async def of_all(n: int, shared: str = "lake", since: float = 0) -> datetime | None:
        return await store.read(lambda tx: tx.nth_shared(n, shared=shared, since=after(since)))

    assert [await of_all(n) for n in (1, 2, 3, 4)] == [after(20), after(10), NOW, None]
    assert [await of_all(n, since=10) for n in (2, 3)] == [after(10), None]
    assert await store.write(lambda tx: tx.return_charge("l2"))
    assert [await of_all(n) for n in (1, 2, 3)] == [after(20), NOW, None]
    assert await of_all(1, "unknown") is None
    assert await store.read(lambda tx: tx.count_charges("h", NOW)) == 4


async def test_the_guard_clock_is_kept_exactly(store: Store) -> None:
    assert await store.read(lambda tx: tx.guard_clock()) is None
    for seconds in (0.000001, 1.5):
        clock = GuardClock(at=after(seconds), wall=after(-seconds), boot=seconds, boot_id=f"b{seconds}")
        await store.write(methodcaller("set_guard_clock", clock))
        assert await store.read(lambda tx: tx.guard_clock()) == clock
    with pytest.raises(TypeError):
        await store.write(methodcaller("set_guard_clock", replace(clock, at=NOW.replace(tzinfo=None))))


async def test_a_naive_time_is_refused(store: Store) -> None:
    with pytest.raises(TypeError):
        await store.write(lambda tx: tx.insert_step(step(deadline_at=NOW.replace(tzinfo=None))))
    assert await store.read(lambda tx: tx.open_steps()) == []


async def test_a_closed_store_says_so(empty_store: Store) -> None:
    await empty_store.close()
    with pytest.raises(StoreError, match="closed"):
        await empty_store.write(lambda tx: tx.raise_generation())
    with pytest.raises(StoreError, match="closed"):
        await empty_store.read(lambda tx: tx.control())
