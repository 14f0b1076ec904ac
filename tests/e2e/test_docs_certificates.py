"""docs/certificates.md, as followed by its reader: each way of getting a certificate, on the real daemon."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from ruamel.yaml import YAML

from broker.clock import SystemClock
from broker.config.values import parse_duration
from broker.errors import BrokerError, Reason
from broker.identity import Authenticator, CertificatePolicy, FrontDoor
from tests.support.bao import BaoServer
from tests.support.certs import PEM, TestCA, revocation_list
from tests.support.daemon import Deployment
from tests.support.doors import door
from tests.support.pages import ROOT, bash, blocks, page
from tests.support.processes import wait_until

TEXT = page("certificates.md")
DOMAIN = "prod.acme.internal"
MANIFEST = ROOT / "deploy" / "examples" / "kubernetes" / "cert-manager-csi-driver-spiffe.yaml"
NAME = f"spiffe://{DOMAIN}/workflow/nightly-etl/step/load"
SCOPES = f"""
version: 1
environment: dev
trust_domain: {DOMAIN}
workloads:
  load: {{id: "spiffe://{DOMAIN}/workflow/{{workflow}}/step/load", owners: ["group:data"]}}
scopes:
  orders: {{vault: {{role: orders-ro}}, ttl: 10m, tier: low}}
grants:
  nightly: {{workloads: [load], workflows: [nightly-etl], scopes: [orders], max_step: 2h}}
"""


def section(title: str) -> str:
    """From this heading to the next."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def here(text: str) -> str:
    """The page's host, which no resolver knows."""
    return text.replace(f"DNS:broker.{DOMAIN}", "DNS:localhost")


@dataclass
class Followed:
    """The folder in which the page was followed, and a daemon that serves with what it made."""

    folder: Path
    deployment: Deployment
    env: dict[str, str] = field(default_factory=dict)

    def run(self, script: str, **env: str) -> str:
        """As the agent, in the folder."""
        return bash(script, self.folder, {**os.environ, **self.env, **env})


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, bao: BaoServer) -> Iterator[Followed]:
    """Both CAs of the page, and a daemon that knows the agents of both."""
    folder = tmp_path_factory.mktemp("certificates")
    make, issue, _ = blocks(section("Plain files"), "sh")
    bash(here(make + issue), folder)
    engine, sign = blocks(section("OpenBao or Vault"), "sh")
    (folder / "bao").mkdir()
    bash(engine + sign, folder / "bao", _as_root(bao, folder))
    (toml,) = blocks(section("Plain files"), "toml")
    tls = {key: str(folder / value) for key, value in tomllib.loads(toml).items()}
    both = folder / "both.pem"
    both.write_bytes(Path(tls["client_ca_file"]).read_bytes() + (folder / "bao" / "agents-ca.pem").read_bytes())
    (folder / "token").touch(mode=0o600)
    vault = {"address": "http://127.0.0.1:1", "token_file": str(folder / "token")}
    more = {"trust_domain": DOMAIN, "tls": {**tls, "client_ca_file": str(both)}}
    deployment = Deployment(folder / "daemon", SCOPES, vault=vault, more=more)
    with deployment.daemon(ready=deployment.alive):
        yield Followed(folder, deployment, {"STEPCRED_ADDR": f"localhost:{deployment.grpc_port}"})


def _as_root(bao: BaoServer, folder: Path) -> dict[str, str]:
    return {**os.environ, "BAO_ADDR": bao.address, "BAO_TOKEN": bao.root_token, "HOME": str(folder)}


def test_plain_files_are_accepted_and_doctor_is_content(followed: Followed) -> None:
    use = blocks(section("Plain files"), "sh")[2]
    assert NAME in followed.run(use)
    told = json.loads(followed.run(use.replace("stepcred whoami", "stepcred doctor --json")))
    assert [one for one in told["findings"] if one["level"] != "ok"] == []


def test_check_is_content_with_the_servers_chain(followed: Followed) -> None:
    told = json.loads(followed.run(f"stepcred-broker check --json --config {followed.deployment.config}"))
    assert [one for one in told["looks"] if one["look"] in ("front door", "config") and one["notes"]] == []


def test_renewing_is_what_the_timer_runs_and_both_sides_take_it_up(followed: Followed) -> None:
    service, timer = blocks(section("Plain files"), "ini")
    (renew,) = re.findall("^ExecStart=(.*)$", service, re.MULTILINE)
    assert renew.startswith("/etc/stepcred/ca/issue agent load ")
    use = blocks(section("Plain files"), "sh")[2]
    before = _digest(followed.run(use))
    followed.run(renew.replace("/etc/stepcred/ca/", "./"))
    after = _digest(followed.run(use))
    assert before != after
    # Twice within its life: in a day of 24 hours, every 8.
    assert "OnCalendar=*-*-* 00/8:17" in timer
    assert renew.endswith(" 1")

    port = followed.deployment.grpc_port
    old = ssl.get_server_certificate(("localhost", port))
    followed.run(here("./issue server broker DNS:broker.prod.acme.internal 30"))
    wait_until(lambda: ssl.get_server_certificate(("localhost", port)) != old, within=10, what="the new certificate")
    assert NAME in followed.run(use)


def _digest(told: str) -> str:
    (digest,) = re.findall("[0-9a-f]{64}", told)
    return str(digest)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_the_units_are_sound(tmp_path: Path) -> None:
    (tmp_path / "issue").write_text("#!/bin/sh\n")
    (tmp_path / "issue").chmod(0o755)
    files = []
    for unit in blocks(section("Plain files"), "ini"):
        files.append(tmp_path / Path(unit.splitlines()[0].removeprefix("# ")).name)
        files[-1].write_text(unit.replace("/etc/stepcred/ca", str(tmp_path)))
    found = subprocess.run(
        ["systemd-analyze", "verify", *files], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "stepcred-load" not in found.stderr


def test_a_certificate_of_openbao_is_accepted_and_its_role_gives_no_other_name(
    followed: Followed, tmp_path: Path, bao: BaoServer
) -> None:
    files = {"CERT": "bao/load.pem", "KEY": "bao/load-key.pem", "CA": "root.pem"}
    env = {f"STEPCRED_{name}": str(followed.folder / path) for name, path in files.items()}
    assert NAME in followed.run("stepcred whoami", **env)
    told = json.loads(followed.run("stepcred doctor --json", **env))
    assert [one for one in told["findings"] if one["level"] != "ok"] == []
    sign = blocks(section("OpenBao or Vault"), "sh")[1]
    with pytest.raises(AssertionError, match="not valid for this role"):
        bash(sign.replace("step/load -out", "step/other -out"), tmp_path, _as_root(bao, tmp_path))


def test_the_first_block_is_the_command_and_its_answer_is_what_it_prints(followed: Followed) -> None:
    """The example answer: every line of it is one that doctor prints for such a certificate."""
    (command,) = blocks(TEXT.split("\n## ")[0], "sh")
    assert command == "stepcred doctor\n"
    (example,) = blocks(TEXT.split("\n## ")[0], "text")
    ca = TestCA(followed.folder / "other", DOMAIN)
    bent = ca.agent(NAME, eku=None)
    bent.key.chmod(0o644)
    env = {"STEPCRED_CERT": str(bent.cert), "STEPCRED_KEY": str(bent.key), "STEPCRED_CA": str(bent.ca)}
    told = followed.run("stepcred doctor || true", **env)
    shown = example.replace("/run/stepcred/load-key.pem", str(bent.key)).replace(
        "/run/stepcred/load.pem", str(bent.cert)
    )
    shown = shown.replace(f"broker.{DOMAIN}:8443", followed.env["STEPCRED_ADDR"])
    assert [line for line in shown.splitlines() if line not in told.splitlines()] == []


# ---- what the broker demands

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
DEMANDS: dict[str, dict[str, Any]] = {
    "lead to a root": {"issuer": "another"},
    "be valid at this moment": {"not_before": LONG_AGO, "not_after": LONG_AGO + timedelta(days=1)},
    "have `clientAuth`": {"eku": (ExtendedKeyUsageOID.SERVER_AUTH,)},
    "have exactly one URI name": {"uris": (NAME, NAME)},
    "have a [SPIFFE ID]": {"uris": (NAME + "/",)},
    "be of the broker's `trust_domain`": {"uris": ("spiffe://other.internal/x",)},
    "live for 90 days": {"not_after": datetime.now(UTC) + timedelta(days=91)},
    "have a key on P-256": {"key": rsa.generate_private_key(65537, 1024)},
    "be no CA": {"usages": ("digital_signature", "crl_sign")},
    "have `digitalSignature`": {"usages": ("key_agreement",)},
    "mark no extension critical": {"extra": ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), True),)},
}  # fmt: skip


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> TestCA:
    return TestCA(tmp_path_factory.mktemp("demands"), DOMAIN)


def _ask(opened: FrontDoor, leaf: x509.Certificate, *, tls: str = "TLSv1.3") -> str:
    """The reason of the refusal; "" when it is accepted."""
    try:
        Authenticator(opened, SystemClock()).authenticate(
            leaf.public_bytes(PEM), tls_version=tls, peer="ipv4:127.0.0.1:1"
        )
    except BrokerError as error:
        return error.reason.value
    return ""


def test_the_table_of_demands_is_whole_and_right(ca: TestCA, tmp_path: Path) -> None:
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section("What the broker demands"), re.MULTILINE)[1:]  # after the head
    assert len(rows) == len(DEMANDS) + 3
    told = dict(rows)

    def offence(demand: str) -> str:
        (found,) = [text for row, text in told.items() if row.startswith(demand)]
        return str(found)

    opened, stranger = door(ca.root_path, DOMAIN), TestCA(tmp_path, DOMAIN)
    for demand, bend in DEMANDS.items():
        issuer = stranger.root if bend.get("issuer") else None
        leaf, _ = ca.leaf(NAME, issuer=issuer, **{"key": KEY} | {k: v for k, v in bend.items() if k != "issuer"})
        assert f"`{_ask(opened, leaf)}`" in offence(demand), demand
    good, _ = ca.leaf(NAME, key=KEY)
    assert _ask(opened, good) == ""
    assert f"`{_ask(opened, good, tls='TLSv1.2')}`" in offence("come over TLS 1.3")
    crl, deny = tmp_path / "agents.crl", tmp_path / "denied.toml"
    now = datetime.now(UTC)
    made = revocation_list(ca.root, good.serial_number, last_update=now, next_update=now + timedelta(days=1))
    crl.write_bytes(made.public_bytes(PEM))
    deny.write_text(f'[[denied]]\nagent = "{NAME}"\n')
    assert f"`{_ask(door(ca.root_path, DOMAIN, crls=[crl]), good)}`" in offence("not be on a [revocation list]")
    assert f"`{_ask(door(ca.root_path, DOMAIN, deny=deny), good)}`" in offence("not be [denied]")
    reasons = set(re.findall("`((?!STEPCRED)[A-Z_]{6,})`", section("What the broker demands")))
    assert reasons <= {reason.value for reason in Reason}
    assert parse_duration("90d") == CertificatePolicy().max_lifetime


BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@pytest.mark.parametrize(
    "form",
    [
        {"usages": ("digital_signature", "key_encipherment", "key_agreement"), "eku": BOTH},  # SPIRE's
        {"usages": ("digital_signature", "key_encipherment"), "eku": BOTH, "common_name": "", "san_critical": True},
    ],
    ids=["SPIRE", "csi-driver-spiffe"],
)
def test_certificates_of_the_form_that_others_issue_are_accepted(ca: TestCA, form: dict[str, Any]) -> None:
    leaf, _ = ca.leaf(NAME, not_after=datetime.now(UTC) + timedelta(hours=1), **form)
    assert _ask(door(ca.root_path, DOMAIN), leaf) == ""


def test_the_settings_of_the_manifest_fit_its_mounts() -> None:
    documents = {one["kind"]: one for one in YAML(typ="safe").load_all(MANIFEST)}
    pod = documents["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == mounts.keys()
    paths = {one["name"]: one.get("value", "") for one in container["env"]}
    names = [Path(paths[f"STEPCRED_{name}"]) for name in ("CERT", "KEY", "CA")]
    assert [str(path.parent) for path in names] == [mounts["identity"], mounts["identity"], mounts["broker-ca"]]
    assert pod["serviceAccountName"] == documents["ServiceAccount"]["metadata"]["name"]
    account = (
        f"spiffe://{DOMAIN}/ns/{documents['ServiceAccount']['metadata']['namespace']}/sa/{pod['serviceAccountName']}"
    )
    assert account in MANIFEST.read_text()
    (identity,) = [volume["csi"] for volume in pod["volumes"] if "csi" in volume]
    assert identity["volumeAttributes"]["spiffe.csi.cert-manager.io/fs-group"] == str(
        pod["securityContext"]["runAsGroup"]
    )
