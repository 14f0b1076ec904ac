"""What operators change: first it is shown, then a person says yes, then it is asked for, once."""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import os
import pty
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepcred.cli._admin import _consent
from stepcred.v1 import operator_pb2 as pb
from tests.fakes.broker_server import Refusal
from tests.fakes.operator_office import FakeOffice
from tests.unit.client.admin.conftest import Admin, at, lease, step

KEY = "0123456789ab" + "c" * 52


class Typing(io.StringIO):
    """Somebody at a terminal, who types this."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> Any:
    def typing(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", Typing(text))

    return typing


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.delenv(_consent.CODE_FILE, raising=False)


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """In a file, as scripts have it."""
    path = tmp_path / "code"
    path.write_text("123456\n")
    monkeypatch.setenv(_consent.CODE_FILE, str(path))
    return "123456"


# --- the kill switch ---


def revoked(count: int = 2, steps: int = 1) -> Any:
    rows = [lease(f"{number:016}") for number in range(count)]
    return pb.RevokeLeasesResponse(
        leases=rows, lease_count=count, steps=[step() for _ in range(steps)], step_count=steps
    )


def sent(office: FakeOffice, method: str) -> list[tuple[bool, str]]:
    """Dry run? and why."""
    return [(one.dry_run, one.reason) for one in office.requests(method)]


WHY = ("--reason", "a leak")


def test_what_would_die_is_shown_and_its_number_typed(admin: Admin, office: FakeOffice, types: Any) -> None:
    office.answers["RevokeLeases"] = revoked()
    types("2\n")
    told = admin("leases", "revoke", "--run", "r1", "--end-steps", *WHY)
    assert told.code == 0
    assert "0000000000000001" in told.out
    assert "2 leases would die, 1 step would end" in told.out
    assert "type 2:" in told.err
    assert sent(office, "RevokeLeases") == [(True, ""), (False, "a leak")]
    assert all(one.selection.run == "r1" and one.end_steps for one in office.requests("RevokeLeases"))


@pytest.mark.parametrize("answer", ["", "1\n", "yes\n", "22\n", "prod\n"])
def test_another_answer_changes_nothing(admin: Admin, office: FakeOffice, types: Any, answer: str) -> None:
    office.answers["RevokeLeases"] = revoked()
    types(answer)
    told = admin("leases", "revoke", "--scope", "lake-write", *WHY)
    assert told.code == 1
    assert "nothing was done" in told.err
    assert sent(office, "RevokeLeases") == [(True, "")]


def test_for_everything_the_environment_is_typed(admin: Admin, office: FakeOffice, types: Any) -> None:
    office.answers["RevokeLeases"] = revoked()
    types("2\n")
    assert admin("leases", "revoke", "--all", *WHY).code == 1
    types("prod\n")
    assert admin("leases", "revoke", "--all", *WHY).code == 0
    assert [one.selection.everything for one in office.requests("RevokeLeases")] == [True] * 3


def test_a_dry_run_ends_there(admin: Admin, office: FakeOffice) -> None:
    office.answers["RevokeLeases"] = revoked()
    told = admin("leases", "revoke", "--agent", "spiffe://x/y", "--dry-run")
    assert (told.code, sent(office, "RevokeLeases")) == (0, [(True, "")])
    told = admin("leases", "revoke", "--agent", "spiffe://x/y", "--dry-run", "--json")
    found = json.loads(told.out)
    assert (found["done"], found["lease_count"], len(found["leases"])) == (False, 2, 2)


def test_a_script_says_yes_beforehand(admin: Admin, office: FakeOffice) -> None:
    office.answers["RevokeLeases"] = revoked()
    told = admin("leases", "revoke", "--provider", "vault", "--yes", "--json", *WHY)
    assert (told.code, json.loads(told.out)["done"]) == (0, True)


def test_when_nothing_fits_nothing_is_asked(admin: Admin, office: FakeOffice) -> None:
    told = admin("leases", "revoke", "--run", "none", "--yes", *WHY)
    assert (told.code, sent(office, "RevokeLeases")) == (1, [(True, "")])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--all", "--run", "r1"],
        ["--all", "abc"],
        ["--run", "r1", "--json"],
        ["--run", "", "--step", ""],
    ],
)
def test_what_is_not_said_is_not_guessed(admin: Admin, office: FakeOffice, arguments: Sequence[str]) -> None:
    told = admin("leases", "revoke", *arguments, *WHY)
    assert (told.code, office.calls) == (64, [])


@pytest.mark.parametrize("command", [["leases", "revoke"], ["steps", "end"], ["freeze"]])
def test_without_a_reason_nothing_is_asked(admin: Admin, office: FakeOffice, command: list[str]) -> None:
    assert admin(*command, "--run", "r1", "--yes", "--reason", " ").code == 64
    assert office.calls == []


def test_where_nobody_can_be_asked_yes_is_needed(admin: Admin, office: FakeOffice) -> None:
    office.answers["RevokeLeases"] = revoked()
    told = admin("leases", "revoke", "--run", "r1", *WHY)
    assert (told.code, sent(office, "RevokeLeases")) == (64, [(True, "")])
    assert "--yes" in told.err


def test_single_leases_are_named(admin: Admin, office: FakeOffice) -> None:
    office.answers["RevokeLeases"] = revoked()
    assert admin("leases", "revoke", "a" * 16, "b" * 16, "--yes", *WHY).code == 0
    assert list(office.requests("RevokeLeases")[1].selection.lease_ids) == ["a" * 16, "b" * 16]


def test_ending_steps_is_the_same_with_their_leases(admin: Admin, office: FakeOffice) -> None:
    office.answers["RevokeLeases"] = revoked(0, 3)
    assert admin("steps", "end", "--workflow", "nightly", "--yes", *WHY).code == 0
    assert [(one.end_steps, one.selection.workflow) for one in office.requests("RevokeLeases")] == [
        (True, "nightly")
    ] * 2


def test_how_many_are_not_shown(admin: Admin, office: FakeOffice) -> None:
    office.answers["RevokeLeases"] = pb.RevokeLeasesResponse(leases=[lease("a" * 16)], lease_count=500)
    assert "499 of them are not shown" in admin("leases", "revoke", "--all", "--dry-run").out


# --- freezes ---


def frozen(**selection: Any) -> Any:
    entry = pb.FreezeEntry(freeze_id="f" * 16, by="ann", reason="a leak", selection=pb.Selection(**selection))
    return pb.FreezeResponse(freeze=entry, leases=[lease("a" * 16)], lease_count=1)


def test_a_freeze_is_shown_typed_and_done(admin: Admin, office: FakeOffice, types: Any) -> None:
    office.answers["Freeze"] = frozen(scope="lake-write")
    types("1\n")
    told = admin("freeze", "--scope", "lake-write", "--revoke", *WHY)
    assert told.code == 0
    assert f"stepcred admin unfreeze {'f' * 16}" in told.out
    assert [(one.dry_run, one.revoke) for one in office.requests("Freeze")] == [(True, True), (False, True)]


def test_freezing_everything_takes_the_environments_name(admin: Admin, office: FakeOffice, types: Any) -> None:
    office.answers["Freeze"] = frozen(everything=True)
    types("1\n")
    assert admin("freeze", "--all", *WHY).code == 1
    types("prod\n")
    assert admin("freeze", "--all", *WHY).code == 0
    assert [one.dry_run for one in office.requests("Freeze")] == [True, True, False]


def test_a_freeze_is_taken_back(admin: Admin, office: FakeOffice, types: Any) -> None:
    office.answers["Unfreeze"] = pb.UnfreezeResponse(freeze=frozen(scope="lake-write").freeze)
    types("no\n")
    assert admin("unfreeze", "f" * 16, *WHY).code == 1
    types("unfreeze\n")
    assert admin("unfreeze", "f" * 16, *WHY).code == 0
    assert sent(office, "Unfreeze") == [(True, "a leak"), (True, "a leak"), (False, "a leak")]


# --- approvals ---


def approval(approval_id: str = "a" * 16, **fields: Any) -> Any:
    made = pb.Approval(
        approval_id=approval_id,
        state="PENDING",
        agent="spiffe://test.local/workflow/nightly/step/load",
        workflow="nightly",
        run="r1",
        step="load",
        scope="lake-write",
        tier="high",
        workload="load",
        owners=["group:data"],
        rule="nightly-load (scopes.yaml:31:3)",
        needed=2,
        digest="d" * 64,
        **fields,
    )
    made.votes.append(pb.ApprovalVote(operator="bob", approve=True, reason="as agreed"))
    return at(made, requested_at=-5, expires_at=60)


@pytest.fixture
def waiting(office: FakeOffice) -> Any:
    made = approval()
    office.answers["ListApprovals"] = pb.ListApprovalsResponse(approvals=[approval("b" * 16), made])
    decided = pb.Approval()
    decided.CopyFrom(made)
    decided.state = "APPROVED"
    office.answers["DecideApproval"] = pb.DecideApprovalResponse(approval=decided)
    return made


def test_a_yes_is_to_what_was_shown(admin: Admin, office: FakeOffice, waiting: Any, code: str) -> None:
    told = admin("approvals", "approve", waiting.approval_id, "--good-for", "30", "--reason", "ticket 7")
    assert told.code == 0
    for shown in ("nightly-load (scopes.yaml:31:3)", "lake-write, tier high", "group:data", "d" * 64, "yes by bob"):
        assert shown in told.out
    assert "is APPROVED: 1 of 2" in told.out
    (request,) = office.requests("DecideApproval")
    assert (request.approval_id, request.approve, request.digest) == (waiting.approval_id, True, waiting.digest)
    assert (request.code, request.reason, request.good_for.seconds) == (code, "ticket 7", 1800)
    (looked,) = office.requests("ListApprovals")
    assert looked.approval_id == waiting.approval_id  # and no other is read


def test_a_no_is_one_too(admin: Admin, office: FakeOffice, waiting: Any, code: str) -> None:
    assert admin("approvals", "deny", waiting.approval_id, "--reason", "not today", "--json").code == 0
    (request,) = office.requests("DecideApproval")
    assert (request.approve, request.code, request.HasField("good_for")) == (False, code, False)


@pytest.mark.usefixtures("waiting")
def test_an_unknown_approval_takes_no_code(admin: Admin, office: FakeOffice, code: str) -> None:
    told = admin("approvals", "approve", "c" * 16, *WHY)
    assert (told.code, office.requests("DecideApproval")) == (1, [])
    assert admin("approvals", "show", "c" * 16).code == 1


def test_who_may_not_is_told_before_the_code(admin: Admin, office: FakeOffice) -> None:
    made = approval(you_may_not="you are an owner of the workload")
    office.answers["ListApprovals"] = pb.ListApprovalsResponse(approvals=[made])
    told = admin("approvals", "approve", made.approval_id, *WHY)
    assert (told.code, office.requests("DecideApproval")) == (77, [])
    assert "you are an owner" in told.err


@pytest.mark.parametrize("typed", ["", "12345", "1234567", " 123456", "12 3456", "१२३४५६", "123456 "])
def test_a_code_is_exactly_six_digits(
    admin: Admin, office: FakeOffice, waiting: Any, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{typed}\n"))
    assert admin("approvals", "approve", waiting.approval_id, *WHY).code == 64
    assert office.requests("DecideApproval") == []


def test_a_code_comes_from_a_pipe_or_a_hidden_prompt(
    admin: Admin, office: FakeOffice, waiting: Any, monkeypatch: pytest.MonkeyPatch, types: Any
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("111111\n"))
    assert admin("approvals", "approve", waiting.approval_id, *WHY).code == 0
    types("")
    monkeypatch.setattr(getpass, "getpass", lambda _prompt: "222222")
    assert admin("approvals", "approve", waiting.approval_id, *WHY).code == 0
    assert [one.code for one in office.requests("DecideApproval")] == ["111111", "222222"]


def test_no_command_takes_a_code_as_an_argument(admin: Admin) -> None:
    """Arguments are everybody's to see, in `ps`."""
    for command in (["approvals", "approve"], ["approvals", "deny"], ["guard", "reset"], ["second-factor"]):
        assert "--code" not in admin(*command, "--help").out


def test_a_code_file_that_is_not_there(
    admin: Admin, waiting: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(_consent.CODE_FILE, str(tmp_path / "none"))
    told = admin("approvals", "approve", waiting.approval_id, *WHY)
    assert (told.code, "STEPCRED_ADMIN_CODE_FILE: cannot read" in told.err) == (78, True)


# --- guard ---


@pytest.fixture
def stuck(office: FakeOffice) -> Any:
    made = pb.GuardKey(key=KEY, state="HELD", tier="high", scope="lake-write", workload="load", spent=3, allowed=3)
    made.workflow, made.run, made.step = "nightly", "r1", "load"
    other = pb.GuardKey(key="0123f" + "d" * 59, state="LOCKED")
    office.answers["ListGuardKeys"] = pb.ListGuardKeysResponse(keys=[made, other])
    office.answers["ResetGuardKey"] = pb.ResetGuardKeyResponse(key=made)
    return made


@pytest.mark.usefixtures("stuck")
def test_a_key_is_named_by_its_beginning(admin: Admin, office: FakeOffice, code: str) -> None:
    assert KEY[:12] in admin("guard", "list").out
    told = admin("guard", "reset", KEY[:12], "--reason", "fixed")
    assert told.code == 0
    assert "3 of 3" in told.out
    (request,) = office.requests("ResetGuardKey")
    assert (request.key, request.code, request.break_glass) == (KEY, code, False)


@pytest.mark.usefixtures("stuck")
@pytest.mark.parametrize("key", ["0123", "", "ffff"])
def test_an_unclear_key_resets_none(admin: Admin, office: FakeOffice, code: str, key: str) -> None:
    assert admin("guard", "reset", key, *WHY).code == 1
    assert office.requests("ResetGuardKey") == []


@pytest.mark.usefixtures("code")
def test_breaking_the_glass_says_who_has_to_sign(admin: Admin, office: FakeOffice, stuck: Any) -> None:
    office.answers["ResetGuardKey"] = pb.ResetGuardKeyResponse(key=stuck, review_id="v" * 16)
    told = admin("guard", "reset", KEY, "--break-glass", *WHY)
    assert f"reviews sign {'v' * 16}" in told.out
    assert office.requests("ResetGuardKey")[0].break_glass


# --- reviews and the second factor ---


def test_a_review_is_signed(admin: Admin, office: FakeOffice) -> None:
    row = pb.Review(review_id="v" * 16, kind="BREAK_GLASS", by="bob", reason="alone")
    row.about.update({"key": KEY})
    office.answers["ListReviews"] = pb.ListReviewsResponse(reviews=[row])
    assert admin("reviews", "list").code == 1
    signed = pb.Review(review_id="v" * 16, closed_by="ann", note="fine")
    office.answers["SignReview"] = pb.SignReviewResponse(review=signed)
    told = admin("reviews", "sign", "v" * 16, "--note", "fine")
    assert told.code == 0
    assert KEY in told.out
    assert "signed by ann" in told.out
    assert admin("reviews", "sign", "v" * 16).code == 64


URI = "otpauth://totp/stepcred:ann?secret=S3CRETS3CRETS3CRET&issuer=stepcred"


def test_a_secret_goes_to_no_pipe_by_itself(admin: Admin, office: FakeOffice) -> None:
    office.answers["SealSecondFactor"] = pb.SealSecondFactorResponse(uri=URI, sealed="c2VhbGVk", revision=2)
    told = admin("second-factor")
    assert (told.code, office.calls) == (64, []), "nothing is made that nobody could see"
    told = admin("second-factor", "--show")
    assert URI in told.out
    assert 'second_factor: {revision: 2, sealed: "c2VhbGVk"}' in told.out
    found = json.loads(admin("second-factor", "--show", "--json").out)
    assert (found["uri"], found["operator"]) == (URI, "ann")


def test_on_a_terminal_it_is_a_picture_too(admin: Admin, office: FakeOffice, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.client.admin.test_lists import Terminal

    office.answers["SealSecondFactor"] = pb.SealSecondFactorResponse(uri=URI, sealed="c2VhbGVk", revision=2)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert admin("second-factor").code == 0
    assert "▀" in screen.getvalue()
    monkeypatch.setitem(sys.modules, "segno", None)
    screen.truncate(0)
    assert admin("second-factor").code == 0
    assert "stepcred[admin]" in screen.getvalue()


def test_a_refusal_is_told_and_nothing_is_sent_twice(admin: Admin, office: FakeOffice, waiting: Any, code: str) -> None:
    office.answers["DecideApproval"] = Refusal(
        code=grpc.StatusCode.PERMISSION_DENIED, reason="CODE_REPLAYED", message="used before"
    )
    told = admin("approvals", "approve", waiting.approval_id, *WHY)
    assert (told.code, len(office.requests("DecideApproval"))) == (77, 1)
    assert "CODE_REPLAYED" in told.err
    assert code not in told.err + told.out


def test_what_is_typed_is_not_shown() -> None:
    """On a real terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        program = "from stepcred.cli._admin._consent import code; print('got', code({}) == '314159')"
        os.execv(sys.executable, [sys.executable, "-c", program])
    shown = b""
    while b"factor: " not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"314159\n")
    with contextlib.suppress(OSError):  # Linux says so that nobody is at the other end
        while more := os.read(terminal, 1000):
            shown += more
    os.close(terminal)
    os.waitpid(pid, 0)
    assert b"got True" in shown
    assert b"314159" not in shown
