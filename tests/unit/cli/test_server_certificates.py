"""The daemon's own certificate: what gRPC can serve with is served with, the rest is refused at start, in words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.config.certificates import pair_problems
from broker.identity import verify
from broker.identity.authority import Authority, leaf_extensions, name_of, new_authority, new_builder
from broker.rpc import server
from tests.support.certs import Creds, PrivateKey, TestCA
from tests.support.corpus.der import extension, pem, tbs_of, whole
from tests.support.corpus.keys import curve_key, rsa_key
from tests.support.daemon import without_provider
from tests.support.doors import door

MakeKey: TypeAlias = Callable[[], PrivateKey]
NOW = datetime.now(UTC)


def server_certificate(
    ca: TestCA, key: PrivateKey, issuer: Authority | None = None, behind: Sequence[x509.Certificate] = ()
) -> Creds:
    san = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    extensions = leaf_extensions(san, ExtendedKeyUsageOID.SERVER_AUTH)
    builder = new_builder(
        name_of("server"), key.public_key(), NOW - timedelta(minutes=1), NOW + timedelta(days=1), extensions
    )
    issuer = issuer or ca.root
    return ca.write([issuer.sign(builder.add_extension(issuer.key_identifier, critical=False)), *behind], key)


def problems_of(creds: Creds) -> list[str]:
    return pair_problems(creds.cert.read_bytes(), creds.key.read_bytes(), NOW)


@pytest.fixture
def ca(tmp_path: Path) -> TestCA:
    return TestCA(tmp_path)


GOOD: dict[str, MakeKey] = {
    "P-256": lambda: curve_key(ec.SECP256R1),
    "P-384": lambda: curve_key(ec.SECP384R1),
    "RSA-2048": lambda: rsa_key(2048),
    "RSA-3072": lambda: rsa_key(3072),
}
BAD: dict[str, tuple[MakeKey, str]] = {
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, "Ed25519"),
    "Ed448": (ed448.Ed448PrivateKey.generate, "Ed448"),
    "DSA": (lambda: dsa.generate_private_key(1024), "DSA"),
    "P-521": (lambda: curve_key(ec.SECP521R1), "secp521r1"),
    "P-224": (lambda: curve_key(ec.SECP224R1), "secp224r1"),
    "secp256k1": (lambda: curve_key(ec.SECP256K1), "secp256k1"),
    "RSA-1024": (lambda: rsa_key(1024), "RSA of 1024 bits"),
}


class Hello(grpc.GenericRpcHandler):
    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def answer(_request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            return b"hello"

        return grpc.unary_unary_rpc_method_handler(answer)


def unchecked(ca: TestCA, creds: Creds) -> grpc.ServerCredentials:
    """Without a look at the key."""
    pair = (creds.key.read_bytes(), creds.cert.read_bytes())
    return grpc.ssl_server_credentials([pair], ca.root_pem, require_client_auth=True)


def of_the_daemon(ca: TestCA, creds: Creds) -> grpc.ServerCredentials:
    return server.credentials(door(ca.root_path, server=(creds.cert, creds.key)), verify.agents)


async def is_served(ca: TestCA, credentials: grpc.ServerCredentials) -> bool:
    """Whether a call is answered; False when the handshake fails, or the port cannot be bound."""
    made = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    made.add_generic_rpc_handlers((Hello(),))
    try:
        port = made.add_secure_port("127.0.0.1:0", credentials)
    except RuntimeError:
        return False
    await made.start()
    agent = ca.agent("spiffe://test.local/a")
    client = grpc.ssl_channel_credentials(ca.root_pem, agent.key.read_bytes(), agent.cert.read_bytes())
    try:
        async with grpc.aio.secure_channel(f"localhost:{port}", client) as channel:
            hello: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test/Hello")
            return await hello(b"", timeout=10) == b"hello"
    except grpc.aio.AioRpcError:
        return False
    finally:
        await made.stop(0)


@pytest.mark.parametrize("kind", GOOD)
async def test_good_keys_serve(kind: str, ca: TestCA) -> None:
    creds = server_certificate(ca, GOOD[kind]())
    assert problems_of(creds) == []
    assert await is_served(ca, of_the_daemon(ca, creds))


async def test_a_chain_of_three_serves(ca: TestCA) -> None:
    root = new_authority("root", now=NOW, path_length=1)
    middle = new_authority("middle", now=NOW, issuer=root)
    creds = server_certificate(ca, curve_key(ec.SECP256R1), issuer=middle, behind=[middle.certificate])
    assert problems_of(creds) == []
    ca.root_path.write_bytes(ca.root_pem + pem_of(root))
    assert await is_served(ca, of_the_daemon(ca, creds))


def pem_of(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.PEM)


@pytest.mark.parametrize("kind", BAD)
async def test_what_grpc_cannot_serve_with_is_named(kind: str, ca: TestCA) -> None:
    make, named = BAD[kind]
    creds = server_certificate(ca, make())
    problem = f"tls.cert_file: gRPC cannot serve with {named}; use P-256, P-384, or RSA of 2048 bits or more"
    assert problems_of(creds) == [problem]
    if kind != "RSA-1024":  # which works, and OpenSSL's clients refuse it
        assert not await is_served(ca, unchecked(ca, creds)), "gRPC can by now; the check is out of date"


@pytest.mark.parametrize(("command", "kind"), [("serve", "Ed25519"), ("check", "P-521")])
def test_the_command_refuses_it_in_one_line(command: str, kind: str, tmp_path: Path) -> None:
    deployment = without_provider(tmp_path)
    make, named = BAD[kind]
    creds = server_certificate(deployment.ca, make())
    deployment.server_cert, deployment.server_key = creds.cert, creds.key
    deployment.write_config()
    done = subprocess.run(
        [sys.executable, "-m", "broker", command, "--config", str(deployment.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == os.EX_CONFIG, done.stderr
    lines = [line for line in done.stderr.splitlines() if "tls." in line]
    assert lines == [
        f"error: tls.cert_file: gRPC cannot serve with {named}; use P-256, P-384, or RSA of 2048 bits or more"
    ]
    assert "Traceback" not in done.stderr


def test_a_malformed_certificate_is_a_problem_and_no_traceback(ca: TestCA) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    creds = server_certificate(ca, key)
    tbs = tbs_of(x509.load_pem_x509_certificate(creds.cert.read_bytes()))
    tbs.extensions.append(extension("2.5.29.37", b"rubbish"))
    creds.cert.write_bytes(pem(whole(tbs, lambda _: b"")))
    (problem,) = problems_of(creds)
    assert problem.endswith("is malformed")
