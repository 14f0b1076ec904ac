"""A step waits for its operators, on the real daemon and OpenBao: one mint, one attempt, or none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pyotp
import pytest

import stepcred
from broker.operators.sealing import SealingKey
from broker.secret import Secret
from stepcred import _refusals
from stepcred.v1 import operator_pb2 as op
from stepcred.v1.operator_pb2_grpc import BrokerOperatorStub
from tests.e2e.world import LOAD, Site, journal
from tests.support.certs import Creds
from tests.support.daemon import TRUST_DOMAIN, Deployment
from tests.support.processes import free_port, wait_until

COMMAND = Path(sys.executable).parent / "stepcred"
SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
KEY = bytes(range(32))
PEOPLE = ("ann", "bob", "cyd")

pytestmark = pytest.mark.usefixtures("untouched")


class House:
    """A daemon whose `danger` two operators must approve; a code of a second factor counts once, so each speaks once."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.port = free_port()
        key, people = folder / "second-factors.key", folder / "operators.yaml"
        key.write_bytes(KEY)
        key.chmod(0o600)
        people.write_text("version: 1\noperators:\n" + "".join(map(entry, PEOPLE)))
        made = site.deployment()
        text = site.scope_map.replace("ttl: 10m, tier: high}", "ttl: 10m, tier: high, approvals: 2}", 1)
        assert text != site.scope_map
        made.scopes_file.write_text(text)
        made.more = {
            **made.more,
            "operators": {
                "client_ca_file": str(made.ca.operator_root_path),
                "listen": f"127.0.0.1:{self.port}",
                "file": str(people),
                "second_factor_key_file": str(key),
            },
        }
        made.write_config()
        self.deployment = made

    def open_one(self, by: BrokerOperatorStub, run: str) -> Any:
        """The approval that waits in this run, once there is one."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [one for one in by.ListApprovals(op.ListApprovalsRequest()).approvals if one.run == run]
            return bool(found)

        wait_until(look, within=20, what="an approval that waits")
        return found[0]

    def decide(self, name: str, run: str, *, approve: bool) -> None:
        creds = self.deployment.ca.operator(f"spiffe://{TRUST_DOMAIN}/operator/{name}")
        root = self.deployment.ca.root_pem
        tls = grpc.ssl_channel_credentials(root, creds.key.read_bytes(), creds.cert.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{self.port}", tls) as channel:
            stub = BrokerOperatorStub(channel)
            waiting = self.open_one(stub, run)
            request = op.DecideApprovalRequest(
                approval_id=waiting.approval_id,
                approve=approve,
                reason="ticket 7",
                code=pyotp.TOTP(SECRET).now(),
                digest=waiting.digest,
            )
            stub.DecideApproval(request, timeout=10)


def entry(name: str) -> str:
    sealed = SealingKey(KEY).seal(name, 1, Secret(SECRET)).text
    ids = f'["spiffe://{TRUST_DOMAIN}/operator/{name}"]'
    return f"  {name}: {{ids: {ids}, roles: [approver], second_factor: {{revision: 1, sealed: {sealed}}}}}\n"


@pytest.fixture(scope="module")
def house(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(site, tmp_path_factory.mktemp("people"))
    with house.deployment.daemon():
        yield house


@pytest.fixture(scope="module")
def load(house: House) -> Creds:
    return house.deployment.agent(LOAD)


def spent(deployment: Deployment) -> int:
    with deployment.store() as store:
        return sum(row.spent for row in store.read(lambda tx: tx.guard_page(after="", limit=10, open_too=True)))


def test_a_step_waits_is_approved_and_mints_once(
    house: House, load: Creds, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_refusals, "FIRST_PAUSE", 0.2)
    addr, told = house.deployment.addr, list[int]()
    with (
        stepcred.connect(addr, str(load.cert), str(load.key), str(load.ca)) as broker,
        broker.step(workflow="nightly", run="r1", step="load", scopes=["danger"]) as step,
        ThreadPoolExecutor(2) as operators,
    ):
        assert step.verdicts[0].access is stepcred.Access.NEEDS_APPROVAL
        yes = [operators.submit(house.decide, name, "r1", approve=True) for name in ("ann", "bob")]
        token = step.issue("danger", approval_timeout=30, on_waiting=lambda one: told.append(one.approvals_given))
        for one in yes:
            one.result(timeout=10)
        assert isinstance(token, stepcred.VaultToken)
        assert site.live_leases() >= {token.lease.lease_id}
        with pytest.raises(stepcred.NeedsApproval):  # it was good for one
            step.issue("danger")
    assert told[0] == 0
    assert spent(house.deployment) == 1
    (intent,) = journal(house.deployment, "LEASE_INTENT")
    assert intent["data"]["approval_id"]
    assert step.all_proven


def test_a_denial_ends_the_wait_of_exec(house: House, load: Creds) -> None:
    before = spent(house.deployment)
    names = ["--workflow", "nightly", "--run", "r2", "--step", "load"]
    argv = [str(COMMAND), "exec", "--scope", "danger", *names, "--approval-timeout", "2m", "--", "echo", "ran"]
    env = {**os.environ, **house.deployment.env(load)}
    with ThreadPoolExecutor(1) as operator:
        no = operator.submit(house.decide, "cyd", "r2", approve=False)
        ran = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=60)
        no.result(timeout=10)
    assert (ran.returncode, ran.stdout) == (77, "")
    first, second, *_ = ran.stderr.splitlines()
    assert first.startswith("stepcred: danger: waiting for approval ")
    assert "APPROVAL_DECIDED" in second
    assert spent(house.deployment) == before
