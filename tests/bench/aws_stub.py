"""An STS that answers at once: `python -m tests.bench.aws_stub PORT`.

A process of its own on uvloop. It reads a request's head and as much body as that says, looks at neither but for the
question who is there, and answers AssumeRole as AWS does, with keys and an end of their own. What a caller's call takes
here is the caller's own cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import cast

import uvloop

from tests.support.processes import accepts, free_port, running

LIFE = timedelta(seconds=900)
REGION = "eu-west-1"
TOKEN = "FwoGZXIvYXdzE" + "stub" * 120  # about as long as AWS's

BODY = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleResult>
    <AssumedRoleUser>
      <AssumedRoleId>AROA1234567890EXAMPLE:{name}</AssumedRoleId>
      <Arn>arn:aws:sts::123456789012:assumed-role/bench/{name}</Arn>
    </AssumedRoleUser>
    <Credentials>
      <AccessKeyId>ASIA{number:016}</AccessKeyId>
      <SecretAccessKey>stub/secret/access/key/{number:017}</SecretAccessKey>
      <SessionToken>{token}</SessionToken>
      <Expiration>{ends:%Y-%m-%dT%H:%M:%SZ}</Expiration>
    </Credentials>
    <PackedPolicySize>12</PackedPolicySize>
  </AssumeRoleResult>
  <ResponseMetadata>
    <RequestId>c6104cbe-af31-11e0-8154-{number:012}</RequestId>
  </ResponseMetadata>
</AssumeRoleResponse>
"""
HEAD = (
    "HTTP/1.1 200 OK\r\nx-amzn-RequestId: c6104cbe-af31-11e0-8154-{number:012}\r\nContent-Type: text/xml\r\n"
    "Content-Length: {length}\r\nDate: {date}\r\n\r\n"
)
IDENTITY = """<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:iam::123456789012:user/stub</Arn><UserId>AIDAEXAMPLE</UserId><Account>123456789012</Account>
</GetCallerIdentityResult></GetCallerIdentityResponse>"""
LEASE = "abcdefghij234567"  # whose session it is when nobody asked
_numbers = itertools.count()


def answer(request: bytes = b"") -> bytes:
    """One session, or who the broker is: it asks before it is ready."""
    now, number = datetime.now(UTC), next(_numbers)
    name = request.partition(b"RoleSessionName=")[2].partition(b"&")[0].decode() or LEASE
    body = BODY.format(number=number, name=name, token=TOKEN, ends=now + LIFE)
    if b"Action=GetCallerIdentity" in request:
        body = IDENTITY
    return (HEAD.format(number=number, length=len(body), date=format_datetime(now, usegmt=True)) + body).encode()


class Connection(asyncio.Protocol):
    """Keep-alive; requests with a Content-Length."""

    def __init__(self) -> None:
        self._held = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its type

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            _, there, length = head.partition(b"content-length:")
            whole = end + 4 + (int(length.partition(b"\r\n")[0]) if there else 0)
            if len(self._held) < whole or self._transport is None:
                return
            self._transport.write(answer(self._held[:whole]))
            self._held = self._held[whole:]


async def serve(port: int) -> None:
    """Until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with await loop.create_server(Connection, "127.0.0.1", port):
        await stop.wait()


@contextlib.contextmanager
def sts_stub(folder: Path) -> Iterator[tuple[str, int]]:
    """It, running: address and pid."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.bench.aws_stub", str(port)]
    with running(argv, log=folder / "sts-stub.log", ready=lambda: accepts(port)) as process:
        yield f"http://127.0.0.1:{port}", process.pid


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
