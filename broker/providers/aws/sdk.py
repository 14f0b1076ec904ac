"""botocore, set up as this broker uses it. Import it late: it costs 220 ms.

Where requests go is said by broker.toml alone: AWS_ENDPOINT_URL*, AWS_STS_REGIONAL_ENDPOINTS (its `legacy` sends
AssumeRole of every region to one global address, measured), AWS_USE_FIPS_ENDPOINT and their like in ~/.aws/config are
not obeyed. The SDK's files and AWS_PROFILE are read for the default chain, and for nothing else.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.session import Session

from broker.providers.aws.login.identity import Keys
from broker.providers.aws.settings import AwsSettings

_NO_FILES: dict[str, Any] = {  # as botocore describes its variables: key in a profile, variables, default, conversion
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}


class HasKeys(Protocol):
    """An identity, or whoever else signs."""

    def keys(self) -> Keys:
        """Those of the moment. Raises NoKeys."""
        ...


class Signer(Credentials):
    """An identity's keys of the moment, for each request."""

    def __init__(self, identity: HasKeys) -> None:
        super().__init__("", "", method="stepcred")
        self._identity = identity

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Called once for each signature. Raises NoKeys."""
        keys = self._identity.keys()
        token = keys.session_token
        return ReadOnlyCredentials(
            keys.access_key_id, keys.secret_access_key.reveal(), None if token is None else token.reveal(), None
        )

    def load_credentials(self) -> Credentials:
        """Botocore's own way to be given credentials: a component that loads them."""
        return self


class Sdk:
    """Makes sessions and clients. A session is not safe for several threads, its clients are."""

    def __init__(self, settings: AwsSettings) -> None:
        self._settings = settings
        self._data = Session(session_vars=_NO_FILES).get_component(
            "data_loader"
        )  # read once: 50 ms of each further session (measured)

    def session(self, identity: HasKeys | None = None) -> Any:
        """One that signs as this identity; without it, not at all."""
        session = self._set_up(Session(session_vars=_NO_FILES))
        if identity is not None:
            session.register_component("credential_provider", Signer(identity))
        return session

    def chain(self) -> Any:
        """One that looks for credentials of its own: variables, files, token files, containers, instance metadata."""
        session = self._set_up(Session())
        session.set_config_variable("region", self._settings.sts_region)
        session.set_default_client_config(self._config(endpoint="", fips=False))
        return session

    def client(self, session: Any, service: str, region: str, endpoint: str, *, fips: bool) -> Any:
        """One attempt, with timeouts."""
        config = self._config(endpoint=endpoint, fips=fips)
        return session.create_client(service, region_name=region, endpoint_url=endpoint or None, config=config)

    def unsigned(self, service: str, region: str, endpoint: str) -> Any:
        """For the one call that is made without credentials."""
        config = self._config(endpoint=endpoint, fips=False).merge(Config(signature_version=UNSIGNED))
        return self.session().create_client(service, region_name=region, endpoint_url=endpoint or None, config=config)

    def _set_up(self, session: Any) -> Any:
        session.register_component("data_loader", self._data)
        session.set_config_variable("ignore_configured_endpoint_urls", True)
        session.set_config_variable("sts_regional_endpoints", "regional")
        # It would sign with what CreateSession gave for the bucket, to whoever of those that share the client came first.
        session.set_config_variable("s3_disable_express_session_auth", True)
        return session

    def _config(self, *, endpoint: str, fips: bool) -> Config:
        settings = self._settings
        return Config(
            connect_timeout=settings.connect_timeout.total_seconds(),
            read_timeout=settings.read_timeout.total_seconds(),
            # The default sends three AssumeRole calls on a timeout, 5xx or throttle (measured).
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=max(settings.mint_workers, settings.revoke_workers),
            use_fips_endpoint=fips and not endpoint,
            use_dualstack_endpoint=False,
            # AWS may be behind the site's proxy, which sees names only (TLS goes through it). An address of the config is
            # the site's own, and may be plain http.
            proxies={} if endpoint else None,
        )
