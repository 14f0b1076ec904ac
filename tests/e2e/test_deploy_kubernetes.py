"""deploy/examples/kubernetes: the schemas take it, the programs take what stands in it, and one part fits the other."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from broker.identity import dev_ca
from stepcred.cli._app import app
from tests.support import kubelet, rootfs
from tests.support.certs import TestCA
from tests.support.pages import BIN, ROOT, bash, blocks, page
from tests.support.rootfs import Rootfs

EXAMPLES = ROOT / "deploy" / "examples" / "kubernetes"
BROKER = EXAMPLES / "broker"
JOB = EXAMPLES / "step-job.yaml"
MANIFESTS = [BROKER / "broker.yaml", BROKER / "network-policy.yaml", *EXAMPLES.glob("*.yaml")]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@=-]{0,249}")  # of workflows, runs and steps
LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)")  # a label's value, when it is not empty
NO_ROOT = rootfs.why_not()


@pytest.mark.skipif(shutil.which("kubernetes-validate", path=str(BIN)) is None, reason="no kubernetes-validate here")
@pytest.mark.parametrize("version", ["1.29.0", "1.33.0", "1.37.0"])  # from the first with native sidecars by default
def test_the_schemas_of_kubernetes_take_it(version: str) -> None:
    argv = [
        str(BIN / "kubernetes-validate"),
        "--kubernetes-version",
        version,
        "--strict",
        "--quiet",
        *map(str, MANIFESTS),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def pods() -> list[Any]:
    return [
        pytest.param(found["spec"]["template"]["spec"], id=f"{path.name}-{found['metadata']['name']}")
        for path in MANIFESTS
        for found in kubelet.objects(path)
        if found["kind"] in ("Job", "StatefulSet")
    ]


@pytest.mark.parametrize("pod", pods())
def test_every_pod_is_as_restricted_as_the_strictest_standard_demands(pod: kubelet.Object) -> None:
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("subPath" in mounted for mounted in container["volumeMounts"])  # is never updated
        defined = {volume["name"] for volume in pod["volumes"]} | {"state", "keys"}
        assert {mounted["name"] for mounted in container["volumeMounts"]} <= defined


def test_the_scope_map_and_the_operators_load(tmp_path: Path) -> None:
    told = bash("stepcred-broker scopes lint scopes.yaml; stepcred-broker scopes test scopes.yaml", BROKER)
    assert "loads" in told
    assert "error" not in told
    assert "warning" not in told
    assert "0 failed" in told


def test_the_page_begins_with_the_files_and_images_that_are_there() -> None:
    opening = blocks(page("kubernetes.md"), "sh")[0]
    assert len(opening.splitlines()) <= 5
    assert all((ROOT / path).exists() for path in re.findall(r"deploy/\S+", opening))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    built = dict(re.findall(r"deploy/docker/(\w+)\.Dockerfile -t (\S+)", opening))
    broker, job = kubelet.pod_of(BROKER / "broker.yaml", "StatefulSet"), kubelet.pod_of(JOB, "Job")
    assert built == {"broker": broker["containers"][0]["image"], "sidecar": job["initContainers"][0]["image"]}
    assert all(image.endswith(f":{version}") for image in built.values())
    assert f"job/{kubelet.of_kind(JOB, 'Job')['metadata']['name']} " in opening


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
def test_kustomize_puts_it_together() -> None:
    made = bash(f"kubectl kustomize {BROKER}", ROOT)
    (config,) = set(re.findall(r"name: (stepcred-broker-config\S*)", made))
    assert config != "stepcred-broker-config"  # a new name restarts the broker
    assert set(re.findall(r"name: (stepcred-broker-scopes\S*)", made)) == {"stepcred-broker-scopes"}


def test_probes_and_policy_speak_of_ports_that_are_listened_on() -> None:
    config = tomllib.loads((BROKER / "broker.toml").read_text())
    listens = {config["listen"]["grpc"], config["listen"]["http"], config["operators"]["listen"]}
    (container,) = kubelet.pod_of(BROKER / "broker.yaml", "StatefulSet")["containers"]
    assert {f"0.0.0.0:{port['containerPort']}" for port in container["ports"]} == listens
    named = {port["name"] for port in container["ports"]}
    service, policy = (
        kubelet.of_kind(path, kind)
        for path, kind in ((BROKER / "broker.yaml", "Service"), (BROKER / "network-policy.yaml", "NetworkPolicy"))
    )
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= named
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        # /readyz is 503 while a provider is away: the Service would then cut every step off from the broker.
        assert container[probe]["httpGet"] == {"path": "/livez", "port": "http"}


@pytest.fixture
def broker_pod(tmp_path: Path) -> Iterator[Rootfs]:
    """The broker's pod, with the tests' own programs in place of the image's."""
    with rootfs.namespace(tmp_path) as holder:
        root = rootfs.copy_of_ours(holder, tmp_path, "broker", readable=ROOT)
        ca = TestCA(tmp_path / "ca", "prod.acme.internal")
        dev_ca.issue_server(ca.directory, ["stepcred-broker.stepcred.svc"], tmp_path / "server")
        root_of_all = {"ca.pem": ca.root_path.read_bytes()}
        pod = kubelet.pod_of(BROKER / "broker.yaml", "StatefulSet")
        kubelet.prepare(
            root,
            pod,
            {
                "config": {"broker.toml": (BROKER / "broker.toml").read_bytes()},
                "scopes": {"scopes.yaml": (BROKER / "scopes.yaml").read_bytes()},
                "operators": {"operators.yaml": (BROKER / "operators.yaml").read_bytes()},
                "tls": {
                    "tls.crt": (tmp_path / "server.pem").read_bytes(),
                    "tls.key": (tmp_path / "server-key.pem").read_bytes(),
                },
                "agents-ca": root_of_all,
                "operators-ca": {"ca.pem": ca.operator_root_path.read_bytes()},
                "vault-ca": root_of_all,
                "tokens": {"vault-token": b"t", "aws-token": b"t"},
            },
            claims=("state", "keys"),
        )
        kubelet.mount(root, pod["containers"][0])
        root.read_only()
        yield root


def check(root: Rootfs) -> subprocess.CompletedProcess[str]:
    """`check` where the manifest says `serve`, as the user that it names, in its volumes, on a root that is read-only."""
    pod = kubelet.pod_of(BROKER / "broker.yaml", "StatefulSet")
    who = pod["securityContext"]
    serve, *args = pod["containers"][0]["args"]
    assert serve == "serve"
    return root.run(
        [str(BIN / "stepcred-broker"), "check", *args],
        env={"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"},
        cwd="/var/lib/stepcred",
        user=f"{who['runAsUser']}:{who['runAsGroup']}",
        groups=[who["fsGroup"]],
    )


@pytest.mark.skipif(bool(NO_ROOT), reason=NO_ROOT or "-")
def test_the_broker_takes_its_configuration_as_the_kubelet_lays_it_out(broker_pod: Rootfs) -> None:
    done = check(broker_pod)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scope map     ok" in done.stdout
    # What fsGroupChangePolicy: Always does to files at the second start: the manifest's comment says why it is not that.
    key = kubelet.volume_of(broker_pod, "keys") / "mint.key"
    broker_pod.outside("install", "-o", "10001", "-g", "10001", "-m", "0660", "/dev/null", key)
    done = check(broker_pod)
    assert done.returncode == 78
    assert "can be read by others" in done.stdout + done.stderr
    assert (
        kubelet.pod_of(BROKER / "broker.yaml", "StatefulSet")["securityContext"]["fsGroupChangePolicy"]
        == "OnRootMismatch"
    )


def arguments_of(container: kubelet.Object) -> dict[str, Any]:
    """As the program itself reads them."""
    command, *args = container["args"]
    read: dict[str, Any] = typer.main.get_command(app).commands[command].make_context(command, args).params  # type: ignore[attr-defined]
    return read | {"scopes": [*read["aws"], *(named.partition("=")[2].partition(":")[0] for named in read["file"])]}


def test_the_sidecar_takes_its_arguments_and_they_fit_the_program_beside_it() -> None:
    pod = kubelet.pod_of(JOB, "Job")
    (sidecar,), (program,) = pod["initContainers"], pod["containers"]
    parsed = arguments_of(sidecar)
    assert sidecar["restartPolicy"] == "Always"  # or it is an init container that never ends
    env = {entry["name"]: entry.get("value") for entry in program["env"]}
    assert env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] == f"http://{parsed['listen']}/v1/aws/{parsed['aws'][0]}"
    assert env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] == str(parsed["token_file"])
    (file,) = (named.partition("=")[0] for named in parsed["file"])
    assert f". {file};" in program["command"][-1]
    # Probed where it listens, on the pod's address: the kubelet cannot reach a pod's loopback.
    (ready,) = sidecar["ports"]
    assert parsed["ready_listen"] == f"0.0.0.0:{ready['containerPort']}"
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/readyz", "port": ready["name"]}


def test_the_program_has_the_credentials_and_not_the_identity() -> None:
    pod = kubelet.pod_of(JOB, "Job")
    (sidecar,), (program,) = pod["initContainers"], pod["containers"]
    shared = {mounted["name"]: mounted for mounted in program["volumeMounts"]}
    assert set(shared) == {"credentials", "tmp"}
    assert shared["credentials"]["readOnly"] is True
    (kept,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "credentials"]
    assert kept["medium"] == "Memory"
    places = [mounted["mountPath"] for mounted in sidecar["volumeMounts"]]
    files = [entry["value"] for entry in sidecar["env"] if entry.get("value", "").startswith("/")]
    assert files
    assert all(any(file.startswith(f"{place}/") for place in places) for file in files)


def test_the_names_of_the_step_come_from_labels_that_it_has() -> None:
    job = kubelet.of_kind(JOB, "Job")
    labels = job["spec"]["template"]["metadata"]["labels"] | {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    (sidecar,) = job["spec"]["template"]["spec"]["initContainers"]
    named = {
        name: value
        for name, value in kubelet.environment(sidecar, labels).items()
        if name in ("STEPCRED_WORKFLOW", "STEPCRED_RUN", "STEPCRED_STEP")
    }
    assert named == {
        "STEPCRED_WORKFLOW": "nightly-etl",
        "STEPCRED_RUN": "nightly-load-20261128",
        "STEPCRED_STEP": "load",
    }
    assert all(NAME.fullmatch(value) and LABEL.fullmatch(value) for value in named.values())


def test_the_jobs_identity_may_have_the_scopes_that_its_sidecar_asks_for() -> None:
    job = kubelet.of_kind(JOB, "Job")
    pod = job["spec"]["template"]["spec"]
    who = f"spiffe://prod.acme.internal/ns/{job['metadata']['namespace']}/sa/{pod['serviceAccountName']}"
    workflow = job["spec"]["template"]["metadata"]["labels"]["workflow"]
    (scope_map,) = kubelet.objects(BROKER / "scopes.yaml")
    allowed = [
        one["ask"]
        for one in scope_map["tests"]
        if one["expect"] == "allow" and one["as"] == who and one["workflow"] == workflow
    ]
    assert sorted(allowed) == sorted(arguments_of(pod["initContainers"][0])["scopes"])  # and scopes test runs them
