"""What has to be installed at the server for a scope map: as commands, as policies, as Terraform.

Everything printed comes from allow-listed names, so that nothing of a map can become a command of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from broker.model import JsonValue
from broker.providers.vault.needs import Needs
from broker.providers.vault.scope import RESERVED, STEP_SELF, TEMPLATE, TOMB_POLICY, Kind, VaultBlock

TOMB_SECONDS = 86_400  # far longer than a late mint can take to land
SELF = {"auth/token/lookup-self": frozenset({"read"}), "auth/token/revoke-self": frozenset({"update"})}
_NOTHING = {"stepcred/nothing": frozenset({"deny"})}


class Format(Enum):
    """How a plan is printed."""

    SH = "sh"
    HCL = "hcl"
    TERRAFORM = "terraform"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Path → capabilities. `open`: the operator adds what a scope's own token may do."""

    name: str
    rules: Mapping[str, frozenset[str]]
    open: bool = False

    @property
    def text(self) -> str:
        """As the server takes it."""
        return "\n".join(
            f'path "{path}" {{ capabilities = [{_list(rights)}] }}' for path, rights in sorted(self.rules.items())
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRole:
    """`auth/token/roles/<name>`."""

    name: str
    policies: tuple[str, ...]
    max_seconds: int

    @property
    def fields(self) -> dict[str, JsonValue]:
        """As the server takes them: what each is for is in docs/vault.md."""
        return {
            "allowed_policies": list(self.policies),
            "orphan": True,
            "renewable": False,
            "token_explicit_max_ttl": f"{self.max_seconds}s",
            "token_no_default_policy": True,
            "token_type": "service",
        }

    @property
    def reset(self) -> dict[str, JsonValue]:
        """What `bao write` would leave as it was (measured): each could break the promise."""
        lists: list[str] = ["allowed_policies_glob", "allowed_entity_aliases", "token_bound_cidrs"]
        return {**dict.fromkeys(lists, ""), "token_num_uses": 0, "token_period": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Policies first, then the roles that name them; `hints` are what only the operator can write."""

    policies: tuple[Policy, ...]
    roles: tuple[TokenRole, ...]
    hints: tuple[str, ...]
    broker_policies: tuple[str, ...]
    namespace: str = ""


def clashes(needs: Needs) -> list[str]:
    """Names of the map, the tomb role and the broker's policies that would overwrite one another."""
    named = dict.fromkeys(needs.longest, "a scope's token role")
    found = [f"{needs.tomb_role!r} is the tomb role: no scope may use it"] if needs.tomb_role in named else []
    named[needs.tomb_role] = "the tomb role"
    named |= dict.fromkeys(RESERVED, "a policy with a meaning of its own")
    roles = sorted(RESERVED & {*needs.longest, needs.tomb_role})
    found += [f"{name!r} cannot be a token role: it is {named[name]}" for name in roles]
    taken = [name for name in needs.broker_policies if name in named]
    return found + [f"{name!r} cannot be the broker's own policy: it is {named[name]}" for name in taken]


def plan_of(needs: Needs, *, namespace: str = "") -> Plan:
    """Of the scopes of a map; its names must be good, and not clash."""
    own = {role: _rules(block for block in needs.blocks if block.role == role) for role in sorted(needs.longest)}
    ending = (STEP_SELF,) if needs.chooses_ids else ()
    policies = [Policy(name=role, rules=rules, open=role in needs.bare) for role, rules in own.items() if rules]
    roles = [
        TokenRole(name=role, policies=(role, *ending), max_seconds=round(ttl.total_seconds()))
        for role, ttl in sorted(needs.longest.items())
    ]
    if needs.chooses_ids:
        policies += [Policy(name=STEP_SELF, rules=SELF), Policy(name=TOMB_POLICY, rules=_NOTHING)]
        roles.append(TokenRole(name=needs.tomb_role, policies=(TOMB_POLICY,), max_seconds=TOMB_SECONDS))
    policies += [Policy(name=name, rules=needs.rights()) for name in needs.broker_policies]
    return Plan(
        policies=tuple(policies),
        roles=tuple(roles),
        hints=tuple(_hints(needs, own)),
        broker_policies=needs.broker_policies,
        namespace=namespace,
    )


def show(plan: Plan, form: Format) -> str:
    """The plan as a text that ends with a newline."""
    made = {Format.SH: _sh, Format.HCL: _hcl, Format.TERRAFORM: _terraform}[form](plan)
    return "\n".join([*(f"# {hint}" for hint in plan.hints), *made]) + "\n"


def _rules(blocks: Iterable[VaultBlock]) -> dict[str, frozenset[str]]:
    """What a role's scopes fetch; a template stands for one whole segment."""
    found = {}
    for block in blocks:
        if block.path:
            path = "/".join("+" if TEMPLATE.fullmatch(part) else part for part in block.path.split("/"))
            found[path] = frozenset({"update" if block.write else "read"})
    return found


def _hints(needs: Needs, own: Mapping[str, object]) -> Iterable[str]:
    for role in sorted(needs.bare):
        more = "more than what is read below" if own[role] else "what"
        yield f"policy {role}: {more} its tokens may do is yours to write"
    for block in needs.blocks:
        if block.kind is Kind.LEASED:
            mount, _, name = block.path.rsplit("/", 2)
            seconds = round(needs.longest[block.role].total_seconds())
            yield f"{mount}/roles/{name}: for this broker alone, with a default_ttl of at least {seconds}s"
    for path, (block, ttl) in sorted(needs.engines.items()):
        how = "generate_lease=true" if block.kind is Kind.X509 else "key_type=ca"
        yield f"{path}: with {how} and a max_ttl of at least {round(ttl.total_seconds())}s"


def _sh(plan: Plan) -> Iterable[str]:
    yield "set -eu"
    if plan.namespace:
        yield f"export BAO_NAMESPACE={plan.namespace} VAULT_NAMESPACE={plan.namespace}"
    for policy in plan.policies:
        yield f"bao policy write {policy.name} - <<'HCL'\n{policy.text}\nHCL"
    for role in plan.roles:
        yield _write(role)


def _write(role: TokenRole) -> str:
    pairs = (f"{name}={_word(value)}" for name, value in {**role.fields, **role.reset}.items())
    return f"bao write auth/token/roles/{role.name} {' '.join(pairs)}"


def _hcl(plan: Plan) -> Iterable[str]:
    for policy in plan.policies:
        yield f"\n# policy {policy.name}\n{policy.text}"
    yield ""
    for role in plan.roles:
        yield f"# {_write(role)}"


def _terraform(plan: Plan) -> Iterable[str]:
    space = f'  namespace = "{plan.namespace}"\n' if plan.namespace else ""
    for policy in plan.policies:
        body = f'  name      = "{policy.name}"\n  policy    = <<-HCL\n{_indent(policy.text)}\n  HCL\n'
        yield f'resource "vault_policy" "{_label(policy.name)}" {{\n{space}{body}}}\n'
    for role in plan.roles:
        fields = {**role.fields, "token_explicit_max_ttl": role.max_seconds}
        body = "".join(f"  {name} = {_value(value)}\n" for name, value in {"role_name": role.name, **fields}.items())
        yield f'resource "vault_token_auth_backend_role" "{_label(role.name)}" {{\n{space}{body}}}\n'


def _word(value: JsonValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)


def _value(value: JsonValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{_list(value)}]"
    return str(value) if isinstance(value, int) else f'"{value}"'


def _list(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in sorted(words))


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _label(name: str) -> str:
    """A Terraform name; two names of the server never share one."""
    return "_" + name.replace(".", "_dot_") if not name[0].isalpha() or "." in name else name
