"""Sends JSON to one receiver: bounded in time and size, to where the config says and nowhere else."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from broker import process
from broker.model import JsonValue

TIMEOUT = 15.0  # seconds, the whole of a request; the specification asks for 15 to 30
CONNECT = 5.0  # seconds
CONNECTIONS = 2  # to one receiver; it is sent one thing after the other
ANSWER_BYTES = 4096  # of the answer are read, so that the connection can be used again; nobody looks at them
_GOOD = range(200, 300)
_BUSY = 429
_BROKEN = 500


class NotSent(Exception):
    """It was not taken. The text is constant, but for a status."""


class Away(NotSent):
    """No answer, or one that says that nothing is taken now: the receiver's trouble."""


class Refused(NotSent):
    """This message is not taken, as it is."""


class Post:
    """One receiver's connections. Follows no redirect, and takes no proxy from the environment."""

    def __init__(self, url: str, *, ca_file: Path | None = None, token_file: Path | None = None) -> None:
        self._url = url
        self._ca_file = ca_file
        self._token_file = token_file
        self._session: aiohttp.ClientSession | None = None

    async def send(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Raises Away, Refused. A receiver that did not answer may have taken it all the same."""
        sent = {"Content-Type": "application/json", "User-Agent": "stepcred-broker", **(headers or {})}
        try:
            async with asyncio.timeout(TIMEOUT):
                session = self._session = self._session or await self._open()
                if self._token_file is not None:
                    sent["Authorization"] = f"Bearer {await asyncio.to_thread(_token, self._token_file)}"
                async with session.post(self._url, data=body, headers=sent, allow_redirects=False) as answer:
                    status = answer.status
                    await answer.content.read(ANSWER_BYTES)
        except (
            OSError,
            TimeoutError,
            aiohttp.ClientError,
            ValueError,
        ) as error:  # ValueError: a token with a line break
            await self.close()  # the next one reads the roots anew
            raise Away(f"no answer ({type(error).__name__})") from None
        if status in _GOOD:
            return
        if status == _BUSY or status >= _BROKEN:
            raise Away(f"it answered {status}")
        raise Refused(f"it answered {status}")

    async def reach(self) -> str:
        """Why nobody can be reached there; "" when somebody can. Nothing is sent."""
        parts = urlsplit(self._url)
        secure = parts.scheme == "https"
        try:
            async with asyncio.timeout(CONNECT):
                trust = await asyncio.to_thread(self._trust) if secure else None
                port = parts.port or (443 if secure else 80)
                _, stream = await asyncio.open_connection(parts.hostname, port, ssl=trust)
                stream.close()
        except (OSError, TimeoutError) as error:  # ssl.SSLError is one
            return f"nobody can be reached there ({type(error).__name__})"
        return ""

    async def close(self) -> None:
        """The next request opens connections anew."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(self) -> aiohttp.ClientSession:
        secure = self._url.startswith("https")
        trust = await asyncio.to_thread(self._trust) if secure else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=trust),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._ca_file)


def to_json(value: JsonValue) -> bytes:
    """As it is sent, and signed."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def _token(path: Path) -> str:
    return process.read_file(path).decode("ascii").strip()
