"""Where the broker's keys come from: a file, a program, a token, or the SDK's default chain. Each raises NoKeys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.process import read_file
from broker.providers.aws.login import credential_process
from broker.providers.aws.login.identity import Keys, NoKeys
from broker.providers.aws.settings import AwsSettings, WebIdentity
from broker.secret import Secret

if TYPE_CHECKING:  # it imports the SDK
    from broker.providers.aws.sdk import Sdk

SESSION_SECONDS = 3600  # of the broker's own sessions: what every role allows, and all that a chained one may have
MOST_TOKEN = 20_000  # characters; STS takes no more

# STS's own codes, which may be repeated: what else comes from a service is its words.
_REFUSALS: Mapping[str, str] = {
    "AccessDenied": "the role's trust policy does not allow this token",
    "ExpiredTokenException": "the token has expired: whoever rotates the file has stopped",
    "IDPCommunicationError": "AWS could not reach the token's issuer",
    "IDPRejectedClaim": "the token's issuer or audience is not the one that the role trusts",
    "InvalidIdentityToken": "the token is not one of an issuer that this account knows",
    "ValidationError": "role_arn or session_name is not valid",
}


def fetch(settings: AwsSettings, sdk: Sdk) -> Keys:
    """By the one way that is set. Bounded by the timeouts of the settings, but for the default chain."""
    if settings.secret_access_key_file is not None:
        key = _read(settings.secret_access_key_file, "secret_access_key_file", "SecretKeyFileUnreadable")
        return Keys(access_key_id=settings.access_key_id, secret_access_key=Secret(key))
    if settings.credential_process:
        seconds = (settings.connect_timeout + settings.read_timeout).total_seconds()
        return credential_process.fetch(settings.credential_process, seconds)
    if settings.web_identity is not None:
        return _exchange(settings.web_identity, settings, sdk)
    return _by_chain(sdk)


def session_of(answer: Mapping[str, Any]) -> Keys | None:
    """The session in an answer of STS; None when it is not whole."""
    held = answer.get("Credentials", {})
    key_id, key, token, ends_at = (
        held.get(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    )
    if not (key_id and key and token and isinstance(ends_at, datetime)):
        return None
    return Keys(access_key_id=key_id, secret_access_key=Secret(key), session_token=Secret(token), ends_at=ends_at)


def _exchange(asked: WebIdentity, settings: AwsSettings, sdk: Sdk) -> Keys:
    from botocore.exceptions import BotoCoreError, ClientError

    token = _read(asked.token_file, "web_identity.token_file")  # each time: it is rotated
    sts = sdk.unsigned("sts", settings.sts_region, settings.endpoint_url)
    try:
        answer = sts.assume_role_with_web_identity(
            RoleArn=asked.role_arn,
            RoleSessionName=asked.session_name or settings.hub_session,
            WebIdentityToken=token,
            DurationSeconds=SESSION_SECONDS,
        )
    except ClientError as error:
        why = _REFUSALS.get(error.response.get("Error", {}).get("Code", ""), "STS refused it, or cannot answer")
        raise NoKeys(f"AssumeRoleWithWebIdentity: {why}") from None
    except BotoCoreError as error:
        raise NoKeys(f"AssumeRoleWithWebIdentity: STS gave no answer ({type(error).__name__})") from None
    keys = session_of(answer)
    if keys is None:
        raise NoKeys("AssumeRoleWithWebIdentity: the answer holds no whole session")
    return keys


def _by_chain(sdk: Sdk) -> Keys:
    """Looked up from the start each time, so that what has changed there is seen."""
    try:
        found = sdk.chain().get_credentials()
        frozen = None if found is None else found.get_frozen_credentials()
    except Exception as error:  # noqa: BLE001 - any of a dozen of the SDK's; its text may hold a program's stderr
        raise NoKeys(f"the SDK's default chain of AWS credentials failed ({type(error).__name__})") from None
    if frozen is None or not frozen.access_key or not frozen.secret_key:
        raise NoKeys(
            "the SDK's default chain found no AWS credentials: give the broker an instance profile or a service account's "
            "role, or set [aws] credential_process or [aws.web_identity]"
        )
    ends_at = getattr(found, "_expiry_time", None)  # botocore has no public name for it
    return Keys(
        access_key_id=frozen.access_key,
        secret_access_key=Secret(frozen.secret_key),
        session_token=Secret(frozen.token) if frozen.token else None,
        ends_at=ends_at if isinstance(ends_at, datetime) else None,
    )


def _read(path: Path, option: str, code: str = "BrokerCredentialsMissing") -> str:
    try:
        text = read_file(path, MOST_TOKEN).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise NoKeys(f"[aws] {option} cannot be read", code) from None
    if not text or not text.isprintable() or len(text) > MOST_TOKEN:
        raise NoKeys(f"[aws] {option} is empty, or holds more than one key or token", code)
    return text
