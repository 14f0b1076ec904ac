"""What a scope's credential is, and where the server says what it may do. Pure: the broker does not read policies for it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from broker.model import JsonValue, Powers
from broker.providers.vault.scope import STEP_SELF, Kind, VaultBlock

_KINDS: Mapping[Kind, str] = {
    Kind.TOKEN: "token",
    Kind.LEASED: "login",
    Kind.X509: "x509_certificate",
    Kind.SSH: "ssh_certificate",
    Kind.STATIC: "stored_value",
}


def powers_of(params: Mapping[str, JsonValue], namespace: str) -> Powers:
    """Of a scope's block, templates filled. `namespace`: "" is the root."""
    try:
        block = VaultBlock.model_validate(dict(params))
    except ValidationError:  # its text repeats the input
        return Powers(words=(), told={}, refused="the scope's vault block, filled, is not valid")
    told: dict[str, JsonValue] = {"kind": _KINDS[block.kind], "role": block.role, "namespace": namespace}
    if block.read:
        told["read"] = block.read
    if block.attributes:
        told["attributes"] = dict(block.attributes)
    if block.write:
        told["write"] = {"path": block.write.path, "data": dict(block.write.data)}
        told["needs"] = block.write.needs
    words = [_what(block, f" (namespace {namespace})" if namespace else "")]
    if look_at := _look_at(block):
        told["look_at"] = look_at
        words.append(f"what that allows is said at the server, in {look_at}; the broker does not read it")
    return Powers(words=tuple(words), told=told)


def _what(block: VaultBlock, where: str) -> str:
    match block.kind:
        case Kind.TOKEN:
            return f"a token{where} with the policies of token role {block.role}; by convention {block.role} and {STEP_SELF}"
        case Kind.LEASED:
            return f"a login{where} from {block.path}; the token that fetches it stays with the broker"
        case Kind.STATIC:
            return f"the value stored at {block.path}{where}, read by the broker; no token"
        case Kind.X509 | Kind.SSH:
            name = "an X.509 certificate" if block.kind is Kind.X509 else "an SSH certificate"
            brought = {"csr": " for the step's own request", "public_key": " for the step's own key"}
            needs = block.write.needs if block.write else ""
            return f"{name}{where} from {block.path}{brought.get(needs, ', with a new key')}"


def _look_at(block: VaultBlock) -> str:
    """The path at the server that says more; "" for a value, which may do whatever its readers make of it."""
    if block.write:
        return f"{block.write.mount}/roles/{block.write.name}"
    if block.kind is Kind.LEASED:
        mount, _, name = block.path.rpartition("/creds/")
        return f"{mount}/roles/{name}"
    return f"auth/token/roles/{block.role}" if block.kind is Kind.TOKEN else ""
