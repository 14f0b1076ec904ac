from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.config import Address
from broker.http.server import MAX_CONNECTIONS, HttpServer
from broker.metrics import Metrics

TIMEOUT = aiohttp.ClientTimeout(total=5)


class Health:
    def __init__(self) -> None:
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self.broken = False

    def __call__(self) -> Sequence[str]:
        if self.broken:
            raise RuntimeError("database token scv1-x-verysecret")
        return self.problems


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
async def client(health: Health) -> AsyncIterator[aiohttp.ClientSession]:
    metrics = Metrics()
    metrics.steps_open(3)
    server = HttpServer(
        Address(host="127.0.0.1", port=0), registry=metrics.registry, not_ready=health, remarks=lambda: health.remarks
    )
    port = await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=TIMEOUT) as session:
            yield session
    finally:
        await server.stop()


async def get(client: aiohttp.ClientSession, path: str) -> tuple[int, object]:
    async with client.get(path) as response:
        return response.status, await response.json()


async def test_it_is_alive_and_ready(client: aiohttp.ClientSession) -> None:
    assert await get(client, "/livez") == (200, {"alive": True})
    assert await get(client, "/readyz") == (200, {"ready": True, "problems": []})


async def test_a_remark_is_told_and_keeps_nobody_away(client: aiohttp.ClientSession, health: Health) -> None:
    health.remarks = ["the scope map on disk is refused"]
    answer = {"ready": True, "problems": [], "remarks": ["the scope map on disk is refused"]}
    assert await get(client, "/readyz") == (200, answer)


async def test_not_ready_is_503_with_the_reasons_and_still_alive(client: aiohttp.ClientSession, health: Health) -> None:
    health.problems = ["draining", "vault: not reachable"]
    assert await get(client, "/readyz") == (503, {"ready": False, "problems": ["draining", "vault: not reachable"]})
    assert (await get(client, "/livez"))[0] == 200


async def test_a_readiness_check_that_fails_is_not_ready_and_tells_nothing(
    client: aiohttp.ClientSession, health: Health
) -> None:
    health.broken = True
    status, body = await get(client, "/readyz")
    assert status == 503
    assert "verysecret" not in str(body)
    assert "Traceback" not in str(body)


async def test_metrics_are_prometheus_text(client: aiohttp.ClientSession) -> None:
    async with client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        families = {family.name: family for family in text_string_to_metric_families(await response.text())}
    assert families["stepcred_steps_open"].samples[0].value == 3


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/readyz", 405), ("GET", "/", 404), ("PUT", "/x", 404)]
)
async def test_nothing_else_is_served(client: aiohttp.ClientSession, method: str, path: str, status: int) -> None:
    async with client.request(method, path) as response:
        assert response.status == status


async def test_a_taken_address_is_an_error_and_not_shared(client: aiohttp.ClientSession) -> None:
    port = client._base_url.port if client._base_url else None
    assert port is not None
    second = HttpServer(Address(host="127.0.0.1", port=port), registry=Metrics().registry, not_ready=list)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.stop()


async def test_a_crowd_of_idle_connections_takes_neither_probes_nor_files(client: aiohttp.ClientSession) -> None:
    """aiohttp knows no bound, and waits for ever for a request that does not come."""
    port = client._base_url.port if client._base_url else 0
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * MAX_CONNECTIONS)]
    assert await get(client, "/livez") == (200, {"alive": True})
    closed = await asyncio.gather(*(asyncio.wait_for(reader.read(), 15) for reader, _ in held[: 2 * MAX_CONNECTIONS]))
    assert set(closed) == {b""}  # the oldest go
    reader, writer = held[-1]
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in await asyncio.wait_for(reader.readline(), 15)
    for _reader, writer in held:
        writer.transport.abort()
