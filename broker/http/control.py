"""Orders to a dev broker, from the test suite that started it: on loopback, with its token. No daemon has this."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from aiohttp import web

from broker.errors import ConfigError
from broker.log import get_logger
from broker.model import JsonValue
from broker.policy.problems import ScopeMapError
from broker.secret import Secret

Order: TypeAlias = Callable[[Mapping[str, JsonValue]], Awaitable[JsonValue]]

MOST = 2 * 1024 * 1024  # bytes of an order: a scope map, and what is around it
_HOST = "127.0.0.1"
_MALFORMED = "not an order of this form"

log = get_logger(__name__)


class ControlServer:
    """`POST /v1/<order>` with a JSON object, answered by one; `Authorization: Bearer <token>`."""

    def __init__(self, orders: Mapping[str, Order], token: Secret) -> None:
        self._orders = orders
        self._token = token
        app = web.Application(client_max_size=MOST)
        app.router.add_post("/v1/{order}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    async def start(self) -> str:
        """Listen on a free port, and return the URL that orders begin with. Raises OSError."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, _HOST, 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return f"http://{_HOST}:{port}/v1/"

    async def stop(self) -> None:
        """Close the port."""
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {self._token.reveal()}".encode()):
            return _told(401, "the token of this dev broker is needed")
        order = self._orders.get(request.match_info["order"])
        if order is None:
            return _told(404, f"there is no such order; there are {', '.join(sorted(self._orders))}")
        asked = _object(await request.read())
        return (
            _told(400, _MALFORMED) if asked is None else await self._answer(request.match_info["order"], order, asked)
        )

    async def _answer(self, name: str, order: Order, asked: Mapping[str, JsonValue]) -> web.Response:
        try:
            return web.json_response(await order(asked))
        except (ScopeMapError, ConfigError) as error:
            return _told(422, "\n".join(map(str, error.problems)))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            return _told(400, str(error) if type(error) is ValueError else _MALFORMED)
        except Exception:
            log.exception("an order failed", order=name)
            return _told(500, "the order failed; the dev broker's standard error has more")


def _object(raw: bytes) -> Mapping[str, JsonValue] | None:
    try:
        found = json.loads(raw or b"{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _told(status: int, problem: str) -> web.Response:
    return web.json_response({"error": problem}, status=status)
