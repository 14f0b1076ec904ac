"""What ends when someone is no longer let in, and what becomes of it when the database cannot write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.errors import Reason, StoreError
from broker.identity import FrontDoor
from broker.leases import admission, moves
from broker.leases.epoch import epoch_lost
from broker.model import Certificate, EndReason, LeaseState, StepState
from tests.fakes.clock import FakeClock
from tests.fakes.launchers import SCHEDULER, launcher
from tests.fakes.world import LOAD, OTHER, World, agent, refusal, world
from tests.support.certs import TestCA
from tests.support.doors import door, settle
from tests.support.processes import wait_until


class Denials:
    """The deny list that this broker goes by."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "denied.toml"
        self.path.write_text("")
        self.door: FrontDoor = door(TestCA(folder, "dev.local").root_path, "dev.local", deny=self.path)

    def write(self, *agents: str) -> None:
        self.path.write_text("".join(f'[[denied]]\nagent = "{one}"\n' for one in agents))


@pytest.fixture
def denials(tmp_path: Path) -> Denials:
    return Denials(tmp_path)


@pytest.fixture
async def broker(tmp_path: Path, denials: Denials) -> AsyncIterator[World]:
    async with world(tmp_path, door=denials.door) as made:
        yield made


async def closely(broker: World) -> None:
    """One look at every file."""
    assert broker.engine._admission
    await broker.engine._admission.look(closely=True)


async def look(broker: World) -> None:
    """Until what has changed has been seen twice."""
    await closely(broker)
    await closely(broker)


async def test_steps_and_credentials_of_the_denied_end_and_nobody_elses(broker: World, denials: Denials) -> None:
    mine, others = await broker.begin(), await broker.begin(who=agent(OTHER))
    held = await broker.issue(mine.handle)
    kept = await broker.issue(others.handle, who=agent(OTHER))
    denials.write(LOAD)
    await look(broker)
    step = await broker.step_row(mine)
    assert (step.state, step.end_reason) == (StepState.ENDED, EndReason.AGENT_DENIED)
    assert (await broker.lease(held.lease.id)).end_reason is EndReason.AGENT_DENIED
    assert (await broker.lease(kept.lease.id)).state is LeaseState.ACTIVE
    assert (await broker.step_row(others)).state is StepState.OPEN
    (loaded,) = await broker.journal("TRUST_LOADED")
    assert (loaded["data"]["what"], loaded["data"]["denied"]) == (["deny list"], 1)


async def test_what_a_denied_launcher_has_opened_ends(broker: World, denials: Denials) -> None:
    await broker.set_launchers(launcher())
    opened = await broker.launch()
    denials.write(SCHEDULER)
    await look(broker)
    assert (await broker.step_row(opened)).end_reason is EndReason.AGENT_DENIED


async def test_what_a_denied_certificate_asked_for_ends_and_its_step_goes_on(broker: World, denials: Denials) -> None:
    mine, stolen = (replace(agent(), certificate=Certificate(spki_sha256=key * 64)) for key in "ab")
    opened = await broker.begin(who=mine)
    kept, taken = await broker.issue(opened.handle, who=mine), await broker.issue(opened.handle, who=stolen)
    denials.path.write_text(f'[[denied]]\nkey = "sha256:{"b" * 64}"\n')
    await look(broker)
    assert (await broker.lease(taken.lease.id)).end_reason is EndReason.AGENT_DENIED
    assert (await broker.lease(kept.lease.id)).state is LeaseState.ACTIVE
    assert (await broker.step_row(opened)).state is StepState.OPEN


async def test_more_than_fit_in_one_transaction_end_all(
    broker: World, denials: Denials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "PAGE", 2)
    stolen = replace(agent(), certificate=Certificate(spki_sha256="b" * 64))
    opened = await broker.begin()
    taken = [await broker.issue(opened.handle, who=stolen) for _ in range(5)]
    denials.path.write_text(f'[[denied]]\nkey = "sha256:{"b" * 64}"\n')
    await look(broker)
    assert {(await broker.lease(one.lease.id)).end_reason for one in taken} == {EndReason.AGENT_DENIED}


async def test_what_was_begun_with_a_denied_certificate_ends(broker: World, denials: Denials) -> None:
    opened = await broker.begin(who=replace(agent(), certificate=Certificate(serial_number="7b22", issuer="CN=a")))
    denials.path.write_text('[[denied]]\nserial = "7b22"\n')
    await look(broker)
    assert (await broker.step_row(opened)).end_reason is EndReason.AGENT_DENIED


async def test_who_was_denied_while_the_broker_was_away(broker: World, denials: Denials) -> None:
    opened = await broker.begin()
    await broker.crash()
    denials.write(LOAD)
    settle(denials.door)  # as a start reads it
    await broker.start()
    await broker.until(lambda: ended(broker, opened))


async def ended(broker: World, opened: Any) -> bool:
    return (await broker.step_row(opened)).end_reason is EndReason.AGENT_DENIED


async def test_nothing_is_opened_or_minted_for_one_who_was_denied_on_the_way(broker: World, denials: Denials) -> None:
    """The certificate was looked at before; the transaction looks again."""
    opened = await broker.begin()
    denials.write(LOAD)
    settle(denials.door)
    assert (await refusal(broker.begin(run="r2"))).reason is Reason.AGENT_DENIED
    assert (await refusal(broker.issue(opened.handle))).reason is Reason.AGENT_DENIED
    assert await broker.leases() == []


async def test_what_is_being_minted_for_one_who_is_denied_meanwhile_is_not_delivered(
    broker: World, denials: Denials, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await broker.begin()
    mint = broker.provider.mint

    async def slow(*args: Any, **kwargs: Any) -> Any:
        minted = await mint(*args, **kwargs)
        denials.write(LOAD)
        settle(denials.door)
        return minted

    monkeypatch.setattr(broker.provider, "mint", slow)
    assert (await refusal(broker.issue(opened.handle))).reason is Reason.ACCESS_DENIED
    await broker.until(broker.nothing_alive)
    (lease,) = await broker.leases()
    assert lease.end_reason is EndReason.AGENT_DENIED


async def test_a_new_trust_is_in_force_although_it_cannot_be_written_and_is_written_later(
    broker: World, denials: Denials, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await broker.begin()
    write = broker.store.write

    async def full(_operation: Any) -> Any:
        raise StoreError("the disk is full")

    denials.write(LOAD)
    settle(denials.door)
    denials.write(LOAD, OTHER)
    await closely(broker)
    monkeypatch.setattr(broker.store, "write", full)
    with pytest.raises(StoreError):
        await closely(broker)
    monkeypatch.setattr(broker.store, "write", write)
    assert denials.door.denies(OTHER, agent(OTHER).certificate)
    generation = broker.policies.generation
    await closely(broker)
    assert broker.policies.generation == generation + 1
    assert (await broker.step_row(opened)).end_reason is EndReason.AGENT_DENIED
    assert len(await broker.journal("TRUST_LOADED")) == 1


@pytest.mark.parametrize("what", [StoreError("the disk is full"), epoch_lost()])
async def test_steps_that_cannot_be_ended_now_are_ended_later(
    broker: World, denials: Denials, monkeypatch: pytest.MonkeyPatch, what: Exception
) -> None:
    """Ending goes on after a failure, so the sweep looks whether anything is left."""
    await broker.set_launchers(launcher())
    opened = await broker.launch()
    end_step = moves.end_step

    def failing(*_args: Any, **_fields: Any) -> None:
        raise what

    denials.write(SCHEDULER)
    monkeypatch.setattr(moves, "end_step", failing)
    await closely(broker)
    for _ in range(2):
        with pytest.raises(StoreError, match="1 steps of the denied are open still"):
            await closely(broker)
    monkeypatch.setattr(moves, "end_step", end_step)
    await closely(broker)
    assert (await broker.step_row(opened)).end_reason is EndReason.AGENT_DENIED


class ThreeLooks(FakeClock):
    """Its third sleep is the end."""

    left = 3

    async def sleep(self, seconds: float) -> None:
        self.left -= 1
        if not self.left:
            raise asyncio.CancelledError


async def test_what_goes_on_failing_is_said_once(
    broker: World, denials: Denials, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = admission.Admission(replace(broker.core, clock=ThreeLooks()), broker.engine._steps, denials.door)
    said = list[str]()
    monkeypatch.setattr(admission.log, "exception", lambda what, **_: said.append(what))

    async def fail() -> None:
        raise TypeError

    with pytest.raises(asyncio.CancelledError):
        await watch._for_ever(fail, "could not be looked at")
    assert said == ["could not be looked at"]


async def test_what_was_half_written_at_the_start_is_whole_before_anybody_is_let_in(tmp_path: Path) -> None:
    denials = Denials(tmp_path)
    denials.write(LOAD)  # the other half
    async with world(tmp_path, door=denials.door) as broker:
        settled = asyncio.create_task(broker.engine.settle_door())
        while not settled.done():
            await asyncio.sleep(0.01)
            broker.fake_clock.advance(admission.LOOK_EVERY)
        assert denials.door.denies(LOAD, agent().certificate)


async def test_i7_a_bad_list_is_journalled_once_and_ends_nothing(broker: World, denials: Denials) -> None:
    opened = await broker.begin()
    denials.path.write_text("[[denied]]\nagent = '*'\n")
    for _ in range(4):
        await look(broker)
    (refused,) = await broker.journal("TRUST_REFUSED")
    assert refused["data"]["what"] == "deny list"
    assert (await broker.step_row(opened)).state is StepState.OPEN
    assert denials.door.remarks(broker.clock.now())


async def test_threads_that_hang_elsewhere_keep_no_denial_waiting(broker: World, denials: Denials) -> None:
    """A key file on a file system that does not answer, and a SIGHUP for each of the common threads."""
    free = threading.Event()
    hanging = [asyncio.create_task(asyncio.to_thread(free.wait, 5)) for _ in range(40)]
    denials.write(LOAD)
    async with asyncio.timeout(3):
        await look(broker)
    assert denials.door.denies(LOAD, agent(LOAD).certificate)
    free.set()
    await asyncio.gather(*hanging)


# --- mutants: without the mechanism, the same checks find it out ---


async def test_without_the_sweep_a_denied_step_would_live_on(
    broker: World, denials: Denials, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(_: admission.Admission) -> None:
        pass

    monkeypatch.setattr(admission.Admission, "_sweep", nothing)
    opened = await broker.begin()
    denials.write(LOAD)
    await look(broker)
    assert (await broker.step_row(opened)).state is StepState.OPEN


async def test_without_a_look_in_the_transaction_it_would_be_minted(
    broker: World, denials: Denials, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await broker.begin()
    denials.write(LOAD)
    settle(denials.door)
    object.__setattr__(broker.core, "denies", lambda *_: False)
    assert await broker.issue(opened.handle)


async def test_a_database_that_hangs_keeps_no_further_denial_waiting(
    broker: World, denials: Denials, monkeypatch: pytest.MonkeyPatch
) -> None:
    denials.write(LOAD)
    settle(denials.door)
    stuck, free = asyncio.Event(), asyncio.Event()
    write = broker.store.write

    async def slow(operation: Any, **how: Any) -> Any:
        stuck.set()
        await free.wait()
        return await write(operation, **how)

    monkeypatch.setattr(broker.store, "write", slow)
    denials.write()
    first = [asyncio.create_task(closely(broker)) for _ in range(2)]
    await stuck.wait()
    denials.write(OTHER)
    more = [asyncio.create_task(closely(broker)) for _ in range(2)]
    await asyncio.to_thread(
        wait_until, lambda: denials.door.denies(OTHER, agent(OTHER).certificate), within=15, what="it"
    )
    free.set()
    await asyncio.gather(*first, *more)
