"""What operators are shown, over both stores: rows, filters, pages and bounds."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

import grpc
import pytest

from broker.alert import Alert, AlertRule
from broker.journal.chain import Entry
from broker.journal.records import Kind, Record
from broker.model import EndReason, StepKey
from broker.operators.views import journal as journal_view
from broker.operators.views import paging
from broker.store.approvals import Approval, ApprovalState, Vote
from broker.store.guard import GuardRow, GuardState
from broker.store.halts import Freeze, Review
from broker.store.notices import Delivery
from stepcred.v1 import operator_pb2 as pb
from tests.fakes import domain
from tests.fakes.world import LOAD, OTHER, agent, new_id
from tests.unit.rpc.conftest import told
from tests.unit.rpc.operators.conftest import House

KEY = "k" * 64


async def minted(house: House, run: str = "r1", scope: str = "plain", who: str = LOAD) -> str:
    """The id of a lease."""
    caller = agent(who)
    opened = await house.broker.begin([scope], run=run, who=caller)
    return (await house.broker.issue(opened.handle, scope, who=caller)).lease.id


async def all_of(house: House, method: str, field: str, **asked: Any) -> list[Any]:
    """Every page of a list."""
    stub, found, token = house.stub("vic"), [], ""
    size = asked.pop("size", 0)
    request = getattr(pb, f"{method}Request")
    while True:
        answer = await getattr(stub, method)(request(page=pb.Page(size=size, token=token), **asked))
        rows = list(getattr(answer, field))
        assert len(rows) <= (size or paging.MOST)
        found += rows
        token = answer.next_token
        if not token:
            return found


def selection(**fields: Any) -> Any:
    return pb.Selection(**fields)


# --- leases and steps ---


async def test_a_lease_as_operators_see_it(stored: House) -> None:
    lease_id = await minted(stored)
    (found,) = await all_of(stored, "ListLeases", "leases")
    assert (found.lease.lease_id, found.lease.scope, found.state, found.tier) == (lease_id, "plain", "ACTIVE", "low")
    assert (found.agent, found.workflow, found.run, found.step) == (LOAD, "nightly", "r1", "load")
    assert found.provider == "fake"
    assert not found.HasField("ended_at")
    assert "secret-of" not in f"{found}"


@pytest.mark.parametrize(
    ("asked", "runs"),
    [
        ({}, {"r1", "r2", "r3"}),
        ({"everything": True}, {"r1", "r2", "r3"}),
        ({"run": "r2"}, {"r2"}),
        ({"agent": OTHER}, {"r3"}),
        ({"scope": "plain"}, {"r1", "r3"}),
        ({"provider": "timed"}, {"r2"}),
        ({"workflow": "nightly", "step": "load"}, {"r1", "r2", "r3"}),
        ({"workflow": "none"}, set()),
    ],
)
async def test_lists_are_narrowed(stored: House, asked: dict[str, Any], runs: set[str]) -> None:
    for run, scope, who in (("r1", "plain", LOAD), ("r2", "timed", LOAD), ("r3", "plain", OTHER)):
        await minted(stored, run, scope, who)
    leases = await all_of(stored, "ListLeases", "leases", selection=selection(**asked))
    assert {one.run for one in leases} == runs
    if "provider" not in asked:
        steps = await all_of(stored, "ListSteps", "steps", selection=selection(**asked))
        assert {one.run for one in steps} == runs


async def test_what_has_ended_is_listed_when_asked_for(stored: House) -> None:
    opened = await stored.broker.begin()
    await stored.broker.issue(opened.handle)
    await stored.broker.end(opened.handle)
    assert await all_of(stored, "ListLeases", "leases") == []
    assert await all_of(stored, "ListSteps", "steps") == []
    (lease,) = await all_of(stored, "ListLeases", "leases", ended_too=True)
    assert (lease.state, lease.evidence, lease.end_reason) == ("REVOKED", "SEEN_DEAD", "STEP_ENDED")
    (step,) = await all_of(stored, "ListSteps", "steps", ended_too=True)
    assert (step.open, step.end_reason, step.live_leases) == (False, "STEP_ENDED", 0)


async def test_a_step_says_how_many_leases_live(stored: House) -> None:
    opened = await stored.broker.begin(["plain", "timed"])
    for scope in ("plain", "timed"):
        await stored.broker.issue(opened.handle, scope)
    (step,) = await all_of(stored, "ListSteps", "steps")
    assert (step.live_leases, list(step.scopes), step.attempt, step.open) == (2, ["plain", "timed"], 1, True)


async def many(house: House, count: int) -> list[str]:
    """Leases put straight into the store, the newest first."""
    names = [f"lease-{number:04}" for number in range(count)]

    def insert(tx: Any) -> None:
        tx.insert_step(domain.step("s", key=replace(domain.step().key, run="big")))
        for name in names:
            tx.insert_lease(domain.lease(name, step_id="s", request_id=new_id()))

    await house.broker.store.write(insert)
    return names[::-1]


async def test_every_page_follows_the_one_before(stored: House) -> None:
    names = await many(stored, 23)
    for size in (1, 7, 23, 24, 200):
        found = await all_of(stored, "ListLeases", "leases", size=size)
        assert [one.lease.lease_id for one in found] == names


async def test_no_answer_is_larger_than_its_bound(house: House) -> None:
    names = await many(house, paging.MOST + 5)
    answer = await house.stub("vic").ListLeases(pb.ListLeasesRequest(page=pb.Page(size=1_000_000)))
    assert len(answer.leases) == paging.MOST
    assert len(await all_of(house, "ListLeases", "leases")) == len(names)


async def test_so_much_is_looked_at_for_one_answer(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit costs time, too: after so many rows the answer says where to go on."""
    monkeypatch.setattr(paging, "READS", 2)
    await many(house, 2 * paging.SCANNED + 50)
    oldest = {"selection": selection(lease_ids=["lease-0000"])}
    answer = await house.stub("vic").ListLeases(pb.ListLeasesRequest(**oldest))
    assert (len(answer.leases), bool(answer.next_token)) == (0, True)
    (found,) = await all_of(house, "ListLeases", "leases", **oldest)
    assert found.lease.lease_id == "lease-0000"


async def test_no_read_is_long(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents' questions are answered by the same reader: they come between two reads."""
    await many(house, 3 * paging.SCANNED)
    looked: list[int] = []
    read = house.broker.store.read

    async def counting(operation: Any, **how: Any) -> Any:
        def counted(tx: Any) -> Any:
            newest = tx.newest_leases

            def page(**asked: Any) -> Any:
                looked.append(asked["limit"])
                return newest(**asked)

            monkeypatch.setattr(tx, "newest_leases", page, raising=False)
            return operation(tx)

        return await read(counted)

    monkeypatch.setattr(house.broker.store, "read", counting)
    request = pb.ListLeasesRequest(selection=selection(run="none"))
    assert not (await house.stub("vic").ListLeases(request)).leases
    assert looked == [paging.SCANNED] * 4


async def test_a_token_that_was_never_given_is_refused_or_harmless(house: House) -> None:
    await minted(house)
    refused = await told(house.stub("vic").ListLeases(pb.ListLeasesRequest(page=pb.Page(token="x" * 500))))
    assert refused.reason == "INVALID_ARGUMENT"
    assert await house.stub("vic").ListLeases(pb.ListLeasesRequest(page=pb.Page(token="' OR 1=1 --")))


# --- guard keys ---


def key_row(key: str, **changes: Any) -> GuardRow:
    about = {"workload": "load", "captures": {"workflow": "nightly"}, "workflow": "nightly", "run": "r1"}
    about |= {"step": "load", "scope": "plain"}
    fields: dict[str, Any] = {"key": key, "hour_key": "h" * 64, "tier": "low", "about": about, "spent": 4}
    return GuardRow(**{**fields, **changes})


async def test_guard_keys_that_stand_in_the_way(stored: House) -> None:
    now = stored.broker.clock.now()
    rows = [
        key_row("a" * 64),
        key_row("b" * 64, state=GuardState.COOLING, until=now + timedelta(minutes=1)),
        key_row("c" * 64, state=GuardState.COOLING, until=now - timedelta(minutes=1)),
        key_row("d" * 64, state=GuardState.HELD, tier="high", reset_by="ann", reset_at=now, admitted=7),
        key_row("e" * 64, state=GuardState.LOCKED, tier="high", until=now - timedelta(hours=2)),
        key_row("f" * 64, state=GuardState.LOCKED, tier="elevated", until=now - timedelta(hours=2)),
    ]

    def insert(tx: Any) -> None:
        for row in rows:
            tx.put_guard_row(row)

    await stored.broker.store.write(insert)
    found = {one.key[0]: one for one in await all_of(stored, "ListGuardKeys", "keys")}
    assert sorted(found) == ["b", "d", "e"], "what time has ended waits for nobody"
    held = found["d"]
    assert (held.state, held.workload, dict(held.captures)) == ("HELD", "load", {"workflow": "nightly"})
    assert (held.spent, held.allowed, held.admitted, held.ceiling, held.reset_by) == (4, 3, 7, 15, "ann")
    assert found["e"].state == "LOCKED", "of tier high it holds at the next request"
    assert len(await all_of(stored, "ListGuardKeys", "keys", open_too=True)) == len(rows)
    assert len(await all_of(stored, "ListGuardKeys", "keys", open_too=True, selection=selection(run="r1"))) == len(rows)
    for other in ({"run": "r2"}, {"agent": LOAD}, {"provider": "fake"}):
        assert await all_of(stored, "ListGuardKeys", "keys", selection=selection(**other)) == []


async def test_an_hour_counts_its_charges(stored: House) -> None:
    await minted(stored)
    found = await all_of(stored, "ListGuardKeys", "keys", open_too=True)
    (hour,) = [one for one in found if one.hour]
    (step,) = [one for one in found if not one.hour]
    assert (hour.spent, hour.allowed, hour.run) == (1, 240, "")
    assert (step.spent, step.allowed, step.run) == (1, 10, "r1")


# --- approvals, freezes, reviews, alerts ---


def approval(approval_id: str, **changes: Any) -> Approval:
    fields: dict[str, Any] = {
        "id": approval_id,
        "key": StepKey(agent=LOAD, workflow="nightly", run=approval_id, step="load"),
        "scope": "danger",
        "step_id": "s",
        "launcher": "",
        "workload": "load",
        "captures": {},
        "tier": "high",
        "rule": "nightly (scopes.yaml:14:3)",
        "ttl": timedelta(minutes=10),
        "digest": "d" * 64,
        "needed": 2,
        "state": ApprovalState.PENDING,
        "requested_at": domain.NOW,
        "expires_at": domain.after(600),
        "address": "",
    }
    return Approval(**{**fields, **changes})


async def test_an_approval_says_who_may_decide_it(stored: House) -> None:
    vote = Vote(approval_id="one", operator="cat", approve=True, reason="as agreed", at=domain.NOW)

    def insert(tx: Any) -> None:
        tx.insert_approval(approval("one"))
        tx.insert_approval(approval("two", state=ApprovalState.DENIED))
        tx.add_vote(vote)

    await stored.broker.store.write(insert)
    (found,) = await all_of(stored, "ListApprovals", "approvals")
    assert (found.approval_id, found.state, found.needed, found.digest) == ("one", "PENDING", 2, "d" * 64)
    assert (list(found.owners), found.you_may_not) == (["group:data"], "you are no approver")
    assert [(one.operator, one.approve, one.reason) for one in found.votes] == [("cat", True, "as agreed")]
    assert found.ttl.seconds == 600
    (mine,) = (await stored.stub("bob").ListApprovals(pb.ListApprovalsRequest())).approvals
    assert mine.you_may_not == ""
    assert len(await all_of(stored, "ListApprovals", "approvals", decided_too=True)) == 2
    assert await all_of(stored, "ListApprovals", "approvals", selection=selection(scope="plain")) == []
    (decided,) = await all_of(stored, "ListApprovals", "approvals", approval_id="two")
    assert (decided.approval_id, decided.state) == ("two", "DENIED")
    assert await all_of(stored, "ListApprovals", "approvals", approval_id="three") == []


async def test_freezes_reviews_and_alerts(stored: House) -> None:
    now = stored.broker.clock.now()
    alert = Alert(rule=AlertRule.GUARD_HELD, summary="held", labels={"scope": "danger"})

    def insert(tx: Any) -> None:
        tx.add_freeze(Freeze(id="f1", by="ann", reason="drill", at=now, scope="danger"))
        tx.add_freeze(Freeze(id="all", by="ann", reason="fire", at=now + timedelta(seconds=1)))
        tx.add_review(Review(id="v1", kind="BREAK_GLASS", about={"key": KEY}, by="ann", reason="alone", at=now))
        tx.raise_alert(alert, at=now)
        tx.put_delivery(Delivery(sink="other", fingerprint=alert.fingerprint, serial=99))

    await stored.broker.store.write(insert)
    stub = stored.stub("vic")
    freezes = (await stub.ListFreezes(pb.ListFreezesRequest())).freezes
    assert [(one.freeze_id, one.selection.scope, one.selection.everything) for one in freezes] == [
        ("f1", "danger", False),
        ("all", "", True),
    ]
    (review,) = (await stub.ListReviews(pb.ListReviewsRequest())).reviews
    assert (review.kind, review.about["key"], review.closed_by) == ("BREAK_GLASS", KEY, "")
    (told_of,) = (await stub.ListAlerts(pb.ListAlertsRequest())).alerts
    assert (told_of.rule, told_of.severity, dict(told_of.labels)) == ("guard-held", "critical", {"scope": "danger"})
    assert (list(told_of.waiting_for), told_of.runbook) == (["hook"], "alerts.md#guard-held")


# --- the broker ---


async def test_the_scope_map_and_its_signers(stored: House) -> None:
    def sign(tx: Any) -> None:
        kept = tx.kept_map()
        tx.keep_map(replace(kept, serial=3, signers=("ann-2026", "nobodys"), manifest_digest="m"))

    await stored.broker.store.write(sign)
    stored.desk.off = "a key of nobody's"
    found = await stored.stub("vic").GetScopeMap(pb.GetScopeMapRequest())
    assert (found.digest, found.serial) == (stored.broker.policies.map.digest, 3)
    assert (list(found.signers), list(found.signed_by)) == (["ann-2026", "nobodys"], ["ann", ""])
    assert (found.workloads, found.scopes, found.grants, found.approvals_off) == (2, 4, 2, "a key of nobody's")
    assert not found.problems
    stored.broker.map_file.write_text("version: 2\n")
    assert not await stored.broker.policies.reload()
    assert (await stored.stub("vic").GetScopeMap(pb.GetScopeMapRequest())).problems


async def test_health_counts_what_is_under_way_and_in_the_way(stored: House) -> None:
    opened = await stored.broker.begin()
    await stored.broker.issue(opened.handle)
    since = stored.broker.clock.now() - timedelta(minutes=5)

    def insert(tx: Any) -> None:
        tx.insert_lease(domain.lease("stuck", step_id=opened.step.id, provider="timed"))
        tx.to_revoking("stuck", at=since, reason=EndReason.OPERATOR)
        tx.defer("stuck", next_try_at=since + timedelta(days=1), problem="in the way")
        tx.insert_approval(approval("one"))
        tx.put_guard_row(key_row("d" * 64, state=GuardState.HELD))

    await stored.broker.store.write(insert)
    found = await stored.stub("vic").GetHealth(pb.GetHealthRequest())
    assert [one.name for one in found.providers] == ["fake", "timed"]
    (fake, timed) = found.providers
    assert (fake.active, timed.revoking, fake.breaker_open) == (1, 1, False)
    assert (found.overdue, found.oldest_revoking.ToDatetime(UTC)) == (1, since)
    assert (found.environment, found.open_steps, found.approvals_waiting, found.keys_held) == ("dev", 1, 1, 1)
    assert found.epoch == stored.broker.core.epoch.id
    assert found.server_time.ToDatetime(UTC) == stored.broker.clock.now()


# --- stories ---


async def test_a_lease_is_explained_with_its_records(stored: House) -> None:
    opened = await stored.broker.begin()
    lease_id = (await stored.broker.issue(opened.handle)).lease.id
    await stored.broker.end(opened.handle)
    found = await stored.stub("vic").Explain(pb.ExplainRequest(reference=lease_id))
    text = "\n".join(found.lines)
    assert f"lease {lease_id} is REVOKED" in text
    assert "SEEN_DEAD" in text
    assert "nightly (scopes.yaml:" in text, "the rule that allowed it"
    kinds = [record["kind"] for record in found.records]
    assert kinds[0] == "LEASE_INTENT"
    assert kinds[-1] == "LEASE_REVOKED"
    assert all(record["lease_id"] == lease_id for record in found.records)


async def test_a_refusal_is_explained_by_the_reference_that_the_agent_was_told(stored: House) -> None:
    opened = await stored.broker.begin(["plain", "nothing-like-it"])
    (refused,) = [one for one in opened.answers if one.reference_id]
    found = await stored.stub("vic").Explain(pb.ExplainRequest(reference=refused.reference_id))
    text = "\n".join(found.lines)
    assert refused.reference_id in text
    assert "nothing-like-it" in text
    assert [record["reference_id"] for record in found.records] == [refused.reference_id]


async def test_an_approval_is_explained(stored: House) -> None:
    await stored.broker.store.write(lambda tx: tx.insert_approval(approval("a" * 16)))
    found = await stored.stub("vic").Explain(pb.ExplainRequest(reference="a" * 16))
    assert found.lines[0] == f"approval {'a' * 16} is PENDING"


async def test_an_operators_refusal_is_explained(stored: House) -> None:
    refused = await told(stored.stub("vic").Freeze(pb.FreezeRequest(reason="x")))
    found = await stored.stub("vic").Explain(pb.ExplainRequest(reference=refused.metadata["reference_id"]))
    assert "ROLE_MISSING" in "\n".join(found.lines)


@pytest.mark.parametrize("reference", ["", "a" * 16, "x" * 300, "../etc/passwd", "\x1b[2J"])
async def test_nothing_is_found_for_what_is_nothing(house: House, reference: str) -> None:
    refused = await told(house.stub("vic").Explain(pb.ExplainRequest(reference=reference)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_what_an_agent_said_cannot_steer_a_terminal(stored: House) -> None:
    def insert(tx: Any) -> None:
        tx.insert_step(domain.step("s"))
        tx.insert_lease(
            domain.lease("b" * 16, step_id="s", scope="\x1b]0;owned\x07", last_problem="\x1b[2J", attempts=1)
        )
        evil: dict[str, Any] = {"reason": "\x1b[2J", "data": {"by": "\x1b]0;owned\x07", "problem": "\u202e"}}
        tx.append(Record(kind=Kind.LEASE_REVOKING, at=domain.NOW, step_id="s", lease_id="b" * 16, **evil))

    await stored.broker.store.write(insert)
    found = await stored.stub("vic").Explain(pb.ExplainRequest(reference="b" * 16))
    assert all(line.isprintable() for line in found.lines)


async def test_one_runs_story_and_nobody_elses(stored: House) -> None:
    opened = await stored.broker.begin(run="tale")
    await minted(stored, "other")
    lease_id = (await stored.broker.issue(opened.handle)).lease.id
    await stored.broker.end(opened.handle)
    found = await stored.stub("vic").GetTimeline(pb.GetTimelineRequest(run="tale"))
    bodies = [json.loads(entry.body) for entry in found.entries]
    kinds = [body["kind"] for body in bodies]
    assert (kinds[0], "LEASE_REVOKED" in kinds, "STEP_ENDED" in kinds) == ("STEP_BEGUN", True, True)
    assert {body.get("run", "tale") for body in bodies} == {"tale"}
    assert {body["lease_id"] for body in bodies if "lease_id" in body} == {lease_id}
    assert [(one.chain, one.seq) for one in found.entries] == sorted((one.chain, one.seq) for one in found.entries)
    narrowed = await stored.stub("vic").GetTimeline(pb.GetTimelineRequest(run="tale", workflow="nightly"))
    assert [one.body for one in narrowed.entries] == [one.body for one in found.entries]
    nothing = await stored.stub("vic").GetTimeline(pb.GetTimelineRequest(run="tale", workflow="weekly"))
    assert not nothing.entries


async def test_a_long_story_is_cut_and_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_view, "MOST", 3)
    opened = await house.broker.begin(run="tale")
    await house.broker.issue(opened.handle)
    await house.broker.end(opened.handle)
    found = await house.stub("vic").GetTimeline(pb.GetTimelineRequest(run="tale"))
    assert (len(found.entries), found.more) == (3, True)


@pytest.mark.parametrize("run", ["", "no name", "x" * 251])
async def test_what_is_no_run_is_refused(house: House, run: str) -> None:
    assert (await told(house.stub("vic").GetTimeline(pb.GetTimelineRequest(run=run)))).reason == "INVALID_NAME"


# --- the tail ---


async def records(call: Any) -> list[Any]:
    return [json.loads(entry.body) | {"at": (entry.chain, entry.seq)} async for part in call for entry in part.entries]


async def test_the_journal_from_a_record_on_and_to_its_end(stored: House) -> None:
    for run in ("r1", "r2"):
        await minted(stored, run)
    everything = await records(stored.stub("vic").TailJournal(pb.TailJournalRequest(after_seq=1)))
    assert [one["kind"] for one in everything] == (await stored.broker.journal_kinds())
    some = everything[4]["at"]
    rest = await records(stored.stub("vic").TailJournal(pb.TailJournalRequest(after_chain=some[0], after_seq=some[1])))
    assert [one["at"] for one in rest] == [one["at"] for one in everything[5:]]
    last = await records(stored.stub("vic").TailJournal(pb.TailJournalRequest(back=3)))
    assert [one["at"] for one in last] == [one["at"] for one in everything[-3:]]
    assert await records(stored.stub("vic").TailJournal(pb.TailJournalRequest())) == []


async def test_only_the_kinds_that_are_asked_for(stored: House) -> None:
    for run in ("r1", "r2", "r3"):
        await minted(stored, run)
    last = await records(stored.stub("vic").TailJournal(pb.TailJournalRequest(back=2, kinds=["STEP_BEGUN"])))
    assert [(one["kind"], one["run"]) for one in last] == [("STEP_BEGUN", "r2"), ("STEP_BEGUN", "r3")]
    refused = await told(stored.stub("vic").TailJournal(pb.TailJournalRequest(kinds=["NO_SUCH"])).read())
    assert refused.reason == "INVALID_ARGUMENT"


async def test_what_is_added_is_told_once_and_in_order(stored: House) -> None:
    await stored.broker.begin(run="r0")
    call = stored.stub("vic").TailJournal(pb.TailJournalRequest(follow=True, back=1, kinds=["STEP_BEGUN"]))
    got = [json.loads(entry.body)["run"] for entry in (await call.read()).entries]

    async def read() -> None:
        while (part := await call.read()) is not grpc.aio.EOF:
            got.extend(json.loads(entry.body)["run"] for entry in part.entries)

    reading = asyncio.ensure_future(read())
    for number in range(1, 5):
        await stored.broker.begin(run=f"r{number}")
        await stored.broker.fake_clock.run(0.6, step=0.3)
    await stored.broker.until(lambda: _caught_up(stored, got, 5))
    assert got == [f"r{number}" for number in range(5)]
    call.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def _caught_up(house: House, got: list[str], count: int) -> bool:
    house.broker.fake_clock.advance(0.5)
    return len(got) >= count


async def test_a_broker_that_stops_ends_its_tails(house: House) -> None:
    call = house.stub("vic").TailJournal(pb.TailJournalRequest(follow=True, back=1))
    assert (await call.read()).entries
    house.broker.core.draining.set()
    reading = asyncio.ensure_future(call.read())
    while not reading.done():
        house.broker.fake_clock.advance(0.5)
        await asyncio.sleep(0.01)
    assert await reading is grpc.aio.EOF


def test_no_message_is_longer_than_what_a_client_takes() -> None:
    entry = Entry(chain=1, seq=0, body="x" * 100_000, prev=b"", hash=b"")
    parcels = list(journal_view.parcels([entry] * 50))
    assert sum(map(len, parcels)) == 50
    assert all(sum(len(one.body) for one in parcel) < 1 << 20 for parcel in parcels)
    assert [len(parcel) for parcel in journal_view.parcels([replace(entry, body="")] * 450)] == [200, 200, 50]
