"""What both sides of the bench may do at OpenBao."""

from __future__ import annotations

from pathlib import Path

from tests.support.bao import BaoServer, TokenRole, provision

ROLE = "bench"  # the token role that both the broker and the direct client mint through
CERT_ROLE = "bench-step"
DIRECT_POLICY = f"""
path "auth/token/create/{ROLE}" {{ capabilities = ["update"] }}
path "auth/token/lookup" {{ capabilities = ["update"] }}
"""


def allow_direct(bao: BaoServer, client_ca: Path) -> None:
    """What a user would have who goes around the broker: login by certificate, and a right to the same role."""
    bao.must(
        "PUT",
        "sys/policies/acl/bench-direct",
        {"policy": DIRECT_POLICY},
    )
    bao.must("POST", "sys/auth/cert", {"type": "cert"})
    body = {"certificate": client_ca.read_text(), "token_policies": ["bench-direct"], "token_ttl": "20m"}
    bao.must("POST", f"auth/cert/certs/{CERT_ROLE}", body)


def allow_broker(bao: BaoServer, folder: Path) -> dict[str, object]:
    """The daemon's [vault] section."""
    login = provision(bao, folder, [TokenRole(name=ROLE)])
    return {
        "address": bao.address,
        "ca_file": str(bao.ca_file),
        "approle": {"role_id": login.role_id, "secret_id_file": str(login.secret_id_file)},
    }
