"""CheckAccess with show_policy: told of what the agent may have, and of nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.rpc import convert
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.world import MAP, new_id
from tests.unit.rpc.conftest import Edge

NAME = pb.StepName(workflow="nightly", run="r1", step="load")
FOREIGN = """\
  foreign: {fake: {role: s3cret-role}, ttl: 10m, tier: low}
  guarded: {fake: {role: guarded}, ttl: 10m, tier: low, approvals: 2}
"""
GRANTS = """\
  approved: {workloads: [load], workflows: [nightly], scopes: [guarded], max_step: 3m}
  elsewhere: {workloads: [other], workflows: [nightly], scopes: [foreign]}
  shut: {workloads: [load], workflows: [weekly], scopes: [shut]}
"""


def with_more(text: str) -> str:
    more = FOREIGN + "  shut: {fake: {role: shut-role}, ttl: 10m, tier: low}\n"
    return text.replace("grants:\n", f"{more}grants:\n") + GRANTS


async def check(edge: Edge, *scopes: str, show: bool = True, **of: Any) -> pb.CheckAccessResponse:
    asked = of or {"name": NAME}
    answer = await edge.stub().CheckAccess(pb.CheckAccessRequest(scopes=scopes, show_policy=show, **asked))
    assert isinstance(answer, pb.CheckAccessResponse)
    return answer


async def test_only_who_asks_is_told(edge: Edge) -> None:
    await edge.broker.load_map(with_more(MAP))
    assert not (await check(edge, "plain", show=False)).scopes[0].policy
    (verdict,) = (await check(edge, "plain")).scopes
    said = json.loads(verdict.policy)
    assert (said["provider"], said["fake"]) == ("fake", {"role": "plain"})
    assert said["in_words"][0] == "may what plain may"


async def test_what_needs_approval_is_shown_too_and_bounded_by_its_step(edge: Edge) -> None:
    await edge.broker.load_map(with_more(MAP))
    before = edge.broker.clock.now()
    (verdict,) = (await check(edge, "guarded")).scopes
    assert verdict.verdict == pb.VERDICT_NEEDS_APPROVAL
    until = datetime.strptime(json.loads(verdict.policy)["until"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert until - before <= timedelta(minutes=3)  # of its grant; its ttl is longer


async def test_of_other_scopes_the_answer_is_the_same_byte_for_byte(edge: Edge) -> None:
    await edge.broker.load_map(with_more(MAP))
    for scope in ("foreign", "nowhere", "shut"):
        plain, shown = [
            (await check(edge, scope, show=show)).SerializeToString(deterministic=True) for show in (False, True)
        ]
        assert plain == shown
    foreign, nowhere = [
        (await check(edge, name)).SerializeToString(deterministic=True) for name in ("foreign", "nowhere")
    ]
    assert foreign.replace(b"foreign", b"nowhere") == nowhere


async def test_in_an_open_step_the_time_is_what_is_left_of_it(edge: Edge) -> None:
    opened = await edge.begin("plain")
    (verdict,) = (await check(edge, "plain", step_handle=opened.step_handle)).scopes
    assert json.loads(verdict.policy)["until"] == _written(edge.broker.clock.now() + timedelta(minutes=10))
    begin = pb.BeginStepRequest(request_id=new_id(), name=pb.StepName(workflow="nightly", run="r2", step="load"))
    begin.scopes.append("plain")
    begin.max_duration.FromSeconds(180)
    short = await edge.stub().BeginStep(begin)
    (verdict,) = (await check(edge, "plain", step_handle=short.step_handle)).scopes
    assert json.loads(verdict.policy)["until"] == _written(short.deadline.ToDatetime(UTC))


def _written(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


async def test_whoami_tells_what_is_within_reach(edge: Edge) -> None:
    await edge.broker.load_map(with_more(MAP))
    answer = await edge.stub().WhoAmI(pb.WhoAmIRequest())
    assert [one.scope for one in answer.reach] == list(answer.scopes)
    assert answer.reach_left_out == 0
    found = {one.scope: one for one in answer.reach}
    plain, guarded, shut = found["plain"], found["guarded"], found["shut"]
    assert (plain.provider, plain.ttl.seconds, plain.max_ttl.seconds) == ("fake", 600, 3600)
    (nightly,) = plain.grants
    assert (nightly.rule, nightly.workload, list(nightly.workflows)) == ("nightly", "load", ["nightly"])
    assert (nightly.max_step.seconds, list(nightly.conditions)) == (7200, [])
    assert nightly.position.startswith("scopes.yaml:")
    assert guarded.grants[0].approvals_needed == 2
    assert list(shut.grants[0].conditions) == ["never with this certificate, which says workflow 'nightly'"]
    assert "foreign" not in str(answer)


async def test_what_is_within_reach_has_a_largest_size(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await edge.stub().WhoAmI(pb.WhoAmIRequest())
    room = sum(one.ByteSize() for one in whole.reach[:2])
    monkeypatch.setattr(convert, "MAX_REACH", room)
    cut = await edge.stub().WhoAmI(pb.WhoAmIRequest())
    assert list(cut.reach) == list(whole.reach)[:2]
    assert cut.reach_left_out == len(whole.reach) - 2
    assert list(cut.scopes) == list(whole.scopes)
