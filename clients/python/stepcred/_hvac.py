"""hvac with a step's token. The only module that imports it; `import stepcred` never does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stepcred._credentials import Credential, VaultToken
from stepcred._errors import StepcredError

if TYPE_CHECKING:
    import hvac

REDIRECTS = range(300, 400)


def make_client(
    read: Callable[[], Credential], *, timeout: float, verify: bool | str | None, credential: Credential
) -> hvac.Client:
    """A client whose token is what `read` gives at each request. `credential`: the one of now, for the address."""
    if not isinstance(credential, VaultToken):
        raise StepcredError(f"{credential.lease.scope}: hvac_client() needs a Vault token, not a {_kind(credential)}")
    if not credential.address:  # hvac would take VAULT_ADDR, and another Vault must not get to see the token
        raise StepcredError(f"{credential.lease.scope}: the broker names no address of this Vault")
    try:
        import hvac
        import requests
        from hvac.adapters import JSONAdapter
    except ModuleNotFoundError as missing:
        raise StepcredError("hvac_client() needs hvac: pip install hvac") from missing

    address, namespace = credential.address, credential.namespace

    class Adapter(JSONAdapter):
        """The step's token, and no other."""

        @property
        def token(self) -> str:
            kept = read()
            if not isinstance(kept, VaultToken) or (kept.address, kept.namespace) != (address, namespace):
                raise StepcredError(f"{credential.lease.scope} is of another Vault by now; take a new hvac_client()")
            return kept.token

        @token.setter
        def token(self, value: str | None) -> None:
            if value:  # hvac itself begins with an empty one, and logs out with None
                raise StepcredError("this client has the step's token; log in with a client of your own")

        def request(self, *args: Any, **kwargs: Any) -> Any:
            answer = super().request(*args, **kwargs)
            if isinstance(answer, requests.Response) and answer.status_code in REDIRECTS:
                # requests would send the token along, to whatever host is named (measured).
                raise StepcredError(f"{address} redirects, and the token is not sent elsewhere")
            return answer

    session = requests.Session()
    session.trust_env = False  # no proxy and no .netrc: neither gets to see the token
    trusted = (os.environ.get("VAULT_CACERT") or os.environ.get("VAULT_CAPATH")) if verify is None else verify
    session.verify = True if trusted is None or trusted == "" else trusted
    return hvac.Client(
        url=address,
        token="",  # None would read ~/.vault-token
        verify=session.verify,
        timeout=timeout,  # type: ignore[arg-type]  # requests takes any number
        allow_redirects=False,
        session=session,
        adapter=Adapter,
        namespace=namespace or None,
    )


def _kind(credential: Credential) -> str:
    return type(credential).__name__
