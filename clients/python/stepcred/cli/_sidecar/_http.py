"""The ways in over HTTP: credentials for whoever has the token, on loopback; readiness for whoever may ask.

A web page, too, can send requests to loopback. What keeps it from the credentials: the token, in a header that a page
of another origin may not set (no preflight is answered); the Host, which shows a rebound name; and no answer at all to
what says that it comes from a page.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from stepcred.cli._sidecar import _aws
from stepcred.cli._sidecar._guarded import TO_ASK, Guarded, Open
from stepcred.cli._sidecar._places import Address
from stepcred.cli._sidecar._state import State
from stepcred.cli._sidecar._told import Told

BACKLOG = 1024
MAX_LINE = 2048  # characters of the request line; a scope's name has 250 at most
MAX_FIELD = 4096  # characters of one header
MAX_BODY = 1024  # bytes; no request needs one
AT_THE_END = 2.0  # seconds for answers under way

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("stepcred.sidecar")


def _not_of_a_bad_request(record: logging.LogRecord) -> bool:
    """A request that is none is its sender's affair. What aiohttp would log quotes it, and that may be the token."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


log.addFilter(_not_of_a_bad_request)


@asynccontextmanager
async def credentials(address: Address, state: State, *, token: str, end: Callable[[], None]) -> AsyncIterator[Address]:
    """Serve on loopback; yields where, with the port. Raises OSError."""
    open_now, bodies = Open(), _aws.Bodies()
    rules = [_counted(open_now), _local_programs_only, _with_token(token)]
    app = web.Application(middlewares=rules, client_max_size=MAX_BODY)

    async def session(request: web.Request) -> web.Response:
        found = await state.session(request.match_info["scope"])
        if isinstance(found, Told):
            return refusal(found)
        return web.Response(body=bodies.container(*found), content_type="application/json", charset="utf-8")

    async def stop(_: web.Request) -> web.Response:
        end()
        return web.Response(status=202, text="ending\n")

    app.router.add_get("/v1/aws/{scope}", session, allow_head=False)
    app.router.add_post("/v1/end", stop)
    _add_probes(app, state)
    async with _listening(app, address, open_now) as bound:
        yield bound


@asynccontextmanager
async def probes(address: Address, state: State) -> AsyncIterator[Address]:
    """Serve nothing but whether we are ready, to anybody. Raises OSError."""
    open_now = Open()
    app = web.Application(middlewares=[_counted(open_now)], client_max_size=MAX_BODY)
    _add_probes(app, state)
    async with _listening(app, address, open_now) as bound:
        yield bound


def refusal(why: Told) -> web.Response:
    return web.json_response(dict(why.body), status=why.status, headers=dict(why.headers))


def _add_probes(app: web.Application, state: State) -> None:
    async def ready(_: web.Request) -> web.Response:
        why = state.trouble
        return web.Response(text="ready\n") if why is None else web.Response(status=503, text=f"{why.code}\n")

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    app.router.add_get("/readyz", ready)
    app.router.add_get("/livez", alive)


def _counted(open_now: Open) -> Middleware:
    """Tells a connection's bounds from when to when it waits for us, not for its sender."""

    @web.middleware
    async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
        one = open_now.of.get(request.protocol)
        if one is not None:
            one.asked()
        try:
            return await handler(request)
        finally:
            if one is not None:
                one.answered()

    return counted


@web.middleware
async def _local_programs_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not _is_loopback(request.headers.get("Host", "")) or "Origin" in request.headers:
        return refusal(Told(status=403, code="NOT_FROM_HERE", message="only for programs on this machine"))
    return await handler(request)


def _with_token(token: str) -> Middleware:
    expected = token.encode()

    @web.middleware
    async def with_token(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if request.path.startswith("/v1/") and not hmac.compare_digest(given, expected):
            return refusal(
                Told(
                    status=401,
                    code="UNAUTHORIZED",
                    message="send the content of the sidecar's token file as Authorization",
                )
            )
        return await handler(request)

    return with_token


@lru_cache(maxsize=16)
def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


async def _plain(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "stepcred"


@asynccontextmanager
async def _listening(app: web.Application, address: Address, open_now: Open) -> AsyncIterator[Address]:
    app.on_response_prepare.append(_plain)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=log,
        handle_signals=False,
        max_line_size=MAX_LINE,
        max_field_size=MAX_FIELD,
        max_headers=64,
        lingering_time=0,
        keepalive_timeout=TO_ASK,
        shutdown_timeout=AT_THE_END,
    )
    await runner.setup()
    make = runner.server
    if make is None:
        raise RuntimeError("an AppRunner that is set up has a server")
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: Guarded(make, open_now), address.host, address.port, backlog=BACKLOG
        )
        try:
            yield Address(host=address.host, port=server.sockets[0].getsockname()[1])
        finally:
            server.close()
    finally:
        await runner.cleanup()
