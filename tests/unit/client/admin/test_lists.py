"""Lists, tables and JSON; nothing that anybody is called writes to the terminal."""

from __future__ import annotations

import io
import json
import sys
import time
from typing import Any

import grpc
import pytest

from stepcred._admin import Office
from stepcred.v1 import operator_pb2 as pb
from tests.fakes.broker_server import Refusal
from tests.fakes.operator_office import SERVICE, FakeOffice
from tests.unit.client.admin.conftest import Admin, at, lease, step

EVIL = "evil\x1b[2J\x1b]0;owned\x07\u202egnp.exe\n"
LISTS = {
    ("leases", "list"): "ListLeases",
    ("steps", "list"): "ListSteps",
    ("guard", "list"): "ListGuardKeys",
    ("approvals", "list"): "ListApprovals",
    ("freezes",): "ListFreezes",
    ("reviews", "list"): "ListReviews",
    ("alerts",): "ListAlerts",
    ("scopes",): "GetScopeMap",
    ("health",): "GetHealth",
    ("front-door",): "GetFrontDoor",
    ("whoami",): "GetOperator",
}


def filled(descriptor: Any, text: str) -> Any:
    """A message with this text wherever text goes, and one of whatever repeats."""
    from google.protobuf.message_factory import GetMessageClass

    made = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            getattr(made, field.name)[text] = text
        elif inner is not None and inner.full_name == "google.protobuf.Timestamp":
            getattr(made, field.name).FromSeconds(int(time.time()))
        elif inner is not None and inner.full_name == "google.protobuf.Struct":
            getattr(made, field.name).update({text: text})
        elif inner is not None and inner.full_name.startswith("google."):
            getattr(made, field.name).FromSeconds(60)
        elif inner is not None and field.is_repeated:
            getattr(made, field.name).append(filled(inner, text))
        elif inner is not None:
            getattr(made, field.name).CopyFrom(filled(inner, text))
        elif field.type == field.TYPE_STRING and field.name != "next_token":
            if field.is_repeated:
                getattr(made, field.name).append(text)
            else:
                setattr(made, field.name, text)
    return made


class Terminal(io.StringIO):
    """Standard output that is one."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", LISTS, ids="-".join)
@pytest.mark.parametrize("on_terminal", [False, True], ids=["pipe", "terminal"])
def test_what_is_shown_writes_nothing_to_the_terminal(
    admin: Admin, office: FakeOffice, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, *, on_terminal: bool
) -> None:
    method = LISTS[command]
    office.answers[method] = filled(SERVICE.methods_by_name[method].output_type, EVIL)
    screen = Terminal()
    if on_terminal:
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", screen)
    told = admin(*command)
    out = screen.getvalue() if on_terminal else told.out
    assert told.code in (0, 1)
    assert "evil" in out
    assert all(line.isprintable() for line in _without_colours(out).splitlines())


def _without_colours(out: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", out)


@pytest.mark.parametrize("command", LISTS, ids="-".join)
def test_json_is_one_object_with_the_contracts_names(
    admin: Admin, office: FakeOffice, command: tuple[str, ...]
) -> None:
    method = LISTS[command]
    response = SERVICE.methods_by_name[method].output_type
    office.answers[method] = filled(response, "word")
    told = admin(*command, "--json")
    found = json.loads(told.out)
    names = {field.name for field in response.fields} - {"next_token"}
    assert set(found) == names
    assert told.err == ""


def test_times_are_times_and_numbers_are_numbers(admin: Admin, office: FakeOffice) -> None:
    office.answers["GetHealth"] = at(pb.GetHealthResponse(epoch=7), server_time=0)
    found = json.loads(admin("health", "--json").out)
    assert found["epoch"] == 7
    assert found["server_time"].endswith("+00:00")
    assert found["oldest_revoking"] is None


def test_every_page_is_asked_for(admin: Admin, office: FakeOffice) -> None:
    office.answers["ListLeases"] = [
        pb.ListLeasesResponse(leases=[lease("a" * 16)], next_token="t1"),
        pb.ListLeasesResponse(next_token="t2"),
        pb.ListLeasesResponse(leases=[lease("b" * 16)]),
    ]
    told = admin("leases", "list", "--run", "r1", "--ended")
    assert [line.split()[0] for line in told.out.splitlines()] == ["LEASE", "a" * 16, "b" * 16]
    asked = office.requests("ListLeases")
    assert [one.page.token for one in asked] == ["", "t1", "t2"]
    assert all((one.selection.run, one.ended_too) == ("r1", True) for one in asked)


def test_no_more_is_asked_for_than_wanted(admin: Admin, office: FakeOffice) -> None:
    rows = [lease(f"{number:016}") for number in range(3)]
    office.answers["ListLeases"] = lambda asked: pb.ListLeasesResponse(leases=rows[: asked.page.size], next_token="t")
    assert len(admin("leases", "list", "--limit", "5").out.splitlines()) == 6
    assert [one.page.size for one in office.requests("ListLeases")] == [5, 2]


def test_tables_fit_a_terminal_and_are_whole_in_a_pipe(
    admin: Admin, office: FakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "scheduled__2026-12-01T22:00:00+00:00-" + "x" * 60
    office.answers["ListLeases"] = pb.ListLeasesResponse(leases=[lease("abcdefghijklmnop", run=run, state="REVOKING")])
    office.answers["ListSteps"] = pb.ListStepsResponse(steps=[step(run)])
    for command in (("leases", "list"), ("steps", "list")):
        assert run in admin(*command).out
        screen = Terminal()
        with monkeypatch.context() as patched:
            patched.setenv("COLUMNS", "80")
            patched.setattr(sys, "stdout", screen)
            admin(*command)
        lines = _without_colours(screen.getvalue()).splitlines()
        assert len(lines) == 2, "one line for each row, however long its names are"
        assert all(len(line) <= 80 for line in lines)
    assert "abcdefghijklmnop" in admin("leases", "list").out


def test_watching_goes_on_while_the_broker_is_away(
    admin: Admin, office: FakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.answers["ListFreezes"] = pb.ListFreezesResponse(freezes=[pb.FreezeEntry(freeze_id="all", reason="drill")])
    looks = 0

    def sleep(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            office.stop()
        elif looks == 2:
            office.start()
        elif len(office.requests("ListFreezes")) > 1 or looks > 100:
            raise KeyboardInterrupt
        else:
            real_sleep(0.1)  # gRPC connects again when it likes

    real_sleep = time.sleep
    monkeypatch.setattr(time, "sleep", sleep)
    told = admin("freezes", "--watch", "0.5")
    assert told.code == 0
    assert told.out.count("drill") >= 2
    assert "cannot be reached" in told.err


@pytest.mark.parametrize(
    ("reason", "grpc_code", "exit_code"),
    [
        ("OPERATOR_UNKNOWN", grpc.StatusCode.PERMISSION_DENIED, 77),
        ("ROLE_MISSING", grpc.StatusCode.PERMISSION_DENIED, 77),
        ("NOT_FOUND", grpc.StatusCode.NOT_FOUND, 1),
        ("INVALID_ARGUMENT", grpc.StatusCode.INVALID_ARGUMENT, 64),
    ],
)
def test_refusals_have_their_exit_codes(
    admin: Admin, office: FakeOffice, reason: str, grpc_code: grpc.StatusCode, exit_code: int
) -> None:
    office.answers["Explain"] = Refusal(code=grpc_code, reason=reason, message="no")
    told = admin("explain", "abc")
    assert (told.code, told.out) == (exit_code, "")
    assert told.err.startswith(f"stepcred: no [{reason}, reference ref-1]")


def test_a_lock_out_says_when_to_come_again(admin: Admin, office: FakeOffice) -> None:
    office.answers["Explain"] = Refusal(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="CODE_LOCKED", verdict="RETRY_AFTER", retry_after=900
    )
    assert admin("explain", "abc").code == 75


@pytest.mark.parametrize(("answer", "code"), [({}, 0), ({"overdue": 1}, 1), ({"problems": ["full"]}, 1)])
def test_health_says_by_its_exit_code_whether_something_is_in_the_way(
    admin: Admin, office: FakeOffice, answer: dict[str, Any], code: int
) -> None:
    office.answers["GetHealth"] = pb.GetHealthResponse(**answer)
    assert admin("health").code == code


def test_a_connection_is_made_anew_for_another_certificate(office: FakeOffice, admin: Admin) -> None:
    """`--watch` and `top` live longer than a certificate."""
    with Office() as connection:
        connection.ask("GetHealth", pb.GetHealthRequest())
        first = connection._channel
        connection.ask("GetHealth", pb.GetHealthRequest())
        assert connection._channel is first
        connection._pems = None
        connection.ask("GetHealth", pb.GetHealthRequest())
        assert connection._channel is not first
