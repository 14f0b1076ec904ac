"""A stored value: one secret of AWS Secrets Manager or one parameter of SSM, read with a session narrowed to just that.

The session never leaves the broker, is in no record, and is dropped after its one read. It is dead a minute after its
mint by its own policy, whatever the lease's life. The value outlives the step: its lease is STATIC.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from broker.clock import Clock
from broker.model import AwsSession, Evidence, JsonValue, KeyValue
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.iam import told
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.base import Contact, LeaseRef, Minted, MintInDoubt, MintOrder, MintRefused, Settlement
from broker.secret import Secret

READ_WITHIN = timedelta(seconds=60)  # of the mint: the session's own bound
MAX_BYTES = 65_536  # of a value; AWS's limit on a secret, a parameter has at most 8 KiB
MAX_VERSION = 2**63 - 1  # int64 in the contract
WHOLE = "value"  # the key of what is no JSON object
BINARY = "value_base64"  # the key of SecretBinary: another one, so that nobody takes the text for the value

_REFUSED_STATUS = (400, 403, 404)  # not a proxy's or a balancer's 5xx
# Codes after which there is nothing to hand out, and asking again the same way would not help.
_REFUSALS: Mapping[str, str] = {
    "AccessDeniedException": "AWS refused the read: the role may not read it, or may not use its KMS key",
    "AccessDenied": "AWS refused the read: the role may not read it",
    "ResourceNotFoundException": "AWS has no such secret, or no such version of it",
    "InvalidRequestException": "the secret is marked for deletion, or holds no value",
    "InvalidParameterException": "AWS refused the read: invalid secret id or version",
    "DecryptionFailure": "the secret cannot be decrypted with its KMS key",
    "ParameterNotFound": "SSM has no such parameter",
    "ParameterVersionNotFound": "SSM has no such version of the parameter",
    "InvalidKeyId": "the parameter cannot be decrypted with its KMS key",
    "UnrecognizedClientException": "AWS refused the read: the session is not known there",
}


class ReadsAs(Protocol):
    """As `SessionCalls.call`."""

    def __call__(
        self, session: AwsSession, service: str, operation: str, parameters: Mapping[str, JsonValue], *, region: str
    ) -> Awaitable[Mapping[str, JsonValue] | Failure]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """A value and which one it is."""

    value: KeyValue
    refs: Mapping[str, JsonValue]


class Static:
    """Mints and settles such leases. `assume`: one AssumeRole, as `Minting.mint`."""

    def __init__(
        self,
        assume: Callable[[MintOrder, AwsBlock], Awaitable[Minted]],
        read: ReadsAs,
        clock: Clock,
        heard: Callable[[], datetime | None],
        *,
        limit: timedelta,
    ) -> None:
        """`limit`: for both calls together."""
        self._assume = assume
        self._read = read
        self._clock = clock
        self._heard = heard
        self._limit = limit.total_seconds()

    async def mint(self, order: MintOrder, block: AwsBlock) -> Minted:
        """One AssumeRole, one read. Raises as `Provider.mint`."""
        try:
            async with asyncio.timeout(self._limit):
                return await self._mint(order, block)
        except TimeoutError:
            raise MintInDoubt("the role and the read took too long together") from None

    async def _mint(self, order: MintOrder, block: AwsBlock) -> Minted:
        made = await self._assume(self._narrowed(order), block)
        session = made.credential
        if not isinstance(session, AwsSession):  # pragma: no cover - of `assume`'s own making
            raise MintInDoubt("AssumeRole gave no session")
        service, operation, parameters = _question(block)
        (region,) = block.used_regions
        answer = await self._read(session, service, operation, parameters, region=region)
        if isinstance(answer, Failure):
            raise _unread(answer)
        read = _secret(block, answer) if block.secret else _parameter(block, answer)
        request_id = str(answer.get("ResponseMetadata", {}).get("RequestId", ""))
        return Minted(credential=read.value, refs=read.refs, provider_request_id=request_id)

    def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        """Nobody has the value: it is handed out by the mint's own task, after the commit, or never.

        What may have landed is a session that only the broker held. It counts as never made once its own bound has
        passed too, by when it can do nothing for anybody.
        """
        now = self._clock.now()
        over = now - ref.intent_at > READ_WITHIN * 2  # the mint's own time, and its session's
        evidence = Evidence.NOT_MINTED if final and over else None
        return Settlement(found=False, evidence=evidence, contact=Contact.NOT_ASKED)

    def _narrowed(self, order: MintOrder) -> MintOrder:
        """The order of a session that is dead in a minute, by whichever clock is ahead."""
        heard, now = self._heard(), self._clock.now()
        until = (now if heard is None else max(now, heard)) + READ_WITHIN
        return replace(order, ref=replace(order.ref, expires_at=until))


def _question(block: AwsBlock) -> tuple[str, str, dict[str, JsonValue]]:
    """Service, boto3's method, and its parameters."""
    if block.secret is not None:
        which = (
            {"VersionId": block.secret.version_id} if block.secret.version_id else {"VersionStage": block.secret.staged}
        )
        return "secretsmanager", "get_secret_value", {"SecretId": block.secret.id, **which}
    if block.parameter is None:
        raise MintRefused("the scope's aws block names nothing to read")
    version = f":{block.parameter.version}" if block.parameter.version else ""
    return "ssm", "get_parameter", {"Name": f"{block.parameter.name}{version}", "WithDecryption": True}


def _unread(failure: Failure) -> MintRefused | MintInDoubt:
    """A session was made, and dropped: no read of it can give anybody anything any more."""
    if not failure.sent:
        return MintRefused(f"the read was not sent: {failure.why or 'there is no connection'}", Contact.NOT_ASKED)
    if failure.throttled:
        return MintRefused("AWS refused the read: too many calls", Contact.FAILED)
    text = _REFUSALS.get(failure.code) if failure.status in _REFUSED_STATUS else None
    return MintInDoubt(f"the read gave no definite answer ({told(failure)})") if text is None else MintRefused(text)


def _secret(block: AwsBlock, answer: Mapping[str, Any]) -> _Read:
    """Raises MintRefused when it is not what was asked for."""
    if block.secret is None:
        raise MintRefused("the scope's aws block names no secret")
    arn, version_id = answer.get("ARN"), answer.get("VersionId")
    if arn != block.secret.id or not _is_name(version_id):
        raise MintRefused("the answer is about another secret than the one that was asked for")
    if block.secret.version_id not in (None, version_id):
        raise MintRefused("the answer is about another version than the one that was asked for")
    text, binary = answer.get("SecretString"), answer.get("SecretBinary")
    if isinstance(text, str):
        data = _values(_checked(text))
    elif isinstance(binary, bytes):
        data = {BINARY: base64.b64encode(binary).decode()}
    else:
        raise MintRefused("the secret holds no value")
    value = KeyValue(data={key: Secret(one) for key, one in data.items()}, version_id=str(version_id))
    return _Read(value=value, refs={"secret": block.secret.id, "version_id": str(version_id)})


def _parameter(block: AwsBlock, answer: Mapping[str, Any]) -> _Read:
    """Raises MintRefused when it is not what was asked for."""
    if block.parameter is None:
        raise MintRefused("the scope's aws block names no parameter")
    held = answer.get("Parameter") or {}
    text, version = held.get("Value"), held.get("Version")
    if block.parameter.name not in (held.get("Name"), held.get("ARN")):
        raise MintRefused("the answer is about another parameter than the one that was asked for")
    if not isinstance(version, int) or not 0 < version <= MAX_VERSION:
        raise MintRefused("the answer does not say which version it is")
    if block.parameter.version not in (None, version):
        raise MintRefused("the answer is about another version than the one that was asked for")
    if not isinstance(text, str):
        raise MintRefused("the parameter holds no value")
    value = KeyValue(data={WHOLE: Secret(_checked(text))}, version=version)
    return _Read(value=value, refs={"parameter": block.parameter.name, "version": version})


def _values(text: str) -> dict[str, str]:
    """Of a JSON object its keys, texts as they are and the rest as JSON; anything else as one whole."""
    try:
        held = json.loads(text)
        if not isinstance(held, dict) or not held:
            return {WHOLE: text}
        data = {
            key: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for key, value in held.items()
        }
        json.dumps(data, ensure_ascii=False).encode()  # JSON can hold half a surrogate pair, which protobuf cannot
    except (ValueError, RecursionError):
        return {WHOLE: text}
    return data


def _checked(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise MintRefused("the stored value cannot be said as UTF-8") from None
    if size > MAX_BYTES:
        raise MintRefused("the stored value is larger than AWS stores")
    return text


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64 and value.isascii() and value.isprintable()  # noqa: PLR2004 - AWS's
