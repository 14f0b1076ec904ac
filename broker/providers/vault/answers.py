"""The exact answers that prove something. Anything that is not here proves nothing.

Each row was measured on OpenBao 2.7.2 and is tested against the real server
(tests/integration/test_vault_answers.py; `make answers` for other versions); a server whose words differ makes leases
wait, never lie.
"""

from __future__ import annotations

from broker.providers.vault.transport import VaultRefused

TESTED = ("2.6.1", "2.6.2", "2.7.0", "2.7.1", "2.7.2")  # OpenBao

# With a trailing newline and all: a live token without the capability (403).
NO_CAPABILITY = "1 error occurred:\n\t* permission denied\n\n"
# The asker's own token is unknown or dead (403).
ASKER_DEAD = "permission denied"

TOKEN_DEAD = (403, "bad token")  # auth/token/lookup
ACCESSOR_DEAD = (400, "1 error occurred:\n\t* invalid accessor\n\n")  # auth/token/lookup-accessor
LEASE_GONE = (400, "invalid lease")  # sys/leases/lookup
ID_TAKEN = (400, "cannot create a token with a duplicate ID")  # auth/token/create/<role>
NO_SUDO = (400, "root or sudo privileges required to specify token id")
ROOT_NAMESPACE_ONLY = (400, "token IDs can only be manually specified in the root namespace")

# auth/token/create/<role>: refused before anything was stored.
# "Vault is sealed" (503) is not here: sealing may happen after the token was written.
CREATE_REFUSED: frozenset[tuple[int, str]] = frozenset(
    {
        (403, ASKER_DEAD),
        (403, NO_CAPABILITY),
        NO_SUDO,
        ROOT_NAMESPACE_ONLY,
        (400, 'batch tokens cannot have "explicit_max_ttl" set'),
    }
)
# <mount>/creds/<name> and its like: refused before the secrets engine was asked.
READ_REFUSED: frozenset[tuple[int, str]] = frozenset({(403, ASKER_DEAD), (403, NO_CAPABILITY)})

# A create with this id can never succeed and comes after every other check: a rehearsal that mints nothing.
REHEARSAL_ID = "stepcred.rehearsal"
REHEARSED = (400, "custom token ID cannot have a '.' in the value")


def is_exactly(error: VaultRefused, row: tuple[int, str]) -> bool:
    """One error string, and it is this one."""
    return (error.status, error.errors) == (row[0], (row[1],))


def create_refused(error: VaultRefused, role: str) -> bool:
    """Was no token made by this create?"""
    return (
        _any_of(error, CREATE_REFUSED)
        or is_exactly(error, unknown_role(role))
        or is_exactly(error, throttled(f"auth/token/create/{role}"))
    )


def read_refused(error: VaultRefused, path: str) -> bool:
    """Was no secret leased by this read?"""
    name = path.rsplit("/", 1)[-1]
    return (
        _any_of(error, READ_REFUSED)
        or is_exactly(error, (404, f'no handler for route "{path}". route entry not found.'))
        or is_exactly(error, (400, f"unknown role: {name}"))
        or is_exactly(error, (400, f"Unknown role: {name}"))
        or is_exactly(error, throttled(path))
    )


def unknown_role(role: str) -> tuple[int, str]:
    """Answer to a create through a token role that does not exist."""
    return (400, f"unknown role {role}")


def throttled(path: str) -> tuple[int, str]:
    """Answer of a rate limit quota, which stands before every handler."""
    return (429, f'request path "{path}": rate limit quota exceeded')


def asker_dead(error: VaultRefused) -> bool:
    """The token that asked is dead: log in again. Says nothing about the token asked about."""
    return is_exactly(error, (403, ASKER_DEAD))


def _any_of(error: VaultRefused, rows: frozenset[tuple[int, str]]) -> bool:
    return any(is_exactly(error, row) for row in rows)


def is_an_answer(error: VaultRefused) -> bool:
    """The server is there and said no: not sealed, not failing, not throttling."""
    return error.status < 500 and error.status != 429  # noqa: PLR2004 - HTTP server error, too many requests
