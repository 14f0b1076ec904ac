"""Sides at an instant STS and at a real one: through the broker, and as somebody would do it with boto3."""

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

from tests.bench.aws_stub import REGION, sts_stub
from tests.bench.targets import SCOPES, scope_map_of, scope_name
from tests.support.aws import aws_section, document
from tests.support.ceph import CephServer, ceph, find_ceph
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


def ceph_scope(number: int) -> str:
    return f"ceph{number % SCOPES}"


def scope_map(sts: str = "") -> str:
    """Scopes as of the other sides; at the real `sts` the same, and those of `deny`, each with a role of its own."""
    statements = json.dumps(STATEMENTS).replace("/w0/", "/{workflow}/")

    def line(name: str, role: str, revoke: str, at: str = "") -> str:
        where = f'sts_endpoint: "{at}", ' if at else ""
        block = f'{where}role_arn: "arn:aws:iam:::role/{role}", any_region: true, revoke: {revoke}, statements: {statements}'
        return f"  {name}: {{aws: {{{block}}}, ttl: 5m, tier: low}}"

    scopes = {scope_name(number): line(scope_name(number), ROLE, "bound") for number in range(SCOPES)}
    if sts:
        for number in range(SCOPES):
            scopes[ceph_scope(number)] = line(ceph_scope(number), ROLE, "bound", sts)
        for name in map(deny_scope, range(DENY_ROLES)):
            scopes[name] = line(name, f"{ROLE}-{name}", "deny", sts)
    return scope_map_of(scopes.values(), scopes)


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

    sts: Sts  # the instant one
    ceph: Sts | None  # where it is installed
    iam: Counting | None  # Ceph's
    section: Mapping[str, Any]  # [aws]
    pids: Mapping[str, int]  # whose CPU is read

    @property
    def scope_map(self) -> str:
        return scope_map(self.ceph.url if self.ceph else "")


@contextlib.contextmanager
def aws_world(folder: Path) -> Iterator[AwsWorld]:
    """The instant STS; and Ceph, where it is installed, with every role that the scopes name."""
    with sts_stub(folder) as (url, pid), contextlib.ExitStack() as stack:
        key, more, real, iam, pids = ("AKIAEXAMPLE", "throw-away"), {}, None, None, {"sts": pid}
        if find_ceph():
            server, iam = stack.enter_context(_ceph(folder / "ceph"))
            key, pids["ceph"] = server.key, server.pid
            more = {"iam_endpoint_url": iam.address, "accept_unbounded_roles": True}
            real = _sts(server.url, server.region, key)
        section = aws_section(url, folder, key, **more)
        yield AwsWorld(sts=_sts(url, REGION, key), ceph=real, iam=iam, section=section, pids=pids)


@contextlib.contextmanager
def _ceph(folder: Path) -> Iterator[tuple[CephServer, Counting]]:
    folder.mkdir()
    with ceph(folder) as server, counting(urlsplit(server.url).port or 0) as iam:
        server.create_bucket(BUCKET)
        for name in (ROLE, *(f"{ROLE}-{deny_scope(number)}" for number in range(DENY_ROLES))):
            server.create_role(name)
        yield server, iam


def _sts(url: str, region: str, key: tuple[str, str]) -> Sts:
    return Sts(url=url, region=region, access_key_id=key[0], secret_access_key=key[1])


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
