"""The text of a deny list: a statement that names sessions, and perhaps one that denies all that are older.

A Sid says until when its statement is needed, in seconds since 1970: "until…" of the names, "cut…" of the cut-off. It
costs one of the 481 entries that would fit, and lets a later epoch delete the policy without knowing of its leases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from broker.model import LEASE_ID, JsonValue
from broker.providers.aws.scopes.compile import document, timestamp

_SID = re.compile(r"(until|cut)([0-9]{9,11})", re.ASCII)
_NO_END = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
_SOME = datetime(2026, 1, 1, tzinfo=UTC)  # all dates have the same length
ISSUED_WITHIN = timedelta(seconds=2)  # what AWS says of a session's beginning is its expiry less its duration


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Every session of the role that was issued before `before` is denied; the last of them that matters ends at `until`."""

    before: datetime  # AWS's clock, whole seconds
    until: datetime

    def covers(self, issued: datetime, bound: datetime) -> bool:
        """Is a session denied by it for as long as it lives? `issued`: at the latest."""
        return issued + ISSUED_WITHIN <= self.before and bound <= self.until

    def after(self, older: Cut) -> Cut:
        """Moved forward only."""
        return Cut(before=max(self.before, older.before), until=max(self.until, older.until))


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What a policy on the role says. One that is not ours names nobody and has no end."""

    names: frozenset[str] = frozenset()  # lease ids
    cut: Cut | None = None
    until: datetime = _NO_END


def entries_in(characters: int, *, cut: bool = False) -> int:
    """How many entries a policy of this size holds, beside a cut-off if there is one."""
    return max(0, (characters - _ONE - (_CUT if cut else 0)) // _EACH + 1)


def deny_policy(entries: Mapping[str, datetime], cut: Cut | None = None) -> str:
    """The policy that denies these leases' sessions everything; lease id → bound. Not both may be missing."""
    statements = []
    if entries:
        who = [f"*:{name}" for name in sorted(entries)]  # aws:userid = <role id>:<session name>
        until = _seconds(max(entries.values()))
        statements.append(_deny(f"until{until}", {"StringLike": {"aws:userid": who}}))
    if cut is not None:
        statements.append(cut_statement(cut))
    return document(statements)


def cut_statement(cut: Cut) -> JsonValue:
    """As AWS's own console revokes a role's older sessions."""
    return _deny(f"cut{_seconds(cut.until)}", {"DateLessThan": {"aws:TokenIssueTime": timestamp(cut.before)}})


def held_in(answer: Mapping[str, JsonValue]) -> Held:
    """Of an answer of GetRolePolicy; whatever it holds, it is read without error."""
    statements = document_of(answer).get("Statement")
    read = [_read(each) for each in (statements if isinstance(statements, list) else [statements])]
    return Held(
        names=frozenset(name for each in read for name in each.names),
        cut=max((each.cut for each in read if each.cut is not None), key=lambda cut: cut.before, default=None),
        until=max(each.until for each in read) if read else _NO_END,
    )


def size_of(answer: Mapping[str, JsonValue]) -> int:
    """Characters of a policy as AWS counts them: without white space."""
    return len(json.dumps(document_of(answer), separators=(",", ":")))


def document_of(answer: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """Botocore decodes policies where it knows the answer's shape; elsewhere they are URL-encoded JSON."""
    held = answer.get("PolicyDocument", {})
    if isinstance(held, str):
        try:
            held = json.loads(unquote(held))
        except (ValueError, RecursionError):
            return {}
    return held if isinstance(held, dict) else {}


def _read(statement: JsonValue) -> Held:
    try:
        sid = _SID.fullmatch(statement["Sid"])
        condition = statement["Condition"]
        operator, key = (
            ("DateLessThan", "aws:TokenIssueTime") if sid and sid[1] == "cut" else ("StringLike", "aws:userid")
        )
        who = condition[operator][key]
        # With anything beside it, it denies less.
        if sid is None or statement != _deny(sid[0], {operator: {key: who}}):
            return Held()
        until = datetime.fromtimestamp(int(sid[2]), UTC)
        if sid[1] == "cut":
            return Held(cut=Cut(before=datetime.fromisoformat(who).astimezone(UTC), until=until), until=until)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return Held()
    names = (str(each).removeprefix("*:") for each in ([who] if isinstance(who, str) else who))
    return Held(names=frozenset(name for name in names if LEASE_ID.fullmatch(name)), until=until)


def _deny(sid: str, condition: JsonValue) -> JsonValue:
    return {"Sid": sid, "Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition}


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


_ONE, _TWO = (len(deny_policy(dict.fromkeys(names, _SOME))) for names in (["x" * 16], ["x" * 16, "y" * 16]))
_EACH = _TWO - _ONE
_CUT = len(json.dumps(cut_statement(Cut(before=_SOME, until=_SOME)), separators=(",", ":"))) + 1
