"""A real OpenBao that writes to disk: one raft node, initialised and unsealed, which can be stopped and come back."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.bao import BaoServer, find_bao
from tests.support.certs import TestCA
from tests.support.processes import accepts, free_port, running, wait_until


@dataclass
class RaftNode:
    """One node: every write is an fsync, no network round. What it knows survives `serving`."""

    folder: Path
    tls: bool = True
    request_limit: str = ""  # the server's bound on one request, for example "2s"; its default is 90 s
    more: dict[str, Any] = field(default_factory=dict)  # further settings of the server
    leader: RaftNode | None = None  # plain http: this one joins it, and stands by
    unseal_key: str = field(default="", repr=False)
    root_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        (self.folder / "data").mkdir(parents=True)
        self.port = free_port()
        self._ca_file: Path | None = None
        listener: dict[str, Any] = {
            "address": f"127.0.0.1:{self.port}",
            "cluster_address": f"127.0.0.1:{free_port()}",
            "tls_disable": not self.tls,
        }
        if self.tls:
            ca = TestCA(self.folder, "bao.local")
            cert, key = ca.server()
            listener |= {"tls_cert_file": str(cert), "tls_key_file": str(key)}
            self._ca_file = ca.root_path
        # performance_multiplier is only the time that an election waits.
        raft: dict[str, Any] = {"path": str(self.folder / "data"), "node_id": "one", "performance_multiplier": "1"}
        if self.leader:
            raft |= {"node_id": "two", "retry_join": [{"leader_api_addr": self.leader.address}]}
        config: dict[str, Any] = {
            "storage": {"raft": raft},
            "listener": {"tcp": listener},
            "api_addr": self.address,
            "cluster_addr": f"https://{listener['cluster_address']}",
            "log_level": "warn",
            **self.more,
        }
        if self.request_limit:
            config["default_max_request_duration"] = self.request_limit
        (self.folder / "bao.json").write_text(json.dumps(config))

    @property
    def address(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[BaoServer]:
        """From its files to unsealed and leader; stopped at the end. The first time it is initialised."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(("VAULT_", "BAO_"))}
        argv = [str(find_bao()), "server", f"-config={self.folder / 'bao.json'}"]
        log = self.folder / "bao.log"
        with running(argv, log=log, ready=lambda: accepts(self.port), env={**env, "HOME": str(self.folder)}) as process:
            if self.leader:
                self.unseal_key, self.root_token = self.leader.unseal_key, self.leader.root_token
            if not self.root_token:
                made = self._server(0).must("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}).body
                self.unseal_key, self.root_token = made["keys"][0], made["root_token"]
            self.unseal()
            yield self._server(process.pid)

    def unseal(self) -> None:
        """And wait until it leads, or stands by."""
        server, up = self._server(0), 429 if self.leader else 200
        # A node that has just come back may not be ready for its key yet.
        wait_until(
            lambda: server.call("PUT", "sys/unseal", {"key": self.unseal_key}).status == 200, within=30, what="OpenBao"
        )
        wait_until(lambda: server.call("GET", "sys/health").status == up, within=30, what="OpenBao to lead or stand by")

    def _server(self, pid: int) -> BaoServer:
        return BaoServer(
            address=self.address,
            root_token=self.root_token,
            log_path=self.folder / "bao.log",
            ca_file=self._ca_file,
            pid=pid,
        )


@contextlib.contextmanager
def raft_openbao(folder: Path, **settings: Any) -> Iterator[BaoServer]:
    """From nothing to unsealed and leader."""
    with RaftNode(folder, **settings).serving() as server:
        yield server
