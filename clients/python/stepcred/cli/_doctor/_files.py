"""The three files: there, readable, private, and PEM of the right kind. Nothing of a key is ever shown."""

from __future__ import annotations

import os
import re
import ssl
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from stepcred.cli._doctor._finding import Case, Finding, ok, plain, problem, warning

_MAX_BYTES = 1 << 20
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_GLUED = re.compile(rb"-----END [A-Z0-9 ]+----------BEGIN ")
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_DER = b"\x30"  # an ASN.1 SEQUENCE: certificates, keys and PKCS#12 begin with one
_TOO_SMALL = "EE_KEY_TOO_SMALL"  # OpenSSL's word
NEW_KEY = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem, and a new certificate"
_ROLES = {"cert": "STEPCRED_CERT", "key": "STEPCRED_KEY", "ca": "STEPCRED_CA"}


def look(case: Case) -> Iterator[Finding]:
    """Fills `contents` and `usable`."""
    bad = False
    for role in case.paths:
        for finding in [*_readable(case, role), *_shape(case, role)]:
            bad = True
            yield finding
    if len(case.contents) == len(_ROLES):
        found = [*_together(case)]
        yield from found
        if not bad and not found:
            yield ok("certificate, its key and the CAs can be read and belong together")


def _readable(case: Case, role: str) -> Iterator[Finding]:
    path, name = Path(case.paths[role]), f"{_ROLES[role]}: {plain(case.paths[role])}"
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            case.contents[role] = file.read(_MAX_BYTES)
    except FileNotFoundError:
        yield problem(f"{name} does not exist", f"ls -l {quote(str(path.parent))}")
    except PermissionError:
        yield problem(f"{name} may not be read by user {os.geteuid()}", f"ls -l {quote(str(path))}; run as its owner")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "is no path"
        yield problem(f"{name}: {why}", f"export {_ROLES[role]}=/path/to/file.pem")
    else:
        if role == "key" and mode & stat.S_IRWXO:
            yield problem(f"{name} can be read by everybody", f"chmod 600 {quote(str(path))}")
        elif role == "key" and mode & stat.S_IRWXG:
            yield warning(f"{name} can be read by its group", f"chmod 600 {quote(str(path))}")
        elif mode & stat.S_IWOTH:
            yield problem(f"{name} can be written by everybody", f"chmod o-w {quote(str(path))}")


def _shape(case: Case, role: str) -> Iterator[Finding]:
    """Is it PEM of this role's kind? What is not is taken out of `contents`."""
    data = case.contents.get(role)
    if data is None:
        return
    wrong = _not_pem(case, role, data) or _wrong_kind(case, role, kinds(data))
    if wrong:
        del case.contents[role]
        yield wrong
        return
    extra = [kind for kind in kinds(data) if "PRIVATE KEY" in kind]
    if role == "ca" and extra:
        path = quote(case.paths[role])
        yield problem(
            f"STEPCRED_CA: {plain(case.paths[role])} holds a private key beside the certificates",
            f"openssl crl2pkcs7 -nocrl -certfile {path} | openssl pkcs7 -print_certs -out {path}.new && mv {path}.new {path}",
        )
    elif role == "cert" and extra and case.paths["cert"] != case.paths.get("key"):
        yield warning(
            "STEPCRED_CERT also holds a private key, and certificates are not kept as secrets",
            f"chmod 600 {quote(case.paths[role])}, or leave the key out",
        )


def _not_pem(case: Case, role: str, data: bytes) -> Finding | None:
    name, path = f"{_ROLES[role]}: {plain(case.paths[role])}", quote(case.paths[role])
    if not data.strip():
        return problem(f"{name} is empty", f"ls -l {path}; is what writes it still at work?")
    if data.startswith(_BOMS):
        encoding = "UTF-8" if data.startswith(_BOMS[0]) else "UTF-16"
        return problem(
            f"{name} begins with a byte order mark ({encoding}), which no TLS library reads",
            f"iconv -f {encoding} -t UTF-8 {path} | sed '1s/^\\xEF\\xBB\\xBF//' > {path}.new && mv {path}.new {path}",
        )
    if _GLUED.search(data):
        return problem(
            f"{name}: one block begins on the line where another ends",
            f"sed -i 's/-----\\(-----BEGIN\\)/-----\\n\\1/' {path}",
        )
    if not _BLOCK.search(data):
        if data.startswith(_DER):
            return problem(f"{name} is binary (DER), not PEM", _from_der(role, path))
        return problem(f"{name} holds no PEM block", f"head -c 30 {path}; expected: -----BEGIN …")
    return None


def _from_der(role: str, path: str) -> str:
    if path.strip("'").endswith((".p12", ".pfx")):
        wanted = {"cert": "-nokeys", "key": "-nocerts -noenc", "ca": "-cacerts -nokeys"}[role]
        return f"(umask 077; openssl pkcs12 -in {path} {wanted} -out {path}.pem)"
    tool = "pkey" if role == "key" else "x509"
    return f"(umask 077; openssl {tool} -inform der -in {path} -out {path}.pem); export {_ROLES[role]}={path}.pem"


def _wrong_kind(case: Case, role: str, found: list[str]) -> Finding | None:
    name, path = f"{_ROLES[role]}: {plain(case.paths[role])}", quote(case.paths[role])
    keys = [kind for kind in found if kind.endswith("PRIVATE KEY")]
    if role == "key":
        if not keys:
            return problem(
                f"{name} holds no private key, only: {', '.join(sorted(set(found)))}",
                "are STEPCRED_CERT and STEPCRED_KEY exchanged?",
            )
        if "ENCRYPTED PRIVATE KEY" in keys or b"Proc-Type: 4,ENCRYPTED" in case.contents[role]:
            return problem(
                f"{name} is encrypted: nobody is there to type its passphrase",
                f"(umask 077; openssl pkey -in {path} -out {path}.clear); export STEPCRED_KEY={path}.clear",
            )
        return None
    if "CERTIFICATE" not in found:
        if "CERTIFICATE REQUEST" in found or "NEW CERTIFICATE REQUEST" in found:
            return problem(f"{name} is a request for a certificate", "have it signed, and use what comes back")
        fix = "are STEPCRED_CERT and STEPCRED_KEY exchanged?" if keys else f"openssl x509 -in {path} -out {path}.pem"
        return problem(f"{name} holds no certificate, only: {', '.join(sorted(set(found)))}", fix)
    return None


def _together(case: Case) -> Iterator[Finding]:
    """As a TLS library reads them. gRPC would call a broken file an unreachable broker."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    whole = True
    try:
        context.load_verify_locations(cadata=b"\n".join(blocks(case.contents["ca"])).decode("ascii"))
    except (ssl.SSLError, ValueError):
        whole = False
        yield problem(
            "STEPCRED_CA: a certificate in it is broken",
            f"openssl crl2pkcs7 -nocrl -certfile {quote(case.paths['ca'])} | openssl pkcs7 -print_certs -noout",
        )
    why_not = _why_not(case.paths["cert"], case.paths["key"])
    if not why_not:
        case.usable = whole
    elif why_not == _TOO_SMALL:
        yield problem("the key of STEPCRED_CERT is too small for any TLS library of today", NEW_KEY)
    elif number := _owner_of_key(case):
        yield problem(
            f"STEPCRED_CERT: certificate {number} of the file is the key's; it must be the first",
            "put the agent's own certificate first, then each issuer: cat agent.pem intermediate.pem > chain.pem",
        )
    else:
        yield problem(
            "STEPCRED_KEY does not belong to STEPCRED_CERT, or one of them is broken",
            f"compare: openssl x509 -in {quote(case.paths['cert'])} -noout -pubkey; "
            f"openssl pkey -in {quote(case.paths['key'])} -pubout",
        )


def _why_not(cert: str, key: str) -> str:
    """What a TLS library says against this pair, in its own short words; "" when it takes it."""
    try:
        # An empty password: an encrypted key must fail here, not ask on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        return getattr(error, "reason", None) or "unreadable"
    return ""


def _owner_of_key(case: Case) -> int:
    """Which certificate of the file the key is of, from 2; 0 for none."""
    for number, block in enumerate(blocks(case.contents["cert"]), 1):
        try:
            with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # the certificate alone, never the key
                file.write(block + b"\n")
                file.flush()
                if number > 1 and not _why_not(file.name, case.paths["key"]):
                    return number
        except OSError:  # no place for temporary files
            return 0
    return 0


def kinds(data: bytes) -> list[str]:
    """CERTIFICATE, PRIVATE KEY, and so on."""
    return [match[1].decode("ascii") for match in _BLOCK.finditer(data)]


def blocks(data: bytes) -> list[bytes]:
    """The certificates, each as PEM."""
    return [match[0] for match in _BLOCK.finditer(data) if match[1] == b"CERTIFICATE"]
