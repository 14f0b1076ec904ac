"""Unknown and another's: one answer, byte for byte, after the same work, for every method and everything it can name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest

from broker.guard.denials import DenialCounter
from broker.policy.index import Index
from broker.rpc.methods import BROKER
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.launchers import SCHEDULER, launcher
from tests.fakes.world import LOAD, MAP, OTHER, agent, new_id
from tests.unit.rpc.conftest import Edge, told

NO_WORKLOAD = "spiffe://dev.local/nobody"
SCHEDULER_2 = "spiffe://dev.local/scheduler-2"

# For `other`, all of these are another's: granted to `load` alone, to nobody, under a deny rule, with approvals.
SCOPES = """\
  unreached: {fake: {role: x}, ttl: 10m, tier: low}
  approved: {fake: {role: "{workflow}"}, ttl: 10m, tier: high, approvals: 2}
  barred: {fake: {role: x}, ttl: 10m, tier: elevated}
"""
GRANTS = """\
  more: {workloads: [load], workflows: [else], scopes: [approved, barred], when: {until: 2020-01-01}}
denies:
  nobody: {scopes: [barred, danger]}
"""
FOREIGN_SCOPES = ["elevated", "danger", "timed", "unreached", "approved", "barred"]


_in_call: ContextVar[bool] = ContextVar("in_call", default=False)


@dataclass(kw_only=True)
class Strangers:
    """`other` is the caller; what it names is unknown, or belongs to `load`."""

    edge: Edge
    stub: Any
    handle: str  # its own
    handles: dict[str, str]
    leases: dict[str, str]
    trace: list[str]

    async def refused(self, method: str, request: Any) -> tuple[object, list[str]]:
        """What came back, without the reference id; and what was looked at for it."""
        self.edge.broker.engine._refusals._counter = DenialCounter()  # each as the first of its minute
        self.trace.clear()
        refusal = await told(getattr(self.stub, method)(request))
        assert refusal.reason == "ACCESS_DENIED"
        reference = refusal.metadata["reference_id"]
        assert reference
        trailers = [
            (key, value.replace(reference.encode(), b"*") if isinstance(value, bytes) else value)
            for key, value in refusal.trailers.items()
        ]
        return (refusal.code, refusal.message, trailers), list(self.trace)


@pytest.fixture
async def strangers(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Strangers]:
    broker = edge.broker
    await broker.set_launchers(launcher(workloads=["load"]), launcher("second", SCHEDULER_2, workloads=["other"]))
    await broker.load_map(MAP.replace("grants:\n", SCOPES + "grants:\n") + GRANTS)
    alive, ended, launched = await broker.begin(run="r1"), await broker.begin(run="r2"), await broker.launch(run="r3")
    living, over = await broker.issue(alive.handle), await broker.issue(ended.handle)
    await broker.end(ended.handle)
    who = agent(OTHER)
    mine = await broker.begin(["plain", *FOREIGN_SCOPES, "no-such"], who=who, run="r4")
    beside = await broker.begin(["plain"], who=who, run="r5")
    beside_lease = await broker.issue(beside.handle, who=who)
    trace: list[str] = []
    with _traced(edge, monkeypatch, trace):
        yield Strangers(
            edge=edge,
            stub=edge.stub(edge.ca.agent(OTHER)),
            handle=mine.handle,
            handles={
                "unknown": "a" * len(alive.handle),
                "another's": alive.handle,
                "another's, ended": ended.handle,
                "another's, not started": launched.handle,
                "another's, in other letters": alive.handle.upper(),
            },
            leases={
                "unknown": "a" * len(living.lease.id),
                "another's": living.lease.id,
                "another's, ended": over.lease.id,
                "of another step": beside_lease.lease.id,
            },
            trace=trace,
        )


@contextmanager
def _traced(edge: Edge, monkeypatch: pytest.MonkeyPatch, trace: list[str]) -> Iterator[None]:
    """Every transaction, every call within it, and every look into the map; not what runs by itself."""
    store = edge.broker.store

    def noting(kind: str, run: Any) -> Any:
        async def noted(operation: Callable[[Any], Any], **how: Any) -> Any:
            if not _in_call.get():
                return await run(operation, **how)
            return await run(lambda tx: operation(_Noting(tx, trace, kind)))

        return noted

    serve = edge.pipeline._checked

    async def serving(*arguments: Any, **named: Any) -> Any:
        _in_call.set(True)  # of this call's own task, and of those that it starts
        return await serve(*arguments, **named)

    monkeypatch.setattr(edge.pipeline, "_checked", serving)
    monkeypatch.setattr(store, "read", noting("read", store.read))
    monkeypatch.setattr(store, "write", noting("write", store.write))
    for name in ("matches", "given", "grants_of", "grants_for", "first_grant_of", "denies_of"):
        monkeypatch.setattr(Index, name, _looking(name, getattr(Index, name), trace))
    yield


def _looking(name: str, look: Any, trace: list[str]) -> Any:
    def noted(*arguments: Any) -> Any:
        trace.append(f"map: {name}")
        return look(*arguments)

    return noted


class _Noting:
    def __init__(self, tx: Any, trace: list[str], kind: str) -> None:
        self._tx, self._trace, self._kind = tx, trace, kind

    def __getattr__(self, name: str) -> Any:
        self._trace.append(f"{self._kind}: {name}")
        return getattr(self._tx, name)


def _name(run: str = "r9", workflow: str = "nightly") -> pb.StepName:
    return pb.StepName(workflow=workflow, run=run, step="load")


# --- what a method can name that is another's ---

BY_HANDLE: dict[str, Callable[[str], Any]] = {
    "IssueCredential": lambda it: pb.IssueCredentialRequest(request_id=new_id(), step_handle=it, scope="plain"),
    "Heartbeat": lambda it: pb.HeartbeatRequest(step_handle=it, held_lease_ids=["abcdefghijklmnop"]),
    "RevokeLease": lambda it: pb.RevokeLeaseRequest(request_id=new_id(), step_handle=it, lease_id="abcdefghijklmnop"),
    "EndStep": lambda it: pb.EndStepRequest(request_id=new_id(), step_handle=it),
    "CheckAccess": lambda it: pb.CheckAccessRequest(step_handle=it, scopes=["plain"]),
}
BY_LEASE: dict[str, Callable[[str, str], Any]] = {
    "RevokeLease": lambda handle, it: pb.RevokeLeaseRequest(request_id=new_id(), step_handle=handle, lease_id=it),
    "IssueCredential": lambda handle, it: pb.IssueCredentialRequest(
        request_id=new_id(), step_handle=handle, scope="plain", replaces=it
    ),
}


def test_every_method_that_takes_a_handle_a_lease_or_a_scope_is_here() -> None:
    """A new field of a request is a new question about what is another's."""
    fields = {
        method.name: {field.name for field in method.input_type.fields}
        for method in pb.DESCRIPTOR.services_by_name["CredentialBroker"].methods
    }
    assert set(fields) == set(BROKER.rules)
    assert {name for name, of in fields.items() if "step_handle" in of} == set(BY_HANDLE)
    assert {name for name, of in fields.items() if {"lease_id", "replaces"} & of} == set(BY_LEASE)
    assert {name for name, of in fields.items() if "held_lease_ids" in of} == {"Heartbeat"}
    assert {name for name, of in fields.items() if {"scope", "scopes"} & of} == {
        "BeginStep",
        "CheckAccess",
        "IssueCredential",
    }
    assert {name for name, of in fields.items() if "on_behalf_of" in of} == {"BeginStep"}


@pytest.mark.parametrize("method", BY_HANDLE)
async def test_handles(strangers: Strangers, method: str) -> None:
    found = {
        kind: await strangers.refused(method, BY_HANDLE[method](handle)) for kind, handle in strangers.handles.items()
    }
    _all_alike(found)


@pytest.mark.parametrize("method", BY_LEASE)
async def test_leases(strangers: Strangers, method: str) -> None:
    found = {
        kind: await strangers.refused(method, BY_LEASE[method](strangers.handle, lease_id))
        for kind, lease_id in strangers.leases.items()
    }
    _all_alike(found)


async def test_leases_in_a_heartbeat_are_all_just_not_its_own(strangers: Strangers) -> None:
    traces = {}
    for kind, lease_id in strangers.leases.items():
        strangers.trace.clear()
        request = pb.HeartbeatRequest(step_handle=strangers.handle, held_lease_ids=[lease_id])
        answer = await strangers.stub.Heartbeat(request)
        assert list(answer.ended_lease_ids) == [lease_id]
        traces[kind] = list(strangers.trace)
    assert len(set(map(tuple, traces.values()))) == 1


async def test_scopes_of_a_step(strangers: Strangers) -> None:
    found = {
        scope: await strangers.refused(
            "IssueCredential",
            pb.IssueCredentialRequest(request_id=new_id(), step_handle=strangers.handle, scope=scope),
        )
        for scope in ("no-such", *FOREIGN_SCOPES)
    }
    _all_alike(found)


async def test_scopes_that_an_open_step_is_asked_about(strangers: Strangers) -> None:
    found = {}
    for scope in ("no-such", *FOREIGN_SCOPES):
        strangers.trace.clear()
        request = pb.CheckAccessRequest(step_handle=strangers.handle, scopes=[scope])
        [verdict] = (await strangers.stub.CheckAccess(request)).scopes
        assert (verdict.reason, verdict.scope) == ("ACCESS_DENIED", scope)
        verdict.scope = "*"
        found[scope] = (verdict.SerializeToString(), list(strangers.trace))
    _all_alike(found)


@pytest.mark.parametrize("who", [OTHER, NO_WORKLOAD])
async def test_scopes_that_are_asked_about(strangers: Strangers, who: str) -> None:
    stub = strangers.edge.stub(strangers.edge.ca.agent(who))
    found = {}
    for scope in ("no-such", *FOREIGN_SCOPES):
        strangers.trace.clear()
        [verdict] = (await stub.CheckAccess(pb.CheckAccessRequest(name=_name(), scopes=[scope]))).scopes
        assert (verdict.reason, verdict.scope) == ("ACCESS_DENIED", scope)
        verdict.scope = "*"
        found[scope] = (verdict.SerializeToString(), list(strangers.trace))
    _all_alike(found)


async def test_scopes_that_a_step_is_opened_with(strangers: Strangers) -> None:
    found = {}
    for number, scope in enumerate(("no-such", *FOREIGN_SCOPES)):
        strangers.edge.broker.engine._refusals._counter = DenialCounter()
        strangers.trace.clear()
        request = pb.BeginStepRequest(request_id=new_id(), name=_name(f"begin-{number}"), scopes=[scope])
        [verdict] = (await strangers.stub.BeginStep(request)).scopes
        assert verdict.reference_id
        verdict.scope = verdict.reference_id = "*"
        found[scope] = (verdict.SerializeToString(), list(strangers.trace))
    _all_alike(found)


@pytest.mark.parametrize("who", [SCHEDULER, OTHER, NO_WORKLOAD])
async def test_workloads_that_a_launcher_may_not_open(strangers: Strangers, who: str) -> None:
    strangers.stub = strangers.edge.stub(strangers.edge.ca.agent(who))
    workloads = {
        "of nobody": "spiffe://dev.local/workflow/nightly/step/no-such",
        "of another launcher": OTHER if who != OTHER else LOAD,
        "a launcher": SCHEDULER_2,
    }
    found = {
        kind: await strangers.refused(
            "BeginStep",
            pb.BeginStepRequest(request_id=new_id(), name=_name(), scopes=["plain"], on_behalf_of=workload),
        )
        for kind, workload in workloads.items()
    }
    _all_alike(found)


async def test_a_workload_of_another_domain_and_oneself_are_refused_in_the_same_words(strangers: Strangers) -> None:
    strangers.stub = strangers.edge.stub(strangers.edge.ca.agent(SCHEDULER))
    workloads = [OTHER, SCHEDULER, "spiffe://other.local/workflow/nightly/step/load"]
    answers = []
    for workload in workloads:
        name = _name()
        request = pb.BeginStepRequest(request_id=new_id(), name=name, scopes=["plain"], on_behalf_of=workload)
        answers.append((await strangers.refused("BeginStep", request))[0])
    assert answers[0] == answers[1] == answers[2]


def _all_alike(found: dict[str, tuple[object, list[str]]]) -> None:
    answers = {repr(answer) for answer, _ in found.values()}
    assert len(answers) == 1, sorted(answers)
    traces = {" ".join(trace) for _, trace in found.values()}
    assert len(traces) == 1, sorted(traces)
    assert any(traces)  # it was looked for
