"""What keeps the broker from minting and ending, found without minting: its rights, and the shape of roles.

A role that cannot revoke its own tokens, or whose secrets the broker may not revoke, mints well and never ends:
that must show before the first lease, not after it. So must a right that is wider than the job.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from broker.providers.base import DeclaredScope, Findings
from broker.providers.vault import answers, engines, excess, roles
from broker.providers.vault.client import NOT_FOUND, VaultClient
from broker.providers.vault.needs import READ, Needs, needs_of
from broker.providers.vault.policies import Rules, Unreadable, differences, meet, merged, parse
from broker.providers.vault.provision import SELF, TokenRole, clashes, plan_of
from broker.providers.vault.scope import STEP_SELF
from broker.providers.vault.settings import TokenFile, VaultSettings
from broker.providers.vault.tokens import rehearse
from broker.providers.vault.transport import VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

ROOT = "vault: the broker's token has the root policy; give it a policy of its own (scopes provision)"
ASKS = "sys/capabilities-self"
# Secrets with a lease of their own: of a database, RabbitMQ, and certificates.
LEASED = ("+/creds/*", "+/+/creds/*", "+/issue/*")


class Rights:
    """Asks as the broker. Texts name what is missing, or too much, and where."""

    def __init__(self, client: VaultClient, settings: VaultSettings) -> None:
        self._client = client
        self._settings = settings

    async def problems(self, asker: Secret, scopes: Iterable[DeclaredScope]) -> Findings:
        """Every one; empty when all of these scopes can be minted and ended, and nothing else."""
        found = Findings(await self.tomb(asker))
        no_tomb = bool(found)
        try:
            held = await self._held_policies(asker, found)
            if "root" in held:
                found[:], found.remedy = [ROOT], self._remedy(())
                return found
            needs = needs_of(
                scopes,
                tomb_role=self._settings.tomb_role,
                chooses_ids=self._settings.chooses_ids,
                renews=self._settings.renews_login,
                logs_in=not isinstance(self._settings.auth, TokenFile),
                broker_policies=held,
            )
            found += clashes(replace(needs, broker_policies=tuple(set(held) - {"default"})))
            await self._look_at_all(asker, needs, found, no_tomb=no_tomb)
        except (VaultUnreachable, VaultLost, VaultRefused) as error:
            found.append(f"vault: {error}")
        else:
            found.remedy = self._remedy(held) if found else ""
            found.remarks += await self._untested()
        return found

    async def _untested(self) -> list[str]:
        try:
            version = await self._client.version()
        except (VaultUnreachable, VaultLost, VaultRefused):
            return []
        if version in answers.TESTED:
            return []
        tested = ", ".join(answers.TESTED)
        return [
            f"vault: exact answers were tested with {tested}, not with {version or 'this one'}: others make leases wait"
        ]

    async def tomb(self, asker: Secret) -> list[str]:
        """What keeps a mint in doubt from being settled."""
        if not self._settings.chooses_ids:
            return []
        try:
            problem = await rehearse(self._client, asker, self._settings.tomb_role)
        except (VaultUnreachable, VaultLost) as error:
            problem = f"vault: {error}"
        return [problem] if problem else []

    async def _look_at_all(self, asker: Secret, needs: Needs, found: Findings, *, no_tomb: bool) -> None:
        """Whatever the broker may not look at is named as missing, and not looked at."""
        rights, wide = await self._capabilities(asker, needs)
        missing = set(rights)
        if no_tomb:
            rights.pop(f"auth/token/create/{needs.tomb_role}", None)
        found += rights.values()
        if ASKS in missing:
            return
        found += await self._excess(asker, needs, missing, wide)
        if needs.chooses_ids and f"sys/policies/acl/{STEP_SELF}" not in missing:
            found += await self._step_self(asker)
        for role in plan_of(needs).roles:
            if not missing & {f"auth/token/create/{role.name}", f"auth/token/roles/{role.name}"} and not (
                no_tomb and role.name == needs.tomb_role
            ):
                await self._role(asker, role, needs, found)
        found += await self._engines(asker, needs, missing)

    async def _held_policies(self, asker: Secret, found: Findings) -> tuple[str, ...]:
        """Names of those that the broker's token has; none when it may not look at itself, which is named later."""
        try:
            seen = await self._client.lookup_self(asker)
        except VaultRefused as error:
            if not answers.is_exactly(error, (403, answers.NO_CAPABILITY)):
                raise
            return ()
        names = [*(seen.get("policies") or ()), *(seen.get("identity_policies") or ())]
        if seen.get("external_namespace_policies"):
            found.append("vault: the broker has policies of another namespace, which cannot be read in this one")
        return tuple(dict.fromkeys(str(name) for name in names))

    async def _capabilities(self, asker: Secret, needs: Needs) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
        """Path → what to give there; and path → what the broker may do where it must not."""
        rights, forbidden = needs.rights(), needs.forbidden()
        asked = sorted({_example(path) for path in [*rights, *forbidden]})
        try:
            held = await self._client.capabilities_self(asker, asked)
        except VaultRefused as error:
            if not answers.is_exactly(error, (403, answers.NO_CAPABILITY)):
                raise
            return {ASKS: _give({"update"}, ASKS)}, {}
        missing = {
            path: _give(lacks, path)
            for path, wanted in rights.items()
            if (lacks := wanted - set(held.get(_example(path)) or ()))
        }
        if "default" in needs.broker_policies and (path := "sys/policies/acl/default") in missing:
            missing[path] += ", or log it in without that policy (token_no_default_policy=true)"
        wide = {path: rights & set(held.get(path) or ()) for path, rights in forbidden.items()}
        return missing, {path: rights for path, rights in wide.items() if rights}

    async def _excess(
        self, asker: Secret, needs: Needs, missing: set[str], asked: Mapping[str, frozenset[str]]
    ) -> list[str]:
        """Every path of its policies that gives more than is needed; then what only asking has shown."""
        found, lines = [], {}
        for name in needs.broker_policies:
            if f"sys/policies/acl/{name}" in missing:
                continue
            try:
                lines[name] = await self._rules(asker, name) or {}
            except Unreadable as why:
                found.append(f"vault policy {name}: cannot be judged: {why}; see what scopes provision prints")
        rights = needs.rights()
        looks = {f"sys/policies/acl/{role}": READ for role in needs.longest}  # a policy holds no secret
        allowed = merged([*rights.items(), *excess.SELF_SERVICE.items(), *looks.items()])
        extra = dict(excess.excess(merged(pair for rules in lines.values() for pair in rules.items()), allowed))
        for path, more in extra.items():
            names = [name for name, rules in lines.items() if more & rules.get(path, frozenset())]
            found.append(f"vault policy {', '.join(names)}: {excess.told(path, more, rights)}")
        for path, more in asked.items():
            if not excess.explained(path, more, extra):
                found.append(f"vault policy of the broker: {excess.told(path, more, rights)}")
        return found

    async def _role(self, asker: Secret, wanted: TokenRole, needs: Needs, found: Findings) -> None:
        refused = await rehearse(self._client, asker, wanted.name) if needs.chooses_ids else ""
        role = await self._look(asker, f"auth/token/roles/{wanted.name}")
        if role is None:
            found.append(f"vault role {wanted.name}: does not exist; create it at auth/token/roles/{wanted.name}")
            return
        # The fault in words first: to a rehearsal the server may only have answered 400.
        faults = roles.faults(wanted, role, never=needs.broker_policies)
        found += [f"vault role {wanted.name}: {fault}" for fault in faults] or [refused] * bool(refused)
        if not faults and (given := roles.others(wanted, role)):
            found.remarks.append(f"vault role {wanted.name}: its tokens have the policy {', '.join(given)}")
        if wanted.name in needs.bare:
            for name in role.get("allowed_policies") or ():
                found.remarks += await self._in_flight(asker, wanted.name, name)

    async def _in_flight(self, asker: Secret, role: str, policy: str) -> list[str]:
        """A login that the step itself is reading while its token is revoked outlives it (measured)."""
        try:
            rules = await self._rules(asker, policy) or {}
        except (VaultRefused, Unreadable):
            return []
        may = [
            path
            for path, rights in sorted(rules.items())
            if rights & {"read", "create", "update"} and any(meet(path, leased) for leased in LEASED)
        ]
        return [
            f"vault role {role}: its tokens may fetch {path} themselves, and a login that is on its way while the token"
            " is revoked can outlive it; let the broker fetch it, with read: or write:"
            for path in may
        ]

    async def _step_self(self, asker: Secret) -> list[str]:
        """Servers take names of policies that do not exist: such tokens mint well and can never be revoked."""
        try:
            rules = await self._rules(asker, STEP_SELF)
        except Unreadable as why:
            return [f"vault policy {STEP_SELF}: cannot be judged: {why}; see what scopes provision prints"]
        if rules is None:
            return [f"vault policy {STEP_SELF}: does not exist; without it no token can be revoked"]
        return [f"vault policy {STEP_SELF}: {line}" for line in differences(SELF, rules)]

    async def _engines(self, asker: Secret, needs: Needs, missing: set[str]) -> list[str]:
        found = []
        for path, (block, ttl) in sorted(needs.engines.items()):
            if path not in missing:
                role = await self._look(asker, path)
                faults = ["does not exist"] if role is None else engines.role_faults(role, block.kind, ttl)
                found += [f"vault {path}: {fault}" for fault in faults]
        for mount in sorted(needs.mounts):
            if (path := f"{mount}/config/crl") not in missing:
                held = await self._look(asker, path) or {}
                found += [f"vault {path}: {fault}" for fault in engines.list_faults(held)]
        return found

    async def _rules(self, asker: Secret, name: str) -> Rules | None:
        """None when there is no such policy. Raises Unreadable."""
        try:
            return parse(await self._client.policy(asker, name))
        except VaultUnreachable:  # a name that is no safe path
            raise Unreadable("it cannot be read here") from None
        except VaultRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def _look(self, asker: Secret, path: str) -> dict[str, Any] | None:
        try:
            return await self._client.settings_at(asker, path)
        except VaultRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _remedy(self, held: Iterable[str]) -> str:
        """The command that prints what to install; `{map}` stands for the scope map's file."""
        own = [name for name in held if name != "default"]
        settings = self._settings
        said = {"namespace": settings.namespace, "tomb-role": settings.tomb_role, "broker-policy": "".join(own[:1])}
        usual = {"namespace": "", "tomb-role": "stepcred-tomb", "broker-policy": "stepcred-broker"}
        options = [f" --{name} {shlex.quote(value)}" for name, value in said.items() if value and value != usual[name]]
        return f"stepcred-broker scopes provision {{map}}{''.join(options)} --format sh"


def _example(path: str) -> str:
    return path.replace("*", "x")


def _give(rights: Iterable[str], path: str) -> str:
    return f"vault policy of the broker: give it {' and '.join(sorted(rights))} on {path}"
