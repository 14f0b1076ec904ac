"""Who is let in to which method, as what, and what becomes of a stream when that changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.guard.limiter import RateLimit
from broker.operators.model import Role
from broker.rpc import pipeline, places
from broker.rpc.methods import OPERATOR, MethodRule
from stepcred.v1 import operator_pb2 as pb
from tests.unit.rpc.conftest import Told, told
from tests.unit.rpc.operators.conftest import House, house_of, spiffe

C = grpc.StatusCode
SERVICE = pb.DESCRIPTOR.services_by_name["BrokerOperator"]
METHODS = sorted(method.name for method in SERVICE.methods)
STREAMS = {method.name for method in SERVICE.methods if method.server_streaming}
ANYBODY = {"GetOperator", "GetFrontDoor"}


async def ask(house: House, name: str, method: str, request: Any = None) -> Any:
    """One call; of a stream, its first message."""
    if request is None:
        request = getattr(pb, f"{method}Request")()
    call = getattr(house.stub(name), method)(request, timeout=10)
    return await anext(aiter(call), None) if method in STREAMS else await call


async def refused(house: House, name: str, method: str, request: Any = None) -> Told:
    return await told(ask(house, name, method, request))


# --- the table ---


def test_every_method_of_the_contract_has_a_rule_and_is_implemented(house: House) -> None:
    assert set(METHODS) == set(OPERATOR.rules) == set(house.servicer.methods())


def test_every_method_needs_a_role_but_for_two() -> None:
    assert {name for name, rule in OPERATOR.rules.items() if rule.anybody} == ANYBODY
    assert {name for name, rule in OPERATOR.rules.items() if rule.role is None} == ANYBODY


def test_whatever_only_looks_needs_a_viewer_and_whatever_changes_more() -> None:
    looks = {name for name in METHODS if name.startswith(("List", "Get", "Explain", "Tail"))}
    viewers = {name for name, rule in OPERATOR.rules.items() if rule.role is Role.VIEWER}
    assert viewers == looks - ANYBODY | {"SealSecondFactor"}
    assert {name for name, rule in OPERATOR.rules.items() if rule.role is Role.APPROVER} == {"DecideApproval"}
    assert {name for name, rule in OPERATOR.rules.items() if rule.role is Role.RESPONDER} == (
        set(METHODS) - looks - {"SealSecondFactor", "DecideApproval"}
    )


def test_what_delivers_a_secret_is_looked_at_once_more() -> None:
    assert {name for name, rule in OPERATOR.rules.items() if rule.delivers} == {"SealSecondFactor"}


# --- who ---


@pytest.mark.parametrize("method", sorted(set(METHODS) - ANYBODY))
async def test_whom_the_file_does_not_name_is_refused_by_every_method(house: House, method: str) -> None:
    answer = await refused(house, "eve", method)
    assert (answer.code, answer.reason) == (C.PERMISSION_DENIED, "OPERATOR_UNKNOWN")
    (record,) = await house.broker.journal("OPERATOR_DENIED")
    assert record["reference_id"] == answer.metadata["reference_id"]
    assert (record["agent"], record["data"]["method"]) == (spiffe("eve"), method)
    assert house.desk.asked == []


@pytest.mark.parametrize("method", sorted(ANYBODY))
async def test_what_everybody_may_ask_is_answered(house: House, method: str) -> None:
    assert await ask(house, "eve", method)
    assert await house.broker.journal("OPERATOR_DENIED") == []


@pytest.mark.parametrize(
    "method", sorted(name for name, rule in OPERATOR.rules.items() if rule.role not in (None, Role.VIEWER))
)
async def test_a_viewer_changes_nothing(house: House, method: str) -> None:
    answer = await refused(house, "vic", method)
    assert (answer.code, answer.reason) == (C.PERMISSION_DENIED, "ROLE_MISSING")
    rule = OPERATOR.rules[method]
    assert rule.role is not None
    assert answer.metadata["role"] == rule.role.value
    assert house.desk.asked == []
    (record,) = await house.broker.journal("OPERATOR_DENIED")
    assert record["data"]["operator"] == "vic"


async def test_a_responder_does_not_approve_and_an_approver_does_not_respond(house: House) -> None:
    assert (await refused(house, "ann", "DecideApproval")).reason == "ROLE_MISSING"
    assert (await refused(house, "bob", "Freeze")).reason == "ROLE_MISSING"
    house.people.add("ada", Role.ADMIN)
    assert (await refused(house, "ada", "DecideApproval")).reason == "ROLE_MISSING"
    assert (await refused(house, "ada", "Freeze")).reason == "INVALID_ARGUMENT"  # no reason: it came that far


async def test_a_rule_without_a_role_lets_nobody_in(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATOR.rules, "ListLeases", MethodRule())
    house.people.add("all", *Role)
    assert (await refused(house, "all", "ListLeases")).reason == "ROLE_MISSING"


async def test_an_agent_is_no_operator_whatever_its_name(house: House) -> None:
    house.made["ann"] = house.ca.agent(spiffe("ann"))
    assert (await refused(house, "ann", "GetOperator")).code is C.UNAVAILABLE


async def test_a_refusal_shares_no_reference_with_an_agent_of_the_same_name(house: House) -> None:
    """The first five of a minute are written; the sixth on either side opens a count of its own."""
    from broker.errors import BrokerError, Reason
    from tests.fakes.world import agent

    for _ in range(6):
        answer = await refused(house, "eve", "GetHealth")
    for _ in range(6):
        error = BrokerError(Reason.OPERATOR_UNKNOWN, "as if")
        await house.broker.engine._refusals.record(agent(spiffe("eve")), "BeginStep", error)
    assert error.reference_id != answer.metadata["reference_id"]
    aggregates = [one for one in await house.broker.journal() if one.get("data", {}).get("aggregate")]
    assert [one["kind"] for one in aggregates] == ["OPERATOR_DENIED", "DENIED"]


async def test_a_role_that_was_taken_away_is_gone_at_the_next_call(house: House) -> None:
    request = pb.FreezeRequest(selection=pb.Selection(scope="plain"), reason="a drill")
    assert (await ask(house, "ann", "Freeze", request)).freeze.by == "ann"
    house.people.add("ann")
    assert (await refused(house, "ann", "Freeze", request)).reason == "ROLE_MISSING"


async def test_a_secret_is_not_told_to_one_who_is_out_by_then(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = house.desk.seal_second_factor

    async def slow(by: Any) -> Any:
        house.people.known.clear()
        return await seal(by)

    monkeypatch.setattr(house.desk, "seal_second_factor", slow)
    answer = await refused(house, "vic", "SealSecondFactor")
    assert answer.reason == "OPERATOR_UNKNOWN"
    assert "s3cret" not in f"{answer}"


# --- streams ---


def following(house: House, name: str = "vic") -> Any:
    return house.stub(name).TailJournal(pb.TailJournalRequest(follow=True, back=1))


async def opened(house: House, name: str = "vic") -> Any:
    call = following(house, name)
    assert (await call.read()).entries
    return call


async def ended(call: Any, house: House) -> Told:
    """What a stream ends with, while time passes."""

    async def passing() -> None:
        while True:
            house.broker.fake_clock.advance(0.5)
            await asyncio.sleep(0.01)

    async def end() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    time = asyncio.ensure_future(passing())
    try:
        return await told(asyncio.wait_for(end(), 10))
    finally:
        time.cancel()


async def test_a_stream_passes_the_same_checks(tmp_path: Path) -> None:
    async with house_of(tmp_path, limit=RateLimit(per_second=0.001, burst=1)) as house:
        metadata = (("x", "y" * 20_000),)
        too_much = house.stub("vic").TailJournal(pb.TailJournalRequest(), metadata=metadata)
        assert (await told(anext(aiter(too_much)))).code in (C.INVALID_ARGUMENT, C.RESOURCE_EXHAUSTED)
        assert await ask(house, "vic", "TailJournal", pb.TailJournalRequest(back=1))
        assert (await refused(house, "vic", "TailJournal")).reason == "RATE_LIMITED"


async def test_a_stream_ends_when_its_reader_loses_its_name(house: House) -> None:
    call = await opened(house)
    house.people.known.clear()
    answer = await ended(call, house)
    assert (answer.code, answer.reason) == (C.PERMISSION_DENIED, "OPERATOR_UNKNOWN")
    assert [one["data"]["method"] for one in await house.broker.journal("OPERATOR_DENIED")] == ["TailJournal"]


async def test_a_stream_ends_when_its_certificate_does(house: House) -> None:
    call = await opened(house)
    house.broker.fake_clock.suspend(3 * 365 * 86400.0)
    assert (await ended(call, house)).code is C.UNAUTHENTICATED


async def test_nothing_is_told_after_the_reader_lost_its_name(house: House) -> None:
    """Not even within the seconds between two looks: each message is preceded by one."""
    call = await opened(house)
    await house.broker.begin()
    house.people.known.clear()
    house.broker.fake_clock.advance(pipeline.LOOK_AGAIN / 2)  # the tail polls, the look is not due yet
    assert (await told(call.read())).reason == "OPERATOR_UNKNOWN"


async def test_without_the_look_it_would_be_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.Pipeline, "_look_again", lambda *_: None)
    call = await opened(house)
    await house.broker.begin()
    house.people.known.clear()
    house.broker.fake_clock.advance(pipeline.LOOK_AGAIN / 2)
    assert "STEP_BEGUN" in (await call.read()).entries[0].body


async def test_an_operator_has_so_many_streams_and_other_calls_all_the_same(house: House) -> None:
    for _ in range(places.STREAMS_OF_ONE):
        await opened(house)
    answer = await told(following(house).read())
    assert (answer.code, answer.reason) == (C.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert await ask(house, "vic", "GetHealth")
    assert await opened(house, "ann")


async def test_a_reader_who_goes_gives_its_place_back(house: House) -> None:
    room = house.pipeline._places.streaming
    call = await opened(house)
    assert len(room) == 1
    call.cancel()
    await house.broker.until(lambda: _is_empty(room))


async def _is_empty(room: places.Room) -> bool:
    return len(room) == 0


async def test_a_failure_in_a_stream_tells_no_text(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> Any:
        raise RuntimeError("hvs.do-not-tell")

    monkeypatch.setattr(house.broker.store, "read", fail)
    answer = await told(following(house).read())
    assert (answer.code, answer.reason) == (C.INTERNAL, "INTERNAL")
    assert "do-not-tell" not in f"{answer}"
