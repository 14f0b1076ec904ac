"""`stepcred can --show-policy` and `whoami`: what could be had, for people and for programs."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

import pytest

import stepcred
from stepcred.cli import _app, _spans
from stepcred.v1 import broker_pb2 as pb
from stepcred.v1 import lease_pb2
from tests.fakes.broker_server import FakeBroker

SESSION = {
    "provider": "aws",
    "in_words": ["may: s3:PutObject on arn:aws:s3:::lake/nightly/*", "only in eu-west-1"],
    "until": "2026-11-28T10:05:00Z",
    "aws": {"kind": "session", "session_policy": {"Version": "2012-10-17", "Statement": [{"Effect": "Allow"}]}},
}


@pytest.fixture(autouse=True)
def _settings(environ: dict[str, str]) -> None:
    """Every test here has the broker's settings."""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stepcred", *arguments])
    return _app.run()


def test_the_words_come_first_and_then_the_whole_policy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.policies["lake-write"] = json.dumps(SESSION)
    assert run(monkeypatch, "can", "lake-write", "--show-policy") == 0
    yes, may, only, *rest = capsys.readouterr().out.splitlines()
    assert yes == "yes: lake-write for 10 min (tier low, EXACT)"
    assert (may, only) == ("  may: s3:PutObject on arn:aws:s3:::lake/nightly/*", "  only in eu-west-1")
    assert json.loads("\n".join(rest)) == {"aws": SESSION["aws"]}
    (request,) = fake.requests("CheckAccess")
    assert request.show_policy


def test_without_the_option_nothing_is_asked_or_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.policies["lake-write"] = json.dumps(SESSION)
    assert run(monkeypatch, "can", "lake-write") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert not fake.requests("CheckAccess")[0].show_policy


def test_for_programs_the_policy_is_an_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.policies["lake-write"] = json.dumps(SESSION)
    assert run(monkeypatch, "can", "lake-write", "--show-policy", "--json") == 0
    assert json.loads(capsys.readouterr().out)["policy"] == SESSION
    assert run(monkeypatch, "can", "nope", "--show-policy", "--json") == 1
    captured = capsys.readouterr()
    assert (json.loads(captured.out)["policy"], captured.err) == (None, "")


def test_what_needs_approval_is_a_no_that_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.policies["lake-write"] = json.dumps(SESSION)
    fake.needs["lake-write"] = 2
    assert run(monkeypatch, "can", "lake-write", "--show-policy") == 1
    out = capsys.readouterr().out
    assert out.startswith("no: lake-write: needs approval [NEEDS_APPROVAL]\n")
    assert "  only in eu-west-1\n" in out


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"cannot_be_issued": "the session policy has 2,100 characters"}, "  cannot be issued: the session policy has"),
        ({"left_out": "more than 16384 characters"}, "  not shown: more than 16384 characters"),
    ],
)
def test_what_is_not_there_says_why(
    said: dict[str, Any],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake: FakeBroker,
) -> None:
    fake.policies["lake-write"] = json.dumps({"provider": "aws", "in_words": [], **said})
    assert run(monkeypatch, "can", "lake-write", "--show-policy") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(line)


def test_an_older_broker_is_known_by_its_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "can", "lake-write", "--show-policy") == 0
    assert "older than --show-policy" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{", '"x"', "[" * 5000])
def test_a_policy_that_is_no_object_is_an_unexpected_answer(text: str, fake: FakeBroker) -> None:
    fake.policies["lake-write"] = text
    with stepcred.connect() as broker, pytest.raises(stepcred.UnexpectedAnswer):
        broker.check(scopes=["lake-write"], show_policy=True)


async def test_the_sdk_gives_it_as_a_mapping_in_both_forms(fake: FakeBroker) -> None:
    fake.policies["lake-write"] = json.dumps(SESSION)
    with stepcred.connect() as broker:
        shown, other = broker.check(scopes=["lake-write", "orders-read"], show_policy=True)
        (silent,) = broker.check(scopes=["lake-write"])
        with broker.step(scopes=["lake-write"]) as step:
            (in_step,) = step.check(["lake-write"], show_policy=True)
    async with stepcred.aio.connect() as there, there.step(scopes=["lake-write"]) as one:
        (later,) = await there.check(scopes=["lake-write"], show_policy=True)
        (in_later,) = await one.check(["lake-write"], show_policy=True)
    assert other.policy is None
    assert silent.policy is None
    for verdict in (shown, in_step, later, in_later):
        assert dict(verdict.policy or {}) == SESSION
        assert len({verdict}) == 1


def reachable() -> pb.ReachableScope:
    grant = pb.ReachingGrant(
        rule="nightly-load",
        position="scopes.yaml:31:3",
        workload="load",
        workflows=["nightly-etl", "weekly"],
        workflows_left_out=3,
        approvals_needed=2,
        conditions=["until 2027-01-01 00:00Z"],
    )
    grant.max_step.FromTimedelta(timedelta(hours=2))
    scope = pb.ReachableScope(
        scope="lake-write",
        provider="aws",
        tier=lease_pb2.TIER_HIGH,
        revocability=lease_pb2.REVOCABILITY_DENY_POLICY,
        grants=[grant, pb.ReachingGrant(rule="any", position="scopes.yaml:40:3", workload="load")],
        grants_left_out=1,
        refused_by=["denies.frozen (scopes.yaml:50:3) refuses it"],
    )
    scope.ttl.FromTimedelta(timedelta(minutes=5))
    scope.max_ttl.FromTimedelta(timedelta(hours=1))
    return scope


def test_whoami_has_a_line_for_each_scope_and_grant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.reach = [reachable()]
    assert run(monkeypatch, "whoami") == 0
    out = capsys.readouterr().out
    assert out.partition("\n\n")[2].splitlines() == [
        "SCOPE       FROM  TIER  LASTS",
        "lake-write  aws   high  5 min, with successors 1 h",
        (
            "  nightly-load (scopes.yaml:31:3): workflow nightly-etl or weekly and 3 more, steps up to 2 h, "
            "needs 2 approvals, until 2027-01-01 00:00Z"
        ),
        "  any (scopes.yaml:40:3): any workflow",
        "  and 1 more grants",
        "  denies.frozen (scopes.yaml:50:3) refuses it",
    ]


def test_whoami_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: FakeBroker
) -> None:
    fake.reach = [reachable()]
    assert run(monkeypatch, "whoami", "--json") == 0
    (scope,) = json.loads(capsys.readouterr().out)["reach"]
    assert (scope["provider"], scope["tier"], scope["ttl"], scope["max_ttl"]) == ("aws", "HIGH", 300.0, 3600.0)
    assert scope["grants"][0]["workflows"] == ["nightly-etl", "weekly"]
    assert scope["grants"][1]["max_step"] is None


def test_an_older_broker_tells_no_reach(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "whoami") == 0
    out = capsys.readouterr().out
    assert "orders-read" in out
    assert "SCOPE" not in out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (90, "90 s"), (3600, "1 h"), (5400, "90 min")]
)
def test_spans_have_the_largest_unit_that_fits(seconds: int, text: str) -> None:
    assert _spans.shown(timedelta(seconds=seconds)) == text
