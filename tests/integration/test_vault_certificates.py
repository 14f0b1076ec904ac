"""X.509 and SSH certificates from a real server: what each promises of its end, and what proves it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    load_pem_private_key,
    load_ssh_public_identity,
)
from cryptography.x509.oid import NameOID

from broker.model import Evidence, Revocability, SshCertificate, X509Certificate
from broker.providers.base import DeclaredScope, MintRefused, Standing, Stray, Sweep
from broker.secret import Secret
from tests.support.bao import BaoServer, BrokerLogin, TokenRole, provision, provision_pki, provision_ssh
from tests.support.processes import wait_until
from tests.support.vault import Notes, new_ref, order_of, settled, vault_provider, with_refs

ISSUE = {"role": "certs", "write": {"path": "pki/issue/web", "data": {"common_name": "web.acme.internal"}}}
SIGN = {"role": "certs", "write": {"path": "pki/sign/web", "input": "csr"}}
SECOND = {"role": "certs", "write": {"path": "pki/issuer/second/issue/web", "data": {"common_name": "b.acme.internal"}}}
UNLEASED = {"role": "certs", "write": {"path": "pki/issue/unleased", "data": {"common_name": "a.acme.internal"}}}
SSH = {"role": "certs", "write": {"path": "ssh/sign/ops", "data": {"valid_principals": "ops"}}}
WEB = "pki/issue/web"
BLOCKS = (ISSUE, SIGN, SECOND, UNLEASED, SSH)


@pytest.fixture(scope="module")
def ssh_ca(bao: BaoServer) -> str:
    return provision_ssh(bao, "ops")


@pytest.fixture(scope="module")
def login(bao: BaoServer, ssh_ca: str, tmp_path_factory: pytest.TempPathFactory) -> BrokerLogin:
    provision_pki(bao, "web")
    provision_pki(bao, "unleased", generate_lease=False)
    bao.must("POST", "pki/root/generate/internal", {"common_name": "second", "issuer_name": "second", "key_type": "ec"})
    role = TokenRole(name="certs", writes=[str(block["write"]["path"]) for block in BLOCKS])  # type: ignore[index]
    return provision(bao, tmp_path_factory.mktemp("login"), [role], broker="certs-broker")


def csr() -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own.acme.internal")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    return request.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def ssh_key() -> str:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def is_revoked(bao: BaoServer, serial: str, crl: str = "pki/cert/crl") -> bool:
    data = bao.must("GET", crl, token="").data
    held = x509.load_pem_x509_crl((data.get("certificate") or data["crl"]).encode())
    return held.get_revoked_certificate_by_serial_number(int(serial.replace(":", ""), 16)) is not None


async def test_an_issued_certificate_is_on_the_revocation_list_after_its_lease(
    bao: BaoServer, login: BrokerLogin
) -> None:
    ref, notes = new_ref(ISSUE), Notes()
    assert ref.revocability is Revocability.PUBLISHED
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref, notes))
        made = minted.credential
        assert isinstance(made, X509Certificate)
        assert made.private_key_pem is not None
        assert made.private_key_pem.reveal() not in repr(minted)
        certificate = x509.load_pem_x509_certificate(made.certificate_pem.encode())
        key = load_pem_private_key(made.private_key_pem.reveal().encode(), None)
        assert certificate.public_key() == key.public_key()
        assert abs(certificate.not_valid_after_utc - ref.expires_at) < timedelta(seconds=2)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made.chain_pem[0].encode()))
        assert notes.refs["children"][0].startswith("pki/issue/web/")

        ref = with_refs(ref, notes.refs)
        assert await provider.probe(ref) is None
        assert not is_revoked(bao, made.serial_number)
        assert (await provider.revoke(ref)).evidence is Evidence.PUBLISHED
        assert is_revoked(bao, made.serial_number)
        assert bao.token_of(ref.lease_id) == []
        assert await provider.probe(ref) is Evidence.PUBLISHED


async def test_a_callers_own_request_is_signed_and_its_certificate_revoked(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref(SIGN)
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref, public_input=csr()))
        made = minted.credential
        assert isinstance(made, X509Certificate)
        assert made.private_key_pem is None
        assert (await provider.revoke(with_refs(ref, minted.refs))).evidence is Evidence.PUBLISHED
        assert is_revoked(bao, made.serial_number)


async def test_a_certificate_of_another_issuer_is_looked_for_on_that_issuers_list(
    bao: BaoServer, login: BrokerLogin
) -> None:
    ref = new_ref(SECOND)
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref))
        assert isinstance(minted.credential, X509Certificate)
        assert (await provider.revoke(with_refs(ref, minted.refs))).evidence is Evidence.PUBLISHED
        serial = minted.credential.serial_number
        assert not is_revoked(bao, serial)
        assert is_revoked(bao, serial, "pki/issuer/second/crl")


async def test_gone_from_the_server_is_not_published(bao: BaoServer, login: BrokerLogin) -> None:
    """A list that is built later than the lease ends: what its verifiers read still says nothing."""
    ref = new_ref(ISSUE)
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref))
        bao.must("POST", "pki/config/crl", {"auto_rebuild": True, "expiry": "72h", "auto_rebuild_grace_period": "1h"})
        try:
            progress = await provider.revoke(with_refs(ref, minted.refs))
            assert (progress.evidence, progress.step) == (None, "NOT_PUBLISHED")
        finally:
            bao.must("POST", "pki/config/crl", {"auto_rebuild": False})
        bao.must("GET", "pki/crl/rotate")
        assert await provider.probe(with_refs(ref, minted.refs)) is Evidence.PUBLISHED


async def test_recheck_and_recover_believe_no_certificate_dead_that_is_on_no_list(
    bao: BaoServer, login: BrokerLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, scopes = Secret(bao.root_token), (DeclaredScope(block=ISSUE, ttl=timedelta(minutes=10)),)
    ended, forgotten = new_ref(ISSUE), replace(new_ref(ISSUE), lease_id="abcdefgh234567ab")
    async with vault_provider(bao.address, login) as provider:
        ended = with_refs(ended, (await provider.mint(order_of(ended))).refs)
        lost = await provider.mint(order_of(forgotten))
        bao.must("POST", "pki/config/crl", {"auto_rebuild": True, "expiry": "72h", "auto_rebuild_grace_period": "1h"})
        try:
            await provider.revoke(ended)
            told = await provider.recheck(ended, operator)
            assert (told.standing, told.why) == (Standing.ALIVE, "its certificate is on no revocation list")
            known = bao.child_leases(WEB)
            sweep = Sweep(
                since=ended.intent_at,
                scopes=scopes,
                leases=frozenset(),
                children=frozenset(known) - {lost.refs["children"][0]},
                operator=operator,
            )
            kill = provider._survey._kill_token

            async def until_all_is_gone(asker: Secret, stray: Stray) -> bool:
                """A token's death takes its certificate's lease along: no later listing shows it."""
                dead = await kill(asker, stray)
                wait_until(lambda: lost.refs["children"][0] not in bao.child_leases(WEB), within=10, what="gone")
                return dead

            monkeypatch.setattr(provider._survey, "_kill_token", until_all_is_gone)
            for _ in range(2):  # it is said again when nothing is left to find
                swept = await provider.recover(sweep)
                (unproven,) = (one for one in swept.unproven if WEB in one)  # others' tests share the server
                assert f"{lost.refs['children'][0]} was revoked, but its serial is not known" in unproven
                assert {stray.kind for stray in swept.killed} <= {"token"}
        finally:
            bao.must("POST", "pki/config/crl", {"auto_rebuild": False})
        bao.must("GET", "pki/crl/rotate")
        assert (await provider.recheck(ended, operator)).standing is Standing.DEAD
        unknown = replace(ended, refs={name: value for name, value in ended.refs.items() if name != "serial"})
        assert (await provider.recheck(unknown, operator)).standing is Standing.UNKNOWN
        over = replace(unknown, expires_at=unknown.expires_at - timedelta(minutes=10))
        assert (await provider.recheck(over, operator)).standing is Standing.DEAD


async def test_a_certificate_that_could_not_be_revoked_is_not_handed_out(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref(UNLEASED)
    async with vault_provider(bao.address, login) as provider:
        with pytest.raises(MintRefused, match="no secret of the kind"):
            await provider.mint(order_of(ref))
    assert bao.token_of(ref.lease_id) == []


async def test_a_role_whose_maximum_is_shorter_than_the_lease_gives_nothing(bao: BaoServer, login: BrokerLogin) -> None:
    ref = new_ref(ISSUE, seconds=300)
    bao.must(
        "POST",
        "pki/roles/web",
        {
            "allow_any_name": True,
            "generate_lease": True,
            "max_ttl": "2m",
            "key_type": "ec",
            "key_bits": 256,
        },
    )
    before = len(bao.child_leases("pki/issue/web"))
    try:
        async with vault_provider(bao.address, login) as provider:
            with pytest.raises(MintRefused):
                await provider.mint(order_of(ref))
    finally:
        provision_pki(bao, "web")
    assert len(bao.child_leases("pki/issue/web")) == before


async def test_an_ssh_certificate_ends_by_its_own_time_and_nothing_says_otherwise(
    bao: BaoServer, login: BrokerLogin, ssh_ca: str
) -> None:
    ref, notes = new_ref(SSH), Notes()
    assert ref.revocability is Revocability.EXPIRY_ONLY
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref, notes, public_input=ssh_key()))
        made = minted.credential
        assert isinstance(made, SshCertificate)
        certificate = load_ssh_public_identity(made.signed_key.encode())
        assert isinstance(certificate, SSHCertificate)
        assert certificate.valid_principals == [b"ops"]
        assert abs(certificate.valid_before - ref.expires_at.timestamp()) < 2
        assert (
            ssh_ca.split()[1]
            in certificate.signature_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        )
        ref = with_refs(ref, notes.refs)
        progress = await provider.revoke(ref)
        assert (progress.evidence, progress.step) == (None, "ENDS_BY_TIME")
        assert bao.token_of(ref.lease_id) == []  # so that nothing more is signed


async def test_a_signature_in_doubt_has_no_proof_of_death_but_one_that_never_began_has(
    bao: BaoServer, login: BrokerLogin
) -> None:
    ref, notes = new_ref(SSH, ago=600), Notes()
    async with vault_provider(bao.address, login) as provider:
        await provider.mint(order_of(ref, notes, public_input=ssh_key()))
        outcome = await settled(provider, with_refs(ref, notes.refs))
        assert (outcome.found, outcome.evidence) == (True, None)
        never = await settled(provider, new_ref(SSH, ago=600))
        assert (never.found, never.evidence) == (False, Evidence.NOT_MINTED)


async def test_an_issue_in_doubt_is_found_by_its_lease_and_revoked(bao: BaoServer, login: BrokerLogin) -> None:
    ref, notes = new_ref(ISSUE), Notes()
    async with vault_provider(bao.address, login) as provider:
        minted = await provider.mint(order_of(ref, notes))
        assert isinstance(minted.credential, X509Certificate)
        outcome = await settled(provider, ref)  # as if nothing of it had been noted
        assert (outcome.found, outcome.evidence) == (True, Evidence.SEEN_DEAD)
        assert is_revoked(bao, minted.credential.serial_number)


@pytest.mark.parametrize(
    ("block", "public_input", "told"),
    [
        (SIGN, "", "needs a csr"),
        (SIGN, "ssh-ed25519 AAAA", "needs a csr"),
        (SSH, "", "needs an OpenSSH public_key"),
        (SSH, "-----BEGIN PRIVATE KEY-----", "needs an OpenSSH public_key"),
        (SSH, "ssh-ed25519 AAAA\nssh-rsa BBBB", "needs an OpenSSH public_key"),
        (SSH, "ssh-ed25519 nonsense", "answered 400"),
        (ISSUE, "ssh-ed25519 AAAA", "takes no public_key or csr"),
        ({"role": "certs"}, "ssh-ed25519 AAAA", "takes no public_key or csr"),
    ],
)
async def test_what_the_caller_brings_must_fit_the_scope(
    bao: BaoServer, login: BrokerLogin, block: dict[str, object], public_input: str, told: str
) -> None:
    before = len(bao.live_tokens())
    async with vault_provider(bao.address, login) as provider:
        await provider.check()
        with pytest.raises(MintRefused, match=told):
            await provider.mint(order_of(new_ref(block), public_input=public_input))
    assert len(bao.live_tokens()) <= before + 1  # the broker's own
