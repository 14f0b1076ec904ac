"""`scopes provision`: what it prints is enough for a broker, and no more; what differs at a server is named."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.providers.base import DeclaredScope
from broker.providers.vault.provision import Format, show
from broker.secret import Secret
from broker.wiring.offline import vault_drift, vault_plan
from tests.support.bao import BaoServer, BrokerLogin, find_bao, openbao, provision_pki, provision_ssh
from tests.support.cli import Done, broker_cli
from tests.support.vault import vault_provider

HEAD = """\
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
scopes:
"""
BLOCKS: dict[str, dict[str, Any]] = {
    "app-token": {"role": "app-token"},
    "app-secret": {"role": "app-ro", "read": "kv/data/{workflow}/app"},
    "orders-db": {"role": "orders-ro", "read": "database/creds/orders-ro"},
    "queue": {"role": "mq", "read": "rabbitmq/creds/worker"},
    "web": {"role": "certs", "write": {"path": "pki/issue/web", "data": {"common_name": "web.acme.internal"}}},
    "own": {"role": "certs", "write": {"path": "pki/sign/web", "input": "csr"}},
    "ops": {"role": "certs", "write": {"path": "ssh/sign/ops", "data": {"valid_principals": "ops"}}},
    "both": {"role": "orders.ro"},
}
READS = 'path "kv/data/+/app" { capabilities = ["read"'
SCOPES = [DeclaredScope(block=block, ttl=timedelta(minutes=10)) for block in BLOCKS.values()]
PLAN = vault_plan(SCOPES, namespace="", tomb_role="stepcred-tomb", broker_policy="stepcred-broker")


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    """One of its own: it begins with nothing."""
    with openbao(tmp_path_factory.mktemp("bao-provision")) as server:
        yield server


@pytest.fixture(scope="module")
def scope_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [f"  {name}: {json.dumps({'vault': block, 'ttl': '10m', 'tier': 'low'})}" for name, block in BLOCKS.items()]
    names = ", ".join(BLOCKS)
    text = (
        HEAD + "\n".join(lines) + f"\ngrants:\n  all: {{workloads: [load], workflows: [nightly], scopes: [{names}]}}\n"
    )
    path = tmp_path_factory.mktemp("map") / "scopes.yaml"
    path.write_text(text)
    return path


def ran(*argv: str) -> Done:
    with ThreadPoolExecutor(1) as pool:  # a loop of its own, whatever the test runs in
        return pool.submit(broker_cli, "scopes", "provision", *argv).result()


def run_script(bao: BaoServer, script: str, folder: Path) -> None:
    env = {"PATH": f"{find_bao().parent}:{os.environ['PATH']}", "BAO_ADDR": bao.address, "BAO_TOKEN": bao.root_token}
    done = subprocess.run(
        ["sh"], input=script, env={**env, "HOME": str(folder)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(bao: BaoServer, scope_map: Path, tmp_path_factory: pytest.TempPathFactory) -> BrokerLogin:
    """The printed commands, the engines that the hints ask for, and a login with the broker's policy."""
    folder = tmp_path_factory.mktemp("login")
    printed = ran(str(scope_map))
    assert printed.code == 0, printed.err
    run_script(bao, printed.out, folder)
    provision_pki(bao, "web")
    provision_ssh(bao, "ops")
    bao.must("POST", "sys/auth/approle", {"type": "approle"})
    role = {"token_policies": ["stepcred-broker"], "token_no_default_policy": True, "token_ttl": "20m"}
    bao.must("POST", "auth/approle/role/stepcred-broker", role)
    role_id = bao.must("GET", "auth/approle/role/stepcred-broker/role-id").data["role_id"]
    path = folder / "secret-id"
    path.write_text(bao.must("POST", "auth/approle/role/stepcred-broker/secret-id", {}).data["secret_id"])
    return BrokerLogin(role_id=role_id, secret_id_file=path)


@pytest.fixture
def token_file(bao: BaoServer, tmp_path: Path) -> Path:
    (tmp_path / "admin").touch(mode=0o600)
    (tmp_path / "admin").write_text(bao.root_token)
    return tmp_path / "admin"


def differs(bao: BaoServer, token_file: Path) -> list[str]:
    return asyncio.run(vault_drift(PLAN, address=bao.address, token=Secret(token_file.read_text()), ca_file=None))


def diff(bao: BaoServer, scope_map: Path, token_file: Path) -> tuple[int, list[str]]:
    done = ran(str(scope_map), "--diff", "--address", bao.address, "--token-file", str(token_file))
    assert bao.root_token not in done.out + done.err
    return done.code, (done.out + done.err).splitlines()


async def test_what_is_printed_is_neither_too_small_nor_too_wide(
    bao: BaoServer, scope_map: Path, installed: BrokerLogin, token_file: Path
) -> None:
    async with vault_provider(bao.address, installed) as provider:
        assert await provider.check_scopes(SCOPES) == []
    assert diff(bao, scope_map, token_file) == (0, ["the server has what the map needs, and no more"])


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("auth/token/roles/orders-ro", {"orphan": False}, "token role orders-ro: needs orphan=true"),
        ("auth/token/roles/certs", {"allowed_policies": ["root"]}, "token role certs: gives the root policy"),
        ("auth/token/roles/certs", {"allowed_policies_glob": ["*"]}, "token role certs: has allowed_policies_glob"),
        (
            "auth/token/roles/certs",
            {"token_explicit_max_ttl": "5m"},
            "token_explicit_max_ttl is 300s, less than the 600s",
        ),
        ("auth/token/roles/app-ro", None, "token role app-ro: missing"),
        ("sys/policies/acl/app-ro", None, "policy app-ro: missing"),
        (
            "sys/policies/acl/app-ro",
            {"policy": 'path "kv/*" { capabilities = ["read", "update"] }'},
            "policy app-ro: gives read and update on kv/*, which the map does not need",
        ),
        ("sys/policies/acl/app-ro", {"policy": "# nothing"}, "policy app-ro: needs read on kv/data/+/app"),
        (
            "sys/policies/acl/app-ro",
            {"policy": f'{READS}, "delete"] }}\n{READS}] }}'},
            "policy app-ro: gives delete on kv/data/+/app, which the map does not need",
        ),
        ("auth/token/roles/certs", {"allowed_entity_aliases": ["*"]}, "token role certs: has allowed_entity_aliases"),
        ("auth/token/roles/certs", {"token_bound_cidrs": ["10.0.0.0/8"]}, "token role certs: has token_bound_cidrs"),
        ("auth/token/roles/certs", {"token_num_uses": 1}, "token role certs: has token_num_uses"),
        ("auth/token/roles/certs", {"token_period": "5m"}, "token role certs: has token_period"),
        ("auth/token/roles/certs", {"token_explicit_max_ttl": 0}, "token role certs: token_explicit_max_ttl is 0"),
        (
            "auth/token/roles/certs",
            {"allowed_policies": ["x", "step-self"]},
            "token role certs: gives x, and not certs",
        ),
        (
            "sys/policies/acl/app-ro",
            {"policy": 'path "kv/x" { capabilities = ["read"] required_parameters = ["a"] }'},
            "policy app-ro: cannot be compared: it uses required_parameters",
        ),
    ],
)
@pytest.mark.usefixtures("installed")
def test_a_difference_is_named(
    server: tuple[BaoServer, Path], path: str, body: dict[str, Any] | None, told: str
) -> None:
    bao, token_file = server
    if body is None:
        bao.must("DELETE", path)
    else:
        bao.must("POST", path, body)
    lines = differs(bao, token_file)
    assert any(told in line for line in lines), lines


@pytest.fixture
def server(bao: BaoServer, token_file: Path) -> Iterator[tuple[BaoServer, Path]]:
    """Put right again afterwards."""
    yield bao, token_file
    for policy in PLAN.policies:
        bao.must("PUT", f"sys/policies/acl/{policy.name}", {"policy": policy.text})
    for role in PLAN.roles:
        bao.must("POST", f"auth/token/roles/{role.name}", {**role.fields, **role.reset})
    assert differs(bao, token_file) == []


def test_the_command_ends_with_one_when_the_server_differs(
    server: tuple[BaoServer, Path], scope_map: Path, installed: BrokerLogin
) -> None:
    bao, token_file = server
    bao.must("DELETE", "auth/token/roles/app-ro")
    assert diff(bao, scope_map, token_file) == (1, ["token role app-ro: missing"])


def test_a_policy_for_tokens_that_are_handed_out_may_say_more(
    server: tuple[BaoServer, Path], installed: BrokerLogin
) -> None:
    bao, token_file = server
    bao.must(
        "PUT", "sys/policies/acl/app-token", {"policy": 'path "transit/encrypt/app" { capabilities = ["update"] }'}
    )
    assert differs(bao, token_file) == []


def test_a_comment_is_no_difference_and_what_the_commands_print_puts_all_of_it_right(
    server: tuple[BaoServer, Path], installed: BrokerLogin
) -> None:
    bao, token_file = server
    text = f"{READS}] }} # of the app\n/* all */ // of it"
    bao.must("PUT", "sys/policies/acl/app-ro", {"policy": text})
    assert differs(bao, token_file) == []
    role = {"token_num_uses": 1, "token_period": "5m", "allowed_entity_aliases": ["*"], "allowed_policies_glob": ["*"]}
    bao.must("POST", "auth/token/roles/certs", {**role, "token_bound_cidrs": ["10.0.0.0/8"]})
    assert len(differs(bao, token_file)) == 5
    run_script(bao, show(PLAN, Format.SH), token_file.parent)
    assert differs(bao, token_file) == []


def test_a_token_that_may_only_read_policies_and_roles_is_enough(
    bao: BaoServer, scope_map: Path, installed: BrokerLogin, tmp_path: Path
) -> None:
    paths = ("sys/policies/acl/*", "auth/token/roles/*")
    rules = [f'path "{path}" {{ capabilities = ["read"] }}' for path in paths]
    bao.must("PUT", "sys/policies/acl/reader", {"policy": "\n".join(rules)})
    made = bao.must("POST", "auth/token/create", {"policies": ["reader"], "no_default_policy": True, "ttl": "5m"})
    (tmp_path / "reader").touch(mode=0o600)
    (tmp_path / "reader").write_text(made.body["auth"]["client_token"])
    assert diff(bao, scope_map, tmp_path / "reader")[0] == 0


def test_a_namespaces_broker_gets_no_sudo_and_no_tomb() -> None:
    plan = vault_plan(SCOPES, namespace="team-a", tomb_role="stepcred-tomb", broker_policy="stepcred-broker")
    text = show(plan, Format.SH)
    assert "export BAO_NAMESPACE=team-a" in text
    assert "stepcred-tomb" not in text
    assert re.findall('path "auth/token/create/[^"]*" .*sudo', text) == []
    assert 'path "auth/token/revoke-accessor" { capabilities = ["update"] }' in text
    assert text.count('namespace = "team-a"') == 0
    assert show(plan, Format.TERRAFORM).count('namespace = "team-a"') == len(plan.policies) + len(plan.roles)


def test_hcl_has_every_policy_and_terraform_every_resource_once() -> None:
    plan = vault_plan(SCOPES, namespace="", tomb_role="tomb", broker_policy="broker")
    hcl, terraform = show(plan, Format.HCL), show(plan, Format.TERRAFORM)
    for policy in plan.policies:
        assert f"# policy {policy.name}\n{policy.text}" in hcl
    labels = re.findall(r'^resource "(\w+)" "([A-Za-z_][A-Za-z0-9_-]*)" \{$', terraform, re.MULTILINE)
    assert len(labels) == len(set(labels)) == len(plan.policies) + len(plan.roles)
    assert terraform.count("{\n") == terraform.count("\n}\n")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--namespace", "a b"], os.EX_USAGE),
        (["--tomb-role", "../x"], os.EX_USAGE),
        (["--broker-policy", "x; reboot"], os.EX_USAGE),
        (["--diff"], os.EX_USAGE),
        (["--tomb-role", "orders-ro"], os.EX_USAGE),
        (["--broker-policy", "orders-ro"], os.EX_USAGE),
        (["--broker-policy", "step-self"], os.EX_USAGE),
        (["--broker-policy", "default"], os.EX_USAGE),
        (["--broker-policy", "stepcred-tomb"], os.EX_USAGE),
        (["--broker-policy", "Broker"], os.EX_USAGE),
        (["--tomb-role", "step-self"], os.EX_USAGE),
        (["--tomb-role", "-h"], os.EX_USAGE),
        (["--diff", "--address", "http://127.0.0.1:1", "--token-file", "/nowhere"], os.EX_CONFIG),
        (["--diff", "--address", "http://127.0.0.1:1", "--token-file", "{two}"], os.EX_CONFIG),
        (["--diff", "--address", "http://127.0.0.1:1", "--token-file", "{one}"], os.EX_UNAVAILABLE),
        (["--diff", "--address", "http://vault.acme.internal:8200", "--token-file", "{one}"], os.EX_UNAVAILABLE),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    scope_map: Path, tmp_path: Path, argv: Sequence[str], code: int
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).touch(mode=0o600)
    (tmp_path / "one").write_text("s.token\n")
    (tmp_path / "two").write_text("s.token\ns.other\n")
    done = ran(str(scope_map), *(word.format(one=tmp_path / "one", two=tmp_path / "two") for word in argv))
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


def test_a_map_that_does_not_load_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\n")
    done = ran(str(tmp_path / "bad.yaml"))
    assert (done.code, done.out) == (os.EX_CONFIG, "")
