"""The map of a running daemon: changed without a word, spoilt, lost, and found again in the database."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from broker.model import EndReason, LeaseState
from tests.e2e.wire import new_id, wire
from tests.e2e.world import LOAD, Site, journal, leases
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

FAST = {"scopes": {"file": "scopes.yaml", "poll": "30s", "grace": {"low": "0s"}}}

pytestmark = pytest.mark.usefixtures("untouched")


def metric(deployment: Deployment, name: str) -> float:
    found = re.search(rf"^stepcred_{name} (\S+)$", deployment.http("metrics")[1], re.MULTILINE)
    assert found, name
    return float(found[1])


def readiness(deployment: Deployment) -> tuple[int, list[str]]:
    status, body = deployment.http("readyz")
    return status, json.loads(body).get("remarks", [])


def refused(deployment: Deployment) -> bool:
    return metric(deployment, "scope_map_refused") == 1


def test_a_change_is_taken_by_itself_and_what_it_gives_no_more_dies(site: Site) -> None:
    deployment = site.deployment(more=FAST)
    text = deployment.scopes_file.read_text()
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token", "kv")
        gone, kept = (client.issue(handle, scope).lease.lease_id for scope in ("token", "kv"))
        assert list(client.heartbeat(handle, gone, kept).ended_lease_ids) == []
        deployment.scopes_file.write_text(text.replace("scopes: [token, kv, ", "scopes: [kv, "))
        wait_until(lambda: site.live_leases() == {kept}, within=15, what="the death of what is given no more")
        assert list(client.heartbeat(handle, gone, kept).ended_lease_ids) == [gone]
        client.end(handle)
    row = leases(deployment)[gone]
    assert (row.state, row.end_reason) == (LeaseState.REVOKED, EndReason.POLICY_CHANGED)
    assert journal(deployment, "POLICY_LOADED")[-1]["data"]["plan"]["rules"] == {"grants": {"changed": ["nightly"]}}


@pytest.mark.parametrize("how", ["spoilt", "missing", "everybody's"])
def test_i7_a_bad_map_stops_neither_the_daemon_nor_its_next_start(site: Site, how: str) -> None:
    deployment = site.deployment(more=FAST)
    good = deployment.scopes_file.read_text()
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        assert not refused(deployment)
        spoil(deployment.scopes_file, how)
        wait_until(lambda: refused(deployment), within=15, what="the refusal")
        assert readiness(deployment) == (200, ["the scope map on disk is refused; the last good one is in force"])
        handle = client.begin(new_id(), "token")
        client.issue(handle, "token")
        client.end(handle)
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        assert refused(deployment)
        handle = client.begin(new_id(), "token")
        client.issue(handle, "token")
        client.end(handle)
        deployment.scopes_file.unlink(missing_ok=True)
        deployment.scopes_file.write_text(good)
        wait_until(lambda: not refused(deployment), within=15, what="the good map")
        assert readiness(deployment) == (200, [])
    kinds = [record["kind"] for record in journal(deployment, "POLICY_LOADED", "POLICY_REFUSED", "ALERT")]
    assert kinds == ["POLICY_LOADED", "POLICY_REFUSED", "ALERT", "POLICY_REFUSED", "POLICY_LOADED"]
    assert journal(deployment, "POLICY_LOADED")[-1]["data"]["from"] == "database"


def spoil(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "spoilt":
        path.write_text(path.read_text() + "typo: 1\n")
    else:
        path.chmod(0o666)


def test_a_first_start_without_a_good_map_is_refused(site: Site) -> None:
    deployment = site.deployment()
    deployment.scopes_file.unlink()
    for command in (deployment.argv, [*deployment.argv[:-3], "check", *deployment.argv[-2:]]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 78
        assert "scopes.yaml:1:1: does not exist" in done.stdout + done.stderr


def test_a_map_counts_only_as_it_was_signed(site: Site) -> None:
    """Keys from the CLI, checked by the daemon; what is of tier high takes two people."""
    deployment = site.deployment()
    stepcred = [*deployment.argv[:-3], "scopes"]

    def run(*args: str) -> None:
        subprocess.run([*stepcred, *args], check=True, capture_output=True, timeout=30)

    def sign(person: str, *new: str) -> None:
        run("sign", str(deployment.scopes_file), "--key", f"{key[person]}.key.pem", *new)

    key = {person: deployment.folder / person for person in ("alice", "bob")}
    for prefix in key.values():
        run("keygen", "--output", str(prefix))
    keys = {person: f"{prefix}.pem" for person, prefix in key.items()}
    deployment.more = {**deployment.more, "scopes": {"file": "scopes.yaml", "keys": keys}}
    deployment.write_config()
    new = ("--serial", "next", "--expires", "30d")
    sign("alice", *new)
    sign("bob")
    check = subprocess.run(
        [*deployment.argv[:-3], "check", *deployment.argv[-2:]], capture_output=True, text=True, timeout=30, check=False
    )
    assert "manifest" not in check.stdout + check.stderr
    with deployment.daemon(), wire(deployment, deployment.agent(LOAD)) as client:
        text = deployment.scopes_file.read_text()
        deployment.scopes_file.write_text(text.replace("ttl: 10m, tier: high", "ttl: 12m, tier: high"))
        wait_until(lambda: refused(deployment), within=15, what="what nobody signed")
        sign("alice", *new)
        wait_until(lambda: "widens what is of tier high" in deployment.log.read_text(), within=15, what="the second")
        assert metric(deployment, "policy_generation") == 1
        sign("bob")
        wait_until(lambda: metric(deployment, "policy_generation") == 2, within=15, what="what both signed")
        handle = client.begin(new_id(), "token")
        client.issue(handle, "token")
        client.end(handle)
    loaded = journal(deployment, "POLICY_LOADED")[-1]["data"]
    assert (loaded["serial"], loaded["signers"]) == (2, ["alice", "bob"])
