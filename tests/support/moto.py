"""Moto's STS, IAM and S3 as a process of its own on a free loopback port, checking IAM permissions.

What it proves: call shapes, trust policies, key and signature errors, and that a role policy with a deny
stops the role's sessions. What it does not: it ignores session policies, expiry and every condition
(measured), so a deny meant for one session denies the whole role: give each session its own role there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.aws import aws_client, document
from tests.support.processes import accepts, free_port, running

ACCOUNT = "123456789012"  # the account of moto's default backend
BOUNDARY = "arn:aws:iam::aws:policy/PowerUserAccess"  # moto does not look at it; the broker wants one


@dataclass(frozen=True, kw_only=True)
class MotoServer:
    """A running server. The keys are those of an administrator (throw-away)."""

    url: str
    access_key_id: str
    secret_access_key: str
    pid: int
    region: str = "eu-west-1"
    account: str = ACCOUNT

    @property
    def key(self) -> tuple[str, str]:
        """Its id and its secret."""
        return self.access_key_id, self.secret_access_key

    def client(self, service: str, **credentials: str) -> Any:
        """A boto3 client; the administrator's unless `credentials` (aws_access_key_id=…, …) are given."""
        return aws_client(
            service,
            self.url,
            self.region,
            credentials or {"aws_access_key_id": self.access_key_id, "aws_secret_access_key": self.secret_access_key},
        )

    def create_role(
        self, name: str, trust: Mapping[str, Any] | None = None, permissions: Mapping[str, Any] | None = None
    ) -> str:
        """Make a role and return its ARN. Default trust: this account; default permissions: all of S3."""
        iam = self.client("iam")
        trust = trust or {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust), PermissionsBoundary=BOUNDARY)
        permissions = permissions or {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        iam.put_role_policy(RoleName=name, PolicyName="permissions", PolicyDocument=document(permissions))
        return str(made["Role"]["Arn"])

    def create_user(self, name: str, permissions: Mapping[str, Any]) -> tuple[str, str]:
        """Make a user with one inline policy; its (access key id, secret access key)."""
        return _create_user(self.client("iam"), name, permissions)

    def create_bucket(self, name: str) -> None:
        """In the server's region."""
        self.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": self.region})


@contextlib.contextmanager
def moto_server(folder: Path, *, enforce_iam: bool = True) -> Iterator[MotoServer]:
    """Start it (log in `folder`), make an administrator, then let it check every call's permissions."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))}
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(argv, log=folder / "moto.log", ready=lambda: accepts(port), env=environment) as process:
        iam = aws_client("iam", url, "us-east-1", {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"})
        key_id, key = _create_user(iam, "admin", {"Effect": "Allow", "Action": "*", "Resource": "*"})
        if enforce_iam:
            _reset_auth(url)
        yield MotoServer(url=url, access_key_id=key_id, secret_access_key=key, pid=process.pid)


def _create_user(iam: Any, name: str, permissions: Mapping[str, Any]) -> tuple[str, str]:
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="permissions", PolicyDocument=document(permissions))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return str(key["AccessKeyId"]), str(key["SecretAccessKey"])


def _reset_auth(url: str) -> None:
    """From the next call on moto checks permissions; it says so only through its own API."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        f"{url}/moto-api/reset-auth", data=b"0", method="POST", headers={"Content-Type": "text/plain"}
    )
    opener.open(request, timeout=10).close()
