"""Readers of a sidecar's container-credentials endpoint, as an AWS SDK reads it: over and over, all of one cached lease."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from tests.bench.targets import Sidecar

LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)

_Connection: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Reads:
    """One connection for each reader, kept as long as the sidecar keeps it; opening another one is part of the read."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._asks = b""
        self._open: dict[int, _Connection] = {}

    async def prepare(self, workers: int) -> None:
        one = self._sidecar
        token = await asyncio.to_thread(Path(one.token_file).read_text)
        head = (f"GET {one.path} HTTP/1.1", f"Host: 127.0.0.1:{one.port}", f"Authorization: {token}", "Accept: */*")
        self._asks = "\r\n".join((*head, "", "")).encode()

    async def once(self, worker: int) -> Mapping[str, float]:
        start = time.perf_counter()
        kept = self._open.pop(worker, None)
        try:
            head, body = await self._read(worker, kept or await self._connect())
        except (asyncio.IncompleteReadError, ConnectionError):
            if kept is None:
                raise
            head, body = await self._read(worker, await self._connect())  # it was closed since
        took = time.perf_counter() - start
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert b'"AccessKeyId"' in body
        return {"read": took}

    async def _connect(self) -> _Connection:
        return await asyncio.open_connection("127.0.0.1", self._sidecar.port)

    async def _read(self, worker: int, connection: _Connection) -> tuple[bytes, bytes]:
        reader, writer = connection
        writer.write(self._asks)
        head = await reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        assert length, head
        body = await reader.readexactly(int(length[1]))
        if CLOSES.search(head):
            writer.close()
        else:
            self._open[worker] = connection
        return head, body

    async def finish(self) -> None:
        for _, writer in self._open.values():
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self._open = {}
