"""What `check --live` finds on a real server before a first lease would: nothing is minted for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.providers.base import DeclaredScope
from tests.support.bao import TOMB_ROLE, BaoServer, BrokerLogin, TokenRole, broker_policy, openbao, provision
from tests.support.vault import vault_provider

BROKER = "rights-broker"
READ = "database/creds/orders"
ROLES = [TokenRole(name="kv", reads=["secret/data/orders"]), TokenRole(name="db", reads=[READ])]
SCOPES = [
    DeclaredScope(block={"role": "kv"}, ttl=timedelta(minutes=10)),
    DeclaredScope(block={"role": "db", "read": READ}, ttl=timedelta(minutes=10)),
]


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    """One of its own: roles are spoilt here."""
    with openbao(tmp_path_factory.mktemp("bao-rights")) as server:
        yield server


@pytest.fixture
def login(bao: BaoServer, tmp_path: Path) -> BrokerLogin:
    made = provision(bao, tmp_path, ROLES, broker=BROKER)
    # The default policy would hide what is missing: an operator may have emptied it.
    bao.must("POST", f"auth/approle/role/{BROKER}", {"token_no_default_policy": True})
    return made


async def problems(bao: BaoServer, login: BrokerLogin) -> Sequence[str]:
    async with vault_provider(bao.address, login) as provider:
        return await provider.check_scopes(SCOPES)


async def test_nothing_is_missing_and_nothing_is_minted(bao: BaoServer, login: BrokerLogin) -> None:
    before = len(bao.live_tokens())
    assert await problems(bao, login) == []
    assert len(bao.live_tokens()) == before + 1  # the broker's own


@pytest.mark.parametrize("line", broker_policy(ROLES).splitlines())
async def test_each_missing_line_of_the_brokers_policy_is_named(bao: BaoServer, login: BrokerLogin, line: str) -> None:
    rest = [other for other in broker_policy(ROLES).splitlines() if other != line]
    bao.must("PUT", f"sys/policies/acl/{BROKER}", {"policy": "\n".join(rest)})
    (problem,) = await problems(bao, login)
    assert line.split('"')[1] in problem


@pytest.mark.parametrize(
    ("role", "change", "told"),
    [
        ("kv", {"allowed_policies": ["kv"]}, "lacks step-self"),
        ("kv", {"allowed_policies": ["kv", "root", "step-self"]}, "gives the root policy"),
        ("kv", {"allowed_policies": []}, "would get the broker's own"),
        ("kv", {"orphan": False}, "needs orphan=true"),
        ("kv", {"token_type": "batch", "token_explicit_max_ttl": 0}, "needs token_type=service"),
        ("db", {"token_explicit_max_ttl": "5m"}, "is 300 s, and a scope's ttl 600 s"),
        (TOMB_ROLE, {"allowed_policies": []}, "would get the broker's own"),
    ],
)
async def test_a_role_that_would_mint_what_cannot_be_ended_is_named(
    bao: BaoServer, login: BrokerLogin, role: str, change: dict[str, Any], told: str
) -> None:
    bao.must("POST", f"auth/token/roles/{role}", change)
    found = await problems(bao, login)
    assert any(f"vault role {role}" in problem and told in problem for problem in found), found


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (None, "does not exist"),
        ('path "auth/token/lookup-self" { capabilities = ["read"] }', "update on auth/token/revoke"),
    ],
)
async def test_a_step_self_that_ends_no_token_is_named(
    bao: BaoServer, login: BrokerLogin, policy: str | None, told: str
) -> None:
    if policy is None:
        bao.must("DELETE", "sys/policies/acl/step-self")
    else:
        bao.must("PUT", "sys/policies/acl/step-self", {"policy": policy})
    (problem,) = await problems(bao, login)
    assert "vault policy step-self" in problem
    assert told in problem
