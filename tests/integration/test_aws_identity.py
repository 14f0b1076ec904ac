"""Who the broker is at AWS: against moto, and against an STS that answers as told and writes down who asked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from broker.clock import Clock, SystemClock
from broker.model import AwsSession, JsonValue, Revocability
from broker.providers.aws.calls import Clients, Failure
from broker.providers.aws.settings import WebIdentity
from broker.providers.base import KnowsLogin, MintOrder, MintRefused
from broker.providers.heard import HeardTime
from tests.fakes.clock import FakeClock
from tests.support.aws import key_file
from tests.support.aws_orders import LEASE, lease_of, order_of, providing, settings_at
from tests.support.moto import MotoServer, moto_server

TOKEN = "throwAway.web.identity-token"
SECRET = "throwAwaySecretKeyOfTheBroker"
BROKER_ROLE = "arn:aws:iam::123456789012:role/stepcred-broker"
HUB = "arn:aws:iam::210987654321:role/hub"
QUICK = {"connect_timeout": timedelta(milliseconds=500), "read_timeout": timedelta(milliseconds=500)}


def order(role_arn: str, clock: Clock, lease_id: str = LEASE, **more: JsonValue) -> MintOrder:
    params: dict[str, JsonValue] = {
        **more,
        "role_arn": role_arn,
        "regions": ["eu-west-1"],
        "statements": [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::lake/*"}],
    }
    return order_of(lease_of(params, clock.now(), lease_id=lease_id, revocability=Revocability.EXPIRY_ONLY, epoch=3))


# --- moto ---


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    # Where it checks permissions, it takes no request without a signature.
    with moto_server(tmp_path_factory.mktemp("moto"), enforce_iam=False) as server:
        yield server


def web_identity(folder: Path, role_arn: str = BROKER_ROLE) -> WebIdentity:
    path = folder / "token"
    path.write_text(TOKEN + "\n")
    return WebIdentity(token_file=path, role_arn=role_arn)


async def test_a_web_identity_token_makes_the_broker_somebody(moto: MotoServer, tmp_path: Path) -> None:
    itself = moto.create_role("broker-by-token")
    role = moto.create_role("etl-by-token")
    async with providing(settings_at(moto.url, web_identity=web_identity(tmp_path, itself))) as aws:
        assert await aws.check() == []
        who = await asyncio.to_thread(aws._clients.call, "sts", "eu-west-1", moto.url, "get_caller_identity")
        assert not isinstance(who, Failure)
        assert who["Arn"] == "arn:aws:sts::123456789012:assumed-role/broker-by-token/stepcred-0123abcd"
        assert isinstance((await aws.mint(order(role, SystemClock()))).credential, AwsSession)
        assert isinstance(aws, KnowsLogin)
        left, ends_at = aws.login_left(), aws.login_ends()
        assert left is not None
        assert left > 0.9
        assert ends_at is not None


async def test_a_program_is_asked_once_for_many_requests_though_its_keys_are_short_lived(
    moto: MotoServer, tmp_path: Path
) -> None:
    """botocore would ask for each of them: 900 s of life are none to it."""
    count, script = tmp_path / "count", tmp_path / "helper.py"
    keys = {"Version": 1, "AccessKeyId": moto.access_key_id, "SecretAccessKey": moto.secret_access_key}
    script.write_text(
        "import datetime as d, json\n"
        f"open({str(count)!r}, 'a').write('x')\n"
        "end = d.datetime.now(d.UTC) + d.timedelta(seconds=899)\n"
        f"print(json.dumps({keys!r} | {{'Expiration': end.isoformat()}}))\n"
    )
    role = moto.create_role("etl-by-program")
    given = settings_at(moto.url, credential_process=(sys.executable, "-I", "-S", str(script)))
    async with providing(given) as aws:
        await asyncio.gather(*(aws.mint(order(role, SystemClock(), f"abcdefghij2345{n:02}")) for n in range(22, 32)))
        assert await aws.check() == []
    assert count.read_text() == "x"


# --- an STS that answers as told ---


class Sts:
    """Gives sessions by the test's clock; `refuse[action]` = (status, code); `gates[action]` holds answers back."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.life = 3600.0
        self.refuse: dict[str, tuple[int, str]] = {}
        self.gates: dict[str, threading.Event] = {}
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []  # action, access key id, parameters
        self.given = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                asked = {name: values[0] for name, values in parse_qs(body).items()}
                signer = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
                status, text = outer.answer(asked.pop("Action"), signer, asked)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                with contextlib.suppress(OSError):  # a caller that did not wait
                    self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - http.server's name

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, action: str, signer: str, asked: Mapping[str, str]) -> tuple[int, str]:
        self.asked.append((action, signer, asked))
        if action in self.gates:
            self.gates[action].wait(20)
        if action in self.refuse:
            status, code = self.refuse[action]
            return (
                status,
                f"<ErrorResponse><Error><Code>{code}</Code><Message>{TOKEN}</Message></Error></ErrorResponse>",
            )
        if action == "GetCallerIdentity":
            return 200, f"<{action}Response><{action}Result/></{action}Response>"
        self.given += 1
        ends = self.clock.now() + timedelta(seconds=self.life)
        held = (
            f"<AccessKeyId>ASIA{self.given}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>"
            f"<SessionToken>t</SessionToken><Expiration>{ends:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
        )
        return (
            200,
            f"<{action}Response><{action}Result><Credentials>{held}</Credentials></{action}Result></{action}Response>",
        )

    def count(self, action: str) -> int:
        return sum(asked[0] == action for asked in self.asked)


BY_TOKEN = "AssumeRoleWithWebIdentity"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sts(clock: FakeClock) -> Iterator[Sts]:
    made = Sts(clock)
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        for gate in made.gates.values():
            gate.set()
        made.server.shutdown()
        made.server.server_close()
        thread.join(5)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - of threads
            await asyncio.sleep(0.01)


async def test_the_shape_of_an_exchange_and_the_token_is_read_each_time(
    sts: Sts, clock: FakeClock, tmp_path: Path
) -> None:
    async with providing(settings_at(sts.url, web_identity=web_identity(tmp_path)), clock) as aws:
        await aws.mint(order(BROKER_ROLE, clock))
        (tmp_path / "token").write_text("the.next-one")
        clock.advance(2500)
        await aws.mint(order(BROKER_ROLE, clock))
        await until(lambda: sts.count(BY_TOKEN) == 2)
    first, second = (asked for action, _, asked in sts.asked if action == BY_TOKEN)
    assert (first["WebIdentityToken"], second["WebIdentityToken"]) == (TOKEN, "the.next-one")
    assert {**first} | {"WebIdentityToken": ""} == {
        "Version": "2011-06-15",
        "RoleArn": BROKER_ROLE,
        "RoleSessionName": "stepcred-0123abcd",
        "WebIdentityToken": "",
        "DurationSeconds": "3600",
    }
    assert {signer for action, signer, _ in sts.asked if action == BY_TOKEN} == {""}  # it is no secret of a signature


async def test_mints_go_on_while_a_refresh_hangs(sts: Sts, clock: FakeClock, tmp_path: Path) -> None:
    async with providing(settings_at(sts.url, web_identity=web_identity(tmp_path)), clock) as aws:
        await aws.mint(order(BROKER_ROLE, clock))
        sts.gates[BY_TOKEN] = threading.Event()
        clock.advance(2500)
        for _ in range(3):
            await asyncio.gather(*(aws.mint(order(BROKER_ROLE, clock)) for _ in range(8)))
        assert (sts.count("AssumeRole"), sts.count(BY_TOKEN)) == (25, 2)
        assert {signer for action, signer, _ in sts.asked if action == "AssumeRole"} == {"ASIA1"}


async def test_with_dead_credentials_nothing_is_sent_and_the_text_says_what_to_do(
    sts: Sts, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with providing(settings_at(sts.url, web_identity=web_identity(tmp_path)), clock) as aws:
        await aws.mint(order(BROKER_ROLE, clock))
        sts.refuse[BY_TOKEN] = (400, "ExpiredTokenException")
        clock.advance(3000)
        await aws.mint(order(BROKER_ROLE, clock))  # by those that are good for ten minutes more
        await until(lambda: sts.count(BY_TOKEN) == 2)
        clock.advance(601)
        sent = sts.count("AssumeRole")
        for _ in range(3):
            with pytest.raises(MintRefused, match=r"credentials have expired; .*whoever rotates the file") as refusal:
                await aws.mint(order(BROKER_ROLE, clock))
        (problem,) = await aws.check()
        assert problem.startswith("aws: the broker's AWS credentials have expired")
        assert sts.count("AssumeRole") == sent
        assert sts.count("GetCallerIdentity") == 0
        assert sts.count(BY_TOKEN) <= 3
        left = aws.login_left()
        assert left is not None
        assert left <= 0
        told = f"{refusal.value!r}{problem}{caplog.text}{''.join(capfd.readouterr())}"
        assert TOKEN not in told
        assert SECRET not in told
        del sts.refuse[BY_TOKEN]
        clock.advance(31)
        await aws.mint(order(BROKER_ROLE, clock))


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (400, "InvalidIdentityToken", "not one of an issuer that this account knows"),
        (400, "ExpiredTokenException", "has expired"),
        (403, "IDPRejectedClaim", "issuer or audience"),
        (403, "AccessDenied", "trust policy"),
        (400, "ValidationError", "role_arn"),
        (500, "InternalFailure", "STS refused it, or cannot answer"),
        (400, TOKEN, "STS refused it, or cannot answer"),
    ],
)
async def test_a_refused_exchange(  # noqa: PLR0917 - pytest's parameters
    sts: Sts, clock: FakeClock, tmp_path: Path, status: int, code: str, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    sts.refuse[BY_TOKEN] = (status, code)
    async with providing(settings_at(sts.url, web_identity=web_identity(tmp_path)), clock) as aws:
        with pytest.raises(MintRefused, match=why) as refusal:
            await aws.mint(order(BROKER_ROLE, clock))
        (problem,) = await aws.check()
        assert why in problem
        assert (aws.login_left(), aws.login_ends()) == (0.0, None)
    assert len(sts.asked) == 1
    assert TOKEN not in f"{refusal.value}{problem}{''.join(capfd.readouterr())}"


async def test_an_exchange_without_an_answer_has_an_end(sts: Sts, clock: FakeClock, tmp_path: Path) -> None:
    sts.gates[BY_TOKEN] = threading.Event()
    async with providing(settings_at(sts.url, web_identity=web_identity(tmp_path), **QUICK), clock) as aws:
        with pytest.raises(MintRefused, match=r"STS gave no answer|still being fetched"):
            await aws.mint(order(BROKER_ROLE, clock))
    assert len(sts.asked) == 1


@pytest.mark.parametrize("content", [None, "", "two\nlines", "x" * 20_001, "\xff"])
async def test_a_token_file_that_holds_no_token(
    sts: Sts, clock: FakeClock, tmp_path: Path, content: str | None
) -> None:
    given = settings_at(sts.url, web_identity=web_identity(tmp_path))
    (tmp_path / "token").unlink()
    if content is not None:
        (tmp_path / "token").write_text(content)
    async with providing(given, clock) as aws:
        with pytest.raises(MintRefused, match=r"\[aws\] web_identity.token_file"):
            await aws.mint(order(BROKER_ROLE, clock))
    assert sts.asked == []


async def test_credentials_that_the_service_calls_dead_are_replaced(sts: Sts, clock: FakeClock, tmp_path: Path) -> None:
    async with providing(settings_at(sts.url, web_identity=web_identity(tmp_path)), clock) as aws:
        await aws.mint(order(BROKER_ROLE, clock))
        clock.advance(10)
        sts.refuse["AssumeRole"] = (403, "ExpiredToken")
        with pytest.raises(MintRefused, match="own credentials have expired"):
            await aws.mint(order(BROKER_ROLE, clock))
        del sts.refuse["AssumeRole"]
        await aws.mint(order(BROKER_ROLE, clock))
        await until(lambda: sts.count(BY_TOKEN) == 2)


# --- role chaining ---


@pytest.fixture
def clients(sts: Sts, clock: FakeClock, tmp_path: Path) -> Clients:
    given = settings_at(sts.url, access_key_id="AKIABROKER", secret_access_key_file=key_file(tmp_path, SECRET))
    return Clients(given, HeardTime(clock), clock)


def call(clients: Clients, sts: Sts, **hub: Any) -> Mapping[str, JsonValue] | Failure:
    return clients.call("sts", "eu-west-1", sts.url, "get_caller_identity", **hub)


def test_a_hub_is_assumed_once_and_calls_are_made_as_it(clients: Clients, sts: Sts, clock: FakeClock) -> None:
    for _ in range(5):
        assert not isinstance(call(clients, sts, via=HUB, via_external_id="acme"), Failure)
    assert not isinstance(call(clients, sts), Failure)
    assert [(action, signer) for action, signer, _ in sts.asked] == [
        ("AssumeRole", "AKIABROKER"),
        *[("GetCallerIdentity", "ASIA1")] * 5,
        ("GetCallerIdentity", "AKIABROKER"),
    ]
    assert sts.asked[0][2] == {
        "Version": "2011-06-15",
        "RoleArn": HUB,
        "RoleSessionName": "stepcred-0123abcd",
        "DurationSeconds": "3600",
        "ExternalId": "acme",
    }
    clock.advance(2500)
    call(clients, sts, via=HUB, via_external_id="acme")  # by the old session, while the next one is fetched
    clock.advance(1101)
    call(clients, sts, via=HUB, via_external_id="acme")
    assert (sts.count("AssumeRole"), sts.asked[-1][1]) == (2, "ASIA2")


async def test_a_mint_is_made_as_the_hub_and_others_as_the_broker(sts: Sts, clock: FakeClock, tmp_path: Path) -> None:
    given = settings_at(sts.url, access_key_id="AKIABROKER", secret_access_key_file=key_file(tmp_path, SECRET))
    async with providing(given, clock) as aws:
        for more in ({"via": HUB}, {"via": HUB, "via_external_id": "acme"}, {}, {"via": HUB}):
            await aws.mint(order("arn:aws:iam::123456789012:role/etl", clock, **more))
        clock.advance(3601)  # the hub's sessions have ended
        await aws.mint(order("arn:aws:iam::123456789012:role/etl", clock, via=HUB))
    became = [(signer, asked.get("ExternalId")) for _, signer, asked in sts.asked if asked["RoleArn"] == HUB]
    minted = [signer for _, signer, asked in sts.asked if asked["RoleArn"] != HUB]
    assert became == [("AKIABROKER", None), ("AKIABROKER", "acme"), ("AKIABROKER", None)]
    assert minted == ["ASIA1", "ASIA3", "AKIABROKER", "ASIA1", "ASIA7"]


def test_hubs_are_not_mixed_up(clients: Clients, sts: Sts) -> None:
    for hub in ({"via": HUB}, {"via": HUB, "via_external_id": "acme"}, {"via": HUB + "2"}, {"via": HUB}):
        call(clients, sts, **hub)
    signers = [signer for action, signer, _ in sts.asked if action == "GetCallerIdentity"]
    assert signers == ["ASIA1", "ASIA2", "ASIA3", "ASIA1"]


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        ((403, "AccessDenied"), "its trust policy or the broker's permissions do not allow it"),
        ((400, "ValidationError"), "it is no valid role"),
        ((503, "ServiceUnavailable"), "STS refused it, or gave no answer"),
        ((400, TOKEN), "STS refused it, or gave no answer"),
    ],
)
def test_a_hub_that_refuses_keeps_the_call_from_being_sent(
    clients: Clients, sts: Sts, clock: FakeClock, refusal: tuple[int, str], why: str
) -> None:
    sts.refuse["AssumeRole"] = refusal
    expected = Failure(code="ViaRefused", sent=False, why=f"the role of `via` cannot be assumed: {why}")
    for _ in range(20):
        assert call(clients, sts, via=HUB) == expected
    assert (sts.count("AssumeRole"), sts.count("GetCallerIdentity")) == (1, 0)  # not again for each call
    assert not isinstance(call(clients, sts), Failure)  # others go on
    del sts.refuse["AssumeRole"]
    clock.advance(2)
    assert not isinstance(call(clients, sts, via=HUB), Failure)


def test_a_hub_without_a_broker_says_what_the_broker_lacks(clients: Clients, sts: Sts, tmp_path: Path) -> None:
    (tmp_path / "aws.key").unlink()
    answer = call(clients, sts, via=HUB)
    assert isinstance(answer, Failure)
    assert "secret_access_key_file cannot be read" in answer.why
    assert (answer.sent, sts.asked) == (False, [])


def test_a_whole_session_or_none(clients: Clients, sts: Sts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sts, "answer", lambda *_: (200, "<AssumeRoleResponse><AssumeRoleResult/></AssumeRoleResponse>"))
    answer = call(clients, sts, via=HUB)
    assert isinstance(answer, Failure)
    assert (answer.code, "no whole session" in answer.why) == ("ViaRefused", True)
