"""A TLS 1.3 client (RFC 8446) that presents whatever it is given and proves it with whatever key it has.

OpenSSL and BoringSSL read a certificate before they present it and hold it against the key, as an attacker's own
client does not. One cipher suite, one group, no check of the server: for tests of what a server lets in.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
from collections.abc import Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HANDSHAKE, ALERT, DATA, OLD_CHANGE_CIPHER = 22, 21, 23, 20  # record types (RFC 8446, section 5.1)
SERVER_HELLO, CERTIFICATE, CERTIFICATE_VERIFY, FINISHED = 2, 11, 15, 20  # handshake messages (section 4)
RECORD = 16_000  # bytes; at most 2**14 fit
CONTEXT = b" " * 64 + b"TLS 1.3, client CertificateVerify\0"


class TlsRefused(Exception):
    """The handshake failed, or the server broke it off before any answer."""


class _Keys:
    """One direction's key and counter."""

    def __init__(self, secret: bytes) -> None:
        self._aead = AESGCM(expand(secret, "key", b"", 16))
        self._iv = int.from_bytes(expand(secret, "iv", b"", 12), "big")
        self._count = 0

    def _nonce(self) -> bytes:
        nonce = (self._iv ^ self._count).to_bytes(12, "big")
        self._count += 1
        return nonce

    def seal(self, kind: int, content: bytes) -> bytes:
        header = bytes([DATA, 3, 3]) + (len(content) + 17).to_bytes(2, "big")
        return header + self._aead.encrypt(self._nonce(), content + bytes([kind]), header)

    def open(self, header: bytes, body: bytes) -> tuple[int, bytes]:
        inner = self._aead.decrypt(self._nonce(), body, header).rstrip(b"\0")
        return inner[-1], inner[:-1]


class RawTls:
    """A connection after its handshake, with the part of a socket's interface that `h2_client` uses.

    Raises TlsRefused here or, since a server looks at the client's certificate last, at the first read.
    """

    session_reused = False

    def __init__(self, sock: socket.socket, chain: Sequence[bytes], key: PrivateKeyTypes) -> None:
        self._sock = sock
        self._transcript = hashlib.sha256()
        self._buffer = b""
        self._read: _Keys | None = None
        self._write: _Keys | None = None
        self._handshake(chain, key)

    def sendall(self, data: bytes) -> None:
        for at in range(0, len(data), RECORD):
            self._send(DATA, data[at : at + RECORD])

    def recv(self, _size: int) -> bytes:
        """Application data; session tickets are passed over. Empty at the end."""
        while True:
            kind, content = self._record()
            if kind == DATA:
                return content

    def _handshake(self, chain: Sequence[bytes], key: PrivateKeyTypes) -> None:
        share = X25519PrivateKey.generate()
        self._say(client_hello(share))
        server_hello = self._message(SERVER_HELLO)
        shared = share.exchange(X25519PublicKey.from_public_bytes(key_share(server_hello)))
        early = extract(bytes(32), bytes(32))
        secret = extract(derive(early, "derived", hashlib.sha256()), shared)
        ours, theirs = (derive(secret, f"{side} hs traffic", self._transcript) for side in "cs")
        self._read = _Keys(theirs)
        self._message(FINISHED)  # what comes before it is believed
        master = extract(derive(secret, "derived", hashlib.sha256()), bytes(32))
        after = [derive(master, f"{side} ap traffic", self._transcript) for side in "cs"]
        self._write = _Keys(ours)
        self._say(message(CERTIFICATE, certificate_list(chain)))
        if chain:
            self._say(message(CERTIFICATE_VERIFY, signed(key, CONTEXT + self._transcript.digest())))
        proof = hmac.digest(expand(ours, "finished", b"", 32), self._transcript.digest(), "sha256")
        self._say(message(FINISHED, proof))
        self._write, self._read = _Keys(after[0]), _Keys(after[1])

    def _say(self, content: bytes) -> None:
        self._transcript.update(content)
        for at in range(0, len(content), RECORD):
            self._send(HANDSHAKE, content[at : at + RECORD])

    def _send(self, kind: int, content: bytes) -> None:
        plain = bytes([kind, 3, 1]) + len(content).to_bytes(2, "big") + content
        try:
            self._sock.sendall(self._write.seal(kind, content) if self._write else plain)
        except ConnectionError as error:
            raise TlsRefused(str(error)) from error

    def _message(self, wanted: int) -> bytes:
        """The next handshake message of this type; those before it are only remembered."""
        while True:
            while len(self._buffer) < 4 or len(self._buffer) < 4 + int.from_bytes(self._buffer[1:4], "big"):
                kind, content = self._record()
                self._buffer += content if kind == HANDSHAKE else b""
            size = 4 + int.from_bytes(self._buffer[1:4], "big")
            found, self._buffer = self._buffer[:size], self._buffer[size:]
            self._transcript.update(found)
            if found[0] == wanted:
                return found

    def _record(self) -> tuple[int, bytes]:
        header = self._exactly(5)
        body = self._exactly(int.from_bytes(header[3:], "big"))
        kind, content = header[0], body
        if self._read is not None and kind == DATA:
            kind, content = self._read.open(header, body)
        if kind == ALERT:
            raise TlsRefused(f"alert {content[1]}")
        return kind, content

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            try:
                more = self._sock.recv(size - len(found))
            except ConnectionError as error:
                raise TlsRefused(str(error)) from error
            if not more:
                raise TlsRefused("closed without an answer")
            found += more
        return found


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + block(3, body)


def block(width: int, content: bytes) -> bytes:
    """Its length in so many bytes, and it."""
    return len(content).to_bytes(width, "big") + content


def client_hello(share: X25519PrivateKey) -> bytes:
    public = share.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    extensions = {
        0: block(2, b"\0" + block(2, b"localhost")),  # server_name
        10: block(2, b"\0\x1d"),  # supported_groups: x25519
        13: block(2, bytes.fromhex("040305030804")),  # signature_algorithms
        16: block(2, block(1, b"h2")),  # ALPN
        43: block(1, b"\x03\x04"),  # supported_versions
        51: block(2, b"\0\x1d" + block(2, public)),  # key_share
    }
    listed = b"".join(number.to_bytes(2, "big") + block(2, value) for number, value in extensions.items())
    suites = block(2, b"\x13\x01")  # TLS_AES_128_GCM_SHA256
    return message(1, b"\3\3" + os.urandom(32) + block(1, b"") + suites + block(1, b"\0") + block(2, listed))


def key_share(server_hello: bytes) -> bytes:
    """The server's public key. Raises TlsRefused when it did not choose one of ours."""
    at = 4 + 2 + 32
    at += 1 + server_hello[at] + 3  # session id, suite, compression
    extensions = server_hello[at + 2 :]
    while extensions:
        number, size = (int.from_bytes(extensions[start : start + 2], "big") for start in (0, 2))
        if number == 51:
            return extensions[8 : 4 + size]
        extensions = extensions[4 + size :]
    raise TlsRefused("no key share")


def certificate_list(chain: Sequence[bytes]) -> bytes:
    return block(1, b"") + block(3, b"".join(block(3, der) + block(2, b"") for der in chain))


def signed(key: PrivateKeyTypes, content: bytes) -> bytes:
    """CertificateVerify, by the scheme that fits, or by one that does not where TLS 1.3 has none."""
    scheme, signature = 0x0403, b""
    match key:
        case ec.EllipticCurvePrivateKey(curve=ec.SECP384R1()):
            scheme, signature = 0x0503, key.sign(content, ec.ECDSA(hashes.SHA384()))
        case ec.EllipticCurvePrivateKey(curve=ec.SECP521R1()):
            scheme, signature = 0x0603, key.sign(content, ec.ECDSA(hashes.SHA512()))
        case ec.EllipticCurvePrivateKey():
            signature = key.sign(content, ec.ECDSA(hashes.SHA256()))
        case rsa.RSAPrivateKey():
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
            scheme, signature = 0x0804, key.sign(content, pss, hashes.SHA256())
        case ed25519.Ed25519PrivateKey():
            scheme, signature = 0x0807, key.sign(content)
        case ed448.Ed448PrivateKey():
            scheme, signature = 0x0808, key.sign(content)
        case dsa.DSAPrivateKey():
            signature = key.sign(content, hashes.SHA256())
        case _:
            raise TypeError(f"{type(key).__name__} signs no handshake")
    return scheme.to_bytes(2, "big") + block(2, signature)


def extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract (RFC 5869)."""
    return hmac.digest(salt, secret, "sha256")


def expand(secret: bytes, label: str, context: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446, section 7.1), of at most one block."""
    info = size.to_bytes(2, "big") + block(1, b"tls13 " + label.encode()) + block(1, context)
    return hmac.digest(secret, info + b"\1", "sha256")[:size]


def derive(secret: bytes, label: str, transcript: hashlib._Hash) -> bytes:
    """Derive-Secret."""
    return expand(secret, label, transcript.digest(), 32)
