from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

from broker.model import (
    AwsSession,
    Evidence,
    JsonValue,
    KeyValue,
    Revocability,
    SshCertificate,
    UsernamePassword,
    VaultToken,
    X509Certificate,
)
from broker.providers.base import LeaseRef, MintInDoubt, MintOrder, MintRefused, Provider, ProviderError, SettlesDoubt
from broker.providers.dev.backend import Backend, Failure
from broker.providers.dev.provider import DevProvider
from broker.wiring.dev import maps
from tests.fakes.clock import START, FakeClock

LIFE = timedelta(minutes=10)
ROLE = "arn:aws:iam::123456789012:role/etl"
STATEMENT = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::lake/*"}
TOKEN = {"role": "orders-ro"}
KINDS: list[tuple[str, Mapping[str, JsonValue], type]] = [
    ("vault", TOKEN, VaultToken),
    ("vault", {"role": "orders-ro", "read": "database/creds/orders-ro"}, UsernamePassword),
    ("vault", {"role": "orders-kv", "read": "secret/data/orders"}, KeyValue),
    ("vault", {"role": "web", "write": {"path": "pki/issue/web", "data": {"common_name": "web"}}}, X509Certificate),
    ("aws", {"role_arn": ROLE, "regions": ["eu-west-1"], "statements": [STATEMENT], "revoke": "deny"}, AwsSession),
    ("aws", {"role_arn": ROLE, "regions": ["eu-west-1"], "parameter": {"name": "/orders/key"}}, KeyValue),
    ("dev", {"kind": "token"}, VaultToken),
    ("dev", {"kind": "login"}, UsernamePassword),
    ("dev", {"kind": "aws"}, AwsSession),
    ("dev", {"kind": "values", "values": {"api_key": "k"}}, KeyValue),
    ("dev", {"kind": "x509"}, X509Certificate),
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def backend(clock: FakeClock) -> Backend:
    return Backend(now=clock.now)


async def _note(_refs: Mapping[str, JsonValue]) -> None:
    raise AssertionError("there is nothing to note on the way")


def ref_of(provider: str, params: Mapping[str, JsonValue], *, lease_id: str = "abcdefghij234567") -> LeaseRef:
    kind = maps.kinds()[provider]
    assert kind.validate(params) == []
    return LeaseRef(
        lease_id=lease_id,
        agent="spiffe://dev.local/a",
        nonce=b"",
        kid="",
        params=params,
        refs={},
        revocability=kind.revocability(params),
        intent_at=START,
        expires_at=START + LIFE,
        epoch=1,
        scope="orders",
    )


def order_of(ref: LeaseRef, public_input: str = "") -> MintOrder:
    return MintOrder(ref=ref, workflow="w", run="1", step="s", note=_note, public_input=public_input)


def test_it_is_a_provider(backend: Backend) -> None:
    provider: Provider = DevProvider("vault", backend)
    assert isinstance(provider, SettlesDoubt)


@pytest.mark.parametrize(("name", "params", "kind"), KINDS)
async def test_mints_the_type_of_the_real_one_and_ends_it(
    backend: Backend, name: str, params: Mapping[str, JsonValue], kind: type
) -> None:
    provider, ref = DevProvider(name, backend), ref_of(name, params)
    minted = await provider.mint(order_of(ref))
    assert isinstance(minted.credential, kind)
    assert [one.scope for one in backend.alive()] == ["orders"]
    assert await provider.probe(ref) is None
    ended = await provider.revoke(ref)
    assert ended.evidence is not None
    assert await provider.probe(ref) is ended.evidence
    assert backend.alive() == []


async def test_values_show_that_they_are_stand_ins_and_are_never_the_same(backend: Backend) -> None:
    provider = DevProvider("vault", backend)
    tokens = set()
    for number in range(2):
        minted = await provider.mint(order_of(ref_of("vault", TOKEN, lease_id=f"abcdefghij23456{number + 2}")))
        assert isinstance(minted.credential, VaultToken)
        tokens.add(minted.credential.token.reveal())
        assert minted.credential.address.endswith(".invalid")
    assert len(tokens) == 2
    assert all(token.startswith("dev-token-") for token in tokens)


async def test_only_the_living_are_let_in(backend: Backend, clock: FakeClock) -> None:
    provider, ref = DevProvider("vault", backend), ref_of("vault", TOKEN)
    minted = await provider.mint(order_of(ref))
    assert isinstance(minted.credential, VaultToken)
    token = minted.credential.token.reveal()
    assert backend.accepts(token)
    assert not backend.accepts("dev-token-of-nobody")
    clock.advance(LIFE.total_seconds())
    assert not backend.accepts(token)  # whoever verifies enforces time, before anybody has revoked it
    assert await provider.probe(ref) is Evidence.SEEN_DEAD


async def test_what_only_time_ends_lives_until_then(backend: Backend, clock: FakeClock) -> None:
    params = {"role_arn": ROLE, "regions": ["eu-west-1"], "statements": [STATEMENT], "revoke": "bound"}
    provider, ref = DevProvider("aws", backend), ref_of("aws", params)
    await provider.mint(order_of(ref))
    assert ref.revocability is Revocability.EXPIRY_ONLY
    assert (await provider.revoke(ref)).evidence is None
    assert len(backend.alive()) == 1
    clock.advance(LIFE.total_seconds())
    assert (await provider.revoke(ref)).evidence is Evidence.EXPIRED


async def test_what_it_holds_can_be_said(backend: Backend) -> None:
    backend.values["orders"] = {"username": "ann", "password": "hunter2", "host": "db.local"}
    where = {"host": "db.acme", "port": 5432}
    params = {"role": "orders-ro", "read": "database/creds/orders-ro", "attributes": where}
    login = (await DevProvider("vault", backend).mint(order_of(ref_of("vault", params)))).credential
    assert isinstance(login, UsernamePassword)
    assert (login.username, login.password.reveal(), login.attributes) == (
        "ann",
        "hunter2",
        {"host": "db.local", "port": "5432"},
    )
    backend.values["orders"] = {"password": "x"}
    with pytest.raises(MintRefused, match="has no value 'password'"):
        await DevProvider("vault", backend).mint(order_of(ref_of("vault", TOKEN)))


async def test_fails_as_often_as_it_is_told_to(backend: Backend) -> None:
    provider, ref = DevProvider("vault", backend), ref_of("vault", TOKEN)
    backend.fail("orders", Failure.REFUSED, 2)
    for _ in range(2):
        with pytest.raises(MintRefused):
            await provider.mint(order_of(ref))
    assert backend.alive() == []
    await provider.mint(order_of(ref))
    backend.fail("orders", Failure.REVOKE, 1)
    with pytest.raises(ProviderError):
        await provider.revoke(ref)
    assert len(backend.alive()) == 1
    assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD


async def test_a_lost_answer_is_found_out(backend: Backend) -> None:
    """First that it had landed, then, when that is on record, it is killed (I4)."""
    provider, ref = DevProvider("dev", backend), ref_of("dev", {"kind": "token", "fail": "lost"})
    with pytest.raises(MintInDoubt):
        await provider.mint(order_of(ref))
    assert len(backend.alive()) == 1
    assert (await provider.settle(ref, final=False)).found
    assert len(backend.alive()) == 1
    settled = await provider.settle(replace(ref, found=True), final=True)
    assert (settled.found, settled.evidence, backend.alive()) == (True, Evidence.SEEN_DEAD, [])
    never = await provider.settle(replace(ref, lease_id="zzzzzzzzzz234567"), final=True)
    assert (never.found, never.evidence) == (False, Evidence.NOT_MINTED)


def _request() -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mine")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return key, request.public_bytes(serialization.Encoding.PEM).decode()


async def test_signs_what_the_caller_brings(backend: Backend) -> None:
    provider = DevProvider("vault", backend)
    params = {"role": "web", "write": {"path": "pki/sign/web", "input": "csr"}}
    key, request = _request()
    assert provider.input_problem(params, "") != ""
    assert provider.input_problem(params, request) == ""
    made = (await provider.mint(order_of(ref_of("vault", params), request))).credential
    assert isinstance(made, X509Certificate)
    assert made.private_key_pem is None
    certificate = x509.load_pem_x509_certificate(made.certificate_pem.encode())
    assert certificate.public_key() == key.public_key()
    assert certificate.not_valid_after_utc == START + LIFE
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made.chain_pem[0].encode()))
    with pytest.raises(MintRefused, match="no stand-in can be made"):
        await provider.mint(order_of(ref_of("vault", params), "-----BEGIN CERTIFICATE REQUEST-----"))


async def test_certifies_an_ssh_key(backend: Backend) -> None:
    provider = DevProvider("vault", backend)
    params = {"role": "ops", "write": {"path": "ssh/sign/ops", "data": {"valid_principals": "ops,root"}}}
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    openssh = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    assert "public_key" in provider.input_problem(params, "")
    made = (await provider.mint(order_of(ref_of("vault", params), openssh))).credential
    assert isinstance(made, SshCertificate)
    signed = load_ssh_public_identity(made.signed_key.encode())
    assert isinstance(signed, SSHCertificate)
    assert signed.public_key() == public
    assert datetime.fromtimestamp(signed.valid_before, tz=START.tzinfo) == START + LIFE
    assert signed.valid_principals == [b"ops", b"root"]
    assert made.serial_number == f"{signed.serial:016x}"


async def test_nothing_is_taken_where_nothing_is_needed(backend: Backend) -> None:
    assert DevProvider("vault", backend).input_problem(TOKEN, "key") == "the scope takes no public_key or csr"
    assert DevProvider("vault", backend).input_problem({"role": 1}, "key") == ""  # the mint refuses it
    broken = replace(ref_of("vault", TOKEN), params={"role": 1})
    with pytest.raises(MintRefused, match="not valid"):
        await DevProvider("vault", backend).mint(order_of(broken))
