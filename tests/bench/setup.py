"""Everything that the bench talks to, each a process of its own, in one temporary folder on a real disk."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.aws import AwsWorld, aws_world
from tests.bench.crowd import crowd_of
from tests.bench.order import Load, load_generator
from tests.bench.raft import allow_broker, allow_direct
from tests.bench.sidecar import SidecarPlan
from tests.bench.starting import start
from tests.bench.targets import AGENTS, RUNAWAY, Agent, Direct, Endpoint, Targets, scope_map
from tests.support.daemon import Deployment
from tests.support.processes import accepts, free_port, running
from tests.support.raft import raft_openbao

UNLIMITED = 1_000_000  # neither the guard nor the request limit is what is measured here
CONFIG: dict[str, Any] = {
    "guard": {"low": {"budget": UNLIMITED, "hourly": UNLIMITED}},
    "limits": {"request_rate": UNLIMITED, "request_burst": UNLIMITED},
    "log": {"level": "info"},  # the default
}
# Leases of a drain are claimed; those that are issued beside it are not, and must not end meanwhile.
UNHURRIED = {"claim_window": "10m", "silence_bound": "10m"}
LIMITED = {name: part for name, part in CONFIG.items() if name != "limits"}
NO_VAULT = {"address": "http://127.0.0.1:1"}  # a config needs a provider; the null broker does not use it


@dataclass(frozen=True, kw_only=True)
class World:
    """All of it running."""

    load: Load
    null_pid: int
    vault_pid: int
    aws: AwsWorld
    idle_mb: dict[int, float]  # of a daemon before its first call, by pid
    crowds: Mapping[int, Deployment]  # by how many leases will live there
    sidecar: SidecarPlan


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
def world(folder: Path, sizes: Iterable[int]) -> Iterator[World]:
    """From nothing to ready; everything is stopped at the end. `sizes`: of the crowds, which are not started yet."""
    with contextlib.ExitStack() as stack:
        bao = stack.enter_context(raft_openbao(folder / "bao"))
        assert bao.ca_file is not None
        section = allow_broker(bao, folder)
        vault = Deployment(folder / "vault", scope_map(), vault=section, timings=UNHURRIED, more=CONFIG)
        limited = Deployment(folder / "limited", scope_map(), vault=section, more=LIMITED)
        allow_direct(bao, vault.ca.root_path)
        nowhere = _no_vault(folder)
        null = Deployment(folder / "null", scope_map(), vault=nowhere, more=CONFIG, module="tests.bench.null_broker")
        stub_port, stub_pid = _stub(stack, folder)
        instant = {**nowhere, "address": f"http://127.0.0.1:{stub_port}"}
        stub = Deployment(folder / "stub", scope_map(), vault=instant, more=CONFIG)
        pids = start({"null": null, "broker": vault, "limited": limited, "stub": stub}, stack)
        aws = stack.enter_context(aws_world(folder))
        sts, aws_pids = _aws(stack, folder, aws)
        echo_port = free_port()
        echo_pid = stack.enter_context(_echo(null, echo_port))
        crowds = {size: crowd_of(folder / f"crowd{size}", nowhere, CONFIG) for size in sizes}
        beside = SidecarPlan(null, folder / "sidecar")
        targets = Targets(
            echo=_endpoint(null, f"127.0.0.1:{echo_port}"),
            null=_endpoint(null, null.addr),
            stub=_endpoint(stub, stub.addr),
            vault=_endpoint(vault, vault.addr),
            database=str(vault.database),
            crowds={size: _endpoint(crowd, crowd.addr) for size, crowd in crowds.items()},
            sidecar=beside.target,
            limited=_endpoint(limited, limited.addr, RUNAWAY),
            direct=Direct(address=bao.address, ca=str(bao.ca_file)),
            aws=sts,
            sts=asdict(aws.sts),
            ceph=asdict(aws.ceph) if aws.ceph else {},
            watch={"echo": echo_pid, **pids, "instant": stub_pid, "openbao": bao.pid, **aws_pids},
        )
        targets.save(folder / "targets.json")
        idle_mb = {pids[name]: rss_mb(pids[name]) for name in ("null", "broker")}
        yield World(
            load=stack.enter_context(load_generator(folder / "targets.json")),
            null_pid=pids["null"],
            vault_pid=pids["broker"],
            aws=aws,
            idle_mb=idle_mb,
            crowds=crowds,
            sidecar=beside,
        )


def _stub(stack: contextlib.ExitStack, folder: Path) -> tuple[int, int]:
    """Port and pid of the instant server."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.bench.stub", str(port)]
    return port, stack.enter_context(running(argv, log=folder / "stub.log", ready=lambda: accepts(port))).pid


def _aws(stack: contextlib.ExitStack, folder: Path, aws: AwsWorld) -> tuple[Endpoint, dict[str, int]]:
    """A daemon over it, and whose CPU is read."""
    deployment = Deployment(folder / "aws", aws.scope_map, aws=aws.section, more=CONFIG)
    pid = stack.enter_context(deployment.daemon()).pid
    return _endpoint(deployment, deployment.addr), {"aws": pid, **aws.pids}


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
def _echo(deployment: Deployment, port: int) -> Iterator[int]:
    argv = [sys.executable, "-m", "tests.bench.echo", str(deployment.config)]
    env = {**os.environ, "STEPCRED_BROKER_LISTEN__GRPC": f"127.0.0.1:{port}"}
    with running(argv, log=deployment.folder / "echo.log", ready=lambda: accepts(port), env=env) as process:
        yield process.pid
