"""boto3 from one credential. The only module that imports it; `import stepcred` never does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepcred._errors import StepcredError

if TYPE_CHECKING:
    import boto3

    from stepcred._credentials import AwsSession


def make_session(credential: AwsSession) -> boto3.Session:
    """A session with exactly this credential; its clients go to the credential's endpoint, if it names one."""
    try:
        import boto3
    except ModuleNotFoundError as missing:
        raise StepcredError("boto3_session() needs boto3: pip install boto3") from missing

    class Session(boto3.Session):
        """boto3 takes an endpoint per client only; a private cloud's credential must not go to AWS."""

        def client(self, *args: Any, **kwargs: Any) -> Any:
            return super().client(*args, **_with_endpoint(kwargs))

        def resource(self, *args: Any, **kwargs: Any) -> Any:
            return super().resource(*args, **_with_endpoint(kwargs))

    def _with_endpoint(kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"endpoint_url": credential.endpoint_url, **kwargs} if credential.endpoint_url else kwargs

    return Session(
        aws_access_key_id=credential.access_key_id,
        aws_secret_access_key=credential.secret_access_key,
        aws_session_token=credential.session_token,
        region_name=credential.region or None,
    )
