"""Sides at a real STS: through the broker, and as somebody would do it with boto3."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.bench.targets import SCOPES, scope_map_of, scope_name
from tests.support.aws import aws_section, document
from tests.support.ceph import CephServer, ceph
from tests.support.proxy import Counting, counting

ROLE = "bench"
DENY_ROLES = 24  # one after the other: a sample's denies find room, and nobody else's
BUCKET = "lake"
STATEMENTS = (
    {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{BUCKET}"},
    {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"arn:aws:s3:::{BUCKET}/w0/*"},
)
ENDS = 300  # step ends that PutRolePolicy is counted for


def deny_scope(number: int) -> str:
    return f"deny{number % DENY_ROLES}"


def scope_map() -> str:
    """Scopes as of the other sides; and those of `deny`, each with a role of its own."""
    statements = json.dumps(STATEMENTS).replace("/w0/", "/{workflow}/")

    def line(name: str, role: str, revoke: str) -> str:
        block = (
            f'{{role_arn: "arn:aws:iam:::role/{role}", any_region: true, revoke: {revoke}, statements: {statements}}}'
        )
        return f"  {name}: {{aws: {block}, ttl: 5m, tier: low}}"

    minted = [scope_name(number) for number in range(SCOPES)]
    denied = [deny_scope(number) for number in range(DENY_ROLES)]
    scopes = [line(name, ROLE, "bound") for name in minted] + [line(name, f"{ROLE}-{name}", "deny") for name in denied]
    return scope_map_of(scopes, minted + denied)


@dataclass(frozen=True, kw_only=True)
class Sts:
    """Where it is, and a key for it (throw-away)."""

    url: str
    region: str
    access_key_id: str
    secret_access_key: str


@dataclass(frozen=True, kw_only=True)
class AwsWorld:
    """Running."""

    server: CephServer
    iam: Counting
    section: Mapping[str, Any]  # [aws]

    @property
    def sts(self) -> Sts:
        server = self.server
        return Sts(
            url=server.url,
            region=server.region,
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
        )


@contextlib.contextmanager
def aws_world(folder: Path) -> Iterator[AwsWorld]:
    """Ceph with every role that the scopes name."""
    (folder / "ceph").mkdir()
    with ceph(folder / "ceph") as server, counting(urlsplit(server.url).port or 0) as iam:
        server.create_bucket(BUCKET)
        for name in (ROLE, *(f"{ROLE}-{deny_scope(number)}" for number in range(DENY_ROLES))):
            server.create_role(name)
        section = aws_section(server.url, folder, server.key, iam_endpoint_url=iam.address, accept_unbounded_roles=True)
        yield AwsWorld(server=server, iam=iam, section=section)


class AssumeRole:
    """boto3 as its documentation shows it, with one client for all threads and a policy like the broker's."""

    _numbers = itertools.count()

    def __init__(self, sts: Sts) -> None:
        self._sts = sts
        self._threads: ThreadPoolExecutor | None = None
        self._client: Any = None

    async def prepare(self, workers: int) -> None:
        import boto3
        from botocore.config import Config

        self._threads = ThreadPoolExecutor(workers)
        self._client = self._client or boto3.client(
            "sts",
            endpoint_url=self._sts.url,
            region_name=self._sts.region,
            aws_access_key_id=self._sts.access_key_id,
            aws_secret_access_key=self._sts.secret_access_key,
            config=Config(max_pool_connections=64, proxies={}),
        )

    async def once(self, worker: int) -> Mapping[str, float]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._assume)

    def _assume(self) -> Mapping[str, float]:
        start = time.perf_counter()
        self._client.assume_role(
            RoleArn=f"arn:aws:iam:::role/{ROLE}",
            RoleSessionName=f"bench-{next(self._numbers)}",
            DurationSeconds=900,
            Policy=document(*STATEMENTS),
        )
        return {"issue": time.perf_counter() - start}

    async def finish(self) -> None:
        if self._threads:
            self._threads.shutdown()
