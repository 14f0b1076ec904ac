"""What keeps the broker from minting and ending, found without minting: its rights, and the shape of roles.

A role that cannot revoke its own tokens, or whose secrets the broker may not revoke, mints well and never ends:
that must show before the first lease, not after it. So must a right that is wider than the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from broker.providers.base import DeclaredScope
from broker.providers.vault import answers
from broker.providers.vault.client import NOT_FOUND, VaultClient
from broker.providers.vault.needs import STEP_SELF, Needs, needs_of
from broker.providers.vault.scope import Kind, VaultBlock
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.tokens import rehearse
from broker.providers.vault.transport import VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret


class Rights:
    """Asks as the broker. Texts name what is missing, or too much, and where."""

    def __init__(self, client: VaultClient, settings: VaultSettings) -> None:
        self._client = client
        self._settings = settings

    async def problems(self, asker: Secret, scopes: Iterable[DeclaredScope]) -> list[str]:
        """Every one; empty when all of these scopes can be minted and ended, and nothing else."""
        settings = self._settings
        needs = needs_of(
            scopes, tomb_role=settings.tomb_role, chooses_ids=settings.chooses_ids, renews=settings.renews_login
        )
        found = await self.tomb(asker)
        try:
            missing = await self._capabilities(asker, needs)
            if found:
                missing.pop(f"auth/token/create/{settings.tomb_role}", None)
            found += [text for text in missing.values() if text]
            if settings.chooses_ids and not found:
                found += await self._tomb_faults(asker)
            if settings.chooses_ids and f"sys/policies/acl/{STEP_SELF}" not in missing:
                found += await self._step_self(asker)
            for role, ttl in sorted(needs.longest.items()):
                if not missing.keys() & {f"auth/token/create/{role}", f"auth/token/roles/{role}"}:
                    found += await self._role(asker, role, ttl)
            for path, (block, ttl) in sorted(needs.engines.items()):
                if path not in missing:
                    found += await self._engine(asker, path, block, ttl)
        except (VaultUnreachable, VaultLost, VaultRefused) as error:
            found.append(f"vault: {error}")
        return found

    async def tomb(self, asker: Secret) -> list[str]:
        """What keeps a mint in doubt from being settled."""
        if not self._settings.chooses_ids:
            return []
        try:
            problem = await rehearse(self._client, asker, self._settings.tomb_role)
        except (VaultUnreachable, VaultLost) as error:
            problem = f"vault: {error}"
        return [problem] if problem else []

    async def _capabilities(self, asker: Secret, needs: Needs) -> dict[str, str]:
        """Path → what is wrong with the broker's right there."""
        rights, excesses = needs.rights(), needs.excesses()
        asked = sorted({_example(path) for path in [*rights, *excesses]})
        try:
            held = await self._client.capabilities_self(asker, asked)
        except VaultRefused as error:
            if not answers.is_exactly(error, (403, answers.NO_CAPABILITY)):
                raise
            return {"sys/capabilities-self": _give({"update"}, "sys/capabilities-self")}
        if any("root" in (held.get(path) or ()) for path in asked):
            return {"": "vault: the broker's token has the root policy; give it a policy of its own (scopes provision)"}
        found = {}
        for path, wanted in rights.items():
            if lacks := wanted - set(held.get(_example(path)) or ()):
                found[path] = _give(lacks, path)
        for path, (forbidden, could) in excesses.items():
            if wide := forbidden & set(held.get(path) or ()):
                found[path] = (
                    f"vault policy of the broker: too wide: {_and(wide)} on {path}, with which it could {could}"
                )
        return found

    async def _role(self, asker: Secret, name: str, ttl: timedelta) -> list[str]:
        refused = await rehearse(self._client, asker, name) if self._settings.chooses_ids else ""
        role = await self._look(asker, f"auth/token/roles/{name}")
        if role is None:
            return [f"vault role {name}: does not exist; create it at auth/token/roles/{name}"]
        # The fault in words first: to a rehearsal the server may only have answered 400.
        faults = _faults(role, ttl, self_ending=self._settings.chooses_ids)
        return [f"vault role {name}: {fault}" for fault in faults] or [refused] * bool(refused)

    async def _tomb_faults(self, asker: Secret) -> list[str]:
        name = self._settings.tomb_role
        role = await self._look(asker, f"auth/token/roles/{name}")
        return [f"vault role {name}: {fault}" for fault in _policy_faults(role or {})]

    async def _step_self(self, asker: Secret) -> list[str]:
        """Servers take names of policies that do not exist: such tokens mint well and can never be revoked."""
        try:
            text = await self._client.policy(asker, STEP_SELF)
        except VaultRefused as error:
            if error.status == NOT_FOUND:
                return [f"vault policy {STEP_SELF}: does not exist; without it no token can be revoked"]
            raise
        fine = "auth/token/revoke-self" in text
        return [] if fine else [f"vault policy {STEP_SELF}: must give update on auth/token/revoke-self"]

    async def _engine(self, asker: Secret, path: str, block: VaultBlock, ttl: timedelta) -> list[str]:
        role = await self._look(asker, path)
        if role is None:
            return [f"vault {path}: does not exist"]
        return [f"vault {path}: {fault}" for fault in _engine_faults(role, block.kind, ttl)]

    async def _look(self, asker: Secret, path: str) -> dict[str, Any] | None:
        try:
            return await self._client.settings_at(asker, path)
        except VaultRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise


def _example(path: str) -> str:
    return path.replace("*", "x")


def _give(rights: Iterable[str], path: str) -> str:
    return f"vault policy of the broker: give it {_and(rights)} on {path}"


def _and(words: Iterable[str]) -> str:
    return " and ".join(sorted(words))


def _policy_faults(role: Mapping[str, Any]) -> list[str]:
    policies = role.get("allowed_policies") or []
    found = [] if policies else ["has no allowed_policies, so its tokens would get the broker's own"]
    if "root" in policies:
        found.append("gives the root policy")
    if role.get("allowed_policies_glob"):
        found.append("has allowed_policies_glob, with which whoever mints chooses the policy; name each one")
    return found


def _faults(role: Mapping[str, Any], ttl: timedelta, *, self_ending: bool) -> list[str]:
    found = _policy_faults(role)
    if self_ending and STEP_SELF not in (role.get("allowed_policies") or []):
        found.append(f"allowed_policies lacks {STEP_SELF}, without which its tokens cannot be revoked")
    if not role.get("orphan"):
        found.append("needs orphan=true, or its tokens die with the broker's login")
    if role.get("token_type") not in ("service", "default-service"):
        found.append("needs token_type=service: batch tokens cannot be revoked")
    maximum = role.get("token_explicit_max_ttl") or role.get("explicit_max_ttl") or 0
    if 0 < maximum < ttl.total_seconds():
        found.append(f"token_explicit_max_ttl is {maximum:g} s, and a scope's ttl {ttl.total_seconds():g} s")
    return found


def _engine_faults(role: Mapping[str, Any], kind: Kind, ttl: timedelta) -> list[str]:
    found = []
    if kind is Kind.X509 and "generate_lease" not in role:
        found.append("is no pki role; for ssh keys use input: public_key")
    elif kind is Kind.X509 and not role["generate_lease"]:
        found.append("needs generate_lease=true, or its certificates cannot be revoked")
    if kind is Kind.SSH and role.get("key_type") != "ca":
        found.append("is no ssh role with key_type=ca; for X.509 use input: csr")
    if 0 < (maximum := role.get("max_ttl") or 0) < ttl.total_seconds():
        found.append(f"max_ttl is {maximum:g} s, and a scope's ttl {ttl.total_seconds():g} s")
    return found
