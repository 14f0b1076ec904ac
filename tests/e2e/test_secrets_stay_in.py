"""I6 over the whole process: no secret in log, journal, database, arguments, environment, metrics or errors."""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.log import KEPT_BACK
from stepcred.v1 import credential_pb2
from tests.e2e.failing_broker import FAIL
from tests.e2e.leaks import files, forms, leaks, process
from tests.e2e.wire import Refusal, Wire, begin, issue, new_id, refusal_of, wire
from tests.e2e.world import LOAD, Site
from tests.support.bao import STEP_SELF, TokenRole, provision, provision_database, provision_pki
from tests.support.daemon import PYTHON, Deployment
from tests.support.moto import moto_server
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, proxy, response

CANARY = "canary/7Q+x%=-ö~8"


DEBUGGING = {"GRPC_TRACE": "all", "GRPC_VERBOSITY": "DEBUG", "PYTHONASYNCIODEBUG": "1", "BOTO_DEBUG": "1"}
SCOPES = ("token", "kv", "db", "pki", "aws")


@pytest.fixture
def database_role(site: Site, pg: PostgresServer) -> str:
    provision_database(site.bao, pg, f"{site.name}-db")
    return f"{site.name}-db"


@pytest.fixture
def certificates(site: Site) -> str:
    """The scope of certificates with their private keys."""
    provision_pki(site.bao, site.name)
    role = TokenRole(name=f"{site.name}-pki", writes=[f"pki/issue/{site.name}"])
    site.roles.append(role)
    site.login = provision(site.bao, site.folder, site.roles, broker=f"{site.name}-broker")
    issue = f"{{path: pki/issue/{site.name}, data: {{common_name: web.dev.local}}}}"
    return f"  pki: {{vault: {{role: {role.name}, write: {issue}}}, ttl: 10m, tier: low}}\n"


@dataclass(frozen=True, kw_only=True)
class Amazon:
    """An emulated AWS: the scope of sessions, the config's section, and the broker's own key."""

    scope: str
    section: dict[str, str]
    key: str


@pytest.fixture
def amazon(tmp_path: Path) -> Iterator[Amazon]:
    with moto_server(tmp_path) as moto:
        arn = moto.create_role("etl")
        key_id, key = moto.create_user("broker", {"Effect": "Allow", "Action": "*", "Resource": "*"})
        key_file = tmp_path / "aws-key"
        key_file.touch(mode=0o600)
        key_file.write_text(key)
        statement = '{Effect: Allow, Action: "s3:GetObject", Resource: "*"}'
        block = f"{{role_arn: {arn}, regions: [eu-west-1], statements: [{statement}], revoke: bound}}"
        yield Amazon(
            scope=f"  aws: {{aws: {block}, ttl: 10m, tier: low}}\n",
            section={
                "region": "eu-west-1",
                "endpoint_url": moto.url,
                "access_key_id": key_id,
                "secret_access_key_file": str(key_file),
            },
            key=key,
        )


async def test_i6_no_secret_leaves_the_daemon_but_to_its_agent(
    site: Site, database_role: str, certificates: str, amazon: Amazon
) -> None:
    async with proxy(urlsplit(site.bao.address).port or 0) as between:
        deployment = site.deployment(
            vault={"address": between.address}, timings={"drain_grace": "1s"}, more={"aws": amazon.section}
        )
        deployment.module = "tests.e2e.failing_broker"
        text = deployment.scope_map.replace("grants:\n", f"{certificates}{amazon.scope}grants:\n")
        deployment.scopes_file.write_text(text.replace("scopes: [token,", "scopes: [pki, aws, token,"))
        await asyncio.to_thread(_work_and_look, deployment, site, between, amazon)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A daemon at work behind a proxy, and an open step."""

    site: Site
    deployment: Deployment
    between: Proxy
    daemon: subprocess.Popen[bytes]
    client: Wire
    handle: str

    def refused(self, scope: str) -> Refusal:
        return self.client.refused("IssueCredential", issue(self.handle, scope))


def _work_and_look(deployment: Deployment, site: Site, between: Proxy, amazon: Amazon) -> None:
    secrets: dict[str, str | bytes] = {
        "the KV value": site.secret,
        "the broker's secret id": site.login.secret_id_file.read_text(),
        "the broker's AWS key": amazon.key,
        "what Vault said": CANARY,
    }
    lost = deployment.folder.with_name("lost")
    keys = deployment.folder / "tls-keys"
    debugging = {**DEBUGGING, "SSLKEYLOGFILE": str(keys), FAIL: str(lost)}
    load = deployment.agent(LOAD)
    cores = set(Path.cwd().glob("core*"))
    with deployment.daemon(env=debugging) as daemon:
        with wire(deployment, load) as client:
            handle = client.begin(new_id(), *SCOPES)
            key = deployment.mint_key.read_text().strip().split(":")[1]
            secrets |= {"the mint key": key, "the mint key's bytes": bytes.fromhex(key), "the step handle": handle}
            secrets |= _issue_everything(client, handle)
            scene = Scene(
                site=site, deployment=deployment, between=between, daemon=daemon, client=client, handle=handle
            )
            failed, lost_secrets = _fail_with_secrets_in_hand(scene, lost)
            secrets |= lost_secrets
            refusals = [*failed, *_failing_vault(scene), *_refusals(scene), *_full_disk(scene)]
            reasons = {refusal.reason for refusal in refusals}
            assert {"INTERNAL", "PROVIDER_FAILED", "STORE_UNAVAILABLE", "ACCESS_DENIED"} <= reasons
            places = left_behind(deployment) | process(daemon.pid) | _asked_of(deployment)
            places |= {f"refusal {number}": refusal.text().encode() for number, refusal in enumerate(refusals)}
            assert leaks(places, secrets) == []
        daemon.send_signal(signal.SIGABRT)
        assert daemon.wait(10) == -signal.SIGABRT
    assert set(Path.cwd().glob("core*")) == cores
    assert not keys.exists()
    assert leaks(left_behind(deployment), secrets) == []
    said = deployment.log.read_text()
    assert "grpc_shutdown" not in said  # gRPC's own trace, which goes around every logger
    assert all(f"{name} is not obeyed" in said for name in ("GRPC_TRACE", "GRPC_VERBOSITY", "SSLKEYLOGFILE"))
    assert KEPT_BACK in said  # somebody did turn the libraries' debugging on
    assert said.count("RuntimeError: failed with") == len(failed)
    with deployment.daemon(env=debugging), wire(deployment, load) as client:
        client.end(handle, wait=1)  # doubts take longer
    assert leaks(left_behind(deployment), secrets) == []


def _asked_of(deployment: Deployment) -> dict[str, bytes]:
    """What the daemon tells everybody on loopback, and its journal as it is handed on."""
    argv = [PYTHON, "-m", "broker", "audit", "export", "--database", str(deployment.database)]
    exported = subprocess.run(argv, capture_output=True, timeout=60, check=True)
    assert exported.stdout.count(b"LEASE_ACTIVE") >= len(SCOPES)
    places = {path: deployment.http(path)[1].encode() for path in ("metrics", "readyz", "livez")}
    return places | {"audit export": exported.stdout, "audit export's errors": exported.stderr}


def _fail_with_secrets_in_hand(scene: Scene, lost: Path) -> tuple[list[Refusal], dict[str, str | bytes]]:
    """Each kind of credential once more, lost in an exception of our own; and what was lost."""
    lost.mkdir()
    refusals = [scene.refused(scope) for scope in SCOPES]
    assert {refusal.reason for refusal in refusals} == {"INTERNAL"}
    found: dict[str, str | bytes] = {}
    for path in lost.iterdir():
        found |= {f"lost, {name}": value for name, value in _secrets_of(_read(path)).items()}
    shutil.rmtree(lost)
    assert len(found) >= len(SCOPES)
    return refusals, found


def _read(path: Path) -> credential_pb2.Credential:
    return credential_pb2.Credential.FromString(path.read_bytes())


def _secrets_of(credential: credential_pb2.Credential) -> dict[str, str | bytes]:
    """By what they are; of a private key the number and what is read of it in a PEM file."""
    match credential.WhichOneof("kind"):
        case "vault_token":
            return {"the token": credential.vault_token.token}
        case "key_value":
            return {"the value": credential.key_value.data["password"]}
        case "username_password":
            return {"the database password": credential.username_password.password}
        case "aws_session":
            session = credential.aws_session
            return {"the AWS key": session.secret_access_key, "the AWS token": session.session_token}
        case "x509_certificate":
            pem = credential.x509_certificate.private_key_pem
            key = load_pem_private_key(pem.encode(), None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            return {
                "the private key": pem.splitlines()[1],
                "the private key's number": key.private_numbers().private_value.to_bytes(32, "big"),
            }
        case other:
            raise AssertionError(other)


def left_behind(deployment: Deployment) -> dict[str, bytes]:
    """All files, without those that are there to hold a secret."""
    return files(deployment.folder, but=[deployment.mint_key, *deployment.folder.rglob("*key.pem")])


def _issue_everything(client: Wire, handle: str) -> dict[str, str | bytes]:
    answers = [client.issue(handle, scope) for scope in SCOPES]
    client.heartbeat(handle, *(answer.lease.lease_id for answer in answers))
    found: dict[str, str | bytes] = {}
    for answer in answers:
        found |= _secrets_of(answer.credential)
    return found


def _failing_vault(scene: Scene) -> Iterator[Refusal]:
    """Answers that went wrong after the secret was made, with words that no one may repeat."""
    said = response("500 Internal Server Error", json.dumps({"errors": [CANARY]}).encode())
    mangled = response("200 OK", json.dumps({"auth": {"client_token": CANARY}, "data": CANARY}).encode())
    cut = response("200 OK", b'{"data": {"password": "' + CANARY.encode())
    create = f"auth/token/create/{scene.site.name}-token"  # not the tomb that settles the doubt
    for path, scope in ((create, "token"), ("secret/data", "kv"), ("database/creds", "db")):
        for answer in (said, mangled, cut):
            scene.between.inject(Fault.ANSWER, path, answer=answer)
            yield scene.refused(scope)
            assert scene.between.times == 0
    scene.between.inject(Fault.ANSWER, "revoke-self", answer=said)
    scene.site.bao.must("PUT", f"sys/policies/acl/{scene.site.name}-kv", {"policy": STEP_SELF})
    yield scene.refused("kv")


def _refusals(scene: Scene) -> Iterator[Refusal]:
    yield scene.client.refused("BeginStep", begin("../" + CANARY, "token"))
    yield scene.client.refused("IssueCredential", issue(scene.handle[::-1], "token"))
    scene.deployment.scopes_file.write_text(scene.site.scope_map.replace("tier: low", "teir: low"))
    scene.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "scope map refused" in scene.deployment.log.read_text(), within=15, what="the refused map")


def _full_disk(scene: Scene) -> Iterator[Refusal]:
    """The log is left room to grow: what it says of a failing database is the point."""
    deployment, pid = scene.deployment, scene.daemon.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    sizes = [path.stat().st_size for path in (deployment.database.with_name("broker.db-wal"), deployment.log)]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (max(sizes) + 50_000, hard))
    refusal = None
    while refusal is None or refusal.reason != "STORE_UNAVAILABLE":
        try:
            scene.client.issue(scene.handle, "token")
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            yield refusal
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


# --- the mutants: a scan that cannot find proves nothing ---


@pytest.mark.parametrize("form", forms(CANARY))
def test_the_scan_finds_a_planted_secret_in_every_form(tmp_path: Path, form: str) -> None:
    (tmp_path / "log").write_bytes(b"something before " + forms(CANARY)[form] + b" and after")
    found = leaks(files(tmp_path), {"planted": CANARY})
    assert f"planted as {form} in {tmp_path / 'log'}" in found


@pytest.mark.parametrize("shift", range(6))
def test_the_scan_finds_a_secret_inside_a_longer_base64_text(tmp_path: Path, shift: int) -> None:
    (tmp_path / "log").write_bytes(base64.b64encode(b"x" * shift + CANARY.encode() + b"and more"))
    assert leaks(files(tmp_path), {"planted": CANARY})


def test_the_scan_finds_what_is_planted_in_database_log_arguments_and_environment(site: Site) -> None:
    deployment = site.deployment()
    planted = "canary-in-the-environment"
    with deployment.daemon("--log-level", "debug", env={"PLANTED": planted}) as daemon:
        with sqlite3.connect(deployment.database, timeout=5) as other:
            other.execute("CREATE TABLE planted (text TEXT)")
            other.execute("INSERT INTO planted VALUES ('canary-in-the-database')")
        with deployment.log.open("a") as log:
            log.write("canary-in-the-log\n")
        places = left_behind(deployment) | process(daemon.pid)
        found = leaks(
            places,
            {
                "database": "canary-in-the-database",
                "log": "canary-in-the-log",
                "environment": planted,
                "arguments": "--log-level",
            },
        )
    assert {line.split(" as ")[0] for line in found} >= {"database", "log", "arguments"}
    assert any(line.startswith("environment") for line in found) or f"/proc/{daemon.pid}/environ" not in places
