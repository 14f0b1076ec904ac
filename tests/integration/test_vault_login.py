"""The broker's own token: renewed ahead of its end, replaced near its maximum, one login at a time."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from broker.model import Evidence
from broker.providers.vault.client import VaultClient
from broker.providers.vault.login import Login, LoginFailed, Session
from broker.providers.vault.settings import AppRole, Auth, Cert, Kubernetes, TokenFile, VaultSettings
from broker.providers.vault.transport import Transport, VaultUnreachable
from tests.fakes.clock import FakeClock
from tests.support.bao import BaoServer, BrokerLogin, TokenRole, openbao, provision
from tests.support.certs import TestCA
from tests.support.proxy import Fault, Proxy, proxy, response
from tests.support.vault import new_ref, order_of, vault_provider

BROKER = "login-broker"


@pytest.fixture
async def between(bao: BaoServer) -> AsyncIterator[Proxy]:
    async with proxy(urlsplit(bao.address).port or 0) as one:
        yield one


@pytest.fixture
def approle(bao: BaoServer, tmp_path: Path) -> AppRole:
    made = provision(bao, tmp_path, [TokenRole(name="login-kv")], broker=BROKER)
    return AppRole(role_id=made.role_id, secret_id_file=made.secret_id_file)


@pytest.fixture
async def transport(between: Proxy, approle: AppRole) -> AsyncIterator[Transport]:
    one = Transport(VaultSettings(address=between.address, auth=approle))
    yield one
    await one.close()


def login(transport: Transport, clock: FakeClock, auth: Auth | None = None) -> Login:
    return Login(VaultClient(transport), auth or transport.settings.auth, clock)


async def refreshed(one: Login) -> Session:
    """Once what it does in the background is done."""
    with contextlib.suppress(LoginFailed):
        await one.session()
    while one._refreshing:
        await asyncio.wait([one._refreshing])
        await asyncio.sleep(0)
    return await one.session()


async def test_many_askers_cause_one_login(transport: Transport, between: Proxy) -> None:
    one = login(transport, FakeClock())
    sessions = await asyncio.gather(*(one.session() for _ in range(20)))
    assert len({id(session) for session in sessions}) == 1
    assert len(between.seen("/approle/login")) == 1


async def test_a_token_is_renewed_after_two_thirds_of_its_life_and_replaced_when_it_cannot_be(
    bao: BaoServer, transport: Transport, between: Proxy
) -> None:
    clock = FakeClock()
    one = login(transport, clock)
    first = await one.session()
    clock.advance(799)  # of 1,200 s
    assert await one.session() is first
    clock.advance(2)
    assert await one.session() is first  # renewed in the background
    renewed = await refreshed(one)
    assert renewed.token.matches(first.token)
    assert renewed.stale_at > first.stale_at

    bao.must("POST", "auth/token/revoke", {"token": first.token.reveal()})
    clock.advance(801)
    assert not (await refreshed(one)).token.matches(first.token)


async def test_a_login_that_fails_leaves_a_good_token_in_use(transport: Transport, between: Proxy) -> None:
    clock = FakeClock()
    one = login(transport, clock)
    assert (one.left(), one.ends()) == (None, None)  # not heard of yet
    first = await one.session()
    clock.advance(900)
    assert one.left() == pytest.approx(0.25)  # of 1,200 s
    assert one.ends() == clock.now() + timedelta(seconds=300)
    between.inject(Fault.REPLACE, "/v1/", times=99, answer=response("503 Service Unavailable", b'{"errors": []}'))
    assert await refreshed(one) is first
    clock.advance(301)
    with pytest.raises(LoginFailed):
        await one.session()
    left = one.left()
    assert left is not None
    assert left < 0
    between.inject(Fault.NONE)
    clock.advance(2)
    assert not (await one.session()).token.matches(first.token)
    assert one.left() == pytest.approx(1)


async def test_a_rotated_token_file_is_read_again(bao: BaoServer, transport: Transport, tmp_path: Path) -> None:
    def token() -> str:
        return str(bao.must("POST", "auth/token/create", {"ttl": "1h"}).body["auth"]["client_token"])

    clock, path = FakeClock(), tmp_path / "token"
    one = login(transport, clock, TokenFile(path=path))
    with pytest.raises(LoginFailed, match="cannot be read"):
        await one.session()
    assert one.left() == 0
    path.write_text("")
    with pytest.raises(LoginFailed, match="is empty"):
        await one.session()
    first = token()
    path.write_text(first + "\n")
    assert (await one.session()).token.reveal() == first
    clock.advance(1800)  # whoever writes the file has not: what is left is the token's, however often it is looked at
    assert one.left() == pytest.approx(0.5, abs=0.01)
    second = token()
    path.write_text(second)
    clock.advance(61)
    assert (await one.session()).token.reveal() == second
    assert one.left() == pytest.approx(1, abs=0.01)


async def test_a_wrong_secret_id_fails_without_showing_it(transport: Transport, approle: AppRole) -> None:
    approle.secret_id_file.write_text("wrong-secret-id")
    with pytest.raises(LoginFailed) as caught:
        await login(transport, FakeClock()).session()
    assert "wrong-secret-id" not in repr(caught.value)


WRONG = "00000000-0000-0000-0000-000000000000"


async def test_a_wrong_secret_id_for_a_while_locks_nobody_out(
    transport: Transport, between: Proxy, approle: AppRole
) -> None:
    """OpenBao locks a user out after five refusals, for 15 minutes."""
    good = approle.secret_id_file.read_text()
    approle.secret_id_file.write_text(WRONG)
    one, told = login(transport, FakeClock()), set()
    for _ in range(20):
        with pytest.raises(LoginFailed) as caught:
            await one.session()
        told.add(str(caught.value))
    assert len(between.seen("/approle/login")) == 1
    assert told == {
        "login to Vault failed: the server answered 400; tries again at 2026-11-22T12:00:05Z, or when its files change"
    }
    approle.secret_id_file.write_text(good)
    await one.session()


async def test_a_refused_login_is_tried_again_after_pauses_that_double(
    transport: Transport, between: Proxy, approle: AppRole
) -> None:
    approle.secret_id_file.write_text(WRONG)
    clock = FakeClock()
    one = login(transport, clock)
    tries: list[int] = []
    no = response("403 Forbidden", b'{"errors": ["permission denied"]}')
    between.inject(Fault.REPLACE, "/approle/login", times=99, answer=no)
    for second in range(400):
        with pytest.raises(LoginFailed):
            await one.session()
        if len(between.seen("/approle/login")) > len(tries):
            tries.append(second)
        clock.advance(1)
    assert tries == [0, 5, 15, 35, 75, 155, 315]
    clock.advance(400)
    with pytest.raises(LoginFailed, match=r"2026-11-22T12:18:20Z"):  # five minutes at the most
        await one.session()


async def test_while_nobody_answers_callers_wait_together_and_then_not_at_all(
    transport: Transport, between: Proxy
) -> None:
    clock = FakeClock()
    one, health = login(transport, clock), "/sys/health"
    between.inject(Fault.REPLACE, health, times=99, answer=response("503 Service Unavailable", b'{"errors": []}'))

    async def ask() -> int:
        told = await asyncio.gather(*(one.session() for _ in range(20)), return_exceptions=True)
        assert all(isinstance(error, LoginFailed) for error in told)
        return len(between.seen(health))

    asked = []
    for _ in range(60):
        asked.append(await ask())
        clock.advance(1)
    assert [second for second in range(60) if second == 0 or asked[second] > asked[second - 1]] == [
        0, 1, 3, 7, 15, 30, 45,
    ]  # fmt: skip
    between.inject(Fault.NONE)
    clock.advance(15)
    await one.session()


async def test_a_login_that_hangs_holds_nobody_up_while_the_token_is_good(transport: Transport, between: Proxy) -> None:
    clock = FakeClock()
    one = login(transport, clock)
    first = await one.session()
    clock.advance(900)
    between.inject(Fault.HANG, "renew-self", times=99)
    async with asyncio.timeout(2):
        for _ in range(5):
            assert await asyncio.gather(*(one.session() for _ in range(20))) == [first] * 20
            await asyncio.sleep(0.05)
    assert len(between.seen("renew-self")) == 1
    await one.close()


async def test_a_secret_id_that_cannot_be_read_leaves_a_good_token_in_use(
    bao: BaoServer, transport: Transport, approle: AppRole
) -> None:
    bao.must("POST", f"auth/approle/role/{BROKER}", {"token_max_ttl": "20m"})  # not to be renewed
    clock = FakeClock()
    one = login(transport, clock)
    first, secret_id = await one.session(), approle.secret_id_file.read_text()
    approle.secret_id_file.unlink()
    clock.advance(900)
    bao.must("POST", "auth/token/revoke-accessor", {"accessor": await accessor_of(bao, first)})
    assert await refreshed(one) is first
    approle.secret_id_file.write_text(secret_id)
    assert await refreshed(one) is not first


async def accessor_of(bao: BaoServer, session: Session) -> str:
    return str(bao.must("POST", "auth/token/lookup", {"token": session.token.reveal()}).data["accessor"])


async def test_a_token_that_was_logged_in_is_given_back_and_a_token_files_is_not(
    bao: BaoServer, transport: Transport, between: Proxy, tmp_path: Path
) -> None:
    one = login(transport, FakeClock())
    token = (await one.session()).token.reveal()
    await one.close()
    assert bao.call("GET", "auth/token/lookup-self", token=token).status == 403
    (tmp_path / "token").write_text(bao.must("POST", "auth/token/create", {"ttl": "1h"}).body["auth"]["client_token"])
    other = login(transport, FakeClock(), TokenFile(path=tmp_path / "token"))
    kept = (await other.session()).token.reveal()
    await other.close()
    assert bao.call("GET", "auth/token/lookup-self", token=kept).status == 200
    await one.session()
    between.inject(Fault.HANG, "revoke-self")
    async with asyncio.timeout(4):
        await one.close()


async def test_a_health_answer_without_a_cluster_is_no_login(transport: Transport, between: Proxy) -> None:
    between.inject(Fault.REPLACE, "/sys/health", answer=response("200 OK", b'{"sealed": false}'))
    with pytest.raises(LoginFailed, match="names no cluster"):
        await login(transport, FakeClock()).session()


@pytest.mark.parametrize(
    "answer",
    [
        response("429 Too Many Requests", b'{"errors": ["quota"]}'),
        response("472 Disaster recovery", b'{"standby": true, "cluster_id": "c-1"}'),
        response("473 Performance standby", b'{"standby": true, "cluster_id": "c-1"}'),
    ],
)
async def test_who_does_not_hand_requests_on_is_no_standby(transport: Transport, between: Proxy, answer: bytes) -> None:
    between.inject(Fault.REPLACE, "/sys/health", answer=answer)
    with pytest.raises(LoginFailed, match="answered 4"):
        await login(transport, FakeClock()).session()


# --- certificates ---


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    with openbao(tmp_path_factory.mktemp("bao-tls"), tls=True) as server:
        server.must("POST", "sys/auth/cert", {"type": "cert"})
        provision(server, tmp_path_factory.mktemp("approle"), [TokenRole(name="login-kv")], broker=BROKER)
        yield server


def shown(bao: BaoServer, folder: Path, name: str, *, ttl: str = "20m") -> Cert:
    """A certificate of a CA of its own, and the server's role that takes it."""
    ca = TestCA(folder, "broker.internal")
    made = ca.agent(f"spiffe://broker.internal/{name}")
    role = {"certificate": ca.root_path.read_text(), "token_policies": [BROKER], "token_ttl": ttl}
    bao.must("POST", f"auth/cert/certs/{name}", {**role, "token_no_default_policy": True})
    return Cert(cert_file=made.cert, key_file=made.key, role=name)


@contextlib.asynccontextmanager
async def over_tls(bao: BaoServer, auth: Auth) -> AsyncIterator[Transport]:
    one = Transport(VaultSettings(address=bao.address, auth=auth, ca_file=bao.ca_file))
    yield one
    await one.close()


async def test_a_certificate_logs_in_and_is_shown_anew_rather_than_renewed(with_tls: BaoServer, tmp_path: Path) -> None:
    clock, auth = FakeClock(), shown(with_tls, tmp_path, "first")
    async with over_tls(with_tls, auth) as transport:
        one = login(transport, clock)
        first = await one.session()
        assert await one.session() is first
        clock.advance(801)  # of 1,200 s
        second = await refreshed(one)
        assert not second.token.matches(first.token)


async def test_a_rotated_certificate_is_taken_at_the_next_login(with_tls: BaoServer, tmp_path: Path) -> None:
    clock, auth = FakeClock(), shown(with_tls, tmp_path / "a", "rotated")
    async with over_tls(with_tls, auth) as transport:
        one = login(transport, clock)
        await one.session()
        other = shown(with_tls, tmp_path / "b", "rotated")  # the server takes only the new CA's from now on
        clock.advance(1300)
        with pytest.raises(LoginFailed):
            await one.session()
        auth.cert_file.write_bytes(other.cert_file.read_bytes())
        auth.key_file.write_bytes(other.key_file.read_bytes())
        await one.session()


async def test_a_foreign_or_broken_certificate_does_not_log_in(with_tls: BaoServer, tmp_path: Path) -> None:
    auth = shown(with_tls, tmp_path / "a", "mine")
    foreign = TestCA(tmp_path / "b", "broker.internal").agent("spiffe://broker.internal/mine")
    for cert, key in ((foreign.cert, foreign.key), (auth.cert_file, foreign.key), (tmp_path / "none", foreign.key)):
        bad = Cert(cert_file=cert, key_file=key, role="mine")
        async with over_tls(with_tls, bad) as transport:
            with pytest.raises(LoginFailed):
                await login(transport, FakeClock()).session()


async def test_a_new_login_by_certificate_keeps_live_steps_alive(with_tls: BaoServer, tmp_path: Path) -> None:
    auth = shown(with_tls, tmp_path, "steps", ttl="3s")
    nobody = BrokerLogin(role_id="", secret_id_file=auth.key_file)
    async with vault_provider(with_tls.address, nobody, auth=auth, ca_file=with_tls.ca_file) as provider:
        ref = new_ref({"role": "login-kv"})
        await provider.mint(order_of(ref))
        before = await provider._login.session()
        await asyncio.sleep(4)  # the broker's own token is dead by now
        assert with_tls.call("GET", "auth/token/lookup-self", token=before.token.reveal()).status == 403
        assert with_tls.token_of(ref.lease_id)
        assert (await provider.revoke(ref)).evidence is Evidence.SEEN_DEAD


async def test_a_rotated_ca_file_is_read_again(with_tls: BaoServer, tmp_path: Path) -> None:
    assert with_tls.ca_file
    ours, other = with_tls.ca_file.read_bytes(), TestCA(tmp_path / "other", "other.internal").root_path.read_bytes()
    clock, auth, roots = FakeClock(), shown(with_tls, tmp_path, "roots"), tmp_path / "roots.pem"
    roots.write_bytes(other)
    transport = Transport(VaultSettings(address=with_tls.address, auth=auth, ca_file=roots))
    one = login(transport, clock)
    with pytest.raises(LoginFailed, match="cannot be reached"):
        await one.session()
    roots.write_bytes(ours)
    await one.session()  # at once: what it believes has changed
    roots.write_bytes(other)
    transport.reread()
    roots.write_bytes(ours)
    with pytest.raises(VaultUnreachable):  # no login is due, ...
        await VaultClient(transport).cluster_id()
    await VaultClient(transport).cluster_id()  # ... and yet it looks at the file again
    roots.write_bytes(other)
    clock.advance(1300)
    with pytest.raises(LoginFailed, match="cannot be reached"):
        await one.session()
    roots.unlink()
    clock.advance(20)
    with pytest.raises(LoginFailed, match="cannot be reached"):  # not those of the system
        await one.session()
    await transport.close()


# --- Kubernetes ---


class TokenReviews(BaseHTTPRequestHandler):
    """The API server's own judgement of a service account's token, as Vault asks for it."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = asked["spec"]["token"] == self.server.good  # type: ignore[attr-defined]
        user = {"username": "system:serviceaccount:stepcred:broker", "uid": "u-1", "groups": []}
        body = json.dumps({**asked, "status": {"authenticated": good, **({"user": user} if good else {})}}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def service_account_jwt(number: int) -> str:
    """Shaped as the kubelet's; nobody but the stub judges it."""
    claims = {
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:stepcred:broker",
        "kubernetes.io": {"namespace": "stepcred", "serviceaccount": {"name": "broker", "uid": "u-1"}},
        "jti": str(number),
    }
    key = ec.generate_private_key(ec.SECP256R1())
    signed = ".".join(_b64(json.dumps(part).encode()) for part in ({"alg": "ES256", "typ": "JWT"}, claims))
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_b64(r.to_bytes(32) + s.to_bytes(32))}"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@pytest.fixture
def reviews(bao: BaoServer, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), TokenReviews)
    server.good = service_account_jwt(1)  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    if "kubernetes/" not in bao.must("GET", "sys/auth").data:
        bao.must("POST", "sys/auth/kubernetes", {"type": "kubernetes"})
    host = f"http://127.0.0.1:{server.server_port}"
    config = {"kubernetes_host": host, "disable_local_ca_jwt": True, "token_reviewer_jwt": service_account_jwt(0)}
    config["kubernetes_ca_cert"] = TestCA(tmp_path / "api", "api.internal").root_path.read_text()
    bao.must("POST", "auth/kubernetes/config", config)
    role = {"bound_service_account_names": ["broker"], "bound_service_account_namespaces": ["stepcred"]}
    bao.must("POST", "auth/kubernetes/role/broker", {**role, "token_policies": [BROKER], "token_ttl": "20m"})
    yield server
    server.shutdown()
    server.server_close()


async def test_a_service_account_logs_in_and_its_token_is_read_again(
    transport: Transport, reviews: ThreadingHTTPServer, tmp_path: Path
) -> None:
    clock, path = FakeClock(), tmp_path / "jwt"
    path.write_text(reviews.good)  # type: ignore[attr-defined]
    one = login(transport, clock, Kubernetes(role="broker", jwt_file=path))
    first = await one.session()
    clock.advance(801)
    assert (await refreshed(one)).token.matches(first.token)  # renewed

    reviews.good = service_account_jwt(2)  # type: ignore[attr-defined]  # the kubelet rotates it
    clock.advance(1300)
    with pytest.raises(LoginFailed) as caught:
        await one.session()
    assert path.read_text() not in repr(caught.value)
    path.write_text(reviews.good)  # type: ignore[attr-defined]
    assert not (await one.session()).token.matches(first.token)
