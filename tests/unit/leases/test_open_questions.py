"""CheckAccess about an open step: what IssueCredential would be answered in it, told and not changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.errors import BrokerError, Reason
from broker.leases.beginning import ScopeAnswer
from broker.model import StepKey
from broker.policy.decision import Allowed, Denied
from broker.rpc import convert
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.launchers import launcher
from tests.fakes.world import LOAD, MAP, OTHER, World, agent, refusal
from tests.unit.leases.test_approvals import approve, asked

NEEDS = MAP.replace(
    "danger: {fake: {role: danger}, ttl: 10m, tier: high}",
    "danger: {fake: {role: danger}, ttl: 10m, tier: high, approvals: 2}",
)
KEY = StepKey(agent=LOAD, workflow="nightly", run="r1", step="load")


async def look(broker: World, handle: str, scope: str = "danger") -> ScopeAnswer:
    (answer,) = await broker.engine.check_open(agent(), handle, [scope])
    return answer


async def test_it_speaks_of_this_attempt_and_by_name_of_the_next(broker: World) -> None:
    await broker.load_map(NEEDS.replace("max_step: 2h}", "max_step: 2h, attempts: 1}", 1))
    opened = await broker.begin(["danger"])
    await asked(broker, opened.handle)
    assert isinstance((await look(broker, opened.handle)).decision, Allowed)
    (next_one,) = await broker.engine.check_access(KEY, ["danger"], address="")
    assert isinstance(next_one.decision, Denied)


async def test_it_says_granted_once_it_is_approved_and_nothing_is_spent(broker: World) -> None:
    await broker.load_map(NEEDS)
    opened = await broker.begin(["danger"])
    assert convert.verdict(await look(broker, opened.handle)).verdict == pb.VERDICT_NEEDS_APPROVAL
    assert await broker.store.read(lambda tx: tx.approvals()) == []  # looking asks nobody
    first = await asked(broker, opened.handle)
    told = convert.verdict(await look(broker, opened.handle))
    assert (told.verdict, told.approval_id, told.approvals_given) == (pb.VERDICT_NEEDS_APPROVAL, first, 0)
    await approve(broker, first)
    told = convert.verdict(await look(broker, opened.handle))
    assert (told.verdict, told.approval_id, told.approvals_given) == (pb.VERDICT_GRANTED, first, 2)
    assert (await broker.issue(opened.handle, "danger")).lease.approval_id == first


async def test_what_is_approved_and_may_not_be_used_is_not_granted(broker: World) -> None:
    """Else whoever waits would ask again and again for what it is refused."""
    await broker.load_map(NEEDS)
    opened = await broker.begin(["danger"])
    await approve(broker, await asked(broker, opened.handle))
    off = replace(broker.core.approving, off=lambda: "a signer is unknown")
    object.__setattr__(broker.core, "approving", off)
    assert convert.verdict(await look(broker, opened.handle)).verdict == pb.VERDICT_NEEDS_APPROVAL
    assert (await refusal(broker.issue(opened.handle, "danger"))).reason is Reason.NEEDS_APPROVAL


async def test_what_its_launcher_proved_counts(broker: World) -> None:
    await broker.set_launchers(launcher())
    digest = "sha256:" + "a" * 64
    pinned = MAP.replace("scopes: [plain, elevated", f'definition_digest: ["{digest}"], scopes: [plain, elevated')
    await broker.load_map(pinned)
    opened = await broker.launch(["plain"], digest=digest)
    assert isinstance((await look(broker, opened.handle, "plain")).decision, Allowed)
    (by_name,) = await broker.engine.check_access(KEY, ["plain"], address="")
    assert isinstance(by_name.decision, Denied)


@pytest.mark.parametrize("case", ["unknown", "foreign", "ended", "not named"])
async def test_it_is_refused_as_the_credential_would_be(broker: World, case: str) -> None:
    opened = await broker.begin(["plain"])
    handle, who, scope, expected = opened.handle, agent(), "plain", Reason.ACCESS_DENIED
    match case:
        case "unknown":
            handle = "x" * len(handle)
        case "foreign":
            who = agent(OTHER)
        case "ended":
            await broker.end(handle)
            expected = Reason.STEP_ENDED
        case _:
            scope, expected = "danger", Reason.SCOPE_NOT_NAMED
    with pytest.raises(BrokerError) as caught:
        await broker.engine.check_open(who, handle, [scope])
    assert caught.value.reason is expected
