"""The SDK and the command against the real daemon: what a step's author sees."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

import stepcred
from tests.e2e.wire import new_id
from tests.e2e.world import LOAD, REPORT, Site, leases
from tests.support.bao import provision_database
from tests.support.certs import Creds
from tests.support.daemon import Deployment
from tests.support.postgres import PostgresServer
from tests.support.processes import wait_until

COMMAND = Path(sys.executable).parent / "stepcred"
PARALLEL = 50

pytestmark = pytest.mark.usefixtures("untouched")


@pytest.fixture(scope="module")
def broker(site: Site) -> Iterator[Deployment]:
    deployment = site.deployment()
    with deployment.daemon():
        yield deployment


@pytest.fixture(scope="module")
def load(broker: Deployment) -> Creds:
    return broker.agent(LOAD)


def connect(broker: Deployment, creds: Creds) -> stepcred.Broker:
    return stepcred.connect(broker.addr, str(creds.cert), str(creds.key), str(creds.ca))


@asynccontextmanager
async def aconnect(broker: Deployment, creds: Creds) -> AsyncIterator[stepcred.aio.Broker]:
    async with stepcred.aio.connect(broker.addr, str(creds.cert), str(creds.key), str(creds.ca)) as connected:
        yield connected


# --- SDK ---


def test_a_token_works_during_the_step_and_is_dead_after_it(broker: Deployment, load: Creds, site: Site) -> None:
    with (
        connect(broker, load) as sdk,
        sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["token"]) as step,
    ):
        credential = step.issue("token")
        assert isinstance(credential, stepcred.VaultToken)
        read = site.bao.call("GET", f"secret/data/{site.name}", token=credential.token)
        assert read.data["data"]["password"] == site.secret
        assert credential.token not in repr(credential)
    assert step.all_proven
    assert step.summary().startswith("1 credential dead, proven in")
    assert site.bao.call("GET", f"secret/data/{site.name}", token=credential.token).status == 403


async def test_the_same_in_asyncio(broker: Deployment, load: Creds, site: Site) -> None:
    async with (
        aconnect(broker, load) as sdk,
        sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["token", "kv"]) as step,
    ):
        token, value = await asyncio.gather(step.issue("token"), step.issue("kv"))
        assert isinstance(token, stepcred.VaultToken)
        assert isinstance(value, stepcred.KeyValue)
        assert value.data == {"password": site.secret}
    assert step.all_proven
    assert "1 static, no longer served" in step.summary()
    assert site.bao.call("GET", "auth/token/lookup-self", token=token.token).status == 403


def test_an_exception_in_the_step_ends_it_too(broker: Deployment, load: Creds, site: Site) -> None:
    def body() -> None:
        with connect(broker, load) as sdk:
            step = sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["token"])
            with step:
                step.issue("token")
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert not site.live_tokens()


def test_a_database_login_works_during_the_step_and_is_refused_after_it(
    broker: Deployment, load: Creds, site: Site, pg: PostgresServer
) -> None:
    provision_database(site.bao, pg, f"{site.name}-db")
    with connect(broker, load) as sdk, sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["db"]) as step:
        login = step.issue("db")
        assert isinstance(login, stepcred.UsernamePassword)
        session = psycopg.connect(pg.dsn(login.username, login.password))
        row = session.execute("SELECT current_user").fetchone()
        assert row == (login.username,)
    assert step.all_proven
    assert not pg.logs_in(login.username, login.password)
    with pytest.raises(psycopg.OperationalError):  # the session that was open is gone as well
        session.execute("SELECT 1")
    assert pg.minted_roles(site.name[:8]) == []


def test_refusals_are_typed_and_say_what_to_do(broker: Deployment, load: Creds) -> None:
    with (
        connect(broker, load) as sdk,
        sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["token", "reports"]) as step,
    ):
        verdicts = {verdict.scope: verdict.access for verdict in step.verdicts}
        assert verdicts == {"token": stepcred.Access.GRANTED, "reports": stepcred.Access.REFUSED}
        with pytest.raises(stepcred.AccessDenied) as denied:
            step.issue("reports")
        assert (denied.value.verdict, denied.value.retry_after) == (stepcred.Verdict.NEVER, None)
        assert denied.value.reference_id


def test_fifty_parallel_steps_over_one_connection_each_end_with_proof(
    broker: Deployment, load: Creds, site: Site
) -> None:
    with connect(broker, load) as sdk, ThreadPoolExecutor(PARALLEL) as pool:

        def one(_: int) -> stepcred.Step:
            with sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["token"], wait=20) as step:
                step.issue("token")
            return step

        steps = list(pool.map(one, range(PARALLEL)))
    outcomes = [outcome for step in steps for outcome in step.outcomes]
    assert len({outcome.lease_id for outcome in outcomes}) == PARALLEL
    assert {outcome.evidence for outcome in outcomes} == {stepcred.Evidence.SEEN_DEAD}
    assert not site.live_tokens()


async def test_fifty_parallel_steps_in_asyncio(broker: Deployment, load: Creds) -> None:
    async with aconnect(broker, load) as sdk:

        async def one() -> bool:
            async with sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["token"], wait=20) as step:
                await step.issue("token")
            return step.all_proven

        assert await asyncio.gather(*(one() for _ in range(PARALLEL))) == [True] * PARALLEL


def test_the_sdk_heartbeats_so_that_a_credential_is_claimed(broker: Deployment, load: Creds) -> None:
    with (
        connect(broker, load) as sdk,
        sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["token"]) as step,
    ):
        lease_id = step.issue("token").lease.lease_id
        wait_until(lambda: leases(broker)[lease_id].claimed_at is not None, within=15, what="the claim")


# --- the command ---


def command(broker: Deployment, creds: Creds, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *args],
        env={**os.environ, **broker.env(creds), **_names(), **more},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _names() -> dict[str, str]:
    return {"STEPCRED_WORKFLOW": "nightly", "STEPCRED_RUN": new_id(), "STEPCRED_STEP": "load"}


CHILD = "import os, sys; print(os.environ['VAULT_TOKEN'], os.environ['VAULT_ADDR']); sys.exit(7)"


def test_exec_gives_the_child_a_credential_and_takes_it_back(broker: Deployment, load: Creds, site: Site) -> None:
    done = command(
        broker,
        load,
        "exec",
        "--no-mask",
        "--scope",
        "token",
        "--",
        sys.executable,
        "-c",
        CHILD,
        VAULT_TOKEN="inherited",
    )
    token, address = done.stdout.split()
    assert (done.returncode, address) == (7, site.bao.address)
    assert token != "inherited"
    assert done.stderr.strip().startswith("stepcred: 1 credential dead, proven in")
    assert token not in done.stderr
    assert site.bao.call("GET", "auth/token/lookup-self", token=token).status == 403


def test_exec_forwards_a_signal_and_revokes_afterwards(
    broker: Deployment, load: Creds, site: Site, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    argv = [str(COMMAND), "exec", "--scope", "token", "--", "sh", "-c", f"touch {started}; exec sleep 30"]
    with subprocess.Popen(argv, env={**os.environ, **broker.env(load), **_names()}, stderr=subprocess.PIPE) as running:
        wait_until(started.exists, within=10, what="the child")
        assert site.live_tokens()
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=15)
    assert running.returncode == 128 + signal.SIGTERM
    assert b"1 credential dead" in said
    assert not site.live_tokens()


def test_exec_of_a_refused_scope_runs_nothing(broker: Deployment, load: Creds, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    done = command(broker, load, "exec", "--scope", "token", "--scope", "reports", "--", "touch", str(touched))
    assert (done.returncode, touched.exists()) == (os.EX_NOPERM, False)
    assert "reports: refused [ACCESS_DENIED]" in done.stderr
    assert "Traceback" not in done.stderr


def test_can_says_yes_or_no_and_opens_nothing(broker: Deployment, load: Creds) -> None:
    yes = command(broker, load, "can", "token")
    assert (yes.returncode, yes.stdout.startswith("yes: token for 10 min")) == (0, True)
    no = command(broker, load, "can", "reports")
    assert (no.returncode, no.stdout.startswith("no: ")) == (1, True)
    foreign = command(broker, broker.agent(REPORT), "can", "reports", "--json", STEPCRED_STEP="report")
    assert json.loads(foreign.stdout)["access"] == "GRANTED"
    with broker.store() as store:
        assert store.read(lambda tx: tx.open_steps()) == []


def test_without_a_broker_the_command_says_so_once(broker: Deployment, load: Creds) -> None:
    done = command(broker, load, "can", "token", STEPCRED_ADDR="127.0.0.1:1")
    assert done.returncode == os.EX_UNAVAILABLE
    assert "cannot be reached" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_sdk_goes_on_over_a_restart_of_the_daemon(site: Site) -> None:
    deployment = site.deployment()
    creds = deployment.agent(LOAD)
    with connect(deployment, creds) as sdk:
        with deployment.daemon():
            step = sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["token"])
            step.__enter__()
            kept = step.credential("token")
            lease_id = kept.lease.lease_id
            wait_until(lambda: leases(deployment)[lease_id].claimed_at is not None, within=15, what="the claim")
        with deployment.daemon():
            assert step.credential("token") is kept
            step.issue("token")
            step.__exit__(None, None, None)
    assert step.all_proven
    assert len(step.outcomes) == 2
    assert not site.live_tokens()
