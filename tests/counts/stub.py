"""A Vault that answers at once: on a socket of this process's own loop, so that every call is seen."""

from __future__ import annotations

import asyncio
import json
import re
from email.utils import format_datetime
from typing import Any

from broker.providers.vault.answers import REHEARSAL_ID, REHEARSED, TOKEN_DEAD
from tests.counts.meter import Meter
from tests.fakes.clock import FakeClock

CLUSTER = "c0ffee00-0000-4000-8000-000000000001"
DEAD = (TOKEN_DEAD[0], {"errors": [TOKEN_DEAD[1]]})


class VaultStub:
    """Knows which tokens live. Calls are counted by method and path, connections as `connect`."""

    def __init__(self, meter: Meter, clock: FakeClock) -> None:
        self._meter = meter
        self._clock = clock
        self._lives: dict[str, int] = {}  # token → seconds asked for
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    async def start(cls, meter: Meter, clock: FakeClock) -> VaultStub:
        stub = cls(meter, clock)
        stub._server = await asyncio.start_server(stub._serve, "127.0.0.1", 0)
        return stub

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._meter.provider.append("connect")
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"(?i)^content-length: *(\d+)", head, re.MULTILINE)
                body = json.loads(await reader.readexactly(int(length[1]) if length else 0) or b"{}")
                token = re.search(r"(?i)^x-vault-token: *(\S+)", head, re.MULTILINE)
                method, path, _ = head.split(" ", 2)
                writer.write(self._answer(method, path, token[1] if token else "", body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            self._writers.discard(writer)

    def _answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> bytes:
        self._meter.provider.append(f"{method} {path.removeprefix('/v1/')}")
        status, told = self._told(path, token, body)
        content = json.dumps(told).encode() if told else b""
        date = format_datetime(self._clock.now().replace(microsecond=0), usegmt=True)
        head = f"HTTP/1.1 {status} Told\r\nDate: {date}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def _told(self, path: str, token: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        answer: tuple[int, dict[str, Any]] = 404, {"errors": []}
        match path.removeprefix("/v1/").split("/"):
            case ["sys", "health"]:
                answer = 200, {"cluster_id": CLUSTER, "version": "2.7.2"}
            case ["auth", "token", "create", _] if body["id"] == REHEARSAL_ID:
                answer = REHEARSED[0], {"errors": [REHEARSED[1]]}
            case ["auth", "token", "create", _]:
                answer = 200, self._created(body)
            case ["auth", "token", "revoke-self"]:
                self._lives.pop(token, None)
                answer = 204, {}
            case ["auth", "token", "lookup"]:
                answer = (200, {"data": {"meta": {}}}) if body["token"] in self._lives else DEAD
            case ["auth", "token", "lookup-self"]:
                answer = 200, {"data": {"ttl": 3600, "creation_ttl": 3600}}
        return answer

    def _created(self, body: dict[str, Any]) -> dict[str, Any]:
        token, seconds = body["id"], int(body["ttl"].removesuffix("s"))
        self._lives[token] = seconds
        auth = {
            "client_token": token,
            "accessor": "a" * 24,
            "lease_duration": seconds,
            "renewable": False,
            "orphan": True,
            "token_type": "service",
            "policies": ["plain"],
        }
        return {"request_id": CLUSTER, "auth": auth}
