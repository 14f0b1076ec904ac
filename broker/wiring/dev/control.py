"""The orders of `broker.http.control`, each as what a dev broker does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from broker.http.control import Order
from broker.model import JsonValue
from broker.wiring.dev.broker import DevBroker
from broker.wiring.dev.told import agent_json


def orders_of(broker: DevBroker) -> Mapping[str, Order]:  # noqa: C901 - a table of small functions
    """By name. Each raises KeyError, TypeError or ValueError for what it cannot do."""

    async def state(_: Mapping[str, JsonValue]) -> JsonValue:
        return await broker.state()

    async def agent(asked: Mapping[str, JsonValue]) -> JsonValue:
        return agent_json(broker, broker.describe(str(asked["id"])))

    async def accepts(asked: Mapping[str, JsonValue]) -> JsonValue:
        return {"accepts": broker.accepts(str(asked["value"]))}

    async def advance(asked: Mapping[str, JsonValue]) -> JsonValue:
        await broker.advance(timedelta(seconds=float(asked["seconds"])))
        return await broker.state()

    async def expire(asked: Mapping[str, JsonValue]) -> JsonValue:
        await broker.expire(str(asked.get("scope", "")))
        return await broker.state()

    async def refuse(asked: Mapping[str, JsonValue]) -> JsonValue:
        await broker.refuse(str(asked["scope"]), str(asked["reason"]), _times(asked))
        return {}

    async def allow(asked: Mapping[str, JsonValue]) -> JsonValue:
        await broker.allow(str(asked["scope"]))
        return {}

    async def fail(asked: Mapping[str, JsonValue]) -> JsonValue:
        broker.fail(str(asked["scope"]), str(asked["how"]), _times(asked) or 1)
        return {}

    async def hold(asked: Mapping[str, JsonValue]) -> JsonValue:
        broker.hold(str(asked["scope"]), {str(key): str(value) for key, value in dict(asked["values"]).items()})
        return {}

    async def end_steps(_: Mapping[str, JsonValue]) -> JsonValue:
        await broker.end_steps()
        return {}

    async def restart(_: Mapping[str, JsonValue]) -> JsonValue:
        await broker.restart()
        return {}

    async def reset(asked: Mapping[str, JsonValue]) -> JsonValue:
        await broker.reset(str(asked["scopes"]) if "scopes" in asked else None)
        return {}

    told = (state, agent, accepts, advance, expire, refuse, allow, fail, hold, end_steps, restart, reset)
    return {order.__name__: order for order in told}


def _times(asked: Mapping[str, JsonValue]) -> int | None:
    times = asked.get("times")
    if times is None:
        return None
    if not isinstance(times, int) or times < 1:
        raise ValueError("times is a whole number, at least 1")
    return times
