"""Where botocore would send AssumeRole: read off a request that it makes and does not send. Imports the SDK."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from broker.providers.aws.assume.place import StsPlace
from broker.providers.aws.login.identity import Keys
from broker.providers.aws.sdk import Sdk
from broker.providers.http import Origin
from broker.secret import Secret

_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=nobody/[0-9]{8}/(?P<region>[a-z0-9-]+)/sts/aws4_request, ")


def sts_place(sdk: Sdk, region: str, endpoint: str, *, fips: bool) -> StsPlace:
    """Costs a client, 6 ms. Raises BotoCoreError, ValueError, or OSError for a file with CA certificates."""
    session, seen = sdk.session(_Nobody()), _Seen()
    client = sdk.client(session, "sts", region, endpoint, fips=fips)
    client.meta.events.register("before-send.sts.AssumeRole", seen)
    with contextlib.suppress(_NotSentError):
        client.assume_role(RoleArn="arn:aws:iam::123456789012:role/nobody", RoleSessionName="nobody")
    origin, scope = Origin.of(seen.url), _SCOPE.match(seen.headers["authorization"])
    return StsPlace(
        origin=origin,
        plain=scope is not None and urlsplit(seen.url)[2:] in _ROOTS and not _proxied(seen.url, endpoint),
        region=scope["region"] if scope else region,
        user_agent=seen.headers["user-agent"],
        context=_context(_bundle(session)) if origin.tls else None,
    )


_ROOTS = (("", "", ""), ("/", "", ""))  # path, query, fragment


def _proxied(url: str, endpoint: str) -> bool:
    """An address of the config's own is the site's own: see `sdk`."""
    return not endpoint and urlsplit(url).scheme in get_environ_proxies(url)


def _bundle(session: Any) -> str:
    """Of CA certificates: AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE, or the one that the SDK brings along."""
    verify: Any = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True
    return str(get_cert_path(verify))


def _context(bundle: str) -> ssl.SSLContext:
    """As the file is now: whoever operates an STS of their own replaces its CA while the broker runs."""
    return _trusting(bundle, hashlib.sha256(Path(bundle).read_bytes()).digest())


@lru_cache(maxsize=4)
def _trusting(bundle: str, _digest: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=bundle)


class _NotSentError(Exception):
    """Ends a call where it would be sent."""


class _Seen:
    """The request that would have been sent."""

    url = ""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def __call__(self, request: Any, **_: Any) -> None:
        self.url = request.url
        for name, value in request.headers.items():
            self.headers[name.lower()] = value.decode("latin-1") if isinstance(value, bytes) else value
        raise _NotSentError


class _Nobody:
    """Signs what is not sent."""

    def keys(self) -> Keys:
        return Keys(access_key_id="nobody", secret_access_key=Secret("nothing"))
