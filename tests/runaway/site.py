"""What the runaway asks: OpenBao with an audit log that counts, the daemon's files, and somebody who starts it again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.bao import BaoServer, TokenRole, minted, openbao, provision
from tests.support.certs import Creds
from tests.support.daemon import Deployment, vault_section

BROKER = "tests.runaway.armed_broker"
LOAD = "workflow/nightly/step/load"
ROLE = "runaway"
LANDING = 2 + 1  # seconds: mint timeout and the server's own limit
SCOPE_MAP = f"""
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {{id: "spiffe://dev.local/workflow/{{workflow}}/step/load", owners: [group:data]}}
scopes:
  danger: {{vault: {{role: {ROLE}}}, ttl: 10m, tier: high}}
grants:
  nightly: {{workloads: [load], workflows: [nightly], scopes: [danger], max_step: 2h, concurrent: supersede}}
"""
TIMINGS = {"mint_timeout": "2s"}
# The guard is what is asked: what stands before it would only hide it.
MORE: dict[str, Any] = {"limits": {"request_rate": 1e6, "request_burst": 1_000_000}, "log": {"level": "info"}}


@dataclass
class Site:
    """OpenBao, for as many daemons as somebody likes, one after the other."""

    folder: Path
    bao: BaoServer
    audit_file: Path
    vault: Mapping[str, Any]
    _made: int = field(default=0)

    @property
    def minted(self) -> int:
        """Tokens that OpenBao has made for the scope, dead ones too."""
        return minted(self.audit_file, ROLE)

    def alive(self) -> list[dict[str, Any]]:
        """Those of them that are alive."""
        return [token for token in self.bao.live_tokens() if token.get("role") == ROLE]

    def deployment(self, *, more: Mapping[str, Any] | None = None) -> Deployment:
        """A new daemon's files."""
        self._made += 1
        return Deployment(
            self.folder / f"daemon{self._made}",
            SCOPE_MAP,
            vault=self.vault,
            timings=TIMINGS,
            more={**MORE, **(more or {})},
            module=BROKER,
        )


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    """From nothing; OpenBao is stopped at the end."""
    audit_file = folder / "audit.log"
    with openbao(folder, audit_file=audit_file) as bao:
        login = provision(bao, folder, [TokenRole(name=ROLE)])
        vault = vault_section(bao, login, request_limit="1s", request_timeout="2s")
        yield Site(folder=folder, bao=bao, audit_file=audit_file, vault=vault)


def certificates(deployment: Deployment, count: int) -> list[Creds]:
    """Of one identity."""
    return [deployment.agent(LOAD) for _ in range(count)]


class Keeper:
    """Starts the daemon, and starts it again when it has died, as a service manager does."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._process: subprocess.Popen[bytes]
        self._over = threading.Event()
        self.deaths = 0

    @contextlib.contextmanager
    def running(self, once: Mapping[str, str], always: Mapping[str, str] | None = None) -> Iterator[Keeper]:
        """`once`: the environment of its first life only."""
        self._ready = ready = threading.Event()
        thread = threading.Thread(target=self._keep, args=({**(always or {}), **once}, always or {}), daemon=True)
        thread.start()
        try:
            assert ready.wait(30), "the daemon does not start"
            yield self
        finally:
            self._over.set()
            thread.join(30)

    def kill(self) -> None:
        """SIGKILL, now."""
        self._process.send_signal(signal.SIGKILL)

    def _keep(self, more: Mapping[str, str], then: Mapping[str, str]) -> None:
        while not self._over.is_set():
            with self._deployment.daemon(env={**os.environ, **more}) as self._process:
                self._ready.set()
                while self._process.poll() is None and not self._over.is_set():
                    time.sleep(0.02)
                self.deaths += self._process.poll() is not None
            more = then
