"""Sides that go around the broker: what a user would do at OpenBao itself."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import hvac

from tests.bench.raft import CERT_ROLE, ROLE
from tests.bench.targets import Agent, Direct

DEAD = (403, ["bad token"])  # the exact answer; any other 403 may be about the asker
TTL = "10m"


class Client:
    """A lean client: aiohttp over warm TLS connections with the client's certificate."""

    def __init__(self, direct: Direct, agent: Agent) -> None:
        self._direct = direct
        self._agent = agent
        self._session: aiohttp.ClientSession | None = None

    async def call(self, path: str, body: Mapping[str, str], *, token: str = "") -> tuple[int, dict[str, Any]]:
        """(status, body)."""
        headers = {"X-Vault-Token": token} if token else {}
        url = f"{self._direct.address}/v1/{path}"
        async with self._open().post(url, json=body, headers=headers) as response:
            raw = await response.json(content_type=None) if response.status != 204 else {}
            return response.status, raw or {}

    async def login(self) -> str:
        """A token by the certificate of the connection."""
        status, body = await self.call("auth/cert/login", {"name": CERT_ROLE})
        assert status == 200, status
        return str(body["auth"]["client_token"])

    async def warm(self, connections: int) -> str:
        """Open so many connections; a token to go on with."""
        return (await asyncio.gather(*(self.login() for _ in range(connections))))[0]

    async def create(self, token: str) -> str:
        """A token through the role that the broker uses."""
        status, body = await self.call(f"auth/token/create/{ROLE}", {"ttl": TTL, "explicit_max_ttl": TTL}, token=token)
        assert status == 200, status
        return str(body["auth"]["client_token"])

    async def close(self) -> None:
        session, self._session = self._session, None
        if session:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context(cafile=self._direct.ca)
            context.load_cert_chain(self._agent.cert, self._agent.key)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, ssl=context),
                timeout=aiohttp.ClientTimeout(total=30),
            )
        return self._session


class Create:
    """Create a token; with `login_each`, log in by certificate before every one. Nobody ends these tokens."""

    def __init__(self, direct: Direct, agent: Agent, *, login_each: bool) -> None:
        self._client = Client(direct, agent)
        self._login_each = login_each
        self._token = ""

    async def prepare(self, workers: int) -> None:
        self._token = await self._client.warm(workers)

    async def once(self, worker: int) -> Mapping[str, float]:
        start = time.perf_counter()
        await self._client.create(await self._client.login() if self._login_each else self._token)
        return {"issue": time.perf_counter() - start}

    async def finish(self) -> None:
        await self._client.close()


async def must_die(client: Client, token: str, asker: str) -> None:
    """Revoke a token with itself, and see that it is dead."""
    await client.call("auth/token/revoke-self", {}, token=token)
    status, body = await client.call("auth/token/lookup", {"token": token}, token=asker)
    assert (status, body["errors"]) == DEAD, body


class Kill:
    """Revoke a token with itself and see it dead; its creation before is not timed."""

    def __init__(self, direct: Direct, agent: Agent) -> None:
        self._client = Client(direct, agent)
        self._token = ""

    async def prepare(self, workers: int) -> None:
        self._token = await self._client.warm(workers)

    async def once(self, worker: int) -> Mapping[str, float]:
        token = await self._client.create(self._token)
        start = time.perf_counter()
        await must_die(self._client, token, self._token)
        return {"end": time.perf_counter() - start}

    async def finish(self) -> None:
        await self._client.close()


class HvacCycle:
    """hvac as its documentation shows it: a client, a login by certificate, a token, its end. No proof of death."""

    def __init__(self, direct: Direct, agent: Agent) -> None:
        self._direct = direct
        self._agent = agent
        self._threads: ThreadPoolExecutor | None = None

    async def prepare(self, workers: int) -> None:
        self._threads = ThreadPoolExecutor(workers)

    async def once(self, worker: int) -> Mapping[str, float]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._cycle)

    def _cycle(self) -> Mapping[str, float]:
        start = time.perf_counter()
        address, ca = self._direct.address, self._direct.ca
        client = hvac.Client(url=address, verify=ca)
        client.auth.cert.login(name=CERT_ROLE, cert_pem=self._agent.cert, key_pem=self._agent.key)
        made = client.auth.token.create(role_name=ROLE, ttl=TTL, explicit_max_ttl=TTL)
        hvac.Client(url=address, verify=ca, token=made["auth"]["client_token"]).auth.token.revoke_self()
        return {"cycle": time.perf_counter() - start}

    async def finish(self) -> None:
        if self._threads:
            self._threads.shutdown()
