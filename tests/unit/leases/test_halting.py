"""A lock, a hold: what ends with them, in one transaction, and who is told."""

from __future__ import annotations

import pytest

from broker.alert import AlertRule
from broker.errors import Reason, StoreError
from broker.leases import halting
from broker.leases.beginning import Opened
from broker.model import EndReason, LeaseState, StepState
from broker.policy.decision import Allowed
from tests.fakes.launchers import launcher, with_launchers
from tests.fakes.world import LOAD, MAP, OTHER, World, agent, refusal

COPY = "spiffe://dev.local/workflow/nightly/step/copy"
FOREIGN = "spiffe://dev.local/workflow/weekly/step/load"
CLAIMER = "spiffe://dev.local/pool/a"
BUDGET = 3  # of tier high


def with_on_lock(on_lock: str, *, compensate: str = "") -> str:
    """The tiers' part is the guard's to read; what it gives is `Allowed.on_lock`."""
    more = f", compensate: {compensate}" if compensate else ""
    return MAP + f"tiers:\n  high: {{on_lock: {on_lock}{more}}}\n"


async def use_up(broker: World, opened: Opened, *, scope: str = "danger") -> None:
    for _ in range(BUDGET):
        await broker.issue(opened.handle, scope)


async def test_a_lock_ends_the_step_and_all_its_leases_and_tells_it(broker: World) -> None:
    opened = await broker.begin(["danger", "plain"])
    await broker.issue(opened.handle, "plain")
    await use_up(broker, opened)
    error = await refusal(broker.issue(opened.handle, "danger"))
    assert error.reason is Reason.LOCKED
    step = await broker.step_row(opened)
    assert (step.state, step.end_reason) == (StepState.ENDED, EndReason.GUARD_LOCK)
    await broker.until(broker.nothing_alive)
    (locked,) = await broker.journal("GUARD_LOCKED")
    assert locked["data"]["steps"] == [step.id]
    assert len(locked["data"]["leases"]) == BUDGET + 1
    (row,) = await broker.store.read(lambda tx: tx.alerts())
    assert row.alert.rule is AlertRule.GUARD_LOCKED
    assert row.alert.labels["run"] == "r1"
    assert (await broker.journal_kinds()).count("ALERT") == 1
    assert await broker.store.read(lambda tx: tx.unsent_notices()) == {}


async def test_coming_back_holds_and_alarms_louder(broker: World) -> None:
    opened = await broker.begin(["danger"])
    await use_up(broker, opened)
    await refusal(broker.issue(opened.handle, "danger"))
    again = await broker.begin(["danger"])
    assert (await refusal(broker.issue(again.handle, "danger"))).reason is Reason.HELD
    assert (await broker.step_row(again)).state is StepState.ENDED
    rules = {row.alert.rule for row in await broker.store.read(lambda tx: tx.alerts())}
    assert rules == {AlertRule.GUARD_LOCKED, AlertRule.GUARD_HELD}


async def test_all_of_it_or_nothing(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last write of the transaction fails: nothing of it happened, and the next request does all of it."""
    opened = await broker.begin(["danger"])
    await use_up(broker, opened)

    def fails(*_args: object, **_more: object) -> None:
        raise StoreError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(halting, "sound", fails)
        with pytest.raises(StoreError):
            await broker.issue(opened.handle, "danger")
    assert (await broker.step_row(opened)).state is StepState.OPEN
    assert await broker.journal("GUARD_LOCKED") == []
    assert len(await broker.leases(LeaseState.ACTIVE)) == BUDGET
    assert (await refusal(broker.issue(opened.handle, "danger"))).reason is Reason.LOCKED
    await broker.until(broker.nothing_alive)


IN_RUN = "spiffe://dev.local/workflow/nightly/run/{run}/step/{step}"
RUNS = (
    MAP.replace(
        "scopes:\n",
        '  bound: {id: "spiffe://dev.local/workflow/{workflow}/run/{run}/step/{any}", owners: [group:data]}\n'
        '  theirs: {id: "spiffe://partner.example/workflow/{workflow}/run/{run}/step/{any}", owners: [group:data]}\nscopes:\n',
        1,
    )
    .replace(
        "grants:\n",
        "grants:\n  runs: {workloads: [bound, theirs], workflows: ['*'], scopes: [plain, danger], max_step: 2h}\n",
        1,
    )
    .replace("trust_domain: dev.local\n", "trust_domain: dev.local\nfederates_with: [partner.example]\n")
)


def in_run(run: str, step: str) -> str:
    """An agent whose certificate binds its run."""
    return IN_RUN.format(run=run, step=step)


NEIGHBOURS = {
    "other step of the run": (OTHER, "r1"),
    "other step, other run": (OTHER, "r2"),
    "its own, other run": (LOAD, "r3"),
    "bound to the run": (in_run("r1", "copy"), "r1"),
    "bound to another run": (in_run("r2", "copy"), "r2"),
    "a partner's": (in_run("r1", "copy").replace("dev.local", "partner.example"), "r1"),
}


@pytest.mark.parametrize(
    ("on_lock", "locked", "ends"),
    [
        ("step", LOAD, set()),
        ("run", LOAD, set()),  # its certificate binds no run: it only claims this one
        ("run", in_run("r1", "load"), {"bound to the run"}),
        ("run", in_run("r1", "load").replace("dev.local", "partner.example"), {"a partner's"}),
        ("workflow", LOAD, set(NEIGHBOURS) - {"a partner's"}),
    ],
)
async def test_how_far_a_lock_reaches(broker: World, on_lock: str, locked: str, ends: set[str]) -> None:
    await broker.load_map(RUNS + f"tiers:\n  high: {{on_lock: {on_lock}}}\n")
    who = agent(locked)
    opened = await broker.begin(["danger"], run="r1", who=who)
    assert isinstance(opened.answers[0].decision, Allowed)
    assert opened.answers[0].decision.on_lock.value == on_lock
    others = {
        name: await broker.begin(["plain"], run=run, who=agent(spiffe_id))
        for name, (spiffe_id, run) in NEIGHBOURS.items()
    }
    for _ in range(BUDGET):
        await broker.issue(opened.handle, "danger", who=who)
    assert (await refusal(broker.issue(opened.handle, "danger", who=who))).reason is Reason.LOCKED
    ended = {name for name, one in others.items() if (await broker.step_row(one)).state is StepState.ENDED}
    assert ended == ends
    (record,) = await broker.journal("GUARD_LOCKED")
    assert len(record["data"]["steps"]) == 1 + len(ends)


async def test_a_run_reaches_the_other_steps_of_the_same_agent(broker: World) -> None:
    await broker.load_map(POOL + "tiers:\n  high: {on_lock: run}\n")
    claimer = agent(CLAIMER)
    opened, mine = [await broker.begin([scope], who=claimer, step=scope) for scope in ("danger", "plain")]
    for _ in range(BUDGET):
        await broker.issue(opened.handle, "danger", who=claimer)
    assert (await refusal(broker.issue(opened.handle, "danger", who=claimer))).reason is Reason.LOCKED
    assert (await broker.step_row(mine)).state is StepState.ENDED


POOL = MAP.replace(
    "scopes:\n",
    '  pool: {id: "spiffe://dev.local/pool/{name}", owners: [group:data]}\nscopes:\n',
).replace(
    "grants:\n",
    'grants:\n  pooled: {workloads: [pool], workflows: ["*"], scopes: [plain, danger], max_step: 2h}\n',
)


@pytest.mark.parametrize("on_lock", ["run", "workflow"])
async def test_a_claimed_workflow_ends_nobody_else(broker: World, on_lock: str) -> None:
    """An agent whose certificate names no workflow claims another one's, and lets itself be locked."""
    await broker.load_map(POOL + f"tiers:\n  high: {{on_lock: {on_lock}}}\n")
    honest = await broker.begin(["plain"], run="r1")
    claimer = agent(CLAIMER)
    other_of_mine = await broker.begin(["plain"], run="r1", who=agent("spiffe://dev.local/pool/b"))
    opened = await broker.begin(["danger"], run="r1", who=claimer)
    for _ in range(BUDGET):
        await broker.issue(opened.handle, "danger", who=claimer)
    assert (await refusal(broker.issue(opened.handle, "danger", who=claimer))).reason is Reason.LOCKED
    assert (await broker.step_row(honest)).state is StepState.OPEN
    assert (await broker.step_row(other_of_mine)).state is StepState.OPEN


async def test_a_launcher_vouches_for_the_run_of_what_it_opened(broker: World) -> None:
    tiers = "tiers:\n  high: {on_lock: run}\n"
    await broker.load_map(with_launchers(POOL + tiers, launcher(workloads=["pool"])))
    first = await broker.launch(["danger"], workload=CLAIMER)
    second = await broker.launch(["plain"], workload="spiffe://dev.local/pool/b")
    by_itself = await broker.begin(["plain"], who=agent("spiffe://dev.local/pool/c"))
    for _ in range(BUDGET):
        await broker.issue(first.handle, "danger", who=agent(CLAIMER))
    assert (await refusal(broker.issue(first.handle, "danger", who=agent(CLAIMER)))).reason is Reason.LOCKED
    assert (await broker.step_row(second)).state is StepState.ENDED
    assert (await broker.step_row(by_itself)).state is StepState.OPEN


async def test_whoever_is_to_roll_back_is_told_what_was_ended(broker: World) -> None:
    await broker.load_map(with_on_lock("run", compensate="etl-rollback"))
    opened = await broker.begin(["danger"])
    await use_up(broker, opened)
    await refusal(broker.issue(opened.handle, "danger"))

    (notice,) = await broker.store.read(lambda tx: tx.due_notices("etl-rollback", broker.clock.now(), 10))
    body = notice.body
    assert notice.target == "etl-rollback"
    assert body["type"] == "stepcred.guard.locked"
    assert (body["workflow"], body["run"], body["step"], body["scope"]) == ("nightly", "r1", "load", "danger")
    assert len(body["leases"]) == BUDGET
    assert body["steps"] == [opened.step.id]
