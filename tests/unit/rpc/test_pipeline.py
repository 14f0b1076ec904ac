"""What every call passes, over a real socket with real certificates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest
from cryptography import x509

from broker.config import Limits
from broker.errors import StoreError
from broker.guard.limiter import RateLimit
from broker.identity import Authenticator, FrontDoor, verify
from broker.rpc import server
from broker.rpc.methods import BROKER, MethodRule
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.world import LOAD, OTHER, new_id
from tests.support.certs import TestCA
from tests.support.doors import door, settle
from tests.support.mutants import rewritten
from tests.unit.rpc.conftest import Edge, edge_of, told

C = grpc.StatusCode
SECOND = timedelta(seconds=1)


async def test_the_whole_way_of_a_credential(edge: Edge) -> None:
    stub = edge.stub()
    opened = await edge.begin()
    request = pb.IssueCredentialRequest(request_id=new_id(), step_handle=opened.step_handle, scope="plain")
    issued = await stub.IssueCredential(request)
    assert issued.credential.vault_token.token == f"secret-of-{issued.lease.lease_id}"
    beat = pb.HeartbeatRequest(step_handle=opened.step_handle, held_lease_ids=[issued.lease.lease_id, "not-mine"])
    assert (await stub.Heartbeat(beat)).ended_lease_ids == ["not-mine"]
    end = pb.EndStepRequest(request_id=new_id(), step_handle=opened.step_handle)
    end.wait.seconds = 5
    assert (await stub.EndStep(end)).all_proven


# --- transport ---


async def test_without_tls_there_is_no_answer(edge: Edge) -> None:
    async with grpc.aio.insecure_channel(edge.address) as channel:
        call = raw(channel, "WhoAmI")
        assert (await told(call)).code is C.UNAVAILABLE


async def test_without_a_client_certificate_there_is_no_answer(edge: Edge) -> None:
    call = raw(edge.channel(None), "WhoAmI")
    assert (await told(call)).code is C.UNAVAILABLE


async def test_a_certificate_of_another_root_gets_no_answer(edge: Edge, tmp_path: Path) -> None:
    stranger = TestCA(tmp_path / "elsewhere", "dev.local").agent(OTHER)
    assert (await told(edge.stub(stranger).WhoAmI(pb.WhoAmIRequest(), timeout=5))).code is C.UNAVAILABLE


async def test_a_foreign_trust_domain_is_unauthenticated_and_not_journalled(edge: Edge) -> None:
    before = await edge.broker.journal_kinds()
    refused = await told(edge.stub(_foreign(edge)).WhoAmI(pb.WhoAmIRequest()))
    assert (refused.code, refused.reason) == (C.UNAUTHENTICATED, "TRUST_DOMAIN_FOREIGN")
    assert await edge.broker.journal_kinds() == before


# --- who is let in no more while a credential is minted ---


Happens: TypeAlias = Callable[[Edge], None]


def its_root_goes(edge: Edge) -> None:
    edge.ca.root_path.write_bytes(TestCA(edge.broker.folder / "other", "dev.local").root_pem)
    assert settle(edge.door).moved


def it_is_denied(edge: Edge) -> None:
    edge.deny.write_text(f'[[denied]]\nagent = "{LOAD}"\n')
    assert settle(edge.door).moved


def it_expires(edge: Edge) -> None:
    edge.broker.fake_clock.set_wall(
        x509.load_pem_x509_certificate(edge.agent.cert.read_bytes()).not_valid_after_utc + SECOND
    )


MEANWHILE: dict[str, tuple[Happens, str]] = {
    "its root goes": (its_root_goes, "CERTIFICATE_INVALID"),
    "it is denied": (it_is_denied, "AGENT_DENIED"),
    "it expires": (it_expires, "CERTIFICATE_EXPIRED"),
}


async def asks_and_meanwhile(edge: Edge, monkeypatch: pytest.MonkeyPatch, happens: Happens) -> Any:
    """Ask for a credential; when all is done for it, and it only has to be told, something happens."""
    opened, issue = await edge.begin(), edge.broker.engine.issue

    async def slow(*arguments: Any) -> Any:
        delivered = await issue(*arguments)
        happens(edge)
        return delivered

    monkeypatch.setattr(edge.broker.engine, "issue", slow)
    request = pb.IssueCredentialRequest(request_id=new_id(), step_handle=opened.step_handle, scope="plain")
    return edge.stub().IssueCredential(request)


@pytest.mark.parametrize("what", MEANWHILE)
async def test_what_was_minted_for_one_who_is_let_in_no_more_is_not_told(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    happens, reason = MEANWHILE[what]
    refused = await told(await asks_and_meanwhile(edge, monkeypatch, happens))
    assert (refused.code, refused.reason) == (C.UNAUTHENTICATED, reason)
    (lease,) = await edge.broker.leases()
    assert "secret-of-" not in f"{refused}"
    assert lease.claimed_at is None, "nobody has it, so it is revoked when its claim window ends"


def without_the_last_look(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(BROKER.rules, "IssueCredential", MethodRule())


def by_any_trust(patch: pytest.MonkeyPatch) -> None:
    rewritten(Authenticator, "_verified", "if trust is not self._trust:", "if False:")(patch)


def at_any_time(patch: pytest.MonkeyPatch) -> None:
    rewritten(Authenticator, "_verified", "found.valid_from <= now <= found.valid_until", "True")(patch)


@pytest.mark.parametrize(
    ("mutant", "what"),
    [
        *((without_the_last_look, what) for what in MEANWHILE),
        (by_any_trust, "its root goes"),
        (by_any_trust, "it is denied"),
        (at_any_time, "it expires"),
    ],
)
async def test_a_mutant_would_tell_it(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None], what: str
) -> None:
    mutant(monkeypatch)
    issued = await (await asks_and_meanwhile(edge, monkeypatch, MEANWHILE[what][0]))
    assert issued.credential.vault_token.token


# --- methods ---


async def test_a_method_that_does_not_exist_is_unimplemented(edge: Edge) -> None:
    call = raw(edge.channel(edge.agent), "GiveMeEverything")
    assert (await told(call)).code is C.UNIMPLEMENTED


def test_a_method_missing_from_the_table_is_not_served(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(BROKER.rules, "IssueCredential")
    handler = server.handler(edge.pipeline, edge.servicer)
    assert handler.service(_call("WhoAmI")) is not None
    assert handler.service(_call("IssueCredential")) is None


def test_the_table_the_servicer_and_the_contract_name_the_same_methods(edge: Edge) -> None:
    described = {method.name for method in pb.DESCRIPTOR.services_by_name["CredentialBroker"].methods}
    assert described == set(BROKER.rules) == set(edge.servicer.methods())


async def test_bytes_that_are_no_request_are_refused_without_the_parsers_words(edge: Edge) -> None:
    call = raw(edge.channel(edge.agent), "BeginStep", b"\xff\xff\xff")
    refused = await told(call)
    assert (refused.code, refused.reason) == (C.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert "DecodeError" not in refused.message


# --- failures ---

SECRET = "hvs.do-not-tell"  # what must not be told


@pytest.mark.parametrize(
    ("failure", "code", "reason"),
    [
        (RuntimeError(SECRET), C.INTERNAL, "INTERNAL"),
        (KeyError(SECRET), C.INTERNAL, "INTERNAL"),
        (TimeoutError(SECRET), C.INTERNAL, "INTERNAL"),
        (StoreError(SECRET), C.ABORTED, "STORE_UNAVAILABLE"),
    ],
)
async def test_the_text_of_a_failure_never_reaches_the_client(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, failure: Exception, code: grpc.StatusCode, reason: str
) -> None:
    async def fail(*_: Any) -> Any:
        raise failure

    monkeypatch.setattr(edge.broker.engine, "begin_step", fail)
    refused = await told(edge.begin())
    assert (refused.code, refused.reason) == (code, reason)
    assert SECRET not in f"{refused}"
    assert refused.metadata["reference_id"]


async def test_a_failure_while_refusing_does_not_reach_the_client_either(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(edge.broker.engine._refusals, "record", fail)
    refused = await told(edge.begin(run="not a name"))
    assert (refused.code, refused.message) == (C.INTERNAL, "internal error")
    assert SECRET not in f"{refused}"


async def test_a_store_that_cannot_write_refuses_all_the_same(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any, **__: Any) -> Any:
        raise StoreError(SECRET)

    monkeypatch.setattr(edge.broker.store, "write", full)
    refused = await told(edge.begin())
    assert (refused.code, refused.reason) == (C.ABORTED, "STORE_UNAVAILABLE")
    assert "an end may not be on record" in refused.message  # ends are refused with it too
    assert refused.trailers["grpc-retry-pushback-ms"] == "5000"


def test_what_has_not_changed_is_not_handed_over_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new configuration frees one that another thread may be using: strangers could end the daemon so."""
    given: list[Any] = []
    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", lambda *args, **_: given.extend(args))
    ca = TestCA(tmp_path, "dev.local")
    cert, key = ca.server()
    opened = door(ca.root_path, "dev.local", server=(cert, key))
    server.credentials(opened, verify.agents)
    _first, fetch = given
    assert [fetch() for _ in range(3)] == [None, None, None]
    ca.server()  # over the old files
    assert settle(opened).loaded == ("server certificate",)
    assert [fetch() is None for _ in range(3)] == [False, True, True]


def test_key_and_certificate_are_of_one_pair_while_another_is_taken_into_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = TestCA(tmp_path, "dev.local")
    opened = door(ca.root_path, "dev.local", server=ca.server())
    old = opened.server
    ca.server()  # over the old files
    settle(opened)
    turns = cycle([old, opened.server])
    monkeypatch.setattr(FrontDoor, "server", property(lambda _: next(turns)))
    key, cert, _roots = server._material(opened, verify.agents)
    assert (key, cert) == (old.key, old.cert)


# --- limits ---


async def test_metadata_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    async with edge_of(tmp_path, limits=Limits(max_metadata_bytes=1024), limit=RateLimit()) as edge:
        stub = edge.stub()
        await stub.WhoAmI(pb.WhoAmIRequest(), metadata=(("x", "y" * 300),))
        refused = await told(stub.WhoAmI(pb.WhoAmIRequest(), metadata=(("x", "y" * 2000),)))
        assert refused.code in (C.INVALID_ARGUMENT, C.RESOURCE_EXHAUSTED)  # ours, or grpc's own once SETTINGS are known


async def test_a_message_beyond_the_limit_is_refused(edge: Edge) -> None:
    held = ["x" * 100] * 300
    refused = await told(edge.stub().Heartbeat(pb.HeartbeatRequest(step_handle="h", held_lease_ids=held)))
    assert refused.code is C.RESOURCE_EXHAUSTED


async def test_a_storm_is_slowed_and_giving_back_is_not(tmp_path: Path) -> None:
    async with edge_of(tmp_path, limits=Limits(), limit=RateLimit(per_second=0.5, burst=2)) as edge:
        stub = edge.stub()
        opened = await edge.begin()
        await stub.WhoAmI(pb.WhoAmIRequest())
        refused = await told(stub.WhoAmI(pb.WhoAmIRequest()))
        assert (refused.code, refused.reason) == (C.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert 0 < int(refused.trailers["grpc-retry-pushback-ms"]) <= 2000
        for _ in range(5):
            await stub.Heartbeat(pb.HeartbeatRequest(step_handle=opened.step_handle))
        await stub.EndStep(pb.EndStepRequest(request_id=new_id(), step_handle=opened.step_handle))
        await edge.stub(edge.ca.agent(OTHER)).WhoAmI(pb.WhoAmIRequest())  # another agent has its own


@pytest.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[Edge]:
    """Two calls of one agent at once."""
    async with edge_of(tmp_path, limits=Limits(max_agent_rpcs=2), limit=RateLimit()) as made:
        yield made


async def test_one_agents_slow_mints_leave_room(narrow: Edge) -> None:
    edge = narrow
    opened, stub = await edge.begin(), edge.stub()
    edge.broker.provider.after_landing.clear()

    def issue() -> Any:
        return stub.IssueCredential(
            pb.IssueCredentialRequest(request_id=new_id(), step_handle=opened.step_handle, scope="plain")
        )

    slow = [issue(), issue()]
    await asyncio.wait_for(edge.broker.provider.landed.wait(), 15)
    await edge.broker.until(lambda: _mints(edge, 2))
    assert (await told(issue())).reason == "RATE_LIMITED"
    await stub.Heartbeat(pb.HeartbeatRequest(step_handle=opened.step_handle))
    edge.broker.provider.after_landing.set()
    await asyncio.gather(*slow)
    assert await _in_flight(edge, 0)


async def test_one_agents_heartbeats_leave_room_too(narrow: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = narrow
    opened, stub, go_on = await edge.begin(), edge.stub(), asyncio.Event()
    heartbeat = edge.broker.engine.heartbeat

    async def slow_heartbeat(*arguments: Any) -> Any:
        await go_on.wait()
        return await heartbeat(*arguments)

    monkeypatch.setattr(edge.broker.engine, "heartbeat", slow_heartbeat)

    def beat() -> Any:
        return stub.Heartbeat(pb.HeartbeatRequest(step_handle=opened.step_handle))

    slow = [beat(), beat()]
    await edge.broker.until(lambda: _in_flight(edge, 2))
    assert (await told(beat())).reason == "RATE_LIMITED"
    await stub.WhoAmI(pb.WhoAmIRequest())  # asking has places of its own
    go_on.set()
    await asyncio.gather(*slow)
    assert await _in_flight(edge, 0)


async def _in_flight(edge: Edge, count: int) -> bool:
    places = edge.pipeline._places
    return len(places.asking) + len(places.giving_back) == count


async def _mints(edge: Edge, count: int) -> bool:
    return len(edge.broker.backend.mints) == count


def _foreign(edge: Edge) -> Any:
    return edge.ca.agent("spiffe://else.local/workflow/x/step/y", common_name="agent")


def raw(channel: Any, method: str, body: bytes = b"") -> Any:
    """A call without the generated stub."""
    return channel.unary_unary(f"/{BROKER.described.full_name}/{method}")(body, timeout=5)


def _call(name: str) -> Any:
    class Details:
        method = f"/{BROKER.described.full_name}/{name}"
        invocation_metadata = ()

    return Details()
