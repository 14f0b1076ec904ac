"""boto3 with a step's credentials. The only module that imports it; `import stepcred` never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stepcred._credentials import AwsSession, Credential
from stepcred._errors import StepcredError

if TYPE_CHECKING:
    import boto3


def make_session(credential: AwsSession) -> boto3.Session:
    """A session with exactly this credential; its clients go to the credential's endpoint, if it names one."""
    session = _botocore_session()
    session.set_credentials(credential.access_key_id, credential.secret_access_key, credential.session_token)
    return _session(credential, session)


def make_kept_session(read: Callable[[], Credential], *, credential: Credential) -> boto3.Session:
    """A session that asks `read` at each signing. `credential`: the one of now, for region and endpoint."""
    if not isinstance(credential, AwsSession):
        kind = type(credential).__name__
        raise StepcredError(f"{credential.lease.scope}: boto3_session() needs an AWS session, not a {kind}")
    session = _botocore_session()
    from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, ReadOnlyCredentials

    def live() -> AwsSession:
        kept = read()
        if not isinstance(kept, AwsSession) or kept.endpoint_url != credential.endpoint_url:
            raise StepcredError(f"{credential.lease.scope} is of another endpoint by now; take a new boto3_session()")
        return kept

    class Kept(Credentials):
        """Held nowhere but in the step, so that a successor is used from the next signing on.

        botocore's own RefreshableCredentials go by the clock: they would ask at every signing of a session that is
        shorter than their timeouts, and go on with one that was replaced or revoked before its time.
        """

        method = "stepcred"
        account_id = None

        def __init__(self) -> None:
            """Nothing is taken yet."""

        access_key = property(lambda _: live().access_key_id)
        secret_key = property(lambda _: live().secret_access_key)
        token = property(lambda _: live().session_token)

        def get_frozen_credentials(self) -> ReadOnlyCredentials:
            now = live()
            return ReadOnlyCredentials(now.access_key_id, now.secret_access_key, now.session_token)

    class Provider(CredentialProvider):
        METHOD = CANONICAL_NAME = "stepcred"

        def load(self) -> Kept:
            return Kept()

    session.register_component("credential_provider", CredentialResolver(providers=[Provider()]))
    return _session(credential, session)


def _botocore_session() -> Any:
    """Of no profile: AWS_PROFILE is about somebody else's credential, and may name one that is not here."""
    _boto3()
    from botocore.session import get_session

    session = get_session()
    session.get_component("config_store").set_config_variable("profile", None)
    return session


def _session(credential: AwsSession, session: Any) -> boto3.Session:
    boto3 = _boto3()

    class Session(boto3.Session):  # type: ignore[name-defined,misc]
        """boto3 takes an endpoint per client only; a private cloud's credential must not go to AWS."""

        def client(self, *args: Any, **kwargs: Any) -> Any:
            return super().client(*args, **_with_endpoint(kwargs))

        def resource(self, *args: Any, **kwargs: Any) -> Any:
            return super().resource(*args, **_with_endpoint(kwargs))

    def _with_endpoint(kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"endpoint_url": credential.endpoint_url, **kwargs} if credential.endpoint_url else kwargs

    return Session(region_name=credential.region or None, botocore_session=session)


def _boto3() -> Any:
    try:
        import boto3
    except ModuleNotFoundError as missing:
        raise StepcredError("boto3_session() needs boto3: pip install boto3") from missing
    return boto3
