"""What `check --live` finds on a real server before a first lease would: nothing is minted for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.providers.base import DeclaredScope, Findings
from broker.providers.vault import answers
from broker.providers.vault.settings import TokenFile
from tests.support.bao import (
    STEP_SELF,
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
    for role in (*(one.name for one in ROLES), TOMB_ROLE):
        bao.must("DELETE", f"auth/token/roles/{role}")  # a write would leave what a test has set
    return provision(bao, tmp_path, ROLES, broker=BROKER)


async def problems(bao: BaoServer, login: BrokerLogin) -> Sequence[str]:
    return await findings(bao, login)


async def findings(bao: BaoServer, login: BrokerLogin) -> Findings:
    async with vault_provider(bao.address, login) as provider:
        found = await provider.check_scopes(SCOPES)
    assert isinstance(found, Findings)
    return found


async def test_nothing_is_missing_and_nothing_is_minted(bao: BaoServer, login: BrokerLogin) -> None:
    before = len(bao.live_tokens())
    assert await problems(bao, login) == []
    assert len(bao.live_tokens()) == before  # the broker has given its own back


async def test_a_version_whose_answers_were_not_tested_is_remarked(
    bao: BaoServer, login: BrokerLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(found: Findings) -> list[str]:
        return [remark for remark in found.remarks if "exact answers" in remark]

    assert told(await findings(bao, login)) == []
    monkeypatch.setattr(answers, "TESTED", ("1.0.0",))
    (remark,) = told(await findings(bao, login))
    assert "1.0.0" in remark


@pytest.mark.parametrize("line", broker_policy(ROLES, BROKER).splitlines())
async def test_each_missing_line_of_the_brokers_policy_is_named(bao: BaoServer, login: BrokerLogin, line: str) -> None:
    rest = [other for other in broker_policy(ROLES, BROKER).splitlines() if other != line]
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
        ("db", {"token_explicit_max_ttl": "5m"}, "is 300s, less than the 600s"),
        ("kv", {"allowed_policies_glob": ["*"]}, "allowed_policies_glob"),
        ("kv", {"allowed_policies": ["kv", "step-self", "default"]}, "gives the default policy"),
        ("kv", {"allowed_policies": ["kv", "step-self", BROKER]}, f"gives the {BROKER} policy"),
        ("kv", {"allowed_policies": ["kv", "step-self", "admin"]}, "gives admin: set allowed_policies=kv,step-self"),
        ("kv", {"allowed_policies": ["step-self"]}, "gives no policy of the scope's own"),
        ("kv", {"allowed_entity_aliases": ["*"]}, "has allowed_entity_aliases, with which whoever mints takes"),
        ("kv", {"token_bound_cidrs": ["10.0.0.0/8"]}, "has token_bound_cidrs"),
        ("kv", {"token_num_uses": 1}, "has token_num_uses"),
        ("kv", {"token_period": "5m"}, "has token_period"),
        ("kv", {"token_explicit_max_ttl": 0}, "token_explicit_max_ttl is 0: without the broker nothing ends"),
        ("kv", {"renewable": True}, "needs renewable=false"),
        ("kv", {"token_no_default_policy": False}, "needs token_no_default_policy=true"),
        (TOMB_ROLE, {"allowed_policies": []}, "would get the broker's own"),
        (TOMB_ROLE, {"allowed_policies_glob": ["*"]}, "allowed_policies_glob"),
        (TOMB_ROLE, {"allowed_policies": ["stepcred-nothing", "admin"]}, "set allowed_policies=stepcred-nothing"),
        (TOMB_ROLE, {"allowed_policies": ["admin"]}, "gives admin: set allowed_policies=stepcred-nothing"),
        (TOMB_ROLE, {"allowed_policies": ["stepcred-nothing", "step-self"]}, "gives step-self"),
        (TOMB_ROLE, {"orphan": False}, "needs orphan=true"),
        (TOMB_ROLE, {"token_explicit_max_ttl": "5s"}, "is 5s, less than the 86400s"),
    ],
)
async def test_a_role_that_would_mint_what_cannot_be_ended_is_named(
    bao: BaoServer, login: BrokerLogin, role: str, change: dict[str, Any], told: str
) -> None:
    bao.must("POST", f"auth/token/roles/{role}", change)
    found = await problems(bao, login)
    assert any(f"vault role {role}" in problem and told in problem for problem in found), found


async def test_a_role_may_lie_at_a_path_of_its_own_and_name_its_policy_otherwise(
    bao: BaoServer, login: BrokerLogin
) -> None:
    bao.must("POST", "auth/token/roles/kv", {"path_suffix": "steps", "allowed_policies": ["orders", "step-self"]})
    found = await findings(bao, login)
    assert found == []
    assert found.remarks == ["vault role kv: its tokens have the policy orders"]
    assert found.remedy == ""


WIDE = [
    ("auth/token/create", "update", "mint any policy that it has, or with sudo any at all"),
    ("auth/token/create/*", "update sudo", "mint through token roles that are not its own"),
    ("auth/token/create/admin", "update", "mint through token roles that are not its own"),
    ("auth/token/create/a*", "update sudo", "mint through token roles that are not its own"),
    ("auth/token/create/kv", "create", "create on auth/token/create/kv, which the map does not need"),
    ("auth/token/create-orphan", "update", "mint any policy"),
    ("auth/token/roles/kv", "update", "write token roles"),
    ("auth/token/roles/*", "create update", "write token roles"),
    ("auth/token/revoke", "update", "end tokens of others"),
    ("auth/token/revoke-orphan", "update sudo", "end tokens of others"),
    ("auth/token/revoke-accessor", "update", "end tokens of others"),
    ("auth/token/revoke-accessor/*", "update", "end tokens of others"),
    ("auth/token/accessors/", "list sudo", "find tokens of others"),
    ("auth/token/lookup-accessor", "update", "look at tokens of others"),
    ("auth/token/tidy", "update sudo", "keep the server busy"),
    ("sys/policies/acl/kv", "update", "write policies"),
    ("sys/policies/acl/+", "update", "write policies"),
    (f"sys/policies/acl/{BROKER}", "create update", "give itself any right"),
    ("sys/policies/acl/stepcred-nothing", "update", "write policies"),
    ("sys/policy/*", "create update", "write policies"),
    ("sys/leases/revoke", "update", "end leases of others"),
    ("sys/leases/revoke/*", "update", "end leases of others"),
    ("sys/leases/revoke/database/*", "update", "end leases of others"),
    ("sys/leases/revoke-prefix/auth/token/*", "update sudo", "end leases of others"),
    ("sys/leases/revoke-force/*", "update sudo", "forgotten while they live"),
    ("sys/revoke-prefix/*", "update sudo", "end leases of others"),
    ("auth/approle/*", "create read update", "change who logs in"),
    ("auth/+/role/*", "create update", "change who logs in"),
    (f"auth/approle/role/{BROKER}", "update", "change who logs in"),
    (f"auth/approle/role/{BROKER}/secret-id", "update", "log in anew"),
    ("sys/auth/*", "create update sudo", "make logins that give any policy"),
    ("identity/*", "create update read", "policies of an identity"),
    ("sys/mounts/*", "create update delete sudo", "secrets engines"),
    ("sys/audit/*", "update create delete sudo", "switch the audit off"),
    ("sys/seal", "update sudo", "stop the server"),
    ("secret/*", "read", "read secrets"),
    ("database/*", "create read update", "change secrets, or what gives them"),
    ("sys/health", "read", "which the map does not need"),
    ("*", "update", "and more"),
]


def line(path: str, rights: str) -> str:
    return f'path "{path}" {{ capabilities = {json.dumps(rights.split())} }}'


def give(bao: BaoServer, *lines: str) -> None:
    bao.must("PUT", f"sys/policies/acl/{BROKER}", {"policy": "\n".join([broker_policy(ROLES, BROKER), *lines])})


@pytest.mark.parametrize(("path", "rights", "told"), WIDE, ids=[path for path, _, _ in WIDE])
async def test_a_right_wider_than_the_job_is_named_once(
    bao: BaoServer, login: BrokerLogin, path: str, rights: str, told: str
) -> None:
    give(bao, line(path, rights))
    (problem,) = await problems(bao, login)
    assert f"vault policy {BROKER}: too wide" in problem
    assert f" on {path}, " in problem
    assert told in problem


async def test_what_the_server_merges_or_takes_away_is_judged_as_it_is(bao: BaoServer, login: BrokerLogin) -> None:
    give(bao, line("secret/a", "read"), line("secret/a", "list"))
    (problem,) = await problems(bao, login)
    assert "list and read on secret/a" in problem
    give(bao, line("secret/a", "read"), line("secret/a", "deny"), line("sys/raw/*", "deny"))
    assert await problems(bao, login) == []
    give(bao, line("auth/token/create/kv", "deny"))
    (problem,) = await problems(bao, login)
    assert "give it sudo and update on auth/token/create/kv" in problem


@pytest.mark.parametrize(
    "more",
    ['path "secret/a" { capabilities = ["read"] required_parameters = ["x"] }', 'path "secret/a" "b" { }'],
)
async def test_a_policy_that_cannot_be_judged_is_named(bao: BaoServer, login: BrokerLogin, more: str) -> None:
    give(bao, more)
    (problem,) = await problems(bao, login)
    assert f"vault policy {BROKER}: cannot be judged" in problem


async def test_the_policy_that_every_token_has_is_judged_too(bao: BaoServer, login: BrokerLogin) -> None:
    bao.must("POST", f"auth/approle/role/{BROKER}", {"token_no_default_policy": False})
    (problem,) = await problems(bao, login)
    assert "give it read on sys/policies/acl/default, or log it in without that policy" in problem
    give(bao, line("sys/policies/acl/default", "read"))
    assert await problems(bao, login) == []
    shipped = bao.must("GET", "sys/policies/acl/default").data["policy"]
    bao.must("PUT", "sys/policies/acl/default", {"policy": shipped + line("secret/*", "read")})
    try:
        (problem,) = await problems(bao, login)
    finally:
        bao.must("PUT", "sys/policies/acl/default", {"policy": shipped})
    assert "vault policy default: too wide: read on secret/*" in problem


async def test_a_policy_that_comes_with_an_identity_is_judged_too(bao: BaoServer, login: BrokerLogin) -> None:
    bao.must("PUT", "sys/policies/acl/more", {"policy": line("auth/token/create/admin", "update")})
    secret_id = {"role_id": login.role_id, "secret_id": login.secret_id_file.read_text()}
    entity = bao.must("POST", "auth/approle/login", secret_id).body["auth"]["entity_id"]
    bao.must("POST", f"identity/entity/id/{entity}", {"policies": ["more"]})
    try:
        (unread,) = await problems(bao, login)
        give(bao, line("sys/policies/acl/more", "read"))
        (wide,) = await problems(bao, login)
        give(bao)
        bao.must("PUT", "sys/policies/acl/more", {"policy": line("auth/token/create/*", "update")})
        by_asking = await problems(bao, login)
    finally:
        bao.must("POST", f"identity/entity/id/{entity}", {"policies": []})
    assert "give it read on sys/policies/acl/more" in unread
    assert "vault policy more: too wide: update on auth/token/create/admin" in wide
    assert any(
        "policy of the broker: too wide: update on auth/token/create/stepcred-no-such" in one for one in by_asking
    )


async def test_what_prints_the_right_policies_is_said(bao: BaoServer, login: BrokerLogin) -> None:
    give(bao, line("secret/*", "read"))
    assert (await findings(bao, login)).remedy == (
        f"stepcred-broker scopes provision {{map}} --broker-policy {BROKER} --format sh"
    )


async def test_a_token_that_may_fetch_logins_itself_is_remarked(bao: BaoServer, login: BrokerLogin) -> None:
    bao.must("PUT", "sys/policies/acl/kv", {"policy": line("database/creds/+", "read")})
    found = await findings(bao, login)
    assert found == []
    (remark,) = found.remarks
    assert "vault role kv: its tokens may fetch database/creds/+ themselves" in remark


@pytest.mark.parametrize("name", [BROKER, "stepcred-tomb"])
async def test_a_scope_whose_role_is_another_things_is_named(bao: BaoServer, login: BrokerLogin, name: str) -> None:
    async with vault_provider(bao.address, login) as provider:
        found = await provider.check_scopes([DeclaredScope(block={"role": name}, ttl=timedelta(minutes=10))])
    assert any(f"{name!r} " in problem for problem in found), found


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
        ("pki/config/crl", {"disable": True}, "what is revoked is never on a list"),
        ("pki/config/crl", {"auto_rebuild": True}, "on the list only 12h before its 72h end"),
        ("ssh/roles/ops", {"max_ttl": "5m"}, "max_ttl is 300 s"),
        ("ssh/roles/ops", None, "does not exist"),
    ],
)
async def test_an_engine_whose_certificates_would_break_the_promise_is_named(
    bao: BaoServer, tmp_path: Path, path: str, change: dict[str, Any] | None, told: str
) -> None:
    provision_pki(bao, "web")
    bao.must("POST", "pki/config/crl", {"disable": False, "auto_rebuild": False})
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
        ('path "auth/token/lookup-self" { capabilities = ["read"] }', "needs update on auth/token/revoke-self"),
        (STEP_SELF.replace("update", "deny"), "needs update on auth/token/revoke-self"),
        (STEP_SELF.replace("update", "read"), "needs update on auth/token/revoke-self"),
        (STEP_SELF.replace('path "auth/token/revoke-self"', '# path "x"'), "needs update on auth/token/revoke-self"),
        (STEP_SELF + 'path "auth/token/revoke-self" { capabilities = ["deny"] }', "needs update on"),
        ('path "auth/token/revoke-self" { capabilities = ["update"] }', "needs read on auth/token/lookup-self"),
        (STEP_SELF + 'path "secret/*" { capabilities = ["read"] }', "gives read on secret/*"),
    ],
)
async def test_a_step_self_that_ends_no_token_is_named(
    bao: BaoServer, login: BrokerLogin, policy: str | None, told: str
) -> None:
    if policy is None:
        bao.must("DELETE", "sys/policies/acl/step-self")
    else:
        bao.must("PUT", "sys/policies/acl/step-self", {"policy": policy})
    found = await problems(bao, login)
    assert any(one.startswith("vault policy step-self: ") and told in one for one in found), found
