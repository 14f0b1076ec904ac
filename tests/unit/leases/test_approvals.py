"""A scope that people must approve: asked for once, used once, bound to what was asked, and given back with VOID."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.errors import BrokerError, Reason
from broker.leases import approving
from broker.leases.beginning import Opened
from broker.model import Evidence, LeaseState, StepKey
from broker.policy.decision import Allowed
from broker.store.approvals import Approval, ApprovalState, Vote, past_approval
from broker.store.base import Tx
from tests.fakes.launchers import DIGEST, SCHEDULER, launcher
from tests.fakes.world import LOAD, MAP, World, agent, new_id, refusal

NEEDS = MAP.replace(
    "danger: {fake: {role: danger}, ttl: 10m, tier: high}",
    "danger: {fake: {role: danger}, ttl: 10m, tier: high, approvals: 2}",
)
KEY = StepKey(agent=LOAD, workflow="nightly", run="r1", step="load")


@pytest.fixture(autouse=True)
async def _map(broker: World) -> None:
    await broker.load_map(NEEDS)


async def asked(broker: World, handle: str) -> str:
    """The id that the agent is told."""
    error = await refusal(broker.issue(handle, "danger"))
    assert error.reason is Reason.NEEDS_APPROVAL, error.reason
    return error.metadata["approval_id"]


async def approve(broker: World, approval_id: str, *, valid: timedelta = timedelta(hours=1)) -> None:
    """As the desk does, without its duties."""

    def operation(tx: Tx) -> None:
        found = tx.approval(approval_id)
        assert found is not None
        for name in ("ann", "bob"):
            vote = Vote(approval_id=approval_id, operator=name, approve=True, reason="r", at=broker.clock.now())
            tx.add_vote(vote)
        expires = broker.clock.now() + valid
        boot = broker.clock.moment().boot + valid.total_seconds()
        given = replace(found, state=ApprovalState.APPROVED, expires_at=expires, expires_boot=boot)
        tx.put_approval(given)

    await broker.store.write(operation)


async def approval(broker: World, approval_id: str) -> Approval:
    found = await broker.store.read(lambda tx: tx.approval(approval_id))
    assert found is not None
    return found


async def spent(broker: World) -> int:
    return sum(
        row.spent for row in await broker.store.read(lambda tx: tx.guard_page(after="", limit=10, open_too=True))
    )


async def test_it_is_asked_once_for_a_step_key_and_scope_across_attempts_and_costs_nothing(broker: World) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    assert await asked(broker, opened.handle) == first
    await broker.end(opened.handle)
    again = await broker.begin(["danger"])
    assert await asked(broker, again.handle) == first
    assert again.answers[0].approval is not None
    assert again.answers[0].approval.id == first
    assert await spent(broker) == 0
    assert (await broker.journal_kinds()).count("APPROVAL_REQUESTED") == 1
    assert not broker.backend.mints


async def test_beginning_and_asking_whether_only_report(broker: World) -> None:
    await broker.begin(["danger"])
    (answer,) = await broker.engine.check_access(KEY, ["danger"], address="")
    assert answer.approval is None
    assert await broker.store.read(lambda tx: tx.approvals()) == []


async def test_once_approved_it_mints_once_and_the_next_one_is_asked_anew(broker: World) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    await approve(broker, first)
    (answer,) = await broker.engine.check_access(KEY, ["danger"], address="")
    assert answer.approval is not None
    assert answer.approval.state is ApprovalState.APPROVED
    assert answer.approvals_given == 2
    lease = (await broker.issue(opened.handle, "danger")).lease
    assert lease.approval_id == first
    assert (await approval(broker, first)).state is ApprovalState.CONSUMED
    assert (await approval(broker, first)).lease_id == lease.id
    assert await asked(broker, opened.handle) != first
    assert await spent(broker) == 1


async def test_two_uses_of_one_approval_at_once_mint_once(broker: World) -> None:
    opened = await broker.begin(["danger"])
    await approve(broker, await asked(broker, opened.handle))
    results = await asyncio.gather(*(broker.issue(opened.handle, "danger") for _ in range(20)), return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in results) == 1
    assert {one.reason for one in results if isinstance(one, BrokerError)} == {Reason.NEEDS_APPROVAL}
    assert len(broker.backend.mints) == 1


async def test_a_replay_of_the_request_that_used_it_answers_the_same_credential(broker: World) -> None:
    opened = await broker.begin(["danger"])
    await approve(broker, await asked(broker, opened.handle))
    request_id = new_id()
    first = await broker.issue(opened.handle, "danger", request_id=request_id)
    assert (await broker.issue(opened.handle, "danger", request_id=request_id)).lease.id == first.lease.id


async def test_it_comes_back_with_the_proof_that_nothing_was_minted(broker: World) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    await approve(broker, first)
    broker.provider.fail = "refuse"
    assert (await refusal(broker.issue(opened.handle, "danger"))).reason is Reason.PROVIDER_FAILED
    (lease,) = await broker.leases(LeaseState.VOID)
    assert lease.evidence is Evidence.NOT_MINTED
    assert (await approval(broker, first)).state is ApprovalState.APPROVED
    broker.provider.fail = ""
    await broker.fake_clock.run(30)
    assert (await broker.issue(opened.handle, "danger")).lease.approval_id == first


async def test_successors_need_no_approval_of_their_own(broker: World) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    await approve(broker, first)
    lease = (await broker.issue(opened.handle, "danger")).lease
    await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
    for _ in range(14):
        await broker.fake_clock.run(30)
        await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
    newer = (await broker.issue(opened.handle, "danger", replaces=lease.id)).lease
    assert (newer.approval_id, newer.successor_no) == (first, 1)


@pytest.mark.parametrize(
    "changed",
    [
        NEEDS.replace("role: danger", "role: worse"),
        NEEDS.replace("ttl: 10m, tier: high", "ttl: 9m, tier: high"),
        NEEDS.replace("max_step: 2h}\n  others", "max_step: 1h}\n  others"),
        NEEDS.replace("approvals: 2", "approvals: 1"),
        NEEDS + "tiers:\n  high: {budget: 2}\n",
        NEEDS + "tiers:\n  high: {on_lock: run}\n",
    ],
)
async def test_a_changed_grant_or_scope_makes_it_worth_nothing(broker: World, changed: str) -> None:
    assert changed != NEEDS
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    await approve(broker, first)
    await broker.load_map(changed)
    (answer,) = await broker.engine.check_access(KEY, ["danger"], address="")
    assert answer.approval is None
    assert await asked(broker, opened.handle) != first
    assert (await approval(broker, first)).state is ApprovalState.REPLACED


async def test_the_same_rules_in_other_words_change_nothing(broker: World) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    await approve(broker, first)
    await broker.load_map("# a comment that moves every line\n" + NEEDS)
    assert (await broker.issue(opened.handle, "danger")).lease.approval_id == first


def beside(when: str, more: str = "") -> str:
    """A second grant that gives the same, at some times."""
    grant = "workloads: [load], workflows: [nightly], scopes: [danger], max_step: 2h"
    return NEEDS.replace("grants:\n", f"grants:\n  beside: {{{grant}, when: {{{when}}}{more}}}\n", 1)


async def test_a_window_of_another_grant_that_closes_takes_nothing_away(broker: World) -> None:
    """It is 12:00. Neither a reload nor a successor needs what was approved to be approved again."""
    await broker.load_map(beside('daily: {from: "11:00", to: "12:05", tz: UTC}'))
    opened = await broker.begin(["danger"])
    await approve(broker, await asked(broker, opened.handle))
    lease = (await broker.issue(opened.handle, "danger")).lease
    for _ in range(14):
        await broker.fake_clock.run(30)
        await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
    await broker.load_map(f"# a comment\n{broker.map_text}")
    await broker.fake_clock.run(5)
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE
    assert (await broker.issue(opened.handle, "danger", replaces=lease.id)).lease.approval_id == lease.approval_id


@pytest.mark.parametrize("more", ["", ", approvals: 3"])
async def test_two_places_of_one_step_do_not_take_each_others_request_away(broker: World, more: str) -> None:
    """One of them is in the network of a second grant, which may ask for more people."""
    await broker.load_map(beside('networks: ["10.0.0.0/8"]', more))
    opened = await broker.begin(["danger"])
    for number in range(6):
        await refusal(broker.issue(opened.handle, "danger", who=agent(address=f"{(192, 10)[number % 2]}.168.1.1")))
    kinds = await broker.journal_kinds()
    assert kinds.count("APPROVAL_REQUESTED") == (2 if more else 1)  # the one that needs more people serves both


async def test_other_code_needs_another_approval(broker: World) -> None:
    await broker.set_launchers(launcher())
    opened = await broker.launch(["danger"], digest=DIGEST)
    first = await asked(broker, opened.handle)
    await approve(broker, first)
    await broker.end(opened.handle, who=agent(SCHEDULER))
    again = await broker.launch(["danger"], digest="sha256:" + "cd" * 32)
    assert await asked(broker, again.handle) != first
    assert (await approval(broker, first)).state is ApprovalState.REPLACED


async def test_what_was_given_under_it_dies_when_its_grant_changes(broker: World) -> None:
    opened = await broker.begin(["danger"])
    await approve(broker, await asked(broker, opened.handle))
    lease = (await broker.issue(opened.handle, "danger")).lease
    await broker.load_map(NEEDS.replace("max_step: 2h}\n  others", "max_step: 1h}\n  others"))
    await broker.until(broker.nothing_alive)
    assert (await broker.lease(lease.id)).state is LeaseState.REVOKED


@pytest.mark.parametrize("given", [False, True])
async def test_nobody_waits_for_ever(broker: World, *, given: bool) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    if given:
        await approve(broker, first)
    broker.fake_clock.set_wall(
        broker.clock.now() + timedelta(days=1)
    )  # forward: nothing that people said outlives its time by any clock
    second = await asked(broker, opened.handle)
    assert second != first
    assert (await approval(broker, first)).state is ApprovalState.EXPIRED


async def test_a_clock_set_back_gives_it_no_longer_life(broker: World) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    await approve(broker, first)
    broker.fake_clock.set_wall(broker.clock.now() - timedelta(days=1))
    for _ in range(125):
        await broker.fake_clock.run(30)
        await broker.engine.heartbeat(agent(), opened.handle, [])
    assert await asked(broker, opened.handle) != first


async def boot_in_the_past(broker: World) -> None:
    await broker.crash()
    broker.fake_clock.set_wall(broker.clock.now() - timedelta(days=400))
    broker.fake_clock.reboot()
    await broker.start()


@pytest.mark.parametrize("given", [False, True])
async def test_a_machine_booted_by_a_clock_set_back_gives_it_no_longer_life(broker: World, *, given: bool) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    if given:
        await approve(broker, first)
    before = await approval(broker, first)
    await boot_in_the_past(broker)
    now, life = broker.clock.moment(), before.expires_at - before.requested_at
    assert past_approval(before, now) < -timedelta(days=399)
    assert past_approval(await approval(broker, first), now) == -life


async def test_nor_does_it_when_it_comes_back_after_the_boot(broker: World) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    await approve(broker, first)
    broker.provider.fail = "lose-request"
    assert (await refusal(broker.issue(opened.handle, "danger"))).reason is Reason.PROVIDER_FAILED
    broker.provider.fail = ""
    await boot_in_the_past(broker)
    await broker.fake_clock.run(150)

    async def is_back() -> bool:
        await broker.fake_clock.run(1)
        return (await approval(broker, first)).state is ApprovalState.APPROVED

    await broker.until(is_back)
    returned = await approval(broker, first)
    assert past_approval(returned, broker.clock.moment()) >= -(returned.expires_at - returned.requested_at)


async def test_the_reaper_ends_what_nobody_decides(broker: World) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    await broker.end(opened.handle)
    await broker.fake_clock.run(8 * 3600 + 10)

    async def over() -> bool:
        return (await approval(broker, first)).state is ApprovalState.EXPIRED

    await broker.until(over)


async def used_up(broker: World) -> Opened:
    """A step that has had all of its attempts, of which the next one would need approval."""
    await broker.load_map(MAP)
    opened = await broker.begin(["danger"])
    for _ in range(3):
        await broker.issue(opened.handle, "danger")
    await broker.load_map(NEEDS)
    return opened


@pytest.mark.parametrize("later", [0, 3700])
async def test_nobody_is_asked_for_what_the_guard_refuses_for_good(broker: World, later: int) -> None:
    """Exhausted: it is locked all the same; and held when it comes back, whenever that is."""
    opened = await used_up(broker)
    assert (await refusal(broker.issue(opened.handle, "danger"))).reason is Reason.LOCKED
    await broker.fake_clock.run(later)
    again = await broker.begin(["danger"])
    assert (await refusal(broker.issue(again.handle, "danger"))).reason is Reason.HELD
    last = await broker.begin(["danger"])
    assert (await refusal(broker.issue(last.handle, "danger"))).reason is Reason.HELD
    assert await broker.store.read(lambda tx: tx.approvals()) == []


async def test_while_the_guard_cools_people_are_asked_and_what_they_said_is_kept(broker: World) -> None:
    await broker.load_map(NEEDS.replace("tier: high", "tier: elevated"))
    opened = await broker.begin(["danger"])
    for _ in range(2):
        await approve(broker, await asked(broker, opened.handle))
        await broker.issue(opened.handle, "danger")
    last = await asked(broker, opened.handle)
    await approve(broker, last)
    assert (await refusal(broker.issue(opened.handle, "danger"))).reason is Reason.COOLING
    assert (await approval(broker, last)).state is ApprovalState.APPROVED


async def test_one_agent_does_not_bury_its_operators(broker: World) -> None:
    for number in range(approving.MAX_WAITING):
        opened = await broker.begin(["danger"], run=f"run-{number}")
        await asked(broker, opened.handle)
    opened = await broker.begin(["danger"], run="one-more")
    error = await refusal(broker.issue(opened.handle, "danger"))
    assert error.reason is Reason.RATE_LIMITED
    assert error.retry_after is not None


async def test_what_keeps_approvals_from_being_used_keeps_them_from_being_used(broker: World) -> None:
    opened = await broker.begin(["danger"])
    first = await asked(broker, opened.handle)
    await approve(broker, first)
    why = ["a signer is unknown"]
    object.__setattr__(broker.core, "approving", approving.Approving(off=lambda: why[0]))
    assert await asked(broker, opened.handle) == first
    why[0] = ""
    assert (await broker.issue(opened.handle, "danger")).lease.approval_id == first


async def test_a_digest_is_there_only_where_it_is_needed(broker: World) -> None:
    opened = await broker.begin(["danger", "plain"])
    digests = {one.scope: one.decision.approval_digest for one in opened.answers if isinstance(one.decision, Allowed)}
    assert len(digests["danger"]) == 64
    assert not digests["plain"]
