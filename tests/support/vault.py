"""What the tests of the Vault provider share: a provider on a real server, and leases to mint."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from broker.clock import SystemClock
from broker.keyring import Keyring
from broker.model import JsonValue, Revocability
from broker.providers.base import LeaseRef, MintOrder, Settlement
from broker.providers.vault.kind import VaultScope
from broker.providers.vault.names import token_id
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import AppRole, VaultSettings
from tests.support.bao import BrokerLogin

KEYRING = Keyring({"k1": bytes(32)}, "k1")
INSTALLATION = "test-installation"


def new_ref(params: Mapping[str, JsonValue], *, seconds: float = 300, ago: float = 0) -> LeaseRef:
    """A fresh lease; `ago` seconds lie between its intent and now."""
    now = SystemClock().now()
    return LeaseRef(
        lease_id=f"0{secrets.token_hex(8)[1:]}",  # of no daemon's form: a recovery elsewhere on this server is not told
        agent="spiffe://test.internal/workflow/w/step/s",
        nonce=secrets.token_bytes(16),
        kid="k1",
        params=params,
        refs={},
        revocability=Revocability.EXACT if VaultScope().validate(params) else VaultScope().revocability(params),
        intent_at=now - timedelta(seconds=ago),
        expires_at=now + timedelta(seconds=seconds),
        epoch=1,
    )


@dataclass
class Notes:
    """A row's refs, as the engine would keep them."""

    refs: dict[str, Any] = field(default_factory=dict)

    async def note(self, refs: Mapping[str, JsonValue]) -> None:
        self.refs.update(refs)


def order_of(ref: LeaseRef, notes: Notes | None = None, *, public_input: str = "") -> MintOrder:
    return MintOrder(
        ref=ref,
        workflow="w",
        run="r",
        step="s",
        note=(notes or Notes()).note,
        public_input=public_input,
    )


def with_refs(ref: LeaseRef, refs: Mapping[str, JsonValue]) -> LeaseRef:
    """The lease as a later read of its row gives it."""
    return replace(ref, refs={**ref.refs, **refs})


async def settled(provider: VaultProvider, ref: LeaseRef, *, final: bool = True) -> Settlement:
    """As the engine does it: what is found is put on record, and then killed."""
    told = await provider.settle(ref, final=final)
    if told.found and not ref.found:
        told = await provider.settle(as_recorded(ref, told), final=final)
    return told


def as_recorded(ref: LeaseRef, told: Settlement) -> LeaseRef:
    """The lease as a later read of its row gives it, after an attempt to settle it."""
    return replace(with_refs(ref, told.refs), found=ref.found or told.found)


def token_name(ref: LeaseRef) -> str:
    return token_id(KEYRING, INSTALLATION, ref).reveal()


@contextlib.asynccontextmanager
async def vault_provider(address: str, login: BrokerLogin, **settings: Any) -> AsyncIterator[VaultProvider]:
    """Closed at the end."""
    settings.setdefault("auth", AppRole(role_id=login.role_id, secret_id_file=login.secret_id_file))
    known = settings.pop("known", frozenset)  # ids that live leases name
    clock = settings.pop("clock", SystemClock())

    async def knows() -> frozenset[str]:
        return frozenset(known())

    provider = VaultProvider(VaultSettings(address=address, **settings), KEYRING, INSTALLATION, clock, known=knows)
    try:
        yield provider
    finally:
        await provider.close()
