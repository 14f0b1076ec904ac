"""Mints stand-ins, and ends them: with the evidence that the real provider would have, at once."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from broker.model import Evidence, JsonValue, Revocability
from broker.providers.base import (
    Contact,
    LeaseRef,
    Minted,
    MintInDoubt,
    MintOrder,
    MintRefused,
    Progress,
    ProviderError,
    Settlement,
)
from broker.providers.dev.backend import Backend, Failure
from broker.providers.dev.stand_ins import Wanted, make, secrets_of, wanted
from broker.providers.vault.credentials import CSR_HEADS

_EVIDENCE = {
    Revocability.EXACT: Evidence.SEEN_DEAD,
    Revocability.DENY_POLICY: Evidence.PROBE_DENIED,
    Revocability.PUBLISHED: Evidence.PUBLISHED,
    Revocability.EXPIRY_ONLY: Evidence.EXPIRED,
    Revocability.STATIC: Evidence.ACCESS_ENDED,
}


class DevProvider:
    """`Provider`, `SettlesDoubt` and `TakesInput`, in the place of the provider that `name` says."""

    landing_seconds = 0.0  # nothing is under way

    def __init__(self, name: str, backend: Backend) -> None:
        self.name = name
        self._backend = backend

    def input_problem(self, params: Mapping[str, JsonValue], public_input: str) -> str:
        """As of the real one."""
        try:
            needs = wanted(self.name, params).needs
        except ValidationError:
            return ""
        if not needs:
            return "the scope takes no public_key or csr" if public_input else ""
        if needs == "csr":
            return "" if public_input.startswith(CSR_HEADS) else "the scope needs a csr in PEM form"
        return "" if public_input.strip() else "the scope needs an OpenSSH public_key"

    async def mint(self, order: MintOrder) -> Minted:
        """At once, or it fails as it was told to."""
        backend, ref = self._backend, order.ref
        try:
            asked = wanted(self.name, ref.params)
        except ValidationError:
            raise MintRefused(f"the scope's {self.name} block is not valid") from None
        if asked.fail == Failure.REFUSED.value or backend.fails(ref.scope, Failure.REFUSED):
            raise MintRefused("the dev broker was told to refuse this mint")
        minted = self._make(order, asked)
        if asked.fail == Failure.LOST.value or backend.fails(ref.scope, Failure.LOST):
            raise MintInDoubt("the dev broker was told to lose this answer")
        return minted

    def _make(self, order: MintOrder, asked: Wanted) -> Minted:
        own = self._backend.values.get(order.ref.scope, {})
        try:
            credential = make(asked, order.ref, own, order.public_input, self._backend.now())
        except ValueError as error:
            raise MintRefused(f"no stand-in can be made: {error}") from None
        self._backend.land(order.ref, secrets_of(credential))
        return Minted(credential=credential)

    async def revoke(self, ref: LeaseRef) -> Progress:
        """What ends by time alone lives on until then."""
        if self._backend.fails(ref.scope, Failure.REVOKE):
            raise ProviderError("the dev broker was told not to end this", Contact.FAILED)
        if ref.revocability is Revocability.EXPIRY_ONLY and self._backend.lives(ref.lease_id):
            return Progress(step="only its time ends it")
        self._backend.kill(ref.lease_id)
        return Progress(evidence=_EVIDENCE[ref.revocability])

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        """Asks whoever would let it in."""
        return None if self._backend.lives(ref.lease_id) else _EVIDENCE[ref.revocability]

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        """Whether it landed is known for sure."""
        found = ref.found or self._backend.lives(ref.lease_id)
        if found and not ref.found:
            return Settlement(found=True)
        self._backend.kill(ref.lease_id)
        evidence = Evidence.SEEN_DEAD if found else Evidence.NOT_MINTED
        return Settlement(found=found, evidence=evidence if final else None)

    async def check(self) -> list[str]:
        """Nothing keeps it from minting."""
        return []

    async def close(self) -> None:
        """There is nothing to give back."""
