"""What keeps the broker from minting and ending, found without minting: its rights, and the shape of token roles.

A role that cannot revoke its own tokens, or whose secrets the broker may not revoke, mints well and never ends:
that must show before the first lease, not after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from broker.providers.base import DeclaredScope
from broker.providers.vault import answers
from broker.providers.vault.client import NOT_FOUND, VaultClient
from broker.providers.vault.scope import VaultBlock
from broker.providers.vault.settings import AppRole, VaultSettings
from broker.providers.vault.tokens import rehearse
from broker.providers.vault.transport import VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

STEP_SELF = "step-self"  # the policy with which a step's token ends itself


class Rights:
    """Asks as the broker. Texts name what is missing and where."""

    def __init__(self, client: VaultClient, settings: VaultSettings) -> None:
        self._client = client
        self._settings = settings

    async def problems(self, asker: Secret, scopes: Iterable[DeclaredScope]) -> list[str]:
        """Every one; empty when all of these scopes can be minted and ended."""
        longest: dict[str, timedelta] = {}
        leased = set()
        for scope in scopes:
            block = VaultBlock.model_validate(dict(scope.block))
            longest[block.role] = max(scope.ttl, longest.get(block.role, scope.ttl))
            leased |= {block.leased_under} if block.leased_under else set()
        found = await self.tomb(asker)
        try:
            found = found or await self._tomb_faults(asker)
            found += await self._step_self(asker)
            for role, ttl in sorted(longest.items()):
                found += await self._role(asker, role, ttl)
            found += await self._capabilities(asker, sorted(leased))
        except (VaultUnreachable, VaultLost, VaultRefused) as error:
            found.append(f"vault: {error}")
        return found

    async def tomb(self, asker: Secret) -> list[str]:
        """What keeps a mint in doubt from being settled."""
        try:
            problem = await rehearse(self._client, asker, self._settings.tomb_role)
        except (VaultUnreachable, VaultLost) as error:
            problem = f"vault: {error}"
        return [problem] if problem else []

    async def _role(self, asker: Secret, name: str, ttl: timedelta) -> list[str]:
        refused = await rehearse(self._client, asker, name)
        role = await self._look(asker, name)
        if isinstance(role, str):
            return [refused or role]
        # The fault in words first: to a rehearsal the server may only have answered 400.
        return [f"vault role {name}: {fault}" for fault in _faults(role, ttl)] or [refused] * bool(refused)

    async def _tomb_faults(self, asker: Secret) -> list[str]:
        name = self._settings.tomb_role
        role = await self._look(asker, name)
        return [role] if isinstance(role, str) else [f"vault role {name}: {fault}" for fault in _policy_faults(role)]

    async def _step_self(self, asker: Secret) -> list[str]:
        """Servers take names of policies that do not exist: such tokens mint well and can never be revoked."""
        path = f"sys/policies/acl/{STEP_SELF}"
        try:
            text = await self._client.policy(asker, STEP_SELF)
        except VaultRefused as error:
            if error.status == NOT_FOUND:
                return [f"vault policy {STEP_SELF}: does not exist; without it no token can be revoked"]
            if answers.is_exactly(error, (403, answers.NO_CAPABILITY)):
                return [f"vault policy {STEP_SELF}: cannot be looked at; give the broker's policy read on {path}"]
            raise
        fine = "auth/token/revoke-self" in text
        return [] if fine else [f"vault policy {STEP_SELF}: must give update on auth/token/revoke-self"]

    async def _look(self, asker: Secret, name: str) -> dict[str, Any] | str:
        try:
            return await self._client.token_role(asker, name)
        except VaultRefused as error:
            if error.status == NOT_FOUND:
                return f"vault role {name}: does not exist; create it at auth/token/roles/{name}"
            if answers.is_exactly(error, (403, answers.NO_CAPABILITY)):
                return (
                    f"vault role {name}: cannot be looked at; give the broker's policy read on auth/token/roles/{name}"
                )
            raise

    async def _capabilities(self, asker: Secret, leased: Iterable[str]) -> list[str]:
        needed = {"auth/token/lookup": {"update"}}
        if isinstance(self._settings.auth, AppRole):
            needed["auth/token/renew-self"] = {"update"}
        for read in leased:
            needed["sys/leases/lookup"] = {"update"}
            needed[f"sys/leases/revoke/{read}/*"] = {"update"}
            needed[f"sys/leases/lookup/{read}/"] = {"list", "sudo"}
        try:
            held = await self._client.capabilities_self(asker, [path.replace("*", "x") for path in needed])
        except VaultRefused as error:
            if not answers.is_exactly(error, (403, answers.NO_CAPABILITY)):
                raise
            needed, held = {"sys/capabilities-self": {"update"}}, {}
        missing = {path: rights - set(held.get(path.replace("*", "x")) or ()) for path, rights in needed.items()}
        return [
            f"vault policy of the broker: give it {' and '.join(sorted(rights))} on {path}"
            for path, rights in missing.items()
            if rights and "root" not in (held.get(path.replace("*", "x")) or ())
        ]


def _policy_faults(role: Mapping[str, Any]) -> list[str]:
    policies = role.get("allowed_policies") or []
    if not policies:
        return ["has no allowed_policies, so its tokens would get the broker's own"]
    return ["gives the root policy"] if "root" in policies else []


def _faults(role: Mapping[str, Any], ttl: timedelta) -> list[str]:
    found = _policy_faults(role)
    if STEP_SELF not in (role.get("allowed_policies") or []):
        found.append(f"allowed_policies lacks {STEP_SELF}, without which its tokens cannot be revoked")
    if not role.get("orphan"):
        found.append("needs orphan=true, or its tokens die with the broker's login")
    if role.get("token_type") not in ("service", "default-service"):
        found.append("needs token_type=service: batch tokens cannot be revoked")
    maximum = role.get("token_explicit_max_ttl") or role.get("explicit_max_ttl") or 0
    if 0 < maximum < ttl.total_seconds():
        found.append(f"token_explicit_max_ttl is {maximum:g} s, and a scope's ttl {ttl.total_seconds():g} s")
    return found
