"""Credentials as environment variables: one environment of several scopes, and what must not be beside them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from stepcred._credentials import Credential, KeyValue
from stepcred._outlets._errors import Unusable

_AWS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# Read before what the key names, or instead of it: libpq prefers PGPASSWORD, every AWS SDK prefers its variables.
RIVALS: Mapping[str, frozenset[str]] = {
    "PGPASSFILE": frozenset({"PGPASSWORD"}),
    "AWS_SHARED_CREDENTIALS_FILE": frozenset({*_AWS_KEYS, "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"}),
    "AWS_CONFIG_FILE": frozenset({*_AWS_KEYS, "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"}),
}


def merged_environment(credentials: Iterable[Credential], *, without: Container[str] = ()) -> dict[str, str]:
    """The conventional variables of all of them, but not those `without`.

    Raises Unusable when two scopes set one variable to different values, or one has nothing for an environment.
    """
    merged: dict[str, str] = {}
    owner: dict[str, str] = {}
    for credential in credentials:
        scope = credential.lease.scope
        for name, value in _variables(credential).items():
            if name in without:
                continue
            if name in owner and merged[name] != value:
                raise Unusable(
                    f"{owner[name]} and {scope} both set {name}; name the variables, with --env NAME=SCOPE:WHAT, or run two commands"
                )
            owner[name], merged[name] = scope, value
    return merged


def _variables(credential: Credential) -> dict[str, str]:
    try:
        variables = credential.env()
    except ValueError as problem:
        raise Unusable(str(problem)) from None
    if not variables:
        raise Unusable(
            f"{credential.lease.scope}: a {type(credential).__name__} has no variables to put it in; use the SDK"
        )
    return variables


def left_out(credential: Credential) -> list[str]:
    """Keys of stored values that are no variables, as text that does not steer a terminal."""
    if not isinstance(credential, KeyValue):
        return []
    variables = credential.env()
    return [ascii(name)[1:-1] for name in sorted(credential.data) if name.upper() not in variables]


def rivals(credentials: Iterable[Credential], chosen: Iterable[str] = ()) -> frozenset[str]:
    """Variables that would be used instead of the credentials, or instead of the variables `chosen`."""
    return frozenset().union(
        *(credential.CONFLICTS for credential in credentials), *(RIVALS.get(name, frozenset()) for name in chosen)
    )


def without_rivals(
    environ: Mapping[str, str], credentials: Iterable[Credential], chosen: Iterable[str] = ()
) -> dict[str, str]:
    """`environ` without them."""
    gone = rivals(credentials, chosen)
    return {name: value for name, value in environ.items() if name not in gone}
