"""The mint key is rotated under a running daemon: older keys still end what they named."""

from __future__ import annotations

import signal
from pathlib import Path

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
        wait_until(lambda: "mint key rotated" in deployment.log.read_text(), within=15, what="the new key is in use")
        second = client.issue(handle, "token").lease.lease_id
        client.heartbeat(handle, first, second)
        assert {lease_id: lease.kid for lease_id, lease in leases(deployment).items()} == {first: old, second: new}
        deployment.mint_key.write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "mint key file refused" in deployment.log.read_text(), within=15, what="a refused key file")
        assert client.end(handle).all_proven
    assert site.live_leases() == set()


def test_a_daemon_serves_with_its_mint_key_as_a_systemd_credential(site: Site, tmp_path: Path) -> None:
    assert main(["keys", "new", str(tmp_path / "mint")]) == 0
    (tmp_path / "mint").chmod(0o440)  # an ACL of systemd shows as a group's right
    deployment = site.deployment()
    anchor = deployment.folder / "head.anchor"
    store = {"path": str(deployment.database), "mint_key_file": "credential:mint", "anchor_file": str(anchor)}
    deployment.more = {**deployment.more, "store": store}
    deployment.write_config()
    before = sorted(tmp_path.iterdir())
    with (
        deployment.daemon(env={"CREDENTIALS_DIRECTORY": str(tmp_path)}),
        wire(deployment, deployment.agent(LOAD)) as client,
    ):
        handle = client.begin(new_id(), "token")
        lease_id = client.issue(handle, "token").lease.lease_id
        assert client.end(handle).all_proven
    assert leases(deployment)[lease_id].kid == keyring.load(copy_of(tmp_path / "mint")).current
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "mint.copy"]
    assert anchor.is_file()


def copy_of(path: Path) -> Path:
    """As the daemon may read it, outside of systemd."""
    to = path.with_suffix(".copy")
    to.touch(mode=0o600)
    to.write_text(path.read_text())
    return to
