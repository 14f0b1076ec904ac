"""What the crashes happen to: three roles on Ceph, and a daemon that knows AWS by the front alone."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.crash.aws.front import AwsFront
from tests.e2e.lake import BUCKET, MORE, Lake
from tests.support.ceph import CephServer, ceph
from tests.support.daemon import HEAD, Deployment
from tests.support.proxy import serving
from tests.support.s3 import Lister

BROKER = "tests.crash.aws.armed_broker"
TEAMS = 4  # agents: one alone may not fill a role's list
PLACES = 60  # about, on the crowded role, before the first crash
SILENCE = 5.0  # seconds
TTL: Mapping[str, int] = {"plain": 90, "probed": 120, "crowded": 90}  # seconds; by scope
TIMINGS = {
    "mint_timeout": "4s",
    "heartbeat": "2s",
    "silence_bound": f"{SILENCE:g}s",
    "claim_window": "4s",
    "drain_grace": "5s",
    "clock_skew": "2s",
}
_SCOPE = """
  {scope}:
    aws:
      role_arn: {arn}
      any_region: true
      statements: [{{Effect: Allow, Action: "s3:ListBucket", Resource: "arn:aws:s3:::{bucket}"}}]
{more}
    ttl: {ttl}s
    tier: elevated"""
_MORE: Mapping[str, str] = {
    "plain": "      revoke: deny",
    "probed": f'      probe: {{call: "s3:ListObjectsV2", with: {{Bucket: {BUCKET}, MaxKeys: 1}}}}',
    "crowded": "      when_full: cutoff",
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """All of it running, but the daemon. `roles`: scope → its role's name."""

    front: AwsFront
    deployment: Deployment
    lister: Lister
    roles: Mapping[str, str]

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(TTL)

    def scope_of(self, role: str) -> str:
        """A role is one scope's."""
        return next(scope for scope, its in self.roles.items() if its == role)


def _scope_map(arns: Mapping[str, str]) -> str:
    scopes = "".join(
        _SCOPE.format(scope=scope, arn=arn, bucket=BUCKET, more=_MORE[scope], ttl=TTL[scope])
        for scope, arn in arns.items()
    )
    teams = ", ".join(f"team{number}" for number in range(TEAMS))
    return f"""{HEAD}
scopes:{scopes}
tiers:
  elevated: {{hourly: 100000, budget: 1000}}
grants:
  teams: {{workloads: [load], workflows: [{teams}], scopes: [{", ".join(arns)}], max_step: 2h}}
"""


@contextlib.asynccontextmanager
async def site(server: CephServer, folder: Path, *, seed: int) -> AsyncIterator[Site]:
    """On a cluster that is up; its roles are named after the seed."""
    lake = Lake(ceph=server, folder=folder)
    lake.create_bucket()
    roles = {scope: f"crash-{scope}-{seed}" for scope in TTL}
    arns = {
        scope: lake.crowded_role(role, PLACES) if scope == "crowded" else lake.role(role)
        for scope, role in roles.items()
    }
    front = AwsFront(port=0, upstream=urlsplit(server.url).port or 0, ceph=server, rng=random.Random(seed))
    for role in roles.values():
        front.know(role)
    async with serving(front):
        deployment = lake.deployment(
            _scope_map(arns),
            timings=TIMINGS,
            endpoint_url=front.address,
            connect_timeout="1s",
            read_timeout="2s",
        )
        deployment.module = BROKER
        debug: dict[str, Any] = {"log": {"level": "debug"}}  # what must not be told is not told there either
        deployment.more = {**MORE, **debug}
        deployment.write_config()
        yield Site(front=front, deployment=deployment, lister=Lister(server.url, server.region, BUCKET), roles=roles)


@contextlib.contextmanager
def cluster(*, keep: bool = False) -> Iterator[tuple[CephServer, Path]]:
    """A Ceph of its own, and a folder on a real disk, deleted at the end."""
    base = Path("build")
    base.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="crash-aws-", dir=base)).resolve()
    try:
        (folder / "ceph").mkdir()
        with ceph(folder / "ceph") as server:
            yield server, folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
