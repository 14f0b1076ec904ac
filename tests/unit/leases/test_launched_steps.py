"""Steps that a launcher opens for a workload, and what its word is worth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.errors import BrokerError, Reason
from broker.leases.opening import opening
from broker.model import EndReason, LeaseState, StepState
from tests.fakes.launchers import DIGEST, SCHEDULER, launcher
from tests.fakes.world import LOAD, MAP, OTHER, World, agent, new_id, refusal, world

LAUNCHED_MAP = MAP.replace(
    "grants:\n",
    """\
  pinned: {fake: {role: pinned}, ttl: 10m, tier: low}
  per-run: {fake: {role: "{run}"}, ttl: 10m, tier: low}
grants:
  pinned: {workloads: [load], workflows: [nightly], scopes: [pinned], definition_digest: ["DIGEST"], max_step: 30m}
  runs: {workloads: [load], workflows: [nightly], scopes: [per-run], max_step: 2h}
""",
).replace("DIGEST", DIGEST)
CHANGED = "sha256:" + "cd" * 32
ANOTHER = "spiffe://dev.local/scheduler-2"
START_WITHIN = 900
SILENCE = 45


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        await made.load_map(LAUNCHED_MAP)
        await made.set_launchers(launcher())
        yield made


async def beat(broker: World, handle: str, who: str = LOAD) -> None:
    await broker.engine.heartbeat(agent(who), handle, [])


# --- opening ---


async def test_the_step_is_the_workloads_and_its_handle_works_with_the_workloads_certificate(broker: World) -> None:
    opened = await broker.launch(["plain", "pinned"], digest=DIGEST)
    step = opened.step
    assert (step.key.agent, step.opened_by, step.proven, step.definition_digest) == (LOAD, SCHEDULER, True, DIGEST)
    assert [answer.reference_id for answer in opened.answers] == ["", ""]
    lease = (await broker.issue(opened.handle, "pinned")).lease
    await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
    assert broker.backend.agents[lease.id] == LOAD
    assert (await broker.end(opened.handle)).all_proven


async def test_what_a_launcher_says_fills_templates_and_what_the_workload_says_does_not(broker: World) -> None:
    claimed = await broker.begin(["per-run"], run="r2")
    assert (await refusal(broker.issue(claimed.handle, "per-run"))).metadata["denial"] == "NEEDS_LAUNCHER"
    proven = await broker.launch(["per-run"], run="r3")
    lease = (await broker.issue(proven.handle, "per-run")).lease
    assert lease.params == {"role": "r3"}


async def test_a_changed_definition_gets_nothing(broker: World) -> None:
    opened = await broker.launch(["pinned"], digest=CHANGED)
    error = await refusal(broker.issue(opened.handle, "pinned"))
    assert error.metadata["denial"] == "DIGEST_NOT_PINNED"
    assert broker.backend.mints == []


async def test_who_says_no_definition_gets_no_pinned_scope(broker: World) -> None:
    opened = await broker.launch(["pinned", "plain"])
    assert (await refusal(broker.issue(opened.handle, "pinned"))).metadata["denial"] == "DIGEST_NOT_PINNED"
    await broker.issue(opened.handle, "plain")


RULES: dict[str, dict[str, Any]] = {
    "another workload": {"workloads": ["other"]},
    "another workflow": {"workflows": ["weekly"]},
    "another definition": {"definition_digest": [CHANGED]},
    "another time": {"when": {"until": "2026-11-22"}},
    "another name": {"spiffe_id": ANOTHER},
}


@pytest.mark.parametrize("rule", RULES)
async def test_a_launcher_opens_only_what_the_map_lets_it(broker: World, rule: str) -> None:
    await broker.set_launchers(launcher(**RULES[rule]))
    error = await refusal(broker.launch(digest=DIGEST))
    assert error.reason is Reason.ACCESS_DENIED
    assert await broker.store.read(lambda tx: tx.open_steps()) == []


async def test_every_refusal_to_launch_is_the_same_one(broker: World) -> None:
    """A name that does not exist, a foreign one, oneself, and a caller that is no launcher at all."""
    errors = [
        await refusal(broker.launch(workload="spiffe://dev.local/nobody")),
        await refusal(broker.launch(workload=OTHER)),
        await refusal(broker.launch(workload="spiffe://elsewhere/workflow/nightly/step/load")),
        await refusal(broker.launch(workload=SCHEDULER)),
        await refusal(broker.launch(who=ANOTHER)),
        await refusal(broker.launch(who=OTHER)),
        await refusal(broker.begin(who=agent(SCHEDULER))),
    ]
    assert {(error.reason, error.message, str(error.metadata)) for error in errors} == {
        (Reason.ACCESS_DENIED, "access denied", "{}")
    }
    assert await broker.store.read(lambda tx: tx.open_steps()) == []


async def test_a_launcher_opens_steps_of_another_trust_domain_where_the_map_says_so(broker: World) -> None:
    theirs, their_scheduler = "spiffe://partner.example/nightly/export", "spiffe://partner.example/scheduler"
    federated = LAUNCHED_MAP.replace("workloads:\n", f'workloads:\n  theirs: {{id: "{theirs}"}}\n', 1)
    federated = federated.replace(
        "trust_domain: dev.local\n", "trust_domain: dev.local\nfederates_with: [partner.example]\n"
    )
    await broker.load_map(
        federated.replace(
            "grants:\n", "grants:\n  export: {workloads: [theirs], workflows: [nightly], scopes: [per-run]}\n"
        )
    )
    await broker.set_launchers(launcher(workloads=["load", "theirs"]), launcher("p", their_scheduler, ["theirs"]))
    for number, who in enumerate((SCHEDULER, their_scheduler)):
        opened = await broker.launch(["per-run"], who=who, workload=theirs, run=f"r{number}")
        assert (await broker.issue(opened.handle, "per-run", who=agent(theirs))).lease.params == {"role": f"r{number}"}
    assert (await refusal(broker.launch(who=their_scheduler))).reason is Reason.ACCESS_DENIED
    other = theirs.replace("partner.example", "dev.local")
    assert (await refusal(broker.launch(workload=other))).reason is Reason.ACCESS_DENIED
    assert (await refusal(broker.issue(opened.handle, "per-run", who=agent(other)))).reason is Reason.ACCESS_DENIED


async def test_a_refused_launch_says_in_the_journal_for_whom_it_was(broker: World) -> None:
    error = await refusal(broker.launch(workload=OTHER, digest=DIGEST))
    await broker.engine._refusals.record(agent(SCHEDULER), "BeginStep", error)
    (record,) = await broker.journal("DENIED")
    assert (record["agent"], record["run"]) == (SCHEDULER, "r1")
    assert (record["data"]["on_behalf_of"], record["data"]["definition_digest"]) == (OTHER, DIGEST)


@pytest.mark.parametrize("digest", ["sha256:ab", "sha256:" + "AB" * 32, "ab" * 32, DIGEST + "\n", "md5:" + "ab" * 32])
async def test_a_digest_is_taken_as_it_is_or_not_at_all(broker: World, digest: str) -> None:
    with pytest.raises(BrokerError) as caught:
        await broker.launch(digest=digest)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


async def test_a_digest_that_an_agent_says_of_itself_is_refused() -> None:
    with pytest.raises(BrokerError) as caught:
        opening(
            agent=agent(),
            request_id=new_id(),
            workflow="nightly",
            run="r1",
            step="load",
            scopes=["plain"],
            seconds=None,
            definition_digest=DIGEST,
        )
    assert caught.value.reason is Reason.INVALID_ARGUMENT


async def test_a_launcher_that_goes_while_the_step_is_written_opens_nothing(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map moves between the question and the transaction: it is asked again."""
    original, moved = broker.store.write, [False]

    async def write(operation: Any, **how: Any) -> Any:
        if not moved[0]:
            moved[0] = True
            await broker.set_launchers()
        return await original(operation, **how)

    monkeypatch.setattr(broker.store, "write", write)
    assert (await refusal(broker.launch())).reason is Reason.ACCESS_DENIED
    assert await broker.store.read(lambda tx: tx.open_steps()) == []


# --- asking again ---


async def test_the_same_request_answers_the_same_handle_while_the_map_lets_it(broker: World) -> None:
    request_id = new_id()
    first = await broker.launch(request_id=request_id)
    again = await broker.launch(request_id=request_id)
    assert (again.handle, again.step.attempt) == (first.handle, 1)
    assert (await refusal(broker.launch(request_id=request_id, digest=DIGEST))).reason is Reason.REQUEST_ID_REUSED
    await broker.set_launchers()
    assert (await refusal(broker.launch(request_id=request_id))).reason is Reason.ACCESS_DENIED


async def test_another_launchers_same_request_is_another_request(broker: World) -> None:
    request_id = new_id()
    first = await broker.launch(request_id=request_id)
    await broker.set_launchers(launcher(), launcher("second", ANOTHER))
    error = await refusal(broker.launch(request_id=request_id, who=ANOTHER))
    assert error.reason is Reason.STEP_ALIVE
    await broker.end(first.handle)
    second = await broker.launch(request_id=request_id, who=ANOTHER)
    assert second.handle != first.handle
    assert second.step.attempt == 2


async def test_the_workload_may_use_the_launchers_request_id_for_its_own(broker: World) -> None:
    request_id = new_id()
    opened = await broker.launch(request_id=request_id)
    assert (await broker.issue(opened.handle, request_id=request_id)).lease.state is LeaseState.ACTIVE


async def test_opening_again_is_the_next_attempt_under_the_same_rules(broker: World) -> None:
    first = await broker.launch()
    alive = await refusal(broker.launch())
    assert alive.reason is Reason.STEP_ALIVE
    assert alive.retry_after == timedelta(seconds=START_WITHIN)
    await broker.end(first.handle, who=agent(SCHEDULER))
    second = await broker.launch()
    assert second.step.attempt == 2
    await broker.set_launchers(launcher(workloads=["other"]))
    older = await broker.launch(workload=OTHER)
    newer = await broker.launch(workload=OTHER)  # its grant says supersede
    assert newer.step.attempt == 2
    assert (await broker.step_row(older)).end_reason is EndReason.SUPERSEDED


async def test_the_workload_does_not_open_by_itself_what_was_launched(broker: World) -> None:
    """Else what was proven would be a claim."""
    opened = await broker.launch()
    assert (await refusal(broker.begin())).reason is Reason.OPENED_BY_LAUNCHER
    await broker.end(opened.handle)
    assert (await refusal(broker.begin())).reason is Reason.OPENED_BY_LAUNCHER
    await broker.set_launchers()
    assert (await refusal(broker.begin())).reason is Reason.OPENED_BY_LAUNCHER
    assert (await broker.begin(run="r2")).step.proven is False


async def test_a_launcher_may_open_what_the_workload_opened_before(broker: World) -> None:
    own = await broker.begin()
    await broker.end(own.handle)
    opened = await broker.launch()
    assert (opened.step.attempt, opened.step.proven) == (2, True)


# --- what its launcher may do with it (I8) ---


async def test_a_launcher_may_end_what_it_opened_and_is_told_the_outcomes(broker: World) -> None:
    opened = await broker.launch()
    lease = (await broker.issue(opened.handle)).lease
    await broker.set_launchers()  # giving back is always allowed
    request_id = new_id()
    for _ in range(2):
        ended = await broker.engine.end_step(
            agent(SCHEDULER), request_id=request_id, handle=opened.handle, wait_seconds=5
        )
        assert [outcome.lease_id for outcome in ended.outcomes] == [lease.id]
        assert ended.all_proven
    assert not broker.backend.alive
    (record,) = await broker.journal("STEP_ENDED")
    assert (record["agent"], record["data"]["by"]) == (LOAD, SCHEDULER)


# --- until the workload's first call ---


async def test_start_within_stands_for_the_silence_bound_until_the_first_call(broker: World) -> None:
    opened = await broker.launch()
    await broker.fake_clock.run(START_WITHIN - 5)
    assert (await broker.step_row(opened)).state is StepState.OPEN
    await beat(broker, opened.handle)
    assert (await broker.step_row(opened)).started_at is not None
    await broker.fake_clock.run(SILENCE - 5)
    assert (await broker.step_row(opened)).state is StepState.OPEN
    await broker.fake_clock.run(10)
    await broker.until(lambda: ended(broker, opened))


async def test_a_workload_that_does_not_come_leaves_no_step(broker: World) -> None:
    opened = await broker.launch()
    await broker.fake_clock.run(START_WITHIN + 3)
    await broker.until(lambda: ended(broker, opened))
    assert (await broker.step_row(opened)).end_reason is EndReason.SILENT


async def ended(broker: World, opened: Any) -> bool:
    return (await broker.step_row(opened)).state is StepState.ENDED


async def test_a_restart_ends_no_step_that_has_not_started(broker: World) -> None:
    opened = await broker.launch()
    await broker.fake_clock.run(600)
    await broker.crash()
    broker.fake_clock.advance(3600)
    await broker.start()
    await broker.fake_clock.run(START_WITHIN - 5)
    assert (await broker.step_row(opened)).state is StepState.OPEN
    await broker.fake_clock.run(10)
    await broker.until(lambda: ended(broker, opened))


async def test_a_first_call_that_is_refused_is_a_first_call(broker: World) -> None:
    """And does not count as silent since the launch."""
    opened = await broker.launch(["pinned"], digest=CHANGED)
    await broker.fake_clock.run(600)
    assert (await refusal(broker.issue(opened.handle, "pinned"))).reason is Reason.SCOPE_REFUSED
    await broker.fake_clock.run(SILENCE - 5)
    assert (await broker.step_row(opened)).state is StepState.OPEN
    assert len(await broker.journal("STEP_STARTED")) == 1


async def test_only_the_workloads_own_calls_start_it(broker: World) -> None:
    opened = await broker.launch()
    for who in (SCHEDULER, OTHER):
        assert (await refusal(beat(broker, opened.handle, who))).reason is Reason.ACCESS_DENIED
    assert (await broker.step_row(opened)).started_at is None


async def test_many_first_calls_at_once_are_one_start(broker: World) -> None:
    opened = await broker.launch()
    await asyncio.gather(*(beat(broker, opened.handle) for _ in range(20)))
    assert len(await broker.journal("STEP_STARTED")) == 1


# --- what was said is asked again ---


@pytest.mark.parametrize("scope", ["pinned", "per-run"])
async def test_when_its_rule_is_gone_a_launchers_word_is_believed_no_longer(broker: World, scope: str) -> None:
    opened = await broker.launch(["plain", scope], digest=DIGEST)
    request_id = new_id()
    await broker.issue(opened.handle, scope, request_id=request_id)
    await broker.set_launchers(launcher(workflows=["weekly"]))
    for again in (new_id(), request_id):
        error = await refusal(broker.issue(opened.handle, scope, request_id=again))
        assert error.metadata["denial"] == "NEEDS_LAUNCHER"
        assert (error.about["proven"], error.about["definition_digest"]) == (False, DIGEST)
    await broker.issue(opened.handle, "plain")
    await broker.set_launchers(launcher())
    await broker.issue(opened.handle, scope)
    assert len(broker.backend.mints) == 3


async def test_what_is_minted_while_its_launcher_goes_is_not_delivered(broker: World) -> None:
    opened = await broker.launch(["pinned"], digest=DIGEST)
    broker.provider.after_landing.clear()
    call = asyncio.create_task(broker.issue(opened.handle, "pinned"))
    await broker.provider.landed.wait()
    await broker.set_launchers()
    broker.provider.after_landing.set()
    assert (await refusal(call)).reason is Reason.ACCESS_DENIED
    await broker.until(broker.nothing_alive)


async def test_what_is_minted_while_the_map_is_loaded_anew_without_change_for_it_is_delivered(broker: World) -> None:
    opened = await broker.launch(["pinned"], digest=DIGEST)
    broker.provider.after_landing.clear()
    call = asyncio.create_task(broker.issue(opened.handle, "pinned"))
    await broker.provider.landed.wait()
    await broker.set_launchers(launcher(), launcher("second", ANOTHER))
    broker.provider.after_landing.set()
    assert (await call).lease.state is LeaseState.ACTIVE


# --- bounds ---


async def test_a_lease_ends_with_the_max_step_of_its_grant_also_when_that_matched_only_later(broker: World) -> None:
    """Opened under grants of 2 h; one of 30 min gives a scope later."""
    opened = await broker.launch(["plain", "pinned"], digest=CHANGED)
    assert opened.step.deadline_at - opened.step.opened_at == timedelta(hours=2)
    await broker.load_map(LAUNCHED_MAP.replace(DIGEST, CHANGED))
    await beat(broker, opened.handle)
    await broker.fake_clock.run(10)
    for _ in range(62):
        await beat(broker, opened.handle)
        await broker.fake_clock.run(25, step=25.0)
    left = timedelta(minutes=30) - timedelta(seconds=10 + 62 * 25)
    lease = (await broker.issue(opened.handle, "pinned")).lease
    assert lease.expires_at == broker.clock.now() + left
    await broker.fake_clock.run(40, step=20.0)
    await broker.fake_clock.run(1)
    await beat(broker, opened.handle)
    assert (await broker.issue(opened.handle, "plain")).lease.expires_at - broker.clock.now() == timedelta(minutes=10)


# --- the journal ---


async def test_the_journal_holds_what_a_decision_went_by(broker: World) -> None:
    opened = await broker.launch(["plain", "pinned"], digest=CHANGED)
    who = agent(address="10.1.2.3")
    await broker.issue(opened.handle, "plain", who=who)
    denied = await refusal(broker.issue(opened.handle, "pinned", who=who))
    await broker.engine._refusals.record(who, "IssueCredential", denied)
    (begun,), (intent,) = await broker.journal("STEP_BEGUN"), await broker.journal("LEASE_INTENT")
    at_launch, refused = await broker.journal("DENIED")
    said = {"attempt": 1, "proven": True, "opened_by": SCHEDULER, "definition_digest": CHANGED}
    for record, address in ((begun, ""), (at_launch, ""), (intent, "10.1.2.3"), (refused, "10.1.2.3")):
        assert (record["agent"], record["workflow"], record["run"], record["step"]) == (LOAD, "nightly", "r1", "load")
        assert {name: record["data"][name] for name in said} == said
        assert record["data"]["address"] == address
    assert begun["data"]["scopes"] == {"plain": "granted", "pinned": "DIGEST_NOT_PINNED"}
    assert refused["data"]["denial"] == "DIGEST_NOT_PINNED"
