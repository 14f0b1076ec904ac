"""A scheduler opens steps for a workload, on the real daemon and OpenBao: what is proven, what is pinned, who gets what."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import stepcred
from stepcred.v1 import broker_pb2 as pb
from tests.e2e.wire import begin, check_refusal, end, issue, new_id, revoke, wire
from tests.e2e.world import LOAD, Site, journal, leases
from tests.support.certs import Creds
from tests.support.daemon import TRUST_DOMAIN, Deployment
from tests.support.processes import wait_until

COMMAND = Path(sys.executable).parent / "stepcred"
DIGEST, CHANGED = ("sha256:" + digit * 64 for digit in "ab")
WORKLOAD = f"spiffe://{TRUST_DOMAIN}/{LOAD}"
SCHEDULER = f"spiffe://{TRUST_DOMAIN}/scheduler"
PRINT_TOKEN = [sys.executable, "-c", "import os; print(os.environ['VAULT_TOKEN'])"]

pytestmark = pytest.mark.usefixtures("untouched")


def pinned_map(site: Site) -> str:
    """The site's map, whose `token` is for one definition only, and a scheduler that may launch any."""
    text = site.scope_map.replace("scopes: [token, kv,", "scopes: [kv,")
    assert text != site.scope_map
    return (
        text
        + f"""\
  pinned: {{workloads: [load], workflows: [nightly], scopes: [token], definition_digest: ["{DIGEST}"], max_step: 2h, bind: key}}
launchers:
  scheduler: {{id: "{SCHEDULER}", workloads: [load], workflows: [nightly]}}
"""
    )


@pytest.fixture(scope="module")
def broker(site: Site) -> Deployment:
    deployment = site.deployment(timings={"start_within": "4s", "silence_bound": "2s", "heartbeat": "500ms"})
    deployment.scopes_file.write_text(pinned_map(site))
    return deployment


@pytest.fixture(scope="module", autouse=True)
def daemon(broker: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    with broker.daemon() as process:
        yield process


@pytest.fixture(scope="module")
def scheduler(broker: Deployment) -> Creds:
    return broker.agent("scheduler")


@pytest.fixture(scope="module")
def load(broker: Deployment) -> Creds:
    return broker.agent(LOAD)


def connect(broker: Deployment, creds: Creds) -> stepcred.Broker:
    return stepcred.connect(broker.addr, str(creds.cert), str(creds.key), str(creds.ca))


def launch(broker: stepcred.Broker, run: str, digest: str = DIGEST) -> stepcred.Launched:
    return broker.launch(
        workflow="nightly", run=run, step="load", scopes=["token"], on_behalf_of=WORKLOAD, definition_digest=digest
    )


def command(broker: Deployment, creds: Creds, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        env={**os.environ, **broker.env(creds), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_what_the_scheduler_opens_the_workload_uses_and_nothing_is_left(
    broker: Deployment, scheduler: Creds, load: Creds, site: Site, tmp_path: Path
) -> None:
    run, file = new_id(), tmp_path / "handle"
    names = ["--workflow", "nightly", "--run", run, "--step", "load"]
    opened = command(
        broker,
        scheduler,
        *("launch", "--for", WORKLOAD, *names, "--definition-digest", DIGEST),
        *("token", "--handle-file", str(file)),
    )
    assert (opened.returncode, opened.stdout, opened.stderr) == (0, "", "")
    done = command(
        broker, load, "exec", "--no-mask", "--scope", "token", "--handle-file", str(file), "--", *PRINT_TOKEN
    )
    assert done.returncode == 0, done.stderr
    assert "1 credential dead, proven in" in done.stderr
    token = done.stdout.strip()
    assert token
    assert site.bao.call("GET", "auth/token/lookup-self", token=token).status == 403
    begun, started, intent = (
        record for record in journal(broker, "STEP_BEGUN", "STEP_STARTED", "LEASE_INTENT") if record["run"] == run
    )
    assert begun["data"]["opened_by"] == started["data"]["opened_by"] == intent["data"]["opened_by"] == SCHEDULER
    assert {record["agent"] for record in (begun, started, intent)} == {WORKLOAD}
    assert (intent["data"]["proven"], intent["data"]["definition_digest"]) == (True, DIGEST)
    assert intent["data"]["address"] == "127.0.0.1"
    assert begun["cert_sha256"] != started["cert_sha256"]
    assert leases(broker)[intent["lease_id"]].address == "127.0.0.1"


def test_a_changed_definition_and_a_claimed_one_get_nothing(
    broker: Deployment, scheduler: Creds, load: Creds, site: Site
) -> None:
    before = site.live_leases()
    with connect(broker, scheduler) as launcher, connect(broker, load) as sdk:
        changed = launch(launcher, run := new_id(), CHANGED)
        (verdict,) = changed.verdicts
        assert verdict.reason == "DIGEST_NOT_PINNED"
        with sdk.join(changed.handle) as step:
            with pytest.raises(stepcred.AccessDenied) as caught:
                step.issue("token")
            assert caught.value.metadata["denial"] == "DIGEST_NOT_PINNED"
        with (
            pytest.raises(stepcred.AccessDenied, match="OPENED_BY_LAUNCHER"),
            sdk.step(workflow="nightly", run=run, step="load", scopes=["token"]),
        ):
            pytest.fail("was opened")
        with sdk.step(workflow="nightly", run=new_id(), step="load", scopes=["token"]) as own:
            assert own.verdicts[0].reason == "NEEDS_LAUNCHER"
            with pytest.raises(stepcred.AccessDenied):
                own.issue("token")
    assert site.live_leases() == before


def test_the_scheduler_reaches_no_credential_and_ends_what_it_opened(
    broker: Deployment, scheduler: Creds, load: Creds, site: Site
) -> None:
    with connect(broker, scheduler) as launcher, connect(broker, load) as sdk:
        launched = launch(launcher, new_id())
        with sdk.join(launched.handle) as step:
            token = step.issue("token")
            assert isinstance(token, stepcred.VaultToken)
            with pytest.raises(stepcred.AccessDenied, match="ACCESS_DENIED"), launcher.join(launched.handle):
                pytest.fail("was joined")
            (outcome,) = launcher.end(launched.handle)
            assert (outcome.lease_id, outcome.proven) == (token.lease.lease_id, True)
    assert site.bao.call("GET", "auth/token/lookup-self", token=token.token).status == 403


def test_a_stolen_handle_is_worth_nothing_with_another_key_of_the_same_identity(
    broker: Deployment, scheduler: Creds, load: Creds, site: Site
) -> None:
    """`bind: key`, launched: whoever first calls with the handle is the workload, and no other certificate of it is."""
    thief = broker.agent(LOAD)
    with connect(broker, scheduler) as launcher:
        handle = launch(launcher, run := new_id()).handle
        with wire(broker, load) as client, wire(broker, thief) as other:
            token = client.call("IssueCredential", asked := issue(handle, "token"))
            lease = token.lease.lease_id
            beat = pb.HeartbeatRequest(step_handle=handle, held_lease_ids=[lease])
            tries = [
                ("IssueCredential", issue(handle, "token")),
                ("IssueCredential", asked),
                ("Heartbeat", beat),
                ("RevokeLease", revoke(handle, lease)),
                ("EndStep", end(handle, wait=0)),
            ]
            told = set()
            for method, request in tries:
                refusal = other.refused(method, request)
                check_refusal(refusal, "ACCESS_DENIED", grpc.StatusCode.PERMISSION_DENIED)
                told.add(str(refusal.without_reference()))
            unknown = client.refused("Heartbeat", pb.HeartbeatRequest(step_handle="x" * len(handle)))
            assert told == {str(unknown.without_reference())}, "refusals that can be told apart"
            assert client.call("IssueCredential", asked).lease.lease_id == lease
            client.call("Heartbeat", beat)
        assert site.bao.call("GET", "auth/token/lookup-self", token=token.credential.vault_token.token).status == 200
        assert [outcome.proven for outcome in launcher.end(handle)] == [True]
    row = leases(broker)[lease]
    (started,) = (one for one in journal(broker, "STEP_STARTED") if one["run"] == run)
    assert started["data"]["bind"] == "key"
    assert started["data"]["spki_sha256"] == row.certificate.spki_sha256 == spki(load)
    whys = [one["data"]["spki_sha256"] for one in journal(broker, "DENIED") if one.get("run") == run]
    assert set(whys) == {spki(thief)}


def spki(creds: Creds) -> str:
    public = x509.load_pem_x509_certificate(creds.cert.read_bytes()).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def test_nobody_but_a_launcher_opens_for_others(broker: Deployment, load: Creds, scheduler: Creds) -> None:
    told = set()
    for creds, workload in (
        (load, f"spiffe://{TRUST_DOMAIN}/workflow/nightly/step/report"),
        (scheduler, f"spiffe://{TRUST_DOMAIN}/workflow/nightly/step/report"),
        (scheduler, f"spiffe://{TRUST_DOMAIN}/workflow/nightly/step/nobody"),
        (scheduler, SCHEDULER),
        (scheduler, "spiffe://elsewhere/workflow/nightly/step/load"),
    ):
        request = begin(new_id(), "token")
        request.on_behalf_of = workload
        with wire(broker, creds) as client:
            refusal = client.refused("BeginStep", request)
        check_refusal(refusal, "ACCESS_DENIED", grpc.StatusCode.PERMISSION_DENIED)
        told.add(str(refusal.without_reference()))
    assert len(told) == 1, "refusals that can be told apart"


def test_a_launcher_that_is_taken_out_is_believed_no_longer(
    broker: Deployment, daemon: subprocess.Popen[bytes], scheduler: Creds, load: Creds, site: Site
) -> None:
    with connect(broker, scheduler) as launcher, connect(broker, load) as sdk:
        launched = launch(launcher, new_id())
        with sdk.join(launched.handle) as step:
            step.issue("token")
            try:
                load_map(broker, daemon, pinned_map(site).partition("launchers:")[0])
                with pytest.raises(stepcred.AccessDenied) as caught:
                    step.issue("token")
                assert caught.value.metadata["denial"] == "NEEDS_LAUNCHER"
                with pytest.raises(stepcred.AccessDenied, match="ACCESS_DENIED"):
                    launch(launcher, new_id())
            finally:
                load_map(broker, daemon, pinned_map(site))
            with sdk.join(launched.handle) as anew:  # what `step` was refused for good it asks no more
                anew.issue("token")


def load_map(broker: Deployment, daemon: subprocess.Popen[bytes], text: str) -> None:
    """SIGHUP, and until it is in the journal."""
    before = len(journal(broker, "POLICY_LOADED"))
    broker.scopes_file.write_text(text)
    daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: len(journal(broker, "POLICY_LOADED")) > before, within=10, what="the map is loaded")


def test_a_workload_that_does_not_start_leaves_no_step(broker: Deployment, scheduler: Creds, load: Creds) -> None:
    with connect(broker, scheduler) as launcher, connect(broker, load) as sdk:
        launched = launch(launcher, run := new_id())
        assert launched.start_within is not None
        assert launched.start_within.total_seconds() == 4
        wait_until(lambda: run in {one["run"] for one in journal(broker, "STEP_ENDED")}, within=15, what="it ends")
        with pytest.raises(stepcred.StepEnded), sdk.join(launched.handle):
            pytest.fail("was joined")
    assert [one["reason"] for one in journal(broker, "STEP_ENDED") if one["run"] == run] == ["SILENT"]
