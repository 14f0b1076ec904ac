"""What is really alive at the backend: every token, leased secret and database login, by their own answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.crash.site import DATABASE, ROLES, Site
from tests.support.bao import TOMB_ROLE

AT_ONCE = 8  # look-ups in flight


@dataclass(frozen=True, kw_only=True)
class Token:
    """A live token made for a lease."""

    accessor: str
    lease_id: str  # ours, from its metadata


@dataclass(frozen=True, kw_only=True)
class Child:
    """A leased secret."""

    id: str
    token: str  # the id of the token that fetched it
    login: str  # at the database


@dataclass(frozen=True, kw_only=True)
class Alive:
    """One look."""

    tokens: tuple[Token, ...]
    tombs: int
    children: tuple[Child, ...]
    logins: frozenset[str]

    @property
    def loose(self) -> frozenset[str]:
        """Logins that belong to no leased secret."""
        return self.logins - {child.login for child in self.children}

    def __len__(self) -> int:
        return len(self.tokens) + len(self.children) + len(self.loose)


class Backend:
    """Looks. What a token or secret is never changes, so it is asked once: there are many in the end."""

    def __init__(self, site: Site) -> None:
        self._bao = site.bao
        self._pg = site.pg
        self._roles = {role.name for role in ROLES}
        self._tokens: dict[str, Token] = {}  # by accessor
        self._children: dict[str, Child] = {}
        self._tombs: set[str] = set()
        self._others: set[str] = set()  # the broker's own logins, the root token
        self._threads = ThreadPoolExecutor(AT_ONCE)

    def look(self, *, again: bool = False) -> Alive:
        """Blocks; tokens first, so that what is listed later is not older than they are.

        `again`: ask about each one, also if it is known; a listing may name what is just being taken out.
        """
        accessors = set(self._bao.must("LIST", "auth/token/accessors").data["keys"])
        self._tombs &= accessors
        asked = accessors - self._tombs - self._others - (set() if again else self._tokens.keys())
        self._tokens = {one: token for one, token in self._tokens.items() if one in accessors - asked}
        self._tokens |= {token.accessor: token for token in self._threads.map(self._token, asked) if token}
        children = self._look_for_children(again=again) if self._pg else ()
        return Alive(
            tokens=tuple(self._tokens.values()),
            tombs=len(self._tombs),
            children=children,
            logins=frozenset(self._pg.minted_roles() if self._pg else ()),
        )

    def _look_for_children(self, *, again: bool) -> tuple[Child, ...]:
        ids = set(self._bao.child_leases(DATABASE))
        asked = ids - (set() if again else self._children.keys())
        self._children = {one: child for one, child in self._children.items() if one in ids - asked}
        self._children |= {child.id: child for child in self._threads.map(self._child, asked) if child}
        return tuple(self._children.values())

    def end_within(self, seconds: float, logins: Iterable[str]) -> set[str]:
        """Those of these logins that the database itself lets end in time."""
        names = list(logins)
        if self._pg is None or not names:
            return set()
        query = (
            "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s) AND rolvaliduntil < now() + make_interval(secs => %s)"
        )
        with psycopg.connect(self._pg.dsn()) as connection:
            return {row[0] for row in connection.execute(query, (names, seconds)).fetchall()}

    def close(self) -> None:
        self._threads.shutdown()

    def _token(self, accessor: str) -> Token | None:
        answer = self._bao.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})
        if answer.status != 200:  # gone since the listing
            return None
        role = answer.data.get("role")
        if role == TOMB_ROLE:
            self._tombs.add(accessor)
        elif role in self._roles:
            return Token(accessor=accessor, lease_id=(answer.data["meta"] or {}).get("lease_id", ""))
        else:
            self._others.add(accessor)
        return None

    def _child(self, lease_id: str) -> Child | None:
        answer = self._bao.call("GET", f"sys/raw/sys/expire/id/{lease_id}")
        if answer.status != 200:
            return None
        entry: dict[str, Any] = json.loads(answer.data["value"])
        return Child(id=lease_id, token=entry["client_token"], login=entry["data"]["username"])
