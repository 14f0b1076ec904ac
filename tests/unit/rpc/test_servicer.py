"""What the wire lets in: bounds of every field, checked before anything is asked of the engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
import pytest

from broker.model import Agent
from broker.rpc.servicer import MAX_WAIT, _seconds, _wait
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.launchers import DIGEST, SCHEDULER, launcher
from tests.fakes.world import LOAD, OTHER, agent, new_id
from tests.unit.rpc.conftest import Edge, told

C = grpc.StatusCode
NAME = pb.StepName(workflow="nightly", run="r1", step="load")


class Context:
    def __init__(self, remaining: float | None) -> None:
        self._remaining = remaining

    def time_remaining(self) -> float | None:
        return self._remaining


@pytest.mark.parametrize(
    ("asked", "remaining", "waits"),
    [
        (None, None, 0.0),
        (5, None, 5.0),
        (5, 2.0, 1.5),
        (5, 0.1, 0.0),
        (-5, 60.0, 0.0),
        (10**9, None, MAX_WAIT),
        (10**9, 3600, 3599.5),
    ],
)
def test_nobody_waits_beyond_the_calls_own_deadline(asked: int | None, remaining: float | None, waits: float) -> None:
    request = pb.EndStepRequest()
    if asked is not None:
        request.wait.seconds = asked
    assert _wait(request, Context(remaining)) == waits


async def test_of_one_agents_many_ends_only_some_wait_for_evidence(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.servicer, "_max_waiting", 2)
    request, mine, another = pb.EndStepRequest(), agent(LOAD), agent(OTHER)
    request.wait.seconds = 5

    def patience(who: Agent) -> AbstractContextManager[float]:
        return edge.servicer._patience(who, request, Context(None))

    with patience(mine) as first, patience(mine) as second, patience(mine) as third, patience(another) as others:
        assert (first, second, third, others) == (5.0, 5.0, 0.0, 5.0)
    with patience(mine) as later:
        assert later == 5.0
    monkeypatch.setattr(edge.servicer, "_all_waiting", 1)
    with patience(mine), patience(another) as one_too_many:
        assert one_too_many == 0.0
    assert edge.servicer._waiting.total() == 0


def test_an_unset_duration_is_not_zero() -> None:
    request = pb.BeginStepRequest()
    assert _seconds(request, "max_duration") is None
    request.max_duration.nanos = 500_000_000
    assert _seconds(request, "max_duration") == 0.5


def begin(**changes: Any) -> pb.BeginStepRequest:
    return pb.BeginStepRequest(**{"request_id": new_id(), "name": NAME, "scopes": ["plain"], **changes})


BAD: dict[str, tuple[Callable[[], pb.BeginStepRequest], C, str]] = {
    "no id": (lambda: begin(request_id=""), C.INVALID_ARGUMENT, "INVALID_REQUEST_ID"),
    "an id in capitals": (lambda: begin(request_id=new_id().upper()), C.INVALID_ARGUMENT, "INVALID_REQUEST_ID"),
    "no name": (lambda: begin(name=None), C.INVALID_ARGUMENT, "INVALID_NAME"),
    "no scope": (lambda: begin(scopes=[]), C.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "a scope twice": (lambda: begin(scopes=["plain", "plain"]), C.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "too many scopes": (lambda: begin(scopes=[f"s{i}" for i in range(33)]), C.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "for someone else": (lambda: begin(on_behalf_of=OTHER), C.PERMISSION_DENIED, "ACCESS_DENIED"),
    "for itself": (lambda: begin(on_behalf_of=LOAD), C.PERMISSION_DENIED, "ACCESS_DENIED"),
    "for another domain": (lambda: begin(on_behalf_of="spiffe://a.b/c"), C.PERMISSION_DENIED, "ACCESS_DENIED"),
    "for no name": (lambda: begin(on_behalf_of=OTHER + "/"), C.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "with a digest": (lambda: begin(definition_digest=DIGEST), C.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    "with no digest": (
        lambda: begin(on_behalf_of=OTHER, definition_digest=DIGEST.upper()),
        C.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_begin_is_refused(edge: Edge, case: str) -> None:
    make, code, reason = BAD[case]
    refused = await told(edge.stub().BeginStep(make()))
    assert (refused.code, refused.reason) == (code, reason)
    assert await edge.broker.store.read(lambda tx: tx.open_steps()) == []


async def test_a_launcher_is_told_how_long_the_workload_may_take_to_start(edge: Edge) -> None:
    await edge.broker.set_launchers(launcher())
    scheduler = edge.stub(edge.ca.agent(SCHEDULER))
    opened = await scheduler.BeginStep(begin(on_behalf_of=LOAD, definition_digest=DIGEST))
    assert (opened.attempt, opened.start_within.ToSeconds()) == (1, 900)
    assert opened.silence_bound.ToSeconds() == 45
    await edge.stub().Heartbeat(pb.HeartbeatRequest(step_handle=opened.step_handle))
    (record,) = await edge.broker.journal("STEP_STARTED")
    assert (record["agent"], record["data"]["opened_by"]) == (LOAD, SCHEDULER)
    refused = await told(scheduler.Heartbeat(pb.HeartbeatRequest(step_handle=opened.step_handle)))
    assert (refused.code, refused.reason) == (C.PERMISSION_DENIED, "ACCESS_DENIED")
    await scheduler.EndStep(pb.EndStepRequest(request_id=new_id(), step_handle=opened.step_handle))
    own = await edge.begin(run="r2")
    assert not own.HasField("start_within")


async def test_the_address_of_a_call_is_decided_with_and_kept(edge: Edge) -> None:
    opened = await edge.begin()
    request = pb.IssueCredentialRequest(request_id=new_id(), step_handle=opened.step_handle, scope="plain")
    lease = (await edge.stub().IssueCredential(request)).lease
    row = await edge.broker.lease(lease.lease_id)
    assert row.address in {"127.0.0.1", "::1"}
    begun, intent = await edge.broker.journal("STEP_BEGUN", "LEASE_INTENT")
    assert begun["data"]["address"] == intent["data"]["address"] == row.address


@pytest.mark.parametrize("seconds", [-1, 0, 59, 86_401, 10**12])
async def test_a_duration_outside_of_a_minute_and_a_day_is_refused(edge: Edge, seconds: int) -> None:
    request = begin()
    request.max_duration.seconds = seconds
    assert (await told(edge.stub().BeginStep(request))).reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize("handle", ["", "x", "x" * 26, "x" * 65, "ä" * 26])
async def test_every_handle_that_is_not_mine_is_refused_alike(edge: Edge, handle: str) -> None:
    stub = edge.stub()
    theirs = await edge.begin()
    calls = [
        edge.stub(edge.ca.agent(OTHER)).Heartbeat(pb.HeartbeatRequest(step_handle=theirs.step_handle)),
        stub.Heartbeat(pb.HeartbeatRequest(step_handle=handle)),
        stub.EndStep(pb.EndStepRequest(request_id=new_id(), step_handle=handle)),
        stub.IssueCredential(pb.IssueCredentialRequest(request_id=new_id(), step_handle=handle, scope="plain")),
        stub.RevokeLease(pb.RevokeLeaseRequest(request_id=new_id(), step_handle=handle, lease_id="l")),
    ]
    refusals = [await told(call) for call in calls]
    assert {(refused.code, refused.reason, refused.message) for refused in refusals} == {
        (C.PERMISSION_DENIED, "ACCESS_DENIED", "access denied")
    }
    assert {tuple(sorted(refused.metadata)) for refused in refusals} == {("reference_id", "verdict")}


async def test_an_input_that_is_too_large_is_refused(edge: Edge) -> None:
    opened = await edge.begin()
    request = pb.IssueCredentialRequest(
        request_id=new_id(), step_handle=opened.step_handle, scope="plain", public_key="k" * 8193
    )
    assert (await told(edge.stub().IssueCredential(request))).reason == "INVALID_ARGUMENT"


async def test_check_access_opens_nothing(edge: Edge) -> None:
    answer = await edge.stub().CheckAccess(pb.CheckAccessRequest(name=NAME, scopes=["plain", "nope"]))
    assert [scope.verdict for scope in answer.scopes] == [pb.VERDICT_GRANTED, pb.VERDICT_REFUSED]
    assert await edge.broker.store.read(lambda tx: tx.open_steps()) == []


async def test_check_access_of_an_open_step_is_asked_by_its_handle_alone(edge: Edge) -> None:
    opened = await edge.begin("plain")
    request = pb.CheckAccessRequest(step_handle=opened.step_handle, scopes=["plain"])
    answer = await edge.stub().CheckAccess(request)
    assert [scope.verdict for scope in answer.scopes] == [pb.VERDICT_GRANTED]
    request.name.CopyFrom(NAME)
    assert (await told(edge.stub().CheckAccess(request))).reason == "INVALID_ARGUMENT"
    for handle in ("x" * 26, "x" * 9000):
        request = pb.CheckAccessRequest(step_handle=handle, scopes=["plain"])
        assert (await told(edge.stub().CheckAccess(request))).reason == "ACCESS_DENIED"


async def test_who_am_i_says_what_the_certificate_says(edge: Edge) -> None:
    answer = await edge.stub().WhoAmI(pb.WhoAmIRequest())
    assert [match.workload for match in answer.workloads] == ["load"]
    assert dict(answer.workloads[0].captures) == {"workflow": "nightly"}
    assert "plain" in answer.scopes
