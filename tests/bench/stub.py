"""An instant OpenBao: the floor that the Vault provider's own cost is seen above. `python -m tests.bench.stub PORT`.

Plain http on loopback, kept alive. Each answer has the headers and the fields that OpenBao 2.7.2 sends, so that the
broker reads as much as it would there; behind it is nothing: no token is kept, and every one that is looked up is dead.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import sys
from collections.abc import Callable
from email.utils import formatdate
from typing import NamedTuple, cast

import uvloop

CLUSTER = "e7bdf68f-5b0e-a70f-c374-d6ead8a56141"
ACCESSOR = "Q7bkq5MqIGt4Vt9q3uiAb5C0"
INDEX = base64.b64encode(json.dumps({"cluster": CLUSTER, "value": "43"}).encode()).decode()
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
TOKEN = re.compile(rb'"id": *"([^"]+)"')
LIFE = re.compile(rb'"ttl": *"([0-9]+)s"')
CREATE = b"/v1/auth/token/create/"

HEALTH = {"initialized": True, "sealed": False, "standby": False, "version": "2.7.2", "cluster_id": CLUSTER}
ENVELOPE = {"request_id": "dbf518ec-c740-60d6-11e9-2009fa155ffe", "lease_id": "", "renewable": False}
ENVELOPE |= {"lease_duration": 0, "data": None, "wrap_info": None, "warnings": None, "auth": None}
SELF = {"accessor": ACCESSOR, "creation_ttl": 0, "ttl": 0, "policies": ["broker"], "orphan": True, "type": "service"}
WARNINGS = [
    "Explicit max TTL specified both during creation call and in role; using the lesser value of 600 seconds",
    (
        "Supplying a custom ID for the token uses the weaker SHA1 hashing instead of the more secure SHA2-256 HMAC for "
        "token obfuscation. SHA1 hashed tokens on the wire leads to less secure lookups."
    ),
]
MADE = {
    "client_token": "TOKEN",
    "accessor": ACCESSOR,
    "policies": ["bench", "step-self"],
    "token_policies": ["bench", "step-self"],
    "metadata": {"agent": "spiffe://dev.local/workflow/w0/step/load", "run": "", "step": "load", "workflow": "w0"},
    "lease_duration": "LIFE",
    "renewable": False,
    "entity_id": "",
    "token_type": "service",
    "orphan": True,
    "mfa_requirement": None,
    "num_uses": 0,
}


class Request(NamedTuple):
    """One of them, whole."""

    path: bytes
    body: bytes


class Answers:
    """Everything that the broker asks while it mints, ends, and starts; made once a second, for the Date."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """The headers' time."""
        made = _answer(200, {**ENVELOPE, "warnings": WARNINGS, "auth": MADE}, length=False)
        self._made = made.replace(b'"LIFE"', b"LIFE")
        self._gone = _answer(403, {"errors": ["bad token"]})
        self._none = _answer(204, None)
        self._rehearsed = _answer(400, {"errors": ["custom token ID cannot have a '.' in the value"]})
        self._unknown = _answer(404, {"errors": []})
        self._fixed = {
            b"/v1/auth/token/revoke-self": self._none,
            b"/v1/auth/token/lookup": self._gone,
            b"/v1/auth/token/lookup-self": _answer(200, {**ENVELOPE, "data": SELF}),
            b"/v1/sys/health": _answer(200, HEALTH),
        }

    def to(self, asked: Request) -> bytes:
        if asked.path.startswith(CREATE):
            return self._create(asked.body)
        return self._fixed.get(asked.path, self._unknown)

    def _create(self, body: bytes) -> bytes:
        token, life = TOKEN.search(body), LIFE.search(body)
        if token is None or life is None or b"." in token[1]:
            return self._rehearsed
        head, text = self._made.split(b"\r\n\r\n", 1)
        text = text.replace(b"TOKEN", token[1]).replace(b"LIFE", life[1])
        return head + b"\r\ncontent-length: %d\r\n\r\n" % len(text) + text


class Connection(asyncio.Protocol):
    """One request after the other, as they come."""

    def __init__(self, answer: Callable[[Request], bytes]) -> None:
        self._answer = answer
        self._held = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._held += data
        while asked := self._take():
            self._transport.write(self._answer(asked))

    def _take(self) -> Request | None:
        """The next one that is whole."""
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if not end:
            return None
        told = LENGTH.search(head)
        length = int(told[1]) if told else 0
        if len(rest) < length:
            return None
        self._held = rest[length:]
        return Request(path=head.split(b" ", 2)[1], body=rest[:length])


def _answer(status: int, body: object, *, length: bool = True) -> bytes:
    """`length`: False where the body is not ready yet, and the length is told with it."""
    text = b"" if body is None else json.dumps(body, separators=(",", ":")).encode() + b"\n"
    lines = [
        f"HTTP/1.1 {status} {'OK' if status < 300 else 'No'}",
        "cache-control: no-store",
        "content-type: application/json",
        "strict-transport-security: max-age=31536000; includeSubDomains",
        f"x-vault-index: {INDEX}",
        f"date: {formatdate(usegmt=True)}",
    ]
    if length and status != 204:
        lines.append(f"content-length: {len(text)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text


async def serve(port: int) -> None:
    """Until SIGTERM."""
    loop, stop, answers = asyncio.get_running_loop(), asyncio.Event(), Answers()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Connection(answers.to), "127.0.0.1", port)
    async with server:
        while not stop.is_set():
            try:
                async with asyncio.timeout(1):
                    await stop.wait()
            except TimeoutError:
                answers.renew()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
