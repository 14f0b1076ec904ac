"""A broker in a namespace, set up by what `scopes provision` prints for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import stepcred
from tests.e2e.world import LOAD, ROOMY, leases
from tests.support.bao import BaoServer, put_secret
from tests.support.daemon import PYTHON, Deployment
from tests.support.pages import bash

NAMESPACE = "team-e2e"
SCOPES = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
scopes:
  token: {vault: {role: app}, ttl: 10m, tier: low}
  value: {vault: {role: app, read: kv/data/app}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [token, value], max_step: 2h}
"""


def command(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PYTHON, "-m", "broker", *argv], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def made(bao: BaoServer, tmp_path: Path) -> Deployment:
    (tmp_path / "scopes.yaml").write_text(SCOPES)
    bao.must("POST", f"sys/namespaces/{NAMESPACE}", {})
    script = command("scopes", "provision", str(tmp_path / "scopes.yaml"), "--namespace", NAMESPACE).stdout
    bash(script, tmp_path, {**os.environ, "BAO_ADDR": bao.address, "BAO_TOKEN": bao.root_token, "HOME": str(tmp_path)})
    bao.must("POST", f"{NAMESPACE}/sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
    put_secret(bao, "app", {"password": "correct-horse"}, mount=f"{NAMESPACE}/kv")
    bao.must("POST", f"{NAMESPACE}/sys/auth/approle", {"type": "approle"})
    role = {"token_policies": ["stepcred-broker"], "token_no_default_policy": True, "token_ttl": "20m"}
    bao.must("POST", f"{NAMESPACE}/auth/approle/role/broker", role)
    role_id = bao.must("GET", f"{NAMESPACE}/auth/approle/role/broker/role-id").data["role_id"]
    secret_id = bao.must("POST", f"{NAMESPACE}/auth/approle/role/broker/secret-id", {}).data["secret_id"]
    (tmp_path / "secret-id").touch(mode=0o600)
    (tmp_path / "secret-id").write_text(secret_id)
    approle = {"role_id": role_id, "secret_id_file": str(tmp_path / "secret-id")}
    vault = {"address": bao.address, "namespace": NAMESPACE, "approle": approle}
    return Deployment(tmp_path / "daemon", SCOPES, vault=vault, more=ROOMY)


def test_it_is_checked_serves_and_ends_by_accessor(made: Deployment, bao: BaoServer) -> None:
    checked = command("check", "--config", str(made.config), "--live")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "note: vault: in a namespace the server chooses token ids" in checked.stdout

    agent = made.agent(LOAD)
    with (
        made.daemon(),
        stepcred.connect(made.addr, str(agent.cert), str(agent.key), str(agent.ca)) as broker,
    ):
        with broker.step(workflow="nightly", run="1", step="load", scopes=["token", "value"]) as step:
            token, value = step.issue("token"), step.issue("value")
            assert isinstance(token, stepcred.VaultToken)
            assert isinstance(value, stepcred.KeyValue)
            assert token.namespace == NAMESPACE
            read = bao.must("GET", f"{NAMESPACE}/kv/data/app", token=token.token)
            assert read.data["data"] == dict(value.data) == {"password": "correct-horse"}
        assert step.all_proven
        assert [end.evidence.value for end in step.outcomes] == ["SEEN_DEAD", "ACCESS_ENDED"]
    assert bao.call("GET", f"{NAMESPACE}/kv/data/app", token=token.token).status == 403
    assert all(lease.refs["accessor"] for lease in leases(made).values())
