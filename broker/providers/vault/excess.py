"""Rights of the broker beyond those of its map, and what it could do with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker.providers.vault.needs import CHANGES, READ, UPDATE
from broker.providers.vault.policies import Rules, covers, meet

# The policy `default` as servers ship it: what a token may do with itself. Measured on OpenBao 2.7.2;
# sys/renew and sys/control-group/request are HashiCorp Vault's.
SELF_SERVICE: Rules = {
    **dict.fromkeys(
        ["auth/token/lookup-self", "identity/entity/id/{{identity.entity.id}}", "sys/internal/ui/resultant-acl"], READ
    ),
    "identity/entity/name/{{identity.entity.name}}": READ,
    **dict.fromkeys(["auth/token/renew-self", "auth/token/revoke-self", "sys/capabilities-self"], UPDATE),
    **dict.fromkeys(["sys/leases/renew", "sys/leases/lookup", "sys/renew", "sys/control-group/request"], UPDATE),
    **dict.fromkeys(["sys/wrapping/wrap", "sys/wrapping/lookup", "sys/wrapping/unwrap"], UPDATE),
    **dict.fromkeys(["sys/tools/hash", "sys/tools/hash/*"], UPDATE),
    "cubbyhole/*": frozenset({"create", "read", "update", "delete", "list"}),
    "identity/oidc/provider/+/authorize": READ | UPDATE,
}
LOGINS = "auth/+/*"
FINDS = CHANGES | {"list"}
# The worst first: a wide pattern is named by the first few that it meets.
DANGERS: tuple[tuple[str, frozenset[str], str], ...] = (
    ("auth/token/create", CHANGES, "mint any policy that it has, or with sudo any at all"),
    ("auth/token/create-orphan", CHANGES, "mint any policy"),
    ("auth/token/create/*", CHANGES, "mint through token roles that are not its own"),
    ("auth/token/roles/*", CHANGES, "write token roles, and so mint any policy"),
    ("sys/policies/*", CHANGES, "write policies, and so give itself any right"),
    ("sys/policy/*", CHANGES, "write policies, and so give itself any right"),
    ("auth/token/revoke", CHANGES, "end tokens of others"),
    ("auth/token/revoke-orphan", CHANGES, "end tokens of others"),
    # The right to it was seen to revoke a root token (measured).
    ("auth/token/revoke-accessor", CHANGES, "end tokens of others"),
    ("auth/token/revoke-accessor/*", CHANGES, "end tokens of others"),
    ("auth/token/accessors", FINDS, "find tokens of others"),
    ("auth/token/accessors/*", FINDS, "find tokens of others"),
    ("auth/token/lookup-accessor", CHANGES, "look at tokens of others"),
    ("auth/token/tidy", CHANGES, "keep the server busy"),
    ("sys/leases/revoke-force/*", CHANGES, "have leases of others forgotten while they live"),
    ("sys/leases/revoke*", CHANGES, "end leases of others"),
    ("sys/revoke*", CHANGES, "end leases of others"),
    ("sys/leases/lookup/*", FINDS, "find leases of others"),
    ("identity/*", CHANGES, "give itself or others the policies of an identity"),
    ("sys/auth/*", CHANGES, "make logins that give any policy"),
    ("auth/+/role/+/secret-id*", CHANGES, "log in anew, as itself or as others"),
    (LOGINS, CHANGES, "change who logs in, and with which policies"),
    ("sys/mounts/*", CHANGES, "make, change and remove secrets engines"),
    ("sys/remount*", CHANGES, "make, change and remove secrets engines"),
    ("sys/audit/*", CHANGES, "switch the audit off"),
    ("sys/seal", CHANGES, "stop the server"),
    ("sys/step-down", CHANGES, "stop the server"),
    ("sys/raw/*", CHANGES | READ, "read and change the server's storage"),
    ("sys/generate-root/*", CHANGES, "take over the server"),
    ("sys/rekey*", CHANGES, "take over the server"),
    ("sys/namespaces/*", CHANGES, "make and remove namespaces"),
)
SOME = 3  # reasons in one line
ENGINES_BEGIN_OTHERWISE = ("sys/", "auth/", "identity/", "cubbyhole/")


def excess(held: Rules, allowed: Rules) -> Iterator[tuple[str, frozenset[str]]]:
    """Paths of policies, and the capabilities there that nothing needs. A deny takes away only."""
    for path, rights in sorted(held.items()):
        fine = [more for pattern, more in allowed.items() if covers(pattern, path)]
        if extra := rights - {"deny"} - frozenset().union(*fine):
            yield path, extra


def told(path: str, extra: frozenset[str], needed: Rules) -> str:
    """`too wide: …` for a line of a policy, or for a path that was asked about."""
    could = [] if path in needed and path.startswith("auth/token/create/") else list(_could(path, extra))
    why = f"with which the broker could {', '.join(could)}" if could else "which the map does not need"
    return f"too wide: {' and '.join(sorted(extra))} on {path}, {why}"


def _could(path: str, extra: frozenset[str]) -> list[str]:
    found = [
        could
        for pattern, rights, could in DANGERS
        if rights & extra and meet(pattern, path) and not (pattern == LOGINS and path.startswith("auth/token/"))
    ]
    if not found and not path.startswith(ENGINES_BEGIN_OTHERWISE):
        found += ["read secrets"] * ("read" in extra) + ["change secrets, or what gives them"] * bool(CHANGES & extra)
    some = list(dict.fromkeys(found))
    return [*some[:SOME], *(["and more"] if len(some) > SOME else [])]


def explained(path: str, rights: frozenset[str], found: Mapping[str, frozenset[str]]) -> bool:
    """Has a line of a policy been told already that gives this?"""
    return rights <= frozenset().union(*(extra for pattern, extra in found.items() if meet(pattern, path)))
