"""`check --live` of AWS against moto, which checks IAM's permissions, and against Ceph, which checks trust and policies."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from broker.model import Revocability, Tier
from broker.providers.aws.provider import AwsProvider
from broker.providers.aws.roles import Roles
from broker.providers.aws.scopes.kind import AwsScope
from broker.providers.base import ChecksScopes, DeclaredScope, Findings, Surveys
from tests.support.aws_orders import providing, settings_of
from tests.support.ceph import CephServer
from tests.support.moto import MotoServer, moto_server

STATEMENT = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lake/{workflow}/*"}
END_EARLY = ["iam:GetRole", "iam:ListRolePolicies", "iam:GetRolePolicy", "iam:PutRolePolicy", "iam:DeleteRolePolicy"]
Check = Callable[..., Awaitable[Findings]]


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with moto_server(tmp_path_factory.mktemp("moto")) as server:
        yield server


def scope(arn: str, *, name: str = "lake", minutes: int = 5, **changes: Any) -> DeclaredScope:
    block = {"role_arn": arn, "any_region": True, "statements": [STATEMENT], "revoke": "deny", **changes}
    return DeclaredScope(block=block, ttl=timedelta(minutes=minutes), name=name)


def broker(
    server: MotoServer | CephServer, key: tuple[str, str], folder: Path, **changes: Any
) -> AbstractAsyncContextManager[AwsProvider]:
    return providing(settings_of(server, folder, key, **changes))


async def check(provider: AwsProvider, *scopes: DeclaredScope) -> Findings:
    assert isinstance(provider, ChecksScopes)
    found = await provider.check_scopes(scopes)
    assert isinstance(found, Findings)
    return found


class Site:
    """A role with a boundary that trusts one narrow user, each with names of its own."""

    def __init__(self, moto: MotoServer, name: str) -> None:
        self.moto, self.role, self.user = moto, f"role-{name}", f"broker-{name}"
        self.arn = f"arn:aws:iam::{moto.account}:role/{self.role}"
        iam = moto.client("iam")
        allow = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        boundary = iam.create_policy(PolicyName=f"{self.role}-boundary", PolicyDocument=text(allow))["Policy"]["Arn"]
        self.key = moto.create_user(self.user, mint(self.arn))
        self.give(mint(self.arn), end_early(self.arn))
        iam.create_role(RoleName=self.role, AssumeRolePolicyDocument=self.trust(), PermissionsBoundary=boundary)

    def give(self, *statements: Any) -> None:
        """The user's policy."""
        iam = self.moto.client("iam")
        iam.put_user_policy(UserName=self.user, PolicyName="permissions", PolicyDocument=text(*statements))

    def trust(self, *more: Any, **changes: Any) -> str:
        user = f"arn:aws:iam::{self.moto.account}:user/{self.user}"
        return text({"Effect": "Allow", "Principal": {"AWS": user}, "Action": "sts:AssumeRole", **changes}, *more)


def text(*statements: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def mint(arn: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": arn}


def end_early(arn: str, *but: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": [one for one in END_EARLY if one not in but], "Resource": arn}


@pytest.fixture
def site(moto: MotoServer, request: pytest.FixtureRequest) -> Site:
    return Site(moto, f"{abs(hash(request.node.name)):x}"[:12])


async def test_a_narrow_broker_and_its_role_are_without_fault(site: Site, tmp_path: Path) -> None:
    async with broker(site.moto, site.key, tmp_path) as aws:
        found = await check(aws, scope(site.arn))
    assert found == []
    assert (
        f"the broker is arn:aws:iam::{site.moto.account}:user/{site.user} of account {site.moto.account}"
        in found.remarks
    )
    assert any("a user, whose key lives" in remark for remark in found.remarks)
    assert found.remedy == ""
    assert policies(site) == []  # nothing was written


def policies(site: Site) -> list[str]:
    held: list[str] = site.moto.client("iam").list_role_policies(RoleName=site.role)["PolicyNames"]
    return held


@pytest.mark.parametrize("right", END_EARLY)
async def test_a_right_to_end_that_is_missing_is_named(right: str, site: Site, tmp_path: Path) -> None:
    site.give(mint(site.arn), end_early(site.arn, right))
    async with broker(site.moto, site.key, tmp_path) as aws:
        found = await check(aws, scope(site.arn))
        (problem,) = found
        assert right in problem
        assert site.arn in problem
        assert found.remedy.endswith(f"--broker-arn arn:aws:iam::{site.moto.account}:user/{site.user}")
        assert await check(aws, scope(site.arn, revoke="bound")) == []


async def test_a_role_that_is_missing_is_told_once_for_all_its_scopes(site: Site, tmp_path: Path) -> None:
    arn = f"{site.arn}-gone"
    site.give(mint(arn), end_early("*"))  # moto looks for what is not there only when it is not named
    async with broker(site.moto, site.key, tmp_path) as aws:
        found = [*await check(aws, scope(arn), scope(arn, name="other"))]
        found.remove(next(problem for problem in found if "on any name" in problem))
    assert found == [f"role {arn}: does not exist; make it, or correct role_arn"]


async def test_a_trust_that_does_not_name_the_broker(site: Site, tmp_path: Path) -> None:
    other = {"AWS": f"arn:aws:iam::{site.moto.account}:user/somebody"}
    iam = site.moto.client("iam")
    iam.update_assume_role_policy(RoleName=site.role, PolicyDocument=site.trust(Principal=other))
    async with broker(site.moto, site.key, tmp_path) as aws:
        found = await check(aws, scope(site.arn))
    assert found == [
        f"scope lake: the trust policy of {site.arn} does not name arn:aws:iam::{site.moto.account}:user/{site.user}"
    ]
    assert any("user/somebody' assume it" in remark for remark in found.remarks)


async def test_the_broker_s_own_policy_that_does_not_let_it_assume(site: Site, tmp_path: Path) -> None:
    site.give(end_early(site.arn))
    async with broker(site.moto, site.key, tmp_path) as aws:
        (problem,) = await check(aws, scope(site.arn))
    assert "though its trust policy names the broker: the broker's own policy does not" in problem


async def test_a_role_of_another_account_cannot_be_denied(site: Site, tmp_path: Path) -> None:
    arn = "arn:aws:iam::210987654321:role/etl"
    site.give(mint(arn))
    async with broker(site.moto, site.key, tmp_path) as aws:
        found = await check(aws, scope(arn))
    assert any("is not of the broker's account" in problem for problem in found)


async def test_a_role_without_a_boundary(site: Site, tmp_path: Path) -> None:
    site.moto.client("iam").delete_role_permissions_boundary(RoleName=site.role)
    async with broker(site.moto, site.key, tmp_path) as aws:
        (problem,) = await check(aws, scope(site.arn))
        assert "has no permissions boundary" in problem
        assert await check(aws, scope(site.arn, revoke="bound")) == []
    async with broker(site.moto, site.key, tmp_path, accept_unbounded_roles=True) as aws:
        assert await check(aws, scope(site.arn)) == []


async def test_a_role_without_room(site: Site, tmp_path: Path) -> None:
    statements = [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{'x' * 900}{n}"} for n in range(9)
    ]
    iam = site.moto.client("iam")
    iam.put_role_policy(RoleName=site.role, PolicyName="large", PolicyDocument=text(*statements))
    async with broker(site.moto, site.key, tmp_path) as aws:
        found = await check(aws, scope(site.arn))
        assert found == []
        assert any("leaves room to deny" in remark for remark in found.remarks)
        iam.put_role_policy(RoleName=site.role, PolicyName="larger", PolicyDocument=text(*statements[:2]))
        (problem,) = await check(aws, scope(site.arn))
    assert "leaves no room for a deny list" in problem


async def test_an_administrator_is_too_much(site: Site, tmp_path: Path) -> None:
    site.give({"Effect": "Allow", "Action": "*", "Resource": "*"})
    async with broker(site.moto, site.key, tmp_path) as aws:
        found = await check(aws, scope(site.arn))
    own, wide = sorted(found, key=lambda problem: problem.startswith("the broker"))
    assert "the broker may iam:PutRolePolicy, iam:AttachRolePolicy" in wide
    assert "iam:CreateAccessKey on any name" in wide
    assert own == (
        f"role {site.arn}: the broker may iam:AttachRolePolicy, iam:UpdateAssumeRolePolicy on it, which it does not need"
    )
    assert any("may also iam:ListUsers" in remark and "s3:ListAllMyBuckets" in remark for remark in found.remarks)
    iam = site.moto.client("iam")
    assert policies(site) == []
    assert iam.list_attached_role_policies(RoleName=site.role)["AttachedPolicies"] == []
    trusts = iam.get_role(RoleName=site.role)["Role"]["AssumeRolePolicyDocument"]
    assert trusts == json.loads(site.trust())


@pytest.mark.parametrize(
    ("key", "told"),
    [(("AKIANOBODY", "x"), "the access key is unknown"), (("", "wrong"), "the secret key does not fit")],
    ids=["key", "secret"],
)
async def test_credentials_that_aws_does_not_take(key: tuple[str, str], told: str, site: Site, tmp_path: Path) -> None:
    async with broker(site.moto, (key[0] or site.key[0], key[1]), tmp_path) as aws:
        (problem,) = await check(aws, scope(site.arn))
    assert told in problem


@pytest.mark.parametrize("in_force", [True, False], ids=["in force", "refused"])
async def test_what_is_learnt_of_a_role_decides_what_its_scopes_promise(
    site: Site, tmp_path: Path, *, in_force: bool
) -> None:
    roles, declared = Roles(), scope(site.arn)
    settings = settings_of(site.moto, tmp_path, site.key)
    aws, kind = AwsProvider(settings, SystemClock(), epoch=lambda: 1, roles=roles), AwsScope(roles)

    def promise() -> Revocability:
        return kind.revocability(kind.completed(declared.block, Tier.HIGH))

    assert isinstance(aws, Surveys)
    assert not await aws.survey([declared])  # it may: as was assumed
    assert promise() is Revocability.DENY_POLICY
    site.give(mint(site.arn), end_early(site.arn, "iam:PutRolePolicy"))
    assert await aws.survey([declared])
    assert promise() is Revocability.EXPIRY_ONLY
    assert not await aws.survey_again([])  # still
    site.give(mint(site.arn), end_early(site.arn))
    bound = DeclaredScope(block={**declared.block, "revoke": "bound"}, ttl=declared.ttl)  # as a map now has it
    assert await (aws.survey([bound]) if in_force else aws.survey_again([]))
    assert promise() is Revocability.DENY_POLICY
    await aws.close()


# --- Ceph: another order of checks, no accounts, no GetCallerIdentity ---


@pytest.fixture
def ceph_role(ceph: CephServer, request: pytest.FixtureRequest) -> tuple[str, str]:
    name = f"r{abs(hash(request.node.name)):x}"[:12]
    return name, ceph.create_role(name)


async def test_on_ceph_a_narrow_broker_is_without_fault(
    ceph: CephServer, ceph_role: tuple[str, str], tmp_path: Path
) -> None:
    name, arn = ceph_role
    before = ceph.role_policies(name)
    key = ceph.create_user(f"u-{name}", end_early(arn))
    async with broker(ceph, key, tmp_path, accept_unbounded_roles=True) as aws:
        found = await check(aws, scope(arn))
    assert found == []
    assert any("does not say who the broker is" in remark for remark in found.remarks)
    assert any("lets '*' assume it" in remark for remark in found.remarks)
    assert ceph.role_policies(name) == before


async def test_on_ceph_a_right_is_missing_a_role_is_missing_a_ttl_too_long(
    ceph: CephServer, ceph_role: tuple[str, str], tmp_path: Path
) -> None:
    name, arn = ceph_role
    key = ceph.create_user(f"u-{name}", end_early(arn, "iam:PutRolePolicy"))
    gone = "arn:aws:iam:::role/gone"
    async with broker(ceph, key, tmp_path, accept_unbounded_roles=True) as aws:
        (problem,) = await check(aws, scope(arn))
        assert "may not write its policies (iam:PutRolePolicy)" in problem
        (problem,) = await check(aws, scope(gone, revoke="bound"))
        assert "does not exist" in problem
        (problem,) = await check(aws, scope(arn, revoke="bound", minutes=90))
        assert "its ttl is longer than the 1:00:00" in problem


async def test_on_ceph_an_administrator_is_too_much_and_nothing_is_changed(
    ceph: CephServer, ceph_role: tuple[str, str], tmp_path: Path
) -> None:
    name, arn = ceph_role
    before = ceph.client("iam").get_role(RoleName=name)["Role"], ceph.role_policies(name)
    key = (ceph.access_key_id, ceph.secret_access_key)
    async with broker(ceph, key, tmp_path, accept_unbounded_roles=True) as aws:
        found = await check(aws, scope(arn))
    assert found == [f"role {arn}: the broker may iam:UpdateAssumeRolePolicy on it, which it does not need"]
    assert any("iam:ListRoles" in remark for remark in found.remarks)
    assert (ceph.client("iam").get_role(RoleName=name)["Role"], ceph.role_policies(name)) == before


async def test_on_ceph_the_session_of_a_rehearsal_may_do_nothing(ceph: CephServer, ceph_role: tuple[str, str]) -> None:
    from botocore.exceptions import ClientError

    from broker.clock import SystemClock as Clock
    from broker.providers.aws.check.rehearsal import filled, powerless
    from broker.providers.aws.scopes.block import AwsBlock

    declared = scope(ceph_role[1], statements=[{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}])
    given = powerless(declared, AwsBlock.model_validate(filled(declared.block)), Clock().now())
    held = ceph.client("sts").assume_role(**given)["Credentials"]
    s3 = ceph.client(
        "s3",
        aws_access_key_id=held["AccessKeyId"],
        aws_secret_access_key=held["SecretAccessKey"],
        aws_session_token=held["SessionToken"],
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.list_buckets()
