"""docs/vault.md, as pasted by its reader: its commands make an OpenBao that serves, and none can be left out unseen."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import stepcred
from broker.config import load
from broker.policy.language.load import load as load_map
from broker.wiring import adapters, offline
from tests.support.bao import BaoServer, openbao
from tests.support.daemon import PYTHON, Deployment
from tests.support.pages import blocks, commands, follow_vault, page
from tests.support.postgres import PostgresServer

TEXT = page("vault.md")
COMMANDS = commands(TEXT)
POLICY = next(command for command in COMMANDS if command.startswith("bao policy write stepcred-broker"))
RIGHTS = [line for line in POLICY.splitlines() if line.startswith("path")]
LOGIN = {"approle": {"role_id": "stepcred-broker", "secret_id_file": "vault-secret-id"}}
HEAD = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [app-token, app-secret, orders-db], max_step: 2h}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BaoServer]:
    """A new one for each test: the page begins with nothing."""
    with openbao(tmp_path) as bao:
        yield bao


def deployment(bao: BaoServer, folder: Path) -> Deployment:
    """A broker with the page's scopes; relative paths of its config are the reader's folder."""
    scopes, _ = blocks(TEXT, "yaml")
    return Deployment(folder, HEAD + scopes, vault={"address": bao.address, **LOGIN})


def check_live(made: Deployment) -> tuple[int, str]:
    argv = [PYTHON, "-m", "broker", "check", "--config", str(made.config), "--live"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stdout + ran.stderr


def test_what_the_page_sets_up_serves_and_ends_every_scope(
    server: BaoServer, pg: PostgresServer, tmp_path: Path
) -> None:
    (sql,) = blocks(TEXT, "sql")
    with psycopg.connect(pg.dsn(), autocommit=True) as connection:
        connection.execute(sql.encode())
    follow_vault(server, tmp_path, database=f"127.0.0.1:{pg.port}/{pg.database}?sslmode=disable")
    made = deployment(server, tmp_path)
    code, told = check_live(made)
    assert (code, "providers     ok" in told) == (0, True), told

    agent = made.agent("workflow/nightly/step/load")
    with (
        made.daemon(),
        stepcred.connect(made.addr, str(agent.cert), str(agent.key), str(agent.ca)) as broker,
    ):
        with broker.step(
            workflow="nightly", run="1", step="load", scopes=["app-token", "app-secret", "orders-db"]
        ) as step:
            token, secret, login = (step.issue(scope) for scope in ("app-token", "app-secret", "orders-db"))
            assert isinstance(token, stepcred.VaultToken)
            assert isinstance(secret, stepcred.KeyValue)
            assert isinstance(login, stepcred.UsernamePassword)
            read = server.call("GET", "kv/data/app", token=token.token)
            assert read.data["data"] == dict(secret.data) == {"password": "correct-horse"}
            session = psycopg.connect(pg.dsn(login.username, login.password))
            session.execute("CREATE TEMPORARY TABLE owned (id int)")
        assert step.all_proven
        assert [end.evidence.value for end in step.outcomes] == ["SEEN_DEAD", "ACCESS_ENDED", "SEEN_DEAD"]
        with pytest.raises(psycopg.OperationalError):  # not only refused to log in: the open session is gone
            session.execute("SELECT 1")
    assert not pg.logs_in(login.username, login.password)
    assert login.username not in pg.minted_roles()


def test_the_pages_other_scopes_load_and_promise_what_it_says(tmp_path: Path) -> None:
    _, scopes = blocks(TEXT, "yaml")
    names = re.findall(r"^  ([a-z-]+): ", scopes, re.MULTILINE)
    head = re.sub(r"scopes: \[.*?\]", f"scopes: [{', '.join(names)}]", HEAD)
    (tmp_path / "scopes.yaml").write_text(head + scopes)
    made = load_map(tmp_path / "scopes.yaml", adapters.scope_kinds()).scopes
    promised = {name: scope.revocability.value for name, scope in made.items()}
    assert promised == {
        "encrypt": "EXACT",
        "queue": "EXACT",
        "web-cert": "PUBLISHED",
        "own-cert": "PUBLISHED",
        "ops-ssh": "EXPIRY_ONLY",
    }


NAMED = {
    "bao policy write step-self": "policy step-self: does not exist",
    "bao write auth/token/roles/app-ro": "role app-ro: does not exist",
    "bao write auth/token/roles/orders-ro": "role orders-ro: does not exist",
    "bao write auth/token/roles/stepcred-tomb": "role stepcred-tomb: does not exist",
    "bao policy write stepcred-broker": "stepcred-tomb",
    "bao write auth/approle/role/stepcred-broker/role-id": "login to Vault failed",
}


@pytest.mark.parametrize("command", NAMED)
def test_a_command_left_out_is_named_by_check_live(command: str, server: BaoServer, tmp_path: Path) -> None:
    (left_out,) = [one for one in COMMANDS if one.startswith(f"{command} ")]
    follow_vault(server, tmp_path, without=left_out)
    code, told = check_live(deployment(server, tmp_path))
    assert code == os.EX_UNAVAILABLE
    assert NAMED[command] in told
    if "login" not in NAMED[command]:
        map_file = deployment(server, tmp_path).scopes_file
        assert told.rstrip().endswith(f"  stepcred-broker scopes provision {map_file} --format sh")


async def test_each_right_left_out_is_named_by_check_live(server: BaoServer, tmp_path: Path) -> None:
    follow_vault(server, tmp_path)
    config = load(deployment(server, tmp_path).config, {})
    assert await offline.check_live(config) == []
    for right in RIGHTS:
        policy = "\n".join(line for line in RIGHTS if line != right)
        server.must("PUT", "sys/policies/acl/stepcred-broker", {"policy": policy})
        (problem,) = await offline.check_live(config)
        assert right.split('"')[1] in problem
