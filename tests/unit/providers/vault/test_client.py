"""What is asked for most often goes past hvac's classes, and is still what they would ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hvac.api.auth_methods import Token

from broker.providers.vault.client import VaultClient
from broker.providers.vault.settings import TokenFile, VaultSettings
from broker.providers.vault.transport import TokenAdapter, Transport
from broker.secret import Secret

ASKER, TOKEN = Secret("asker"), Secret("token")
ANSWER = {
    "data": {},
    "auth": {
        "client_token": "t",
        "accessor": "a",
        "lease_duration": 1,
        "renewable": False,
        "orphan": True,
        "token_type": "service",
        "policies": [],
    },
}


class Told(Transport):
    """Sends nothing, and remembers everything."""

    def __init__(self) -> None:
        super().__init__(VaultSettings(address="http://localhost", auth=TokenFile(path=Path("none"))))
        self.asked: list[tuple[str, str, str, Any, Mapping[str, str] | None]] = []

    async def exchange(
        self,
        method: str,
        path: str,
        *,
        token: Secret | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        **_more: Any,
    ) -> dict[str, Any]:
        assert token is not None
        self.asked.append((method, path.removeprefix("/"), token.reveal(), body, headers))
        return ANSWER


async def _create(client: VaultClient, token: Secret | None) -> None:
    await client.create(ASKER, "orders", token, seconds=9, meta={"a": "b"})


def _created(api: Any, token: Secret | None) -> Awaitable[object]:
    asked: Awaitable[object] = api(ASKER).create(
        id=None if token is None else token.reveal(),
        role_name="orders",
        meta={"a": "b"},
        renewable=False,
        no_default_policy=True,
        ttl="9s",
        explicit_max_ttl="9s",
        display_name="stepcred",
    )
    return asked


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda client: _create(client, TOKEN), lambda api: _created(api, TOKEN)),
        (lambda client: _create(client, None), lambda api: _created(api, None)),
        (lambda client: client.lookup(ASKER, TOKEN), lambda api: api(ASKER).lookup("token")),
        (lambda client: client.revoke_self(TOKEN), lambda api: api(TOKEN).revoke_self()),
    ],
    ids=["create", "create-unnamed", "lookup", "revoke-self"],
)
async def test_it_asks_what_hvac_would_ask(
    ours: Callable[[VaultClient], Awaitable[object]], theirs: Callable[[Any], Awaitable[object]]
) -> None:
    told = Told()
    await ours(VaultClient(told))
    await theirs(lambda token: Token(TokenAdapter(told, token)))
    mine, other = told.asked
    assert mine == other
