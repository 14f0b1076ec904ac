"""What at a token role breaks the promise: `check --live` and `scopes provision --diff` say the same of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from broker.providers.vault.provision import TokenRole
from broker.providers.vault.scope import STEP_SELF

# What the server leaves as it was when a role is written again, and why it must be empty.
EMPTY = {
    "allowed_policies_glob": "with which whoever mints chooses the policy; name each one",
    "allowed_entity_aliases": "with which whoever mints takes the policies of an identity",
    "token_bound_cidrs": "and the broker could not end tokens that are bound to other addresses",
    "bound_cidrs": "and the broker could not end tokens that are bound to other addresses",
    "token_num_uses": "and a token that is used up cannot end itself",
    "token_period": "and no maximum ends such tokens",
    "period": "and no maximum ends such tokens",
}
FLAGS = {
    "orphan": "or its tokens die with the broker's login",
    "renewable": "since a lease is never renewed",
    "token_no_default_policy": "or its tokens may do what no scope names",
}


def faults(wanted: TokenRole, held: Mapping[str, Any], *, never: Collection[str]) -> list[str]:
    """Each with what to do. `never`: policies of the broker itself, which no role may give."""
    return [*_policies(wanted, held, {"root", "default", *never}), *_fields(wanted, held)]


def others(wanted: TokenRole, held: Mapping[str, Any]) -> list[str]:
    """Policies that a scope's role gives and that are not of its own name: the operator may have named it so."""
    return sorted(set(held.get("allowed_policies") or ()) - {*wanted.policies, STEP_SELF})


def _policies(wanted: TokenRole, held: Mapping[str, Any], never: Collection[str]) -> Iterator[str]:
    given = set(held.get("allowed_policies") or ())
    own, *ending = wanted.policies
    if not given:
        yield "has no allowed_policies, so its tokens would get the broker's own"
    for name in sorted(given & set(never)):
        yield f"gives the {name} policy"
    if given and not given.issuperset(ending):
        yield f"allowed_policies lacks {STEP_SELF}, without which its tokens cannot be revoked"
    is_scope = own == wanted.name
    rest = given - {*wanted.policies, *never} - ({STEP_SELF} if is_scope else set())
    # A scope's policy may have another name; the tomb's must be the powerless one.
    if rest and (own in given or len(rest) > 1 or not is_scope):
        yield f"gives {' and '.join(sorted(rest))}: set allowed_policies={','.join(wanted.policies)}"
    if given == {STEP_SELF} and is_scope:
        yield f"gives no policy of the scope's own: set allowed_policies={','.join(wanted.policies)}"


def _fields(wanted: TokenRole, held: Mapping[str, Any]) -> Iterator[str]:
    for name, why in EMPTY.items():
        if held.get(name):
            yield f"has {name}, {why}: empty it"
    for name, why in FLAGS.items():
        if bool(held.get(name)) != wanted.fields[name]:
            yield f"needs {name}={str(wanted.fields[name]).lower()}, {why}"
    if held.get("token_type") not in ("service", "default-service"):
        yield "needs token_type=service: batch tokens cannot be revoked"
    maximum = held.get("token_explicit_max_ttl") or held.get("explicit_max_ttl") or 0
    if not maximum:
        yield f"token_explicit_max_ttl is 0: without the broker nothing ends its tokens; set {wanted.max_seconds}s"
    elif maximum < wanted.max_seconds:
        yield f"token_explicit_max_ttl is {maximum:g}s, less than the {wanted.max_seconds}s that are needed"
