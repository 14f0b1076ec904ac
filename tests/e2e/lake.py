"""A bucket on a real STS, daemons that give out sessions of a role for it, and what such a session can still do."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from broker.model import Lease
from tests.e2e.wire import Wire, wire
from tests.support.aws import aws_section, document
from tests.support.ceph import CephServer
from tests.support.daemon import HEAD, Deployment

BUCKET = "lake"
ROLE_CHARACTERS = 10_240  # of all inline policies of a role, by AWS's count; Ceph takes any number (measured)
BASE = 190  # characters of a deny list with one entry
ENTRY = 21  # each further one
# The front door's own bounds are what other tests are about.
MORE: Mapping[str, Any] = {
    "limits": {"request_rate": 1e6, "request_burst": 1_000_000},
    "log": {"level": "info"},
}


def scope_map(role_arn: str, *, ttl: str = "3m", tier: str = "elevated", more: str = "", scopes: str = "") -> str:
    """One scope `lake` for the workflows team0, team1, …; `more`: keys of its aws block; `scopes`: others beside it."""
    return f"""{HEAD}
scopes:
  lake:
    aws:
      role_arn: {role_arn}
      any_region: true
      statements:
        - {{Effect: Allow, Action: "s3:ListBucket", Resource: "arn:aws:s3:::{BUCKET}"}}
        - {{Effect: Allow, Action: ["s3:GetObject", "s3:PutObject"], Resource: "arn:aws:s3:::{BUCKET}/{{workflow}}/*"}}
{more}
    ttl: {ttl}
    tier: {tier}
{scopes}
tiers:
  elevated: {{hourly: 100000, budget: 100}}
grants:
  teams: {{workloads: [load], workflows: [team0, team1, team2, team3], scopes: [lake{", other" if "  other:" in scopes else ""}], max_step: 2h}}
"""


PROBE = f'      probe: {{call: "s3:ListObjectsV2", with: {{Bucket: {BUCKET}, MaxKeys: 1}}}}'


@dataclass
class Lake:
    """One Ceph, for as many daemons as somebody likes."""

    ceph: CephServer
    folder: Path
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        # Ceph knows no boundaries (measured).
        self._section = aws_section(self.ceph.url, self.folder, self.ceph.key, accept_unbounded_roles=True)

    def create_bucket(self) -> None:
        """Once for the server; the owner may make it again."""
        self.ceph.create_bucket(BUCKET)

    def role(self, name: str) -> str:
        """A role that may do everything with S3; its ARN."""
        return self.ceph.create_role(name)

    def crowded_role(self, name: str, places: int) -> str:
        """One on which somebody else's inline policies leave room for about so many denies."""
        arn = self.role(name)
        room = ROLE_CHARACTERS - self.inline_characters(name) - BASE - places * ENTRY
        resources: list[str] = []
        deny = {"Effect": "Deny", "Action": "s3:PutObject", "Resource": resources}
        while len(document(deny)) < room:
            resources.append(f"arn:aws:s3:::elsewhere/{len(resources):04}")
        self.ceph.client("iam").put_role_policy(
            RoleName=name, PolicyName="somebody-elses", PolicyDocument=document(deny)
        )
        return arn

    def deployment(self, text: str, *, timings: Mapping[str, str] | None = None, **aws: Any) -> Deployment:
        """A new daemon's files. `aws`: more of its [aws] section. Its steps may be silent for minutes."""
        times = {"silence_bound": "10m", "claim_window": "10m", **(timings or {})}
        return Deployment(
            self.folder / f"daemon{next(self._numbers)}", text, aws={**self._section, **aws}, timings=times, more=MORE
        )

    def tries(self, session: Any, *, prefix: str = "") -> str:
        """List the bucket with the credential of an IssueCredential answer: "" when it may, else the refusal's code."""
        s3 = self.ceph.client(
            "s3",
            aws_access_key_id=session.access_key_id,
            aws_secret_access_key=session.secret_access_key,
            aws_session_token=session.session_token,
        )
        try:
            s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix, MaxKeys=1)
        except ClientError as error:
            return str(error.response.get("Error", {}).get("Code", "")) or str(error.response.get("Code", "unknown"))
        finally:
            s3.close()
        return ""

    def all_denied(self, *sessions: Any) -> bool:
        return {self.tries(one) for one in sessions} == {"AccessDenied"}

    def inline_characters(self, role: str) -> int:
        """Of the role's inline policies together, as AWS counts them."""
        policies = self.ceph.role_policies(role)
        return sum(len(json.dumps(one, separators=(",", ":"))) for one in policies.values())


@dataclass(frozen=True, kw_only=True)
class Step:
    """One that holds a session."""

    client: Wire
    handle: str
    lease_id: str
    session: Any  # of the wire; a secret, and a throw-away one


def begin(client: Wire, run: str, team: int) -> Step:
    """A step of this team's, and a session for it. Raises grpc.RpcError."""
    return take(client, client.begin(run, "lake", workflow=f"team{team}"))


def take(client: Wire, handle: str) -> Step:
    """A session for this step. Raises grpc.RpcError."""
    answer = client.issue(handle, "lake")
    client.heartbeat(handle, answer.lease.lease_id)  # what nobody claimed would end with the epoch
    return Step(client=client, handle=handle, lease_id=answer.lease.lease_id, session=answer.credential.aws_session)


@contextmanager
def teams(deployment: Deployment, number: int) -> Iterator[list[Wire]]:
    """The daemon runs; an agent of each team, from team0."""
    with ExitStack() as stack:
        stack.enter_context(deployment.daemon())
        agents = [deployment.agent(f"workflow/team{team}/step/load") for team in range(number)]
        yield [stack.enter_context(wire(deployment, creds)) for creds in agents]


def row(deployment: Deployment, lease_id: str) -> Lease:
    """As the daemon's database has it now."""
    with deployment.store() as store:
        found = store.read(lambda tx: tx.lease(lease_id))
    assert found is not None
    return found
