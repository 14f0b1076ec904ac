"""What stands in the panes."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import typer

from stepcred._errors import AccessDenied, BrokerUnavailable
from stepcred.cli import _app
from stepcred.cli._top import head
from stepcred.cli._top.head import Answered
from stepcred.cli._top.model import Snapshot
from stepcred.cli._top.panes import APPROVALS, BROKER, GUARD, LEASES, PANES, REVOCATIONS, STEPS
from stepcred.cli._top.table import Pane, Row, Tone, arranged
from stepcred.v1 import operator_pb2 as pb
from tests.support.acme import Acme, evening, snapshot_of

HOSTILE = "\x1b]0;owned\x07\x1b[2J[bold red]\u202ex"


def rows_of(pane: Pane, snapshot: Snapshot) -> list[Row]:
    return arranged(pane.rows(snapshot), order=0, needle="")


def texts(row: Row) -> list[str]:
    return [cell.text for cell in row.cells]


def titled(pane: Pane, title: str, rows: list[Row]) -> list[str]:
    index = [column.title for column in pane.columns].index(title)
    return [row.cells[index].text for row in rows]


@pytest.mark.parametrize("pane", PANES, ids=lambda pane: pane.name)
def test_every_row_fills_its_columns_and_can_be_ordered_every_way(pane: Pane, snapshot: Snapshot) -> None:
    rows = pane.rows(snapshot)
    assert rows
    for row in rows:
        assert len(row.cells) == len(pane.columns)
        assert len(row.orders) == len(pane.orders)
    for n in range(len(pane.orders)):
        assert len(arranged(rows, order=n, needle="")) == len(rows)


@pytest.mark.parametrize("pane", PANES, ids=lambda pane: pane.name)
def test_a_broker_that_tells_only_names_is_shown(pane: Pane) -> None:
    """Every time is unset, every text empty: an older or newer broker, or rows of before."""
    bare = Acme(
        steps=[pb.OperatorStep(step_id="s")],
        leases=[pb.OperatorLease(state="REVOKING"), pb.OperatorLease(state="INTENT", doomed=True)],
        keys=[pb.GuardKey(key="k", state="LOCKED"), pb.GuardKey(key="h", hour=True, state="HELD")],
        approvals=[pb.Approval(approval_id="a")],
        freezes=[pb.FreezeEntry(freeze_id="f", selection=pb.Selection(everything=True))],
        alerts=[pb.Alert(fingerprint="x")],
    )
    bare.health.providers.add(name="vault")
    bare.leases[0].lease.lease_id = "one"
    rows = pane.rows(snapshot_of(bare))
    for n in range(len(pane.orders)):
        assert arranged(rows, order=n, needle="")


@pytest.mark.parametrize("pane", PANES, ids=lambda pane: pane.name)
def test_no_text_of_others_reaches_the_screen_as_it_is(pane: Pane, acme: Acme) -> None:
    for messages in acme.lists().values():
        for message in messages if isinstance(messages, list) else [messages]:
            _poison(message)
    for row in pane.rows(snapshot_of(acme)):
        shown = " ".join((*texts(row), *(text for pair in row.details for text in pair), *row.commands))
        assert all(" " <= letter <= "~" for letter in shown), shown


def _poison(message: object) -> None:
    """Every string in it, however deep."""
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in list(value):
                value[key + HOSTILE] = value.pop(key) + HOSTILE
        elif field.type == field.TYPE_STRING and field.is_repeated:
            value[:] = [text + HOSTILE for text in value]
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, value + HOSTILE)
        elif field.message_type is not None and not field.message_type.full_name.startswith("google."):
            for one in value if field.is_repeated else [value]:
                _poison(one)


def test_steps_tell_what_is_left_of_the_scarcest_scope(acme: Acme) -> None:
    acme.keys.append(
        pb.GuardKey(key="x", workflow="billing", run="manual__2026-12-01", step="invoice", scope="mail", tier="low",
                    state="OPEN", spent=2, allowed=3)
    )  # fmt: skip
    rows = rows_of(STEPS, snapshot_of(acme))
    left = dict(zip(titled(STEPS, "STEP", rows), titled(STEPS, "LEFT", rows), strict=True))
    assert left["invoice"] == "1/3 mail"
    assert left["fetch"] == "0/5 LOCKED features-read"
    assert left["report"] == "-"
    assert next(row.key for row in arranged(STEPS.rows(snapshot_of(acme)), order=2, needle="")) == "ml-train-fetch-4"


def test_an_hour_is_no_budget_of_a_step(acme: Acme) -> None:
    acme.keys = [pb.GuardKey(key="h", hour=True, state="HELD", workflow="ml-train", run="2026w48-7", step="fetch")]
    assert set(titled(STEPS, "LEFT", rows_of(STEPS, snapshot_of(acme)))) == {"-"}


def test_revocations_are_what_waits_for_a_proof(snapshot: Snapshot) -> None:
    rows = rows_of(REVOCATIONS, snapshot)
    assert titled(REVOCATIONS, "STATE", rows) == ["IN_DOUBT", "OVERDUE", "REVOKING"]
    assert rows[1].cells[0].tone is Tone.BAD
    assert "503 Service Unavailable" in rows[1].cells[-1].text
    assert len(LEASES.rows(snapshot)) == 8


def test_a_revocation_is_overdue_after_a_minute(acme: Acme) -> None:
    (lease,) = (one for one in acme.leases if one.lease.lease_id == "m7rw2xh5kd3qvz6t")
    for seconds, state in ((60, "REVOKING"), (61, "OVERDUE")):
        lease.revoking_at.FromDatetime(acme.now - timedelta(seconds=seconds))
        rows = REVOCATIONS.rows(snapshot_of(acme))
        assert next(row for row in rows if row.key == "m7rw2xh5kd3qvz6t").cells[0].text == state


def test_revocations_beyond_the_leases_that_were_asked_for_are_counted(snapshot: Snapshot) -> None:
    few = replace(snapshot, leases=(), cut=frozenset({"leases"}))
    assert REVOCATIONS.more(few) == "3 more not listed"
    assert not REVOCATIONS.more(snapshot)


def test_a_lease_whose_end_was_asked_for_while_it_is_minted_is_doomed(acme: Acme) -> None:
    (lease,) = (one for one in acme.leases if one.state == "INTENT")
    lease.doomed = True
    assert "DOOMED" in titled(LEASES, "STATE", rows_of(LEASES, snapshot_of(acme)))


def test_the_guard_pane_has_what_refuses(snapshot: Snapshot) -> None:
    rows = rows_of(GUARD, snapshot)
    assert titled(GUARD, "STATE", rows) == ["HELD", "LOCKED"]
    assert titled(GUARD, "UNTIL", rows) == ["decision", "52m"]


def test_approvals_say_whether_you_may(acme: Acme) -> None:
    acme.approvals[0].you_may_not = "OWNER: you own workload report"
    (row,) = rows_of(APPROVALS, snapshot_of(acme))
    assert texts(row)[3] == "1/2"
    assert texts(row)[-1] == "no: OWNER: you own workload report"
    assert ("bea", "approves: month end, ticket FIN-311") in row.details


def test_the_broker_pane_has_the_worst_first(acme: Acme) -> None:
    acme.health.problems.append("journal: no space left on device")
    rows = rows_of(BROKER, snapshot_of(acme))
    states = titled(BROKER, "STATE", rows)
    assert set(states[:4]) == {"PROBLEM", "CRITICAL", "FROZEN"}
    assert states[-1] == "OK"
    assert "HELD OFF" in states


@pytest.mark.parametrize("pane", PANES, ids=lambda pane: pane.name)
def test_command_lines_survive_a_shell(pane: Pane, acme: Acme) -> None:
    for step in acme.steps:
        step.run = "a b;$(reboot)`x`'\"c"
    for row in pane.rows(snapshot_of(acme)):
        for command in row.commands:
            words = shlex.split(command)
            assert words[:2] == ["stepcred", "admin"]
            assert "reboot" not in command or "a b;$(reboot)`x`'\"c" in words


def test_command_lines_are_those_of_the_command(snapshot: Snapshot) -> None:
    """Each is taken; those that change something are refused for want of a reason, and only for that."""
    command = typer.main.get_command(_app.app)
    for pane in PANES:
        for row in pane.rows(snapshot):
            for line in row.commands:
                words = shlex.split(line)[1:]
                with_reason = [*words, "because"] if words[-1] == "--reason" else words
                _parsed(command, with_reason)
                if words[-1] == "--reason":
                    with pytest.raises(Exception, match="requires an argument"):
                        _parsed(command, words)


def _parsed(command: Any, words: list[str]) -> None:
    """Down to the last command, which is not run. Raises click's UsageError."""
    parent = None
    while hasattr(command, "get_command"):
        parent = command.make_context("stepcred", [], parent=parent, resilient_parsing=True)
        name, *words = words
        command = command.get_command(parent, name)
        assert command is not None, name
    command.make_context(command.name, words, parent=parent)


def test_colours_are_never_alone(snapshot: Snapshot) -> None:
    """Two rows that differ in tone differ in text as well: the same text has one tone in each column."""
    for pane in PANES:
        for n, column in enumerate(pane.columns):
            tones: dict[str, set[Tone]] = {}
            for row in pane.rows(snapshot):
                tones.setdefault(row.cells[n].text, set()).add(row.cells[n].tone)
            assert all(len(found) == 1 for found in tones.values()), (pane.name, column.title, tones)


def test_the_head_says_how_the_broker_is(acme: Acme) -> None:
    acme.health.draining = True
    known = Answered(snapshot=snapshot_of(acme))
    title = "  ".join(cell.text for cell in head.title(known, paused=True))
    assert title == "stepcred  prod  epoch 12  22:14:40 UTC  steps 6  leases 8  FROZEN 1  DRAINING  PAUSED"
    counts = "  ".join(cell.text for cell in head.counts(known))
    assert counts == "overdue 1 (3m)  alerts 3  locked 1  held 1  approvals 1"
    assert {cell.tone for cell in head.counts(Answered(snapshot=snapshot_of(Acme())))} == {Tone.PLAIN}


def test_silence_and_refusal_are_told_apart() -> None:
    snapshot = snapshot_of(evening())
    silent, refused = BrokerUnavailable("cannot be reached"), AccessDenied("no", reason="ACCESS_DENIED")
    assert head.remark(Answered(snapshot=snapshot, problem=silent)).text.startswith("no answer since 22:14:40 UTC: ")
    assert head.remark(Answered(snapshot=snapshot, problem=refused)).text.startswith("refused since 22:14:40 UTC: ")
    assert head.remark(Answered(problem=silent)).text.startswith("no answer yet: ")
    assert not head.remark(Answered(snapshot=snapshot)).text
