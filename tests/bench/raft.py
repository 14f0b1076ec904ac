"""A real OpenBao that writes to disk: raft storage and TLS, initialised and unsealed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.bao import BaoServer, TokenRole, find_bao, provision
from tests.support.certs import TestCA
from tests.support.processes import accepts, free_port, running, wait_until

ROLE = "bench"  # the token role that both the broker and the direct client mint through
CERT_ROLE = "bench-step"
DIRECT_POLICY = f"""
path "auth/token/create/{ROLE}" {{ capabilities = ["update"] }}
path "auth/token/lookup" {{ capabilities = ["update"] }}
"""


@contextlib.contextmanager
def raft_openbao(folder: Path) -> Iterator[BaoServer]:
    """From nothing to unsealed and leader. One node: every write is an fsync, no network round.

    `performance_multiplier` is only the time that an election waits.
    """
    folder.mkdir(parents=True)
    (folder / "data").mkdir()
    ca = TestCA(folder, "bao.local")
    cert, key = ca.server()
    port, log = free_port(), folder / "bao.log"
    listener = {"address": f"127.0.0.1:{port}", "tls_cert_file": str(cert), "tls_key_file": str(key)}
    cluster = free_port()
    config: dict[str, Any] = {
        "storage": {"raft": {"path": str(folder / "data"), "node_id": "one", "performance_multiplier": "1"}},
        "listener": {"tcp": {**listener, "cluster_address": f"127.0.0.1:{cluster}"}},
        "api_addr": f"https://127.0.0.1:{port}",
        "cluster_addr": f"https://127.0.0.1:{cluster}",
        "log_level": "warn",
    }
    (folder / "bao.json").write_text(json.dumps(config))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VAULT_", "BAO_"))}
    argv = [str(find_bao()), "server", f"-config={folder / 'bao.json'}"]
    with running(argv, log=log, ready=lambda: accepts(port), env={**env, "HOME": str(folder)}) as process:
        sealed = BaoServer(
            address=config["api_addr"],
            root_token="",
            log_path=log,
            ca_file=ca.root_path,
            pid=process.pid,
        )
        made = sealed.must("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}).body
        sealed.must("PUT", "sys/unseal", {"key": made["keys"][0]})
        wait_until(lambda: sealed.call("GET", "sys/health").status == 200, within=30, what="OpenBao to lead")
        yield replace(sealed, root_token=made["root_token"])


def allow_direct(bao: BaoServer, client_ca: Path) -> None:
    """What a user would have who goes around the broker: login by certificate, and a right to the same role."""
    bao.must(
        "PUT",
        "sys/policies/acl/bench-direct",
        {"policy": DIRECT_POLICY},
    )
    bao.must("POST", "sys/auth/cert", {"type": "cert"})
    body = {"certificate": client_ca.read_text(), "token_policies": ["bench-direct"], "token_ttl": "20m"}
    bao.must("POST", f"auth/cert/certs/{CERT_ROLE}", body)


def allow_broker(bao: BaoServer, folder: Path) -> dict[str, object]:
    """The daemon's [vault] section."""
    login = provision(bao, folder, [TokenRole(name=ROLE)])
    return {
        "address": bao.address,
        "ca_file": str(bao.ca_file),
        "approle": {"role_id": login.role_id, "secret_id_file": str(login.secret_id_file)},
    }
