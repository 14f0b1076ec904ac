"""A real STS: Ceph's S3, STS and IAM on loopback, in a throw-away folder, up in a second.

What it proves: session policies, conditions, denies, expiry, trust, signatures. Where it is not AWS is in
tests/integration/test_aws_real_sts.py. Nothing is read or written outside the folder, and no root is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.aws import aws_client, document
from tests.support.processes import accepts, free_port, running

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "osdmaptool")
MISSING = (
    "no Ceph on this machine (Debian: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common)"
)
SHORTEST_SESSION = 2  # seconds; AWS's is 900, and a test that waits for an expiry waits this long

_CONF = """
[global]
fsid = {fsid}
mon host = {mon}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
# Without it the gateway asks the monitor for a secret it does not have, for ever.
ms mon client mode = crc
admin socket =
run dir = {folder}
crash dir = {folder}
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
log file =
log to stderr = true
mon cluster log file =
mon data avail crit = 0
mon allow pool size one = true
mon max pg per osd = 1000
# Every pool is a proposal, and a proposal waits a second for company: this is 12 of 13 seconds.
paxos propose interval = 0.02
paxos min wait = 0.01
osd objectstore = memstore
osd crush chooseleaf type = 0
osd crush update on start = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
[client]
# Without nodelay every second call takes 40 ms (Nagle against delayed ACKs).
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw enable apis = s3, admin, sts, iam
rgw thread pool size = 16
rgw s3 auth use sts = true
rgw sts key = {sts_key}
rgw sts min session duration = {shortest}
"""


@dataclass(frozen=True, kw_only=True)
class CephServer:
    """A running cluster. The keys are those of an administrator (throw-away) who owns every bucket made here."""

    url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    conf: Path
    pid: int  # the gateway's
    version: str  # "16.2.15": what is not as on AWS differs between them
    region: str = "eu-west-1"  # signed, not looked at
    account: str = ""  # ARNs have none: arn:aws:iam:::role/x

    @property
    def key(self) -> tuple[str, str]:
        """Its id and its secret."""
        return self.access_key_id, self.secret_access_key

    def client(self, service: str, **credentials: str) -> Any:
        """A boto3 client; the administrator's unless `credentials` (aws_access_key_id=…, …) are given."""
        return aws_client(service, self.url, self.region, credentials or self._keys())

    def _keys(self) -> dict[str, str]:
        return {"aws_access_key_id": self.access_key_id, "aws_secret_access_key": self.secret_access_key}

    def create_role(
        self,
        name: str,
        trust: Mapping[str, Any] | None = None,
        permissions: Mapping[str, Any] | None = None,
        *,
        max_seconds: int = 3600,
    ) -> str:
        """Make a role and return its ARN. Default trust: everybody here; default permissions: all of S3."""
        iam = self.client("iam")
        trust = trust or {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust), MaxSessionDuration=max_seconds)[
            "Role"
        ]
        permissions = permissions or {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        iam.put_role_policy(RoleName=name, PolicyName="permissions", PolicyDocument=document(permissions))
        return str(role["Arn"])

    def role_policies(self, role: str) -> dict[str, Any]:
        """The role's inline policies, name → document."""
        iam = self.client("iam")
        names = iam.list_role_policies(RoleName=role)["PolicyNames"]
        held = {name: iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names}
        return {name: json.loads(text) if isinstance(text, str) else text for name, text in held.items()}

    def create_user(
        self, name: str, permissions: Mapping[str, Any] | None = None, *, caps: str = ""
    ) -> tuple[str, str]:
        """Make a user; its (access key id, secret access key).

        `permissions` is one inline policy; `caps` ("roles=*;user-policy=*") open IAM beside it. Whom a role
        trusts is all that AssumeRole asks: a user's own policy is not looked at there.
        """
        with_caps = [f"--caps={caps}"] if caps else []
        user = self.admin("user", "create", f"--uid={name}", f"--display-name={name}", *with_caps)
        if permissions:
            self.client("iam").put_user_policy(
                UserName=name, PolicyName="permissions", PolicyDocument=document(permissions)
            )
        return str(user["keys"][0]["access_key"]), str(user["keys"][0]["secret_key"])

    def create_bucket(self, name: str) -> None:
        """The administrator's: others need a policy for it."""
        self.client("s3").create_bucket(Bucket=name)

    def session(
        self, role_arn: str, name: str, *, policy: str = "", seconds: int = 900, **parameters: Any
    ) -> dict[str, str]:
        """Assume a role as the administrator; credentials for `client("s3", **session)`.

        `seconds` may be as few as SHORTEST_SESSION.
        """
        given = {"Policy": policy, **parameters} if policy else parameters
        sts = aws_client("sts", self.url, self.region, self._keys(), checked=False)
        minted = sts.assume_role(RoleArn=role_arn, RoleSessionName=name, DurationSeconds=seconds, **given)[
            "Credentials"
        ]
        return {
            "aws_access_key_id": minted["AccessKeyId"],
            "aws_secret_access_key": minted["SecretAccessKey"],
            "aws_session_token": minted["SessionToken"],
        }

    def admin(self, *arguments: str) -> Any:
        """Run `radosgw-admin` (70 ms) and return what it says. Raises CalledProcessError."""
        argv = ["radosgw-admin", "-c", str(self.conf), "--no-mon-config", "--log-to-stderr=false", *arguments]
        told = subprocess.run(argv, check=True, capture_output=True, timeout=60, env=_environment()).stdout
        return json.loads(told) if told.strip() else None


def find_ceph() -> bool:
    """Are all its programs here?"""
    return all(shutil.which(name) for name in PROGRAMS)


@contextlib.contextmanager
def ceph(folder: Path) -> Iterator[CephServer]:
    """Make a cluster in `folder` (logs there too) and start it; at the end the gateway stops first, the monitor last."""
    port, conf = free_port(), folder / "ceph.conf"
    mon_port = _prepare(folder, conf, port)
    url, key_id, key = f"http://127.0.0.1:{port}", secrets.token_hex(10), secrets.token_hex(20)
    with contextlib.ExitStack() as stack:

        def start(program: str, *arguments: str, ready: Any) -> subprocess.Popen[bytes]:
            argv = [program, "-c", str(conf), "-f", *arguments]
            return stack.enter_context(running(argv, log=folder / f"{program}.log", ready=ready, env=_environment()))

        start("ceph-mon", "-i", "a", ready=lambda: accepts(mon_port))
        osd = start("ceph-osd", "-i", "0", "--no-mon-config", ready=lambda: True)

        def answers() -> bool:
            if osd.poll() is not None:
                raise RuntimeError(f"ceph-osd ended:\n{(folder / 'ceph-osd.log').read_text()[-2000:]}")
            return _answers(url)

        gateway = start("radosgw", "-n", "client.admin", "--no-mon-config", ready=answers)
        server = CephServer(
            url=url, access_key_id=key_id, secret_access_key=key, conf=conf, pid=gateway.pid, version=_version()
        )
        keys = (f"--access-key={key_id}", f"--secret-key={key}", "--caps=roles=*;user-policy=*;users=*")
        server.admin("user", "create", "--uid=admin", "--display-name=admin", *keys)
        _warm_up(server)
        yield server


def _prepare(folder: Path, conf: Path, port: int) -> int:
    """Configuration and empty stores; returns the monitor's port."""
    fsid, v2, v1 = str(uuid.uuid4()), free_port(), free_port()
    mon = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
    conf.write_text(
        _CONF.format(
            fsid=fsid, mon=mon, folder=folder, port=port, sts_key=secrets.token_hex(8), shortest=SHORTEST_SESSION
        )
    )
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    (folder / "keyring").touch()
    monmap, osdmap = str(folder / "monmap"), str(folder / "osdmap")
    for argv in (
        [
            "monmaptool",
            "-c",
            str(conf),
            "--create",
            "--fsid",
            fsid,
            "--addv",
            "a",
            mon,
            "--enable-all-features",
            monmap,
        ],
        # A map that has the one disk already: no need to ask a running monitor for it.
        ["osdmaptool", "-c", str(conf), "--createsimple", "1", osdmap],
        ["ceph-mon", "-c", str(conf), "-i", "a", "--mkfs", "--monmap", monmap, "--osdmap", osdmap],
        ["ceph-osd", "-c", str(conf), "-i", "0", "--mkfs", "--no-mon-config"],
    ):
        done = subprocess.run(argv, check=False, capture_output=True, timeout=60, env=_environment())
        if done.returncode:
            raise RuntimeError(f"{argv[0]} ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
    return v2


def _warm_up(server: CephServer) -> None:
    """IAM, STS and S3 once; the first role also makes the pool without which ListRoles fails."""
    session = server.session(server.create_role("warm-up"), "warm-up")
    server.client("s3", **session).list_buckets()
    server.client("iam").delete_role_policy(RoleName="warm-up", PolicyName="permissions")
    server.client("iam").delete_role(RoleName="warm-up")


def _environment() -> dict[str, str]:
    """Without what would make its programs read other places."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CEPH_")}


def _version() -> str:
    told = subprocess.run(["radosgw", "--version"], check=True, capture_output=True, timeout=60, env=_environment())
    return told.stdout.decode().split()[2]


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True
