"""The units under a real systemd: the broker with its secrets from /etc/credstore, and a step that gets a credential."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.identity import dev_ca
from tests.support import systemd
from tests.support.bao import openbao
from tests.support.certs import TestCA
from tests.support.pages import BIN, ROOT, blocks, follow_vault, page
from tests.support.processes import free_port

STEP_UNIT = ROOT / "deploy" / "systemd" / "stepcred-step@.service"
NO_SYSTEMD = systemd.why_not()
STEP = "spiffe://dev.acme.internal/workflow/nightly-etl/step/load"

CONFIG = """
environment = "dev"
trust_domain = "dev.acme.internal"
listen = {{ grpc = "127.0.0.1:{grpc}", http = "127.0.0.1:{http}" }}
tls = {{ cert_file = "tls/server.pem", key_file = "credential:stepcred.server-key", client_ca_file = "tls/agents-ca.pem" }}
store = {{ path = "/var/lib/stepcred/broker.db", mint_key_file = "/var/lib/stepcred/keys/mint.key" }}
scopes = {{ file = "scopes.yaml" }}
[vault]
address = "{vault}"
approle = {{ role_id = "stepcred-broker", secret_id_file = "credential:stepcred.vault-secret-id" }}
"""
TOLD = r"""
set +e
systemctl is-active stepcred-broker
systemctl start stepcred-step@load; echo step=$?
systemctl show stepcred-step@load -P Result
systemctl stop stepcred-broker; systemctl show stepcred-broker -P Result
journalctl --sync; journalctl --no-pager -o cat
"""
STEP_PROGRAM = """#!/bin/sh
echo "as $(id -u): token ${VAULT_TOKEN:+given}, run $INVOCATION_ID"
cat "$STEPCRED_KEY" >/dev/null || echo "no key"
ls /etc/credstore || echo "kept out of the credstore"
"""


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def as_documented() -> str:
    """What docs/run.md has an operator type as root, without the installation: that is what the tests run in."""
    text = page("run.md")
    typed = blocks(text[text.index("### systemd") :], "console")[0].splitlines()
    assert all(line.startswith("# ") for line in typed)
    return (
        "set -e\n"
        + "\n".join(line[2:] for line in typed if "pip install" not in line)
        + "\nfind /var/lib/stepcred ! -user stepcred"
    )


@pytest.mark.skipif(bool(NO_SYSTEMD), reason=NO_SYSTEMD or "-")
def test_the_broker_and_a_step_run_under_a_real_systemd(tmp_path: Path) -> None:
    files, scratch = tmp_path / "files", tmp_path / "scratch"
    scratch.mkdir()
    ca = TestCA(tmp_path / "ca", "dev.acme.internal")
    dev_ca.issue_server(ca.directory, ["127.0.0.1"], tmp_path / "server")
    agent = ca.agent(STEP)
    etc, port = files / "etc", free_port()
    with openbao(tmp_path) as bao:
        follow_vault(bao, tmp_path)
        write(etc / "stepcred/broker.toml", CONFIG.format(grpc=port, http=free_port(), vault=bao.address))
        write(etc / "stepcred/scopes.yaml", blocks(page("run.md"), "yaml")[0])
        write(etc / "stepcred/tls/server.pem", (tmp_path / "server.pem").read_bytes())
        for name in ("tls/agents-ca.pem", "broker-ca.pem"):
            write(etc / "stepcred" / name, ca.root_path.read_bytes())
        write(etc / "credstore/stepcred.server-key", (tmp_path / "server-key.pem").read_bytes(), 0o600)
        write(etc / "credstore/stepcred.vault-secret-id", (tmp_path / "vault-secret-id").read_bytes(), 0o600)
        (etc / "credstore").chmod(0o700)
        write(etc / "stepcred/steps/load/cert.pem", agent.cert.read_bytes())
        write(etc / "stepcred/steps/load/key.pem", agent.key.read_bytes(), 0o600)
        (etc / "stepcred/steps/load").chmod(0o700)
        settings = f"STEPCRED_ADDR=127.0.0.1:{port}\nSTEPCRED_WORKFLOW=nightly-etl\nSTEP_SCOPES=--scope app-token\n"
        write(etc / "stepcred/steps/load.env", settings)
        write(files / "usr/local/lib/steps/load", STEP_PROGRAM, 0o755)
        write(etc / "systemd/system" / STEP_UNIT.name, STEP_UNIT.read_bytes())
        (files / "opt/stepcred").mkdir(parents=True)
        (files / "opt/stepcred/bin").symlink_to(BIN)
        told = systemd.told_by(f"cd {ROOT}\n{as_documented()}{TOLD}", files, scratch)
    assert "providers     ok" in told, told
    assert "! -user stepcred\n+ set +e\n" in told.replace("'!'", "!"), told  # check has left nothing of root's there
    assert "+ systemctl is-active stepcred-broker\nactive\n" in told  # Type=notify: only when it serves
    assert "step=0" in told, told
    assert re.search(r"^as (6\d{4}): token given, run [0-9a-f]{32}$", told, re.MULTILINE), told  # a dynamic user
    assert "no key" not in told  # of its certificate: the program is the same user
    assert "kept out of the credstore" in told
    assert re.search(r"^stepcred: 1 credential dead, proven in \d+ ms$", told, re.MULTILINE), told
    assert '"event": "stopped"' in told
    assert told.count("\nsuccess\n") == 2
