"""What `check --live` finds on a real server before a first lease would: nothing is minted for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.providers.base import DeclaredScope
from broker.providers.vault.settings import TokenFile
from tests.support.bao import (
    TOMB_ROLE,
    BaoServer,
    BrokerLogin,
    TokenRole,
    broker_policy,
    openbao,
    provision,
    provision_pki,
    provision_ssh,
)
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
        ("kv", {"allowed_policies_glob": ["*"]}, "allowed_policies_glob"),
        (TOMB_ROLE, {"allowed_policies": []}, "would get the broker's own"),
        (TOMB_ROLE, {"allowed_policies_glob": ["*"]}, "allowed_policies_glob"),
    ],
)
async def test_a_role_that_would_mint_what_cannot_be_ended_is_named(
    bao: BaoServer, login: BrokerLogin, role: str, change: dict[str, Any], told: str
) -> None:
    bao.must("POST", f"auth/token/roles/{role}", change)
    found = await problems(bao, login)
    assert any(f"vault role {role}" in problem and told in problem for problem in found), found


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            'path "auth/token/create" { capabilities = ["update"] }',
            "on auth/token/create, with which it could mint any",
        ),
        ('path "auth/token/create/*" { capabilities = ["update", "sudo"] }', "token roles that are not its own"),
        ('path "auth/token/create-orphan" { capabilities = ["update"] }', "mint any policy"),
        ('path "auth/token/revoke-accessor" { capabilities = ["update"] }', "end tokens of others"),
        ('path "auth/token/accessors/" { capabilities = ["list", "sudo"] }', "find tokens of others"),
        ('path "auth/token/roles/kv" { capabilities = ["read", "update"] }', "widen its own token roles"),
        ('path "auth/token/roles/*" { capabilities = ["create", "update"] }', "write token roles"),
        ('path "sys/policies/acl/kv" { capabilities = ["update"] }', "widen what its tokens may do"),
        ('path "sys/policies/acl/+" { capabilities = ["update"] }', "write policies"),
        ('path "sys/leases/revoke" { capabilities = ["update"] }', "end leases of others"),
        ('path "sys/leases/revoke/*" { capabilities = ["update"] }', "end leases of others"),
        ('path "sys/leases/revoke-force/*" { capabilities = ["update", "sudo"] }', "forgotten while they live"),
        ('path "*" { capabilities = ["update"] }', "end tokens of others"),
    ],
)
async def test_a_right_wider_than_the_job_is_named(bao: BaoServer, login: BrokerLogin, line: str, told: str) -> None:
    bao.must("PUT", f"sys/policies/acl/{BROKER}", {"policy": broker_policy(ROLES) + "\n" + line})
    found = await problems(bao, login)
    assert any("too wide" in problem and told in problem for problem in found), found


async def test_a_root_token_is_no_login_for_a_broker(bao: BaoServer, login: BrokerLogin, tmp_path: Path) -> None:
    (tmp_path / "root").write_text(bao.root_token)
    async with vault_provider(bao.address, login, auth=TokenFile(path=tmp_path / "root")) as provider:
        (problem,) = await provider.check_scopes(SCOPES)
    assert "has the root policy" in problem


CERTIFICATES = [
    DeclaredScope(block={"role": "certs", "write": {"path": "pki/issue/web"}}, ttl=timedelta(minutes=10)),
    DeclaredScope(block={"role": "certs", "write": {"path": "ssh/sign/ops"}}, ttl=timedelta(minutes=10)),
]


@pytest.mark.parametrize(
    ("path", "change", "told"),
    [
        ("pki/roles/web", {}, ""),
        ("pki/roles/web", {"generate_lease": False}, "needs generate_lease=true"),
        ("pki/roles/web", {"max_ttl": "5m"}, "max_ttl is 300 s, and a scope's ttl 600 s"),
        ("pki/roles/web", None, "does not exist"),
        ("ssh/roles/ops", {"max_ttl": "5m"}, "max_ttl is 300 s"),
        ("ssh/roles/ops", None, "does not exist"),
    ],
)
async def test_an_engine_whose_certificates_would_break_the_promise_is_named(
    bao: BaoServer, tmp_path: Path, path: str, change: dict[str, Any] | None, told: str
) -> None:
    provision_pki(bao, "web")
    provision_ssh(bao, "ops")
    role = TokenRole(name="certs", writes=["pki/issue/web", "ssh/sign/ops"])
    made = provision(bao, tmp_path, [role], broker="engines-broker")
    if change is None:
        bao.must("DELETE", path)
    elif change:
        bao.must("POST", path, {**bao.must("GET", path).data, **change})
    async with vault_provider(bao.address, made) as provider:
        found = await provider.check_scopes(CERTIFICATES)
    assert (len(found) == 1 and path in found[0] and told in found[0]) if told else found == []


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
