"""Programs that know only AWS's own conventions, on a real STS: one lease for all of their reads, dead at the end.

`STEPCRED_LONG=1`: the parallel readers read for 100 s, over two lifetimes of the lease.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.model import Lease, LeaseState
from tests.e2e.lake import Lake, scope_map
from tests.support.certs import Creds
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

LONG = bool(os.environ.get("STEPCRED_LONG"))
READERS = 200
READ_FOR = 100.0 if LONG else 3.0  # seconds
TTL = 61.0 if LONG else 180.0  # seconds; the broker gives none under 60, and writes no deny for what has less left
EARLIEST = 0.75  # of its life, until a successor is asked for
SILENCE = 4.0  # seconds
STEPCRED = [sys.executable, "-c", "from stepcred.cli import main; main()"]
# The program: it makes ten calls with what boto3's default chain finds, and tells with what.
PROGRAM = """
import boto3, json
session = boto3.Session()
s3 = session.client("s3")
for _ in range(10):
    s3.list_objects_v2(Bucket="lake", MaxKeys=1)
found = session.get_credentials()
kept = found.get_frozen_credentials()
print(json.dumps([found.method, kept.access_key, kept.secret_key, kept.token]))
"""


@dataclass
class Site:
    lake: Lake
    deployment: Deployment
    creds: Creds

    def env(self, run: str, **more: str) -> dict[str, str]:
        """Of a step; without anything that AWS's SDKs would find in ours."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        names = {"STEPCRED_WORKFLOW": "team0", "STEPCRED_RUN": run, "STEPCRED_STEP": "load"}
        return ours | self.deployment.env(self.creds) | names | {"HOME": "/nonexistent"} | more

    def leases(self, run: str) -> list[Lease]:
        """As the journal's database has them."""
        with self.deployment.store() as store:
            found = store.read(lambda tx: tx.leases_in(*LeaseState))
            keys = {lease.step_id: store.read(lambda tx, i=lease.step_id: tx.step(i)) for lease in found}  # type: ignore[misc]
        return [lease for lease in found if (step := keys[lease.step_id]) is not None and step.key.run == run]

    def dies(self, session: Any) -> None:
        wait_until(lambda: self.lake.tries(session) == "AccessDenied", within=90, what="the session dead")


@pytest.fixture(scope="module")
def site(lake: Lake) -> Iterator[Site]:
    timings = {"heartbeat": "1s", "silence_bound": f"{SILENCE:g}s", "claim_window": "30s"}
    deployment = lake.deployment(scope_map(lake.role("readers"), ttl=f"{TTL:g}s\n    max_ttl: 10m"), timings=timings)
    with deployment.daemon():
        yield Site(lake, deployment, deployment.agent("workflow/team0/step/load"))


@dataclass
class Sidecar:
    process: subprocess.Popen[str]
    folder: Path

    @property
    def env_file(self) -> Path:
        return self.folder / "private" / "env"

    def session(self) -> Any:
        """As a reader gets it, with the issue's three fields."""
        body = self.read()
        names = {"access_key_id": "AccessKeyId", "secret_access_key": "SecretAccessKey", "session_token": "Token"}
        return SimpleNamespace(**{ours: body[theirs] for ours, theirs in names.items()})

    def read(self) -> dict[str, str]:
        request = urllib.request.Request(self.uri, headers={"Authorization": self.token})
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, str] = json.load(answer)
        return found

    def __post_init__(self) -> None:
        wait_until(lambda: self.env_file.exists() or self.process.poll() is not None, within=60, what="ready")
        assert self.process.poll() is None, self.process.communicate()
        lines = dict(
            line.removeprefix("export ").split("=", 1)
            for line in self.env_file.read_text().splitlines()
            if line.startswith("export ")
        )
        (self.uri,) = shlex.split(lines["AWS_CONTAINER_CREDENTIALS_FULL_URI"])
        self.token = (self.folder / "private" / "token").read_text()

    def ended(self) -> str:
        """What it has said, once it is over."""
        _, told = self.process.communicate(timeout=60)
        return told


def started(env: Mapping[str, str], folder: Path) -> Sidecar:
    argv = [*STEPCRED, "sidecar", "--aws", "lake", "--listen", "127.0.0.1:0", "--allow-disk"]
    argv += ["--token-file", str(folder / "private" / "token"), "--env-file", str(folder / "private" / "env")]
    return Sidecar(subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True), folder)


def test_boto3_reads_through_the_endpoint_and_the_session_dies_with_the_sidecar(site: Site, tmp_path: Path) -> None:
    sidecar = started(site.env("endpoint"), tmp_path)
    shell = f". {sidecar.env_file} && exec {shlex.join([sys.executable, '-c', PROGRAM])}"
    done = subprocess.run(["sh", "-c", shell], env=site.env("endpoint"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    session = sidecar.session()
    assert json.loads(done.stdout) == [
        "container-role",
        session.access_key_id,
        session.secret_access_key,
        session.session_token,
    ]
    assert site.lake.tries(session, prefix="team0/") == ""
    assert len(site.leases("endpoint")) == 1
    sidecar.process.send_signal(signal.SIGTERM)
    told = sidecar.ended()
    assert sidecar.process.returncode == 0, told
    assert "exposed until" in told.splitlines()[-1]  # what AWS can promise: the deny is written, and spreads
    site.dies(session)
    assert not sidecar.env_file.exists()


def test_parallel_readers_cost_one_mint_for_each_lifetime(site: Site, tmp_path: Path) -> None:
    sidecar = started(site.env("storm"), tmp_path)
    begun, seen = time.monotonic(), set[str]()
    reads = [0] * READERS

    def reader(number: int) -> None:
        while time.monotonic() - begun < READ_FOR:
            seen.add(sidecar.read()["AccessKeyId"])
            reads[number] += 1
            time.sleep(0.05)

    with ThreadPoolExecutor(READERS) as pool:
        for done in [pool.submit(reader, number) for number in range(READERS)]:
            done.result()  # not one read was refused
    lifetimes = 1 + int((time.monotonic() - begun) / (TTL * EARLIEST))
    assert min(reads) >= 1
    assert len(seen) == len(site.leases("storm")) <= lifetimes
    assert lifetimes == 1 or len(seen) > 1
    sidecar.process.send_signal(signal.SIGTERM)
    sidecar.ended()


def test_a_sidecar_that_is_killed_leaves_nothing_alive(site: Site, tmp_path: Path) -> None:
    sidecar = started(site.env("killed"), tmp_path)
    session = sidecar.session()
    assert site.lake.tries(session, prefix="team0/") == ""
    sidecar.process.kill()
    sidecar.ended()
    site.dies(session)  # by silence: its time is a minute, and nobody is left to end it
    (lease,) = site.leases("killed")
    assert lease.end_reason is not None
    assert lease.end_reason.value == "SILENT"


def test_boto3_reads_through_credential_process_and_the_session_dies_with_the_program(
    site: Site, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    endpoint = site.lake.ceph.url
    process = shlex.join([*STEPCRED, "aws-credential-process", "lake", "--linger", "0s"])
    config.write_text(f"[default]\ncredential_process = {process}\nregion = eu-west-1\nendpoint_url = {endpoint}\n")
    with tempfile.TemporaryDirectory(prefix="keepers-", dir="/tmp") as home:
        env = site.env("process", AWS_CONFIG_FILE=str(config), XDG_RUNTIME_DIR=home)
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        method, key_id, key, token = json.loads(done.stdout)
        assert method == "custom-process"
        assert len(site.leases("process")) == 1  # ten calls ask it ten times: its time is under 15 minutes
        site.dies(SimpleNamespace(access_key_id=key_id, secret_access_key=key, session_token=token))
        wait_until(lambda: not list(Path(home).glob("stepcred/*.sock")), within=30, what="the keeper gone")
