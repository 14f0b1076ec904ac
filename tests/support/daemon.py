"""The real daemon as a process of its own: its files, its start, its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from broker.store.sqlite import OfflineStore, open_readonly
from tests.support.bao import BaoServer, BrokerLogin
from tests.support.certs import Creds, TestCA
from tests.support.processes import free_port, running

TRUST_DOMAIN = "dev.local"
PYTHON = sys.executable
# Every scope map's beginning: one workload, `load`, of any workflow.
HEAD = f"""
version: 1
environment: dev
trust_domain: {TRUST_DOMAIN}
workloads:
  load: {{id: "spiffe://{TRUST_DOMAIN}/workflow/{{workflow}}/step/load", owners: [group:data]}}"""
ONE_SCOPE = f"""{HEAD}
scopes:
  token: {{vault: {{role: nobody}}, ttl: 10m, tier: low}}
grants:
  nightly: {{workloads: [load], workflows: [nightly], scopes: [token], max_step: 2h}}
"""


def toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    """Enough of TOML for a config: scalars first, then sections."""
    scalars = [f"{key} = {json.dumps(value)}" for key, value in tree.items() if not isinstance(value, Mapping)]
    sections = [
        f"\n[{prefix}{_key(key)}]\n{toml(value, f'{prefix}{_key(key)}.')}"
        for key, value in tree.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join(scalars + sections)


def _key(name: str) -> str:
    """Quoted where there is a dot in it."""
    return json.dumps(name) if "." in name else name


@dataclass
class Deployment:
    """A folder with everything that one daemon needs; it survives the daemon."""

    folder: Path
    scope_map: str
    vault: Mapping[str, Any] | None = None
    aws: Mapping[str, Any] | None = None
    timings: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    module: str = "broker"  # or one that wraps it

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ca = TestCA(self.folder, TRUST_DOMAIN)
        self.server_cert, self.server_key = self.ca.server()
        self.grpc_port, self.http_port = free_port(), free_port()
        self.scopes_file = self.folder / "scopes.yaml"
        self.scopes_file.write_text(self.scope_map)
        self.database = self.folder / "state" / "broker.db"  # not where changes are watched for, as in real life
        self.database.parent.mkdir(mode=0o700, exist_ok=True)
        self.mint_key = self.folder / "mint.key"
        self.config = self.folder / "broker.toml"
        self.log = self.folder / "broker.log"
        self.write_config()

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def write_config(self) -> None:
        tree: dict[str, Any] = {
            "environment": "dev",
            "trust_domain": TRUST_DOMAIN,
            "listen": {"grpc": self.addr, "http": f"127.0.0.1:{self.http_port}"},
            "tls": {
                "cert_file": str(self.server_cert),
                "key_file": str(self.server_key),
                "client_ca_file": str(self.ca.root_path),
            },
            "store": {"path": str(self.database), "mint_key_file": str(self.mint_key)},
            "scopes": {"file": str(self.scopes_file)},
            "log": {"level": "debug"},
            **self.more,
        }
        if self.vault is not None:
            tree["vault"] = self.vault
        if self.aws is not None:
            tree["aws"] = self.aws
        if self.timings:
            tree["timings"] = self.timings
        self.config.write_text(toml(tree))

    def agent(self, path: str) -> Creds:
        """A certificate for spiffe://dev.local/<path>."""
        return self.ca.agent(f"spiffe://{TRUST_DOMAIN}/{path}")

    def env(self, creds: Creds) -> dict[str, str]:
        """What a step's process needs to talk to the daemon."""
        return {
            "STEPCRED_ADDR": self.addr,
            "STEPCRED_CERT": str(creds.cert),
            "STEPCRED_KEY": str(creds.key),
            "STEPCRED_CA": str(creds.ca),
        }

    def store(self) -> OfflineStore:
        """The database, read beside the daemon."""
        return open_readonly(self.database)

    @property
    def argv(self) -> list[str]:
        """How the daemon is started."""
        return [PYTHON, "-m", self.module, "serve", "--config", str(self.config)]

    @contextlib.contextmanager
    def daemon(
        self, *args: str, env: Mapping[str, str] | None = None, ready: Callable[[], bool] | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """From ready to stopped by SIGTERM; a test may end it earlier.

        `ready`: what to wait for instead of /readyz, for a daemon that will not be ready.
        """
        with running(
            [*self.argv, *args],
            log=self.log,
            ready=ready or self.ready,
            env={**os.environ, **(env or {})},
            stop_signal=signal.SIGTERM,
        ) as process:
            yield process

    def ready(self) -> bool:
        status, _ = self.http("readyz")
        return status == 200

    def alive(self) -> bool:
        status, _ = self.http("livez")
        return status == 200

    def http(self, path: str) -> tuple[int, str]:
        """(status, body); (0, "") while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/{path}", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except OSError:  # URLError is one
            return 0, ""


def vault_section(bao: BaoServer, login: BrokerLogin, *, address: str = "", **more: Any) -> dict[str, Any]:
    """The [vault] section for a provisioned server."""
    return {
        "address": address or bao.address,
        "approle": {"role_id": login.role_id, "secret_id_file": str(login.secret_id_file)},
        **more,
    }


def without_provider(folder: Path, **more: Any) -> Deployment:
    """One for tests of what comes before any provider: nothing answers where its Vault should be.

    It is never ready; start it with `ready=deployment.alive`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text("none")
    vault = {"address": "http://127.0.0.1:1", "token_file": str(token), "connect_timeout": "1s"}
    return Deployment(folder / "daemon", ONE_SCOPE, vault=vault, more=more)
