"""Probes against a real STS: a session's end is proven, and its sibling on the same role works on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from broker.model import AwsSession, Evidence
from broker.providers.aws import probes
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.role import SEE_AGAIN
from broker.providers.aws.provider import AwsProvider
from broker.providers.aws.sessions import SessionCalls
from broker.providers.base import MintOrder, Progress
from tests.support.aws_orders import lease_of, order_of, providing, settings_at, settings_of
from tests.support.ceph import CephServer

APART = 0.15  # seconds between refusals, instead of 5: Ceph's denies count at once
BUCKET = "probed"


@pytest.fixture(scope="module")
def role(ceph: CephServer) -> str:
    ceph.create_bucket(BUCKET)
    return ceph.create_role("probed", permissions={"Effect": "Allow", "Action": "s3:*", "Resource": "*"})


@pytest.fixture
async def aws(ceph: CephServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsProvider]:
    monkeypatch.setattr(probes, "APART", APART)
    given = settings_of(ceph, tmp_path, accept_unbounded_roles=True)  # Ceph has no permissions boundaries
    async with providing(given, epoch=7) as provider:
        yield provider


def order(role: str, lease_id: str, *, prefix: str = "in", probed: str = "in") -> MintOrder:
    """A session that may list below `prefix`, and is probed by a listing below `probed`."""
    listing = {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": f"arn:aws:s3:::{BUCKET}",
        "Condition": {"StringEquals": {"s3:prefix": prefix}},
    }
    putting = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{BUCKET}/*"}
    params = {
        "role_arn": role,
        "any_region": True,
        "revoke": "deny",
        "statements": [listing, putting],
        "probe": {"call": "s3:ListObjectsV2", "with": {"Bucket": BUCKET, "Prefix": probed}},
    }
    return order_of(lease_of(params, datetime.now(UTC), life=timedelta(minutes=10), lease_id=lease_id, epoch=7))


async def mint(aws: AwsProvider, ask: MintOrder) -> AwsSession:
    session = (await aws.mint(ask)).credential
    assert isinstance(session, AwsSession)
    return session


def put(ceph: CephServer, session: AwsSession) -> None:
    client = ceph.client(
        "s3",
        aws_access_key_id=session.access_key_id,
        aws_secret_access_key=session.secret_access_key.reveal(),
        aws_session_token=session.session_token.reveal(),
    )
    client.put_object(Bucket=BUCKET, Key="in/x", Body=b"1")


def denied_by(ceph: CephServer, lease_id: str) -> str:
    """The policy that names it."""
    (name,) = [name for name, held in ceph.role_policies("probed").items() if f"*:{lease_id}" in str(held)]
    return name


async def ended(aws: AwsProvider, ask: MintOrder, looks: int = 10) -> list[Progress]:
    """As the engine does it: attempt, wait as long as it says, look again."""
    told: list[Progress] = []
    while len(told) < looks:
        told.append(await aws.revoke(ask.ref))
        again = told[-1].again
        if again is None or again > timedelta(minutes=1):  # only the deny is looked at
            break
        await asyncio.sleep(again.total_seconds())
    return told


async def test_the_end_of_a_session_is_proven_and_its_sibling_works_on(
    ceph: CephServer, aws: AwsProvider, role: str
) -> None:
    ending, staying = order(role, "aaaaaaaaaaaaaaaa"), order(role, "bbbbbbbbbbbbbbbb")
    dead, alive = await mint(aws, ending), await mint(aws, staying)
    put(ceph, dead)

    begun = time.monotonic()
    told = await ended(aws, ending)

    assert [progress.evidence for progress in told] == [None, None, Evidence.PROBE_DENIED]
    assert time.monotonic() - begun >= 2 * APART
    assert {progress.step for progress in told} == {"DENY_WRITTEN"}
    with pytest.raises(ClientError, match="AccessDenied"):
        put(ceph, dead)
    put(ceph, alive)
    await aws.revoke(staying.ref)  # writes the list anew
    assert denied_by(ceph, "aaaaaaaaaaaaaaaa")  # until the bound, proof or not
    with pytest.raises(ClientError, match="AccessDenied"):
        put(ceph, dead)


async def test_a_call_that_the_scope_does_not_allow_proves_nothing(aws: AwsProvider, role: str) -> None:
    ask = order(role, "cccccccccccccccc", prefix="in", probed="out")
    await mint(aws, ask)
    (told,) = await ended(aws, ask)
    assert (told.evidence, told.again, told.step) == (None, SEE_AGAIN, "DENY_WRITTEN, PROBE_USELESS")


async def test_after_a_restart_the_bound_decides(ceph: CephServer, aws: AwsProvider, role: str) -> None:
    ask = order(role, "dddddddddddddddd")
    await mint(aws, ask)
    aws._prober.close()
    (told,) = await ended(aws, ask)
    assert (told.evidence, told.again, told.step) == (None, SEE_AGAIN, "DENY_WRITTEN, PROBE_NOT_KEPT")


async def test_a_deny_that_is_taken_back_begins_the_row_anew(ceph: CephServer, aws: AwsProvider, role: str) -> None:
    ask = order(role, "eeeeeeeeeeeeeeee")
    session = await mint(aws, ask)
    first = await aws.revoke(ask.ref)
    iam = ceph.client("iam")
    name = denied_by(ceph, "eeeeeeeeeeeeeeee")
    held = iam.get_role_policy(RoleName="probed", PolicyName=name)["PolicyDocument"]
    iam.delete_role_policy(RoleName="probed", PolicyName=name)
    await asyncio.sleep(APART)
    put(ceph, session)  # alive again, so it must not be reported dead
    found = [(await aws.revoke(ask.ref)).evidence]
    iam.put_role_policy(RoleName="probed", PolicyName=name, PolicyDocument=json.dumps(held, separators=(",", ":")))
    for _ in range(3):
        await asyncio.sleep(APART)
        found.append((await aws.revoke(ask.ref)).evidence)
    assert [first.evidence, *found] == [None, None, None, None, Evidence.PROBE_DENIED]


async def test_each_call_signs_as_its_own_session(aws: AwsProvider, role: str) -> None:
    """All of them share one client."""
    dead, alive = order(role, "ffffffffffffffff"), order(role, "gggggggggggggggg")
    sessions = [await mint(aws, dead), await mint(aws, alive)]
    await aws.revoke(dead.ref)
    calls = SessionCalls("probe", settings_at(""))
    listing = {"Bucket": BUCKET, "Prefix": "in"}
    answers = await asyncio.gather(*(calls.call(sessions[n % 2], "s3", "list_objects_v2", listing) for n in range(40)))
    await calls.close()
    assert [isinstance(answer, Failure) for answer in answers] == [True, False] * 20
