"""The loopback listener for probes and scrapers, which carry no client certificate.

It tells nothing that a stranger on this machine may not know: no agent, no scope's content, no secret, and it
changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from broker.config import Address
from broker.log import get_logger

MAX_CONNECTIONS = 64  # in-house bound: probes and scrapers; aiohttp has none, and would take the files of the database
_SHUTDOWN_SECONDS = 1.0  # a scrape under way may end

log = get_logger(__name__)


class HttpServer:
    """`/livez`: the event loop turns. `/readyz`: the broker can serve. `/metrics`: Prometheus text."""

    def __init__(
        self,
        address: Address,
        *,
        registry: CollectorRegistry,
        not_ready: Callable[[], Sequence[str]],
        remarks: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Make it; `start` opens the port.

        Args:
            address: where to listen; port 0 takes a free one.
            registry: what `/metrics` shows.
            not_ready: asked on each `/readyz`; what keeps the broker from serving, as constant texts. Quick, no I/O.
            remarks: the same, of what an operator must look at while it serves.
        """
        self._address = address
        self._registry = registry
        self._not_ready = not_ready
        self._remarks = remarks
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
        self._listener: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port. Raises OSError when the address is taken."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._accept, self._address.host, self._address.port)
        port = int(self._listener.sockets[0].getsockname()[1])
        log.info("health and metrics", address=f"http://{Address(host=self._address.host, port=port)}")
        return port

    async def stop(self) -> None:
        """Close the port; harmless when it was never opened."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    def _accept(self) -> asyncio.BaseProtocol:
        """A probe is answered in milliseconds: when there are too many connections, the oldest is one that only waits."""
        server = self._runner.server
        assert server is not None  # noqa: S101 - set up before the port was opened
        connected = server.connections
        for oldest in connected[: len(connected) - MAX_CONNECTIONS + 1]:
            oldest.force_close()
        return server()

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _readyz(self, _request: web.Request) -> web.Response:
        try:
            problems, remarks = list(self._not_ready()), list(self._remarks())
        except Exception:  # a check that fails is an answer too: not ready
            log.exception("readiness check failed")
            problems, remarks = ["the readiness check itself failed; see the log"], []
        body = {"ready": not problems, "problems": problems} | ({"remarks": remarks} if remarks else {})
        return web.json_response(body, status=503 if problems else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
