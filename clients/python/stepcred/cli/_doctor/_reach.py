"""The way to the broker, step by step: name, TCP, TLS. Which side does not accept the other is told apart."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from shlex import quote
from typing import Any

from stepcred.cli._doctor._finding import Case, Finding, ok, plain, problem, warning

TIMEOUT = 5.0  # seconds for each step
# The client's connection preface and an empty SETTINGS frame (RFC 9113, section 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEADER = 9
_SETTINGS = 4
# OpenSSL's X509_V_ERR_… in SSLCertVerificationError.verify_code
_NOT_YET, _EXPIRED = (9,), (10,)
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21)
_OTHER_NAME = (62, 64)


def host_of(addr: str) -> str:
    """Without port and brackets."""
    return addr.rpartition(":")[0].strip("[]")


def name(case: Case) -> Iterator[Finding]:
    """Fills `addresses`."""
    host, port = host_of(case.addr), int(case.addr.rpartition(":")[2])
    answer: queue.Queue[Any] = queue.Queue()

    def resolve() -> None:
        try:
            answer.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            answer.put(error)

    threading.Thread(target=resolve, daemon=True).start()  # getaddrinfo has no timeout
    try:
        found = answer.get(timeout=TIMEOUT)
    except queue.Empty:
        yield problem(f"{host}: no answer from the name servers in {TIMEOUT:.0f} s", f"getent hosts {quote(host)}")
        return
    if isinstance(found, OSError):
        yield problem(
            f"{host} is no known name: {found.strerror}",
            f"getent hosts {quote(host)}; is STEPCRED_ADDR right, and cat /etc/resolv.conf?",
        )
        return
    case.addresses = found
    addresses = list(dict.fromkeys(entry[4][0] for entry in found))
    yield ok(f"{host} is {'an address' if addresses == [host] else ', '.join(addresses)}")


def tcp(case: Case) -> Iterator[Finding]:
    """Fills `connected`. gRPC tries every address too."""
    failed = []
    for family, kind, protocol, _, address in case.addresses:
        try:
            with socket.socket(family, kind, protocol) as trial:
                trial.settimeout(TIMEOUT)
                trial.connect(address)
        except OSError as error:
            failed.append((address[0], error))
        else:
            case.connected = case.connected or (family, kind, protocol, address)
    if case.connected:
        yield ok(f"{case.connected[3][0]} accepts connections")
    for address, why in failed:
        text = f"{address}: {_why(why)}"
        if case.connected:
            yield warning(text, "gRPC tries the others too; take it out of the name")
        else:
            yield problem(text, _remedy(why))


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT:.0f} s"
    return "nobody listens there" if isinstance(error, ConnectionRefusedError) else str(error.strerror or error)


def _remedy(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "on the broker's machine: systemctl status stepcred-broker, and listen.grpc in its config"
    if isinstance(error, TimeoutError):
        return "a firewall or network policy drops it: let this machine reach that port"
    return "ip route get, from here to that address"


def tls(case: Case) -> Iterator[Finding]:
    """A handshake as gRPC makes it, then the first frame of the server: only that shows that we were accepted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(case.paths["ca"])
    context.load_cert_chain(case.paths["cert"], case.paths["key"], password=lambda: "")
    context.set_alpn_protocols(["h2"])
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST  # as gRPC sets them
    try:
        with (
            _connect(case) as plain_socket,
            context.wrap_socket(plain_socket, server_hostname=host_of(case.addr)) as tunnel,
        ):
            yield from _greet(case, tunnel)
    except ssl.SSLCertVerificationError as error:
        yield _theirs(case, error)
    except ssl.SSLError as error:
        yield _no_tls(case, error)
    except OSError as error:
        yield problem(
            f"the connection ended in the TLS handshake: {_why(error)}",
            "is something between here and the broker (a proxy, a load balancer)? It must pass TCP through",
        )


def _connect(case: Case) -> socket.socket:
    family, kind, protocol, address = case.connected
    connection = socket.socket(family, kind, protocol)
    connection.settimeout(TIMEOUT)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _greet(case: Case, tunnel: ssl.SSLSocket) -> Iterator[Finding]:
    if tunnel.selected_alpn_protocol() != "h2":
        yield problem(
            "the server does not speak HTTP/2 (no ALPN h2): it is no broker, or a proxy ends TLS before it",
            "let STEPCRED_ADDR lead to the broker itself",
        )
        return
    try:
        tunnel.sendall(_PREFACE)
        header = tunnel.recv(_FRAME_HEADER)
    except TimeoutError:
        yield problem("the server is silent after the TLS handshake", "is STEPCRED_ADDR a broker's listen.grpc?")
        return
    except OSError:  # an alert, or the connection is gone; SSLError is one
        header = b""
    if len(header) == _FRAME_HEADER and header[3] == _SETTINGS:
        case.tls_done = True
        yield ok(f"{tunnel.version()}; each side accepts the other's certificate")
    else:
        yield _ours(case)


def _ours(case: Case) -> Finding:
    why = "; ".join(case.why_not_ours) or "the CA that issued it is not among the broker's tls.client_ca_file"
    return problem(
        f"the broker does not accept our certificate. Likely: {why}",
        f"openssl x509 -in {quote(case.paths['cert'])} -noout -issuer -dates -ext subjectAltName,extendedKeyUsage; "
        "have one issued by a CA that the broker trusts",
    )


_REFUSED_BECAUSE = {
    **dict.fromkeys(_EXPIRED, ("it has expired", "the operators must renew tls.cert_file; look at date -u too")),
    **dict.fromkeys(_NOT_YET, ("it is not valid yet", "compare the clocks: timedatectl set-ntp true")),
    **dict.fromkeys(
        _OTHER_NAME,
        ("it is not for {host}", "set STEPCRED_ADDR to a name in it, or have it issued for this one too"),
    ),
    **dict.fromkeys(
        _UNKNOWN_ISSUER,
        (
            "its issuer is not in STEPCRED_CA",
            "get the CA of the broker's own certificate from its operators, for STEPCRED_CA",
        ),
    ),
}


def _theirs(case: Case, error: ssl.SSLCertVerificationError) -> Finding:
    unknown = (plain(error.verify_message), "stepcred-broker check, at the broker")
    why, fix = _REFUSED_BECAUSE.get(error.verify_code, unknown)
    shown = _presented(case)
    return problem(
        f"we do not accept the broker's certificate: {why.replace('{host}', host_of(case.addr))}"
        + (f" ({shown})" if shown else ""),
        fix,
    )


def _no_tls(case: Case, error: ssl.SSLError) -> Finding:
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return problem("the server does not speak TLS", "let STEPCRED_ADDR lead to the broker's listen.grpc")
    if error.reason in ("NO_PROTOCOLS_AVAILABLE", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"):
        return problem("no TLS version in common with the server", "the broker speaks TLS 1.3: is that one it?")
    return problem(
        f"the TLS handshake failed: {plain(error.reason or str(error))}",
        f"openssl s_client -alpn h2 -connect {quote(case.addr)} shows it at length",
    )


def _presented(case: Case) -> str:
    """What the server shows of itself, to say what it is instead; "" without `cryptography`. Our key is not used."""
    try:
        from cryptography import x509
    except ImportError:
        return ""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent; it is only shown
    context.set_alpn_protocols(["h2"])
    try:
        with _connect(case) as below, context.wrap_socket(below, server_hostname=host_of(case.addr)) as tunnel:
            leaf = x509.load_der_x509_certificate(tunnel.getpeercert(binary_form=True) or b"")
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
        return plain(
            f"for {', '.join(hosts)}, by {leaf.issuer.rfc4514_string()}, until {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        )
    except Exception:  # noqa: BLE001 - only an addition to an error that is told anyway
        return ""
