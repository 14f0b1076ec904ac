"""I6 over the whole process: no secret in log, journal, database, arguments, environment, metrics or errors."""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest

from tests.e2e.leaks import files, forms, leaks, process
from tests.e2e.wire import Refusal, Wire, begin, issue, new_id, refusal_of, wire
from tests.e2e.world import LOAD, Site
from tests.support.bao import STEP_SELF, provision_database
from tests.support.daemon import Deployment
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until
from tests.support.proxy import Fault, Proxy, proxy, response

CANARY = "canary/7Q+x%=-ö~8"


@pytest.fixture
def database_role(site: Site, pg: PostgresServer) -> str:
    provision_database(site.bao, pg, f"{site.name}-db")
    return f"{site.name}-db"


async def test_i6_no_secret_leaves_the_daemon_but_to_its_agent(site: Site, database_role: str) -> None:
    async with proxy(urlsplit(site.bao.address).port or 0) as between:
        deployment = site.deployment(vault={"address": between.address}, timings={"drain_grace": "1s"})
        await asyncio.to_thread(_work_and_look, deployment, site, between)


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


def _work_and_look(deployment: Deployment, site: Site, between: Proxy) -> None:
    secrets: dict[str, str | bytes] = {
        "the KV value": site.secret,
        "the broker's secret id": site.login.secret_id_file.read_text(),
        "what Vault said": CANARY,
    }
    with deployment.daemon() as daemon, wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token", "kv", "db")
        key = deployment.mint_key.read_text().strip().split(":")[1]
        secrets |= {"the mint key": key, "the mint key's bytes": bytes.fromhex(key), "the step handle": handle}
        secrets |= _issue_everything(client, handle)
        scene = Scene(site=site, deployment=deployment, between=between, daemon=daemon, client=client, handle=handle)
        refusals = [*_failing_vault(scene), *_refusals(scene), *_full_disk(scene)]
        assert {"PROVIDER_FAILED", "STORE_UNAVAILABLE", "ACCESS_DENIED"} <= {refusal.reason for refusal in refusals}
        places = left_behind(deployment) | process(daemon.pid)
        places |= {path: deployment.http(path)[1].encode() for path in ("metrics", "readyz", "livez")}
        places |= {f"refusal {number}": refusal.text().encode() for number, refusal in enumerate(refusals)}
        assert leaks(places, secrets) == []
        client.end(handle, wait=1)  # doubts take longer
    assert leaks(left_behind(deployment), secrets) == []


def left_behind(deployment: Deployment) -> dict[str, bytes]:
    """All files, without those that are there to hold a secret."""
    return files(deployment.folder, but=[deployment.mint_key, *deployment.folder.rglob("*key.pem")])


def _issue_everything(client: Wire, handle: str) -> dict[str, str]:
    token, value, login = (client.issue(handle, scope) for scope in ("token", "kv", "db"))
    client.heartbeat(handle, *(answer.lease.lease_id for answer in (token, value, login)))
    assert value.credential.key_value.data["password"]
    return {
        "the token": token.credential.vault_token.token,
        "the database password": login.credential.username_password.password,
    }


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
    wait_until(lambda: "scope map refused" in scene.deployment.log.read_text(), within=5, what="the refused map")


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
