"""What `stepcred doctor` judges by itself agrees with the broker; the rest of it is in tests/e2e/test_doctor.py."""

from __future__ import annotations

import builtins
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.clock import SystemClock
from broker.errors import BrokerError, Reason
from broker.identity import Authenticator
from broker.rpc.status import CODES
from stepcred.cli import _doctor
from stepcred.cli._doctor import _broker, _certificate, _values
from stepcred.cli._doctor._finding import Case, Level
from tests.fakes.broker_server import FakeBroker
from tests.support import corpus
from tests.support.certs import PEM, TestCA
from tests.support.corpus.case import TRUST_DOMAIN
from tests.support.corpus.der import pem
from tests.support.corpus.good import ISSUED
from tests.support.doors import door
from tests.unit.client.conftest import Pki

URI = "spiffe://test.local/workflow/etl/step/load"
KEYS = [
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP521R1()),
    ed25519.Ed25519PrivateKey.generate(),
]
NOW = datetime.now(UTC)

names = st.sampled_from(
    [
        URI,
        "spiffe://test.local/",
        "spiffe://test.local",
        "spiffe://test.local/a//b",
        "spiffe://test.local/a/../b",
        "spiffe://test.local/%61",
        "SPIFFE://test.local/a",
        "spiffe://test.local:1/a",
        "https://test.local/a",
        "spiffe://test.local/a?b",
        "spiffe://test.local/a\n",
        "spiffe://test.local/" + "a" * 2048,
    ]
)
bends = st.fixed_dictionaries(
    {},
    optional={
        "uris": st.lists(names, max_size=2),
        "eku": st.sampled_from([None, (ExtendedKeyUsageOID.SERVER_AUTH,), (ExtendedKeyUsageOID.CLIENT_AUTH,)]),
        "usages": st.sampled_from(
            [None, ("digital_signature",), ("key_agreement",), ("digital_signature", "crl_sign")]
        ),
        "ca": st.sampled_from([None, False, True]),
        "key": st.sampled_from(KEYS),
        "not_after": st.sampled_from([NOW - timedelta(hours=1), NOW + timedelta(days=1)]),
        "extra": st.sampled_from(
            [(), ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), True),)]
        ),
    },
)


def judged(certificate: x509.Certificate, root_pem: bytes) -> list[str]:
    """The problems that doctor sees in it."""
    case = Case(environ={}, now=datetime.now(UTC), contents={"cert": certificate.public_bytes(PEM), "ca": root_pem})
    return [one.text for one in _certificate.look(case) if one.level is Level.PROBLEM]


@settings(max_examples=150, deadline=None)
@given(bend=bends)
def test_it_finds_a_problem_where_the_broker_refuses_and_nowhere_else(bend: dict[str, Any]) -> None:
    authority = _authority()
    bend = {"key": KEYS[0], "not_before": NOW - timedelta(hours=2), **bend}
    certificate, _ = authority.leaf(URI, **bend)
    broker = Authenticator(door(authority.root_path, authority.trust_domain), SystemClock())
    try:
        broker.authenticate(certificate.public_bytes(PEM), tls_version="TLSv1.3", peer="ipv4:127.0.0.1:1")
        refused = ""
    except BrokerError as error:
        refused = error.reason.value
    found = judged(certificate, authority.root_pem)
    assert bool(found) == bool(refused), (found, refused)
    if refused in ("CERTIFICATE_EXPIRED", "SPIFFE_ID_INVALID"):
        assert any(refused in text for text in found)


_AUTHORITIES: list[TestCA] = []


def _authority() -> TestCA:
    return _AUTHORITIES[0]


@pytest.fixture(autouse=True, scope="module")
def _make_authority(tmp_path_factory: pytest.TempPathFactory) -> None:
    _AUTHORITIES[:] = [TestCA(tmp_path_factory.mktemp("doctor"))]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> corpus.Pki:
    return corpus.Pki(TestCA(tmp_path_factory.mktemp("corpus"), TRUST_DOMAIN))


def _problems(house: corpus.Pki, shown: corpus.Shown) -> list[str]:
    contents = {"cert": b"".join(pem(one) for one in shown.chain), "ca": house.bundle}
    case = Case(environ={}, now=datetime.now(UTC), contents=contents)
    return [one.text for one in _certificate.look(case) if one.level is Level.PROBLEM]


@pytest.mark.parametrize("name", ISSUED)
def test_no_good_certificate_of_the_corpus_is_a_problem(house: corpus.Pki, name: str) -> None:
    assert _problems(house, ISSUED[name](house)) == []


# What a client cannot know is another's trust domain; odd encodings are the broker's to tell.
TOLD = {
    name: bad
    for name, bad in corpus.BAD.items()
    if bad.reason in (Reason.SPIFFE_ID_INVALID, Reason.CERTIFICATE_EXPIRED)
}


def test_every_bad_name_and_every_end_of_the_corpus_is_seen(house: corpus.Pki) -> None:
    assert len(TOLD) > 30
    assert [name for name, bad in TOLD.items() if not _problems(house, bad.make(house))] == []


def test_every_reason_of_a_certificate_has_a_fix() -> None:
    unauthenticated = {reason.value for reason, code in CODES.items() if code.name == "UNAUTHENTICATED"}
    assert unauthenticated <= _broker.FIXES.keys()
    assert _broker.FIXES.keys() <= {reason.value for reason in CODES}


def test_without_cryptography_it_says_what_it_did_not_look_at(
    pki: Pki, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    Path(environ["STEPCRED_KEY"]).chmod(0o600)
    monkeypatch.setattr(builtins, "__import__", without)
    looked = _doctor.examine(environ)
    monkeypatch.undo()
    by_name = {one.name: one.findings for one in looked}
    assert by_name["certificate"][0].level is Level.SKIPPED
    assert by_name["certificate"][0].fix == "pip install cryptography"
    assert by_name["tls"][0].level is Level.OK  # and all that is behind it
    assert _doctor.exit_code(looked) == 0


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"STEPCRED_ADDRESS": "broker:8443"}, "STEPCRED_ADDR?"),
        ({"STEPCRED_CERTS": "/x"}, "STEPCRED_CERT?"),
        ({"STEPCRED_BROKER_LISTEN__GRPC": "x"}, ""),
        ({"STEPCRED_ADMIN_CERT": "x", "STEPCRED_ADMIN_CA": "x"}, ""),
    ],
)
def test_a_misspelt_variable(variables: Mapping[str, str], told: str) -> None:
    found = [*_values.look(Case(environ=variables, now=NOW))]
    fixes = [one.fix for one in found if one.level is Level.WARNING]
    assert fixes == ([f"did you mean {told}"] if told else [])


def test_an_identity_from_the_workload_api(tmp_path: Path, fake: FakeBroker) -> None:
    """Files are not asked for; what the agent gives is the SDK's to fetch, and the broker's to judge."""
    path = tmp_path / "agent.sock"
    environ = {"STEPCRED_ADDR": fake.addr, "SPIFFE_ENDPOINT_SOCKET": f"unix://{path}"}

    def told(value: str = environ["SPIFFE_ENDPOINT_SOCKET"]) -> list[str]:
        return [one.text for one in _values.look(Case(environ=environ | {"SPIFFE_ENDPOINT_SOCKET": value}, now=NOW))]

    assert told() == [f"SPIFFE_ENDPOINT_SOCKET: {path} does not exist"]
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        assert told() == [f"SPIFFE_ENDPOINT_SOCKET: nobody answers at {path} (Connection refused)"]
        agent.listen()
        assert told() == [f"identity from the Workload API at {path}"]
        assert told(f"unix:{path}") == told()
        assert "must be unix:///path" in told(str(path))[0]
        looks = {one.name: one.findings[0] for one in _doctor.examine(environ) if one.name in ("files", "tls")}
    assert {finding.level for finding in looks.values()} == {Level.SKIPPED}
    assert "the identity comes from the Workload API" in looks["tls"].text


@given(value=st.text(max_size=60), name=st.sampled_from(["ADDR", "CERT", "KEY", "CA", "STEP_HANDLE", "RUN"]))
def test_no_value_makes_it_fail_and_what_it_shows_fits_a_terminal(value: str, name: str) -> None:
    for one in _values.look(Case(environ={f"STEPCRED_{name}": value}, now=NOW)):
        assert one.text.isprintable(), one


def _write(path: Path, parts: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(parts))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (b"h" * 26, 0o600, ""),
        (b"h" * 26 + b"\r\n", 0o600, ""),  # is taken off where it is read
        (b"\xef\xbb\xbf" + b"h" * 26, 0o600, "holds no step handle"),
        (b"h h\n", 0o600, "holds no step handle"),
        (b"h" * 26, 0o644, "can be read by others"),
    ],
)
def test_a_handle_file(tmp_path: Path, content: bytes, mode: int, told: str) -> None:
    file = _write(tmp_path / "handle", [content])
    file.chmod(mode)
    found = [one.text for one in _values._handle_file(Case(environ={}, now=NOW, handle_file=file))]
    assert len(found) == bool(told)
    assert told in "".join(found)


@pytest.mark.parametrize(
    ("program", "typed", "told"),
    [
        ("stepcred.cli", "stepcred do", "doctor"),
        ("stepcred.cli", "stepcred doctor --", "--handle-file\n--json\n--help"),
        ("broker.__main__", "stepcred-broker check --", "--config\n--live\n--json\n--help"),
    ],
)
def test_the_shell_completes_it(program: str, typed: str, told: str) -> None:
    name = typed.split(maxsplit=1)[0]
    variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
    env = {**os.environ, variable: "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    code = f"import sys; sys.argv = [{name!r}]; from {program} import main; sys.exit(main())"
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.strip() == told
