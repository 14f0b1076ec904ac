"""Everything that the bench talks to, each a process of its own, in one temporary folder on a real disk."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

from tests.bench.aws import AwsWorld, aws_world
from tests.bench.aws import scope_map as aws_scope_map
from tests.bench.load import Sample
from tests.bench.raft import allow_broker, allow_direct
from tests.bench.targets import AGENTS, RUNAWAY, Agent, Direct, Endpoint, Targets, scope_map
from tests.support.ceph import find_ceph
from tests.support.daemon import Deployment
from tests.support.processes import accepts, free_port, running, stop
from tests.support.raft import raft_openbao

UNLIMITED = 1_000_000  # neither the guard nor the request limit is what is measured here
CONFIG: dict[str, Any] = {
    "guard": {"low": {"budget": UNLIMITED, "hourly": UNLIMITED}},
    "limits": {"request_rate": UNLIMITED, "request_burst": UNLIMITED},
    "log": {"level": "info"},  # the default
}
LIMITED = {name: part for name, part in CONFIG.items() if name != "limits"}
NO_VAULT = {"address": "http://127.0.0.1:1"}  # a config needs a provider; the null broker does not use it


class Load:
    """The load generator's other end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders: IO[str] = process.stdin
        self._answers: IO[str] = process.stdout

    def sample(self, side: str, *, concurrency: int, seconds: float) -> Sample:
        """One side for so long. Raises RuntimeError when the generator has died; what it said is on stderr."""
        print(json.dumps({"side": side, "concurrency": concurrency, "seconds": seconds}), file=self._orders, flush=True)
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError(f"the load generator ended while measuring {side}")
        return Sample(**json.loads(answer))


@dataclass(frozen=True, kw_only=True)
class World:
    """All of it running."""

    load: Load
    null_pid: int
    vault_pid: int
    aws: AwsWorld | None
    idle_mb: dict[int, float]  # of a daemon before its first call, by pid


def rss_mb(pid: int, field: str = "VmRSS") -> float:
    """Resident memory in MB (10^6 bytes); `VmHWM` for its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


def fsync_us(folder: Path, times: int = 50) -> float:
    """What this disk takes for 4 kB made durable: the floor of every commit."""
    took = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(times):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - start)
    return median(took) * 1e6


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    """From nothing to ready; everything is stopped at the end."""
    with contextlib.ExitStack() as stack:
        bao = stack.enter_context(raft_openbao(folder / "bao"))
        assert bao.ca_file is not None
        section = allow_broker(bao, folder)
        vault = Deployment(folder / "vault", scope_map(), vault=section, more=CONFIG)
        limited = Deployment(folder / "limited", scope_map(), vault=section, more=LIMITED)
        allow_direct(bao, vault.ca.root_path)
        null = Deployment(folder / "null", scope_map(), vault=_no_vault(folder), more=CONFIG)
        vault_pid = stack.enter_context(vault.daemon()).pid
        limited_pid = stack.enter_context(limited.daemon()).pid
        null_pid = stack.enter_context(_script(null, "tests.bench.null_broker", "serve", "--config", str(null.config)))
        aws = stack.enter_context(aws_world(folder)) if find_ceph() else None
        sts, aws_pids = _aws(stack, folder, aws) if aws else (None, {})
        echo_port = free_port()
        echo_pid = stack.enter_context(_echo(null, echo_port))
        targets = Targets(
            echo=_endpoint(null, f"127.0.0.1:{echo_port}"),
            null=_endpoint(null, null.addr),
            vault=_endpoint(vault, vault.addr),
            limited=_endpoint(limited, limited.addr, RUNAWAY),
            direct=Direct(address=bao.address, ca=str(bao.ca_file)),
            aws=sts,
            sts=asdict(aws.sts) if aws else {},
            watch={
                "echo": echo_pid,
                "null": null_pid,
                "broker": vault_pid,
                "limited": limited_pid,
                "openbao": bao.pid,
                **aws_pids,
            },
        )
        targets.save(folder / "targets.json")
        idle_mb = {pid: rss_mb(pid) for pid in (null_pid, vault_pid)}
        load = stack.enter_context(_load(folder / "targets.json"))
        yield World(load=load, null_pid=null_pid, vault_pid=vault_pid, aws=aws, idle_mb=idle_mb)


def _aws(stack: contextlib.ExitStack, folder: Path, aws: AwsWorld) -> tuple[Endpoint, dict[str, int]]:
    """A daemon over it, and whose CPU is read."""
    deployment = Deployment(folder / "aws", aws_scope_map(), aws=aws.section, more=CONFIG)
    pid = stack.enter_context(deployment.daemon()).pid
    return _endpoint(deployment, deployment.addr), {"aws": pid, "ceph": aws.server.pid}


def _no_vault(folder: Path) -> dict[str, Any]:
    token = folder / "no-token"
    token.touch(mode=0o600)
    token.write_text("none")
    return {**NO_VAULT, "token_file": str(token)}


def _endpoint(deployment: Deployment, addr: str, *more: str) -> Endpoint:
    agents = []
    for workflow in (*(f"w{number}" for number in range(AGENTS)), *more):
        creds = deployment.agent(f"workflow/{workflow}/step/load")
        agents.append(Agent(workflow=workflow, cert=str(creds.cert), key=str(creds.key), ca=str(creds.ca)))
    return Endpoint(addr=addr, agents=tuple(agents))


@contextlib.contextmanager
def _script(deployment: Deployment, module: str, *arguments: str) -> Iterator[int]:
    argv = [sys.executable, "-m", module, *arguments]
    with running(argv, log=deployment.log, ready=deployment.ready) as process:
        yield process.pid


@contextlib.contextmanager
def _echo(deployment: Deployment, port: int) -> Iterator[int]:
    argv = [sys.executable, "-m", "tests.bench.echo", str(deployment.config)]
    env = {**os.environ, "STEPCRED_BROKER_LISTEN__GRPC": f"127.0.0.1:{port}"}
    with running(argv, log=deployment.folder / "echo.log", ready=lambda: accepts(port), env=env) as process:
        yield process.pid


@contextlib.contextmanager
def _load(targets: Path) -> Iterator[Load]:
    argv = [sys.executable, "-m", "tests.bench.load", str(targets)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        yield Load(process)
    finally:
        if process.stdin:
            process.stdin.close()  # it ends by itself then
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        stop(process)  # type: ignore[arg-type]  # a Popen of text
