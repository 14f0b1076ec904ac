"""Each duty that is kept apart, its reason, and the mutant without it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.clock import Moment
from broker.errors import Reason
from broker.operators import duties
from broker.operators.duties import Signers, against_reset, may_sign, must_have
from broker.operators.model import Operator, Role
from broker.store.approvals import ApprovalState, Vote
from broker.store.halts import Review
from tests.fakes.domain import AGENT, NOW, after
from tests.unit.operators.people import approval, mutant, operator

SOON = Moment(wall=after(60), boot=1.0, boot_id="b")
SIGNED = Signers(keys=frozenset({"ann-2026", "bob-2026"}), owners={"ann-2026": "ann", "bob-2026": "bob"})
KEEPS = Signers(keys=SIGNED.keys, owners=SIGNED.owners, may_approve=False)
DIGEST = "d1" * 32
FINE: Mapping[str, Any] = {
    "approval": approval(),
    "votes": (),
    "owners": ("group:data",),
    "signers": SIGNED,
    "seen": DIGEST,
    "today": DIGEST,
    "now": SOON,
}


def said(who: Operator, *, module: Any = duties, **changes: Any) -> Reason | None:
    asked = {**FINE, **changes}
    error = module.may_decide(who, asked.pop("approval"), **asked)
    return error.reason if error else None


def vote(name: str) -> Vote:
    return Vote(approval_id="a" * 16, operator=name, approve=True, reason="r", at=NOW)


ANN = operator()
NO_ROLE = operator(roles=frozenset({Role.ADMIN}))
CASES: Mapping[str, tuple[Operator, Mapping[str, Any], Reason, tuple[str, str]]] = {
    "an admin is no approver": (
        NO_ROLE,
        {},
        Reason.ROLE_MISSING,
        ("{Role.RESPONDER}", "{Role.RESPONDER, Role.APPROVER}"),
    ),
    "an owner by name": (
        ANN,
        {"owners": ("group:data", "ann")},
        Reason.OWNER_MAY_NOT,
        ("return _owner() if operator.owns(owners) or", "return _owner() if"),
    ),
    "an owner by group, capitals or not": (
        ANN,
        {"owners": ("group:Platform",)},
        Reason.OWNER_MAY_NOT,
        ("return _owner() if operator.owns(owners) or", "return _owner() if"),
    ),
    "the agent itself": (
        operator(ids=(AGENT,)),
        {},
        Reason.OWNER_MAY_NOT,
        (" or asks.intersection(operator.ids)", ""),
    ),
    "its launcher itself": (
        operator(ids=("spiffe://test.acme/scheduler",)),
        {},
        Reason.OWNER_MAY_NOT,
        (" or asks.intersection(operator.ids)", ""),
    ),
    "a signer, where the map keeps them apart": (
        ANN,
        {"signers": KEEPS},
        Reason.SIGNER_MAY_NOT,
        ("    if signers.may_approve:", "    if True:"),
    ),
    "an unmapped signer": (
        ANN,
        {"signers": Signers(keys=frozenset({"ann-2026", "eve"}), owners=SIGNED.owners)},
        Reason.SIGNER_UNKNOWN,
        ("    if unknown:", "    if False:"),
    ),
    "an unsigned map that keeps its signers apart": (
        ANN,
        {"signers": Signers(keys=frozenset(), owners={}, may_approve=False)},
        Reason.SIGNER_UNKNOWN,
        ("    if not signers.may_approve and not signers.keys:", "    if False:"),
    ),
    "replaced": (
        ANN,
        {"approval": approval(state=ApprovalState.REPLACED)},
        Reason.APPROVAL_CHANGED,
        ("if error := _undecided(approval, now):", "if error := None:"),
    ),
    "expired": (
        ANN,
        {"approval": approval(state=ApprovalState.EXPIRED)},
        Reason.APPROVAL_EXPIRED,
        ("if error := _undecided(approval, now):", "if error := None:"),
    ),
    "expired, and nobody has noticed yet": (
        ANN,
        {"now": Moment(wall=after(3600), boot=1.0, boot_id="b")},
        Reason.APPROVAL_EXPIRED,
        ("past_approval(approval, now).total_seconds() >= 0", "False"),
    ),
    "expired by a clock that was set forward": (
        ANN,
        {
            "approval": approval(boot_id="b", expires_boot=3600.0),
            "now": Moment(wall=NOW + timedelta(days=1), boot=60.0, boot_id="b"),
        },
        Reason.APPROVAL_EXPIRED,
        ("past_approval(approval, now).total_seconds() >= 0", "False"),
    ),
    "decided": (
        ANN,
        {"approval": approval(state=ApprovalState.APPROVED)},
        Reason.APPROVAL_DECIDED,
        ("if error := _undecided(approval, now):", "if error := None:"),
    ),
    "used": (
        ANN,
        {"approval": approval(state=ApprovalState.CONSUMED)},
        Reason.APPROVAL_DECIDED,
        ("if error := _undecided(approval, now):", "if error := None:"),
    ),
    "denied": (
        ANN,
        {"approval": approval(state=ApprovalState.DENIED)},
        Reason.APPROVAL_DECIDED,
        ("if error := _undecided(approval, now):", "if error := None:"),
    ),
    "the operator saw something else": (
        ANN,
        {"seen": "d2" * 32},
        Reason.APPROVAL_CHANGED,
        ("{seen, today}", "{today}"),
    ),
    "the grant is another one today": (
        ANN,
        {"today": "d2" * 32},
        Reason.APPROVAL_CHANGED,
        ("{seen, today}", "{seen}"),
    ),
    "the grant is gone": (ANN, {"today": None}, Reason.APPROVAL_CHANGED, ("{seen, today}", "{seen}")),
    "a second vote": (
        ANN,
        {"votes": (vote("bob"), vote("ann"))},
        Reason.VOTED_ALREADY,
        ("vote.operator == operator.name for vote", "False for vote"),
    ),
}


def test_whoever_has_no_part_in_it_may_decide() -> None:
    assert said(ANN) is None
    assert said(ANN, votes=(vote("bob"),)) is None
    assert said(ANN, signers=Signers(keys=frozenset(), owners={})) is None
    assert said(operator("cid"), signers=KEEPS) is None


@pytest.mark.parametrize("name", CASES)
def test_refused_with_its_reason(name: str) -> None:
    who, changes, reason, _ = CASES[name]
    assert said(who, **changes) is reason


@pytest.mark.parametrize("name", [name for name in CASES if name != "an admin is no approver"])
def test_a_mutant_without_it_lets_it_through(name: str) -> None:
    who, changes, _, (before, after_) = CASES[name]
    assert said(who, module=mutant(duties, before, after_), **changes) is None


def test_a_mutant_whose_admin_is_an_approver() -> None:
    from broker.operators import model

    _, _, _, (before, after_) = CASES["an admin is no approver"]
    loose = mutant(model, before, after_)
    assert loose.Operator(name="x", roles=frozenset({loose.Role.ADMIN}), ids=()).has(loose.Role.APPROVER)


@pytest.mark.parametrize(
    ("role", "has"),
    [
        (None, {Role.VIEWER}),
        (Role.VIEWER, {Role.VIEWER}),
        (Role.RESPONDER, {Role.VIEWER, Role.RESPONDER}),
        (Role.APPROVER, {Role.VIEWER, Role.APPROVER}),
        (Role.ADMIN, {Role.VIEWER, Role.RESPONDER, Role.ADMIN}),
    ],
)
def test_what_each_role_includes(role: Role | None, has: set[Role]) -> None:
    who = operator(roles=frozenset({role} if role else ()))
    assert {one for one in Role if who.has(one)} == has
    assert {one for one in Role if must_have(who, one) is None} == has


def reset(who: Operator, *, module: Any = duties, break_glass: bool = False, **changes: Any) -> Reason | None:
    asked = {"owners": (), "twice": False, "last_reset_by": "", **changes}
    error = module.may_reset(module.against_reset(who, **asked), break_glass=break_glass)
    return error.reason if error else None


@pytest.mark.parametrize(
    ("changes", "reason", "mutated"),
    [
        ({"owners": ("group:platform",)}, Reason.OWNER_MAY_NOT, ("    if operator.owns(owners):", "    if False:")),
        (
            {"last_reset_by": "ann"},
            Reason.OTHER_OPERATOR_NEEDED,
            ("if not twice and operator.name ==", "if operator.name !="),
        ),
    ],
)
def test_who_may_not_reset_may_break_the_glass(changes: Any, reason: Reason, mutated: tuple[str, str]) -> None:
    assert reset(ANN, **changes) is reason
    assert reset(ANN, module=mutant(duties, *mutated), **changes) is None
    assert reset(ANN, break_glass=True, **changes) is None


def test_break_glass_gives_nobody_a_role() -> None:
    viewer = operator(roles=frozenset({Role.VIEWER, Role.APPROVER}))
    assert reset(viewer) is Reason.ROLE_MISSING
    assert reset(viewer, break_glass=True, owners=("ann",), last_reset_by="ann") is Reason.ROLE_MISSING
    loose = mutant(duties, "frozenset({Reason.OWNER_MAY_NOT,", "frozenset({Reason.ROLE_MISSING, Reason.OWNER_MAY_NOT,")
    assert reset(viewer, module=loose, break_glass=True) is None


def test_what_time_gives_back_may_be_reset_twice_by_one_operator_and_the_rest_by_another() -> None:
    assert reset(ANN, twice=True, last_reset_by="ann") is None
    assert reset(ANN, last_reset_by="bob") is None
    assert [error.reason for error in against_reset(ANN, owners=("ann",), twice=False, last_reset_by="ann")] == [
        Reason.OWNER_MAY_NOT,
        Reason.OTHER_OPERATOR_NEEDED,
    ]


def review(by: str) -> Review:
    return Review(id="r" * 16, kind="break-glass", about={}, by=by, reason="night", at=NOW)


def test_nobody_signs_for_himself() -> None:
    error = may_sign(ANN, review("ann"))
    assert error is not None
    assert error.reason is Reason.OTHER_OPERATOR_NEEDED
    assert may_sign(ANN, review("bob")) is None
    assert mutant(duties, "if operator.name == review.by:", "if False:").may_sign(ANN, review("ann")) is None
    viewer = may_sign(operator(roles=frozenset()), review("bob"))
    assert viewer is not None
    assert viewer.reason is Reason.ROLE_MISSING


@given(
    who=st.builds(
        operator,
        st.sampled_from(["ann", "Ann", "bob"]),
        roles=st.frozensets(st.sampled_from(Role)),
        groups=st.frozensets(st.sampled_from(["data", "platform"])),
    ),
    owners=st.frozensets(st.sampled_from(["ann", "bob", "group:data", "group:platform"])),
    signers=st.sampled_from([SIGNED, KEEPS, Signers(keys=frozenset({"eve"}), owners={})]),
    asked=st.tuples(st.sampled_from(ApprovalState), st.sampled_from([DIGEST, "d2" * 32, None]), st.integers(-10, 7200)),
    voted=st.frozensets(st.sampled_from(["ann", "bob"])),
)
def test_whoever_decides_has_the_role_and_no_other_part_in_it(
    who: Operator,
    owners: frozenset[str],
    signers: Signers,
    asked: tuple[ApprovalState, str | None, int],
    voted: frozenset[str],
) -> None:
    state, today, seconds = asked
    now = Moment(wall=after(seconds), boot=1.0, boot_id="b")
    votes = [vote(one) for one in sorted(voted)]
    reason = said(
        who, approval=approval(state=state), votes=votes, owners=owners, signers=signers, today=today, now=now
    )
    allowed = (
        Role.APPROVER in who.roles
        and who.name.lower() not in owners
        and not any(f"group:{group}" in owners for group in who.groups)
        and who.name not in voted
        and signers.keys <= signers.owners.keys()
        and (signers.may_approve or who.name not in signers.owners.values())
        and (state, today) == (ApprovalState.PENDING, DIGEST)
        and seconds < 3600
    )
    assert (reason is None) == allowed
