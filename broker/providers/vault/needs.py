"""What a scope map needs at the server: the broker's own rights, and what they must not be.

`check --live` asks for these and `scopes provision` prints them: one list, so that what is installed is what is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from broker.providers.base import DeclaredScope
from broker.providers.vault.scope import VaultBlock

STEP_SELF = "step-self"  # the policy with which a step's token ends itself
TOMB_POLICY = "stepcred-nothing"
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

    @property
    def leased_under(self) -> list[str]:
        """Where leased secrets are listed and revoked."""
        return sorted({block.leased_under for block in self.blocks} - {""})

    @property
    def token_roles(self) -> list[str]:
        """Those of the scopes, then the tomb."""
        return [*sorted(self.longest), *([self.tomb_role] if self.chooses_ids else [])]

    def rights(self) -> dict[str, frozenset[str]]:
        """Path → capabilities of the broker's policy: it reads no secret, and ends no token of others."""
        create = UPDATE | ({"sudo"} if self.chooses_ids else set())  # sudo: custom token ids
        found = {f"auth/token/create/{role}": create for role in self.token_roles}
        ends = (
            ["auth/token/lookup"] if self.chooses_ids else ["auth/token/lookup-accessor", "auth/token/revoke-accessor"]
        )
        found |= dict.fromkeys([*ends, *(["auth/token/renew-self"] if self.renews else [])], UPDATE)
        for path in self.leased_under:
            found["sys/leases/lookup"] = UPDATE
            found[f"sys/leases/lookup/{path}/"] = frozenset({"list", "sudo"})
            found[f"sys/leases/revoke/{path}/*"] = UPDATE
        looks = [f"auth/token/roles/{role}" for role in self.token_roles]
        looks += [f"sys/policies/acl/{STEP_SELF}"] if self.chooses_ids else []
        return found | dict.fromkeys([*looks, *sorted(self.engines)], READ) | {"sys/capabilities-self": UPDATE}

    def excesses(self) -> dict[str, tuple[frozenset[str], str]]:
        """Path → capabilities that the broker must not have, and what it could do with them."""
        found = {
            "auth/token/create": (CHANGES, "mint any policy that it has, or with sudo any at all"),
            "auth/token/create-orphan": (CHANGES, "mint any policy"),
            f"auth/token/create/{NO_SUCH}": (CHANGES, "mint through token roles that are not its own"),
            f"auth/token/roles/{NO_SUCH}": (CHANGES, "write token roles, and so mint any policy"),
            f"sys/policies/acl/{NO_SUCH}": (CHANGES, "write policies"),
            f"sys/leases/revoke/{NO_SUCH}/creds/x/y": (CHANGES, "end leases of others"),
            "sys/leases/revoke": (CHANGES, "end leases of others"),
            f"sys/leases/revoke-prefix/{NO_SUCH}": (CHANGES, "end leases of others"),
            f"sys/leases/revoke-force/{NO_SUCH}": (CHANGES, "have leases of others forgotten while they live"),
        }
        found |= {f"auth/token/roles/{role}": (CHANGES, "widen its own token roles") for role in self.token_roles}
        found |= {
            f"sys/policies/acl/{name}": (CHANGES, "widen what its tokens may do")
            for name in [STEP_SELF, *sorted(self.longest)]
        }
        if self.chooses_ids:
            # The right to it was seen to revoke a root token (measured).
            found["auth/token/revoke-accessor"] = (CHANGES, "end tokens of others")
            found["auth/token/accessors/"] = (CHANGES | {"list"}, "find tokens of others")
        return found


def needs_of(scopes: Iterable[DeclaredScope], *, tomb_role: str, chooses_ids: bool, renews: bool) -> Needs:
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
    )
