"""docs/run.md and deploy/, as followed by their reader: from nothing to a credential, and the files to install."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from broker.identity import dev_ca
from tests.support.bao import BaoServer, openbao
from tests.support.certs import TestCA
from tests.support.pages import BIN, ROOT, bash, blocks, commands, follow_vault, page
from tests.support.processes import accepts, free_port, running

TEXT = page("run.md")
EXAMPLES = ROOT / "deploy" / "examples"


def test_from_nothing_to_a_credential_that_is_dead_in_the_end(tmp_path: Path) -> None:
    grpc_port, http_port = free_port(), free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("BAO_", "VAULT_", "STEPCRED_"))},
        "STEPCRED_BROKER_LISTEN__GRPC": f"127.0.0.1:{grpc_port}",
        "STEPCRED_BROKER_LISTEN__HTTP": f"127.0.0.1:{http_port}",
        "HOME": str(tmp_path),
    }
    first, second = blocks(TEXT, "sh")
    install, *prepare, serve = commands(f"```sh\n{first}```")
    assert install.startswith("pip install")
    with openbao(tmp_path) as bao:
        follow_vault(bao, tmp_path)
        (config,), (scopes,) = blocks(TEXT, "toml"), blocks(TEXT, "yaml")
        (tmp_path / "broker.toml").write_text(config.replace("http://127.0.0.1:8200", bao.address))
        (tmp_path / "scopes.yaml").write_text(scopes)
        assert "providers     ok" in bash("\n".join(prepare), tmp_path, env)
        before = tokens(bao)
        argv = ["env", "-C", str(tmp_path), str(BIN / serve.split()[0]), *serve.split()[1:]]
        with running(argv, log=tmp_path / "log", ready=lambda: accepts(grpc_port), env=env):
            told = bash(second.replace("localhost:8443", f"localhost:{grpc_port}"), tmp_path, env)
        assert "correct-horse" in told
        assert re.search(r"stepcred: 1 credential dead, proven in [\d.]+ ms", told), told
        assert " in 1 chain holds" in told
        assert tokens(bao) - before == set()


def tokens(bao: BaoServer) -> set[str]:
    """Accessors of the tokens made through roles and alive now."""
    return {token["accessor"] for token in bao.live_tokens() if token.get("role")}


def test_the_example_config_passes_check_with_the_files_that_it_names(tmp_path: Path) -> None:
    for example in ("broker.toml", "scopes.yaml", "operators.yaml"):
        shutil.copy(EXAMPLES / example, tmp_path)
    config = tmp_path / "broker.toml"
    config.write_text(config.read_text().replace("/var/lib/stepcred", str(tmp_path / "state")))
    ca = TestCA(tmp_path, "prod.acme.internal")
    (tmp_path / "state" / "keys").mkdir(parents=True)
    (tmp_path / "tls").mkdir()
    dev_ca.issue_server(ca.directory, ["broker.prod.acme.internal"], tmp_path / "tls" / "server")
    for name in ("agents-ca.pem", "vault-ca.pem", "internal-ca.pem"):
        shutil.copy(ca.root_path, tmp_path / "tls" / name)
    shutil.copy(ca.operator_root_path, tmp_path / "tls" / "operators-ca.pem")
    store = tmp_path / "credstore"
    store.mkdir(mode=0o700)
    bash(
        "stepcred-broker operators key stepcred.second-factor-key; stepcred-broker webhook-key stepcred.webhook-key",
        store,
    )
    (store / "stepcred.vault-secret-id").touch(mode=0o600)
    told = bash(
        "stepcred-broker check --config broker.toml; stepcred-broker scopes lint scopes.yaml; "
        "stepcred-broker scopes test scopes.yaml",
        tmp_path,
        {**os.environ, "CREDENTIALS_DIRECTORY": str(store)},
    )
    assert "scope map     ok" in told
    assert "operators     ok" in told
    assert "loads, 1 warning" in told  # what is high is given without an operator's yes: there is nobody yet to say it
    assert "0 failed" in told
