"""The text of a deny list: one statement that names sessions, and whose Sid says until when it is needed.

Sid = "until" + seconds since 1970 of the last bound. It costs one of the 481 entries that would fit, and
lets a later epoch delete the policy without knowing anything of its leases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from broker.model import LEASE_ID, JsonValue
from broker.providers.aws.compile import document

_SID = re.compile(r"until([0-9]{9,11})", re.ASCII)
_NO_END = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)


def entries_in(characters: int) -> int:
    """How many entries a policy of this size holds."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    one, two = (len(deny_policy(dict.fromkeys(names, at))) for names in (["x" * 16], ["x" * 16, "y" * 16]))
    return (characters - one) // (two - one) + 1


def deny_policy(entries: Mapping[str, datetime]) -> str:
    """The policy that denies these leases' sessions everything; lease id → bound, at least one."""
    last = int(max(entries.values()).timestamp())
    who = [f"*:{name}" for name in sorted(entries)]  # aws:userid = <role id>:<session name>
    return document(
        [
            {
                "Sid": f"until{last}",
                "Effect": "Deny",
                "Action": "*",
                "Resource": "*",
                "Condition": {"StringLike": {"aws:userid": who}},
            }
        ]
    )


def entries_of(answer: Mapping[str, JsonValue]) -> tuple[list[str], datetime]:
    """The lease ids of a list of ours and its last bound; a policy that is not ours has no end."""
    held = _document_of(answer)
    try:
        statement = held["Statement"][0]
        sid = _SID.fullmatch(statement["Sid"])
        who = statement["Condition"]["StringLike"]["aws:userid"]
    except (KeyError, IndexError, TypeError):
        return [], _NO_END
    until = datetime.fromtimestamp(int(sid[1]), UTC) if sid else _NO_END
    names = [str(each).removeprefix("*:") for each in ([who] if isinstance(who, str) else who)]
    return [name for name in names if LEASE_ID.fullmatch(name)], until


def size_of(answer: Mapping[str, JsonValue]) -> int:
    """Characters of a policy as AWS counts them: without white space."""
    return len(json.dumps(_document_of(answer), separators=(",", ":")))


def _document_of(answer: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """Botocore decodes policies where it knows the answer's shape; elsewhere they are URL-encoded JSON."""
    held = answer.get("PolicyDocument", {})
    if isinstance(held, str):
        try:
            held = json.loads(unquote(held))
        except ValueError:
            return {}
    return held if isinstance(held, dict) else {}
