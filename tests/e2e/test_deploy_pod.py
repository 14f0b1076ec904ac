"""The pod of deploy/examples/kubernetes/step-job.yaml, with a broker of its own: the sidecar with the Job's arguments, user,
volumes and probe, and a program that knows nothing of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import kubelet, rootfs
from tests.support.pages import BIN, ROOT
from tests.support.processes import running, stop
from tests.support.rootfs import Rootfs

KUBERNETES = ROOT / "deploy" / "examples" / "kubernetes"
NO_ROOT = rootfs.why_not()
ME = "spiffe://dev.acme.internal/ns/etl/sa/load"
# As the kubelet starts it, when the probe is content; then what SDKs and libpq do.
PROGRAM = """
import json, os, time, urllib.request
deadline = time.monotonic() + 30
while True:
    try:
        urllib.request.urlopen("http://127.0.0.1:8081/readyz", timeout=2)
        break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.05)
token = open(os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read()
asked = urllib.request.Request(os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"], headers={"Authorization": token})
login = "/run/stepcred/step/orders.env"
told = {"aws": json.load(urllib.request.urlopen(asked, timeout=5)), "login": open(login).read()}
told["mode"] = oct(os.stat(login).st_mode & 0o777)
told["identity"] = os.path.exists("/var/run/secrets/spiffe.io/tls.key")
try:
    open("/run/stepcred/step/mine", "w")
except OSError as error:
    told["writes"] = error.strerror
print(json.dumps(told))
"""


@pytest.mark.skipif(bool(NO_ROOT), reason=NO_ROOT or "-")
def test_the_program_gets_its_credentials_and_they_end_with_it(tmp_path: Path) -> None:
    job = kubelet.of_kind(KUBERNETES / "step-job.yaml", "Job")
    pod = job["spec"]["template"]["spec"]
    labels = job["spec"]["template"]["metadata"]["labels"] | {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    (sidecar,), (program,) = pod["initContainers"], pod["containers"]
    scope_map = (KUBERNETES / "broker" / "scopes.yaml").read_text()
    (tmp_path / "scopes.yaml").write_text(
        scope_map.replace("prod.acme", "dev.acme").replace("environment: prod", "environment: dev")
    )
    (tmp_path / "pod").mkdir()
    with rootfs.namespace(tmp_path / "pod", alone=True) as holder:
        settings = tmp_path / "step.env"
        dev = [
            str(BIN / "stepcred-broker"),
            "dev",
            "--scopes",
            str(tmp_path),
            "--agent",
            ME,
            "--env-file",
            str(settings),
        ]
        with running([*rootfs.entering(holder), *dev], log=tmp_path / "dev.log", ready=settings.exists):
            given = dict(line.split("=", 1) for line in settings.read_text().splitlines())
            beside, within = (
                rootfs.copy_of_ours(holder, tmp_path / "pod", name, readable=ROOT) for name in ("beside", "within")
            )
            read = {name: Path(given[f"STEPCRED_{name}"]).read_bytes() for name in ("CERT", "KEY", "CA")}
            files = {"identity": {"tls.crt": read["CERT"], "tls.key": read["KEY"]}, "broker-ca": {"ca.pem": read["CA"]}}
            kubelet.prepare(beside, pod, files)
            for root, container in ((beside, sidecar), (within, program)):
                kubelet.mount(root, container)
                root.read_only()
            env = kubelet.environment(sidecar, labels) | {"STEPCRED_ADDR": given["STEPCRED_ADDR"]}
            argv = command(beside, pod, [str(BIN / "stepcred"), *sidecar["args"]], env)
            with (tmp_path / "sidecar.log").open("wb") as log:
                held = subprocess.Popen(argv, stderr=log)
            done = subprocess.run(
                command(within, pod, ["python", "-c", PROGRAM], kubelet.environment(program, labels)),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            code = stop(held, signal.SIGTERM, within=pod["terminationGracePeriodSeconds"])
    said = (tmp_path / "sidecar.log").read_text()
    assert done.returncode == 0, done.stderr + said
    told = json.loads(done.stdout)
    assert told["aws"]["AccessKeyId"]
    assert told["aws"]["Token"]
    variables = [line.partition("=")[0] for line in told["login"].splitlines()]
    assert sorted(variables) == ["PGDATABASE", "PGHOST", "PGPASSWORD", "PGUSER"]
    assert ". /run/stepcred/step/orders.env;" in program["command"][-1]
    assert told["mode"] == "0o600"
    assert told["identity"] is False
    assert told["writes"] == os.strerror(30)
    assert code == 0, said
    assert "dead" in said
    log_of_broker = (tmp_path / "dev.log").read_text()
    assert "nightly-etl/nightly-load-20261128/load" in log_of_broker


def command(root: Rootfs, pod: kubelet.Object, argv: list[str], env: dict[str, str]) -> list[str]:
    who = pod["securityContext"]
    return root.command(
        argv, env={"PATH": "/usr/local/bin:/usr/bin:/bin", **env}, user=f"{who['runAsUser']}:{who['runAsGroup']}"
    )
