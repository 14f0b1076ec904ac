"""The mint key is rotated under a running daemon: older keys still end what they named."""

from __future__ import annotations

import signal

import pytest

from broker import keyring
from broker.__main__ import main
from tests.e2e.wire import new_id, wire
from tests.e2e.world import LOAD, Site, leases
from tests.support.processes import wait_until

pytestmark = pytest.mark.usefixtures("untouched")


def test_a_rotated_key_names_what_is_new_and_the_old_one_ends_what_it_named(site: Site) -> None:
    deployment = site.deployment()
    config = ("--config", str(deployment.config))
    with deployment.daemon() as process, wire(deployment, deployment.agent(LOAD)) as client:
        handle = client.begin(new_id(), "token")
        first = client.issue(handle, "token").lease.lease_id
        old = keyring.load(deployment.mint_key).current
        assert main(["keys", "rotate", *config]) == 0
        new = keyring.load(deployment.mint_key).current
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "mint key rotated" in deployment.log.read_text(), within=5, what="the new key is in use")
        second = client.issue(handle, "token").lease.lease_id
        client.heartbeat(handle, first, second)
        assert {lease_id: lease.kid for lease_id, lease in leases(deployment).items()} == {first: old, second: new}
        deployment.mint_key.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "mint key file refused" in deployment.log.read_text(), within=5, what="a refused key file")
        assert client.end(handle).all_proven
    assert site.live_leases() == set()
