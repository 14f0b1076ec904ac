"""Writing the deny list: entries are appended and cut out, and everything else in the file stays as it was."""

from __future__ import annotations

import json
import re
from itertools import pairwise

from broker.errors import ConfigError
from broker.identity.deny_list import Entry, parse_deny_list

_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*denied[ \t]*\]\]", re.MULTILINE)


def add_entry(text: str, entry: Entry, label: str) -> str:
    """The file's text with one entry more. Raises ConfigError when either is not good."""
    lines = [f"{name} = {_quoted(value)}" for name, value in entry.to_json().items()]
    whole = f"{text.rstrip()}\n\n[[denied]]\n".lstrip() + "\n".join(lines) + "\n"
    parse_deny_list(whole.encode(), label)
    return whole


def remove_entries(text: str, entry: Entry, label: str) -> tuple[str, int]:
    """The text without the entries that name the same, whatever they say why; and how many there were.

    Raises ConfigError when the text cannot be cut without changing what else it says.
    """
    before = parse_deny_list(text.encode(), label).entries
    kept = [one for one in before if not _same(one, entry)]
    starts = [match.start() for match in _HEADER.finditer(text)]
    blocks = [text[start:end] for start, end in pairwise([*starts, len(text)])]
    if len(blocks) == len(before):
        blocks = [block for block, one in zip(blocks, before, strict=True) if not _same(one, entry)]
        whole = text[: starts[0]] + "".join(blocks) if starts else text
        if list(parse_deny_list(whole.encode(), label).entries) == kept:
            return whole, len(before) - len(kept)
    raise ConfigError([f"{label}: is not written as [[denied]] and its lines below; edit it by hand"])


def _same(one: Entry, other: Entry) -> bool:
    return (one.agent, one.key, one.serial, one.issuer) == (other.agent, other.key, other.serial, other.issuer)


def _quoted(value: str) -> str:
    """A basic string of TOML; JSON's escapes are among its own, and the one character that JSON leaves is not."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
