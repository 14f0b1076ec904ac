"""What a scope map needs at the server: the broker's own rights, and some that it must not have.

`check --live` asks for these and `scopes provision` prints them: one list, so that what is installed is what is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from broker.providers.base import DeclaredScope
from broker.providers.vault.scope import STEP_SELF, Kind, VaultBlock

NO_SUCH = "stepcred-no-such"  # stands for whatever is not the broker's

UPDATE, READ = frozenset({"update"}), frozenset({"read"})
CHANGES = frozenset({"create", "update", "patch", "delete", "sudo"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """Of a map's scopes. `chooses_ids`: the broker names the tokens; False in a namespace."""

    blocks: tuple[VaultBlock, ...]
    longest: Mapping[str, timedelta]  # token role → the longest ttl of its scopes
    engines: Mapping[str, tuple[VaultBlock, timedelta]]  # <mount>/roles/<name> of a pki or ssh engine
    tomb_role: str
    chooses_ids: bool
    renews: bool  # the broker's own login
    logs_in: bool  # with a token of its own, which it gives back
    broker_policies: tuple[str, ...]

    @property
    def leased_under(self) -> list[str]:
        """Where leased secrets are listed and revoked."""
        return sorted({block.leased_under for block in self.blocks} - {""})

    @property
    def token_roles(self) -> list[str]:
        """Those of the scopes, then the tomb."""
        return [*sorted(self.longest), *([self.tomb_role] if self.chooses_ids else [])]

    @property
    def bare(self) -> set[str]:
        """Roles whose tokens are handed out themselves: what they may do is in no map."""
        return {block.role for block in self.blocks if block.kind is Kind.TOKEN}

    @property
    def mounts(self) -> set[str]:
        """Of X.509 certificates: what promises them depends on their revocation lists."""
        return {block.write.mount for block in self.blocks if block.write and block.kind is Kind.X509}

    def rights(self) -> dict[str, frozenset[str]]:
        """Path → capabilities of the broker's policy: it reads no secret, and ends no token of others."""
        create = UPDATE | ({"sudo"} if self.chooses_ids else set())  # sudo: custom token ids
        found = {f"auth/token/create/{role}": create for role in self.token_roles}
        ends = (
            ["auth/token/lookup"] if self.chooses_ids else ["auth/token/lookup-accessor", "auth/token/revoke-accessor"]
        )
        own = ["auth/token/renew-self"] * self.renews + ["auth/token/revoke-self"] * self.logs_in
        found |= dict.fromkeys([*ends, *own], UPDATE)
        for path in self.leased_under:
            found["sys/leases/lookup"] = UPDATE
            found[f"sys/leases/lookup/{path}/"] = frozenset({"list", "sudo"})
            found[f"sys/leases/revoke/{path}/*"] = UPDATE
        looks = [f"auth/token/roles/{role}" for role in self.token_roles]
        looks += [f"{mount}/config/crl" for mount in sorted(self.mounts)]
        policies = [*([STEP_SELF] if self.chooses_ids else []), *sorted(self.bare), *self.broker_policies]
        looks += ["auth/token/lookup-self", *(f"sys/policies/acl/{name}" for name in policies)]
        return found | dict.fromkeys([*looks, *sorted(self.engines)], READ) | {"sys/capabilities-self": UPDATE}

    def forbidden(self) -> dict[str, frozenset[str]]:
        """Path → capabilities that the broker must not have, asked for by name.

        A second net: it also holds what comes from a policy that the broker may not read.
        """
        found = [
            *("auth/token/create", "auth/token/create-orphan", f"auth/token/create/{NO_SUCH}"),
            *("auth/token/revoke", "auth/token/revoke-orphan"),
            *("sys/leases/revoke", f"sys/leases/revoke/{NO_SUCH}/creds/x/y"),
            *(f"sys/leases/revoke-{how}/{NO_SUCH}" for how in ("prefix", "force")),
            *(f"auth/token/roles/{role}" for role in [NO_SUCH, *self.token_roles]),
            *(
                f"sys/policies/acl/{name}"
                for name in [NO_SUCH, STEP_SELF, *sorted(self.longest), *self.broker_policies]
            ),
        ]
        more = {}
        if self.chooses_ids:
            found.append("auth/token/revoke-accessor")
            more["auth/token/accessors/"] = CHANGES | {"list"}
        return dict.fromkeys(found, CHANGES) | more


def needs_of(
    scopes: Iterable[DeclaredScope],
    *,
    tomb_role: str,
    chooses_ids: bool,
    renews: bool,
    logs_in: bool,
    broker_policies: Iterable[str],
) -> Needs:
    """Blocks must be good ones, templates not filled."""
    blocks: list[VaultBlock] = []
    longest: dict[str, timedelta] = {}
    engines: dict[str, tuple[VaultBlock, timedelta]] = {}
    for scope in scopes:
        block = VaultBlock.model_validate(dict(scope.block))
        blocks.append(block)
        longest[block.role] = max(scope.ttl, longest.get(block.role, scope.ttl))
        if block.write:
            path = f"{block.write.mount}/roles/{block.write.name}"
            engines[path] = (block, max(scope.ttl, engines.get(path, (block, scope.ttl))[1]))
    return Needs(
        blocks=tuple(blocks),
        longest=longest,
        engines=engines,
        tomb_role=tomb_role,
        chooses_ids=chooses_ids,
        renews=renews,
        logs_in=logs_in,
        broker_policies=tuple(broker_policies),
    )
