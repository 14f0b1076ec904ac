"""The endpoint on loopback: who gets what, from which lease, and what is told instead."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from stepcred.cli._sidecar import _guarded
from stepcred.cli._sidecar._places import Address, address
from tests.fakes.broker_server import DENIED, STEP_ENDED, UNAVAILABLE, FakeBroker, Refusal
from tests.support.processes import free_port
from tests.unit.client.sidecar.conftest import Start, until

COOLING = Refusal(
    code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="COOLING", verdict="RETRY_AFTER", retry_after=30.0, pushback="-1"
)
LAKE = "/v1/aws/lake-write"


async def test_a_reader_gets_the_session_as_container_credentials(fake: FakeBroker, start: Start) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    answer = await sidecar.get(LAKE)
    assert answer.status == 200
    expires = datetime.fromisoformat(answer.body.pop("Expiration"))
    assert answer.body == {
        "AccessKeyId": "ASIATEST",
        "SecretAccessKey": "s3cret-lease-1",
        "Token": "s3cret-session",
    }
    # Its successor comes at 75 to 85 % of ten minutes, and ends it: whoever asks by then never holds a dead one.
    assert timedelta(minutes=7) < expires - datetime.now(UTC) < timedelta(minutes=9)
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await sidecar.get("/readyz", token="")).status == 200


async def test_any_number_of_reads_is_one_mint(fake: FakeBroker, start: Start) -> None:
    fake.delay["IssueCredential"] = 0.2
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    answers = await asyncio.gather(*(sidecar.get(LAKE) for _ in range(200)))
    assert {answer.body["SecretAccessKey"] for answer in answers} == {"s3cret-lease-1"}
    assert len(fake.requests("IssueCredential")) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"token": ""}, 401),
        ({"token": "wrong"}, 401),
        ({"Host": "evil.example"}, 403),  # a name of the attacker's that was bound to 127.0.0.1 meanwhile
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:80"}, 200),
    ],
)
async def test_only_programs_of_this_machine_that_can_read_the_token_get_anything(
    start: Start, headers: dict[str, str], status: int
) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    answer = await sidecar.get(LAKE, **headers)
    assert answer.status == status
    assert ("s3cret" in str(answer.body)) == (status == 200)


async def test_the_token_is_needed_to_end_it_and_the_end_is_proven(fake: FakeBroker, start: Start) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    assert (await sidecar.ask("POST", "/v1/end", token="wrong")).status == 401
    assert not fake.only_step().ended
    assert (await sidecar.ask("POST", "/v1/end")).status == 202
    assert await sidecar.task == 0
    assert fake.only_step().ended
    assert sidecar.told[-1] == ("ended", "1 credential dead, proven in 41 ms")


async def test_what_was_not_asked_for_at_the_start_is_not_served(fake: FakeBroker, start: Start) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    for path in ("/v1/aws/orders-read", "/v1/aws/..%2Fx", "/v1/aws/"):
        assert (await sidecar.get(path)).status == 404
    assert len(fake.requests("IssueCredential")) == 1


async def test_a_step_that_the_broker_ended_is_told_to_every_reader_and_never_opened_again(
    fake: FakeBroker, start: Start
) -> None:
    fake.heartbeat = 0.1
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    fake.script("Heartbeat", replace(STEP_ENDED, metadata=(("ended_by", "OPERATOR"),)))
    await sidecar.has_told("step_ended")
    answers = await asyncio.gather(*(sidecar.get(LAKE) for _ in range(50)))
    assert {answer.status for answer in answers} == {410}
    assert answers[0].body["code"] == "STEP_ENDED"
    assert "OPERATOR" in answers[0].body["message"]
    ready = await sidecar.get("/readyz")
    assert (ready.status, ready.body) == (503, "STEP_ENDED\n")
    assert len(fake.requests("BeginStep")) == len(fake.requests("IssueCredential")) == 1
    assert await sidecar.end() == 0


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        (DENIED, (403, "ACCESS_DENIED", None)),
        (COOLING, (429, "COOLING", 30)),
        (UNAVAILABLE, (503, "BROKER_UNAVAILABLE", 2)),
    ],
)
async def test_a_refused_read_carries_the_brokers_reason_and_asks_once(
    fake: FakeBroker, start: Start, refusal: Refusal, expected: tuple[int, str, int | None]
) -> None:
    status, code, later = expected
    fake.ttl = timedelta(seconds=1)  # the first one ends, the next is refused
    fake.ripe = 2.0
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    fake.script("IssueCredential", *[refusal] * 50)
    asked = len(fake.requests("IssueCredential"))
    while (answer := await sidecar.get(LAKE)).status == 200:  # noqa: ASYNC110 (of a broker in another thread)
        await asyncio.sleep(0.05)
    after = len(fake.requests("IssueCredential"))
    assert after - asked <= 4  # UNAVAILABLE alone is sent again, three times
    answers = await asyncio.gather(*(sidecar.get(LAKE) for _ in range(100)))
    assert {one.status for one in answers} == {status} == {answer.status}
    assert answers[0].body["code"] == code
    assert len(fake.requests("IssueCredential")) == after
    if later is None:
        assert "Retry-After" not in answer.headers
    else:
        assert 1 <= int(answers[0].headers["Retry-After"]) <= later


async def test_where_no_successor_may_be_the_next_read_after_the_end_is_a_new_mint(
    fake: FakeBroker, start: Start
) -> None:
    """As it is with a max_ttl that is the ttl: a chain's end is not the scope's."""
    fake.ttl, fake.ripe = timedelta(seconds=2), 0.1
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    fake.script("IssueCredential", Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, reason="TTL_TOO_SHORT"))
    seen: set[str] = set()
    while len(seen) < 2:
        answer = await sidecar.get(LAKE)
        assert answer.status == 200, answer.body
        seen.add(answer.body["SecretAccessKey"])
        await asyncio.sleep(0.05)
    assert [one.replaces for one in fake.requests("IssueCredential")[:3]] == ["", "lease-1", ""]


async def test_before_the_first_mint_readers_are_told_to_come_again(fake: FakeBroker, start: Start) -> None:
    fake.delay["IssueCredential"] = 1.0
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"], wait=False)
    await until(lambda: bool(fake.requests("IssueCredential")))
    answer = await sidecar.get(LAKE)
    assert (answer.status, answer.body["code"], answer.headers["Retry-After"]) == (503, "STARTING", "1")
    assert (await sidecar.get("/readyz")).status == 503
    assert (await sidecar.get("/livez")).status == 200


async def test_probes_on_any_address_serve_no_secrets(fake: FakeBroker, start: Start) -> None:
    port = free_port()
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"], ready_listen=address(f"0.0.0.0:{port}"))
    sidecar.life._uri = f"http://127.0.0.1:{port}"
    assert (await sidecar.get("/readyz", token="")).status == 200
    assert (await sidecar.get(LAKE)).status == 404
    assert (await sidecar.ask("POST", "/v1/end")).status == 404


@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nX: ", b"\r\n\r\n\r\n\r\n"])
async def test_connections_that_say_nothing_are_few_and_short(
    start: Start, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(_guarded, "MOST", 5)
    monkeypatch.setattr(_guarded, "TO_ASK", 0.5)
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    port = int(sidecar.life._uri.rpartition(":")[2])
    idle = []
    for _ in range(6):
        idle.append(await asyncio.open_connection("127.0.0.1", port))
        idle[-1][1].write(said)  # and never the rest
    for reader, _ in idle:
        assert await asyncio.wait_for(_until_closed(reader), 10) == b""
    assert (await sidecar.get(LAKE)).status == 200
    for _, writer in idle:
        writer.close()


@pytest.mark.parametrize("said", [b"", b"\r\n\r\n"])
async def test_connections_that_say_nothing_keep_no_reader_out(
    start: Start, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(_guarded, "MOST", 5)
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    port = int(sidecar.life._uri.rpartition(":")[2])
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    for _, writer in idle:
        writer.write(said)
    assert (await sidecar.get(LAKE)).status == 200
    assert await asyncio.wait_for(_until_closed(idle[0][0]), 4) == b""  # the oldest gave way
    for _, writer in idle:
        writer.close()


async def test_a_head_without_an_end_is_not_kept_in_memory(start: Start) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    port = int(sidecar.life._uri.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 40)
    writer.write(b"Z: " + b"z" * 4000 + b"\r\nY: " + b"y" * 4000 + b"\r\n")
    assert await asyncio.wait_for(_until_closed(reader), 3) == b""  # at once, not when its time is over
    writer.close()
    assert (await sidecar.get(LAKE)).status == 200


@pytest.mark.parametrize("after", [b"\0\r\n", b"\r\nbroken line\r\n", b"x" * 5000])
async def test_a_request_that_is_none_brings_no_token_into_the_log(
    start: Start, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], after: bytes
) -> None:
    sidecar = await start(scopes=["lake-write"], aws=["lake-write"])
    port = int(sidecar.life._uri.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /v1/aws/lake-write HTTP/1.1\r\nAuthorization: " + sidecar.token.encode() + after + b"\r\n")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    assert caplog.records == []
    assert capfd.readouterr().err == ""


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_a_port_that_is_taken_ends_it_before_a_step_is_opened(fake: FakeBroker, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address(host="127.0.0.1", port=other.getsockname()[1])
        sidecar = await start(scopes=["lake-write"], aws=["lake-write"], listen=taken, wait=False)
        assert await sidecar.task == 78
    assert "another sidecar? choose another port" in sidecar.events("failed")[0]
    assert fake.requests("BeginStep") == []
