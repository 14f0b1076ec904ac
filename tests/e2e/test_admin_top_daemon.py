"""`stepcred admin top` in a pseudo-terminal, against the real daemon and OpenBao."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stepcred
from tests.e2e.world import LOAD, Site
from tests.support.daemon import TRUST_DOMAIN, Deployment
from tests.support.processes import free_port
from tests.support.terminal import Terminal

COMMAND = str(Path(sys.executable).parent / "stepcred")
ANN = f"spiffe://{TRUST_DOMAIN}/operator/ann"

pytestmark = pytest.mark.usefixtures("untouched")


@pytest.fixture
def watched(site: Site, tmp_path: Path) -> Iterator[tuple[Deployment, dict[str, str]]]:
    """A daemon, and what its operator's terminal has in its environment."""
    people = tmp_path / "operators.yaml"
    people.write_text(f"version: 1\noperators:\n  ann: {{ids: ['{ANN}'], roles: [viewer]}}\n")
    port = free_port()
    made = site.deployment()
    made.more = {
        **made.more,
        "operators": {
            "client_ca_file": str(made.ca.operator_root_path),
            "listen": f"127.0.0.1:{port}",
            "file": str(people),
        },
    }
    made.write_config()
    ann = made.ca.operator(ANN)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "STEPCRED_ADMIN_ADDR": f"localhost:{port}",
        "STEPCRED_ADMIN_CERT": str(ann.cert),
        "STEPCRED_ADMIN_KEY": str(ann.key),
        "STEPCRED_ADMIN_CA": str(ann.ca),
    }
    with made.daemon():
        yield made, env


def test_a_step_comes_and_goes(watched: tuple[Deployment, dict[str, str]]) -> None:
    deployment, env = watched
    load = deployment.agent(LOAD)
    with Terminal([COMMAND, "admin", "top", "--interval", "0.5"], env) as terminal:
        terminal.wait_for("dev  epoch 1", "[1 Steps 0]", "no step is open")
        with (
            stepcred.connect(deployment.addr, str(load.cert), str(load.key), str(load.ca)) as broker,
            broker.step(workflow="nightly", run="r1", step="load", scopes=["danger"]) as step,
        ):
            lease = step.issue("danger").lease
            terminal.wait_for("[1 Steps 1]", "workflow/nightly/step/load", "999/1000 danger", "leases 1")
            terminal.press("2\r")
            terminal.wait_for(lease.lease_id, "ACTIVE", "EXACT", f"stepcred admin explain {lease.lease_id}")
            terminal.press("\x1b")
            terminal.wait_for("[2 Leases 1]")
            terminal.press("6")
            terminal.wait_for("vault", "OK", "1 active, 0 revoking, 0 in doubt")
        terminal.press("2")
        terminal.wait_for("[2 Leases 0]", "no lease is alive", "1 Steps 0")
        terminal.press("q")
        assert terminal.ended() == 0
        assert not terminal.alternate
        assert terminal.modes == terminal.modes_before
