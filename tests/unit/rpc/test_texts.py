"""What leaves the daemon: constant texts from one table, and none of Python's, grpc's or the database's words."""

from __future__ import annotations

import ast
import functools
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest

import broker
from broker.errors import BrokerError, Reason, StoreError
from broker.rpc import status
from broker.rpc.methods import BROKER
from stepcred.v1 import broker_pb2 as pb
from tests.e2e.wire import NEVER_TOLD
from tests.unit.rpc.conftest import Edge, told
from tests.unit.rpc.test_pipeline import raw

C = grpc.StatusCode
ROOT = Path(broker.__file__).parent

# Messages that are more than a literal, each with the reason why nothing of an agent's, a provider's or the
# machine's gets into it. Reviewed by hand: a new line here is a question about what an agent may learn.
REVIEWED = {
    'identity/leaf.py: f"the certificate has {len(uris)} URI names, not exactly one"': "a number, of its own certificate",
    'identity/leaf.py: f"the certificate\'s URI name is refused: {error}"': "SpiffeIdError repeats nothing",
    "identity/leaf.py: problem": "of CHECKS: literals, and bounds of the broker's own policy",
    "identity/verify.py: message": "of _invalid, whose callers are looked at too",
    "wiring/dev/rigged.py: text": "of SAID: literals, in the dev broker alone",
    "leases/answers.py: decision.message": "only where a grant gives the scope: DESIGN section 8",
    'leases/core.py: f"name between 1 and {MAX_SCOPES} distinct scopes"': "a limit",
    'leases/core.py: f"the step has ended; {who}"': "one of two literals",
    'leases/core.py: f"{field_name} must match {NAME.pattern}"': "the contract's name of a field, and its pattern",
    "leases/issuing.py: full.why": "one of the literals of a provider's no_room",
    "leases/issuing.py: problem": "one of the literals of a provider's input_problem",
    'leases/opening.py: f"on_behalf_of: {error}"': "SpiffeIdError repeats nothing",
    "operators/desk.py: mistake": "one of four literals",
    'operators/desk.py: f"there is no such {what}"': "one of three literals",
    'operators/duties.py: f"this takes an operator with the role {role.value}"': "a role of the table",
    "operators/duties.py: text": "a literal",
    "operators/duties.py: why": "names of signing keys, of the broker's own settings: operators are told",
    "operators/views/journal.py: f\"kinds of records are {', '.join(sorted(known))}\"": "the contract's",
    'rpc/admission.py: f"this needs the role {needed}" if needed else "no role allows this"': "a role of the table",
    'rpc/operators/acting.py: f"{name}: say why, for those who read the journal"': "the contract's name of a field",
    'rpc/operators/acting.py: f"{name}: at most {MAX_WORDS} characters on one line"': "a field's name and a limit",
    'rpc/operators/convert.py: f"more than {_MAX_IDS} lease ids in one selection"': "a limit",
    'rpc/pipeline.py: f"metadata is larger than {limit} bytes"': "a limit",
    'rpc/servicer.py: f"more than {MAX_HELD} lease ids in one heartbeat"': "a limit",
    'rpc/servicer.py: f"public_key or csr is larger than {MAX_INPUT} bytes"': "a limit",
}
REVIEWED_HELPERS = {"_invalid": {"policy.min_rsa_bits", "policy.max_lifetime.days"}, "SpiffeIdError": {"MAX_BYTES"}}


@cache
@functools.cache
def _nodes() -> list[tuple[str, ast.AST]]:
    """Every node of the daemon's source, with its file."""
    paths = sorted(ROOT.rglob("*.py"))
    return [(str(path.relative_to(ROOT)), node) for path in paths for node in ast.walk(ast.parse(path.read_text()))]


def _calls(name: str) -> list[tuple[str, ast.Call]]:
    return [
        (file, node) for file, node in _nodes() if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name
    ]


def _message(call: ast.Call) -> ast.expr:
    named = [word.value for word in call.keywords if word.arg == "message"]
    return named[0] if named else call.args[1]


def _is_constant(text: ast.expr) -> bool:
    return isinstance(text, ast.Constant) and isinstance(text.value, str)


def test_every_message_of_a_refusal_is_a_literal_or_was_reviewed() -> None:
    messages = [(file, _message(call)) for file, call in _calls("BrokerError")]
    assert len(messages) > 40  # it does see them
    dynamic = {(file, ast.unparse(text)) for file, text in messages if not _is_constant(text)}
    reviewed = {(file, ast.unparse(ast.parse(text))) for file, text in (line.split(": ", 1) for line in REVIEWED)}
    assert dynamic - {("errors.py", "self.message")} == reviewed  # `anew`: the same text once more


@pytest.mark.parametrize("helper", REVIEWED_HELPERS)
def test_every_text_that_a_helper_is_given_is_a_literal(helper: str) -> None:
    texts = [call.args[0] for _, call in _calls(helper)]
    assert texts
    inserted = {
        ast.unparse(part.value)
        for text in texts
        for part in (text.values if isinstance(text, ast.JoinedStr) else [])
        if isinstance(part, ast.FormattedValue)
    }
    assert inserted <= REVIEWED_HELPERS[helper]
    assert all(isinstance(text, ast.Constant | ast.JoinedStr) for text in texts)


def test_refusals_are_put_on_the_wire_in_one_place() -> None:
    """Nobody else aborts a call, sets a code or writes trailers. What `providers/http` aborts are its connections."""
    words = {"abort", "abort_with_status", "set_code", "set_details", "set_trailing_metadata"}
    used = {file for file, node in _nodes() if isinstance(node, ast.Attribute) and node.attr in words}
    assert {file for file in used if not file.startswith("providers/http/")} == {"rpc/pipeline.py"}


# --- what comes before a handler, and what goes wrong in one ---

PYTHONS = (*NEVER_TOLD, "Error", "object at 0x", "grpc.", "<class")


@pytest.mark.parametrize("sent", [b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xff", b"\x0a" * 5000, b"\x00"])
async def test_bytes_that_are_no_request(edge: Edge, sent: bytes) -> None:
    channel = edge.channel(edge.agent)
    for method in BROKER.rules:
        if method == "WhoAmI" and sent == b"\x0a\x02\xff\xff":
            continue  # it has no field: to it these are a newer client's
        refused = await told(raw(channel, method, sent))
        assert (refused.code, refused.reason) == (C.INVALID_ARGUMENT, "INVALID_ARGUMENT"), method
        assert refused.metadata["reference_id"]
        assert not [word for word in PYTHONS if word in f"{refused.message} {refused.metadata}"]


@pytest.mark.parametrize(
    ("path", "sent", "code"),
    [
        (f"/{BROKER.described.full_name}/NoSuchMethod", b"", C.UNIMPLEMENTED),
        (f"/{BROKER.described.full_name}/", b"", C.UNIMPLEMENTED),
        ("/no.such.Service/WhoAmI", b"", C.UNIMPLEMENTED),
        (f"/{BROKER.described.full_name}/WhoAmI", b"x" * 100_000, C.RESOURCE_EXHAUSTED),
    ],
)
async def test_what_the_transport_refuses_by_itself(edge: Edge, path: str, sent: bytes, code: grpc.StatusCode) -> None:
    channel: Any = edge.channel(edge.agent)
    refused = await told(channel.unary_unary(path)(sent, timeout=5))
    assert refused.code is code
    assert not [word for word in PYTHONS if word in f"{refused}"]


class Unwritable:
    """A message that protobuf cannot write."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        raise ValueError("do-not-tell: field is too long")


async def test_an_answer_that_cannot_be_written_tells_nothing(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pb, "WhoAmIResponse", lambda **_: Unwritable())
    refused = await told(raw(edge.channel(edge.agent), "WhoAmI"))
    assert (refused.code, refused.reason) == (C.INTERNAL, "INTERNAL")
    assert refused.metadata["reference_id"]
    assert "do-not-tell" not in f"{refused}"


async def test_a_reason_outside_of_the_table_is_an_internal_error(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(status.CODES, Reason.INVALID_NAME)
    refused = await told(raw(edge.channel(edge.agent), "CheckAccess"))
    assert (refused.code, refused.reason, refused.message) == (C.INTERNAL, "INTERNAL", "internal error")


@pytest.mark.parametrize(
    "failure", [BrokerError(Reason.INTERNAL, "do-not-tell"), StoreError("do-not-tell"), KeyError("do-not-tell")]
)
async def test_a_failure_while_refusing_is_told_through_the_same_table(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(edge.broker.engine._refusals, "record", fail)
    refused = await told(raw(edge.channel(edge.agent), "BeginStep"))
    assert (refused.code, refused.reason, refused.message) == (C.INTERNAL, "INTERNAL", "internal error")
    assert refused.trailers["grpc-retry-pushback-ms"] == "-1"
    assert "do-not-tell" not in f"{refused}"
