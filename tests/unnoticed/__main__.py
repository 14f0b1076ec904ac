"""`python -m tests.unnoticed [--long]`, in a network of its own: tells as JSON what the step noticed."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import stepcred
from tests.e2e.world import LOAD, Site, journal, leases
from tests.support.bao import BaoServer, openbao
from tests.support.certs import Creds
from tests.support.daemon import Deployment
from tests.support.processes import wait_until
from tests.unnoticed.armed_broker import SHORTEST
from tests.unnoticed.story import LONG, SHORT, Story

PAUSE = 0.05  # seconds between two uses of the credential


@dataclass
class Noticed:
    """What the step itself saw."""

    uses: int = 0
    errors: list[str] = field(default_factory=list)  # of taking or using the kept credential
    leases: list[str] = field(default_factory=list)  # in the order that they were used
    told: list[str] = field(default_factory=list)  # of the one call that was made during the cut


def live(bao: BaoServer, step: stepcred.Step, until: float, noticed: Noticed) -> None:
    """Use the credential again and again, as a step does."""
    while time.monotonic() < until:
        try:
            credential = step.credential("token")
            assert isinstance(credential, stepcred.VaultToken)
            answer = bao.call("GET", "auth/token/lookup-self", token=credential.token)
        except (stepcred.StepcredError, OSError) as error:
            noticed.errors.append(f"{type(error).__name__}: {error}")
        else:
            noticed.uses += 1
            if answer.status != 200:
                noticed.errors.append(f"OpenBao answers {answer.status}")
            if (lease_id := credential.lease.lease_id) not in noticed.leases:
                noticed.leases.append(lease_id)
        time.sleep(PAUSE)


def ask_once(step: stepcred.Step, patience: float, noticed: Noticed) -> None:
    """What a step sees that asks for something while nothing passes."""
    begun = time.monotonic()
    try:
        step.issue("kv", timeout=patience)
    except stepcred.StepcredError as error:
        noticed.told.append(type(error).__name__)
    else:
        noticed.told.append("a credential")
    noticed.told.append("in time" if time.monotonic() - begun < patience + 2 else "late")


def rotate(deployment: Deployment, creds: Creds) -> None:
    """The key first, as cert-manager's files may be seen: for a moment the two do not fit together."""
    new = deployment.agent(LOAD)
    for source, target in ((new.key, creds.key), (new.cert, creds.cert)):
        part = target.with_suffix(".part")
        shutil.copy(source, part)
        part.replace(target)
        time.sleep(PAUSE)


def nft(*rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input="\n".join(rules), text=True, check=True, timeout=10)


def cut(port: int) -> None:
    """Packets to and from the broker vanish: no refusal, no reset."""
    nft(
        "table inet cut {",
        f"chain in {{ type filter hook input priority 0; tcp dport {port} drop; tcp sport {port} drop; }}",
        "}",
    )


def mend() -> None:
    nft("delete table inet cut")


@contextlib.contextmanager
def settings(deployment: Deployment, creds: Creds) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(deployment.env(creds))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Fate:
    """Does to the step what the story says, each at its time."""

    def __init__(self, story: Story, deployment: Deployment, creds: Creds) -> None:
        self._story, self._deployment, self._creds = story, deployment, creds
        self._daemon = contextlib.ExitStack()
        self.begun = time.monotonic()

    def __enter__(self) -> Self:
        self._start()
        self.begun = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon.close()

    def _start(self) -> None:
        env = {SHORTEST: str(self._story.shortest)}
        self._process = self._daemon.enter_context(self._deployment.daemon(env=env))

    def run(self, step: stepcred.Step, noticed: Noticed) -> None:
        self._at(self._story.rotation)
        rotate(self._deployment, self._creds)
        self._at(self._story.killed)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        self._start()
        self._at(self._story.cut)
        cut(self._deployment.grpc_port)
        ask_once(step, self._story.patience, noticed)
        self._at(self._story.mended)
        mend()

    def _at(self, seconds: float) -> None:
        time.sleep(max(0.0, self.begun + seconds - time.monotonic()))


def tell(story: Story, folder: Path) -> dict[str, Any]:
    noticed = Noticed()
    with openbao(folder) as bao:
        site = Site(bao, folder, "unnoticed")
        times = {"heartbeat": f"{story.heartbeat:g}s", "silence_bound": f"{story.silence_bound:g}s"}
        deployment = site.deployment(timings={**times, "claim_window": f"{story.silence_bound:g}s"})
        deployment.module = "tests.unnoticed.armed_broker"
        text = site.scope_map.replace(
            "unnoticed-token}, ttl: 10m", f"unnoticed-token}}, ttl: {story.ttl:g}s, max_ttl: 1h"
        )
        deployment.scopes_file.write_text(text)
        creds = deployment.agent(LOAD)
        with settings(deployment, creds), Fate(story, deployment, creds) as fate:
            with (
                stepcred.connect() as broker,
                broker.step(workflow="nightly", run="1", step="load", scopes=["token", "kv"]) as step,
            ):
                using = threading.Thread(target=live, args=(bao, step, fate.begun + story.end, noticed))
                using.start()
                fate.run(step, noticed)
                using.join()
                alive = step.alive
            wait_until(lambda: not site.live_tokens(), within=10, what="everything is dead")
            return {
                "alive": alive,
                "uses": noticed.uses,
                "errors": noticed.errors,
                "told": noticed.told,
                "used": noticed.leases,
                "proven": step.all_proven,
                "states": sorted({lease.state.value for lease in leases(deployment).values()}),
                "mints": [record["scope"] for record in journal(deployment, "LEASE_ACTIVE")],
                "certificates": len({record["data"]["cert_sha256"] for record in journal(deployment, "LEASE_INTENT")}),
            }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--long", action="store_true")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(tell(LONG if parser.parse_args().long else SHORT, Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
