"""`stepcred doctor` against the real daemon: each thing that can be wrong is found, and its fix, as typed, mends it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.identity import dev_ca
from broker.identity.authority import new_authority
from stepcred.cli import _app, _doctor
from stepcred.cli._doctor import _broker, _reach
from stepcred.cli._doctor._finding import Case, Finding, Level
from tests.fakes.broker_server import FakeBroker, Refusal
from tests.fakes.workload_agent import Day, FakeAgent, response, svid
from tests.support.certs import PEM, Creds, Leaf, TestCA
from tests.support.daemon import Deployment
from tests.support.pages import bash
from tests.support.processes import free_port
from tests.support.tls_servers import tls_server

SCOPES = """
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: ["group:data"]}
  idle: {id: "spiffe://dev.local/idle", owners: ["group:data"]}
scopes:
  orders: {vault: {role: orders-ro}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [etl], scopes: [orders], max_step: 2h}
"""
AGENT = "workflow/etl/step/load"
URI = f"spiffe://dev.local/{AGENT}"


@dataclass(frozen=True, kw_only=True)
class World:
    """A daemon that runs, and a folder of this test's own with good files."""

    deployment: Deployment
    folder: Path
    creds: Creds

    @property
    def env(self) -> dict[str, str]:
        return self.deployment.env(self.creds)

    def agent(self, **overrides: Any) -> dict[str, str]:
        """The settings with another certificate, which bends one thing."""
        made = self.deployment.ca.agent(URI, **overrides)
        made.key.chmod(0o600)
        return self.deployment.env(made)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("doctor")
    (folder / "token").touch(mode=0o600)
    vault = {"address": "http://127.0.0.1:1", "token_file": str(folder / "token")}  # nothing is minted here
    made = Deployment(folder / "broker", SCOPES, vault=vault)
    with made.daemon(ready=made.alive):
        yield made


@pytest.fixture
def world(deployment: Deployment, tmp_path: Path) -> World:
    issued = deployment.agent(AGENT)
    own = Creds(cert=tmp_path / "agent.pem", key=tmp_path / "agent-key.pem", ca=tmp_path / "ca.pem")
    for source, target in ((issued.cert, own.cert), (issued.key, own.key), (issued.ca, own.ca)):
        shutil.copy(source, target)
    return World(deployment=deployment, folder=tmp_path, creds=own)


def findings(env: Mapping[str, str]) -> tuple[int, list[tuple[str, Finding]]]:
    """Exit code, and what is not as it should be."""
    looked = _doctor.examine(env)
    told = [(one.name, finding) for one in looked for finding in one.findings]
    _tells_no_secret(env, told)
    return _doctor.exit_code(looked), [(name, one) for name, one in told if one.level in (Level.WARNING, Level.PROBLEM)]


def _tells_no_secret(env: Mapping[str, str], told: list[tuple[str, Finding]]) -> None:
    text = "".join(finding.text + finding.fix for _, finding in told)
    key = env.get("STEPCRED_KEY", "").strip()
    content = key if "-----BEGIN" in key else Path(key).read_text(errors="ignore") if os.path.isfile(key) else ""  # noqa: PTH113 (any text)
    lines = [line for line in content.splitlines() if len(line) > 40 and not line.startswith("-----")]
    if "PRIVATE" in content:
        assert not [line for line in lines if line[:40] in text]


def test_a_good_deployment_is_green(world: World) -> None:
    assert findings(world.env) == (0, [])


# What to break (settings in, settings out), the look that must tell, its words, and the exit code.
# Each of these is mended by pasting the fix, in the folder of the files.
Break = Callable[[World], dict[str, str]]


def _set(**changed: str | Callable[[str], str]) -> Break:
    def bend(world: World) -> dict[str, str]:
        env = world.env
        for name, value in changed.items():
            env[f"STEPCRED_{name}"] = value if isinstance(value, str) else value(env.get(f"STEPCRED_{name}", ""))
        return env

    return bend


def _file(role: str, change: Callable[[bytes], bytes]) -> Break:
    def bend(world: World) -> dict[str, str]:
        path = getattr(world.creds, role)
        path.write_bytes(change(path.read_bytes()))
        return world.env

    return bend


def _mode(role: str, mode: int) -> Break:
    def bend(world: World) -> dict[str, str]:
        getattr(world.creds, role).chmod(mode)
        return world.env

    return bend


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


def _key_der(pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _key_inside_ca(world: World) -> dict[str, str]:
    world.creds.ca.write_bytes(world.creds.ca.read_bytes() + world.creds.key.read_bytes())
    return world.env


def _glued_ca(world: World) -> dict[str, str]:
    pem = world.creds.ca.read_bytes().strip()
    world.creds.ca.write_bytes(pem + pem + b"\n")
    return world.env


MENDED_BY_PASTING: dict[str, tuple[Break, str, str, int]] = {
    "line end": (_set(ADDR="{}\n".format), "settings", "STEPCRED_ADDR ends in a line end", 78),
    "CRLF": (_set(CERT="{}\r\n".format), "settings", "(CR LF)", 78),
    "byte order mark": (_set(KEY="\ufeff{}".format), "settings", "STEPCRED_KEY begins with a byte order mark", 78),
    "quotes": (_set(CA='"{}"'.format), "settings", "quotes", 78),
    "blanks": (_set(CA=" {} ".format), "settings", "blanks around", 78),
    "a URL": (_set(ADDR="https://{}/".format), "settings", "STEPCRED_ADDR is a URL", 78),
    "PEM in the variable": (
        lambda world: world.env | {"STEPCRED_KEY": world.creds.key.read_text()},
        "settings",
        "holds PEM text itself",
        78,
    ),
    "relative path": (
        lambda world: world.env | {"STEPCRED_CERT": os.path.relpath(world.creds.cert)},
        "settings",
        "STEPCRED_CERT is relative",
        0,
    ),
    "dirty handle": (_set(STEP_HANDLE="abc\n"), "settings", "STEPCRED_STEP_HANDLE ends in a line end", 78),
    "key for everybody": (_mode("key", 0o644), "files", "can be read by everybody", 78),
    "key for the group": (_mode("key", 0o640), "files", "can be read by its group", 0),
    "CA from everybody": (_mode("ca", 0o666), "files", "can be written by everybody", 78),
    "DER certificate": (_file("cert", _der), "files", "binary (DER)", 78),
    "DER key": (_file("key", _key_der), "files", "binary (DER)", 78),
    "DER CA": (_file("ca", _der), "files", "binary (DER)", 78),
    "BOM in the file": (_file("cert", lambda pem: b"\xef\xbb\xbf" + pem), "files", "byte order mark (UTF-8)", 78),
    "UTF-16": (_file("ca", lambda pem: pem.decode().encode("utf-16")), "files", "byte order mark (UTF-16)", 78),
    "key inside the CA file": (_key_inside_ca, "files", "holds a private key beside", 78),
    "two blocks on one line": (_glued_ca, "files", "one block begins on the line", 78),
}


@pytest.mark.parametrize("name", MENDED_BY_PASTING)
def test_what_is_wrong_is_told_and_its_fix_mends_it(world: World, name: str) -> None:
    bend, look, text, code = MENDED_BY_PASTING[name]
    env = bend(world)
    found_code, found = findings(env)
    (finding,) = [one for where, one in found if where == look and text in one.text]
    assert found_code == code
    after = bash(f"{finding.fix}\nenv -0", world.folder, env | {"HOME": str(world.folder)})
    assert findings(dict(item.split("=", 1) for item in after.rpartition("\0")[0].split("\0") if "=" in item)) == (
        0,
        [],
    )


def test_an_encrypted_key_is_told_and_opened_by_its_fix(world: World) -> None:
    key = serialization.load_pem_private_key(world.creds.key.read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"open")
    world.creds.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
    code, ((look, finding),) = findings(world.env)
    assert (code, look) == (78, "files")
    assert "is encrypted" in finding.text
    typed = finding.fix.replace("openssl pkey", "openssl pkey -passin pass:open")  # instead of the terminal
    after = bash(f"{typed}\nprintenv STEPCRED_KEY", world.folder, world.env).strip()
    assert findings(world.env | {"STEPCRED_KEY": after}) == (0, [])


# Mended by something that no command of ours can do; the words must say what.
TOLD: dict[str, tuple[Break, str, str, str, int]] = {
    "nothing set": (lambda _: {}, "settings", "STEPCRED_ADDR is not set", "export STEPCRED_ADDR=", 78),
    "no port": (_set(ADDR="localhost"), "settings", "has no port: localhost", "STEPCRED_ADDR=localhost:8443", 78),
    "bare IPv6": (_set(ADDR="::1"), "settings", "has no port: ::1", "'[::1]:8443'", 78),
    "port of no meaning": (_set(ADDR="localhost:99999"), "settings", "99999 is no port", "localhost:8443", 78),
    "a name that no broker takes": (_set(RUN="a b"), "settings", "STEPCRED_RUN has characters", "1 to 250", 78),
    "no file": (_set(CERT="/nowhere/agent.pem"), "files", "does not exist", "ls -l /nowhere", 78),
    "a folder": (_set(CA="/tmp"), "files", "Is a directory", "STEPCRED_CA=", 78),
    "empty": (_file("cert", lambda _: b"\n"), "files", "is empty", "still at work", 78),
    "no PEM": (_file("ca", lambda _: b"hello"), "files", "holds no PEM block", "-----BEGIN", 78),
    "exchanged": (
        lambda world: world.env | {"STEPCRED_CERT": str(world.creds.key), "STEPCRED_KEY": str(world.creds.cert)},
        "files",
        "holds no private key, only: CERTIFICATE",
        "exchanged?",
        78,
    ),
    "another's key": (
        lambda world: world.env | {"STEPCRED_KEY": str(world.deployment.agent(AGENT).key)},
        "files",
        "does not belong to STEPCRED_CERT",
        "openssl pkey",
        78,
    ),
    "broken base64": (
        _file("ca", lambda pem: pem.replace(b"MII", b"AAA")),
        "files",
        "a certificate in it is broken",
        "openssl crl2pkcs7",
        78,
    ),
    "a small key": (
        lambda world: world.agent(key=rsa.generate_private_key(65537, 1024)),
        "files",
        "the key of STEPCRED_CERT is too small",
        "openssl genpkey",
        78,
    ),
    "name unknown": (_set(ADDR="nowhere.invalid:8443"), "name", "nowhere.invalid is no known name", "getent hosts", 69),
    "nobody listens": (
        lambda world: world.env | {"STEPCRED_ADDR": f"127.0.0.1:{free_port()}"},
        "tcp",
        "nobody listens there",
        "systemctl status stepcred-broker",
        69,
    ),
    "no workload": (
        lambda world: world.deployment.env(world.deployment.agent("nobody")),
        "broker",
        "spiffe://dev.local/nobody is no workload of the scope map (dev)",
        "workloads:",
        1,
    ),
    "no grant": (
        lambda world: world.deployment.env(world.deployment.agent("idle")),
        "broker",
        "no grant gives this workload any scope",
        "grants:",
        0,
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_only_others_can_mend_is_told(world: World, name: str) -> None:
    bend, look, text, fix, code = TOLD[name]
    found_code, found = findings(bend(world))
    told = [one for where, one in found if where == look and text in one.text]
    assert told, found
    assert fix in told[0].fix
    assert found_code == code


NOW = datetime.now(UTC)
# How the certificate is bent, what the look at it says, and who refuses it: the TLS layer or the broker by its reason.
BENT: dict[str, tuple[dict[str, object], str, str]] = {
    "expired": ({"not_before": NOW - timedelta(days=2), "not_after": NOW - timedelta(days=1)}, "expired at", "tls"),
    "not yet": (
        {"not_before": NOW + timedelta(hours=1), "not_after": NOW + timedelta(days=1)},
        "not valid before",
        "tls",
    ),
    "server's purpose": ({"eku": (ExtendedKeyUsageOID.SERVER_AUTH,)}, "lacks clientAuth", "tls"),
    "no purpose": ({"eku": None}, "lacks clientAuth", "CERTIFICATE_INVALID"),
    "two names": ({"uris": (URI, URI + "2")}, "2 URI names", "SPIFFE_ID_INVALID"),
    "no name": ({"uris": ()}, "0 URI names", "SPIFFE_ID_INVALID"),
    "trailing slash": ({"uris": (URI + "/",)}, "is no SPIFFE ID", "SPIFFE_ID_INVALID"),
    "a CA": ({"ca": True, "usages": ("digital_signature", "key_cert_sign")}, "of a CA", "CERTIFICATE_INVALID"),
    "no signature": ({"usages": ("key_agreement",)}, "lacks digitalSignature", "tls"),
    "long life": (
        {"not_before": NOW, "not_after": NOW + timedelta(days=200)},
        "lives for 200 days",
        "CERTIFICATE_INVALID",
    ),
    "another domain": ({"uris": ("spiffe://other.local/x",)}, "", "TRUST_DOMAIN_FOREIGN"),
}


@pytest.mark.parametrize("name", BENT)
def test_a_bent_certificate_is_judged_as_the_broker_judges_it(world: World, name: str) -> None:
    overrides, text, refused_by = BENT[name]
    code, found = findings(world.agent(**overrides))
    assert code == 1
    if text:
        (seen,) = [one for where, one in found if where == "certificate" and text in one.text]
        assert seen.fix
    if refused_by == "tls":
        (told,) = [one for where, one in found if where == "tls"]
        assert "the broker does not accept our certificate" in told.text
        assert text in told.text  # the likely reason, although TLS tells none
    else:
        (told,) = [one for where, one in found if where == "broker"]
        assert f"[{refused_by}" in told.text
        assert told.fix
    assert findings(world.env) == (0, [])  # with a sound one


def test_a_certificate_that_is_about_to_expire_is_a_warning(world: World) -> None:
    env = world.agent(not_before=NOW - timedelta(hours=10), not_after=datetime.now(UTC) + timedelta(minutes=30))
    code, ((look, finding),) = findings(env)
    assert (code, look) == (0, "certificate")
    assert "expires in 30 min" in finding.text


def test_a_certificate_of_a_stranger_is_told_from_a_server_of_a_stranger(world: World, tmp_path: Path) -> None:
    other = TestCA(tmp_path / "other", "dev.local")
    stranger = other.agent(URI)
    env = world.env | {"STEPCRED_CERT": str(stranger.cert), "STEPCRED_KEY": str(stranger.key)}
    _, found = findings(env)
    (told,) = [one for where, one in found if where == "tls"]
    assert "the broker does not accept our certificate" in told.text

    _, found = findings(world.env | {"STEPCRED_CA": str(other.root_path)})
    (told,) = [one for where, one in found if where == "tls"]
    assert "we do not accept the broker's certificate: its issuer is not in STEPCRED_CA" in told.text
    assert "CN=" in told.text  # who issued it


def test_a_missing_intermediate_and_a_wrong_order(world: World, tmp_path: Path) -> None:
    root_ca = world.deployment.ca
    # The dev root allows no intermediates: what is shown is what doctor says of a file that lacks one.
    between = root_ca.intermediate("between")
    alone, key = root_ca.leaf(URI, issuer=between)
    lone = root_ca.write([alone], key)
    lone.key.chmod(0o600)
    _, found = findings(world.deployment.env(lone))
    (told,) = [one for where, one in found if where == "tls"]
    assert "STEPCRED_CERT ends below 'CN=between'" in told.text

    turned = root_ca.write([between.certificate, alone], key)
    code, found = findings(world.deployment.env(turned))
    assert code == 78
    assert any("certificate 2 of the file is the key's; it must be the first" in one.text for _, one in found)


def test_every_kind_of_wrong_server(world: World) -> None:
    ca = world.deployment.ca
    expired = ca.agent(
        URI,
        eku=(ExtendedKeyUsageOID.SERVER_AUTH,),
        other_names=(x509.DNSName("localhost"),),
        not_before=NOW - timedelta(days=2),
        not_after=NOW - timedelta(days=1),
    )
    made = dev_ca.issue_server(ca.directory, ["localhost"], world.folder / "server")  # the daemon's own stays
    good = (made.cert, made.key)
    cases: list[tuple[tuple[Path, Path] | None, dict[str, object], str, str]] = [
        (
            (expired.cert, expired.key),
            {},
            "localhost",
            "we do not accept the broker's certificate: it has expired (for localhost, by",
        ),
        (good, {}, "127.0.0.1", "it is not for 127.0.0.1 (for localhost, by"),
        (good, {"alpn": ("http/1.1",)}, "localhost", "does not speak HTTP/2"),
        (None, {}, "localhost", "does not speak TLS"),
    ]
    for pair, how, host, text in cases:
        with tls_server(pair, **how) as port:  # type: ignore[arg-type]
            code, found = findings(world.env | {"STEPCRED_ADDR": f"{host}:{port}"})
        assert code == 1
        (told,) = [one for where, one in found if where == "tls"]
        assert text in told.text
        assert told.fix


@pytest.mark.parametrize(
    ("variable", "code", "text"),
    [
        ({"GRPC_SSL_CIPHER_SUITES": "none-such"}, 1, "unset GRPC_SSL_CIPHER_SUITES"),
        (
            {"GRPC_ADDRESS_HTTP_PROXY": "127.0.0.1:1", "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": "127.0.0.0/8"},
            1,
            "unset GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES",
        ),
        ({"GRPC_POLL_STRATEGY": "none-such"}, 1, "aborts the process"),
        ({"https_proxy": "http://user:s3cret-pass@127.0.0.1:1"}, 0, "not used for the broker"),
    ],
)
def test_variables_that_steer_grpc_and_those_that_do_not(
    world: World, variable: dict[str, str], code: int, text: str
) -> None:
    """In a process of its own: gRPC reads them once."""
    program = [sys.executable, "-c", "from stepcred.cli import main; main()", "doctor"]
    env = {**os.environ, **world.env, **variable}
    ran = subprocess.run(program, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, text in ran.stdout) == (code, True), ran.stdout
    assert "s3cret" not in ran.stdout


def test_a_clock_that_is_wrong(world: World) -> None:
    found = {}
    for seconds in (0, 8, 45):
        case = Case(environ=world.env, now=NOW, addr=world.deployment.addr)
        case.paths = {"cert": str(world.creds.cert), "key": str(world.creds.key), "ca": str(world.creds.ca)}
        shifted = timedelta(seconds=seconds)
        told = [*_broker.look(case, clock=lambda shifted=shifted: datetime.now(UTC) + shifted)]  # type: ignore[misc]
        found[seconds] = told[-1]
    assert [found[seconds].level for seconds in found] == [Level.OK, Level.WARNING, Level.PROBLEM]
    assert "ahead of the broker's" in found[45].text


def test_a_broker_that_is_stopping_and_one_of_tomorrow(world: World) -> None:
    deployment = world.deployment
    with FakeBroker(tls=(deployment.server_cert, deployment.server_key, world.creds.ca)) as fake:
        for reason, fix in (
            ("DRAINING", "in a minute"),
            ("OF_TOMORROW", "docs/errors.md"),
            ("AGENT_DENIED", "deny list"),
        ):
            code = grpc.StatusCode.UNAVAILABLE if reason == "DRAINING" else grpc.StatusCode.UNAUTHENTICATED
            fake.script("WhoAmI", Refusal(code=code, reason=reason, pushback="-1"))
            _, found = findings(world.env | {"STEPCRED_ADDR": fake.addr})
            (told,) = [one for where, one in found if where == "broker"]
            assert f"[{reason}, reference ref-1]" in told.text
            assert fix in told.fix


def test_the_command_prints_a_table_or_json_and_exits_by_its_code(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.creds.key.chmod(0o644)
    for name, value in world.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["stepcred", "doctor"])
    assert _app.run() == 78
    out = capsys.readouterr().out
    assert f"✗  files        STEPCRED_KEY: {world.creds.key} can be read by everybody\n" in out
    assert f"                fix: chmod 600 {world.creds.key}\n" in out
    monkeypatch.setattr(sys, "argv", ["stepcred", "doctor", "--json"])
    assert _app.run() == 78
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 78
    (files,) = [one for one in told["findings"] if one["look"] == "files"]
    assert files["level"] == "problem"


def test_it_reads_the_cas_as_grpc_does(world: World) -> None:
    """An intermediate alone is trusted, and so is the server's own certificate: nobody is sent to look for a root."""
    deployment, folder = world.deployment, world.folder
    root = new_authority("root", now=NOW, path_length=None)
    between = new_authority("between", now=NOW, issuer=root)
    names = (x509.DNSName("localhost"),)
    leaf, key = Leaf(uris=(), other_names=names, eku=(ExtendedKeyUsageOID.SERVER_AUTH,)).build(between)
    pair = deployment.ca.write([leaf, between.certificate], key)
    ca = folder / "broker-ca.pem"
    with FakeBroker(tls=(pair.cert, pair.key, world.creds.ca)) as fake:
        env = world.env | {"STEPCRED_ADDR": fake.addr.replace("127.0.0.1", "localhost"), "STEPCRED_CA": str(ca)}
        for trusted in (root.certificate, between.certificate, leaf):
            ca.write_bytes(trusted.public_bytes(PEM))
            _, found = findings(env)
            looks = {where for where, one in found if one.level is Level.PROBLEM}
            assert not looks & {"tls", "broker"}, found


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reach, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, found = findings(world.env | {"STEPCRED_ADDR": f"127.0.0.1:{silent.getsockname()[1]}"})
    (told,) = [one for where, one in found if where == "tls"]
    assert (code, "no answer in" in told.text) == (1, True)


def test_an_identity_from_the_workload_api(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"STEPCRED_ADDR": world.deployment.addr, "STEPCRED_SPIFFE_WAIT": "1"}
    with tempfile.TemporaryDirectory(prefix="wl-") as short, FakeAgent(Path(short) / "agent.sock") as agent:
        env["SPIFFE_ENDPOINT_SOCKET"] = agent.address
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        agent.push(response(svid(world.deployment.ca, URI)))
        assert findings(env) == (0, [])
        agent.turn(Day.DENYING)
        code, ((look, finding),) = findings(env)
    assert (code, look) == (1, "broker")
    assert "has no identity for this process" in finding.text
    assert "is there an entry for this process?" in finding.fix


def test_text_around_the_blocks_and_one_file_for_all_are_no_problem(world: World) -> None:
    world.creds.cert.write_bytes(b"Bag Attributes\n    friendlyName: load\n" + world.creds.cert.read_bytes())
    assert findings(world.env) == (0, [])
    world.creds.key.write_bytes(world.creds.cert.read_bytes() + world.creds.key.read_bytes())
    both = str(world.creds.key)
    assert findings(world.env | {"STEPCRED_CERT": both}) == (0, [])
